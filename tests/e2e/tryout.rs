//! The model tried on pictures: held-out ones, asked for once and shown again after each round, and the visitor's own, drawn
//! or picked.

use std::time::Duration;

use anyhow::Result;
use manyhands_tests::artefacts;
use manyhands_tests::browser::{Visitor, number, text};
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::server::Server;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(120);

/// Grey values of each canvas of a list, row by row.
fn pictures(list: &str) -> String {
    format!(
        "return [...document.querySelectorAll('{list} canvas')].map((canvas) => {{
            const {{ data }} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            return [...data].filter((_, at) => at % 4 === 0);
        }});"
    )
}

/// The visitor picks a file of this content; `blob` is a JavaScript expression.
async fn pick(visitor: &Visitor, blob: &str) -> Result<()> {
    let script = format!(
        "const [done] = arguments;
        Promise.resolve({blob}).then((blob) => {{
            const picked = new DataTransfer();
            picked.items.add(new File([blob], 'picture', {{ type: blob.type }}));
            const input = document.getElementById('own-file');
            input.files = picked.files;
            input.dispatchEvent(new Event('change'));
            done();
        }});"
    );
    visitor.run_async(&script).await.map(drop)
}

/// A black square on white paper.
const PAPER: &str = "(() => {
    const paper = new OffscreenCanvas(80, 80), context = paper.getContext('2d');
    context.fillStyle = '#fff';
    context.fillRect(0, 0, 80, 80);
    context.fillStyle = '#000';
    context.fillRect(20, 20, 40, 40);
    return paper.convertToBlob();
})()";

#[tokio::test]
async fn a_model_is_tried_on_pictures() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::train(folder.path(), SmallTrain::endless())?;
    server.submit(&files.manifest, &files.data)?;
    let visitor = Visitor::open(&server.url).await?;
    visitor.press_start().await?;
    visitor.wait_until("Number(d.round) > 0", LIMIT).await?;
    visitor.press("try").await?;
    let state = visitor.wait_until("Number(d.answersShown) === 1", LIMIT).await?;
    assert_eq!(number(&state, "answers")?, 12.0);
    let before = visitor.run(&pictures("#answers")).await?;
    visitor.wait_until("Number(d.answersShown) >= 2", LIMIT).await?;
    assert_eq!(visitor.run(&pictures("#answers")).await?, before, "the same pictures from round to round");
    visitor.press_stop().await?;
    visitor.wait_until("d.state === 'stopped'", LIMIT).await?;

    let spent = "const row = document.getElementById('spent-row'); return row.checkVisibility() ? row.textContent : '';";
    let spent = text(&visitor.run(spent).await?);
    assert!(spent.contains("less than 0.01 Wh") && spent.contains("B of data") && !spent.contains(" 0 kB"), "{spent}");

    // From the middle of the left half to the middle of the right one.
    visitor.run("document.getElementById('own').open = true;").await?;
    visitor.wait_until("document.querySelector('.drawing')", LIMIT).await?;
    visitor.drag(".drawing", (-70, 0), (70, 0)).await?;
    visitor.wait_until("d.ownAnswer !== undefined", LIMIT).await?;
    let drawn = visitor.run(&pictures("#own .answers")).await?;
    let greys: Vec<u64> = serde_json::from_value(drawn[0].clone())?;
    assert_eq!(greys.len(), 64);
    let ink = |row: usize, column: usize| greys[row * 8 + column] > 40;
    assert!((2..6).all(|column| ink(3, column) && ink(4, column)), "{greys:?}");
    assert!((0..8).all(|column| !ink(0, column) && !ink(7, column)) && !ink(3, 0) && !ink(3, 7), "{greys:?}");
    visitor.screenshot(&artefacts()?.join("own-picture.png")).await?;

    assert_eq!(visitor.run("return document.querySelector('#own .error').checkVisibility();").await?, false);
    visitor.run("delete document.documentElement.dataset.ownAnswer;").await?;
    pick(&visitor, PAPER).await?;
    visitor.wait_until("d.ownAnswer !== undefined", LIMIT).await?;
    let picked = visitor.run(&pictures("#own .answers")).await?;
    assert_eq!((&picked[0][0], &picked[0][63]), (&json!(0), &json!(0)), "paper turns dark");
    assert!(picked[0][27].as_u64() > Some(200), "and ink bright: {picked}");

    pick(&visitor, "new Blob(['no picture'], { type: 'image/png' })").await?;
    visitor.wait_until("document.querySelector('#own .error').checkVisibility()", LIMIT).await?;
    let severe: Vec<_> = visitor.console_log().await?.into_iter().filter(|line| line.starts_with("SEVERE")).collect();
    assert_eq!(severe, Vec::<String>::new());
    Ok(())
}
