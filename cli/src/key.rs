//! `manyhands key`: saves the volunteer's key to a file locked with a passphrase, as the page does, takes one from such a file,
//! and has a coordinator put a new key in its place. Nothing that is there is overwritten.

mod sealed;

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use manyhands::keyfile;
use manyhands::volunteer::identity::Identity;
use manyhands_protocol::problem::Code;
use manyhands_protocol::statement::Rotation;
use manyhands_protocol::view::InfoView;
use manyhands_protocol::wire::{RotationRequest, SignedBytes};
use manyhands_protocol::{KeyId, cbor, cose, limits};
use reqwest::Method;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use crate::operator::CommandError;
use crate::operator::client::Client;
use crate::volunteer::key;

/// Longest passphrase, as the page takes it.
const PASSPHRASE_BYTES_MAX: usize = 4096;
/// Fewest characters of a passphrase that a file is locked with, as the page demands.
const PASSPHRASE_CHARS_MIN: usize = 12;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Save the key to a new file, locked with a passphrase: the page takes it, too.
    Export {
        file: PathBuf,
        #[command(flatten)]
        with: With,
    },
    /// Take the key from a file that this command or the page saved.
    Import {
        file: PathBuf,
        #[command(flatten)]
        with: With,
    },
    /// Have the coordinator put a new key in the place of this one; credit goes along.
    Rotate {
        /// Address of the coordinator.
        #[arg(long, default_value = "http://127.0.0.1:8787", env = "MANYHANDS_COORDINATOR")]
        coordinator: String,
        /// File that keeps the key for `manyhands volunteer`.
        #[arg(long)]
        key_file: PathBuf,
    },
}

#[derive(clap::Args)]
struct With {
    /// File that keeps the key for `manyhands volunteer`.
    #[arg(long)]
    key_file: PathBuf,
    /// File that holds the passphrase, on its one line; else it is asked for.
    #[arg(long)]
    passphrase_file: Option<PathBuf>,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let (id, note) = match args.command {
        Command::Export { file, with } => export(&file, &with)?,
        Command::Import { file, with } => import(&file, &with)?,
        Command::Rotate { coordinator, key_file } => rotate(&coordinator, &key_file).await?,
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "key {id}{note}")?;
    Ok(())
}

fn export(file: &Path, with: &With) -> anyhow::Result<(KeyId, String)> {
    let seed = key::seed(&with.key_file)?;
    ensure!(!file.exists(), "{} is there already: name a file that is not", file.display());
    let passphrase = passphrase(with, true)?;
    let text = sealed::seal(&seed, &passphrase, sealed::Fresh::draw()?);
    key::write_new(file, text.as_bytes())?;
    Ok((Identity::from_seed(&seed).key(), format!(" is in {}", file.display())))
}

fn import(file: &Path, with: &With) -> anyhow::Result<(KeyId, String)> {
    let name = || file.display().to_string();
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|it| it.take(keyfile::BYTES_MAX as u64 + 1).read_to_string(&mut text));
    match read {
        Err(e) if e.kind() == ErrorKind::InvalidData => bail!("{}: {}", name(), sealed::FileFault::NotJson),
        read => read.with_context(name)?,
    };
    let locked = sealed::read(&text).with_context(name)?;
    let id = locked.key();
    let there = match key::seed(&with.key_file) {
        Ok(seed) => Some(Identity::from_seed(&seed).key()),
        Err(key::KeyError::File { source, .. }) if source.kind() == ErrorKind::NotFound => None,
        Err(other) => return Err(other.into()),
    };
    let at = with.key_file.display();
    match there {
        Some(there) if there == id => return Ok((id, format!(" is in {at} already"))),
        Some(there) => bail!("{at} keeps another key, {there}: save that one first, or name another file by --key-file"),
        None => {}
    }
    let seed = locked.open(&passphrase(with, false)?).with_context(name)?;
    key::write_seed(&with.key_file, &seed)?;
    Ok((id, format!(" is in {at}")))
}

