//! Part two of the simulation, *accuracy*: a whole coordinator trains a real model with many volunteers, some of which cheat. Leases,
//! standing, comparisons, referee, quarantine, merges and roll-backs are the product's own; only time and the numbers that are
//! drawn are made, so that the same arguments print the same lines.
//!
//! `accuracy SEED VOLUNTEERS ROUNDS FOLDER [KIND]` reads the manifest and the data of a bundled job of pictures, trains it without
//! cheaters and then with each kind of them, and prints a line of JSON for each run.
#![allow(clippy::unwrap_used)]

mod cheats;
#[path = "../../tests/calls/client.rs"]
#[allow(dead_code, reason = "the tests of calls need all of it")]
mod client;
#[path = "../../tests/calls/cluster.rs"]
#[allow(dead_code, reason = "the tests of calls need all of it")]
mod cluster;
#[path = "../../tests/calls/database.rs"]
#[allow(dead_code, reason = "the tests of calls need all of it")]
mod database;
#[path = "../../tests/calls/world.rs"]
#[allow(dead_code, reason = "the tests of calls need all of it")]
mod world;

use std::cell::RefCell;
use std::path::Path;
use std::sync::Mutex;

use cheats::{Kind, Unit};
use client::{Leased, Volunteer};
use ed25519_dalek::SigningKey;
use manyhands_coordinator::cut::{CutTrain, cut_train};
use manyhands_coordinator::keys::KeyError;
use manyhands_coordinator::{Config, merge, referee};
use manyhands_protocol::manifest::{Inputs, JobManifest, JobWork, Submission, parse_json};
use manyhands_protocol::view::{JobState, JobView, KeyView};
use manyhands_protocol::wire::LeaseResponse;
use manyhands_protocol::work::TrainWork;
use manyhands_protocol::{JobId, limits};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use reqwest::Client;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use world::World;

/// Who tells the coordinator where a volunteer calls from.
const FORWARDED: &str = "x-forwarded-for";
/// Units of a round, and what of the data each of them takes: a round sees all of 10,000 pictures once.
const UNITS_PER_ROUND: u32 = 20;
const ROWS_PER_SHARD: u32 = 496;
const BATCH: u32 = 16;

/// What all runs share.
#[derive(Clone, Copy)]
struct Setting<'a> {
    seed: u64,
    volunteers: usize,
    manifest: &'a JobManifest,
    cut: &'a CutTrain,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [seed, volunteers, rounds, folder, only @ ..] = args.as_slice() else {
        panic!("usage: accuracy SEED VOLUNTEERS ROUNDS FOLDER [KIND]");
    };
    if let Some(unknown) = only.iter().find(|name| Kind::CHEATS.iter().all(|kind| kind.name() != name.as_str())) {
        panic!("no kind {unknown}; there are {}", Kind::CHEATS.map(Kind::name).join(", "));
    }
    let (manifest, cut) = job(Path::new(folder), rounds.parse().unwrap());
    let setting =
        Setting { seed: seed.parse().unwrap(), volunteers: volunteers.parse().unwrap(), manifest: &manifest, cut: &cut };
    let honest = train(setting, Kind::Honest);
    println!("{}", report(setting, Kind::Honest, &honest, &honest));
    let kinds: Vec<Kind> =
        Kind::CHEATS.into_iter().filter(|kind| only.is_empty() || only.iter().any(|name| name == kind.name())).collect();
    let waiting = Mutex::new(kinds.into_iter());
    let next = || waiting.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(kind) = next() {
                    println!("{}", report(setting, kind, &train(setting, kind), &honest));
                }
            });
        }
    });
}

/// The bundled job, in smaller and more units.
fn job(folder: &Path, rounds: u32) -> (JobManifest, CutTrain) {
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut manifest: JobManifest = parse_json(&read("manifest.json")).unwrap();
    let JobWork::Train(recipe) = &mut manifest.work else { panic!("only training has an accuracy") };
    (recipe.rounds_max, recipe.units_per_round) = (rounds, UNITS_PER_ROUND);
    (recipe.rows_per_shard, recipe.batch, recipe.inner_steps) = (ROWS_PER_SHARD, BATCH, ROWS_PER_SHARD / BATCH);
    recipe.target_accuracy = Some(1.0);
    let cut = cut_train(recipe, &read("train.safetensors"), &read("test.safetensors")).unwrap();
    manifest.validate().unwrap();
    (manifest, cut)
}

