//! Witnesses of the log: what one signs and what it refuses, and that the log is cosigned without waiting for any.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use ed25519_dalek::{Signer, SigningKey};
use manyhands_coordinator::clock::ManualClock;
use manyhands_coordinator::ledger::has_cosigned;
use manyhands_coordinator::witness::{Config, Running};
use manyhands_coordinator::{App, StartError, WitnessAddress};
use manyhands_protocol::KeyId;
use manyhands_protocol::log::note::{self, Checkpoint, Note, NoteSignature};
use manyhands_protocol::log::tree::{Hash, consistency_ranges, empty_root, leaf_hash, root_of};
use manyhands_protocol::log::witness::{AddCheckpoint, WitnessKey};
use manyhands_protocol::problem::Code;
use tokio::net::TcpListener;

use crate::client::Answer;
use crate::world::{NOW_MS, PATIENCE, World};

fn config(folder: &Path, log: KeyId) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        data_dir: folder.to_owned(),
        name: "witness.example/1".to_owned(),
        logs: HashSet::from([log]),
        clock: Arc::new(ManualClock::new(NOW_MS)),
    }
}

async fn add(witness: &Running, body: String) -> Answer {
    Answer::of(reqwest::Client::new().post(format!("http://{}/add-checkpoint", witness.addr)).body(body)).await
}

/// A log of this many numbers, the last of which a fork has otherwise.
struct Numbers {
    signing: SigningKey,
    forked: bool,
}

impl Numbers {
    fn key(&self) -> KeyId {
        KeyId(self.signing.verifying_key().to_bytes())
    }

    fn leaves(&self, size: u64) -> Vec<Hash> {
        (0..size).map(|i| leaf_hash(if self.forked && i == 2 { b"other" } else { b"entry" })).collect()
    }

    fn note(&self, size: u64) -> String {
        let (origin, root) = (note::origin(self.key()), root_of(&self.leaves(size)).unwrap_or_else(empty_root));
        let text = Checkpoint { origin: origin.clone(), size, root }.text();
        let signature = self.signing.sign(text.as_bytes()).to_bytes().to_vec();
        Note { signatures: vec![NoteSignature::new(&origin, note::ED25519, self.key(), signature)], text }.encode()
    }

    fn ask(&self, old: u64, size: u64) -> String {
        let leaves = self.leaves(size);
        let hash = |range: std::ops::Range<u64>| root_of(&leaves[range.start as usize..range.end as usize]).unwrap();
        let path = consistency_ranges(old, size).unwrap_or_default().into_iter().map(hash).collect();
        AddCheckpoint { old, path, note: self.note(size) }.encode()
    }
}

fn log(forked: bool) -> Numbers {
    Numbers { signing: SigningKey::from_bytes(&[5; 32]), forked }
}

/// The answers of C2SP tlog-witness, and that no restart makes the witness forget what it signed.
#[tokio::test]
async fn a_witness_signs_growth_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (honest, forked) = (log(false), log(true));
    let mut witness = Running::start(config(folder.path(), honest.key())).await.unwrap();
    let conflict = |answer: &Answer, size: u64| {
        answer.status == 409
            && answer.header("content-type") == "text/x.tlog.size"
            && answer.body == format!("{size}\n").into_bytes()
    };
    assert!(matches!(Running::start(config(folder.path(), honest.key())).await, Err(StartError::InUse { .. })));
    for (old, size) in [(0, 0), (0, 3), (3, 3), (3, 5)] {
        let answer = add(&witness, honest.ask(old, size)).await;
        assert_eq!(answer.status, 200, "{answer}");
        let signed = Note::parse(&format!("{}{}", honest.note(size), String::from_utf8(answer.body).unwrap())).unwrap();
        assert!(has_cosigned(&witness.key, &signed));
        let found = witness.key.cosignatures(&signed);
        assert_eq!(found.iter().map(|cosignature| cosignature.time_s).collect::<Vec<_>>(), [NOW_MS / 1000]);
        let key = witness.key.clone();
        witness.shutdown().await;
        witness = Running::start(config(folder.path(), honest.key())).await.unwrap();
        assert_eq!(witness.key, key);
    }
    assert!(conflict(&add(&witness, honest.ask(0, 7)).await, 5), "of an older one");
    assert!(conflict(&add(&witness, honest.ask(3, 4)).await, 5), "an older log");
    assert!(conflict(&add(&witness, forked.ask(5, 5)).await, 5), "another log of the same size");
    assert_eq!(add(&witness, forked.ask(5, 8)).await.status, 422, "another log");
    assert_eq!(add(&witness, honest.ask(5, 4)).await.status, 400);
    let others = Numbers { signing: SigningKey::from_bytes(&[6; 32]), forked: false };
    assert_eq!(add(&witness, others.ask(0, 3)).await.status, 404);
    let by_others =
        honest.ask(5, 8).replace(&honest.note(8), &others.note(8).replace(&others.key().to_string(), &honest.key().to_string()));
    assert_eq!(add(&witness, by_others).await.status, 403);
    for nothing in [String::new(), "old 5".to_owned(), honest.ask(5, 8).replace("old", "new"), "0".repeat(100_000)] {
        assert!([400, 413].contains(&add(&witness, nothing).await.status.as_u16()));
    }
    assert_eq!(add(&witness, honest.ask(5, 8)).await.status, 200, "none of these changed anything");
    witness.shutdown().await;

    // Whoever took a damaged memory for none would sign another history.
    std::fs::write(folder.path().join(format!("{}.checkpoint", honest.key())), "half").unwrap();
    let witness = Running::start(config(folder.path(), honest.key())).await.unwrap();
    assert_eq!(add(&witness, forked.ask(0, 9)).await.status, 500);
}