/// What became of the wish to have a key replaced.
#[derive(Debug, PartialEq)]
enum Outcome {
    Replaced,
    /// The coordinator never heard of the key: there is nothing that could pass on.
    Unheard,
    /// The coordinator did not do it, and will not.
    Refused,
    /// It may be in force, or may come to be.
    Unknown,
}

fn outcome(answer: &Result<(), CommandError>) -> Outcome {
    let code = match answer {
        Ok(()) => return Outcome::Replaced,
        Err(CommandError::Problem(problem)) => Code::parse(&problem.code),
        Err(_) => None,
    };
    match code {
        Some(Code::UnknownKey) => Outcome::Unheard,
        Some(Code::KeyReplaced | Code::BadRotation) => Outcome::Refused,
        _ => Outcome::Unknown,
    }
}

/// Where a key is kept that is not, or no longer, the one of this file.
fn beside(key_file: &Path, key: KeyId) -> PathBuf {
    key_file.with_added_extension(&key.to_string()[..16])
}

/// Puts a new key in the place of the one in `key_file`. It is kept beside that before the coordinator hears of it, so that the
/// same wish goes on with the same key whatever happened in between; the old one is kept beside it in the end. Where the
/// coordinator refuses, the key in use stays.
async fn rotate(coordinator: &str, key_file: &Path) -> anyhow::Result<(KeyId, String)> {
    let old_seed = key::seed(key_file)?;
    let old = Identity::from_seed(&old_seed);
    let next = key_file.with_added_extension("next");
    let (new_seed, is_begun) = match key::seed(&next) {
        Ok(begun) => (begun, true),
        Err(key::KeyError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
            let seed = key::random()?;
            key::write_seed(&next, &seed)?;
            (seed, false)
        }
        Err(other) => return Err(other.into()),
    };
    let new = Identity::from_seed(&new_seed);
    let answer = replace(coordinator, &old, &new).await;
    let outcome = outcome(&answer);
    let failed = answer.map_err(anyhow::Error::from);
    match outcome {
        Outcome::Replaced | Outcome::Unheard => {}
        Outcome::Unknown => {
            let next = next.display();
            failed.context(format!("whether the key was replaced is not known; the same command goes on with {next}"))?;
        }
        // What was begun elsewhere may be in force there.
        Outcome::Refused if is_begun => {
            let aside = beside(key_file, new.key());
            std::fs::rename(&next, &aside).with_context(|| next.display().to_string())?;
            failed.context(format!(
                "the key was not replaced; the new one, which was begun before, is kept in {}",
                aside.display()
            ))?;
        }
        Outcome::Refused => {
            std::fs::remove_file(&next).with_context(|| next.display().to_string())?;
            failed.context("the key was not replaced")?;
        }
    }
    let before = beside(key_file, old.key());
    if !before.exists() {
        key::write_seed(&before, &old_seed)?;
    }
    std::fs::rename(&next, key_file).with_context(|| next.display().to_string())?;
    let (new, old, before) = (new.key(), old.key(), before.display());
    let note = if outcome == Outcome::Replaced {
        format!(" takes the place of {old}, which is kept in {before}")
    } else {
        let file = key_file.display();
        format!(" is in {file}, and nothing was replaced: {coordinator} never heard of {old}, which is kept in {before}")
    };
    Ok((new, note))
}

/// `POST /v1/rotations`.
async fn replace(coordinator: &str, old: &Identity, new: &Identity) -> Result<(), CommandError> {
    let client = Client::public(coordinator)?;
    let info: InfoView = client.json(client.call(Method::GET, "/v1/info", None).await?).await?;
    let nonce = hex::decode(&info.nonce);
    let nonce = nonce.map_err(|e| CommandError::Answer { url: coordinator.to_owned(), reason: format!("a nonce: {e}") })?;
    let rotation = Rotation { version: limits::PROTOCOL_VERSION, audience: info.key, nonce, old: old.key(), new: new.key() };
    let signed = |key: &Identity| {
        let unsigned = cose::prepare(cose::Kind::Rotation, key.key(), cbor::encode(&rotation));
        let signature = key.sign(&unsigned.to_be_signed());
        SignedBytes(unsigned.finish(signature))
    };
    let body = cbor::encode(&RotationRequest { by_old: signed(old), by_new: signed(new) });
    client.call(Method::POST, "/v1/rotations", Some(("application/cbor", body))).await.map(drop)
}

