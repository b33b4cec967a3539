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
    /// File that holds the passphrase on one line; else it is asked for.
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

/// What a coordinator that did not replace the key answers, and will not.
const REFUSALS: [Code; 2] = [Code::KeyReplaced, Code::BadRotation];

/// Puts a new key in the place of the one in `key_file`. It is kept beside that before the coordinator hears of it, so that the
/// same wish goes on with the same key whatever happened in between; the old one is kept beside it in the end.
async fn rotate(coordinator: &str, key_file: &Path) -> anyhow::Result<(KeyId, String)> {
    let old_seed = key::seed(key_file)?;
    let old = Identity::from_seed(&old_seed);
    let next = key_file.with_added_extension("next");
    let new_seed = match key::seed(&next) {
        Ok(begun) => begun,
        Err(key::KeyError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
            let seed = key::random()?;
            key::write_seed(&next, &seed)?;
            seed
        }
        Err(other) => return Err(other.into()),
    };
    let new = Identity::from_seed(&new_seed);
    match replace(coordinator, &old, &new).await {
        Ok(()) => {}
        // It earned nothing there that could pass on.
        Err(CommandError::Problem(problem)) if problem.code == Code::UnknownKey.as_str() => {}
        // It was refused for good: the key in use is the one before. Of any other answer, an earlier wish may be in force already.
        Err(CommandError::Problem(problem)) if REFUSALS.iter().any(|code| problem.code == code.as_str()) => {
            std::fs::remove_file(&next).with_context(|| next.display().to_string())?;
            return Err(CommandError::Problem(problem).into());
        }
        Err(error) => {
            let begun = format!("whether the key was replaced is not known; the same command goes on with {}", next.display());
            return Err(anyhow::Error::from(error).context(begun));
        }
    }
    let before = key_file.with_added_extension(&old.key().to_string()[..16]);
    if !before.exists() {
        key::write_seed(&before, &old_seed)?;
    }
    std::fs::rename(&next, key_file).with_context(|| next.display().to_string())?;
    Ok((new.key(), format!(" takes the place of {}, which is kept in {}", old.key(), before.display())))
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
            Zeroizing::new(line.strip_suffix('\r').unwrap_or(line).to_owned())
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
