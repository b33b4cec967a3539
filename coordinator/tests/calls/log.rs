//! The public log: what is in it and what is not, its proofs, and that no crash loses an entry or forks it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use manyhands_coordinator::clock::{Clock, ManualClock, SystemClock};
use manyhands_coordinator::keys::{Keys, blob_hash, signed_by};
use manyhands_coordinator::ledger::{self, LedgerError, Source, Trust};
use manyhands_coordinator::store::sqlite::SqliteStore;
use manyhands_coordinator::store::{NewRotation, NewSession, SignedEntry, Store};
use manyhands_coordinator::{App, Config, scheduler};
use manyhands_protocol::cose::{self, Kind};
use manyhands_protocol::log::entry::{
    self, Entry, KeyEvent, LogCheckpoint, LogConsent, LogInput, LogJob, LogKey, LogMerge, LogResult, LogRetraction, MergedBy,
    Role,
};
use manyhands_protocol::log::note::{self, Checkpoint, Note, NoteSignature};
use manyhands_protocol::log::receipt::{self, ReceiptResponse};
use manyhands_protocol::log::tile::{self, Edge, Resource, WIDTH};
use manyhands_protocol::log::tree::{Hash, leaf_hash};
use manyhands_protocol::log::witness::{Cosignature, WitnessKey, cosigned};
use manyhands_protocol::problem::Code;
use manyhands_protocol::site::Site;
use manyhands_protocol::statement::{Consent, ResultStatement};
use manyhands_protocol::view::JobState;
use manyhands_protocol::wire::{RotationRequest, SignedBytes};
use manyhands_protocol::work::{InnerOptimizer, TrainWork, Work};
use manyhands_protocol::{BlobHash, JobId, KeyId, UnitId, cbor, limits};
use reqwest::{Method, header};

use crate::client::{Volunteer, details};
use crate::database::Database;
use crate::faulty::{Fault, Faulty};
use crate::world::{NOW_MS, PATIENCE, World};

/// A whole log as anyone reads it, verified.
pub struct Log {
    pub entries: Vec<Vec<u8>>,
    pub root: Hash,
    note: String,
}

#[async_trait::async_trait]
impl Source for Log {
    async fn checkpoint(&self, _: usize) -> Result<String, LedgerError> {
        Ok(self.note.clone())
    }

    async fn entries(&self, size: u64) -> Result<Vec<Vec<u8>>, LedgerError> {
        Ok(self.entries[..size as usize].to_vec())
    }

    async fn blob(&self, hash: BlobHash) -> Result<Vec<u8>, LedgerError> {
        Err(LedgerError::Source(hash.to_string()))
    }
}

impl Log {
    /// Reads the newest checkpoint and all before it.
    pub async fn read(volunteer: &Volunteer) -> Log {
        let (note, checkpoint) = checkpoint(volunteer).await;
        let (mut entries, mut edge) = (Vec::new(), Edge::default());
        for number in 0..checkpoint.size.div_ceil(WIDTH) {
            let width = tile::width(0, number, checkpoint.size);
            let bytes = get(volunteer, Resource::Entries { number, width }).await;
            let bundle: Vec<Vec<u8>> = tile::unbundle(&bytes).unwrap().into_iter().map(<[u8]>::to_vec).collect();
            assert_eq!(bundle.len() as u64, width);
            let hashes = get(volunteer, Resource::Tile { level: 0, number, width }).await;
            assert_eq!(hashes, bundle.iter().map(|entry| leaf_hash(entry)).collect::<Vec<_>>().concat());
            entries.extend(bundle);
        }
        entries.iter().for_each(|entry| drop(edge.append(leaf_hash(entry))));
        assert_eq!(edge.root(), checkpoint.root);
        Log { entries, root: edge.root(), note }
    }

    /// The credit of a key, as whoever reads the log adds it up.
    pub async fn points(&self, volunteer: &Volunteer) -> u64 {
        let log = ledger::Log::read(self, &Trust::of(volunteer.coordinator)).await.unwrap();
        log.credit.get(&volunteer.id()).copied().unwrap_or_default()
    }

    /// The entries of one kind, in order; every signature of the log is checked.
    pub fn of<T: Entry>(&self, volunteer: &Volunteer) -> Vec<T> {
        let mut found = Vec::new();
        for entry in &self.entries {
            let (content_type, opened) = cose::open_any(entry).unwrap();
            let kind = Kind::logged(&content_type).unwrap();
            assert_eq!(opened.key, volunteer.coordinator);
            assert!(signed_by(opened.key, &opened.to_be_signed, &opened.signature));
            if kind == T::KIND {
                found.push(T::read(&opened).unwrap());
            }
        }
        found
    }

