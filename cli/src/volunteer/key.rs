//! The terminal volunteer's key: a seed in a file that only its owner may read, or for one run in memory.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use manyhands::volunteer::identity::Identity;
use zeroize::Zeroizing;

/// A file that is no usable key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
    #[error("{path}: is not a key: 64 lower-case hexadecimal digits and a line end are expected")]
    Content { path: String },
    #[error("{path}: others may read it (mode {mode:03o}); run: chmod 600 {path}")]
    Readable { path: String, mode: u32 },
    #[error("the system gives no randomness: {0}")]
    Random(getrandom::Error),
}

/// Hexadecimal digits of a seed, and a line end.
const FILE_BYTES: u64 = 65;

/// The key in the file, made if there is no file.
pub fn open(path: &Path) -> Result<Identity, KeyError> {
    let failed = |source| KeyError::File { path: path.display().to_string(), source };
    match File::open(path) {
        Ok(file) => Ok(Identity::from_seed(&*read(path, file)?)),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let seed = random()?;
            write_seed(path, &seed)?;
            Ok(Identity::from_seed(&seed))
        }
        Err(e) => Err(failed(e)),
    }
}

/// The seed of the key in the file.
pub fn seed(path: &Path) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let file = File::open(path).map_err(|source| KeyError::File { path: path.display().to_string(), source })?;
    read(path, file)
}

/// Keeps a seed in a file that is not there yet.
pub fn write_seed(path: &Path, seed: &[u8; 32]) -> Result<(), KeyError> {
    write_new(path, Zeroizing::new(format!("{}\n", hex::encode(seed))).as_bytes())
}

/// Writes a file that is not there yet and only its owner may read, durably.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let failed = |source| KeyError::File { path: path.display().to_string(), source };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(failed)?;
    if let Err(e) = file.write_all(bytes).and_then(|()| file.sync_all()) {
        // Half a key would be refused for ever; what cannot be removed either is named by that refusal.
        let _ = fs::remove_file(path);
        return Err(failed(e));
    }
    Ok(())
}

/// A key for one run.
pub fn fresh() -> Result<Identity, KeyError> {
    Ok(Identity::from_seed(&*random()?))
}

fn read(path: &Path, file: File) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let name = || path.display().to_string();
    #[cfg(unix)]
    {
        let metadata = file.metadata().map_err(|source| KeyError::File { path: name(), source })?;
        let mode = std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Readable { path: name(), mode });
        }
    }
    let mut text = Zeroizing::new(String::new());
    file.take(FILE_BYTES + 1).read_to_string(&mut text).map_err(|source| KeyError::File { path: name(), source })?;
    let mut seed = Zeroizing::new([0; 32]);
    match hex::decode_to_slice(text.trim_end(), &mut *seed) {
        Ok(()) => Ok(seed),
        Err(_) => Err(KeyError::Content { path: name() }),
    }
}

/// A seed that nobody can guess.
pub fn random() -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(KeyError::Random)?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let first = open(&path).unwrap().key();
        assert_eq!(open(&path).unwrap().key(), first);
        assert_ne!(fresh().unwrap().key(), fresh().unwrap().key());
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(open(&path), Err(KeyError::Readable { mode: 0o644, .. })));
    }

    #[test]
    fn what_is_no_key_is_refused_and_left_alone() {
        for text in ["", "abc", &"zz".repeat(32), &"ab".repeat(33)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("key");
            open(&path).unwrap();
            fs::write(&path, text).unwrap();
            assert!(matches!(open(&path), Err(KeyError::Content { .. })), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
