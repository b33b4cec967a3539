//! What an operator's monitoring reads, in the OpenMetrics text format: counts of answers since the start, and what the store
//! says of the jobs under way when it is asked. docs/operations.md lists every metric; a test compares the two. No visitor, key,
//! site or address is a label.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use manyhands_protocol::view::{JobState, JobView};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::service::Service;
use crate::store::StoreError;

/// Of the jobs that are told of by themselves, which bounds the answer.
const JOBS_COUNT_MAX: usize = 256;
/// Upper bounds of answers' times, in seconds.
const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    /// The route's pattern; `page` for what is none.
    route: String,
    method: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

/// What is counted while calls are answered.
#[derive(Debug)]
pub struct Metrics {
    requests: Family<Answered, Counter>,
    durations: Family<Route, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        Metrics { requests: Family::default(), durations: Family::new_with_constructor(histogram) }
    }
}

impl Metrics {
    /// Counts an answer: its headers took so long to come.
    pub fn answered(&self, route: Option<&str>, method: &str, status: u16, took: Duration) {
        let route = route.unwrap_or("page").to_owned();
        self.durations.get_or_create(&Route { route: route.clone() }).observe(took.as_secs_f64());
        self.requests.get_or_create(&Answered { route, method: method.to_owned(), status }).inc();
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Job {
    job: u64,
}

/// A part of a job's number, and which.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Units {
    job: u64,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Results {
    job: u64,
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Component {
    job: u64,
    component: &'static str,
}

type Count = Gauge;
type Real = Gauge<f64, AtomicU64>;

/// All metrics now, as text.
pub async fn text(service: &Service) -> Result<String, StoreError> {
    let mut registry = Registry::with_prefix("manyhands");
    let metrics = &service.metrics;
    registry.register("http_requests", "Answers by route, method and status", metrics.requests.clone());
    registry.register_with_unit(
        "http_request_duration",
        "Time until the headers of an answer, by route",
        Unit::Seconds,
        metrics.durations.clone(),
    );
    whole(service, &mut registry).await?;
    jobs(service, &mut registry).await?;
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|fmt::Error| StoreError::Damaged("a metric cannot be written".to_owned()))?;
    Ok(text)
}

/// What is of no one job.
async fn whole(service: &Service, registry: &mut Registry) -> Result<(), StoreError> {
    let streams = service.config.streams_count_max - service.streams.available_permits();
    let log_entries = service.store.log_head().await?.map_or(0, |head| head.size);
    let counts = [
        ("event_streams", "Event streams that are open", streams as u64),
        ("checks_waiting", "Results that wait for a check", service.checks_waiting.load(Ordering::Acquire) as u64),
        ("log_entries", "Entries of the public log", log_entries),
        ("work_stopped", "1 while the operator stopped all work", u64::from(service.store.stopped().await?)),
    ];
    for (name, help, value) in counts {
        let gauge = Count::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    let turns = Counter::<u64>::default();
    turns.inc_by(service.turns.borrow().count);
    registry.register("driver_turns", "Turns of the driver, which settles units and merges rounds", turns);
    Ok(())
}

/// What there is of each running or paused job.
async fn jobs(service: &Service, registry: &mut Registry) -> Result<(), StoreError> {
    let units = Family::<Units, Count>::default();
    let results = Family::<Results, Counter>::default();
    let refereed = Family::<Job, Counter>::default();
    let tax = Family::<Component, Real>::default();
    let [contributors, contributors_now] = [Family::<Job, Count>::default(), Family::<Job, Count>::default()];
    let [merged, undone] = [Family::<Job, Counter>::default(), Family::<Job, Counter>::default()];
    let [loss, accuracy] = [Family::<Job, Real>::default(), Family::<Job, Real>::default()];
    let count = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let under_way = service.store.jobs(&[JobState::Running, JobState::Paused]).await?;
    for job in under_way.iter().take(JOBS_COUNT_MAX) {
        let Some((_, view)) = service.store.job_view(job.id, service.now_ms()).await? else { continue };
        let JobView { units_total, units_settled, results_accepted, results_rejected, .. } = view;
        let job = job.id.0;
        for (state, value) in [("open", units_total.saturating_sub(units_settled)), ("settled", units_settled)] {
            units.get_or_create(&Units { job, state }).set(count(value));
        }
        for (verdict, value) in [("accepted", results_accepted), ("rejected", results_rejected)] {
            results.get_or_create(&Results { job, verdict }).inc_by(value);
        }
        refereed.get_or_create(&Job { job }).inc_by(view.units_refereed);
        contributors.get_or_create(&Job { job }).set(count(view.contributors));
        contributors_now.get_or_create(&Job { job }).set(count(view.contributors_now));
        for (component, value) in view.tax.iter().flat_map(|tax| tax.components()) {
            tax.get_or_create(&Component { job, component }).set(value);
        }
        let Some(train) = view.train else { continue };
        merged.get_or_create(&Job { job }).inc_by(u64::from(train.rounds_merged));
        undone.get_or_create(&Job { job }).inc_by(u64::from(train.merges_undone));
        if let Some(round) = train.history.last() {
            loss.get_or_create(&Job { job }).set(round.loss);
            accuracy.get_or_create(&Job { job }).set(round.accuracy);
        }
    }
    registry.register("job_units", "Work units by state: open or settled", units);
    registry.register("job_results", "Results that have a verdict, by verdict", results);
    registry.register("job_units_refereed", "Units that the referee computed", refereed);
    registry.register(
        "job_verification_tax_ratio",
        "Computing beyond one execution of each settled unit, divided by that execution, by component",
        tax,
    );
    registry.register("job_contributors", "Keys with an accepted result", contributors);
    registry.register("job_contributors_now", "Keys with a live lease", contributors_now);
    registry.register("job_rounds_merged", "Rounds merged", merged);
    registry.register("job_merges_undone", "Merges undone, for they made the held-out loss worse", undone);
    registry.register("job_loss", "Loss of the newest checkpoint on the held-out set", loss);
    registry.register("job_accuracy", "Share of the held-out examples that the newest checkpoint gets right", accuracy);
    Ok(())
}
