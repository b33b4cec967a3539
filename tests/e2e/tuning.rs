//! What the tuner leaves behind: its choices beside a terminal's key and in a browser's storage, and nothing where it is
//! off.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manyhands_protocol::view::JobState;
use manyhands_tests::browser::{Visitor, text};
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::server::Server;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(180);
/// Blocks of 64x128x64: every variant of the product takes them.
const EXTENTS: [usize; 3] = [128, 128, 128];
const PRODUCT: &str = "64x128x64 nn";

/// The texts that begin with `name`, from a file of names and texts.
fn texts(kept: &Value, name: &str) -> Vec<(String, String)> {
    let members = kept.as_object().into_iter().flatten().filter(|(key, _)| key.starts_with(name));
    members.filter_map(|(key, text)| Some((key.clone(), text.as_str()?.to_owned()))).collect()
}

fn read(file: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} is not there", file.display()))?;
    Ok(serde_json::from_str(&text)?)
}

/// Has a terminal volunteer compute a product's four blocks on a GPU, lavapipe where there is no other.
async fn compute(server: &Server, folder: &Path, more: &[&str]) -> Result<()> {
    let files = jobs::matmul(folder, EXTENTS, 64)?;
    let job = server.submit(&files.manifest, &files.data)?;
    let key = folder.join("key").to_string_lossy().into_owned();
    let mut args = vec!["--gpu", "--units", "4", "--key-file", &key];
    args.extend(more);
    let mut volunteer = server.volunteer(&args)?;
    let view = server.follow(job, LIMIT, |view| view.state == JobState::Finished).await?;
    ensure!((view.results_accepted, view.results_rejected) == (4, 0), "{view:?}");
    ensure!(volunteer.wait(LIMIT)?, "it ends well");
    Ok(())
}

#[tokio::test]
async fn a_terminal_measures_once_and_never_tries_again_what_did_not_come_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let file = folder.path().join("key.tuning.json");
    compute(&server, folder.path(), &["--tune", "off"]).await?;
    assert!(!file.exists(), "measured where it is off");
    compute(&server, folder.path(), &["--tune", "matmul_naive"]).await?;
    assert!(!file.exists(), "measured where the kernel is fixed");

    compute(&server, folder.path(), &[]).await?;
    let first = read(&file)?;
    let notes = texts(&first, "tuned on ");
    let [(_, text)] = notes.as_slice() else { panic!("one adapter: {first}") };
    let tried: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(PRODUCT)).collect();
    println!("{text}");
    assert!(!tried.is_empty() && !text.contains("wrong"), "{text}");
    let markers = texts(&first, "tried on ");
    let [(marked, left)] = markers.as_slice() else { panic!("one adapter: {first}") };
    assert_eq!(left, "", "every try came back");

    compute(&server, folder.path(), &[]).await?;
    assert_eq!(read(&file)?, first, "nothing is measured twice");

    // As a crash in the middle of a try would leave it: after the product come the usual kernel, the other and its share.
    let victim = tried[0].split_whitespace().nth(1).context("a kernel's name")?;
    let crashed = serde_json::json!({ marked: format!("{victim}\n") });
    std::fs::write(&file, crashed.to_string())?;
    compute(&server, folder.path(), &[]).await?;
    let after = read(&file)?;
    let tried_again = |text: &str| text.lines().any(|line| line.rsplit(' ').nth(1) == Some(victim));
    assert!(!texts(&after, "tuned on ").iter().any(|(_, text)| tried_again(text)), "tried again: {after}");
    assert_eq!(texts(&after, "tried on ")[..1], [(marked.clone(), format!("{victim}\n"))], "the marker stays");
    Ok(())
}

/// What a page's origin keeps of the tuner, as an object of texts.
const KEPT: &str = r#"
    const done = arguments[arguments.length - 1];
    const open = indexedDB.open("manyhands-tuning");
    open.onerror = () => done({ error: String(open.error) });
    open.onsuccess = () => {
        const names = [...open.result.objectStoreNames];
        if (!names.includes("tuning")) { open.result.close(); return done({}); }
        const store = open.result.transaction("tuning").objectStore("tuning");
        const keys = store.getAllKeys();
        const values = store.getAll();
        values.onsuccess = () => { open.result.close(); done(Object.fromEntries(keys.result.map((key, i) => [key, values.result[i]]))); };
    };"#;

