//! Text from a model of text, one byte at a time, on the processor in this thread. Each byte is one row through the layers:
//! keys and values of the rows before it are kept, so that nothing is computed twice while the context lasts. It trains
//! nothing, and shows nothing of its own: what comes out is bytes, of any kind.
//!
//! The program is the model's forward pass of one position, run by the same kernels as any other; attention alone is
//! computed here, over the rows kept.

use manyhands_programs::cpu;
use manyhands_protocol::model::{Model, Parameter};
use manyhands_shaders::attention::Shape;

use super::{EngineError, finite};
use crate::control::Control;
use crate::init;
use crate::plan::{Buffer, ForwardPlan, Op, SequenceOp, Slicer};

/// Stream of the initialiser's generator that samples are drawn from; see [`init::word`].
const SAMPLE_STREAM: u64 = u64::MAX - 1;

/// How the next byte is drawn. Equal seeds give equal texts, at least on the same build: exponentials may differ in their
/// last bit elsewhere.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Above 0; logits are divided by it: below 1 the likely becomes likelier.
    pub temperature: f64,
    /// Only so many of the likeliest are drawn from; 1 always takes the likeliest.
    pub top_k: usize,
    pub seed: u64,
}

/// A model that reads bytes and says what may come next.
pub struct Sampler {
    plan: ForwardPlan,
    buffers: Vec<Vec<f32>>,
    scratch: cpu::Scratch,
    /// Positions of the context, and the embedding's table `[positions, width]`; the program sees the row of one position.
    positions: usize,
    table: Vec<f32>,
    /// One for each attention of the program.
    kept: Vec<Kept>,
    /// What the context holds now.
    window: Vec<u8>,
    vocabulary: u32,
    /// Of one row.
    flop: u64,
    drawn: u64,
}

/// Keys and values `[positions, channels]` of one attention.
struct Kept {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Sampler {
    /// A sampler of `model` with `parameters` in the model's order and an empty context. [`EngineError::Input`] where the
    /// model does not begin with an embedding, or answers with what it cannot read.
    pub fn new(model: &Model, parameters: &[Vec<f32>]) -> Result<Sampler, EngineError> {
        let input = |reason: String| EngineError::Input(reason);
        let (Some(vocabulary), positions) = (model.vocabulary(), model.labels_count() as usize) else {
            return Err(input("only a model that begins with an embedding writes".to_owned()));
        };
        if model.classes() > vocabulary {
            return Err(input(format!("{} classes, a vocabulary of {vocabulary}", model.classes())));
        }
        let declared = model.parameters().map_err(|e| input(e.to_string()))?;
        let expected: Vec<usize> = declared.iter().map(Parameter::values_count).collect();
        let got: Vec<usize> = parameters.iter().map(Vec::len).collect();
        if got != expected {
            return Err(input(format!("parameters have {got:?} values, the model takes {expected:?}")));
        }
        let mut one = model.clone();
        one.input.shape = vec![1];
        let plan = ForwardPlan::compile(&one, 1)?;
        let mut buffers: Vec<Vec<f32>> = plan.program.values.iter().map(|&values| vec![0.0; values as usize]).collect();
        for (index, (buffer, values)) in plan.parameters.iter().zip(parameters).enumerate() {
            if index != POSITION {
                buffers[buffer.0].copy_from_slice(values);
            }
        }
        let kept = plan.program.ops.iter().filter_map(attention).map(|(_, _, shape)| {
            let values = positions * shape.channels() as usize;
            Kept { keys: vec![0.0; values], values: vec![0.0; values] }
        });
        let (kept, table) = (kept.collect(), parameters[POSITION].clone());
        let (scratch, window) = (cpu::Scratch::default(), Vec::with_capacity(positions));
        let flop = plan.program.ops.iter().map(Op::flop).sum();
        Ok(Sampler { plan, buffers, scratch, positions, table, kept, window, vocabulary, flop, drawn: 0 })
    }

