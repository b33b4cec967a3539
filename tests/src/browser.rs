//! A visitor: headless Chromium with a profile of its own, driven through chromedriver as a person would use the page.
//!
//! It presses the page's own buttons and reads the state that the page mirrors in `document.documentElement.dataset`;
//! it never calls the page's code. Waiting is done by a MutationObserver in the page, not by asking again and again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fantoccini::actions::{InputSource, KeyAction, KeyActions, MOUSE_BUTTON_LEFT, MouseActions, PointerAction};
use fantoccini::elements::Element;
use fantoccini::key::Key;
use fantoccini::wd::{TimeoutConfiguration, WindowHandle};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Process, kill_marked, kill_one, processor_time};

/// What to type where the browser is missing.
const INSTALL: &str = "install it with: apt-get install chromium chromium-driver";
/// chromedriver listens within this.
const DRIVER_START: Duration = Duration::from_secs(60);
/// Longest script; waits are given their own limit below it.
const SCRIPT_MAX: Duration = Duration::from_secs(3600);
/// A page loads and a button appears within this, on a busy machine.
const PAGE_LIMIT: Duration = Duration::from_secs(120);

/// A press shows within this, where it met what it was meant for.
const SETTLED: Duration = Duration::from_secs(10);

/// Chromium's switches: headless, WebGPU on SwiftShader, and nothing that talks to anyone else.
pub const SWITCHES: &[&str] = &[
    "--headless=new",
    "--no-sandbox",
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-gpu-watchdog",
    "--window-size=1200,1600",
    // What else this machine does is nobody's business here; a test that wants pressure makes it.
    "--disable-blink-features=ComputePressure",
    // Lets a script of a test speak to the browser's debugger.
    "--remote-allow-origins=*",
    // A name that browsers do not trust over plain HTTP, as they do loopback.
    "--host-resolver-rules=MAP untrusted.test 127.0.0.1",
];

/// Attaches to all targets, and to theirs, until no more come up; then runs the script in the workers of the name.
const RUN_IN_WORKERS: &str = r#"
    const [url, name, script, done] = arguments;
    const socket = new WebSocket(url);
    const answers = new Map(), workers = [];
    const call = (method, params, sessionId) => new Promise((answer) => {
        answers.set(answers.size + 1, answer);
        socket.send(JSON.stringify({ id: answers.size, method, params, sessionId }));
    });
    const attach = async (sessionId) => {
        const flat = { autoAttach: true, waitForDebuggerOnStart: false, flatten: true };
        await call("Target.setAutoAttach", flat, sessionId);
    };
    const attaching = [];
    socket.onmessage = ({ data }) => {
        const { id, method, params, result } = JSON.parse(data);
        if (id) answers.get(id)(result);
        if (method !== "Target.attachedToTarget") return;
        if (params.targetInfo.type === "worker") workers.push(params.sessionId);
        attaching.push(attach(params.sessionId));
    };
    socket.onerror = () => done("no debugger answers");
    socket.onopen = async () => {
        attaching.push(attach());
        // A target's own targets are told before the call that asks for them is answered.
        for (let at = 0; at < attaching.length; at += 1) await attaching[at];
        let count = 0;
        for (const worker of workers) {
            const { result } = await call("Runtime.evaluate", { expression: "self.name" }, worker);
            if (result.value !== name) continue;
            count += 1;
            await call("Runtime.evaluate", { expression: script }, worker);
        }
        socket.close();
        done(count);
    };"#;

/// One browser with one profile. Its processes end when it is dropped.
pub struct Visitor {
    client: Client,
    driver: Process,
    driver_url: String,
    profile: TempDir,
}

impl Visitor {
    /// Starts a browser and opens `url`.
    pub async fn open(url: &str) -> Result<Visitor> {
        let visitor = Visitor::start(json!({})).await?;
        visitor.goto(url).await?;
        Ok(visitor)
    }

    /// One whose browser shows every page so many times as large.
    pub async fn open_zoomed(url: &str, zoom: f64) -> Result<Visitor> {
        // Chromium's levels: each is a fifth more than the last.
        let level = zoom.ln() / 1.2f64.ln();
        let visitor = Visitor::start(json!({ "partition.default_zoom_level": { "x": level } })).await?;
        visitor.goto(url).await?;
        Ok(visitor)
    }

