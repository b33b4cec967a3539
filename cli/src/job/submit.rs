//! From a manifest and data files to a job: parse, validate, cut, and only then upload and submit.

use std::collections::BTreeMap;
use std::path::Path;

use manyhands_coordinator::cut;
use manyhands_protocol::BlobHash;
use manyhands_protocol::manifest::{
    Inputs, JobManifest, JobWork, ManifestError, MatmulRecipe, Submission, TrainRecipe, parse_json,
};
use manyhands_protocol::view::JobView;
use reqwest::Method;
use sha2::{Digest, Sha256};

use super::change;
use crate::operator::CommandError;
use crate::operator::client::Client;

/// A submission and the blobs it names.
#[derive(Debug)]
pub struct Prepared {
    pub submission: Submission,
    blobs: BTreeMap<BlobHash, Vec<u8>>,
}

/// Reads and checks everything of the owner's; an error in the manifest names its field.
pub fn prepare(manifest_path: &Path, data: &Path) -> Result<Prepared, CommandError> {
    let name = manifest_path.display().to_string();
    let fault = |e: ManifestError| CommandError::Manifest { path: name.clone(), field: e.field, reason: e.reason };
    let manifest: JobManifest = parse_json(&read(manifest_path)?).map_err(fault)?;
    manifest.validate().map_err(fault)?;
    let mut blobs = Blobs::default();
    let inputs = match &manifest.work {
        JobWork::Train(recipe) => train_inputs(recipe, data, &mut blobs)?,
        JobWork::Matmul(recipe) => matmul_inputs(recipe, data, &mut blobs)?,
    };
    let submission = Submission { manifest, inputs };
    submission.validate().map_err(fault)?;
    Ok(Prepared { submission, blobs: blobs.0 })
}

fn train_inputs(recipe: &TrainRecipe, data: &Path, blobs: &mut Blobs) -> Result<Inputs, CommandError> {
    let files = if recipe.text.is_some() { "text.txt" } else { "train.safetensors and test.safetensors" };
    if !data.is_dir() {
        let reason = format!("must be a folder with {files}");
        return Err(CommandError::File { path: data.display().to_string(), reason });
    }
    let cut = match &recipe.text {
        Some(split) => cut::cut_text(recipe, split, &read(&data.join("text.txt"))?),
        None => cut::cut_train(recipe, &read(&data.join("train.safetensors"))?, &read(&data.join("test.safetensors"))?),
    };
    let cut = cut.map_err(|e| cut_fault(data, e))?;
    Ok(Inputs::Train { shards: blobs.add_all(cut.shards), test: blobs.add(cut.test) })
}

fn matmul_inputs(recipe: &MatmulRecipe, data: &Path, blobs: &mut Blobs) -> Result<Inputs, CommandError> {
    if data.is_dir() {
        let reason = "must be one safetensors file with a and b, not a folder".to_owned();
        return Err(CommandError::File { path: data.display().to_string(), reason });
    }
    let cut = cut::cut_matmul(recipe, &read(data)?).map_err(|e| cut_fault(data, e))?;
    let (a_panels, b_panels) = (blobs.add_all(cut.a_panels), blobs.add_all(cut.b_panels));
    Ok(Inputs::Matmul { m: cut.m, k: cut.k, n: cut.n, a_panels, b_panels })
}

fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    std::fs::read(path).map_err(|e| CommandError::File { path: path.display().to_string(), reason: e.to_string() })
}

fn cut_fault(data: &Path, source: cut::CutError) -> CommandError {
    CommandError::Cut { path: data.display().to_string(), source }
}

/// Blobs by name; equal ones are kept once.
#[derive(Default)]
struct Blobs(BTreeMap<BlobHash, Vec<u8>>);

impl Blobs {
    fn add(&mut self, bytes: Vec<u8>) -> BlobHash {
        let hash = BlobHash(Sha256::digest(&bytes).into());
        self.0.insert(hash, bytes);
        hash
    }

    fn add_all(&mut self, blobs: Vec<Vec<u8>>) -> Vec<BlobHash> {
        blobs.into_iter().map(|bytes| self.add(bytes)).collect()
    }
}

/// Uploads the blobs that the coordinator lacks and creates the job.
pub async fn send(client: &Client, prepared: &Prepared, approve: bool) -> Result<JobView, CommandError> {
    for (hash, bytes) in &prepared.blobs {
        if !client.has_blob(&format!("/v1/blobs/{hash}")).await? {
            // A blob that no job names yet cannot be fetched; the coordinator answers such an upload with 200 and keeps
            // what it has.
            let body = Some(("application/octet-stream", bytes.clone()));
            client.call(Method::PUT, &format!("/v1/admin/blobs/{hash}"), body).await?;
        }
    }
    let body = serde_json::to_vec(&prepared.submission).expect("a submission of plain values always serialises");
    let response = client.call(Method::POST, "/v1/admin/jobs", Some(("application/json", body))).await?;
    let view: JobView = client.json(response).await?;
    if approve { change(client, view.id, "approve").await } else { Ok(view) }
}