/// The passphrase in Unicode's form NFC: from the file, or asked for without showing it; twice where a file is to be locked.
fn passphrase(with: &With, locks: bool) -> anyhow::Result<Zeroizing<String>> {
    let typed = match &with.passphrase_file {
        Some(path) => {
            let name = || path.display().to_string();
            let mut text = Zeroizing::new(String::new());
            let file = std::fs::File::open(path).with_context(name)?;
            file.take(PASSPHRASE_BYTES_MAX as u64 + 3).read_to_string(&mut text).with_context(name)?;
            let line = text.strip_suffix('\n').unwrap_or(&text);
            let line = line.strip_suffix('\r').unwrap_or(line);
            // No field of the page takes a passphrase of two lines: what it locked nobody could open there.
            ensure!(!line.contains(['\n', '\r']), "{} holds more than one line", name());
            Zeroizing::new(line.to_owned())
        }
        None => {
            let ask = |words: &str| {
                rpassword::prompt_password(words).map(Zeroizing::new).context("no terminal to ask on: give --passphrase-file")
            };
            let typed = ask("Passphrase: ")?;
            ensure!(!locks || typed == ask("The same again: ")?, "the two passphrases differ");
            typed
        }
    };
    let passphrase: Zeroizing<String> = Zeroizing::new(typed.nfc().collect());
    ensure!((1..=PASSPHRASE_BYTES_MAX).contains(&passphrase.len()), "the passphrase has no characters, or too many");
    ensure!(
        !locks || passphrase.chars().count() >= PASSPHRASE_CHARS_MIN,
        "the passphrase needs at least {PASSPHRASE_CHARS_MIN} characters: whoever has the file can try any number of them"
    );
    Ok(passphrase)
}

#[cfg(test)]
mod tests {
    use manyhands_protocol::problem::Problem;

    use super::*;

    /// What is not surely refused may be in force: then the new key is the only one that is worth anything.
    #[test]
    fn an_answer_is_a_refusal_only_where_it_says_so() {
        for &code in Code::ALL {
            let expected = match code {
                Code::KeyReplaced | Code::BadRotation => Outcome::Refused,
                Code::UnknownKey => Outcome::Unheard,
                _ => Outcome::Unknown,
            };
            let answer = Err(CommandError::Problem(Problem::new(code, "").into()));
            assert_eq!(outcome(&answer), expected, "{code:?}");
        }
        let nonsense = CommandError::Answer { url: String::new(), reason: "a gateway's page".to_owned() };
        assert_eq!(outcome(&Err(nonsense)), Outcome::Unknown);
        assert_eq!(outcome(&Ok(())), Outcome::Replaced);
    }

    #[test]
    fn a_passphrase_is_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("passphrase");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            passphrase(&With { key_file: PathBuf::new(), passphrase_file: Some(file.clone()) }, true)
        };
        for end in ["", "\n", "\r\n"] {
            assert_eq!(*read(&format!("correct horse battery{end}")).unwrap(), "correct horse battery");
        }
        for two in [
            "correct horse\nbattery",
            "correct horse battery\n\n",
            "correct horse battery\r\nstaple\r\n",
            "correct\rhorse battery",
        ] {
            let error = read(two).unwrap_err().to_string();
            assert!(error.ends_with("holds more than one line"), "{two:?}: {error}");
        }
        // In Unicode's form NFC, as the page has it.
        assert_eq!(*read("cafe\u{301} cafe\u{301} cafe").unwrap(), "caf\u{e9} caf\u{e9} cafe");
        assert!(read("too short\n").is_err() && read("").is_err());
    }
}
