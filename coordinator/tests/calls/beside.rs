//! Many callers of one store at once: whatever the order in which their writes come, everything that must always hold does.

use std::cell::Cell;

use futures::future::{join, join_all};
use manyhands_coordinator::keys::{blob_hash, sha256};
use manyhands_coordinator::store::*;
use manyhands_protocol::log::Hash;
use manyhands_protocol::log::note::{self, Checkpoint, Note, NoteSignature};
use manyhands_protocol::problem::Code;
use manyhands_protocol::rules::standing;
use manyhands_protocol::view::JobState;
use manyhands_protocol::work::UnitManifest;
use manyhands_protocol::{BlobHash, JobId, KeyId, UnitId, cbor, cose, limits};

use crate::database::Database;
use crate::store::{submission, work};

/// Volunteers, each of which does all that an honest one may.
const VOLUNTEERS: u8 = 8;
/// Units that algebra settles, and units that two keys compute.
const ALONE: usize = 60;
const REPEATED: usize = 60;
/// Of the leases that nobody returns, which lapse while all others are at work.
const LATER_MS: u64 = 10 + limits::LEASE_MS;

/// A job that many are at work on.
struct Bustle<'a> {
    store: &'a dyn Store,
    job: JobId,
    is_done: Cell<bool>,
}

fn sign(key: KeyId) -> impl Fn(&UnitManifest) -> Vec<u8> {
    move |manifest| cose::prepare(cose::Kind::UnitManifest, key, cbor::encode(manifest)).finish([0; 64])
}

fn sign_checkpoint(size: u64, root: Hash) -> String {
    let text = Checkpoint { origin: "test".to_owned(), size, root }.text();
    Note { signatures: vec![NoteSignature::new("test", note::ED25519, KeyId([1; 32]), vec![0; 64])], text }.encode()
}

/// What every honest key computes for a unit.
fn output(unit: UnitId) -> BlobHash {
    BlobHash(sha256(&unit.0.to_be_bytes()))
}

