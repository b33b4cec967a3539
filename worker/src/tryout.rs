//! The newest model tried on a few held-out examples or on a picture of the visitor's, or let write: the job's view, its
//! checkpoint and its test set are public, so this needs no session. Computes on the CPU path: a dozen rows, or one at a
//! time, are no work for a GPU.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use manyhands::control::Control;
use manyhands::engine::{Engine, Sampler, Sampling};
use manyhands::init;
use manyhands::tensors;
use manyhands::volunteer::{DataUse, HostError, Method, Request, VolunteerError};
use manyhands::web::fields::{Fields, whole};
use manyhands::web::{DataDay, NAME, Tempo, WebPace, exchange, origin, sha256};
use manyhands_protocol::model::{Input, InputType, Layer, Loss, Model};
use manyhands_protocol::{BlobHash, JobId, limits};
use wasm_bindgen::JsValue;

use crate::messages::{Answer, Tried, TryWish, What};

/// Bytes that a model writes at a time.
const WRITTEN_BYTES: usize = 400;
/// Bytes of held-out text it goes on from.
const PROMPT_BYTES: usize = 48;
/// Somewhat likelier than the model says, and never from the long tail.
const TEMPERATURE: f64 = 0.8;
const TOP_K: usize = 40;
/// Of [`init::word`], for the choice of held-out examples.
const ROWS_STREAM: u64 = 0x726f_7773;

/// What went wrong, in a line for the visitor.
type Fault = String;

/// A blob that was downloaded, if any was.
type Kept = Option<(BlobHash, Rc<Vec<u8>>)>;

thread_local! {
    /// Each kind's latest: asked again, only what changed is downloaded.
    static KEPT: RefCell<[Kept; 2]> = const { RefCell::new([None, None]) };
}
const CHECKPOINT: usize = 0;
const TEST: usize = 1;

/// The job's newest model on what is wished, at this tempo.
pub async fn run(job: JobId, wish: &TryWish, data: DataUse, tempo: Rc<Tempo>) -> Result<Tried, Fault> {
    let day = DataDay::open(Some(NAME), data.bytes_max()).await;
    let line = Line { data, day, bytes: Cell::new(0) };
    let control = Control::with_pace(WebPace::beside(tempo));
    // Before anything is downloaded.
    control.between_slices().await.map_err(|e| e.to_string())?;
    let what = answer(&line, job, wish, &control).await?;
    Ok(Tried { what, bytes: line.bytes.get() })
}

async fn answer(line: &Line, job: JobId, wish: &TryWish, control: &Control) -> Result<What, Fault> {
    let view = line.get(&format!("/v1/jobs/{job}"), limits::JSON_BODY_BYTES_MAX as u64).await?;
    let view = Fields::parse(&view).ok_or("the job's view is not JSON")?;
    let train = view.object("train").ok_or("only a trained model can be tried")?;
    let model = train.object("model").and_then(|m| model(&m)).ok_or("the model is of a kind this page does not know")?;
    let hash = |name| train.text(name).and_then(|h| h.parse::<BlobHash>().ok()).ok_or("the job has nothing to try yet");
    let (checkpoint, test) = (hash("checkpoint")?, hash("test")?);
    let checkpoint = line.blob(CHECKPOINT, checkpoint).await?;
    let declared = model.parameters().map_err(|e| e.to_string())?;
    let shapes: Vec<Vec<usize>> = declared.iter().map(|p| p.shape.iter().map(|&d| d as usize).collect()).collect();
    let expected: Vec<(&str, &[usize])> = declared.iter().zip(&shapes).map(|(p, s)| (p.name.as_str(), s.as_slice())).collect();
    let parameters = tensors::read_f32(&checkpoint, &expected).map_err(|e| e.to_string())?;
    if model.vocabulary().is_none() {
        let examples = match &wish.picture {
            Some(pixels) => vec![example(&model, pixels)?],
            None => held_out(&model, &line.blob(TEST, test).await?, wish)?,
        };
        return Ok(What::Answers(answers(&model, &parameters, &examples, control).await?));
    }
    let known = |byte: &u8| model.vocabulary().is_some_and(|ids| u32::from(*byte) < ids);
    let mut prompt: Vec<u8> = wish.prompt.bytes().filter(known).collect();
    if prompt.is_empty() {
        prompt = beginning(&model, &line.blob(TEST, test).await?, wish.seed)?;
    }
    let mut sampler = Sampler::new(&model, &parameters).map_err(|e| e.to_string())?;
    let how = Sampling { temperature: TEMPERATURE, top_k: TOP_K, seed: wish.seed };
    let text = sampler.write(&prompt, WRITTEN_BYTES, how, control).await.map_err(|e| e.to_string())?;
    let [prompt, text] = [prompt, text].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(What::Sample { round: train.value("rounds_merged").and_then(small).unwrap_or(0), prompt, text })
}

