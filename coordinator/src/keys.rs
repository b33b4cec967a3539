//! The coordinator's secrets: its signing key, the operator's token and the nonces of `GET /v1/info`.
//!
//! Nothing secret is printed: `Debug` shows the public key alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use manyhands_protocol::log::note::{self, Checkpoint, Note, NoteSignature};
use manyhands_protocol::{BlobHash, KeyId, cose, limits, log};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Bytes of the random part of a nonce.
const NONCE_RANDOM_BYTES: usize = 16;
/// Random part, time of issue, tag.
pub const NONCE_BYTES: usize = NONCE_RANDOM_BYTES + 8 + 32;

/// A key or token file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: not 64 hexadecimal digits; restore it from a backup, or move it away to start with a new one")]
    Malformed { path: PathBuf },
    #[error("no randomness from the operating system: {0}")]
    Random(getrandom::Error),
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Name of the blob with these bytes.
pub fn blob_hash(bytes: &[u8]) -> BlobHash {
    BlobHash(sha256(bytes))
}

/// 32 bytes from the operating system's generator.
pub fn random32() -> Result<[u8; 32], KeyError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(KeyError::Random)?;
    Ok(bytes)
}

/// 64 bits from the operating system's generator.
pub fn random64() -> Result<u64, KeyError> {
    let [a, b, c, d, e, f, g, h, ..] = random32()?;
    Ok(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}

/// Uniform on 0 to 1, 1 excluded, in as many bits as f64 holds.
pub fn draw() -> Result<f64, KeyError> {
    Ok((random64()? >> 11) as f64 / (1u64 << 53) as f64)
}

/// Whether `key` signed `message`; refuses small-order keys and malleable signatures.
pub fn signed_by(key: KeyId, message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(&key.0)
        .is_ok_and(|verifier| verifier.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
}

/// What the coordinator keeps secret.
pub struct Keys {
    signing: SigningKey,
    nonce_secret: Zeroizing<[u8; 32]>,
    admin_token_hash: [u8; 32],
    /// Where the operator's token is kept.
    pub admin_token_path: PathBuf,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("key", &self.id()).finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads `coordinator.key` and `admin.token` from the data folder, or makes them with mode 0600.
    pub fn load_or_create(data_dir: &Path) -> Result<Keys, KeyError> {
        let seed = load_or_create_secret(&data_dir.join("coordinator.key"))?;
        let admin_token_path = data_dir.join("admin.token");
        let token = load_or_create_secret(&admin_token_path)?;
        let nonce_secret = sha256(&[b"manyhands nonce v1".as_slice(), seed.as_slice()].concat());
        Ok(Keys {
            signing: SigningKey::from_bytes(&seed),
            nonce_secret: Zeroizing::new(nonce_secret),
            admin_token_hash: sha256(hex::encode(token.as_slice()).as_bytes()),
            admin_token_path,
        })
    }

    /// The public key of a data folder, in which nothing is changed; none where it has no `coordinator.key`.
    pub fn read_id(data_dir: &Path) -> Result<Option<KeyId>, KeyError> {
        let path = data_dir.join("coordinator.key");
        let seed = read_secret(&path)?;
        Ok(seed.map(|seed| KeyId(SigningKey::from_bytes(&seed).verifying_key().to_bytes())))
    }

    /// The coordinator's public key.
    pub fn id(&self) -> KeyId {
        KeyId(self.signing.verifying_key().to_bytes())
    }

    /// A signed COSE_Sign1 envelope around `payload`.
    pub fn sign(&self, kind: cose::Kind, payload: Vec<u8>) -> Vec<u8> {
        let unsigned = cose::prepare(kind, self.id(), payload);
        let signature = self.signing.sign(&unsigned.to_be_signed());
        unsigned.finish(signature.to_bytes())
    }

    /// A plain signature.
    pub fn sign_bytes(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }

    /// The log's checkpoint as a signed note.
    pub fn sign_checkpoint(&self, size: u64, root: log::Hash) -> String {
        let (key, origin) = (self.id(), note::origin(self.id()));
        let text = Checkpoint { origin: origin.clone(), size, root }.text();
        let signature = self.sign_bytes(text.as_bytes()).to_vec();
        Note { signatures: vec![NoteSignature::new(&origin, note::ED25519, key, signature)], text }.encode()
    }

    /// Whether this is the operator's token. Hashes are compared, so that timing tells nothing about the token.
    pub fn is_admin(&self, token: &str) -> bool {
        sha256(token.as_bytes()) == self.admin_token_hash
    }

    /// A fresh session nonce. It carries its time and a tag, so that nothing is stored until it is used.
    pub fn nonce(&self, now_ms: u64) -> Result<[u8; NONCE_BYTES], KeyError> {
        let mut nonce = [0; NONCE_BYTES];
        nonce[..NONCE_RANDOM_BYTES].copy_from_slice(&random32()?[..NONCE_RANDOM_BYTES]);
        nonce[NONCE_RANDOM_BYTES..][..8].copy_from_slice(&now_ms.to_be_bytes());
        let tag = self.nonce_tag(&nonce[..NONCE_RANDOM_BYTES + 8]);
        nonce[NONCE_RANDOM_BYTES + 8..].copy_from_slice(&tag);
        Ok(nonce)
    }

    /// Whether [`Keys::nonce`] gave this out at most [`limits::NONCE_MS`] ago. That it is used once is the store's part.
    pub fn nonce_is_fresh(&self, nonce: &[u8], now_ms: u64) -> bool {
        if nonce.len() != NONCE_BYTES {
            return false;
        }
        let (message, tag) = nonce.split_at(NONCE_RANDOM_BYTES + 8);
        let mut issued = [0; 8];
        issued.copy_from_slice(&message[NONCE_RANDOM_BYTES..]);
        let issued_ms = u64::from_be_bytes(issued);
        // Hashes of tags are compared, so that timing tells nothing about the right tag.
        sha256(tag) == sha256(&self.nonce_tag(message)) && issued_ms <= now_ms && now_ms - issued_ms <= limits::NONCE_MS
    }

    /// Keyed hash. The message's length is fixed, so SHA-256's length extension does not apply.
    fn nonce_tag(&self, message: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(self.nonce_secret.as_slice()).chain_update(message).finalize().into()
    }
}

pub(crate) fn load_or_create_secret(path: &Path) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    if let Some(secret) = read_secret(path)? {
        return Ok(secret);
    }
    let secret = Zeroizing::new(random32()?);
    let text = Zeroizing::new(format!("{}\n", hex::encode(secret.as_slice())));
    replace_file(path, text.as_bytes()).map_err(|error| KeyError::Io { path: path.to_owned(), error })?;
    Ok(secret)
}

/// None where there is no such file.
fn read_secret(path: &Path) -> Result<Option<Zeroizing<[u8; 32]>>, KeyError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(KeyError::Io { path: path.to_owned(), error }),
    };
    warn_if_readable_by_others(path);
    let mut secret = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim(), secret.as_mut_slice()).map_err(|_| KeyError::Malformed { path: path.to_owned() })?;
    Ok(Some(secret))
}

