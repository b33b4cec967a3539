//! Where a terminal volunteer keeps what its tuner measured: a JSON file beside the key file, an object of texts. Without
//! a key file it is forgotten with the run. Nothing in it is needed: an unreadable file is an empty one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// A longer file is not read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The texts, by name.
#[derive(Debug, Default)]
pub struct TuningFile {
    path: Option<PathBuf>,
    /// What is kept where there is no file.
    memory: RefCell<BTreeMap<String, String>>,
}

/// Held by the one program that measures; the system lets go of it when that ends, however it does.
#[derive(Debug)]
pub struct TuningLock {
    _file: Option<File>,
}

impl TuningFile {
    pub fn beside(key_file: Option<&Path>) -> TuningFile {
        TuningFile { path: key_file.map(|key| with_suffix(key, ".tuning.json")), memory: RefCell::default() }
    }

    /// None while another program that shares the file measures.
    pub fn lock(&self) -> Option<TuningLock> {
        let Some(path) = &self.path else { return Some(TuningLock { _file: None }) };
        let file = File::create(with_suffix(path, ".lock")).ok();
        match file.as_ref().map(File::try_lock) {
            Some(Err(fs::TryLockError::WouldBlock)) => None,
            // Where locks are not to be had, everyone holds.
            _ => Some(TuningLock { _file: file }),
        }
    }

    pub fn load(&self, name: &str) -> Option<String> {
        self.read().remove(name)
    }

    /// Keeps a text; on the disk when it returns, where that can be done.
    pub fn store(&self, name: &str, text: &str) {
        let mut texts = self.read();
        texts.insert(name.to_owned(), text.to_owned());
        match &self.path {
            Some(path) => {
                let _ = write(path, &texts);
            }
            None => *self.memory.borrow_mut() = texts,
        }
    }

    fn read(&self) -> BTreeMap<String, String> {
        let Some(path) = &self.path else { return self.memory.borrow().clone() };
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
        read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default()
    }
}

fn write(path: &Path, texts: &BTreeMap<String, String>) -> std::io::Result<()> {
    let new = with_suffix(path, ".new");
    let mut file = File::create(&new)?;
    file.write_all(serde_json::to_string_pretty(texts)?.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_kept_beside_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        let file = TuningFile::beside(Some(&key));
        assert_eq!(file.load("a"), None);
        file.store("a", "one\ntwo");
        file.store("b", "three");
        let again = TuningFile::beside(Some(&key));
        assert_eq!((again.load("a").as_deref(), again.load("b").as_deref()), (Some("one\ntwo"), Some("three")));
        for nonsense in ["", "[]", "{\"a\": 1}", "{\"a\":"] {
            fs::write(folder.path().join("key.tuning.json"), nonsense).unwrap();
            assert_eq!(file.load("a"), None, "{nonsense}");
        }
        file.store("a", "again");
        assert_eq!(file.load("a").as_deref(), Some("again"));
    }

    #[test]
    fn one_program_measures_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        let (one, other) = (TuningFile::beside(Some(&key)), TuningFile::beside(Some(&key)));
        let lock = one.lock();
        assert!(lock.is_some() && other.lock().is_none());
        drop(lock);
        assert!(other.lock().is_some());
        let alone = TuningFile::beside(None);
        assert!(alone.lock().is_some() && alone.lock().is_some());
        alone.store("a", "kept");
        assert_eq!(alone.load("a").as_deref(), Some("kept"));
    }
}
