//! What monitoring reads: metrics, and whether the coordinator is alive and ready.

use std::collections::BTreeSet;

use manyhands_protocol::problem::Code;
use reqwest::Method;

use crate::client::{Answer, Volunteer};
use crate::world::World;

/// A sample's value, by its name and labels as they are written.
fn value(text: &str, sample: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample} in:\n{text}")).parse().unwrap()
}

async fn metrics(world: &World) -> String {
    let answer = Answer::of(world.operator(Method::GET, "/metrics")).await;
    answer.is(200);
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    String::from_utf8(answer.body).unwrap()
}

/// Has both give the same update for one unit.
async fn settle_unit(first: &Volunteer, second: &Volunteer) {
    let (a, b) = (first.lease_one().await, second.lease_one().await);
    let update = first.update_bytes(&a).await;
    first.submit(&a, update.clone()).await;
    second.submit(&b, update).await;
}

#[tokio::test]
async fn metrics_tell_of_calls_and_jobs_and_of_nobody() {
    let world = World::start().await;
    let (first, second) = (world.join(1).await, world.join(2).await);
    first.get("/v1/admin/metrics").await.refused(Code::NoAdmin);
    let job = world.train_job().await;
    for _ in 0..2 {
        settle_unit(&first, &second).await;
    }
    let view = world.follow(job, |view| view.train.as_ref().unwrap().rounds_merged == 1).await;
    first.get("/v1/jobs/99").await.refused(Code::UnknownJob);
    let text = metrics(&world).await;
    let sample = |name: &str| value(&text, name);
    assert_eq!(sample("manyhands_http_requests_total{route=\"/v1/results\",method=\"POST\",status=\"200\"}"), 4.0);
    assert_eq!(sample("manyhands_http_requests_total{route=\"/v1/jobs/{id}\",method=\"GET\",status=\"404\"}"), 1.0);
    assert_eq!(sample("manyhands_http_request_duration_seconds_count{route=\"/v1/results\"}"), 4.0);
    let of = |name: &str, label: &str| sample(&format!("manyhands_job_{name}{{job=\"{job}\"{label}}}"));
    assert_eq!(of("units", ",state=\"settled\""), view.units_settled as f64);
    assert_eq!(of("results_total", ",verdict=\"accepted\""), 4.0);
    assert_eq!(of("rounds_merged_total", ""), 1.0);
    assert_eq!(of("verification_tax_ratio", ",component=\"replicas\""), view.tax.unwrap().replicas);
    assert_eq!(of("loss", ""), view.train.unwrap().history[1].loss);
    assert_eq!(sample("manyhands_work_stopped"), 0.0);
    assert!(text.ends_with("# EOF\n"));
    for secret in [first.id().to_string(), first.token.clone(), world.url()] {
        assert!(!text.contains(&secret), "{secret}");
    }
    world.finish().await;
}

/// The table in docs/operations.md and what is served, compared both ways.
#[tokio::test]
async fn the_list_of_metrics_is_the_documented_one() {
    let world = World::start().await;
    let (first, second) = (world.join(1).await, world.join(2).await);
    let job = world.train_job().await;
    settle_unit(&first, &second).await;
    world.follow(job, |view| view.units_settled > 0).await;
    let text = metrics(&world).await;
    let typed = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let served: BTreeSet<String> =
        typed.map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() }).collect();
    let page = include_str!("../../../docs/operations.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `manyhands_")?.split_once('`'));
    let listed: BTreeSet<String> = rows.map(|(name, _)| format!("manyhands_{name}")).collect();
    assert_eq!(served, listed);
    world.finish().await;
}

#[tokio::test]
async fn it_is_alive_and_ready() {
    let world = World::start().await;
    for path in ["/healthz", "/readyz"] {
        Answer::of(world.admin.get(format!("{}{path}", world.url()))).await.is(200);
    }
    world.finish().await;
}
