//! The public log under a coordinator that keeps it, and under ones that do not.

use std::ops::Range;

use manyhands_protocol::log::entry::{Credit, Entry, LogResult, VERSION};
use manyhands_protocol::log::note::{self, Checkpoint, Note, NoteSignature};
use manyhands_protocol::log::receipt::{self, Proof, ReceiptResponse};
use manyhands_protocol::log::tree::{consistency_ranges, empty_root, inclusion_ranges, leaf_hash, root_of};
use manyhands_protocol::problem::Code;
use manyhands_protocol::wire::{ResultRequest, SignedBytes};
use manyhands_protocol::work::{Dtype, MatmulWork, Work};
use manyhands_protocol::{JobId, LeaseId, UnitId, cbor, cose};

use super::super::error::LogFault;
use super::script::{Fault, ScriptHost, hash, settings};
use super::*;

/// The script's log: what it holds, and who signs it.
pub struct History {
    pub entries: Vec<(LeaseId, Vec<u8>)>,
    signer: Identity,
}

impl History {
    pub fn new(seed: u8) -> History {
        History { entries: Vec::new(), signer: Identity::from_seed(&[seed; 32]) }
    }

    /// Appends what says that a result was accepted.
    pub fn accept(&mut self, unit: UnitId, lease: LeaseId, sent: &[u8]) {
        let ResultRequest { statement, .. } = cbor::decode_strict(sent).unwrap();
        self.push(unit, lease, statement.0);
    }

    fn push(&mut self, unit: UnitId, lease: LeaseId, statement: Vec<u8>) {
        let work = Work::Matmul(MatmulWork { a: hash(b"a"), b: hash(b"b"), m: 2, k: 3, n: 1, dtype: Dtype::F32 });
        let (settled_by, credit) = ("algebra".to_owned(), Credit { flop: 12, bytes: 8 });
        let entry = LogResult { version: VERSION, job: JobId(1), unit, result: SignedBytes(statement), work, settled_by, credit }
            .statement();
        let unsigned = cose::prepare(entry.kind, self.signer.key(), entry.payload);
        let signature = self.signer.sign(&unsigned.to_be_signed());
        self.entries.push((lease, unsigned.finish(signature)));
    }

    fn hash(&self, range: Range<u64>) -> [u8; 32] {
        let leaves: Vec<_> =
            self.entries[range.start as usize..range.end as usize].iter().map(|(_, entry)| leaf_hash(entry)).collect();
        root_of(&leaves).unwrap_or_else(empty_root)
    }

    fn receipt(&self, size: u64, proof: Proof) -> Vec<u8> {
        let key = self.signer.key();
        receipt::encode(key, &proof, self.signer.sign(&receipt::to_be_signed(key, &self.hash(0..size))))
    }

    /// Answers a `GET` below `/v1/log/`; none is `not_logged`.
    pub fn answer(&self, path: &str) -> Option<Vec<u8>> {
        let size = self.entries.len() as u64;
        if path == "checkpoint" {
            let (key, origin) = (self.signer.key(), note::origin(self.signer.key()));
            let text = Checkpoint { origin: origin.clone(), size, root: self.hash(0..size) }.text();
            let signature = self.signer.sign(text.as_bytes()).to_vec();
            let signatures = vec![NoteSignature::new(&origin, note::ED25519, key, signature)];
            return Some(Note { text, signatures }.encode().into_bytes());
        }
        let (path, size) = path.split_once("?size=")?;
        let size: u64 = size.parse().unwrap();
        let path_of = |ranges: Vec<Range<u64>>| ranges.into_iter().map(|range| self.hash(range)).collect();
        if let Some(first) = path.strip_prefix("consistency/") {
            let first = first.parse().unwrap();
            let path = path_of(consistency_ranges(first, size)?);
            return Some(self.receipt(size, Proof::Consistency { first, size, path }));
        }
        let lease = path.strip_prefix("receipts/lease/")?.parse().unwrap();
        let index = self.entries.iter().position(|(of, _)| *of == lease)? as u64;
        let path = path_of(inclusion_ranges(index, size)?);
        let receipt = self.receipt(size, Proof::Inclusion { size, index, path });
        Some(cbor::encode(&ReceiptResponse { index, entry: self.entries[index as usize].1.clone(), receipt }))
    }
}