    /// These entries as the log of this key.
    fn signed(keys: &Keys, entries: Vec<Vec<u8>>) -> Log {
        let mut edge = Edge::default();
        entries.iter().for_each(|entry| drop(edge.append(leaf_hash(entry))));
        Log { note: keys.sign_checkpoint(edge.size, edge.root()), root: edge.root(), entries }
    }

    /// The log of a coordinator that says something else in all entries of a kind.
    fn bent<T: Entry>(&self, keys: &Keys, change: impl Fn(&mut T)) -> Log {
        let bend = |entry: &Vec<u8>| {
            let (content_type, opened) = cose::open_any(entry).unwrap();
            if Kind::logged(&content_type) != Some(T::KIND) {
                return entry.clone();
            }
            let mut value = T::read(&opened).unwrap();
            change(&mut value);
            keys.sign(T::KIND, value.statement().payload)
        };
        Log::signed(keys, self.entries.iter().map(bend).collect())
    }

    fn root_of(&self, size: u64) -> Hash {
        let mut edge = Edge::default();
        self.entries[..size as usize].iter().for_each(|entry| drop(edge.append(leaf_hash(entry))));
        edge.root()
    }
}

/// A log with the coordinator's blobs.
struct Served<'a>(Log, &'a Volunteer);

#[async_trait::async_trait]
impl Source for Served<'_> {
    async fn checkpoint(&self, count: usize) -> Result<String, LedgerError> {
        self.0.checkpoint(count).await
    }

    async fn entries(&self, size: u64) -> Result<Vec<Vec<u8>>, LedgerError> {
        self.0.entries(size).await
    }

    async fn blob(&self, hash: BlobHash) -> Result<Vec<u8>, LedgerError> {
        Ok(self.1.get(&format!("/v1/blobs/{hash}")).await.body)
    }
}

async fn get(volunteer: &Volunteer, resource: Resource) -> Vec<u8> {
    let answer = volunteer.get(&format!("/v1/log/{}", resource.path())).await;
    answer.is(200);
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    assert_eq!(answer.header("cache-control"), "public, max-age=31536000, immutable");
    answer.body
}

/// The newest checkpoint, its signature checked.
async fn checkpoint(volunteer: &Volunteer) -> (String, Checkpoint) {
    let answer = volunteer.get("/v1/log/checkpoint").await;
    answer.is(200);
    assert_eq!((answer.header("content-type"), answer.header("cache-control")), ("text/plain; charset=utf-8", "no-store"));
    let note = Note::parse(std::str::from_utf8(&answer.body).unwrap()).unwrap();
    let origin = note::origin(volunteer.coordinator);
    let signature = note.by(&origin, note::ED25519, volunteer.coordinator).next().unwrap();
    assert!(signed_by(volunteer.coordinator, note.text.as_bytes(), signature.try_into().unwrap()));
    let checkpoint = Checkpoint::parse(&note.text).unwrap();
    assert_eq!(checkpoint.origin, origin);
    (String::from_utf8(answer.body).unwrap(), checkpoint)
}

/// Asks the log for the proof that it begins with an older tree of its, and checks it.
async fn grew(volunteer: &Volunteer, first: (u64, Hash), second: (u64, Hash)) {
    let answer = volunteer.get(&format!("/v1/log/consistency/{}?size={}", first.0, second.0)).await;
    answer.is(200);
    assert_eq!(answer.header("content-type"), "application/cose");
    let receipt = receipt::decode(&answer.body).unwrap();
    assert!(receipt.connects(first, second), "{} to {}", first.0, second.0);
    assert_eq!(receipt.key, volunteer.coordinator);
    assert!(signed_by(receipt.key, &receipt::to_be_signed(receipt.key, &second.1), &receipt.signature));
}

async fn work(volunteers: &[Volunteer], world: &World, job: JobId) {
    loop {
        for volunteer in volunteers {
            for lease in volunteer.lease(4).await {
                let output = volunteer.update_bytes(&lease).await;
                volunteer.submit(&lease, output).await;
            }
        }
        if world.view(job).await.state == JobState::Finished {
            return;
        }
    }
}