    /// One whose browser keeps nothing for any page, and lets none keep anything.
    pub async fn open_forgetful(url: &str) -> Result<Visitor> {
        let visitor = Visitor::start(json!({ "profile.default_content_setting_values.cookies": 2 })).await?;
        visitor.goto(url).await?;
        Ok(visitor)
    }

    /// One with Firefox, whose WebGPU runs where there is a Vulkan adapter. What speaks to the debugger does not work in it.
    pub async fn open_firefox(url: &str) -> Result<Visitor> {
        let firefox = program("firefox-esr")?;
        let profile = tempfile::Builder::new().prefix("manyhands-visitor-").tempdir()?;
        let mut driver = Command::new(program("geckodriver")?);
        driver.args(["--port=0", "--profile-root"]).arg(profile.path());
        let options = json!({
            "binary": firefox,
            "args": ["-headless", "--width=1200", "--height=1600"],
            "prefs": { "dom.webgpu.enabled": true, "gfx.webgpu.ignore-blocklist": true },
        });
        let capabilities = json!({ "browserName": "firefox", "moz:firefoxOptions": options });
        let visitor = Visitor::launch(profile, driver, "Listening on 127.0.0.1:", capabilities).await?;
        visitor.goto(url).await?;
        Ok(visitor)
    }

    /// One whose browser keeps nothing for what other sites' pages frame.
    pub async fn open_without_third_parties(url: &str) -> Result<Visitor> {
        let refused = json!({ "profile.block_third_party_cookies": true, "profile.cookie_controls_mode": 1 });
        let visitor = Visitor::start(refused).await?;
        visitor.goto(url).await?;
        Ok(visitor)
    }

    async fn start(preferences: Value) -> Result<Visitor> {
        let chromium = program("chromium")?;
        let profile = tempfile::Builder::new().prefix("manyhands-visitor-").tempdir()?;
        let mut driver = Command::new(program("chromedriver")?);
        driver.arg("--port=0");
        let mut arguments: Vec<String> = SWITCHES.iter().map(|s| s.to_string()).collect();
        arguments.push(format!("--user-data-dir={}", profile.path().join("profile").display()));
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": chromium, "args": arguments, "prefs": preferences },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        Visitor::launch(profile, driver, "started successfully on port ", capabilities).await
    }

    /// Starts a driver, which tells its port after `marker`, and a browser whose folders are in `profile`.
    async fn launch(profile: TempDir, mut driver: Command, marker: &str, capabilities: Value) -> Result<Visitor> {
        let mut driver = Process::start(&mut driver, &profile.path().join("driver.log"))?;
        let port = driver.line_after(marker, DRIVER_START)?;
        let driver_url = format!("http://127.0.0.1:{}", port.trim_end_matches('.'));
        let Value::Object(capabilities) = capabilities else { unreachable!("an object literal") };
        let client = ClientBuilder::new(HttpConnector::new()).capabilities(capabilities).connect(&driver_url).await;
        let client = match client {
            Ok(client) => client,
            Err(e) => {
                kill_marked(&profile.path().to_string_lossy());
                bail!("the browser did not start: {e}");
            }
        };
        let visitor = Visitor { client, driver, driver_url, profile };
        let timeouts = TimeoutConfiguration::new(Some(SCRIPT_MAX), Some(PAGE_LIMIT), Some(Duration::ZERO));
        visitor.client.update_timeouts(timeouts).await?;
        Ok(visitor)
    }

    /// Opens another address in the current window.
    pub async fn goto(&self, url: &str) -> Result<()> {
        self.client.goto(url).await.with_context(|| format!("opening {url}"))
    }

    /// Goes back to what the current window showed before.
    pub async fn back(&self) -> Result<()> {
        Ok(self.client.back().await?)
    }

    /// Closes the current window, as its visitor would: the next call goes to another one, by [`Visitor::switch_to`].
    pub async fn close_window(&self) -> Result<()> {
        Ok(self.client.close_window().await?)
    }

