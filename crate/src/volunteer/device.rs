//! Which engine computes: a GPU that passes its self-test where there is one, the CPU path elsewhere, and what follows
//! when a device fails. It measures nothing and leases nothing.

use std::sync::Arc;

use crate::engine::{Engine, EngineError};
use crate::plan::PROGRAM_BYTES_MAX;
use crate::tuner::Tune;

/// GPU devices that may be lost before the CPU path takes over.
const LOSSES_MAX: u32 = 2;

/// What the visitor, or a test, asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// A hardware GPU that passes its self-tests and is not slower than the CPU path, else the CPU.
    Auto,
    /// The same of any GPU, software adapters included.
    #[cfg(feature = "every-layer")]
    Any,
    /// A GPU, software adapters included, or nothing.
    Gpu,
    Cpu,
}

/// The engine in use, and how it came to be.
pub(super) struct Device {
    pub engine: Arc<Engine>,
    /// Why this one and not what was asked for first; may be empty.
    pub reason: String,
    /// Whether it was not yet told about.
    pub is_new: bool,
    /// Whether it was measured to be faster than the GPU, which `reason` then names.
    #[cfg(feature = "every-layer")]
    pub is_faster: bool,
    choice: Choice,
    tune: Tune,
    is_gpu: bool,
    losses: u32,
}

impl Device {
    /// Opens and tests what `choice` allows, best first.
    /// `found` hears that there is one to test.
    pub async fn open(choice: Choice, tune: Tune, found: &dyn Fn()) -> Result<Device, EngineError> {
        Device::best(choice, tune, 0, found).await
    }

    /// The device to go on with after `fault`.
    pub async fn after(self, fault: &EngineError) -> Result<Device, EngineError> {
        let device_failed = matches!(
            fault,
            EngineError::DeviceLost(_) | EngineError::OutOfMemory(_) | EngineError::Validation(_) | EngineError::SelfTest { .. }
        );
        // Past what any program may take the CPU refuses as well, and an only device is told of as it is.
        let may_fit_cpu = match fault {
            EngineError::BufferTooLarge { .. } => true,
            EngineError::TooLarge { most, .. } => *most < PROGRAM_BYTES_MAX,
            _ => false,
        };
        let gives_way = may_fit_cpu && self.choice != Choice::Gpu;
        if !self.is_gpu || !(device_failed || gives_way) {
            return Ok(Device { is_new: false, ..self });
        }
        let losses = self.losses + 1;
        if matches!(fault, EngineError::DeviceLost(_)) && losses <= LOSSES_MAX {
            let next = Device::best(self.choice, self.tune, losses, &|| ()).await?;
            return Ok(Device { reason: join(fault.to_string(), next.reason), ..next });
        }
        if self.choice == Choice::Gpu {
            return Err(fault.clone());
        }
        Device::cpu(self.choice, self.tune, losses, fault.to_string()).await
    }

    /// Whether the CPU path may take over from a GPU that works.
    #[cfg(feature = "every-layer")]
    pub fn may_be_left(&self) -> bool {
        self.is_gpu && self.choice != Choice::Gpu
    }

    /// The CPU path in the place of a GPU that was measured to be slower.
    #[cfg(feature = "every-layer")]
    pub fn left(&self) -> impl Future<Output = Result<Device, EngineError>> + use<> {
        let (choice, tune, losses, slower) = (self.choice, self.tune, self.losses, self.engine.device_class().adapter);
        async move { Ok(Device { is_faster: true, ..Device::cpu(choice, tune, losses, slower).await? }) }
    }

    async fn best(choice: Choice, tune: Tune, losses: u32, found: &dyn Fn()) -> Result<Device, EngineError> {
        let reason = match choice {
            Choice::Cpu => String::new(),
            _ => match gpu(choice, tune, found).await {
                Ok(engine) => {
                    let engine = shared(engine);
                    return Ok(Device {
                        engine,
                        reason: String::new(),
                        is_new: true,
                        #[cfg(feature = "every-layer")]
                        is_faster: false,
                        choice,
                        tune,
                        is_gpu: true,
                        losses,
                    });
                }
                Err(error) if choice == Choice::Gpu => return Err(error),
                Err(error) => error.to_string(),
            },
        };
        found();
        Device::cpu(choice, tune, losses, reason).await
    }

    async fn cpu(choice: Choice, tune: Tune, losses: u32, reason: String) -> Result<Device, EngineError> {
        let engine = Engine::cpu();
        engine.self_test().await?;
        Ok(Device {
            engine: shared(engine),
            reason,
            is_new: true,
            #[cfg(feature = "every-layer")]
            is_faster: false,
            choice,
            tune,
            is_gpu: false,
            losses,
        })
    }
}

/// Natively an engine goes to the thread that computes; in wasm, where it may hold the browser's objects, there is one.
#[cfg_attr(target_arch = "wasm32", allow(clippy::arc_with_non_send_sync))]
fn shared(engine: Engine) -> Arc<Engine> {
    Arc::new(engine)
}

fn join(first: String, second: String) -> String {
    if second.is_empty() { first } else { format!("{first}; {second}") }
}

