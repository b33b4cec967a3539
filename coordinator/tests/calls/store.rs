//! The store's retry contract: a write repeated with the same arguments changes nothing more. Written against the trait,
//! and held against both stores.

use manyhands_coordinator::store::*;
use manyhands_protocol::manifest::{Inputs, Submission};
use manyhands_protocol::problem::Code;
use manyhands_protocol::view::JobState;
use manyhands_protocol::wire::Verdict;
use manyhands_protocol::work::{Dtype, MatmulWork, UnitManifest, Work};
use manyhands_protocol::{BlobHash, JobId, KeyId, cbor, cose};

use crate::beside::{pairs_at_once_leave_nothing_wrong, writes_go_on_beside_each_other};
use crate::database::Database;

const KEY: KeyId = KeyId([1; 32]);
const OUTPUT: BlobHash = BlobHash([3; 32]);

pub fn submission() -> Submission {
    let manifest = serde_json::json!({
        "version": 1, "name": "s", "title": "s", "description": "s", "owner": "s", "category": "demo",
        "work": { "kind": "matmul", "block": 1 }
    });
    let panels = vec![BlobHash([2; 32])];
    let inputs = Inputs::Matmul { m: 1, k: 1, n: 1, a_panels: panels.clone(), b_panels: panels };
    Submission { manifest: serde_json::from_value(manifest).unwrap(), inputs }
}

pub fn work() -> Work {
    Work::Matmul(MatmulWork { a: BlobHash([2; 32]), b: BlobHash([2; 32]), m: 1, k: 1, n: 1, dtype: Dtype::F32 })
}

fn sign(manifest: &UnitManifest) -> Vec<u8> {
    cose::prepare(cose::Kind::UnitManifest, KEY, cbor::encode(manifest)).finish([0; 64])
}

fn ask(session: i64, now_ms: u64) -> LeaseAsk {
    let (backend, prefix) = ("other", None);
    LeaseAsk {
        key: KEY,
        session,
        job: None,
        units_max: 4,
        blob_bytes_max: 4,
        backend,
        prefix,
        commits: Some(Commits { share_max: 1.0, steps_wanted: false }),
        now_ms,
    }
}

/// A running job of one unit, leased to [`KEY`] with its output uploaded; gives the job and the lease.
async fn leased(store: &dyn Store) -> (JobId, UnitManifest, Vec<u8>) {
    leased_in(store, None).await
}

async fn leased_in(store: &dyn Store, round: Option<NewRound>) -> (JobId, UnitManifest, Vec<u8>) {
    for hash in [BlobHash([2; 32]), OUTPUT, BlobHash([4; 32])] {
        assert!(store.add_blob(hash, 4, 1).await.unwrap());
        assert!(!store.add_blob(hash, 4, 1).await.unwrap(), "known");
    }
    let unit = NewUnit { work: work(), min_quorum: 1, blob_bytes: 4, flop: 2, check_flop: 1 };
    let new = NewJob { submission: submission(), submitted_ms: 1, units: vec![unit], round };
    let job = store.create_job(new).await.unwrap();
    for _ in 0..2 {
        store.set_job_state(job, &[JobState::Submitted], JobState::Running).await.unwrap();
    }
    let session = NewSession {
        token_hash: [5; 32],
        key: KEY,
        nonce: vec![6],
        consent: vec![7],
        consent_salt: [9; 32],
        job: None,
        category: None,
        site: None,
        opened_ms: 1,
        expires_ms: 1000,
    };
    store.open_session(session.clone()).await.unwrap();
    assert!(matches!(store.open_session(session).await, Err(StoreError::Refused { .. })), "a nonce is good once");
    let session = store.session([5; 32]).await.unwrap().unwrap().id;
    let ask = ask(session, 2);
    let (signed, _) = store.lease(ask, &sign).await.unwrap();
    assert_eq!(signed.len(), 1);
    let manifest: UnitManifest = cbor::decode_strict(&cose::open(cose::Kind::UnitManifest, &signed[0]).unwrap().payload).unwrap();
    for _ in 0..2 {
        store.add_upload(manifest.lease, KEY, OUTPUT, 4, 3).await.unwrap();
    }
    (job, manifest, signed[0].clone())
}

fn result(manifest: &UnitManifest, signed: &[u8]) -> NewResult {
    NewResult {
        job: manifest.job,
        unit: manifest.unit,
        lease: manifest.lease,
        key: KEY,
        manifest: manyhands_coordinator::keys::blob_hash(signed),
        statement: vec![8],
        details: vec![9],
        output_name: "c".to_owned(),
        output: OUTPUT,
        output_bytes: 4,
        losses_count: 0,
        states_every: None,
        backend: "other",
        received_ms: 4,
    }
}