    /// Opens an empty tab in front of the current window, which is hidden by it, and makes the tab the current one.
    pub async fn open_tab(&self) -> Result<WindowHandle> {
        let handle = self.client.new_window(true).await?.handle;
        self.switch_to(&handle).await?;
        Ok(handle)
    }

    /// Opens `url` in another window of the same browser and profile, and makes it the current one.
    pub async fn open_window(&self, url: &str) -> Result<WindowHandle> {
        let opened = self.client.new_window(false).await?;
        let handle = opened.handle;
        self.switch_to(&handle).await?;
        self.goto(url).await?;
        Ok(handle)
    }

    /// Handle of the current window.
    pub async fn window(&self) -> Result<WindowHandle> {
        Ok(self.client.window().await?)
    }

    /// Makes a window the one that all other calls mean.
    pub async fn switch_to(&self, window: &WindowHandle) -> Result<()> {
        Ok(self.client.switch_to_window(window.clone()).await?)
    }

    /// Allows as much as may be chosen, and clicks the button that starts work, once it is there and enabled.
    pub async fn press_start(&self) -> Result<()> {
        self.press_key("duty", Key::End).await?;
        self.press("start").await
    }

    /// Presses a key on the element with this id, once it can be seen.
    pub async fn press_key(&self, id: &str, key: Key) -> Result<()> {
        let found = self.seen(id).await?;
        found.send_keys(&char::from(key).to_string()).await.with_context(|| format!("a key on #{id}"))
    }

    /// Types into the field with this id, once it can be seen; a file field takes a path.
    pub async fn type_into(&self, id: &str, words: &str) -> Result<()> {
        self.seen(id).await?.send_keys(words).await.with_context(|| format!("typing into #{id}"))
    }

    /// Presses the link with this id, and gives the file that it saves.
    pub async fn download(&self, id: &str) -> Result<PathBuf> {
        let folder = self.profile.path().join("downloads");
        std::fs::create_dir_all(&folder)?;
        let allow = json!({ "behavior": "allow", "downloadPath": folder });
        self.debug("Browser.setDownloadBehavior", allow).await?;
        self.press(id).await?;
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        loop {
            ticks.tick().await;
            // A file that is still being written has another ending, beside an empty one that keeps its name.
            let whole = |path: &PathBuf| {
                path.extension().is_some_and(|end| end == "json") && path.metadata().is_ok_and(|file| file.len() > 0)
            };
            let found = std::fs::read_dir(&folder)?.filter_map(Result::ok).map(|entry| entry.path());
            if let Some(path) = found.into_iter().find(whole) {
                return Ok(path);
            }
            ensure!(begun.elapsed() < PAGE_LIMIT, "nothing was saved: {:?}", self.console_log().await);
        }
    }

    /// Allows all of the device, and presses Start in a frame once the frame believes that a person sees it.
    pub async fn press_seen_start(&self, limit: Duration) -> Result<()> {
        self.press_key("duty", Key::End).await?;
        self.press_offered_start(limit).await
    }

