//! The text of the job `austen-gpt` from Debian's package: taken out of R's files by the script beside the text, with its
//! origin written down.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::{sha256, write};
use crate::proc::{command, run};
use crate::root;

/// Debian's package with the novels. It is unpacked, not installed: it would bring all of R.
const PACKAGE: &str = "r-cran-janeaustenr";
/// Where its data lies in it.
const DATA: &str = "usr/lib/R/site-library/janeaustenr/data";

/// Writes text.txt and ORIGIN.md.
pub fn make() -> Result<()> {
    let work = root().join("target/data").join(PACKAGE);
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    run(command("apt-get", &["download", PACKAGE]).current_dir(&work))?;
    let packages: Vec<_> = fs::read_dir(&work)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    ensure!(packages.len() == 1, "apt-get left {} files instead of a package", packages.len());
    run(command("dpkg", &["-x"]).arg(&packages[0]).arg(&work))?;

    let (source, target) = (work.join(DATA), root().join("demo/austen-gpt"));
    let text = work.join("text.txt");
    let mut extract = command("python3", &[]);
    extract.arg(target.join("extract.py")).arg(&source);
    run(extract.stdout(fs::File::create(&text).with_context(|| format!("cannot write {}", text.display()))?))?;
    let text = fs::read(&text)?;
    write(&target.join("text.txt"), &text)?;
    write(&target.join("ORIGIN.md"), origin(&source, &text)?.as_bytes())
}

fn origin(source: &Path, text: &[u8]) -> Result<String> {
    let sources = ["Rdata.rdb", "Rdata.rdx"].map(|file| {
        let bytes = fs::read(source.join(file)).with_context(|| format!("cannot read {file}"))?;
        Ok(format!("| {file} | {} |\n", sha256(&bytes)))
    });
    let sources: String = sources.into_iter().collect::<Result<_>>()?;
    Ok(format!(
        "# Origin of this text\n\n\
         The six novels that Jane Austen (1775 to 1817) finished, in the order of their publication: Sense and Sensibility, Pride\n\
         and Prejudice, Mansfield Park, Emma, Northanger Abbey, Persuasion. They are in the public domain. The transcription is\n\
         Project Gutenberg's, as the R package janeaustenr by Julia Silge has it (MIT licence: see LICENSE beside this file),\n\
         taken from Debian's package `{PACKAGE}`.\n\n\
         `text.txt` holds their lines as they are there, UTF-8, each ended by one line feed; the last tenth, most of\n\
         Persuasion, is what the job holds out. `extract.py` took them out of R's files, and `cargo xtask make-demo-data` makes\n\
         the same bytes again from the package.\n\n\
         | file | bytes | sha256 |\n|---|---|---|\n| text.txt | {} | {} |\n\n\
         | source | sha256 |\n|---|---|\n{sources}",
        text.len(),
        sha256(text)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_text_is_what_origin_says() {
        let dir = root().join("demo/austen-gpt");
        let (text, origin) = (fs::read(dir.join("text.txt")).unwrap(), fs::read_to_string(dir.join("ORIGIN.md")).unwrap());
        assert!(origin.contains(&format!("| text.txt | {} | {} |", text.len(), sha256(&text))), "not the text described");
        let text = String::from_utf8(text).unwrap();
        let places = ["SENSE AND SENSIBILITY", "PRIDE AND PREJUDICE", "MANSFIELD PARK", "EMMA", "NORTHANGER ABBEY", "Persuasion"]
            .map(|title| text.find(&format!("{title}\n")).unwrap());
        assert!(places.is_sorted() && places[0] == 0 && !text.contains('\r'));
    }
}
