//! The file that a key is kept in outside its owner's device, natively: docs/protocol.md, section 13, specifies it, and the page has
//! the same in crate/src/web/keyfile.rs; `tests/vectors/key-file.json` is read by both. It stores nothing and signs nothing.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use manyhands::keyfile::{BYTES_MAX, CIPHER, FORMAT, ITERATIONS, ITERATIONS_MAX, KDF, PKCS8, SEALED_BYTES, VERSION};
use manyhands::volunteer::identity::Identity;
use manyhands_protocol::KeyId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Why a file gives no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileFault {
    #[error("the file is too long for a key")]
    TooLong,
    #[error("the file is no key file: it is not JSON")]
    NotJson,
    #[error("the file is of another version")]
    Version,
    #[error("the file is damaged, or no key file")]
    Damaged,
    #[error("the passphrase does not open it")]
    WrongPassphrase,
}

/// What is drawn anew for each file.
pub struct Fresh {
    salt: [u8; 16],
    iv: [u8; 12],
}

impl Fresh {
    pub fn draw() -> Result<Fresh, getrandom::Error> {
        let mut fresh = Fresh { salt: [0; 16], iv: [0; 12] };
        getrandom::fill(&mut fresh.salt)?;
        getrandom::fill(&mut fresh.iv)?;
        Ok(fresh)
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    format: String,
    version: u64,
    key: String,
    kdf: Kdf,
    cipher: Cipher,
    sealed: String,
    checksum: String,
}

#[derive(Serialize, Deserialize)]
struct Kdf {
    name: String,
    iterations: u32,
    salt: String,
}

#[derive(Serialize, Deserialize)]
struct Cipher {
    name: String,
    iv: String,
}

/// A file's content, whole by its checksum.
#[derive(Debug)]
pub struct Sealed {
    key: KeyId,
    iterations: u32,
    salt: [u8; 16],
    iv: [u8; 12],
    sealed: Vec<u8>,
}

impl Sealed {
    /// The public half, as the file says; [`Sealed::open`] holds the private one to it.
    pub fn key(&self) -> KeyId {
        self.key
    }

    fn checksum(&self) -> String {
        let [salt, iv, sealed] = [hex::encode(self.salt), hex::encode(self.iv), hex::encode(&self.sealed)];
        let text = format!("{FORMAT} {VERSION} {} {} {salt} {iv} {sealed}", self.key, self.iterations);
        hex::encode(Sha256::digest(text))
    }

    fn cipher(&self, passphrase: &str) -> Aes256Gcm {
        let mut key = Zeroizing::new([0; 32]);
        pbkdf2::pbkdf2_hmac::<Sha256>(passphrase.as_bytes(), &self.salt, self.iterations, &mut *key);
        Aes256Gcm::new(&(*key).into())
    }

