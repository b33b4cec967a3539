//! A device that is lost in the middle of a unit: the unit goes back, the page says so in one line, and work goes on.

use std::time::Duration;

use anyhow::Result;
use manyhands_protocol::view::JobState;
use manyhands_tests::browser::{Visitor, text};
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::server::Server;

const LIMIT: Duration = Duration::from_secs(180);

#[tokio::test]
async fn work_goes_on_after_the_gpu_process_crashed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    // Units of some seconds each, so that there is a middle.
    let slow = SmallTrain {
        width: 784,
        hidden: 256,
        inner_steps: 250,
        rounds_max: 1,
        target_accuracy: 1.0,
        noisy_labels: true,
        ..SmallTrain::default()
    };
    let files = jobs::train(folder.path(), slow)?;
    let job = server.submit(&files.manifest, &files.data)?;
    let visitor = Visitor::open(&format!("{}/?backend=gpu", server.url)).await?;
    // Every line that the page says of an error or of its device, as they come.
    visitor
        .run(
            "globalThis.said = [];
            const note = () => {
                for (const id of ['visit-error', 'adapter']) {
                    const line = document.getElementById(id).textContent.trim();
                    if (line && said.at(-1) !== line) said.push(line);
                }
            };
            new MutationObserver(note).observe(document.getElementById('visit'), { subtree: true, childList: true, characterData: true });",
        )
        .await?;
    visitor.press_start().await?;
    // After the product that opens the session, in the middle of a unit of training.
    visitor.wait_until("d.phases.includes('accepted') && d.phases.startsWith('computing')", LIMIT).await?;
    visitor.crash_gpu()?;
    let state = visitor.wait_until("d.phases.includes('given_back')", LIMIT).await?;
    println!("after the crash: {state}");
    let state = visitor.wait_until("d.jobState === 'finished'", LIMIT).await?;
    let said = visitor.run("return globalThis.said;").await?;
    println!("on {}: {said}", text(&state["backend"]));
    let lines: Vec<String> = said.as_array().into_iter().flatten().map(text).collect();
    assert!(lines.iter().any(|line| line.contains("device was lost")), "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains('\n')), "one line each: {lines:?}");
    let view = server.follow(job, LIMIT, |view| view.state == JobState::Finished).await?;
    assert_eq!(view.results_rejected, 0);
    Ok(())
}