async fn writes_may_be_repeated(store: &dyn Store, _: &Database) {
    let (job, manifest, signed) = leased(store).await;
    let new = result(&manifest, &signed);
    let (row, is_new) = store.add_result(new.clone()).await.unwrap();
    assert!(is_new);
    assert_eq!(store.add_result(new.clone()).await.unwrap(), (row.clone(), false));
    assert_eq!(store.totals(KEY).await.unwrap().pending, 1);
    let settlement = Settlement {
        unit: manifest.unit,
        canonical: OUTPUT,
        by: SettledBy::Algebra,
        judgements: vec![Judgement::accept(row.id)],
        now_ms: 5,
    };
    store.settle(settlement.clone()).await.unwrap();
    store.settle(settlement.clone()).await.unwrap();
    // Another outcome for a settled unit, and another verdict for a judged result, come too late.
    let other = Settlement { canonical: BlobHash([4; 32]), by: SettledBy::Referee, ..settlement };
    store.settle(other).await.unwrap();
    store.judge(Judgement::reject(row.id, "too late"), 6).await.unwrap();
    assert_eq!(store.unit(manifest.unit).await.unwrap().unwrap().canonical, Some(OUTPUT));
    let (judged, _) = store.add_result(new).await.unwrap();
    assert_eq!((judged.verdict, judged.credit_flop, judged.reason.as_str()), (Verdict::Accepted, 2, ""));
    let totals = store.totals(KEY).await.unwrap();
    assert_eq!((totals.accepted, totals.rejected, totals.pending, totals.credit_flop), (1, 0, 0, 2));
    for _ in 0..2 {
        store.give_back(manifest.lease, KEY).await.unwrap();
        store.set_job_state(job, &[JobState::Running], JobState::Finished).await.unwrap();
    }
    let (_, view) = store.job_view(job, 7).await.unwrap().unwrap();
    assert_eq!((view.units_settled, view.units_refereed, view.results_accepted, view.contributors), (1, 0, 1, 1));
    assert_eq!(store.check_invariants().await.unwrap(), Vec::<String>::new());
}

async fn nothing_is_accepted_for_an_open_unit(store: &dyn Store, _: &Database) {
    let (_, manifest, signed) = leased(store).await;
    let (row, _) = store.add_result(result(&manifest, &signed)).await.unwrap();
    assert!(store.judge(Judgement::accept(row.id), 5).await.is_err());
    assert_eq!(store.result(row.id).await.unwrap().unwrap().verdict, Verdict::Pending);
    for _ in 0..2 {
        store.judge(Judgement::reject(row.id, "wrong"), 5).await.unwrap();
    }
    assert_eq!(store.totals(KEY).await.unwrap().rejected, 1);
    // Nor does a result that lost its part meanwhile settle its unit.
    let judgements = vec![Judgement::accept(row.id)];
    let late = Settlement { unit: manifest.unit, canonical: OUTPUT, by: SettledBy::Algebra, judgements, now_ms: 6 };
    store.settle(late).await.unwrap();
    assert_eq!(store.unit(manifest.unit).await.unwrap().unwrap().canonical, None);
    assert_eq!(store.check_invariants().await.unwrap(), Vec::<String>::new());
}

/// A statement from before there was a log names its device, and stays out of it.
async fn old_statements_stay_out_of_the_log(store: &dyn Store, database: &Database) {
    let (_, manifest, signed) = leased(store).await;
    let (row, _) = store.add_result(result(&manifest, &signed)).await.unwrap();
    database.execute("UPDATE results SET details = NULL").await;
    let before = store.log_queue(100).await.unwrap().len();
    let judgements = vec![Judgement::accept(row.id)];
    let settlement = Settlement { unit: manifest.unit, canonical: OUTPUT, by: SettledBy::Algebra, judgements, now_ms: 5 };
    store.settle(settlement).await.unwrap();
    assert_eq!(store.totals(KEY).await.unwrap().accepted, 1);
    assert_eq!(store.log_queue(100).await.unwrap().len(), before);
    assert_eq!(store.check_invariants().await.unwrap(), Vec::<String>::new());
}