    /// The seed of the key. `passphrase` is in Unicode's form NFC.
    pub fn open(&self, passphrase: &str) -> Result<Zeroizing<[u8; 32]>, FileFault> {
        let payload = Payload { msg: &self.sealed, aad: &self.key.0 };
        // The checksum holds, so it is not the file.
        let opened = self.cipher(passphrase).decrypt(&Nonce::from(self.iv), payload);
        let plain = Zeroizing::new(opened.map_err(|_| FileFault::WrongPassphrase)?);
        let seed = plain.strip_prefix(&PKCS8).and_then(|seed| seed.try_into().ok()).map(Zeroizing::new);
        seed.filter(|seed| Identity::from_seed(seed).key() == self.key).ok_or(FileFault::Damaged)
    }
}

/// The file of the key with this seed. `passphrase` is in Unicode's form NFC.
pub fn seal(seed: &[u8; 32], passphrase: &str, Fresh { salt, iv }: Fresh) -> String {
    let mut file = Sealed { key: Identity::from_seed(seed).key(), iterations: ITERATIONS, salt, iv, sealed: Vec::new() };
    let plain = Zeroizing::new([&PKCS8[..], seed].concat());
    let payload = Payload { msg: &plain, aad: &file.key.0 };
    file.sealed = file.cipher(passphrase).encrypt(&Nonce::from(iv), payload).expect("a message of 48 bytes is not too long");
    let json = File {
        format: FORMAT.to_owned(),
        version: VERSION,
        key: file.key.to_string(),
        kdf: Kdf { name: KDF.to_owned(), iterations: ITERATIONS, salt: hex::encode(salt) },
        cipher: Cipher { name: CIPHER.to_owned(), iv: hex::encode(iv) },
        sealed: hex::encode(&file.sealed),
        checksum: file.checksum(),
    };
    let text = serde_json::to_string_pretty(&json).expect("texts and numbers are JSON");
    format!("{text}\n")
}

/// Reads a file, as far as that goes without its passphrase.
pub fn read(text: &str) -> Result<Sealed, FileFault> {
    if text.len() > BYTES_MAX {
        return Err(FileFault::TooLong);
    }
    let json: serde_json::Value = serde_json::from_str(text).map_err(|_| FileFault::NotJson)?;
    if json["format"] != FORMAT {
        return Err(FileFault::Damaged);
    }
    if json["version"] != VERSION {
        return Err(FileFault::Version);
    }
    let json: File = serde_json::from_value(json).map_err(|_| FileFault::Damaged)?;
    let file = fields(&json).ok_or(FileFault::Damaged)?;
    if json.checksum == file.checksum() { Ok(file) } else { Err(FileFault::Damaged) }
}

fn fields(json: &File) -> Option<Sealed> {
    if json.kdf.name != KDF || json.cipher.name != CIPHER {
        return None;
    }
    Some(Sealed {
        key: json.key.parse().ok()?,
        iterations: Some(json.kdf.iterations).filter(|n| (ITERATIONS..=ITERATIONS_MAX).contains(n))?,
        salt: bytes(&json.kdf.salt)?,
        iv: bytes(&json.cipher.iv)?,
        sealed: bytes::<SEALED_BYTES>(&json.sealed)?.to_vec(),
    })
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    hex::decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = include_str!("../../../tests/vectors/key-file.json");
    const WRONG_KEY: &str = include_str!("../../../tests/vectors/key-file-wrong-key.json");
    const PASSPHRASE: &str = "correct horse battery staple";

    #[test]
    fn the_vector_is_written_and_read_to_the_byte() {
        let fresh = Fresh { salt: std::array::from_fn(|at| at as u8), iv: std::array::from_fn(|at| at as u8) };
        assert_eq!(seal(&[1; 32], PASSPHRASE, fresh), FILE);
        assert_eq!(*read(FILE).unwrap().open(PASSPHRASE).unwrap(), [1; 32]);
    }

    #[test]
    fn every_file_has_salt_and_nonce_of_its_own() {
        let [one, two] = [Fresh::draw().unwrap(), Fresh::draw().unwrap()];
        assert!(one.salt != two.salt && one.iv != two.iv);
    }

    /// The file as if it asked for so many rounds, and whole in all else.
    fn with_iterations(iterations: u32) -> String {
        let mut json: File = serde_json::from_str(FILE).unwrap();
        let file = Sealed { iterations, ..fields(&json).unwrap() };
        json.kdf.iterations = iterations;
        json.checksum = file.checksum();
        format!("{}\n", serde_json::to_string_pretty(&json).unwrap())
    }

    /// One that costs next to nothing to guess, and one that costs its reader hours.
    #[test]
    fn a_file_asks_for_no_other_work_than_it_may() {
        assert_eq!(with_iterations(ITERATIONS), FILE);
        assert!(read(&with_iterations(ITERATIONS_MAX)).is_ok());
        for count in [0, ITERATIONS - 1, ITERATIONS_MAX + 1, u32::MAX] {
            assert_eq!(read(&with_iterations(count)).map(drop), Err(FileFault::Damaged), "{count}");
        }
    }

    #[test]
    fn what_gives_no_key_says_why() {
        let open = |text: &str, passphrase: &str| read(text).and_then(|file| file.open(passphrase)).map(drop);
        for (text, passphrase, fault) in [
            (format!("{FILE}{}", " ".repeat(BYTES_MAX)), PASSPHRASE, FileFault::TooLong),
            ("nothing".to_owned(), PASSPHRASE, FileFault::NotJson),
            ("{}".to_owned(), PASSPHRASE, FileFault::Damaged),
            (FILE.replace("manyhands-key", "other-key"), PASSPHRASE, FileFault::Damaged),
            (FILE.replace("\"version\": 1", "\"version\": 2"), PASSPHRASE, FileFault::Version),
            (FILE.replace("600000", "600001"), PASSPHRASE, FileFault::Damaged),
            (FILE.replace("\"sealed\": \"3", "\"sealed\": \"4"), PASSPHRASE, FileFault::Damaged),
            (FILE.replace("AES-256-GCM", "AES-128-GCM"), PASSPHRASE, FileFault::Damaged),
            (WRONG_KEY.to_owned(), PASSPHRASE, FileFault::Damaged),
            (FILE.to_owned(), "correct horse battery stable", FileFault::WrongPassphrase),
        ] {
            assert_eq!(open(&text, passphrase), Err(fault), "{text}");
        }
    }
}