#[tokio::test]
async fn a_tab_measures_and_keeps_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let (f32s, f16s) = (jobs::matmul(folder.path(), EXTENTS, 64)?, jobs::matmul_f16(folder.path(), EXTENTS, 64)?);
    let in_f16 = format!("{PRODUCT} f16");
    let visits =
        [("backend=gpu&tune=off", &f32s, None), ("backend=gpu", &f32s, Some(PRODUCT)), ("backend=gpu", &f16s, Some(&in_f16))];
    for (query, files, measures) in visits {
        let job = server.submit(&files.manifest, &files.data)?;
        let visitor = Visitor::open(&format!("{}/?{query}&job={job}", server.url)).await?;
        visitor.press_start().await?;
        let state = visitor.wait_until("d.jobState === 'finished'", LIMIT).await?;
        assert_eq!(state["backend"], "webgpu", "{state}");
        let view = server.job(job).await?;
        assert_eq!((view.results_accepted, view.results_rejected), (4, 0));
        let kept = visitor.run_async(KEPT).await?;
        println!("{query}: {kept}");
        let notes: Vec<String> = texts(&kept, "tuned on ").into_iter().map(|(_, text)| text).collect();
        let tried =
            |product: &str| notes.iter().any(|text| text.lines().any(|line| line.starts_with(&format!("{product} matmul"))));
        let expected = [PRODUCT, &in_f16].map(|product| measures == Some(product));
        assert_eq!([PRODUCT, &in_f16].map(tried), expected, "{query}: {kept}");
        if measures == Some(&in_f16) {
            assert!(notes[0].contains("_f16 ") && !notes[0].contains(" wrong"), "this adapter reads f16 rightly: {notes:?}");
        }
        let out = folder.path().join("c.safetensors");
        server.run(&["job", "export", &job.to_string(), "--out", &out.to_string_lossy()])?;
        jobs::check_product(&files.data, &out, EXTENTS)?;
        assert!(texts(&kept, "tried on ").iter().all(|(_, left)| left.is_empty()), "{kept}");
    }
    Ok(())
}

/// Writes what a page's origin keeps under a name.
const KEEP: &str = r#"
    const done = arguments[arguments.length - 1];
    const [key, text] = [NAME, TEXT];
    const open = indexedDB.open("manyhands-tuning");
    open.onerror = () => done({ error: String(open.error) });
    open.onsuccess = () => {
        const change = open.result.transaction("tuning", "readwrite");
        change.objectStore("tuning").put(text, key);
        change.oncomplete = () => { open.result.close(); done({}); };
    };"#;

/// A software adapter that is let in is many times slower than the CPU path. What was measured of it holds for the next visit.
#[tokio::test]
async fn a_tab_leaves_a_gpu_that_is_slower_than_its_processor() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let small =
        SmallTrain { width: 784, hidden: 512, rounds_max: 2, units_per_round: 2, noisy_labels: true, ..SmallTrain::default() };
    let files = jobs::train(folder.path(), SmallTrain { target_accuracy: 1.0, ..small })?;
    let visit = async |visitor: &Visitor, query: &str| -> Result<Value> {
        let job = server.submit(&files.manifest, &files.data)?;
        visitor.goto(&format!("{}/?{query}&job={job}", server.url)).await?;
        visitor.press_start().await?;
        let state = visitor.wait_until("d.jobState === 'finished'", LIMIT).await?;
        assert_eq!(server.job(job).await?.results_rejected, 0);
        Ok(state)
    };
    let visitor = Visitor::open(&server.url).await?;
    let state = visit(&visitor, "backend=any&tune=off").await?;
    assert_eq!(state["backend"], "webgpu", "nothing was measured: {state}");

    let state = visit(&visitor, "backend=any").await?;
    assert_eq!(state["backend"], "wasm", "{state}");
    let said = visitor.run("return document.getElementById('adapter').textContent;").await?;
    assert!(text(&said).contains("measured to be faster here than the graphics processor"), "{said}");
    let kept = visitor.run_async(KEPT).await?;
    println!("{kept}");
    let shares = texts(&kept, "the CPU path against ");
    let [(name, shares)] = shares.as_slice() else { panic!("one adapter: {kept}") };
    let (stamp, line) = shares.trim_end().split_once('\n').context("a share below a stamp")?;
    let (work, share) = line.rsplit_once(' ').context("a share")?;
    assert!(share.parse::<u32>()? <= 667, "{line}");

    // Had it been as fast, the next visit would stay with it: it does not measure again.
    let equal = format!("{stamp}\n{work} 1000\n");
    let keep = KEEP.replace("NAME", &serde_json::to_string(name)?).replace("TEXT", &serde_json::to_string(&equal)?);
    visitor.run_async(&keep).await?;
    let state = visit(&visitor, "backend=any").await?;
    assert_eq!(state["backend"], "webgpu", "{state}");
    Ok(())
}