/// A whole run, with everything that makes an entry.
#[tokio::test]
async fn a_run_is_in_the_log_and_nothing_of_where_it_was_computed() {
    const SITE: &str = "a-site-of-this-test";
    const ORIGIN: &str = "https://pages.of-this-test.example";
    let world = World::start().await;
    let site = Site {
        name: SITE.to_owned(),
        origins: vec![ORIGIN.to_owned()],
        categories: vec![manyhands_protocol::manifest::Category::Demo],
    };
    let put = world.operator(Method::PUT, &format!("/sites/{SITE}")).header(header::CONTENT_TYPE, "application/json");
    crate::client::Answer::of(put.body(serde_json::to_vec(&site).unwrap())).await.is(201);
    let job = world.train_job().await;
    let mut volunteers = Vec::new();
    // Two of one site could not confirm each other.
    for seed in [1, 2] {
        let mut volunteer = Volunteer::new(&world.url(), seed).await;
        let mut consent = volunteer.consent().await;
        if seed == 1 {
            consent = Consent { origin: ORIGIN.to_owned(), site: SITE.to_owned(), category: Some(site.categories[0]), ..consent };
        }
        volunteer.open(&consent).await;
        volunteers.push(volunteer);
    }
    work(&volunteers, &world, job).await;
    let product = world.product_job().await;
    let lease = volunteers[0].lease_one().await;
    let output = volunteers[0].product_bytes(&lease).await;
    volunteers[0].submit(&lease, output).await;
    let successor = Volunteer::new(&world.url(), 3).await;
    rotate(&volunteers[0], &successor).await;
    world.app().append_log().await.unwrap();

    let log = Log::read(&successor).await;
    let view = world.view(job).await;
    let results: Vec<LogResult> = log.of(&successor);
    assert_eq!(results.len() as u64, view.results_accepted + 1);
    for result in &results {
        let opened = cose::open(Kind::Result, &result.result.0).unwrap();
        assert!(signed_by(opened.key, &opened.to_be_signed, &opened.signature));
        assert!(volunteers.iter().any(|volunteer| volunteer.id() == opened.key));
        let statement: ResultStatement = cbor::decode_strict(&opened.payload).unwrap();
        assert_eq!((statement.job, statement.unit), (result.job, result.unit));
        assert_eq!(result.credit.flop, manyhands_coordinator::scheduler::flop(&result.work));
        assert_eq!(result.credit.bytes, statement.outputs.iter().map(|output| output.bytes).sum::<u64>());
    }
    let jobs: Vec<LogJob> = log.of(&successor);
    assert_eq!(jobs.iter().map(|job| job.job).collect::<Vec<_>>(), [job, product]);
    let inputs: Vec<LogInput> = log.of(&successor);
    let count = |job, role| inputs.iter().filter(|input| (input.job, input.role) == (job, role)).count();
    assert_eq!((count(job, Role::Shard), count(job, Role::HeldOut)), (2, 1));
    assert_eq!((count(product, Role::APanel), count(product, Role::BPanel)), (2, 2));
    assert_eq!(jobs.iter().map(|job| job.inputs_count).sum::<u64>(), 7);
    let checkpoints: Vec<LogCheckpoint> = log.of(&successor);
    let history = view.train.unwrap().history;
    let logged: Vec<_> = checkpoints.iter().map(|c| (c.round, c.state.checkpoint)).collect();
    assert_eq!(logged, history.iter().map(|round| (round.round, round.checkpoint)).collect::<Vec<_>>());
    let merges: Vec<LogMerge> = log.of(&successor);
    assert_eq!(merges.len(), 3);
    for (at, merge) in merges.iter().enumerate() {
        assert_eq!((merge.round, merge.before, merge.after), (at as u32, checkpoints[at].state, checkpoints[at + 1].state));
        assert_eq!((merge.inputs.len(), merge.inputs_count, merge.first), (2, 2, 0));
        for input in &merge.inputs {
            assert!(results.iter().any(|result| result.unit == input.unit), "unit {}", input.unit);
        }
    }
    assert_eq!(log.of::<LogConsent>(&successor).len(), 2);
    let keys: Vec<LogKey> = log.of(&successor);
    assert_eq!((keys[0].key, keys[0].event, keys[0].successor), (volunteers[0].id(), KeyEvent::Rotated, Some(successor.id())));

    let whole = log.entries.concat();
    let known = |secret: &[u8]| whole.windows(secret.len()).any(|window| window == secret);
    assert!(known(b"log-result") && known(&volunteers[1].id().0), "this search finds things");
    let salt = details().salt;
    let times = [NOW_MS.to_be_bytes()];
    for secret in
        [SITE.as_bytes(), b"of-this-test", b"127.0.0.1", b"localhost", details().adapter.as_bytes(), &salt, &times[0][2..6]]
    {
        assert!(!known(secret), "{}", String::from_utf8_lossy(secret));
    }
    world.finish().await;
}

async fn rotate(old: &Volunteer, new: &Volunteer) {
    let nonce = hex::decode(old.info().await.nonce).unwrap();
    let statement = manyhands_protocol::statement::Rotation {
        version: limits::PROTOCOL_VERSION,
        audience: old.coordinator,
        nonce,
        old: old.id(),
        new: new.id(),
    };
    let sign = |volunteer: &Volunteer| SignedBytes(volunteer.sign(Kind::Rotation, cbor::encode(&statement)));
    let body = cbor::encode(&RotationRequest { by_old: sign(old), by_new: sign(new) });
    old.post("/v1/rotations", "application/cbor", body).await.is(204);
}