    /// Reads bytes, one after another. A full context first slides: its newer half is read again from the first position on,
    /// for positions are part of what a row is. After [`EngineError::Stopped`] the context may be shorter than it was.
    pub async fn read(&mut self, bytes: &[u8], control: &Control) -> Result<(), EngineError> {
        let mut slicer = Slicer::new(control);
        for &byte in bytes {
            self.read_one(byte, &mut slicer).await?;
        }
        slicer.end();
        Ok(())
    }

    async fn read_one(&mut self, byte: u8, slicer: &mut Slicer<'_>) -> Result<(), EngineError> {
        if u32::from(byte) >= self.vocabulary {
            return Err(EngineError::Input(format!("byte {byte} of a vocabulary of {}", self.vocabulary)));
        }
        let mut coming = Vec::new();
        if self.window.len() == self.positions {
            coming = self.window.split_off(self.positions - self.positions / 2);
            self.window.clear();
        }
        coming.push(byte);
        for byte in coming {
            if slicer.is_full_for(self.flop) {
                slicer.breathe().await?;
            }
            self.step(byte);
            slicer.add(self.flop);
        }
        Ok(())
    }

    /// What has been read and is still in the context; the logits depend on nothing else.
    pub fn window(&self) -> &[u8] {
        &self.window
    }

    /// Outputs before the softmax for the byte after the window; zeros before anything was read.
    pub fn logits(&self) -> &[f32] {
        &self.buffers[self.plan.logits.0]
    }

    /// Reads `prompt`, then writes `count` bytes, reading each. The context may be longer than the model's: it slides.
    /// [`EngineError::Input`] where nothing was read before the first byte is to be written.
    pub async fn write(&mut self, prompt: &[u8], count: usize, how: Sampling, control: &Control) -> Result<Vec<u8>, EngineError> {
        self.read(prompt, control).await?;
        if self.window.is_empty() {
            return Err(EngineError::Input("there is nothing to go on from".to_owned()));
        }
        let (mut written, mut slicer) = (Vec::with_capacity(count), Slicer::new(control));
        for _ in 0..count {
            finite("logits", self.logits())?;
            let byte = draw(self.logits(), how, self.drawn)?;
            self.drawn += 1;
            written.push(byte);
            self.read_one(byte, &mut slicer).await?;
        }
        slicer.end();
        Ok(written)
    }

    /// One row, at the position after the window's last; there is room.
    fn step(&mut self, byte: u8) {
        let at = self.window.len();
        self.window.push(byte);
        self.buffers[self.plan.x.0][0] = f32::from_bits(byte.into());
        let row = &mut self.buffers[self.plan.parameters[POSITION].0];
        let width = row.len();
        row.copy_from_slice(&self.table[at * width..][..width]);
        let mut kept = self.kept.iter_mut();
        for op in &self.plan.program.ops {
            match attention(op) {
                Some((qkv, out, shape)) => {
                    let kept = kept.next().expect("there is one for each attention");
                    let mut written = std::mem::take(&mut self.buffers[out.0]);
                    kept.attend(shape, at, &self.buffers[qkv.0], &mut written);
                    self.buffers[out.0] = written;
                }
                None => cpu::run(op, &mut self.buffers, &mut self.scratch),
            }
        }
    }
}

/// Place of the embedding's table of positions among the model's parameters.
const POSITION: usize = 1;

/// Input, output and extents of an attention's forward call. At one position it is never cut into several.
fn attention(op: &Op) -> Option<(Buffer, Buffer, Shape)> {
    match *op {
        Op::Sequence(SequenceOp::AttentionForward { qkv, out, shape, .. }) => Some((qkv, out, shape)),
        _ => None,
    }
}

impl Kept {
    /// Keeps the key and value of `qkv [3, heads, width]` as row `at`, and writes `softmax(q·kᵀ / sqrt(width))·v` over the rows
    /// up to it, per head, to `out [heads, width]`.
    fn attend(&mut self, shape: Shape, at: usize, qkv: &[f32], out: &mut [f32]) {
        let (channels, width) = (shape.channels() as usize, shape.width as usize);
        let (query, key) = qkv.split_at(channels);
        let (key, value) = key.split_at(channels);
        self.keys[at * channels..][..channels].copy_from_slice(key);
        self.values[at * channels..][..channels].copy_from_slice(value);
        let scale = 1.0 / (width as f32).sqrt();
        let mut weights = vec![0.0f32; at + 1];
        for (head, (query, out)) in query.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
            let of = |row: usize| row * channels + head * width..row * channels + (head + 1) * width;
            let mut largest = f32::NEG_INFINITY;
            for (row, weight) in weights.iter_mut().enumerate() {
                let key = &self.keys[of(row)];
                *weight = query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>() * scale;
                largest = largest.max(*weight);
            }
            let mut sum = 0.0;
            for weight in &mut weights {
                *weight = (*weight - largest).exp();
                sum += *weight;
            }
            out.fill(0.0);
            for (row, weight) in weights.iter().enumerate() {
                let value = &self.values[of(row)];
                out.iter_mut().zip(value).for_each(|(out, v)| *out += weight / sum * v);
            }
        }
    }
}