/// One witness signs, one is down, one takes calls and never answers, and one signs with another key than it should: results and
/// the log go on as without any, and readers get what the first signed.
#[tokio::test]
async fn the_log_is_cosigned_and_waits_for_no_witness() {
    let (folder, elsewhere, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = manyhands_coordinator::keys::Keys::load_or_create(folder.path()).unwrap().id();
    let witness = Running::start(config(elsewhere.path(), log)).await.unwrap();
    let impostor = Running::start(config(other.path(), log)).await.unwrap();
    let (silent, closed) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (silent_at, closed_at) = (silent.local_addr().unwrap(), closed.local_addr().unwrap());
    drop(closed);
    let key = |seed| WitnessKey { name: format!("witness.example/{seed}"), key: KeyId([seed; 32]) };
    let at =
        |key: &WitnessKey, address: std::net::SocketAddr| format!("{key}=http://{address}/").parse::<WitnessAddress>().unwrap();

    let mut config = manyhands_coordinator::Config::new(folder.path());
    config.listen.set_port(0);
    config.clock = Arc::new(ManualClock::new(NOW_MS));
    config.witnesses =
        vec![at(&key(7), silent_at), at(&key(8), closed_at), at(&key(9), impostor.addr), at(&witness.key, witness.addr)];
    let app = App::start(config).await.unwrap();
    let world = World::watching(&app);
    world.product_job().await;
    let volunteer = world.join(1).await;
    let mut cosigned = 0;
    for _ in 0..3 {
        let lease = volunteer.lease_one().await;
        let output = volunteer.product_bytes(&lease).await;
        volunteer.submit(&lease, output).await;
        app.append_log().await.unwrap();
        let newest = volunteer.get("/v1/log/checkpoint").await;
        let newest = Checkpoint::parse(&Note::parse(std::str::from_utf8(&newest.body).unwrap()).unwrap().text).unwrap();
        let signed = async {
            while cosigned < newest.size {
                let answer = volunteer.get("/v1/log/checkpoint?cosignatures=1").await;
                if !answer.status.is_success() {
                    answer.refused(Code::NotLogged);
                    continue;
                }
                let note = Note::parse(std::str::from_utf8(&answer.body).unwrap()).unwrap();
                assert!(has_cosigned(&witness.key, &note) && note.signatures.len() == 2, "the log and one witness");
                cosigned = Checkpoint::parse(&note.text).unwrap().size;
            }
        };
        tokio::time::timeout(PATIENCE, signed).await.expect("the witness signs");
        let answer = volunteer.get("/v1/log/checkpoint").await;
        let note = Note::parse(std::str::from_utf8(&answer.body).unwrap()).unwrap();
        assert!(has_cosigned(&witness.key, &note), "the newest has it, too");
        volunteer.get("/v1/log/checkpoint?cosignatures=2").await.refused(Code::NotLogged);
    }
    app.shutdown().await;
}