impl Bustle<'_> {
    /// Opens a session of a key.
    async fn session(&self, key: KeyId, number: u8) -> i64 {
        let token_hash = sha256(&[&key.0[..], &[number]].concat());
        let new = NewSession {
            token_hash,
            key,
            nonce: token_hash.to_vec(),
            consent: vec![7],
            consent_salt: [9; 32],
            job: None,
            category: None,
            site: None,
            opened_ms: 1,
            expires_ms: u64::MAX / 2,
        };
        self.store.open_session(new).await.unwrap();
        self.store.session(token_hash).await.unwrap().unwrap().id
    }

    async fn lease(&self, key: KeyId, session: i64, units_max: u32, now_ms: u64) -> Result<Vec<(UnitManifest, BlobHash)>> {
        let (backend, prefix, commits) = ("other", None, None);
        let ask = LeaseAsk { key, session, job: None, units_max, blob_bytes_max: 4, backend, prefix, commits, now_ms };
        let (signed, _) = self.store.lease(ask, &sign(key)).await?;
        let open = |signed: &Vec<u8>| {
            let payload = cose::open(cose::Kind::UnitManifest, signed).unwrap().payload;
            (cbor::decode_strict(&payload).unwrap(), blob_hash(signed))
        };
        Ok(signed.iter().map(open).collect())
    }

    /// Uploads and returns a result; none where the unit was settled meanwhile.
    async fn submit(&self, leased: &(UnitManifest, BlobHash), output: BlobHash) -> Option<i64> {
        let (manifest, hash) = leased;
        let (lease, key) = (manifest.lease, manifest.key);
        let result = NewResult {
            job: manifest.job,
            unit: manifest.unit,
            lease,
            key,
            manifest: *hash,
            statement: [&key.0[..], &lease.0.to_be_bytes()].concat(),
            details: vec![9],
            output_name: "c".to_owned(),
            output,
            output_bytes: 4,
            losses_count: 0,
            states_every: None,
            backend: "other",
            received_ms: LATER_MS,
        };
        // Each twice at once, as a client does that was cut off.
        let upload = || self.store.add_upload(lease, key, output, 4, LATER_MS);
        let (first, second) = join(upload(), upload()).await;
        first.unwrap();
        second.unwrap();
        match join(self.store.add_result(result.clone()), self.store.add_result(result)).await {
            (Ok((first, _)), Ok((second, _))) => {
                assert_eq!(first.id, second.id);
                Some(first.id)
            }
            (Err(StoreError::Refused { code: Code::UnitSettled, .. }), _) => None,
            (first, second) => panic!("{first:?} {second:?}"),
        }
    }

    /// Leases, keeps some alive, gives some back and returns the others until nothing is left to do.
    async fn volunteer(&self, number: u8) {
        let key = KeyId([number; 32]);
        let session = self.session(key, 0).await;
        while !self.is_done.get() {
            // Two pages of one visitor.
            let lease = || self.lease(key, session, 3, LATER_MS);
            let (first, second) = join(lease(), lease()).await;
            let leased = [first.unwrap(), second.unwrap()].concat();
            join_all(leased.iter().map(|leased| self.compute(leased))).await;
            self.look_around().await;
        }
    }

    async fn compute(&self, leased: &(UnitManifest, BlobHash)) {
        let (manifest, _) = leased;
        assert!(self.store.heartbeat(manifest.lease, manifest.key, LATER_MS).await.unwrap().keep);
        if manifest.lease.0 % 7 == 0 {
            self.store.give_back(manifest.lease, manifest.key).await.unwrap();
        } else if let Some(result) = self.submit(leased, output(manifest.unit)).await {
            // Two verifiers at once, each with what it saw.
            join(self.verify(manifest.unit, result), self.verify(manifest.unit, result)).await;
        }
    }

    /// Settles a unit as the driver does.
    async fn verify(&self, unit: UnitId, result: i64) {
        let min_quorum = self.store.unit(unit).await.unwrap().unwrap().min_quorum;
        let by = if min_quorum == 1 {
            SettledBy::Algebra
        } else {
            self.store.decide(result, false, standing::AUDIT_NEW, LATER_MS).await.unwrap();
            SettledBy::Quorum
        };
        let honest = self.store.unit_results(unit).await.unwrap().into_iter().filter(|other| other.output == output(unit));
        let judgements: Vec<_> = honest.map(|other| Judgement::accept(other.id)).collect();
        if judgements.len() >= min_quorum as usize {
            let settlement = Settlement { unit, canonical: output(unit), by, judgements, now_ms: LATER_MS };
            self.store.settle(settlement).await.unwrap();
        }
    }

    /// The driver's turn, and whether all is done.
    async fn look_around(&self) {
        for row in self.store.results_to_check(100).await.unwrap() {
            let unit = self.store.unit(row.unit).await.unwrap().unwrap();
            if unit.canonical == Some(row.output) {
                self.store.judge(Judgement::accept(row.id), LATER_MS).await.unwrap();
            }
        }
        for unit in self.store.units_waiting(100).await.unwrap() {
            for row in self.store.unit_results(unit.id).await.unwrap() {
                self.verify(unit.id, row.id).await;
            }
        }
        let (_, view) = self.store.job_view(self.job, LATER_MS).await.unwrap().unwrap();
        self.is_done.set(view.units_settled == view.units_total);
    }

    /// Who leases and is not heard of again.
    async fn gone(&self) {
        let key = KeyId([100; 32]);
        let session = self.session(key, 0).await;
        self.lease(key, session, 8, 10).await.unwrap();
    }

    async fn end_leases(&self) {
        while !self.is_done.get() {
            self.store.lapse_leases(LATER_MS).await.unwrap();
        }
    }

    /// Comes with a new session again and again, and withdraws each in the middle of its work.
    async fn comes_and_goes(&self) {
        let key = KeyId([101; 32]);
        for number in 0..10 {
            let session = self.session(key, number).await;
            let lease = self.lease(key, session, 2, LATER_MS);
            let (leased, withdrawn) = join(lease, self.store.withdraw_session(session, LATER_MS)).await;
            withdrawn.unwrap();
            assert!(matches!(leased, Ok(_) | Err(StoreError::Refused { code: Code::NoSession, .. })), "{leased:?}");
        }
    }

    /// Is caught in a lie, with other leases in hand.
    async fn liar(&self) {
        let key = KeyId([102; 32]);
        let session = self.session(key, 0).await;
        let leased = self.lease(key, session, 4, LATER_MS).await.unwrap();
        let Some(first) = leased.first() else { return };
        if let Some(result) = self.submit(first, BlobHash([3; 32])).await {
            self.store.judge(Judgement::catch(result, "wrong"), LATER_MS).await.unwrap();
            let refused = self.lease(key, session, 1, LATER_MS).await;
            assert!(matches!(refused, Err(StoreError::Refused { code: Code::Quarantined, .. })), "{refused:?}");
        }
    }

    async fn append(&self) {
        let queued = self.store.log_queue(20).await.unwrap().into_iter();
        let entries = queued.map(|queued| SignedEntry { id: queued.id, bytes: queued.statement.payload }).collect();
        self.store.append_log(entries, &sign_checkpoint).await.unwrap();
    }

    /// Two that append to the log.
    async fn sequence(&self) {
        while !self.is_done.get() {
            join(self.append(), self.append()).await;
        }
        while !self.store.log_queue(1).await.unwrap().is_empty() {
            self.append().await;
        }
    }
}

