//! A program kept on its device with its inputs: run as often as wanted, read when wanted.

use super::{Engine, EngineError};
use crate::control::Control;
use crate::cpu::CpuResident;
#[cfg(feature = "gpu")]
use crate::gpu::GpuResident;
use crate::plan::{Buffer, Program, check_bytes};

/// A program, compiled and loaded.
pub enum Resident<'a> {
    Cpu(Box<CpuResident<'a>>),
    #[cfg(feature = "gpu")]
    Gpu(Box<GpuResident<'a>>),
}

impl Engine {
    /// Compiles and allocates a program and fills some of its buffers, from their beginning on; the others are zero.
    pub async fn load<'a>(&'a self, program: &'a Program, inputs: &[(Buffer, &[f32])]) -> Result<Resident<'a>, EngineError> {
        if let Some((buffer, values)) = inputs.iter().find(|(b, v)| program.values.get(b.0) != Some(&(v.len() as u64))) {
            return Err(EngineError::Input(format!("{} values do not fill {buffer:?} of the program", values.len())));
        }
        check_bytes(program.bytes(0))?;
        Ok(match self {
            Engine::Cpu(cpu) => Resident::Cpu(Box::new(cpu.load(program, inputs))),
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => Resident::Gpu(Box::new(gpu.load(program, inputs).await?)),
        })
    }
}

impl Resident<'_> {
    /// Runs the program so many times, one after another, to its end.
    pub async fn run(&mut self, times: u32, control: &Control) -> Result<(), EngineError> {
        match self {
            Resident::Cpu(resident) => resident.run(times, control).await,
            #[cfg(feature = "gpu")]
            Resident::Gpu(resident) => resident.run(times, control).await,
        }
    }

    /// The same on a device in one submission, for measurements: no breath is taken.
    #[cfg(feature = "gpu")]
    pub async fn replay(&mut self, times: u32) -> Result<(), EngineError> {
        match self {
            Resident::Cpu(_) => Err(EngineError::Unsupported("a replay on the CPU".to_owned())),
            Resident::Gpu(resident) => resident.replay(times).await,
        }
    }

    /// What some of the buffers hold.
    pub async fn read(&self, buffers: &[Buffer]) -> Result<Vec<Vec<f32>>, EngineError> {
        match self {
            Resident::Cpu(resident) => Ok(resident.read(buffers)),
            #[cfg(feature = "gpu")]
            Resident::Gpu(resident) => resident.read(buffers).await,
        }
    }
}
