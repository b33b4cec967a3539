//! The coordinator's administrative calls over HTTP. Nothing is retried: each command can be given again, and says so
//! by failing.

use std::path::Path;
use std::time::Duration;

use manyhands_coordinator::base_address;
use manyhands_protocol::problem::Problem;
use manyhands_protocol::view::{JobView, JobsView};
use reqwest::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;

use super::CommandError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence in the middle of a call; a call as a whole may take as long as its bytes do.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
/// Where `manyhands serve` puts the token unless told otherwise.
const DEFAULT_TOKEN_FILE: &str = "manyhands-data/admin.token";

/// The operator's token: from the file named, else the variable, else the default data folder.
pub fn token(file: Option<&Path>, variable: Option<String>) -> Result<String, CommandError> {
    let token = match (file, variable) {
        (None, Some(token)) => token,
        (file, _) => {
            let file = file.unwrap_or(Path::new(DEFAULT_TOKEN_FILE));
            std::fs::read_to_string(file).map_err(|e| CommandError::Token(format!("{}: {e}", file.display())))?
        }
    };
    let token = token.trim();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(CommandError::Token("it is empty or not one line of text".to_owned()));
    }
    Ok(token.to_owned())
}

/// A coordinator, and the right to command it where there is one.
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// What calls a coordinator, and its address without a slash at the end.
pub fn connection(coordinator: &str) -> Result<(reqwest::Client, String), CommandError> {
    let http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT).build();
    match (http, base_address(coordinator)) {
        (Ok(http), Some(base)) => Ok((http, base)),
        _ => Err(CommandError::Address(coordinator.to_owned())),
    }
}

/// The first cause of an error: reqwest's own text names only the address.
pub fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl Client {
    pub fn new(coordinator: &str, token: String) -> Result<Client, CommandError> {
        let (http, base) = connection(coordinator)?;
        Ok(Client { http, base, token: Some(token) })
    }

    /// For calls that anybody may make.
    pub fn public(coordinator: &str) -> Result<Client, CommandError> {
        let (http, base) = connection(coordinator)?;
        Ok(Client { http, base, token: None })
    }

    /// Its address, without a slash at the end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// All jobs in any state.
    pub async fn jobs(&self) -> Result<Vec<JobView>, CommandError> {
        let response = self.call(Method::GET, "/v1/admin/jobs", None).await?;
        Ok(self.json::<JobsView>(response).await?.jobs)
    }

    /// One call, with the token where there is one; `body` is content type and bytes. Anything but success is an error.
    pub async fn call(&self, method: Method, path: &str, body: Option<(&str, Vec<u8>)>) -> Result<Response, CommandError> {
        let mut request = self.http.request(method, self.url(path));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some((content_type, bytes)) = body {
            request = request.header(reqwest::header::CONTENT_TYPE, content_type).body(bytes);
        }
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    /// Whether a blob can be fetched already.
    pub async fn has_blob(&self, path: &str) -> Result<bool, CommandError> {
        let response = self.http.head(self.url(path)).send().await.map_err(|e| self.unreachable(&e))?;
        Ok(response.status() == StatusCode::OK)
    }

    /// The body of an answer as JSON.
    pub async fn json<T: DeserializeOwned>(&self, response: Response) -> Result<T, CommandError> {
        let url = response.url().to_string();
        let bytes = self.bytes(response).await?;
        serde_json::from_slice(&bytes).map_err(|e| CommandError::Answer { url, reason: e.to_string() })
    }

    /// The body of an answer.
    pub async fn bytes(&self, response: Response) -> Result<Vec<u8>, CommandError> {
        Ok(response.bytes().await.map_err(|e| self.unreachable(&e))?.to_vec())
    }

    /// Saves the body of a call under `out`, which appears only once it is whole. Gives its bytes.
    pub async fn download(&self, path: &str, out: &Path) -> Result<u64, CommandError> {
        let mut response = self.call(Method::GET, path, None).await?;
        let part = out.with_added_extension("part");
        let fault = |e: std::io::Error| CommandError::File { path: out.display().to_string(), reason: e.to_string() };
        let mut file = tokio::fs::File::create(&part).await.map_err(fault)?;
        let mut written = 0;
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(&e))? {
            file.write_all(&chunk).await.map_err(fault)?;
            written += chunk.len() as u64;
        }
        file.sync_all().await.map_err(fault)?;
        tokio::fs::rename(&part, out).await.map_err(fault)?;
        Ok(written)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn unreachable(&self, error: &reqwest::Error) -> CommandError {
        CommandError::Unreachable { url: self.base.clone(), reason: innermost(error) }
    }

    async fn refusal(&self, response: Response) -> CommandError {
        let (url, status) = (response.url().to_string(), response.status().as_u16());
        match response.bytes().await {
            Ok(bytes) => match serde_json::from_slice::<Problem>(&bytes) {
                Ok(problem) => CommandError::Problem(Box::new(problem)),
                Err(_) => CommandError::Status { url, status },
            },
            Err(_) => CommandError::Status { url, status },
        }
    }
}