pub async fn writes_go_on_beside_each_other(store: &dyn Store, database: &Database) {
    store.add_blob(BlobHash([2; 32]), 4, 1).await.unwrap();
    let unit = |min_quorum| NewUnit { work: work(), min_quorum, blob_bytes: 4, flop: 2, check_flop: 1 };
    let units = [vec![unit(1); ALONE], vec![unit(2); REPEATED]].concat();
    let job = store.create_job(NewJob { submission: submission(), submitted_ms: 1, units, round: None }).await.unwrap();
    store.set_job_state(job, &[JobState::Submitted], JobState::Running).await.unwrap();
    let bustle = Bustle { store, job, is_done: Cell::new(false) };
    bustle.gone().await;
    let volunteers = join_all((1..=VOLUNTEERS).map(|number| bustle.volunteer(number)));
    let others = join(join(bustle.end_leases(), bustle.sequence()), join(bustle.comes_and_goes(), bustle.liar()));
    join(volunteers, others).await;
    assert_eq!(store.check_invariants().await.unwrap(), Vec::<String>::new());
    let (_, view) = store.job_view(job, LATER_MS).await.unwrap().unwrap();
    assert_eq!(view.units_settled, (ALONE + REPEATED) as u64);
    // Nothing was returned more often than it should be.
    let otherwise = "SELECT u.id FROM units u WHERE u.quorum <>
        (SELECT COUNT(*) FROM results r WHERE r.unit_id = u.id AND r.verdict <> 'rejected')";
    assert_eq!(database.numbers(otherwise).await, [0; 0]);
    let accepted = database.numbers("SELECT lease_id FROM results WHERE verdict = 'accepted' ORDER BY lease_id").await;
    assert!(accepted.len() > ALONE + REPEATED, "some by two keys");
    let logged = database.numbers("SELECT lease_id FROM log_entries WHERE lease_id IS NOT NULL ORDER BY lease_id").await;
    assert_eq!(logged, accepted, "each is in the log, once");
}

/// Two writes that each would be right alone, on what a lock stands for; looked at at once, before a later write could mend it.
pub async fn pairs_at_once_leave_nothing_wrong(store: &dyn Store, database: &Database) {
    store.add_blob(BlobHash([2; 32]), 4, 1).await.unwrap();
    let unit = NewUnit { work: work(), min_quorum: 2, blob_bytes: 4, flop: 2, check_flop: 1 };
    let job =
        store.create_job(NewJob { submission: submission(), submitted_ms: 1, units: vec![unit; 80], round: None }).await.unwrap();
    store.set_job_state(job, &[JobState::Submitted], JobState::Running).await.unwrap();
    let bustle = Bustle { store, job, is_done: Cell::new(false) };
    let keys = [KeyId([1; 32]), KeyId([2; 32])];
    let sessions = [bustle.session(keys[0], 0).await, bustle.session(keys[1], 0).await];
    for _ in 0..10 {
        // Both parts of a unit come back at the same moment.
        let first = bustle.lease(keys[0], sessions[0], 1, LATER_MS).await.unwrap();
        let second = bustle.lease(keys[1], sessions[1], 1, LATER_MS).await.unwrap();
        assert_eq!(first[0].0.unit, second[0].0.unit);
        let result = output(first[0].0.unit);
        join(bustle.submit(&first[0], result), bustle.submit(&second[0], result)).await;
        assert_eq!(store.check_invariants().await.unwrap(), Vec::<String>::new());
    }
    let key = KeyId([3; 32]);
    let session = bustle.session(key, 0).await;
    for leased in bustle.lease(key, session, 10, LATER_MS).await.unwrap() {
        // Two files, each as large as all that the lease allows.
        let (lease, bytes) = (leased.0.lease, leased.0.upload_bytes_max);
        let upload = |byte| store.add_upload(lease, key, BlobHash([byte; 32]), bytes, LATER_MS);
        let (one, other) = join(upload(100), upload(101)).await;
        assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    }
    assert_eq!(store.check_invariants().await.unwrap(), Vec::<String>::new());
    // Many pages of one key, which together want more than it may have.
    let key = KeyId([4; 32]);
    let session = bustle.session(key, 0).await;
    join_all((0..8).map(|_| bustle.lease(key, session, 16, LATER_MS))).await;
    let live = format!("SELECT COUNT(*) FROM leases WHERE state = 'live' AND session_id = {session}");
    assert_eq!(database.numbers(&live).await, [i64::from(limits::LIVE_LEASES_PER_KEY_MAX)]);
}