#[cfg(not(feature = "gpu"))]
async fn gpu(_choice: Choice, _tune: Tune, _found: &dyn Fn()) -> Result<Engine, EngineError> {
    Err(EngineError::NoAdapter("this program was built without GPU support".to_owned()))
}

#[cfg(feature = "gpu")]
async fn gpu(choice: Choice, tune: Tune, found: &dyn Fn()) -> Result<Engine, EngineError> {
    use crate::engine::AdapterChoice;

    let engine = match Engine::gpu(AdapterChoice::Fastest).await {
        // Some browsers give a software adapter only to those who ask for one.
        Err(EngineError::NoAdapter(_)) if choice != Choice::Auto => Engine::gpu(AdapterChoice::Software).await?,
        other => other?,
    };
    if choice == Choice::Auto && engine.is_software_adapter() {
        let adapter = engine.device_class().adapter;
        // Not every browser names one.
        let named = if adapter.is_empty() { "what there is" } else { &adapter };
        return Err(EngineError::NoAdapter(format!("{named} is a software adapter, slower than the CPU path")));
    }
    found();
    if let Tune::Fixed(variant) = tune {
        engine.fix_variant(variant);
    }
    engine.self_test_product().await?;
    Ok(engine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(choice: Choice, is_gpu: bool, losses: u32) -> Device {
        let (engine, tune) = (shared(Engine::cpu()), Tune::Auto);
        Device {
            engine,
            reason: String::new(),
            is_new: false,
            #[cfg(feature = "every-layer")]
            is_faster: false,
            choice,
            tune,
            is_gpu,
            losses,
        }
    }

    fn faults() -> [EngineError; 4] {
        let text = "as told".to_owned();
        [
            EngineError::OutOfMemory(text.clone()),
            EngineError::Validation(text.clone()),
            EngineError::SelfTest { kernel: text.clone(), detail: text.clone() },
            EngineError::DeviceLost(text),
        ]
    }

    /// A GPU that fails in any way, or was lost too often, gives way to the CPU, which says why in one line.
    #[test]
    fn after_a_fault_of_the_gpu_the_cpu_goes_on() {
        for fault in faults() {
            let next = pollster::block_on(failing(Choice::Auto, true, LOSSES_MAX).after(&fault)).unwrap();
            assert!(next.is_new && !next.is_gpu, "{fault}");
            assert_eq!(next.reason, fault.to_string());
            assert!(!next.reason.contains('\n'));
            let only = pollster::block_on(failing(Choice::Gpu, true, LOSSES_MAX).after(&fault));
            assert_eq!(only.map(|_| ()), Err(fault), "a visitor who asked for the GPU alone");
        }
    }

    /// What a GPU does not hold the CPU may, which has no such bound on one buffer.
    #[test]
    fn what_does_not_fit_the_gpu_is_tried_on_the_cpu_once() {
        let (bytes, most) = (2 << 30, 1 << 30);
        let past_device = [EngineError::BufferTooLarge { total: 3 << 30, bytes, most }, EngineError::TooLarge { bytes, most }];
        for fault in past_device {
            let next = pollster::block_on(failing(Choice::Auto, true, 0).after(&fault)).unwrap();
            assert_eq!((next.is_new, next.is_gpu, next.reason.clone()), (true, false, fault.to_string()));
            let last = pollster::block_on(next.after(&fault)).unwrap();
            assert_eq!((last.is_new, last.is_gpu), (false, false), "and no way back");
            let only = pollster::block_on(failing(Choice::Gpu, true, 0).after(&fault)).unwrap();
            assert_eq!((only.is_new, only.is_gpu), (false, true), "a visitor who asked for the GPU alone");
        }
        let nowhere = EngineError::TooLarge { bytes: PROGRAM_BYTES_MAX + 1, most: PROGRAM_BYTES_MAX };
        let same = pollster::block_on(failing(Choice::Auto, true, 0).after(&nowhere)).unwrap();
        assert_eq!((same.is_new, same.is_gpu), (false, true), "nothing else holds it either");
    }

    #[test]
    fn faults_of_the_work_leave_the_device() {
        for fault in [EngineError::NotFinite(String::new()), EngineError::Input(String::new()), EngineError::Stopped] {
            for is_gpu in [true, false] {
                let next = pollster::block_on(failing(Choice::Auto, is_gpu, 0).after(&fault)).unwrap();
                assert_eq!((next.is_new, next.is_gpu, next.losses), (false, is_gpu, 0), "{fault}");
            }
        }
        for fault in faults() {
            assert!(!pollster::block_on(failing(Choice::Auto, false, 0).after(&fault)).unwrap().is_new, "the CPU stays");
        }
    }

    /// The first losses are answered by another device, on which nothing was chosen or tested yet.
    #[cfg(feature = "gpu")]
    #[test]
    fn after_a_loss_another_device_goes_on() {
        let lost = EngineError::DeviceLost("as told".to_owned());
        let next = pollster::block_on(failing(Choice::Gpu, true, 0).after(&lost)).unwrap();
        assert!(next.is_new && next.is_gpu && next.losses == 1);
        assert_eq!(next.reason, lost.to_string());
        pollster::block_on(next.engine.self_test_product()).unwrap();
    }
}
