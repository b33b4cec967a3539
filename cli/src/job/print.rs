//! What the job commands print: plain tables for people, JSON views for scripts. Formats only.

use manyhands_protocol::manifest::{Target, bits};
use manyhands_protocol::view::{JobView, JobsView};

use crate::operator::print::{pretty, table};

/// All jobs, one a line.
pub fn jobs(jobs: &[JobView], as_json: bool) -> String {
    if as_json {
        return pretty(&JobsView { jobs: jobs.to_vec() });
    }
    let mut rows = vec![["ID", "STATE", "KIND", "PROGRESS", "LEARNT", "ACCEPTED", "REJECTED", "NAME"].map(str::to_owned)];
    rows.extend(jobs.iter().map(|job| {
        [
            job.id.to_string(),
            job.state.name().to_owned(),
            job.kind.clone(),
            progress(job),
            learnt(job).unwrap_or("-".to_owned()),
            job.results_accepted.to_string(),
            job.results_rejected.to_string(),
            job.name.clone(),
        ]
    }));
    table(&rows)
}

/// One job, a line per fact.
pub fn job(job: &JobView, as_json: bool) -> String {
    if as_json {
        return pretty(job);
    }
    let mut rows = vec![
        ["job".to_owned(), format!("{} ({})", job.id, job.name)],
        ["title".to_owned(), job.title.clone()],
        ["owner".to_owned(), job.owner.clone()],
        ["kind".to_owned(), job.kind.clone()],
        ["state".to_owned(), job.state.name().to_owned()],
        ["progress".to_owned(), progress(job)],
    ];
    if !job.reason.is_empty() {
        rows.push(["reason".to_owned(), job.reason.clone()]);
    }
    if let Some(train) = &job.train {
        if let Some(last) = train.history.last() {
            rows.push(["loss".to_owned(), format!("{:.4}", last.loss)]);
        }
        let (what, target) = match train.target {
            Target::Accuracy(target) => ("accuracy", target),
            Target::BitsPerByte(target) => ("bits per byte", target),
        };
        rows.push([what.to_owned(), format!("{} (target {target:.4})", learnt(job).unwrap_or("-".to_owned()))]);
        rows.push(["checkpoint".to_owned(), train.checkpoint.to_string()]);
    }
    rows.extend([
        ["results".to_owned(), format!("{} accepted, {} rejected", job.results_accepted, job.results_rejected)],
        ["refereed".to_owned(), format!("{} units", job.units_refereed)],
        ["contributors".to_owned(), format!("{} ({} now)", job.contributors, job.contributors_now)],
    ]);
    if let Some(tax) = job.tax {
        let [total, replicas, audits, checks] =
            [tax.total, tax.replicas, tax.audits, tax.checks].map(|share| format!("{:.1} %", 100.0 * share));
        rows.push(["tax".to_owned(), format!("{total} (replicas {replicas}, audits {audits}, checks {checks})")]);
    }
    table(&rows)
}

fn progress(job: &JobView) -> String {
    match &job.train {
        Some(train) => format!("round {} of {}", train.rounds_merged, train.rounds_max),
        None => format!("{} of {} units", job.units_settled, job.units_total),
    }
}

/// The newest checkpoint's accuracy, or its bits for each byte where those are what the job is after.
fn learnt(job: &JobView) -> Option<String> {
    let train = job.train.as_ref()?;
    let last = train.history.last()?;
    let value = match train.target {
        Target::Accuracy(_) => last.accuracy,
        Target::BitsPerByte(_) => bits(last.loss),
    };
    Some(format!("{value:.4}"))
}