    /// Presses Start in a frame under the limit that it offers, again where it says that it was not seen, as a person would.
    pub async fn press_offered_start(&self, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            self.run("document.getElementById('start').scrollIntoView({ block: 'nearest' });").await?;
            self.wait_until("d.seen === 'true'", limit).await?;
            self.run("document.getElementById('covered').hidden = true;").await?;
            self.press("start").await?;
            let answered = "d.state !== 'idle' || !document.getElementById('covered').hidden";
            // A press while the frame is being fitted to what is in it meets nothing.
            let Ok(state) = self.wait_until(answered, SETTLED).await else { continue };
            if state["state"] != "idle" {
                return Ok(());
            }
            if self.run("return document.getElementById('covered').dataset.why;").await? == "unread" {
                // What it brought before the visitor.
                self.wait_until(&format!("d.unread < {}", text(&state["unread"])), limit).await?;
            }
        }
        bail!("Start was pressed, and does not count")
    }

    /// Moves the mouse to the middle of what this selects.
    pub async fn hover(&self, selector: &str) -> Result<()> {
        let element = self.client.find(Locator::Css(selector)).await?;
        let there = PointerAction::MoveToElement { element, duration: None, x: 0.0, y: 0.0 };
        Ok(self.client.perform_actions(MouseActions::new("mouse".to_owned()).then(there)).await?)
    }

    /// Presses the mouse where it is.
    pub async fn click_here(&self) -> Result<()> {
        let press = MouseActions::new("mouse".to_owned())
            .then(PointerAction::Down { button: MOUSE_BUTTON_LEFT })
            .then(PointerAction::Up { button: MOUSE_BUTTON_LEFT });
        Ok(self.client.perform_actions(press).await?)
    }

    /// Goes into the frame in the open shadow tree of the first element that this selects: all other calls mean the frame.
    pub async fn enter_frame(&self, selector: &str) -> Result<()> {
        let host = self.client.find(Locator::Css(selector)).await?;
        host.shadow_root().await?.find(Locator::Css("iframe")).await?.enter_frame().await?;
        Ok(())
    }

    /// Back to the page around.
    pub async fn leave_frame(&self) -> Result<()> {
        Ok(self.client.enter_parent_frame().await?)
    }

    pub async fn press_stop(&self) -> Result<()> {
        self.press("stop").await
    }

    pub async fn press_pause(&self) -> Result<()> {
        self.press("pause").await
    }

    /// A real click on the element with this id.
    pub async fn press(&self, id: &str) -> Result<()> {
        self.seen(id).await?.click().await.with_context(|| format!("pressing #{id}"))
    }

    async fn seen(&self, id: &str) -> Result<Element> {
        let css = format!("#{id}:not([disabled])");
        let wait = self.client.wait().at_most(PAGE_LIMIT).every(Duration::from_millis(100));
        let button = wait.for_element(Locator::Css(&css)).await.with_context(|| format!("no #{id} to press"))?;
        self.wait_in_page(&format!("document.getElementById({id:?})?.checkVisibility() === true"), PAGE_LIMIT)
            .await
            .with_context(|| format!("#{id} is not visible"))?;
        Ok(button)
    }

    /// The state that the page mirrors for tests.
    pub async fn state(&self) -> Result<Value> {
        self.run("return { ...document.documentElement.dataset };").await
    }

    /// Runs a synchronous script in the page.
    pub async fn run(&self, script: &str) -> Result<Value> {
        self.client.execute(script, Vec::new()).await.with_context(|| format!("running {script}"))
    }

    /// Runs a script in the page that ends by calling its last argument.
    pub async fn run_async(&self, script: &str) -> Result<Value> {
        self.client.execute_async(script, Vec::new()).await.with_context(|| format!("running {script}"))
    }

    /// Waits until `condition`, a JavaScript expression over `d`, the mirrored state, holds; gives the state then.
    /// For instance `d.jobState === "finished"`.
    pub async fn wait_until(&self, condition: &str, limit: Duration) -> Result<Value> {
        self.wait_in_page(condition, limit).await
    }

    async fn wait_in_page(&self, condition: &str, limit: Duration) -> Result<Value> {
        assert!(limit < SCRIPT_MAX, "longer than a script may run");
        let script = format!(
            r#"const [limitMs, done] = arguments;
            const d = document.documentElement.dataset;
            const end = (met) => {{ watch.disconnect(); clearTimeout(timer); done({{ met, state: {{ ...d }} }}); }};
            const check = () => {{ if ({condition}) {{ end(true); return true; }} return false; }};
            const watch = new MutationObserver(check);
            const timer = setTimeout(() => end(false), limitMs);
            if (!check()) watch.observe(document.documentElement, {{ attributes: true, subtree: true }});"#
        );
        let limit_ms = u64::try_from(limit.as_millis())?;
        let answer = self.client.execute_async(&script, vec![json!(limit_ms)]).await;
        let answer = answer.with_context(|| format!("waiting for {condition}"))?;
        let state = answer["state"].clone();
        if answer["met"] != json!(true) {
            let log = self.console_log().await.unwrap_or_default().join("\n");
            bail!("not within {limit:?}: {condition}\nstate: {state}\nconsole:\n{log}");
        }
        Ok(state)
    }

    /// Waits, in a page with a `<many-hands>`, until a condition over that element `e`, or over `all` of them, holds.
    pub async fn wait_for_element(&self, condition: &str, limit: Duration) -> Result<()> {
        let limit_ms = limit.as_millis();
        let met = self
            .run_async(&format!(
                "const done = arguments[arguments.length - 1];
                const all = [...document.querySelectorAll('many-hands')], [e] = all;
                const check = () => {{ if ({condition}) done(true); }};
                for (const one of all) {{
                    for (const name of ['statechange', 'contributionchange']) one.addEventListener(name, check);
                }}
                setTimeout(() => done(all.map(({{ state }}) => state)), {limit_ms});
                check();"
            ))
            .await?;
        ensure!(met == json!(true), "not within {limit:?}: {condition}; state {met}; {:?}", self.console_log().await?);
        Ok(())
    }

    /// Keeps a picture of the whole page.
    pub async fn screenshot(&self, path: &Path) -> Result<()> {
        let png = self.client.screenshot().await?;
        ensure!(png.starts_with(b"\x89PNG"), "the screenshot is no PNG");
        Ok(std::fs::write(path, png)?)
    }

    /// What the driver answers to a request that WebDriver does not know.
    async fn ask_driver(&self, path: &str, body: Value) -> Result<Value> {
        let session = self.client.session_id().await?.context("the session has an id")?;
        let url = format!("{}/session/{session}/{path}", self.driver_url);
        let request = reqwest::Client::new().post(url).header("content-type", "application/json").body(body.to_string());
        Ok(serde_json::from_slice(&request.send().await?.bytes().await?)?)
    }

    /// A command of the browser's debugger, to the current window.
    async fn debug(&self, command: &str, parameters: Value) -> Result<()> {
        let answer = self.ask_driver("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await?;
        ensure!(answer["value"]["error"].is_null(), "{command}: {answer}");
        Ok(())
    }

    /// From now on the page's own processor time takes so many times as long.
    pub async fn slow_down(&self, factor: u32) -> Result<()> {
        self.debug("Emulation.setCPUThrottlingRate", json!({ "rate": factor })).await
    }

    /// A window of this size in CSS pixels, however large the browser's own is.
    pub async fn resize(&self, width: u32, height: u32) -> Result<()> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.debug("Emulation.setDeviceMetricsOverride", size).await
    }

    /// Whether the visitor's system asks for less motion.
    pub async fn reduce_motion(&self, reduced: bool) -> Result<()> {
        let value = if reduced { "reduce" } else { "no-preference" };
        let features = json!([{ "name": "prefers-reduced-motion", "value": value }]);
        self.debug("Emulation.setEmulatedMedia", json!({ "features": features })).await
    }

    /// A key, as a hand would type it: a character, or one of WebDriver's names for the others (its section 17.4.2).
    pub async fn type_key(&self, value: char) -> Result<()> {
        let actions = [KeyAction::Down { value }, KeyAction::Up { value }];
        let typed = actions.into_iter().fold(KeyActions::new("keyboard".to_owned()), InputSource::then);
        Ok(self.client.perform_actions(typed).await?)
    }

    /// Draws a line over an element with the mouse, between points in pixels from its middle.
    pub async fn drag(&self, selector: &str, from: (i64, i64), to: (i64, i64)) -> Result<()> {
        let element = self.client.find(Locator::Css(selector)).await?;
        self.run(&format!("document.querySelector('{selector}').scrollIntoView({{ block: 'center' }});")).await?;
        let move_to = |(x, y): (i64, i64)| PointerAction::MoveToElement {
            element: element.clone(),
            duration: None,
            x: x as f64,
            y: y as f64,
        };
        let line = MouseActions::new("mouse".to_owned())
            .then(move_to(from))
            .then(PointerAction::Down { button: MOUSE_BUTTON_LEFT })
            .then(move_to(to))
            .then(PointerAction::Up { button: MOUSE_BUTTON_LEFT });
        Ok(self.client.perform_actions(line).await?)
    }

    /// From the next page on, this script runs before theirs.
    pub async fn before_pages(&self, script: &str) -> Result<()> {
        self.debug("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script })).await
    }

    /// From the next page on, pages may load what their policy forbids.
    pub async fn ignore_policies(&self) -> Result<()> {
        self.debug("Page.setBypassCSP", json!({ "enabled": true })).await
    }

    /// From the next page on, the browser is one of somebody who reads these languages, as its settings name them.
    pub async fn read_languages(&self, tags: &str) -> Result<()> {
        let agent = self.run("return navigator.userAgent;").await?;
        self.debug("Emulation.setUserAgentOverride", json!({ "userAgent": agent, "acceptLanguage": tags })).await
    }

    /// Console lines since the last call.
    pub async fn console_log(&self) -> Result<Vec<String>> {
        let answer = self.ask_driver("se/log", json!({ "type": "browser" })).await?;
        let entries = answer["value"].as_array().context("the log is a list")?;
        Ok(entries.iter().map(|e| format!("{} {}", text(&e["level"]), text(&e["message"]))).collect())
    }

    /// Addresses of everything that the current window has fetched.
    pub async fn resources(&self) -> Result<Vec<String>> {
        let list = self.run("return performance.getEntriesByType('resource').map((entry) => entry.name);").await?;
        let list = list.as_array().context("a list of names")?;
        Ok(list.iter().map(text).collect())
    }

    /// Runs a script in every worker of this name, workers of workers among them; gives how many there were.
    pub async fn run_in_workers(&self, name: &str, script: &str) -> Result<u64> {
        // Two lines: the debugger's port and path. The page's own policy lets it connect to nobody, but this answer has none.
        let address = std::fs::read_to_string(self.profile.path().join("profile/DevToolsActivePort"))?;
        let (port, path) = address.split_once('\n').context("the debugger's port and path")?;
        let page = self.window().await?;
        let beside = self.client.current_url().await?.join("/v1/info")?;
        self.open_window(beside.as_str()).await?;
        let arguments = vec![json!(format!("ws://127.0.0.1:{port}{}", path.trim())), json!(name), json!(script)];
        let ran = self.client.execute_async(RUN_IN_WORKERS, arguments).await.context("running a script in workers");
        self.client.close_window().await?;
        self.switch_to(&page).await?;
        let ran = ran?;
        ran.as_u64().with_context(|| format!("in place of a count: {ran}"))
    }

    /// Processor time so far of what computes for the browser's pages: the GPU process, and the pages' workers.
    pub fn device_time(&self) -> Duration {
        let mark = self.profile.path().to_string_lossy();
        processor_time(&mark, "--type=gpu-process", None) + processor_time(&mark, "--type=renderer", Some("DedicatedWorker"))
    }

    /// Cores' worth of that time over so long a while.
    pub async fn device_share(&self, during: Duration) -> f64 {
        let (before, begun) = (self.device_time(), Instant::now());
        tokio::time::sleep(during).await;
        let share = (self.device_time() - before).as_secs_f64() / begun.elapsed().as_secs_f64();
        eprintln!("{share:.3} cores over {during:?}");
        share
    }

    /// Ends the process that holds all of the browser's devices, as a crash of a driver would. The browser starts another.
    pub fn crash_gpu(&self) -> Result<()> {
        let crashed = kill_one(&self.profile.path().to_string_lossy(), "--type=gpu-process");
        ensure!(crashed, "the browser has no GPU process");
        Ok(())
    }

    /// Ends the browser as a crash would: no unload handlers, no good-byes.
    pub fn kill(&mut self) {
        kill_marked(&self.profile.path().to_string_lossy());
        self.driver.kill_9();
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The text of a JSON string; of anything else its JSON.
pub fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A member of the mirrored state as a number; an error names it.
pub fn number(state: &Value, name: &str) -> Result<f64> {
    text(&state[name]).parse().with_context(|| format!("{name} is no number in {state}"))
}

/// A program on PATH. Missing is a failure, never a skipped test.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    found.with_context(|| format!("{name} is not installed; {INSTALL}"))
}
