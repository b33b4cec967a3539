//! Has the log's newest checkpoint cosigned by witnesses (C2SP tlog-witness), beside the log and never in its way: whoever is slow or
//! down is asked again later. What they signed is in memory alone; after a restart they are asked again.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use manyhands_protocol::KeyId;
use manyhands_protocol::log::note::{NOTE_BYTES_MAX, Note};
use manyhands_protocol::log::tree;
use manyhands_protocol::log::witness::{AddCheckpoint, NoWitnessKey, WitnessKey};
use tokio::sync::watch;

use crate::base_address;
use crate::driver::DriveError;
use crate::ledger::has_cosigned;
use crate::service::Service;
use crate::store::LogHead;

/// How long a witness may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Before one that failed is asked again; doubled with each failure in a row, up to the next.
const RETRY_WAIT: Duration = Duration::from_secs(1);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(60);
/// Checkpoints whose cosignatures are kept.
const RECENT_COUNT: usize = 8;
/// Times that one look asks a witness: to learn what it signed last, and for its signature.
const ASKS_COUNT: usize = 2;

/// A witness that is asked, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessAddress {
    pub key: WitnessKey,
    /// Without a slash at the end.
    pub url: String,
}

impl FromStr for WitnessAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<WitnessAddress, String> {
        let (key, rest) = text.split_once("=http").ok_or("it must be KEY=https://ADDRESS")?;
        let url = format!("http{rest}");
        let url = base_address(&url).ok_or_else(|| format!("{url} is no address"))?;
        let key = key.parse().map_err(|error: NoWitnessKey| error.to_string())?;
        Ok(WitnessAddress { key, url })
    }
}

/// What was cosigned of late.
#[derive(Default)]
pub struct Witnesses {
    /// Told of each batch.
    pub grown: watch::Sender<()>,
    /// By size.
    recent: Mutex<BTreeMap<u64, Cosigned>>,
}

struct Cosigned {
    note: String,
    /// One of each witness.
    lines: BTreeMap<KeyId, String>,
}

impl Cosigned {
    fn text(&self) -> String {
        self.lines.values().map(String::as_str).collect()
    }
}

impl Witnesses {
    fn add(&self, head: &LogHead, witness: KeyId, line: String) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let cosigned = recent.entry(head.size).or_insert_with(|| Cosigned { note: head.note.clone(), lines: BTreeMap::new() });
        cosigned.lines.insert(witness, line);
        if recent.len() > RECENT_COUNT {
            recent.pop_first();
        }
    }

    /// A checkpoint with the cosignatures that there are of it.
    pub fn on(&self, head: &LogHead) -> String {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = recent.get(&head.size).map(Cosigned::text);
        format!("{}{}", head.note, lines.unwrap_or_default())
    }

    /// The newest checkpoint with at least so many cosignatures.
    pub fn newest_with(&self, count: usize) -> Option<String> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = recent.values().rev().find(|cosigned| cosigned.lines.len() >= count)?;
        Some(format!("{}{}", newest.note, newest.text()))
    }
}

/// Why a witness did not sign.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("it does not answer: {0}")]
    Unreached(#[from] reqwest::Error),
    #[error("it did not answer within {ANSWER_WAIT:?}")]
    Late,
    #[error("it signed {0} entries of this log, which has fewer or others: was the data folder replaced by an older one?")]
    Ahead(u64),
    #[error("it answered {0}")]
    Refused(reqwest::StatusCode),
    #[error("it answered what is no signature of its")]
    Answer,
    #[error(transparent)]
    Log(#[from] DriveError),
}

/// Asks all witnesses for the newest checkpoint, after each batch, until the shutdown.
pub async fn run(service: Arc<Service>) {
    let http = match reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build() {
        Ok(http) => http,
        Err(error) => return tracing::error!(%error, "no witness can be asked"),
    };
    let all = join_all(service.config.witnesses.iter().map(|address| attend(&service, &http, address)));
    tokio::select! {
        () = service.shutdown.cancelled() => {}
        _ = all => {}
    }
}

/// Asks one witness, which waits for no other.
async fn attend(service: &Service, http: &reqwest::Client, address: &WitnessAddress) {
    let mut grown = service.witnesses.grown.subscribe();
    let name = &address.key.name;
    // Size of the tree that it signed last, as far as that is known.
    let (mut last, mut failures) = (0, 0);
    loop {
        grown.borrow_and_update();
        let head = match service.store.log_head().await {
            Ok(head) => head,
            Err(error) => {
                tracing::error!(%error, "the log's checkpoint cannot be read");
                None
            }
        };
        if let Some(head) = head {
            let answered = tokio::time::timeout(ANSWER_WAIT, ask(service, http, address, &mut last, &head)).await;
            match answered.unwrap_or(Err(AskError::Late)) {
                Ok(line) => {
                    if failures > 0 {
                        tracing::info!(%name, "the witness signs again");
                    }
                    failures = 0;
                    service.witnesses.add(&head, address.key.key, line);
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(%name, %error, "the witness did not sign the log's checkpoint; it is asked again");
                    }
                    tokio::time::sleep(RETRY_WAIT.saturating_mul(1 << failures.min(16)).min(RETRY_WAIT_MAX)).await;
                    failures += 1;
                    continue;
                }
            }
        }
        if grown.changed().await.is_err() {
            return;
        }
    }
}

/// The line with a witness's cosignature, checked.
async fn ask(
    service: &Service,
    http: &reqwest::Client,
    address: &WitnessAddress,
    last: &mut u64,
    head: &LogHead,
) -> Result<String, AskError> {
    for _ in 0..ASKS_COUNT {
        let ranges = tree::consistency_ranges(*last, head.size).ok_or(AskError::Ahead(*last))?;
        let path = super::path(&*service.store, ranges).await?;
        let body = AddCheckpoint { old: *last, path, note: head.note.clone() }.encode();
        let response = http.post(format!("{}/add-checkpoint", address.url)).body(body).send().await?;
        let status = response.status();
        let text = read_text(response).await?;
        match status {
            reqwest::StatusCode::OK => {
                *last = head.size;
                return own_line(&address.key, &head.note, &text).ok_or(AskError::Answer);
            }
            reqwest::StatusCode::CONFLICT => {
                let size: u64 = text.trim_end().parse().map_err(|_| AskError::Answer)?;
                if size == *last {
                    return Err(AskError::Ahead(size));
                }
                *last = size;
            }
            status => return Err(AskError::Refused(status)),
        }
    }
    Err(AskError::Answer)
}

async fn read_text(mut response: reqwest::Response) -> Result<String, AskError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(AskError::Answer);
        }
    }
    String::from_utf8(bytes).map_err(|_| AskError::Answer)
}

/// The first line of an answer that is this witness's signature on the note.
fn own_line(witness: &WitnessKey, note: &str, answer: &str) -> Option<String> {
    let text = Note::parse(note)?.text;
    let holds = |line: &&str| Note::parse(&format!("{text}\n{line}")).is_some_and(|note| has_cosigned(witness, &note));
    answer.split_inclusive('\n').find(holds).map(str::to_owned)
}
