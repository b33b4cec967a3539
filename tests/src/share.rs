//! How much of what a browser's devices could do a visit takes: processor time under a limit, as a share of the same job's
//! without one, in the same run.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::browser::{Visitor, text};
use crate::jobs::{self, SmallTrain};
use crate::server::Server;

const LIMIT: Duration = Duration::from_secs(180);
/// What a window is measured in; a part does not count where the machine had something else to do in it.
const PART: Duration = Duration::from_secs(6);
/// Parts that may be measured for each that counts.
const DISTURBED_MAX: u32 = 8;

/// Stands in for a worker whose governor does nothing: what the visitor chose does not reach it.
pub const UNGOVERNED: &str = "globalThis.Worker = class extends Worker {
    postMessage(message) {
        if (message.type === 'conditions' || message.type === 'limit') return;
        super.postMessage(message.type === 'start' ? { ...message, duty_percent: 100 } : message);
    }
};";

/// A coordinator with a job that never ends. Units of many steps take long enough that it is no part of what is measured.
pub fn endless(folder: &Path, inner_steps: u32) -> Result<Server> {
    let server = Server::start(&folder.join("data"))?;
    let endless = SmallTrain {
        width: 784,
        hidden: 256,
        inner_steps,
        units_per_round: 8,
        rounds_max: 100_000,
        target_accuracy: 1.0,
        noisy_labels: true,
    };
    let files = jobs::train(folder, endless)?;
    server.submit(&files.manifest, &files.data)?;
    Ok(server)
}

/// Waits until a unit that trains is computed.
pub async fn at_work(visitor: &Visitor) -> Result<()> {
    visitor.wait_until("d.phases.startsWith('computing') && d.backend !== '' && d.duty !== ''", LIMIT).await?;
    Ok(())
}

/// The share that visits to `url` take which begin by `start`, measured over `window` in two halves, before and after as long
/// a measurement of one without a limit.
pub async fn share(url: &str, window: Duration, start: impl AsyncFn(&Visitor) -> Result<()>) -> Result<f64> {
    let limited = async || {
        let visitor = Visitor::open(url).await?;
        start(&visitor).await?;
        at_work(&visitor).await?;
        undisturbed(&visitor, window / 2).await
    };
    let first = limited().await?;
    let full = Visitor::open(url).await?;
    full.press_start().await?;
    at_work(&full).await?;
    let whole = undisturbed(&full, window).await?;
    drop(full);
    let second = limited().await?;
    let share = (first + second) / 2.0 / whole;
    eprintln!("{first:.3} and {second:.3} of {whole:.3} cores: {share:.3}");
    Ok(share)
}

/// Cores' worth of device time in a window of parts in which nothing made the governor back off: what is measured is the
/// limit alone. In the page's own words, for a busy machine slows slices down as heat does.
async fn undisturbed(visitor: &Visitor, window: Duration) -> Result<f64> {
    let (parts, mut seen) = (window.div_duration_f64(PART).ceil() as u32, Vec::new());
    for _ in 0..parts * DISTURBED_MAX {
        visitor.wait_until("['', 'shared'].includes(d.pace)", LIMIT).await?;
        visitor
            .run(
                "const root = document.documentElement;
                globalThis.paces = new Set();
                globalThis.watching?.disconnect();
                globalThis.watching = new MutationObserver(() => paces.add(root.dataset.pace));
                watching.observe(root, { attributes: true, attributeFilter: ['data-pace'] });",
            )
            .await?;
        let share = visitor.device_share(PART).await;
        let paces = visitor.run("return [...paces].filter((pace) => pace !== '' && pace !== 'shared').join(' ');").await?;
        if text(&paces).is_empty() {
            seen.push(share);
            if seen.len() == parts as usize {
                return Ok(seen.iter().sum::<f64>() / f64::from(parts));
            }
            continue;
        }
        eprintln!("not counted, for the governor said: {paces}");
    }
    bail!("the machine was never left alone for {window:?}")
}