pub fn session(number: u8) -> NewSession {
    NewSession {
        token_hash: [number; 32],
        key: KeyId([2; 32]),
        nonce: vec![number],
        consent: b"a signed consent".to_vec(),
        consent_salt: [number, !number, 0xa5, number].repeat(8).try_into().unwrap(),
        job: None,
        category: None,
        site: None,
        opened_ms: NOW_MS,
        expires_ms: NOW_MS + 1,
    }
}

/// A consent is found with its statement and its salt, and by nobody once it is withdrawn: not even in what the files keep of
/// pages as they were before.
#[tokio::test]
async fn a_withdrawn_consent_leaves_no_salt() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("s"), Duration::from_secs(5)).await.unwrap();
    let in_files = |salt: [u8; 32]| {
        let files = std::fs::read_dir(folder.path()).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap());
        files.flat_map(|bytes| bytes.windows(32).map(|window| window == salt).collect::<Vec<_>>()).any(|found| found)
    };
    // More than a page of salts.
    let numbers = 1..=200;
    for number in numbers.clone() {
        store.open_session(session(number)).await.unwrap();
    }
    let queued = store.log_queue(1).await.unwrap();
    let [queued] = queued.as_slice() else { panic!("{queued:?}") };
    let consent: LogConsent = cbor::decode_strict(&queued.statement.payload).unwrap();
    assert_eq!(consent.commitment, blob_hash(&[session(1).consent_salt.as_slice(), b"a signed consent"].concat()));
    store.scrub().await.unwrap();
    for number in numbers.clone().filter(|number| number % 3 == 0) {
        let opened = store.session(session(number).token_hash).await.unwrap().unwrap();
        store.withdraw_session(opened.id, NOW_MS).await.unwrap();
    }
    assert!(in_files(session(3).consent_salt), "the search finds what is still there");
    store.scrub().await.unwrap();
    for number in numbers.clone() {
        assert_eq!(in_files(session(number).consent_salt), number % 3 != 0, "{number}");
    }
    // Who replaces a key withdraws its sessions.
    let (by_old, by_new) = (vec![1], vec![2]);
    store.rotate(NewRotation { old: KeyId([2; 32]), new: KeyId([3; 32]), by_old, by_new, now_ms: NOW_MS }).await.unwrap();
    store.scrub().await.unwrap();
    assert!(numbers.clone().all(|number| !in_files(session(number).consent_salt)));
    assert_eq!(store.check_invariants().await.unwrap(), Vec::<String>::new());
}

/// A clock that somebody sets back after the start: what waits for a time on it waits for ever.
struct SetBack(AtomicU64);

#[async_trait::async_trait]
impl Clock for SetBack {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    async fn wait_until(&self, _: u64) {
        std::future::pending().await
    }

