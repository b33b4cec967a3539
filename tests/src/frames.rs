//! How much smoother a page's animation is without us: frames of sixty a second that another site's page drops, with the
//! element at work in it and held, in turns, for the machine's own unrest is larger than what is looked for.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::browser::Visitor;
use crate::server::Server;
use crate::site::Site;

const LIMIT: Duration = Duration::from_secs(180);
/// One look at the animation.
const LOOK: Duration = Duration::from_secs(4);

/// Shares of frames: what the element adds, and what drops without it.
#[derive(Debug, Clone)]
pub struct Extra {
    /// Median of the differences between neighbouring looks.
    pub median: f64,
    pub differences: Vec<f64>,
    /// Median without work.
    pub without: f64,
}

/// Something that moves, and a count of the frames in which it did.
const ANIMATION: &str = "
    const box = document.createElement('div');
    box.style.cssText = 'width: 80px; height: 80px; background: teal';
    document.body.prepend(box);
    globalThis.frames = { count: 0 };
    const move = (now) => {
        frames.count += 1;
        box.style.transform = `translateX(${(now / 4) % 400}px)`;
        requestAnimationFrame(move);
    };
    requestAnimationFrame(move);";

/// So many pairs of looks at a page with the element of the coordinator's job, under the limit that it offers.
pub async fn extra(server: &Server, pairs: usize) -> Result<Extra> {
    let element = |_: &str| {
        format!("<script type=module src='{}/embed/v1/many-hands.js'></script><many-hands site=frames></many-hands>", server.url)
    };
    let site = Site::start(&server.url, element).await?;
    server.run(&["site", "add", "frames", "--origin", &site.origin, "--category", "demo"])?;
    let visitor = Visitor::open(&site.origin).await?;
    visitor.run(ANIMATION).await?;
    visitor.enter_frame("many-hands").await?;
    // The frame has no address of its own to ask for a device by.
    visitor.run(ON_THE_GPU).await?;
    visitor.press_offered_start(LIMIT).await?;
    visitor.wait_until("d.phases.startsWith('computing') && d.backend === 'webgpu'", LIMIT).await?;
    let (mut differences, mut without) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let mut shares = [0.0; 2];
        // Which comes first alternates, for a machine that grows busier or calmer.
        for at_work in [pair % 2 == 0, pair % 2 == 1] {
            let state = visitor.state().await?;
            if (state["state"] == "paused") == at_work {
                visitor.press_pause().await?;
            }
            let wanted = if at_work { "d.state === 'working'" } else { "d.state === 'paused'" };
            visitor.wait_until(wanted, LIMIT).await?;
            visitor.leave_frame().await?;
            shares[usize::from(at_work)] = dropped(&visitor).await?;
            visitor.enter_frame("many-hands").await?;
        }
        eprintln!("dropped {:.4} without, {:.4} with", shares[0], shares[1]);
        differences.push(shares[1] - shares[0]);
        without.push(shares[0]);
    }
    Ok(Extra { median: median(&differences), without: median(&without), differences })
}

const ON_THE_GPU: &str = "globalThis.Worker = class extends Worker {
    postMessage(message) { super.postMessage(message.type === 'start' ? { ...message, backend: 'gpu' } : message); }
};";

/// The share of frames of sixty a second that the animation does not get in one look.
async fn dropped(visitor: &Visitor) -> Result<f64> {
    let look_ms = LOOK.as_millis();
    let seen = visitor
        .run_async(&format!(
            "const done = arguments[arguments.length - 1];
            requestAnimationFrame((begun) => {{
                const before = frames.count;
                const end = (now) => {{
                    if (now - begun < {look_ms}) requestAnimationFrame(end);
                    else done(1 - (frames.count - before) / ((now - begun) * 60 / 1000));
                }};
                requestAnimationFrame(end);
            }});"
        ))
        .await?;
    seen.as_f64().context("a share of frames")
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