/// Writes beside and renames, so that a crash leaves the file as it was or as it is to be; on the disk when this returns. For its
/// owner's eyes alone.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let staged = path.with_added_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file: File = options.open(&staged)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&staged, path)?;
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        // Of a bare name it is empty.
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(unix)]
fn warn_if_readable_by_others(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o077 != 0) {
        tracing::warn!(path = %path.display(), "secret file is readable by others; run chmod 600 on it");
    }
}

#[cfg(not(unix))]
fn warn_if_readable_by_others(_: &Path) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_survive_a_restart_and_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let first = Keys::load_or_create(folder.path()).unwrap();
        let second = Keys::load_or_create(folder.path()).unwrap();
        assert_eq!(first.id(), second.id());
        let token = fs::read_to_string(&first.admin_token_path).unwrap();
        assert!(second.is_admin(token.trim()));
        assert!(!second.is_admin(""));
        assert!(!second.is_admin(&"0".repeat(64)));
        #[cfg(unix)]
        for name in ["coordinator.key", "admin.token"] {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        let seed = fs::read_to_string(folder.path().join("coordinator.key")).unwrap();
        assert!(!format!("{first:?}").contains(seed.trim()));
    }

    #[test]
    fn a_damaged_key_file_is_an_error_and_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coordinator.key");
        fs::write(&path, "half").unwrap();
        assert!(matches!(Keys::load_or_create(folder.path()), Err(KeyError::Malformed { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "half");
    }

    #[test]
    fn nonces_are_ours_and_fresh() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (keys, other) = (Keys::load_or_create(here.path()).unwrap(), Keys::load_or_create(there.path()).unwrap());
        let nonce = keys.nonce(1_000_000).unwrap();
        assert_ne!(nonce, keys.nonce(1_000_000).unwrap());
        assert!(keys.nonce_is_fresh(&nonce, 1_000_000));
        assert!(keys.nonce_is_fresh(&nonce, 1_000_000 + limits::NONCE_MS));
        assert!(!keys.nonce_is_fresh(&nonce, 1_000_001 + limits::NONCE_MS));
        assert!(!keys.nonce_is_fresh(&nonce, 999_999));
        assert!(!other.nonce_is_fresh(&nonce, 1_000_000));
        assert!(!keys.nonce_is_fresh(&nonce[1..], 1_000_000));
        for at in 0..nonce.len() {
            let mut forged = nonce;
            forged[at] ^= 1;
            assert!(!keys.nonce_is_fresh(&forged, 1_000_000), "{at}");
        }
    }

    #[test]
    fn signatures_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::load_or_create(folder.path()).unwrap();
        let opened = cose::open(cose::Kind::UnitManifest, &keys.sign(cose::Kind::UnitManifest, vec![0xa0])).unwrap();
        assert!(signed_by(keys.id(), &opened.to_be_signed, &opened.signature));
        assert!(!signed_by(KeyId([7; 32]), &opened.to_be_signed, &opened.signature));
        assert!(!signed_by(keys.id(), b"other", &opened.signature));
        // The neutral element as key would verify anything without the strict check.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(!signed_by(KeyId(neutral), b"anything", &signature));
    }
}