    async fn wait(&self, ms: u64) {
        SystemClock.wait(ms).await;
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_holds_no_batch_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::new(folder.path());
    config.listen.set_port(0);
    let clock = Arc::new(SetBack(AtomicU64::new(NOW_MS)));
    config.clock = clock.clone();
    let app = App::start(config).await.unwrap();
    let mut volunteer = Volunteer::new(&app.url(), 1).await;
    while !volunteer.get("/v1/log/checkpoint").await.status.is_success() {}
    clock.0.store(NOW_MS - 86_400_000, Ordering::Relaxed);
    volunteer.open(&volunteer.consent().await).await;
    let appended = async { while checkpoint(&volunteer).await.1.size == 0 {} };
    tokio::time::timeout(PATIENCE, appended).await.expect("a batch comes");
    app.shutdown().await;
}

#[tokio::test]
async fn receipts_and_growth_are_proven_for_every_size() {
    let world = World::start().await;
    let volunteer = world.join(1).await;
    world.product_job().await;
    let mut leases = HashMap::new();
    for _ in 0..4 {
        let lease = volunteer.lease_one().await;
        let output = volunteer.product_bytes(&lease).await;
        volunteer.get(&format!("/v1/log/receipts/lease/{}", lease.manifest.lease)).await.refused(Code::NotLogged);
        volunteer.submit(&lease, output).await;
        leases.insert(lease.manifest.lease, lease.manifest.unit);
    }
    world.app().append_log().await.unwrap();
    let log = Log::read(&volunteer).await;
    let count = log.entries.len() as u64;
    for size in 0..=count {
        for index in 0..count {
            let answer = volunteer.get(&format!("/v1/log/receipts/{index}?size={size}")).await;
            if index >= size {
                answer.refused(Code::NotLogged);
                continue;
            }
            let answer: ReceiptResponse = answer.cbor();
            assert_eq!((answer.index, &answer.entry), (index, &log.entries[index as usize]));
            let receipt = receipt::decode(&answer.receipt).unwrap();
            assert_eq!(receipt.root_with(&answer.entry), Some(log.root_of(size)), "{index} of {size}");
            assert!(signed_by(receipt.key, &receipt::to_be_signed(receipt.key, &log.root_of(size)), &receipt.signature));
        }
        grew(&volunteer, (size, log.root_of(size)), (count, log.root)).await;
    }
    for (lease, unit) in leases {
        let answer: ReceiptResponse = volunteer.get(&format!("/v1/log/receipts/lease/{lease}")).await.cbor();
        let result = LogResult::read(&cose::open(Kind::LogResult, &answer.entry).unwrap()).unwrap();
        assert_eq!(result.unit, unit);
        assert_eq!(log.entries[answer.index as usize], answer.entry);
    }
    let beyond = count + 1;
    for path in [
        format!("receipts/{count}"),
        format!("receipts/0?size={beyond}"),
        format!("consistency/{beyond}"),
        format!("consistency/0?size={beyond}"),
        "consistency/3?size=2".to_owned(),
        "receipts/lease/999".to_owned(),
    ] {
        volunteer.get(&format!("/v1/log/{path}")).await.refused(Code::NotLogged);
    }
    for path in ["receipts/x", "receipts/-1", "receipts/0?size=x", "consistency/x", "receipts/lease/x"] {
        volunteer.get(&format!("/v1/log/{path}")).await.refused(Code::BadRequest);
    }
    let wide = count + 1;
    for path in [
        "",
        "x",
        "tile/0/000",
        "tile/1/000.p/1",
        "tile/entries/000",
        "tile/entries/001.p/1",
        // 2^56: its first entry would be the 2^64th.
        &format!("tile/entries/x072/x057/x594/x037/x927/936.p/{count}"),
        &format!("tile/0/000.p/{wide}"),
    ] {
        volunteer.get(&format!("/v1/log/{path}")).await.refused(Code::NotFound);
    }
    world.finish().await;
}

/// Killed before its statements were appended, after, and twice in a row: the log goes on where it was.
#[tokio::test]
async fn a_killed_coordinator_goes_on_with_the_same_log() {
    let mut world = World::start().await;
    let job = world.product_job().await;
    let mut seen = Vec::new();
    for seed in 1..=4 {
        let volunteer = world.join(seed).await;
        if seed % 2 == 0 {
            world.app().append_log().await.unwrap();
        }
        let lease = volunteer.lease_one().await;
        let output = volunteer.product_bytes(&lease).await;
        volunteer.submit(&lease, output).await;
        world.kill_and_restart().await;
        world.check().await;
        let volunteer = world.join(seed).await;
        world.app().append_log().await.unwrap();
        let (_, newest) = checkpoint(&volunteer).await;
        for &before in &seen {
            grew(&volunteer, before, (newest.size, newest.root)).await;
        }
        seen.push((newest.size, newest.root));
    }
    let volunteer = world.join(9).await;
    world.app().append_log().await.unwrap();
    let log = Log::read(&volunteer).await;
    assert_eq!(log.of::<LogResult>(&volunteer).len() as u64, world.view(job).await.results_accepted);
    world.finish().await;
}

/// Appends that fail, and appends that are done and reported as failed: nothing is lost, twice in the log, or signed over
/// another history.
#[tokio::test]
async fn failing_appends_lose_nothing_and_never_fork() {
    for fault in [Fault::AppendsBefore, Fault::AppendsAfter] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(folder.path());
        config.listen.set_port(0);
        config.opening_units_count = 0;
        config.clock = Arc::new(ManualClock::new(NOW_MS));
        let database = Database::new(folder.path()).await;
        let store = Arc::new(Faulty::new(database.open().await, fault));
        let app = App::start_with(config, store.clone()).await.unwrap();
        let world = World::watching(&app);
        world.product_job().await;
        let volunteer = world.join(1).await;
        let mut heads = vec![store.log_head().await.unwrap()];
        for _ in 0..3 {
            let lease = volunteer.lease_one().await;
            let output = volunteer.product_bytes(&lease).await;
            volunteer.submit(&lease, output).await;
            for _ in 0..2 {
                assert!(app.append_log().await.is_err() || store.log_queue(9).await.unwrap().is_empty(), "{fault:?}");
            }
            heads.push(store.log_head().await.unwrap());
            assert_eq!(app.check_invariants().await.unwrap(), Vec::<String>::new(), "{fault:?}");
        }
        store.mend();
        app.append_log().await.unwrap();
        assert_eq!(app.check_invariants().await.unwrap(), Vec::<String>::new(), "{fault:?}");
        let (_, newest) = checkpoint(&volunteer).await;
        // Job, four panels, consent, three results.
        assert_eq!(newest.size, 9, "{fault:?}");
        for head in heads.into_iter().flatten() {
            let old = Checkpoint::parse(&Note::parse(&head.note).unwrap().text).unwrap();
            grew(&volunteer, (old.size, old.root), (newest.size, newest.root)).await;
        }
        app.shutdown().await;
    }
}