/// A visit of some units and more than enough time, where `bend` changes the log at the last receipt; gives the receipts'
/// units and how it ended.
fn visit(
    faults: &[(&'static str, Fault)],
    bend: impl Fn(&mut History) + 'static,
) -> (ScriptHost, Vec<u64>, Result<(), VolunteerError>) {
    visit_of(ScriptHost::new(3, faults), bend)
}

fn visit_of(host: ScriptHost, bend: impl Fn(&mut History) + 'static) -> (ScriptHost, Vec<u64>, Result<(), VolunteerError>) {
    host.0.history.replace(Some(History::new(5)));
    let (world, mut count) = (host.0.clone(), 0);
    let ended = host.visit_for(settings(), 300_000, move |event| {
        count += u32::from(matches!(event, Event::Receipt(_)));
        if matches!(event, Event::Receipt(_)) && count == 3 {
            bend(world.history.borrow_mut().as_mut().unwrap());
        }
    });
    let events = host.0.events.borrow();
    let receipts = events.iter().filter_map(|event| if let Event::Receipt(r) = event { Some(r.unit.0) } else { None }).collect();
    drop(events);
    (host, receipts, ended)
}

fn fault(ended: Result<(), VolunteerError>) -> LogFault {
    match ended {
        Err(VolunteerError::Log(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_accepted_result_gets_its_receipt() {
    let (host, mut receipts, ended) = visit(&[], |_| ());
    ended.unwrap();
    receipts.sort();
    assert_eq!(receipts, [1, 2, 3]);
    assert!(host.errors().is_empty());
    let kept = host.0.checkpoint.borrow().clone().unwrap();
    assert_eq!(Checkpoint::parse(&Note::parse(&kept).unwrap().text).unwrap().size, 3);
}

#[test]
fn a_log_that_is_not_reached_is_asked_again() {
    let faults = [
        ("GET /v1/log/checkpoint", Fault::Network),
        ("GET /v1/log/checkpoint", Fault::Html(200)),
        ("GET /v1/log/receipts", Fault::Problem(Code::NotLogged, None)),
        ("GET /v1/log/receipts", Fault::Network),
        ("GET /v1/log/consistency", Fault::Network),
    ];
    let (host, mut receipts, ended) = visit(&faults, |history| history.push(UnitId(9), LeaseId(9), Vec::new()));
    ended.unwrap();
    receipts.sort();
    assert_eq!((receipts, host.0.faults.borrow().len()), (vec![1, 2, 3], 0));
}

/// A coordinator that works but gives nonsense for its log: the visitor is told once, and it is asked less and less often.
#[test]
fn a_log_that_is_not_answered_for_is_told_of() {
    let silent = |looks: usize, ms| {
        let faults: Vec<_> = (0..looks).map(|look| ("GET /v1/log/checkpoint", Fault::Html([200, 502][look % 2]))).collect();
        let host = ScriptHost::new(1, &faults);
        host.0.history.replace(Some(History::new(5)));
        host.visit_for(settings(), ms, |_| ()).unwrap();
        let asked = host.0.log.borrow().iter().filter(|call| call.starts_with("GET /v1/log/checkpoint")).count();
        (host.errors(), asked)
    };
    assert!(silent(4, 300_000).0.is_empty());
    assert_eq!(silent(5, 300_000).0, ["log_silent"]);
    let (told, asked) = silent(1_000, 3_600_000);
    assert_eq!(told, ["log_silent"]);
    assert!((60..70).contains(&asked), "{asked} times in an hour");
}

/// What is not there yet is asked for once a look.
#[test]
fn a_receipt_that_does_not_come_is_asked_for_once_a_look() {
    let faults = [(); 5].map(|()| ("GET /v1/log/receipts", Fault::Problem(Code::NotLogged, None)));
    let host = ScriptHost::new(1, &faults);
    host.0.history.replace(Some(History::new(5)));
    host.visit_for(settings(), 90_000, |_| ()).unwrap();
    let calls = host.0.log.borrow();
    let asked: Vec<_> = calls.iter().filter(|call| call.starts_with("GET /v1/log/")).collect();
    let twice = asked.windows(2).any(|two| two.iter().all(|call| call.contains("/receipts/")));
    assert!(!twice && asked.iter().filter(|call| call.contains("/receipts/")).count() == 6, "{asked:?}");
}

#[test]
fn a_rewritten_log_ends_the_visit() {
    // The entry is another, and the log has gone on since.
    let (host, _, ended) = visit(&[], |history| {
        history.entries[0].1[200] ^= 1;
        history.push(UnitId(9), LeaseId(9), Vec::new());
    });
    assert!(matches!(fault(ended), LogFault::Rewritten { .. }));
    assert_eq!(host.errors(), ["log_rewritten"]);
    // Of the same length.
    let (_, _, ended) = visit(&[], |history| history.entries.iter_mut().for_each(|(_, entry)| entry[200] ^= 1));
    assert!(matches!(fault(ended), LogFault::Rewritten { kept, now } if kept == now));
    // Shorter.
    let (_, _, ended) = visit(&[], |history| history.entries.clear());
    assert!(matches!(fault(ended), LogFault::Rewritten { now: 0, .. }));
}

/// Where the browser keeps nothing, the visit itself remembers.
#[test]
fn a_rewritten_log_ends_a_visit_that_keeps_nothing() {
    let host = ScriptHost::new(3, &[]);
    host.0.forgets.set(true);
    let (host, receipts, ended) = visit_of(host, |history| history.entries.clear());
    assert_eq!((receipts.len(), host.0.checkpoint.borrow().clone()), (3, None));
    assert!(matches!(fault(ended), LogFault::Rewritten { kept: 3, now: 0 }));
}

/// The next visit of the same browser compares with what the last one saw.
#[test]
fn what_was_seen_last_is_kept_from_visit_to_visit() {
    let (host, _, ended) = visit(&[], |_| ());
    ended.unwrap();
    let again = ScriptHost::new(1, &[]);
    again.0.checkpoint.replace(host.0.checkpoint.borrow().clone());
    again.0.history.replace(Some(History::new(5)));
    assert!(matches!(fault(again.visit_for(settings(), 90_000, |_| ())), LogFault::Rewritten { kept: 3, .. }));
}

/// Two tabs that are shown two logs: the one whose checkpoint is not kept remembers it.
#[test]
fn what_another_tab_saw_is_not_taken_for_what_this_one_did() {
    let host = ScriptHost::new(3, &[]);
    let world = host.0.clone();
    let (_, _, ended) = visit_of(host, move |history| {
        history.entries[0].1[200] ^= 1;
        history.push(UnitId(9), LeaseId(9), Vec::new());
        let other = String::from_utf8(history.answer("checkpoint").unwrap()).unwrap();
        world.checkpoint.replace(Some(other));
    });
    assert!(matches!(fault(ended), LogFault::Rewritten { kept: 3, now: 4 }));
}

#[test]
fn proofs_that_are_refused_or_false_end_the_visit() {
    let refusals = [(); 4].map(|()| ("GET /v1/log/consistency", Fault::Problem(Code::NotLogged, None)));
    let grow = |history: &mut History| history.push(UnitId(9), LeaseId(9), Vec::new());
    assert_eq!(fault(visit(&refusals, grow).2), LogFault::Unproven("it gives no proof"));
    assert!(visit(&refusals[1..], grow).2.is_ok(), "a few refusals pass");
    let (_, _, ended) = visit(&[], |history| history.signer = Identity::from_seed(&[6; 32]));
    ended.expect("the log of another key is none of this coordinator's");
    // Another's statement in the place of ours, from the start.
    let host = ScriptHost::new(1, &[]);
    host.0.history.replace(Some(History::new(5)));
    host.0.logs_others.set(true);
    assert_eq!(fault(host.visit_for(settings(), 90_000, |_| ())), LogFault::Unproven("a receipt of it is false"));
}