/// How a run ended.
struct Trained {
    view: JobView,
    caught: usize,
    honest_caught: usize,
    lies: u64,
}

fn report(setting: Setting, kind: Kind, trained: &Trained, honest: &Trained) -> Value {
    let last = |trained: &Trained| trained.view.train.as_ref().unwrap().history.last().cloned().unwrap();
    let (now, without) = (last(trained), last(honest));
    let Trained { view, caught, honest_caught, lies } = trained;
    json!({
        "part": "accuracy", "kind": kind.name(), "cheaters": kind.share(), "volunteers": setting.volunteers, "seed": setting.seed,
        "rounds": now.round, "accuracy": now.accuracy, "loss": now.loss, "points_lost": 100.0 * (without.accuracy - now.accuracy),
        "results_accepted": view.results_accepted, "results_rejected": view.results_rejected, "lies": lies,
        "units_refereed": view.units_refereed, "merges_undone": view.train.as_ref().unwrap().merges_undone,
        "tax": view.tax.map(|tax| tax.total), "cheaters_caught": caught, "honest_caught": honest_caught,
    })
}

/// A volunteer of its own network, honest or not.
struct Player {
    volunteer: Volunteer,
    cheats: bool,
    headers: HeaderMap,
    caught: bool,
    gone: bool,
}

thread_local! {
    /// What the coordinator of this thread draws from.
    static DRAWS: RefCell<ChaCha20Rng> = RefCell::new(ChaCha20Rng::seed_from_u64(0));
}