async fn a_round_is_closed_with_what_was_merged(store: &dyn Store, _: &Database) {
    let start = BlobHash([2; 32]);
    let first = NewRound { checkpoint: start, velocity: start, loss: 2.0, loss_error: Some(0.5), accuracy: 0.1, at_ms: 1 };
    let (job, manifest, signed) = leased_in(store, Some(first)).await;
    let (row, _) = store.add_result(result(&manifest, &signed)).await.unwrap();
    let judgements = vec![Judgement::accept(row.id)];
    let settlement = Settlement { unit: manifest.unit, canonical: OUTPUT, by: SettledBy::Algebra, judgements, now_ms: 5 };
    store.settle(settlement).await.unwrap();
    let merged = store.round_units(job, 0).await.unwrap();
    assert_eq!(merged.iter().map(|unit| (unit.unit, unit.canonical)).collect::<Vec<_>>(), [(manifest.unit, OUTPUT)]);
    let next = NewRound { checkpoint: OUTPUT, velocity: OUTPUT, loss: 1.0, loss_error: Some(0.5), accuracy: 0.5, at_ms: 6 };
    let other = MergedUnit { canonical: BlobHash([4; 32]), ..merged[0] };
    let lighter = MergedUnit { weight_permille: 500, ..merged[0] };
    for stale in [vec![other], vec![lighter], Vec::new()] {
        let rule = "mean-nesterov".to_owned();
        let close = RoundClose { job, round: 0, merged: stale, next, rule, units: Vec::new() };
        assert!(matches!(store.close_round(close).await, Err(StoreError::Refused { code: Code::WrongJobState, .. })));
    }
    for _ in 0..2 {
        let rule = "mean-nesterov".to_owned();
        let close = RoundClose { job, round: 0, merged: merged.clone(), next, rule, units: Vec::new() };
        store.close_round(close).await.unwrap();
    }
    assert_eq!(store.round(job, 1).await.unwrap(), Some(next));
}

async fn a_rotation_may_be_repeated(store: &dyn Store, _: &Database) {
    const NEW: KeyId = KeyId([9; 32]);
    let (job, manifest, _) = leased(store).await;
    let session = store.session([5; 32]).await.unwrap().unwrap();
    let rotation = NewRotation { old: KEY, new: NEW, by_old: vec![1], by_new: vec![2], now_ms: 4 };
    assert_eq!(store.rotate(rotation.clone()).await.unwrap(), [job], "its lease goes back");
    assert_eq!(store.rotate(rotation.clone()).await.unwrap(), [], "nothing is left to change");
    assert_eq!(store.check_invariants().await.unwrap(), Vec::<String>::new());
    let refused = |error: StoreError| match error {
        StoreError::Refused { code, .. } => code,
        other => panic!("{other}"),
    };
    let other = NewRotation { new: KeyId([8; 32]), ..rotation };
    assert_eq!(refused(store.rotate(other).await.unwrap_err()), Code::KeyReplaced);
    assert!(store.key(KeyId([8; 32])).await.unwrap().is_none());
    // A lease call that was let in before the rotation.
    let ask = ask(session.id, 5);
    assert_eq!(refused(store.lease(ask, &sign).await.unwrap_err()), Code::NoSession);
    assert_eq!(refused(store.heartbeat(manifest.lease, KEY, 5).await.unwrap_err()), Code::LeaseEnded);
    let session = NewSession {
        token_hash: [15; 32],
        key: KEY,
        nonce: vec![16],
        consent: vec![7],
        consent_salt: [9; 32],
        job: None,
        category: None,
        site: None,
        opened_ms: 5,
        expires_ms: 1000,
    };
    assert_eq!(refused(store.open_session(session).await.unwrap_err()), Code::KeyReplaced);
    assert_eq!(store.check_invariants().await.unwrap(), Vec::<String>::new());
}

/// Keys cost nothing, and each may ask for an opening unit: a round has a thousand of them, however often it is asked.
async fn a_round_has_a_bounded_number_of_opening_units(store: &dyn Store, database: &Database) {
    let (job, ..) = leased(store).await;
    let unit = NewUnit { work: work(), min_quorum: 1, blob_bytes: 4, flop: 2, check_flop: 1 };
    for expected in [600, 1000, 1000] {
        store.add_openings(job, vec![unit.clone(); 600], 5000).await.unwrap();
        assert_eq!(database.numbers("SELECT COUNT(*) FROM units WHERE opening = 1").await, [expected]);
    }
}

/// Each test above on each store.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let folder = tempfile::tempdir().unwrap();
                let database = super::Database::sqlite(folder.path());
                super::$name(&*database.open().await, &database).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let database = super::Database::postgres().await;
                super::$name(&*database.open().await, &database).await;
            })*
        }
    };
}

on_both!(
    writes_may_be_repeated,
    nothing_is_accepted_for_an_open_unit,
    old_statements_stay_out_of_the_log,
    a_round_is_closed_with_what_was_merged,
    a_rotation_may_be_repeated,
    a_round_has_a_bounded_number_of_opening_units,
    writes_go_on_beside_each_other,
    pairs_at_once_leave_nothing_wrong,
);