/// Draw `counter`: one of the `top_k` largest logits, each as likely as its softmax at this temperature says; of equals
/// the lower comes first. The logits are finite.
fn draw(logits: &[f32], how: Sampling, counter: u64) -> Result<u8, EngineError> {
    if !(how.temperature.is_finite() && how.temperature > 0.0) || how.top_k == 0 {
        return Err(EngineError::Input(format!("temperature {}, top {}", how.temperature, how.top_k)));
    }
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&i, &j| logits[j].total_cmp(&logits[i]));
    order.truncate(how.top_k);
    let most = f64::from(logits[order[0]]);
    let weights: Vec<f64> = order.iter().map(|&i| ((f64::from(logits[i]) - most) / how.temperature).exp()).collect();
    // 53 bits, uniform on [0, 1).
    let uniform = (init::word(how.seed, SAMPLE_STREAM, counter) >> 11) as f64 / (1u64 << 53) as f64;
    let mut left = uniform * weights.iter().sum::<f64>();
    for (&index, weight) in order.iter().zip(&weights) {
        left -= weight;
        if left < 0.0 {
            return Ok(index as u8);
        }
    }
    // Rounding may leave a trace above the last.
    Ok(order[order.len() - 1] as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [1.0, 3.0, 3.0, -2.0];

    fn shares(temperature: f64, top_k: usize) -> [f64; 4] {
        let mut counts = [0u32; 4];
        for counter in 0..40_000 {
            counts[usize::from(draw(&LOGITS, Sampling { temperature, top_k, seed: 5 }, counter).unwrap())] += 1;
        }
        counts.map(|count| f64::from(count) / 40_000.0)
    }

    #[test]
    fn draws_follow_the_softmax() {
        for temperature in [0.5, 1.0, 2.0] {
            let weights = LOGITS.map(|z| (f64::from(z) / temperature).exp());
            let sum: f64 = weights.iter().sum();
            for (got, weight) in shares(temperature, 4).iter().zip(weights) {
                let expected = weight / sum;
                let error = (expected * (1.0 - expected) / 40_000.0).sqrt();
                assert!((got - expected).abs() <= 4.0 * error, "{temperature}: {got} for {expected}");
            }
        }
        let [first, second, third, fourth] = shares(1.0, 2);
        assert!(first == 0.0 && fourth == 0.0 && (second - 0.5).abs() < 0.01 && third > 0.0);
        assert_eq!(shares(1.0, 1), [0.0, 1.0, 0.0, 0.0], "the first of equals");
    }

    #[test]
    fn draws_that_mean_nothing_are_refused() {
        for (temperature, top_k) in [(0.0, 1), (-1.0, 1), (f64::NAN, 1), (f64::INFINITY, 1), (1.0, 0)] {
            assert!(draw(&LOGITS, Sampling { temperature, top_k, seed: 0 }, 0).is_err(), "{temperature} {top_k}");
        }
    }
}