/// The beginning of a held-out window, the same for equal seeds.
fn beginning(model: &Model, test: &[u8], seed: u64) -> Result<Vec<u8>, Fault> {
    let shard = tensors::read_shard(test, model).map_err(|e| e.to_string())?;
    let positions = shard.x.len() / shard.rows;
    let row = &shard.x[(seed % shard.rows as u64) as usize * positions..][..positions.min(PROMPT_BYTES)];
    // Ids of a shard are bits, and below a vocabulary of bytes.
    Ok(row.iter().map(|id| id.to_bits() as u8).collect())
}

/// What the model is asked of, as it takes it.
struct Example {
    x: Vec<f32>,
    label: Option<u32>,
}

/// Held-out examples, the same for equal seeds.
fn held_out(model: &Model, test: &[u8], wish: &TryWish) -> Result<Vec<Example>, Fault> {
    let shard = tensors::read_shard(test, model).map_err(|e| e.to_string())?;
    let width = shard.x.len() / shard.rows;
    let example = |row: usize| Example { x: shard.x[row * width..][..width].to_vec(), label: Some(shard.y[row]) };
    Ok(choose(wish.rows, shard.rows, wish.seed).into_iter().map(example).collect())
}

/// A picture of these grey values, which must have the model's size.
fn example(model: &Model, pixels: &[u8]) -> Result<Example, Fault> {
    let values = model.input_values().map_err(|e| e.to_string())? as usize;
    if pixels.len() != values {
        return Err(format!("a picture has {} values, but the model takes {values}", pixels.len()));
    }
    Ok(Example { x: pixels.iter().map(|grey| value(*grey, &model.input)).collect(), label: None })
}

/// The model's answers.
async fn answers(model: &Model, parameters: &[Vec<f32>], examples: &[Example], control: &Control) -> Result<Vec<Answer>, Fault> {
    let x: Vec<f32> = examples.iter().flat_map(|example| &example.x).copied().collect();
    let logits = Engine::cpu().logits(model, parameters, &x, examples.len(), control).await.map_err(|e| e.to_string())?;
    let (height, width) = picture(&model.input.shape);
    let answers = examples.iter().zip(logits.chunks(model.classes() as usize)).map(|(Example { x, label }, logits)| {
        let (answer, probability) = most_likely(logits);
        let pixels = x.iter().map(|v| pixel(*v, &model.input)).collect();
        Answer { pixels, width, height, label: *label, answer, probability }
    });
    Ok(answers.collect())
}

/// Different rows, as many as there are.
fn choose(count: usize, of: usize, seed: u64) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..of).collect();
    for i in 0..count.min(of) {
        let j = i + (init::word(seed, ROWS_STREAM, i as u64) % (of - i) as u64) as usize;
        rows.swap(i, j);
    }
    rows.truncate(count);
    rows
}

/// Height and width of an example drawn as a picture; a flat one is a square where it can be, else one line.
fn picture(shape: &[u32]) -> (u32, u32) {
    match *shape {
        [height, width] | [height, width, 1] | [1, height, width] => (height, width),
        _ => {
            let values: u32 = shape.iter().product();
            let side = f64::from(values).sqrt() as u32;
            if side * side == values { (side, side) } else { (1, values) }
        }
    }
}

/// The grey value that became `value`; f32 inputs are taken as 0 to 1.
fn pixel(value: f32, input: &Input) -> u8 {
    let raw = match input.dtype {
        InputType::U8 => (value - input.offset) / input.scale,
        InputType::F32 => value * 255.0,
    };
    raw.round() as u8
}

/// What becomes of a grey value.
fn value(pixel: u8, input: &Input) -> f32 {
    match input.dtype {
        InputType::U8 => f32::from(pixel) * input.scale + input.offset,
        InputType::F32 => f32::from(pixel) / 255.0,
    }
}

