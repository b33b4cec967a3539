//! A session of a train job begins with a small product, whose verdict waits for nobody; and nothing else of the job
//! changes by it.

use manyhands_protocol::limits;
use manyhands_protocol::view::{JobState, KeyView};
use manyhands_protocol::wire::{ResultResponse, Verdict};
use manyhands_protocol::work::Work;

use crate::client::{Leased, Volunteer};
use crate::world::{World, matmul_work, train_work};

const STOCK: u32 = 2;

async fn world() -> World {
    World::start_with(|config| config.opening_units_count = STOCK).await
}

fn is_opening(lease: &Leased) -> bool {
    matches!(lease.manifest.work, Work::Matmul(_))
}

/// Joins with keys of its own until one is given an opening unit: the driver makes new ones in its own time.
async fn begin(world: &World, seeds: std::ops::Range<u8>) -> (Volunteer, Leased) {
    for seed in seeds {
        let volunteer = world.join(seed).await;
        let lease = volunteer.lease_one().await;
        if is_opening(&lease) {
            return (volunteer, lease);
        }
        volunteer.give_back(&lease).await;
    }
    panic!("no session began with an opening unit");
}

#[tokio::test]
async fn a_session_begins_with_a_product_that_is_accepted_at_once() {
    let world = world().await;
    let job = world.train_job().await;
    let volunteer = world.join(1).await;
    let first = volunteer.lease_one().await;
    let work = matmul_work(&first);
    assert_eq!((work.m, work.k, work.n), (32, 6, 5), "by the model's first matrix");
    let product = volunteer.product_bytes(&first).await;
    let answer = volunteer.submit(&first, product).await;
    assert_eq!((answer.verdict, answer.credit_flop), (Verdict::Accepted, 2 * 32 * 6 * 5));
    let totals = volunteer.get(&format!("/v1/keys/{}", volunteer.id())).await.json::<KeyView>().totals;
    assert_eq!((totals.accepted, totals.credit_flop), (1, 2 * 32 * 6 * 5));
    let second = volunteer.lease_one().await;
    assert_eq!(train_work(&second).round, 0, "one alone opens a session");
    let view = world.view(job).await;
    assert_eq!((view.units_total, view.units_settled, view.results_accepted, view.contributors), (2, 0, 1, 1));
    world.finish().await;
}

#[tokio::test]
async fn a_job_trains_on_as_if_there_were_none() {
    let world = world().await;
    let job = world.train_job().await;
    let (first, second) = (world.join(1).await, world.join(2).await);
    let (a, b) = (first.lease_one().await, second.lease_one().await);
    assert!(is_opening(&a) && is_opening(&b) && a.manifest.unit != b.manifest.unit);
    // One is let go, and one is never handed in: neither holds anything up.
    first.give_back(&a).await;
    for round in 1..=3 {
        for _ in 0..2 {
            let (a, b) = (first.lease_one().await, second.lease_one().await);
            assert_eq!(a.manifest.unit, b.manifest.unit);
            let update = first.update_bytes(&a).await;
            first.submit(&a, update.clone()).await;
            second.submit(&b, update).await;
        }
        world.follow(job, |view| view.train.as_ref().unwrap().rounds_merged == round).await;
    }
    let view = world.follow(job, |view| view.state == JobState::Finished).await;
    assert_eq!((view.units_total, view.units_settled, view.units_refereed, view.results_accepted), (6, 6, 0, 12));
    assert!(!second.heartbeat(&b).await.keep, "the job is over");
    world.finish().await;
}

#[tokio::test]
async fn what_is_let_go_or_wrong_goes_to_another_session() {
    let world = world().await;
    world.train_job().await;
    let (first, second) = (world.join(1).await, world.join(2).await);
    let (a, b) = (first.lease_one().await, second.lease_one().await);
    first.give_back(&a).await;
    let wrong = crate::world::product_file(&b, &vec![f32::NAN; 32 * 5]);
    assert_eq!(second.submit(&b, wrong).await.verdict, Verdict::Rejected);
    for volunteer in [&first, &second] {
        assert!(!is_opening(&volunteer.lease_one().await), "a session has one chance");
    }
    let (_, again) = begin(&world, 3..4).await;
    assert_eq!(again.manifest.unit, a.manifest.unit, "the oldest");
    // However often one lapses, the referee has nothing to do with it.
    world.clock.advance(limits::LEASE_MS);
    world.finish().await;
}

#[tokio::test]
async fn the_stock_is_filled_up() {
    let world = world().await;
    world.train_job().await;
    let mut factors = std::collections::BTreeSet::new();
    for round in 0..4u8 {
        let (volunteer, lease) = begin(&world, 60 * round + 1..60 * (round + 1)).await;
        let product = volunteer.product_bytes(&lease).await;
        let statement = volunteer.statement(&lease, &product);
        volunteer.submit(&lease, product).await;
        // The driver, which fills up the stock, may have come to the check before the call did.
        world.app().idle().await;
        assert_eq!(volunteer.try_submit(&statement).await.cbor::<ResultResponse>().verdict, Verdict::Accepted);
        factors.insert(matmul_work(&lease).a);
    }
    assert_eq!(factors.len(), 4, "each another product");
    world.finish().await;
}

/// Who opens sessions one after another has one opening unit for a while, and not one from each.
#[tokio::test]
async fn a_key_begins_once_in_ten_minutes() {
    let world = world().await;
    world.train_job().await;
    let first = world.join(1).await;
    let lease = first.lease_one().await;
    assert!(is_opening(&lease));
    let product = first.product_bytes(&lease).await;
    first.submit(&lease, product).await;
    assert!(!is_opening(&world.join(1).await.lease_one().await), "again at once");
    world.clock.advance(10 * 60 * 1000 + 1);
    assert!(is_opening(&world.join(1).await.lease_one().await), "ten minutes later");
    world.finish().await;
}

#[tokio::test]
async fn a_product_job_has_none() {
    let world = world().await;
    world.product_job().await;
    let volunteer = world.join(1).await;
    assert_eq!(volunteer.lease(16).await.len(), 4);
    world.finish().await;
}
