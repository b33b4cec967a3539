//! Child processes whose first lines tell where they listen, and who never outlive their owner. Linux only: a browser's
//! processes are found through /proc by the profile folder that is theirs alone.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A child that is killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    /// Behind a mutex only so that a process may be shared between tasks.
    lines: Mutex<Receiver<String>>,
}

impl Process {
    /// Starts `command` with its standard output read line by line and its standard error appended to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Result<Process> {
        let name = command.get_program().to_string_lossy().into_owned();
        let log = File::options().create(true).append(true).open(log)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn();
        let mut child = child.with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().expect("standard output was piped");
        let (sender, lines) = channel();
        // Ends with the child's output; reading on keeps the child from blocking on a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Ok(Process { name, child, lines: Mutex::new(lines) })
    }

    /// What follows `marker` on the first line that contains it, within `limit`.
    pub fn line_after(&mut self, marker: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            match self.next_line(deadline) {
                Ok(line) => {
                    if let Some((_, rest)) = line.split_once(marker) {
                        return Ok(rest.to_owned());
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("{} did not say {marker:?} within {limit:?}", self.name),
                Err(RecvTimeoutError::Disconnected) => bail!("{} ended before it said {marker:?}", self.name),
            }
        }
    }

    fn next_line(&mut self, deadline: Instant) -> Result<String, RecvTimeoutError> {
        let lines = self.lines.get_mut().expect("no holder of the lock panics");
        lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    }

    /// SIGKILL, as a crash or a power cut would end it, and its end awaited.
    pub fn kill_9(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has ended, and well.
    pub fn ended(&mut self) -> Result<Option<bool>> {
        Ok(self.child.try_wait()?.map(|status| status.success()))
    }

    /// Waits until it ends by itself; true if well.
    pub fn wait(&mut self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        // Its output closes when it ends: no polling.
        loop {
            match self.next_line(deadline) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(self.child.wait()?.success()),
                Err(RecvTimeoutError::Timeout) => bail!("{} did not end within {limit:?}", self.name),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_9();
    }
}

/// Kills every process one of whose arguments contains `mark`, which must be a path of our own making. Repeats until
/// none is left, as a browser may start another meanwhile.
pub fn kill_marked(mark: &str) {
    assert!(mark.len() >= 12 && mark.starts_with('/'), "{mark:?} would match too much");
    for _ in 0..50 {
        let found = marked(mark);
        if found.is_empty() {
            return;
        }
        for id in found {
            // SIGKILL through the shell's own command: no unsafe code for one call.
            let _ = Command::new("kill").args(["-9", &id.to_string()]).stderr(Stdio::null()).status();
        }
    }
}

/// Kills one process one of whose arguments contains `mark`, as [`kill_marked`], and which also has `argument`; false if
/// there is none. Chromium's own processes rewrite theirs as one text.
pub fn kill_one(mark: &str, argument: &str) -> bool {
    let found = marked(mark).into_iter().find(|&id| arguments(id).contains(argument));
    found.is_some_and(|id| Command::new("kill").args(["-9", &id.to_string()]).status().is_ok_and(|status| status.success()))
}

/// Processor time so far, of all threads together, of processes one of whose arguments contains `mark`: of those that also
/// have `argument` in whole, or of their threads of this name alone. What ended is counted in whole processes only.
pub fn processor_time(mark: &str, argument: &str, thread: Option<&str>) -> Duration {
    let processes = marked(mark).into_iter().filter(|&id| arguments(id).contains(argument));
    let ticks: u64 = match thread {
        None => processes.map(|id| ticks(Path::new(&format!("/proc/{id}/stat")), None)).sum(),
        Some(_) => processes
            .filter_map(|id| std::fs::read_dir(format!("/proc/{id}/task")).ok())
            .flat_map(|tasks| tasks.filter_map(Result::ok))
            .map(|task| ticks(&task.path().join("stat"), thread))
            .sum(),
    };
    Duration::from_millis(ticks * 1000 / TICKS_PER_S)
}

/// Of every Linux, as the kernel tells them to programs.
const TICKS_PER_S: u64 = 100;

/// User and system time in a `stat` file of proc(5), in ticks; 0 for one that is gone or has another name.
fn ticks(stat: &Path, name: Option<&str>) -> u64 {
    let text = std::fs::read_to_string(stat).unwrap_or_default();
    // The name is in brackets, may hold any character, and is cut off after fifteen.
    let Some(((_, own), rest)) = text.rsplit_once(") ").and_then(|(head, rest)| Some((head.split_once('(')?, rest))) else {
        return 0;
    };
    if name.is_some_and(|name| !own.starts_with(name)) {
        return 0;
    }
    // Fields 14 and 15; the rest begins with field 3.
    rest.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn marked(mark: &str) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let processes = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    processes.filter(|&id| id != std::process::id() && arguments(id).contains(mark)).collect()
}

/// Arguments of a process; empty for one that has ended, also while nobody has awaited it.
fn arguments(id: u32) -> String {
    let mut text = Vec::new();
    let read = File::open(format!("/proc/{id}/cmdline")).and_then(|mut file| file.read_to_end(&mut text));
    if read.is_err() { String::new() } else { String::from_utf8_lossy(&text).into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (tempfile::TempDir, Process) {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::start(Command::new("sh").args(["-c", script]), &folder.path().join("log")).unwrap();
        (folder, process)
    }

    #[test]
    fn lines_and_ends_are_told() {
        let (_folder, mut process) = shell("echo hello; echo port 12; exit 3");
        assert_eq!(process.line_after("port ", Duration::from_secs(10)).unwrap(), "12");
        assert!(!process.wait(Duration::from_secs(10)).unwrap());
        let (_folder, mut silent) = shell("exit 0");
        assert!(silent.line_after("port ", Duration::from_secs(10)).unwrap_err().to_string().contains("ended before"));
        let (_folder, mut slow) = shell("exec sleep 600");
        assert!(slow.line_after("port ", Duration::from_millis(50)).is_err());
        assert!(slow.wait(Duration::from_millis(50)).is_err());
    }

    #[test]
    fn processor_time_is_what_the_kernel_counts() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().to_str().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "#!/bin/sh\nwhile [ $((i += 1)) -lt 300000 ]; do :; done; echo busy; exec sleep 600\n").unwrap();
        let mut busy = Process::start(Command::new("sh").arg(&file).arg("--kind=busy"), &folder.path().join("log")).unwrap();
        assert_eq!(processor_time(mark, "--kind=idle", None), Duration::ZERO);
        let time = || processor_time(mark, "--kind=busy", None);
        let name = |name| processor_time(mark, "--kind=busy", Some(name));
        let begun = Instant::now();
        while time() < Duration::from_millis(20) && begun.elapsed() < Duration::from_secs(10) {}
        let (whole, threads, none) = (time(), name("sh"), name("another"));
        assert!(whole >= Duration::from_millis(20) && threads >= whole && none == Duration::ZERO, "{whole:?} {threads:?}");
        busy.line_after("busy", Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn marked_processes_are_killed_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().to_str().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "up\n").unwrap();
        let log = folder.path().join("log");
        let mut marked = Process::start(Command::new("tail").arg("-f").arg(&file), &log).unwrap();
        let (_b, mut other) = shell("echo up; exec sleep 600");
        marked.line_after("up", Duration::from_secs(10)).unwrap();
        other.line_after("up", Duration::from_secs(10)).unwrap();
        kill_marked(mark);
        assert!(!marked.wait(Duration::from_secs(10)).unwrap());
        assert_eq!(other.ended().unwrap(), None);
    }
}