/// Batches that fill a tile, end one short of it and go past it, each by a store that was opened anew.
#[tokio::test]
async fn a_log_grows_past_whole_tiles() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::load_or_create(folder.path()).unwrap();
    let mut size = 0u64;
    let database = Database::new(folder.path()).await;
    for count in [255, 1, 1, 200, 55, 300] {
        let store = database.open().await;
        for _ in 0..count {
            let mut unique = [0; 32];
            unique[..8].copy_from_slice(&size.to_be_bytes());
            let session = NewSession {
                token_hash: unique,
                key: KeyId(unique),
                nonce: unique.to_vec(),
                consent: vec![7],
                consent_salt: [7; 32],
                job: None,
                category: None,
                site: None,
                opened_ms: 1,
                expires_ms: 1000,
            };
            store.open_session(session).await.unwrap();
            size += 1;
        }
        let queued = store.log_queue(1_000).await.unwrap().into_iter();
        let sign = |statement: entry::Statement| keys.sign(statement.kind, statement.payload);
        let entries = queued.map(|queued| SignedEntry { id: queued.id, bytes: sign(queued.statement) }).collect();
        store.append_log(entries, &|size, root| keys.sign_checkpoint(size, root)).await.unwrap();
        assert_eq!(store.log_head().await.unwrap().unwrap().size, size);
        assert_eq!(store.check_invariants().await.unwrap(), Vec::<String>::new(), "{size}");
    }
    let store = database.open().await;
    for (level, number, hashes) in [(0, 0, 256), (0, 1, 256), (0, 2, 256), (0, 3, 44), (1, 0, 3)] {
        assert_eq!(store.log_tile(level, number).await.unwrap().unwrap().len(), hashes, "tile {level}/{number}");
    }
}

/// What a coordinator could say of a model's way back.
fn lies_about_a_model(log: &Log, keys: &Keys) -> Vec<(&'static str, Log)> {
    let without =
        |gone: &dyn Fn(&[u8]) -> bool| Log::signed(keys, log.entries.iter().filter(|entry| !gone(entry)).cloned().collect());
    let is = |entry: &[u8], kind: Kind| Kind::logged(&cose::open_any(entry).unwrap().0) == Some(kind);
    let work = |change: fn(&mut TrainWork)| {
        log.bent(keys, move |result: &mut LogResult| match &mut result.work {
            Work::Train(work) => {
                change(work);
                result.credit.flop = scheduler::flop(&result.work);
            }
            Work::Matmul(_) => unreachable!(),
        })
    };
    let manifest = |from: &'static str, to: &'static str| {
        log.bent(keys, move |job: &mut LogJob| {
            let manifest = String::from_utf8(job.manifest.clone()).unwrap();
            assert!(manifest.contains(from), "{manifest}");
            job.manifest = manifest.replace(from, to).into_bytes();
        })
    };
    let input = |change: fn(&mut LogInput)| log.bent(keys, change);
    let merge = |change: fn(&mut LogMerge)| log.bent(keys, change);
    vec![
        ("another checkpoint than its round's", work(|work| work.checkpoint = BlobHash([0; 32]))),
        ("another checkpoint than its round's", work(|work| work.round += 1)),
        ("its shard or its rows", work(|work| work.shard = BlobHash([0; 32]))),
        ("its shard or its rows", work(|work| work.first_row += 1)),
        ("its model is not", work(|work| work.model.input.scale *= 2.0)),
        ("its batch, its steps or its optimizer", work(|work| work.batch += 1)),
        ("its batch, its steps or its optimizer", work(|work| work.inner_steps -= 1)),
        (
            "its batch, its steps or its optimizer",
            work(|work| match &mut work.optimizer {
                InnerOptimizer::Sgd { learning_rate, .. } | InnerOptimizer::AdamW { learning_rate, .. } => *learning_rate *= 2.0,
            }),
        ),
        (
            "its shard or its rows",
            input(|input| {
                if input.role == Role::Shard {
                    input.place = 1 - input.place
                }
            }),
        ),
        ("not all in the log, or more", log.bent(keys, |job: &mut LogJob| job.inputs_count += 1)),
        ("not all in the log, or more", without(&|entry| is(entry, Kind::LogInput))),
        ("shards in order", input(|input| input.place = 0)),
        ("shards in order", input(|input| input.role = Role::Shard)),
        ("its rule is sum", merge(|merge| merge.rule = "sum".to_owned())),
        ("in ascending order", merge(|merge| merge.inputs.reverse())),
        ("in ascending order", merge(|merge| merge.inputs[0].weight_micro = 999_999)),
        (
            "2 units a round",
            merge(|merge| {
                merge.inputs.truncate(1);
                merge.inputs_count = 1;
            }),
        ),
        ("no merge in the log gave it", merge(|merge| merge.inputs_count += 1)),
        ("gives another state", merge(|merge| merge.inputs[0].weight_micro = 500_000)),
        ("gave its update", merge(|merge| merge.inputs[0].output = merge.inputs[1].output)),
        ("gave its update", without(&|entry| is(entry, Kind::LogResult))),
        ("do not agree on who settled it", merge(|merge| merge.inputs[0].settled_by = MergedBy::Referee)),
        ("do not agree on who settled it", log.bent(keys, |result: &mut LogResult| result.settled_by = "referee".to_owned())),
        ("no merge in the log gave it", merge(|merge| merge.after.velocity = BlobHash([0; 32]))),
        ("no merge in the log gave it", merge(|merge| merge.round += 1)),
        ("is not that of its manifest", manifest("\"seed\":5", "\"seed\":6")),
    ]
}

