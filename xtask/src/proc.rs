//! Starting other programs: each in a process group of its own, so that a limit, an error or Ctrl-C ends it together
//! with everything it started (a browser's many processes). Nothing here knows what the programs are for.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::root;

/// How long a group may take to end after SIGTERM before it gets SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// How often a child's end is looked for; nothing waits on this for correctness.
const POLL: Duration = Duration::from_millis(25);

/// A command that runs in the repository's root.
pub fn command(program: impl AsRef<OsStr>, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root());
    command
}

/// What would have to be typed for this command.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs to the end; an error names the command.
pub fn run(command: &mut Command) -> Result<()> {
    let text = shown(command);
    let status = command.status().with_context(|| format!("cannot start `{text}`"))?;
    if !status.success() {
        bail!("`{text}` failed ({status})");
    }
    Ok(())
}

/// Standard output of a short command, or `None` where it is missing or fails.
pub fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = command(program, args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Whether `program` is on PATH.
pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// A running program and all that it started. Dropping it ends the whole group.
pub struct Group {
    child: Child,
    name: String,
}

impl Group {
    /// Starts `command` as the leader of a new process group, without input: it is not the terminal's foreground group.
    pub fn start(command: &mut Command) -> Result<Group> {
        let name = shown(command);
        let child = command.stdin(Stdio::null()).process_group(0).spawn().with_context(|| format!("cannot start `{name}`"))?;
        Ok(Group { child, name })
    }

    /// The child's standard output, if it was piped and not taken before.
    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot ask after `{}`", self.name))
    }

    /// Waits at most until `deadline`, or until `interrupt` fires; `None` when it still runs then.
    fn wait_until(&mut self, deadline: Instant, interrupt: &Interrupt) -> Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline || interrupt.wait(POLL) {
                return Ok(None);
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("process ids fit i32");
        // The group may be gone already, which is what was wanted.
        let _ = killpg(Pid::from_raw(id), signal);
    }

    /// SIGTERM, a short grace, SIGKILL.
    pub fn stop(&mut self) {
        if matches!(self.ended(), Ok(None)) {
            self.signal(Signal::SIGTERM);
            let _ = self.wait_until(Instant::now() + GRACE, &Interrupt::never());
        }
        // Whatever the leader left behind.
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How a limited run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Well,
    Badly(ExitStatus),
    PastLimit,
    Interrupted,
}

/// Runs `command` in a group for at most `limit`.
pub fn run_limited(command: &mut Command, limit: Duration, interrupt: &Interrupt) -> Result<Ended> {
    let mut group = Group::start(command)?;
    Ok(match group.wait_until(Instant::now() + limit, interrupt)? {
        Some(status) if status.success() => Ended::Well,
        Some(status) => Ended::Badly(status),
        None if interrupt.fired() => Ended::Interrupted,
        None => Ended::PastLimit,
    })
}

/// Set once by Ctrl-C, SIGTERM or a closed terminal.
#[derive(Clone)]
pub struct Interrupt {
    fired: Arc<Mutex<Fired>>,
}

struct Fired {
    already: bool,
    signal: Option<mpsc::Receiver<()>>,
}

impl Interrupt {
    /// Takes over the signals of this process; may be called once.
    pub fn install() -> Result<Interrupt> {
        let (sender, receiver) = mpsc::channel();
        ctrlc::set_handler(move || {
            // A second Ctrl-C finds nobody listening any more; the first is being obeyed.
            let _ = sender.send(());
        })
        .context("cannot listen for Ctrl-C")?;
        Ok(Interrupt { fired: Arc::new(Mutex::new(Fired { already: false, signal: Some(receiver) })) })
    }

    /// One that never fires.
    pub fn never() -> Interrupt {
        Interrupt { fired: Arc::new(Mutex::new(Fired { already: false, signal: None })) }
    }

    /// Waits for at most `time`; true as soon as it has fired.
    pub fn wait(&self, time: Duration) -> bool {
        let mut fired = self.fired.lock().expect("nothing panics with this lock held");
        if fired.already {
            return true;
        }
        match &fired.signal {
            Some(signal) => match signal.recv_timeout(time) {
                Ok(()) => fired.already = true,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            },
            None => std::thread::park_timeout(time),
        }
        fired.already
    }

    pub fn fired(&self) -> bool {
        self.wait(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_end_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        // The grandchild outlives its parent unless the group is ended.
        let script = format!("sleep 600 & echo $! > {} ; wait", pid.display());
        let ended = run_limited(&mut command("sh", &["-c", &script]), Duration::from_millis(500), &Interrupt::never()).unwrap();
        assert_eq!(ended, Ended::PastLimit);
        let grandchild: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        let state = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
        let gone = state.is_empty() || state.rsplit(") ").next().unwrap().starts_with('Z');
        assert!(gone, "the grandchild still runs: {state}");
    }

    #[test]
    fn ends_are_told_apart() {
        let run = |script: &str| {
            run_limited(&mut command("sh", &["-c", script]), Duration::from_secs(60), &Interrupt::never()).unwrap()
        };
        assert_eq!(run("exit 0"), Ended::Well);
        assert!(matches!(run("exit 3"), Ended::Badly(status) if status.code() == Some(3)));
        assert!(run_limited(&mut command("no-such-program", &[]), Duration::from_secs(1), &Interrupt::never()).is_err());
    }
}