/// Uniform on 0 to 1.
fn unit_interval(numbers: &mut impl RngCore) -> f64 {
    (numbers.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

fn seeded_draw() -> Result<f64, KeyError> {
    Ok(DRAWS.with_borrow_mut(unit_interval))
}

fn settings(config: &mut Config) {
    config.draw = seeded_draw;
    config.forwarded_header = Some(HeaderName::from_static(FORWARDED));
}

fn train(setting: Setting, kind: Kind) -> Trained {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    DRAWS.set(ChaCha20Rng::seed_from_u64(setting.seed));
    runtime.block_on(async {
        let world = World::start_with(settings).await;
        let job = submit(&world, setting).await;
        let mut run = Run {
            kind,
            numbers: ChaCha20Rng::seed_from_u64(setting.seed + 1),
            players: Vec::new(),
            units: Vec::new(),
            lies: 0,
            world,
            job,
        };
        run.gather(setting.volunteers).await;
        run.work().await;
        run.end().await
    })
}

async fn submit(world: &World, setting: Setting<'_>) -> JobId {
    let mut shards = Vec::new();
    for shard in &setting.cut.shards {
        shards.push(world.put_input(shard.clone()).await);
    }
    let test = world.put_input(setting.cut.test.clone()).await;
    world.create(&Submission { manifest: setting.manifest.clone(), inputs: Inputs::Train { shards, test } }).await
}

struct Run {
    kind: Kind,
    numbers: ChaCha20Rng,
    players: Vec<Player>,
    /// Units of the newest two rounds that somebody computed.
    units: Vec<Unit>,
    lies: u64,
    world: World,
    job: JobId,
}

impl Run {
    async fn gather(&mut self, count: usize) {
        let cheaters = (self.kind.share() * count as f64).round() as usize;
        for index in 0..count {
            let address = HeaderValue::from_str(&format!("198.{}.{}.7", 18 + index / 256, index % 256)).unwrap();
            let headers = HeaderMap::from_iter([(HeaderName::from_static(FORWARDED), address)]);
            let volunteer = self.join(&headers).await;
            self.players.push(Player { volunteer, cheats: index < cheaters, headers, caught: false, gone: false });
        }
    }

    /// Comes with a fresh key.
    async fn join(&mut self, headers: &HeaderMap) -> Volunteer {
        let mut volunteer = Volunteer::new(&self.world.url(), 0).await;
        let mut key = [0; 32];
        self.numbers.fill_bytes(&mut key);
        volunteer.key = SigningKey::from_bytes(&key);
        volunteer.http = Client::builder().default_headers(headers.clone()).build().unwrap();
        let consent = volunteer.consent().await;
        volunteer.open(&consent).await;
        volunteer
    }

    /// Everybody in turn, in an order that is drawn anew each time, until the job is done.
    async fn work(&mut self) {
        while self.world.view(self.job).await.state == JobState::Running {
            let mut worked = false;
            for turn in (1..self.players.len()).rev() {
                self.players.swap(turn, self.numbers.next_u64() as usize % (turn + 1));
            }
            for player in 0..self.players.len() {
                if let Some(lease) = self.lease(player).await {
                    worked = true;
                    let output = self.output(player, &lease).await;
                    self.players[player].volunteer.submit(&lease, output).await;
                    self.world.app().idle().await;
                }
            }
            if !worked {
                self.world.clock.advance(limits::REPLICA_WAIT_MS);
                self.world.app().idle().await;
            }
        }
    }

    async fn lease(&mut self, player: usize) -> Option<Leased> {
        if self.players[player].gone {
            return None;
        }
        let answer = self.players[player].volunteer.try_lease(1, Some(self.job)).await;
        if answer.status == 403 {
            self.players[player].caught = true;
            if self.kind == Kind::Sybil && self.players[player].cheats {
                let headers = self.players[player].headers.clone();
                self.players[player].volunteer = self.join(&headers).await;
            } else {
                self.players[player].gone = true;
            }
            return None;
        }
        if answer.status == 404 || answer.status == 409 {
            // The job ended meanwhile.
            return None;
        }
        let response: LeaseResponse = answer.cbor();
        let volunteer = &self.players[player].volunteer;
        response.manifests.into_iter().next().map(|signed| volunteer.open_manifest(signed.0))
    }

    /// What the volunteer says the unit's update is.
    async fn output(&mut self, player: usize, lease: &Leased) -> Vec<u8> {
        let work = world::train_work(lease).clone();
        let unit = self.unit(player, &work).await;
        let lies = self.players[player].cheats && self.lies_now(player).await;
        if !lies {
            return merge::write_tensors(&work.model, &self.units[unit].honest);
        }
        let before = self.units.iter().position(|other| other.is_of_the_round_before(&work));
        let update = self.kind.lie(&self.units[unit], before.map(|index| &self.units[index]), &mut self.numbers);
        self.lies += u64::from(update != self.units[unit].honest);
        merge::write_tensors(&work.model, &update)
    }

    async fn lies_now(&mut self, player: usize) -> bool {
        match self.kind {
            Kind::Backdoor => self.numbers.next_u32().is_multiple_of(cheats::BACKDOOR_ONE_IN),
            Kind::Sleeper => {
                let volunteer = &self.players[player].volunteer;
                let view: KeyView = volunteer.get(&format!("/v1/keys/{}", volunteer.id())).await.json();
                view.standings.iter().map(|standing| standing.run).sum::<u64>() >= cheats::SLEEPS_RUN
            }
            _ => true,
        }
    }

    /// The place of a unit's inputs and of its honest update, which is computed once: on one device it is the same for all.
    async fn unit(&mut self, player: usize, work: &TrainWork) -> usize {
        if let Some(found) = self.units.iter().position(|unit| unit.work == *work) {
            return found;
        }
        self.units.retain(|unit| unit.work.round + 1 >= work.round);
        let volunteer = &self.players[player].volunteer;
        let (checkpoint, shard) = (volunteer.fetch(work.checkpoint).await, volunteer.fetch(work.shard).await);
        let honest = referee::compute_update(work, &checkpoint, &shard).unwrap();
        self.units.push(Unit { work: work.clone(), checkpoint, shard, honest });
        self.units.len() - 1
    }

    async fn end(self) -> Trained {
        let view = self.world.view(self.job).await;
        let caught = |cheats| self.players.iter().filter(|player| player.cheats == cheats && player.caught).count();
        let trained = Trained { view, caught: caught(true), honest_caught: caught(false), lies: self.lies };
        self.world.finish().await;
        trained
    }
}