/// Whatever a coordinator says in its log and signs, its reader believes nothing that it can compute.
#[tokio::test]
async fn a_log_that_lies_is_not_believed() {
    let world = World::start().await;
    let job = world.train_job().await;
    let volunteers = [world.join(1).await, world.join(2).await];
    work(&volunteers, &world, job).await;
    world.app().append_log().await.unwrap();
    let reader = &volunteers[0];
    let log = Log::read(reader).await;
    let checkpoint = log.of::<LogCheckpoint>(reader).last().unwrap().state.checkpoint;
    let model = reader.get(&format!("/v1/blobs/{checkpoint}")).await.body;
    let keys = Keys::load_or_create(&world.config().data_dir).unwrap();
    let read = async |log: Log, trust: &Trust| {
        let served = Served(log, reader);
        let log = ledger::Log::read(&served, trust).await?;
        ledger::verify(&served, &log, &model).await
    };
    let trust = Trust::of(reader.coordinator);
    let again = || Log::signed(&keys, log.entries.clone());
    assert_eq!(again().note, log.note, "the same key and entries");
    let honest = read(again(), &trust).await.unwrap();
    assert_eq!((honest.rounds, honest.units, honest.refereed), (3, 6, 0));

    let elsewhere = tempfile::tempdir().unwrap();
    let others = Keys::load_or_create(elsewhere.path()).unwrap();
    let (size, none) = (log.entries.len() as u64, [0; 32]);
    let noted = |note: String| Log { note, root: log.root, entries: log.entries.clone() };
    let nothing = LogRetraction { version: entry::VERSION, job, unit: UnitId(1), result: BlobHash([0; 32]) };
    let and = |more: Vec<u8>| Log::signed(&keys, [log.entries.clone(), vec![more]].concat());
    let by_others = log.bent::<LogJob>(&others, |_| ()).entries;
    let mut lies: Vec<(&str, Log)> = vec![
        ("credited with more or less", log.bent(&keys, |result: &mut LogResult| result.credit.flop += 1)),
        ("credited with more or less", log.bent(&keys, |result: &mut LogResult| result.credit.bytes += 1)),
        ("not signed by its volunteer", log.bent(&keys, |result: &mut LogResult| *result.result.0.last_mut().unwrap() ^= 1)),
        ("is of another unit", log.bent(&keys, |result: &mut LogResult| result.unit.0 += 100)),
        ("no checkpoint in the log is this file", log.bent(&keys, |c: &mut LogCheckpoint| c.state.checkpoint = BlobHash(none))),
        ("takes back a result that is not accepted", and(keys.sign(LogRetraction::KIND, nothing.statement().payload))),
        ("not signed by the coordinator", Log::signed(&keys, by_others)),
        ("is no signed note", noted("nothing".to_owned())),
        ("is a note about something else", noted(log.note.replacen('\n', "\n0", 1))),
        ("is of the log manyhands/", noted(others.sign_checkpoint(size, log.root))),
        ("has no signature by its log's key", noted(log.note.replace("\u{2014} manyhands", "\u{2014} elsewhere"))),
        ("has a false signature", noted(log.note.replacen(&format!("\n{size}\n"), &format!("\n{}\n", size + 1), 1))),
        ("not those that the checkpoint was signed for", noted(keys.sign_checkpoint(size, none))),
    ];
    lies.extend(lies_about_a_model(&log, &keys));
    let mut believed = Vec::new();
    for (index, (expected, lie)) in lies.into_iter().enumerate() {
        let found = read(lie, &trust).await.map_or_else(|error| error.to_string(), |_| "believed".to_owned());
        if !found.contains(expected) {
            believed.push(format!("{index}: {found}, not {expected}"));
        }
    }
    assert_eq!(believed, Vec::<String>::new());

    world.finish().await;
}