/// The index of the largest value, and its softmax.
fn most_likely(logits: &[f32]) -> (u32, f32) {
    let mut best = 0;
    for (i, value) in logits.iter().enumerate() {
        if *value > logits[best] {
            best = i;
        }
    }
    let sum: f32 = logits.iter().map(|v| (v - logits[best]).exp()).sum();
    (best as u32, 1.0 / sum)
}

fn small(value: JsValue) -> Option<u32> {
    value.as_f64().and_then(whole).and_then(|n| u32::try_from(n).ok())
}

fn layer(fields: &Fields) -> Option<Layer> {
    let count = |name| fields.value(name).and_then(small);
    Some(match fields.text("type")?.as_str() {
        "dense" => Layer::Dense { outputs: count("outputs")? },
        "projection" => Layer::Projection { outputs: count("outputs")? },
        "relu" => Layer::Relu,
        "gelu" => Layer::Gelu,
        "convolution" => Layer::Convolution {
            channels: count("channels")?,
            kernel: count("kernel")?,
            stride: count("stride")?,
            padding: count("padding")?,
        },
        "max_pool" => Layer::MaxPool { size: count("size")?, stride: count("stride")? },
        "average_pool" => Layer::AveragePool { size: count("size")?, stride: count("stride")? },
        "embedding" => Layer::Embedding { vocabulary: count("vocabulary")?, width: count("width")? },
        "layer_norm" => Layer::LayerNorm,
        "attention" => Layer::Attention { heads: count("heads")? },
        // Trying a model out drops nothing, but its layers are numbered.
        "dropout" => Layer::Dropout { rate: fields.number("rate")? as f32 },
        "residual" => Layer::Residual { layers: count("layers")? },
        _ => return None,
    })
}

/// The model of a job's view; none where a field or layer is not known here.
fn model(fields: &Fields) -> Option<Model> {
    let input = fields.object("input")?;
    let layers = fields.list("layers")?.into_iter().map(|fields| layer(&Fields::new(fields)));
    Some(Model {
        input: Input {
            shape: input.list("shape")?.into_iter().map(small).collect::<Option<_>>()?,
            dtype: match input.text("dtype")?.as_str() {
                "u8" => InputType::U8,
                "f32" => InputType::F32,
                _ => return None,
            },
            scale: input.number("scale")? as f32,
            offset: input.number("offset")? as f32,
        },
        layers: layers.collect::<Option<_>>()?,
        loss: (fields.text("loss")? == "softmax_cross_entropy").then_some(Loss::SoftmaxCrossEntropy)?,
    })
}

/// What is fetched for one answer.
struct Line {
    data: DataUse,
    day: DataDay,
    /// Bytes of this answer.
    bytes: Cell<u64>,
}

impl Line {
    async fn blob(&self, kind: usize, hash: BlobHash) -> Result<Rc<Vec<u8>>, Fault> {
        let kept = KEPT.with_borrow(|kept| kept[kind].clone().filter(|(known, _)| *known == hash));
        if let Some((_, bytes)) = kept {
            return Ok(bytes);
        }
        let bytes = Rc::new(self.get(&format!("/v1/blobs/{hash}"), limits::BLOB_BYTES_MAX).await?);
        if sha256(&bytes).await.map_err(|e| e.to_string())? != hash {
            return Err(format!("blob {hash} holds other bytes"));
        }
        KEPT.with_borrow_mut(|kept| kept[kind] = Some((hash, bytes.clone())));
        Ok(bytes)
    }

    async fn get(&self, path: &str, bytes_max: u64) -> Result<Vec<u8>, Fault> {
        let answer_bytes_max = bytes_max.min(self.data.left_bytes());
        let request = Request { method: Method::Get, path, token: None, content_type: None, body: &[], answer_bytes_max };
        let response = match exchange(&origin(), request, &self.day).await {
            Err(HostError::TooLarge(_)) if answer_bytes_max < bytes_max => return Err(VolunteerError::DataLimit.to_string()),
            answer => answer.map_err(|e| e.to_string())?,
        };
        let bytes = response.body.len() as u64;
        self.data.count(bytes);
        self.bytes.set(self.bytes.get() + bytes);
        if response.status == 200 { Ok(response.body) } else { Err(format!("{path}: HTTP {}", response.status)) }
    }
}