/// A log that is true in itself is believed by nobody who saw it otherwise before.
#[tokio::test]
async fn a_log_goes_on_from_what_was_seen() {
    let world = World::start().await;
    let (log, size, _, key) = small_log(&world).await;
    let seen = |size: u64, root| Trust { seen: Some(Checkpoint { origin: String::new(), size, root }), ..Trust::of(key) };
    for before in 0..=size {
        ledger::Log::read(&log, &seen(before, log.root_of(before))).await.unwrap();
        let error = ledger::Log::read(&log, &seen(before, [0; 32])).await.err().unwrap();
        assert!(matches!(error, LedgerError::Rewritten { seen } if seen == before), "{error}");
    }
    let error = ledger::Log::read(&log, &seen(size + 1, [0; 32])).await.err().unwrap();
    assert!(matches!(error, LedgerError::Shrank { .. }), "{error}");
    world.finish().await;
}

/// A reader who knows witnesses believes no log that they did not cosign.
#[tokio::test]
async fn a_log_has_the_cosignatures_that_a_reader_asks_for() {
    let world = World::start().await;
    let (log, _, witness, key) = small_log(&world).await;
    let known = WitnessKey { name: "witness.example".to_owned(), key: witness.id() };
    let text = Note::parse(&log.note).unwrap().text;
    let noted = |time_s, signed_s| {
        let signature = witness.sign_bytes(&cosigned(&text, signed_s));
        let note = format!("{}{}", log.note, known.line(&Cosignature { time_s, signature }));
        Log { note, root: log.root, entries: log.entries.clone() }
    };
    let by = |count| Trust { witnesses: vec![known.clone()], cosignatures_count: count, ..Trust::of(key) };
    ledger::Log::read(&noted(7, 7), &by(1)).await.unwrap();
    ledger::Log::read(&log, &by(0)).await.unwrap();
    for lie in [&log, &noted(8, 7)] {
        let error = ledger::Log::read(lie, &by(1)).await.err().unwrap();
        assert!(matches!(error, LedgerError::Cosignatures { got: 0, expected: 1, .. }), "{error}");
    }
    world.finish().await;
}

/// A log of a few entries, its size, somebody else's keys, and the coordinator's.
async fn small_log(world: &World) -> (Log, u64, Keys, KeyId) {
    world.product_job().await;
    let volunteer = world.join(1).await;
    world.app().append_log().await.unwrap();
    let log = Log::read(&volunteer).await;
    let size = log.entries.len() as u64;
    (log, size, Keys::load_or_create(tempfile::tempdir().unwrap().path()).unwrap(), volunteer.coordinator)
}

/// Whoever ends a coordinator finds in its log all that it did.
#[tokio::test]
async fn a_shutdown_appends_what_waits() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::new(folder.path());
    config.listen.set_port(0);
    config.clock = Arc::new(ManualClock::new(NOW_MS));
    let database = Database::new(folder.path()).await;
    database.configure(&mut config);
    let app = App::start(config).await.unwrap();
    let mut volunteer = Volunteer::new(&app.url(), 1).await;
    app.append_log().await.unwrap();
    // The clock stands still, and with it the batches.
    volunteer.open(&volunteer.consent().await).await;
    app.shutdown().await;
    let store = database.open().await;
    assert!(store.log_queue(9).await.unwrap().is_empty());
    assert_eq!(store.log_head().await.unwrap().unwrap().size, 1, "the consent");
}

/// A batch that was appended and reported as failed comes again, when others wait already.
#[tokio::test]
async fn a_batch_that_comes_again_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::new(folder.path()).await;
    let store = database.open().await;
    let sign = |size, root| {
        let text = Checkpoint { origin: "test".to_owned(), size, root }.text();
        Note { signatures: vec![NoteSignature::new("test", note::ED25519, KeyId([1; 32]), vec![0; 64])], text }.encode()
    };
    let batch = async || {
        let queued = store.log_queue(9).await.unwrap();
        queued.into_iter().map(|queued| SignedEntry { id: queued.id, bytes: queued.statement.payload }).collect::<Vec<_>>()
    };
    store.open_session(session(1)).await.unwrap();
    let first = batch().await;
    store.append_log(first.clone(), &sign).await.unwrap();
    store.open_session(session(2)).await.unwrap();
    store.append_log(first, &sign).await.unwrap();
    assert_eq!(store.log_head().await.unwrap().unwrap().size, 1);
    let second = batch().await;
    assert_eq!(second.len(), 1);
    store.append_log(second, &sign).await.unwrap();
    assert_eq!(store.log_head().await.unwrap().unwrap().size, 2);
    assert_eq!(store.check_invariants().await.unwrap(), Vec::<String>::new());
}
