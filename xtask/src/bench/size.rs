//! Sizes of the built page by the moment at which a visitor downloads each file, read off the files themselves: what
//! index.html, its modules and its styles name is loaded at once; the whole worker, which the small one's script names,
//! after the first unit or for a unit that trains; what only who asks gets by itself; all else after Start. Of the two whole workers a browser loads one, that
//! with relaxed SIMD where it can; a job's sum counts this one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::web::compress;

const PAGE: &str = "index.html";
/// What another site's page loads, and what the page loads where it is framed by one.
const EMBEDDED: [&str; 2] = ["embed/many-hands.js", "page/embed.js"];
/// What stands before the whole workers' addresses in the small one's script, and before the address of a script's wasm.
const RELAXED: &str = "const whole = new URL(relaxed ? \"";
const PLAIN: &str = "\" : \"";
const WASM: &str = "fetch(new URL(\"";
/// Where the languages' words are, of which a visitor loads one file at once: the largest counts, and no other is measured.
const WORDS: &str = "words/";
/// What the first unit does without: what shows the visitor's key and visits, and the receipts that come after it, what tries
/// the model, and the page for owners of other sites, which takes the style sheet under its plain name.
const ASIDE: [&str; 6] = ["page/mine.js", "page/receipts.js", "page/tryout.js", "page/pad.js", "embed/", "styles.css"];
/// Jobs by what they compute.
const FAMILIES: [(&str, Phase); 4] =
    [("matmul", Phase::FirstUnit), ("mlp", Phase::Training), ("cnn", Phase::Training), ("gpt", Phase::Training)];
/// What is told about folders, and compressed copies, which go with their files; no page names either.
const NOT_LOADED: &[&str] = &["README.md", compress::SUFFIX];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    BeforeStart,
    FirstUnit,
    /// The whole worker.
    Training,
    /// The whole worker of browsers without relaxed SIMD, who load it in place of the other.
    TrainingPlain,
    /// Loaded for who asks for it.
    Asked,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Phase::BeforeStart => "before_start",
            Phase::FirstUnit => "first_unit",
            Phase::Training => "training",
            Phase::TrainingPlain => "training_plain",
            Phase::Asked => "asked",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct File {
    path: String,
    phase: Phase,
    raw_bytes: usize,
    gzip_bytes: usize,
    brotli_bytes: usize,
}

#[derive(Debug)]
pub struct Report {
    files: Vec<File>,
}

/// Measures every file below `dist`.
pub fn measure(dist: &Path) -> Result<Report> {
    let mut contents = BTreeMap::new();
    read_dir(dist, "", &mut contents)?;
    let words = contents.iter().filter(|(path, _)| path.starts_with(WORDS));
    let largest = words.max_by_key(|(_, bytes)| bytes.len()).map(|(path, _)| path.clone());
    contents.retain(|path, _| !path.starts_with(WORDS) || Some(path) == largest.as_ref());
    ensure!(contents.contains_key(PAGE), "{} holds no {PAGE}: build the page first", dist.display());
    let (before, [relaxed, plain]) = (loaded_at_once(&contents), whole_workers(&contents));
    let mut files = Vec::new();
    for (path, bytes) in &contents {
        let phase = match path.as_str() {
            path if before.contains(&path) => Phase::BeforeStart,
            path if relaxed.contains(&path) => Phase::Training,
            path if plain.contains(&path) => Phase::TrainingPlain,
            path if ASIDE.iter().any(|aside| path.starts_with(aside)) => Phase::Asked,
            _ => Phase::FirstUnit,
        };
        let (gzip_bytes, brotli_bytes) = (gzip(bytes)?, compress::brotli(bytes)?.len());
        files.push(File { path: path.clone(), phase, raw_bytes: bytes.len(), gzip_bytes, brotli_bytes });
    }
    files.sort_by(|a, b| (a.phase, &a.path).cmp(&(b.phase, &b.path)));
    Ok(Report { files })
}

fn read_dir(dir: &Path, prefix: &str, contents: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            read_dir(&entry.path(), &format!("{path}/"), contents)?;
        } else if !NOT_LOADED.iter().any(|suffix| path.ends_with(suffix)) {
            contents.insert(path, fs::read(entry.path())?);
        }
    }
    Ok(())
}

/// The page, embedded, and, through all levels, the files that it names as loaded at once.
fn loaded_at_once(contents: &BTreeMap<String, Vec<u8>>) -> Vec<&str> {
    let mut found: Vec<&str> = vec![PAGE];
    found.extend(EMBEDDED.iter().filter(|path| contents.contains_key(**path)));
    found.extend(contents.keys().find(|path| path.starts_with(WORDS)).map(String::as_str));
    let mut index = 0;
    while let Some(&path) = found.get(index) {
        let text = contents.get(path).map(|bytes| String::from_utf8_lossy(bytes)).unwrap_or_default();
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        for reference in references(path, &text) {
            let target = resolve(dir, &reference);
            if let Some((known, _)) = contents.get_key_value(&target)
                && !found.contains(&known.as_str())
            {
                found.push(known);
            }
        }
        index += 1;
    }
    found
}

/// Script and wasm of the whole worker with relaxed SIMD, and of that without.
fn whole_workers(contents: &BTreeMap<String, Vec<u8>>) -> [Vec<&str>; 2] {
    let text = |path: &str| contents.get(path).map(|bytes| String::from_utf8_lossy(bytes));
    let named = |text: &str| text.split('"').next().map(str::to_owned);
    let scripts = contents.keys().filter(|path| path.ends_with(".js")).find_map(|path| {
        let text = text(path)?;
        let (_, relaxed) = text.split_once(RELAXED)?;
        let (_, plain) = relaxed.split_once(PLAIN)?;
        Some([named(relaxed), named(plain)])
    });
    let known = |path: Option<String>| contents.get_key_value(&path?).map(|(path, _)| path.as_str());
    scripts.unwrap_or_default().map(|script| {
        let wasm = script.as_deref().and_then(|script| named(text(script)?.split_once(WASM)?.1));
        [script, wasm].into_iter().filter_map(known).collect()
    })
}

/// Addresses in a file that the browser follows by itself.
fn references(path: &str, text: &str) -> Vec<String> {
    let markers: &[&str] = match path.rsplit('.').next() {
        Some("html") => &["src=", "href="],
        // Static imports and exports only: `import(…)` waits until it is called.
        Some("js" | "mjs") => &["from ", "from", "import ", "import"],
        Some("css") => &["url(", "@import "],
        _ => &[],
    };
    let mut found = Vec::new();
    for marker in markers {
        for (at, _) in text.match_indices(marker) {
            let after = &text[at + marker.len()..];
            let address = match after.chars().next() {
                Some(quote @ ('"' | '\'')) => after[1..].split(quote).next(),
                _ if marker.ends_with('=') || *marker == "url(" => after.split(['>', ' ', ')', '\n']).next(),
                _ => None,
            };
            found.extend(address.map(str::to_owned));
        }
    }
    found
}

/// A relative or absolute address on this site as a path below dist.
fn resolve(dir: &str, reference: &str) -> String {
    let reference = reference.split(['?', '#']).next().unwrap_or_default();
    let mut parts: Vec<&str> = if reference.starts_with('/') { Vec::new() } else { dir.split('/').collect() };
    for part in reference.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            part => parts.push(part),
        }
    }
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

fn gzip(bytes: &[u8]) -> Result<usize> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?.len())
}

impl Report {
    fn sum(&self, phase: Phase, bytes: fn(&File) -> usize) -> usize {
        self.files.iter().filter(|file| file.phase == phase).map(bytes).sum()
    }

    /// What is downloaded from Start to the end of a phase.
    fn up_to(&self, last: Phase, bytes: fn(&File) -> usize) -> usize {
        [Phase::FirstUnit, Phase::Training].into_iter().filter(|&phase| phase <= last).map(|phase| self.sum(phase, bytes)).sum()
    }

    /// One line per file, phase and family of jobs.
    pub fn table(&self) -> String {
        let mut table = format!("{:<52} {:<12} {:>9} {:>9} {:>9}\n", "file", "phase", "raw", "gzip", "brotli");
        let mut line = |name: &str, phase: Phase, raw: usize, gzip: usize, brotli: usize| {
            writeln!(table, "{name:<52} {:<12} {raw:>9} {gzip:>9} {brotli:>9}", phase.name()).expect("a string takes all");
        };
        for file in &self.files {
            line(&file.path, file.phase, file.raw_bytes, file.gzip_bytes, file.brotli_bytes);
        }
        for phase in [Phase::BeforeStart, Phase::FirstUnit, Phase::Training, Phase::TrainingPlain, Phase::Asked] {
            let (raw, gzip) = (self.sum(phase, |f| f.raw_bytes), self.sum(phase, |f| f.gzip_bytes));
            line("all", phase, raw, gzip, self.sum(phase, |f| f.brotli_bytes));
        }
        for (family, last) in FAMILIES {
            let up_to = |bytes: fn(&File) -> usize| self.up_to(last, bytes);
            line(
                &format!("from Start, a {family} job"),
                last,
                up_to(|f| f.raw_bytes),
                up_to(|f| f.gzip_bytes),
                up_to(|f| f.brotli_bytes),
            );
        }
        table
    }

    pub fn json(&self) -> Value {
        let files: Vec<Value> = self
            .files
            .iter()
            .map(|file| {
                json!({
                    "path": file.path, "phase": file.phase.name(), "raw_bytes": file.raw_bytes,
                    "gzip_bytes": file.gzip_bytes, "brotli_bytes": file.brotli_bytes
                })
            })
            .collect();
        let families = FAMILIES.map(|(family, last)| (family.to_owned(), json!(self.up_to(last, |f| f.brotli_bytes))));
        let families: serde_json::Map<_, _> = families.into_iter().collect();
        json!({
            "before_start_bytes_brotli": self.sum(Phase::BeforeStart, |f| f.brotli_bytes),
            "first_unit_bytes_brotli": self.sum(Phase::FirstUnit, |f| f.brotli_bytes),
            "families_bytes_brotli": families,
            "whole_worker_bytes_brotli": self.sum(Phase::Training, |f| f.brotli_bytes),
            "whole_worker_plain_bytes_brotli": self.sum(Phase::TrainingPlain, |f| f.brotli_bytes),
            "files": files
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn files_fall_into_their_phase() {
        let dir = site(&[
            ("index.html", "<link href=\"/a.css\"><script src=page/main.js></script><meta content='{\"js\":\"worker-1.js\"}'>"),
            ("a.css", "@font-face { src: url(font.woff2) }"),
            ("font.woff2", "x"),
            ("page/main.js", "import { a } from './a.js';\nimport \"../b.js\";\nconst late = () => import('./late.js');"),
            ("page/a.js", "export const a = 1;"),
            ("b.js", ""),
            ("page/late.js", ""),
            ("page/mine.js", ""),
            (
                "worker-1.js",
                "const whole = new URL(relaxed ? \"worker-2.js\" : \"worker-3.js\", x); fetch(new URL(\"worker-1.wasm\", x))",
            ),
            ("worker-1.wasm", ""),
            ("worker-2.js", "fetch(new URL(\"worker-2.wasm\", x))"),
            ("worker-2.wasm", "x"),
            ("worker-3.js", "fetch(new URL(\"worker-3.wasm\", x))"),
            ("worker-3.wasm", "x"),
            ("README.md", ""),
            ("words/ar.json", "{}"),
            ("words/en.json", "{ }"),
        ]);
        let report = measure(dir.path()).unwrap();
        let of = |phase| -> Vec<&str> { report.files.iter().filter(|f| f.phase == phase).map(|f| f.path.as_str()).collect() };
        assert_eq!(
            of(Phase::BeforeStart),
            ["a.css", "b.js", "font.woff2", "index.html", "page/a.js", "page/main.js", "words/en.json"]
        );
        assert_eq!(of(Phase::FirstUnit), ["page/late.js", "worker-1.js", "worker-1.wasm"]);
        assert_eq!(of(Phase::Training), ["worker-2.js", "worker-2.wasm"]);
        assert_eq!(of(Phase::TrainingPlain), ["worker-3.js", "worker-3.wasm"]);
        assert_eq!(of(Phase::Asked), ["page/mine.js"]);
        let (first, training) = (report.sum(Phase::FirstUnit, |f| f.raw_bytes), report.sum(Phase::Training, |f| f.raw_bytes));
        assert!(first > 0 && training > 0);
        assert_eq!(report.up_to(Phase::FirstUnit, |f| f.raw_bytes), first);
        assert_eq!(report.up_to(Phase::Training, |f| f.raw_bytes), first + training);
    }

    #[test]
    fn sizes_are_of_the_compressed_bytes() {
        let dir = site(&[("index.html", &"many hands ".repeat(1000)), ("worker.wasm", "abc")]);
        let report = measure(dir.path()).unwrap();
        let json = report.json();
        let page = &json["files"][0];
        assert_eq!((page["path"].as_str(), page["raw_bytes"].as_u64()), (Some("index.html"), Some(11_000)));
        assert!(page["brotli_bytes"].as_u64().unwrap() < 100 && page["gzip_bytes"].as_u64().unwrap() < 200);
        assert_eq!(json["before_start_bytes_brotli"], page["brotli_bytes"]);
        assert_eq!(json["first_unit_bytes_brotli"], json["files"][1]["brotli_bytes"]);
        assert_eq!(json["families_bytes_brotli"]["gpt"], json["files"][1]["brotli_bytes"]);
        assert_eq!(report.table().lines().count(), 12);
    }

    /// What a visitor downloads before Start, wherever, and until the first unit's result, after brotli.
    const BEFORE_START_BYTES_MAX: usize = 40_000;
    const FIRST_UNIT_BYTES_MAX: usize = 150_000;

    /// Of the page as it was built last, with wasm-opt.
    #[test]
    fn the_page_stays_small() {
        let report = measure(&crate::web::dist()).unwrap();
        for (phase, most) in [(Phase::BeforeStart, BEFORE_START_BYTES_MAX), (Phase::FirstUnit, FIRST_UNIT_BYTES_MAX)] {
            let bytes = report.sum(phase, |f| f.brotli_bytes);
            assert!(0 < bytes && bytes <= most, "{bytes} bytes {}, {most} at most:\n{}", phase.name(), report.table());
        }
    }

    #[test]
    fn no_page_is_no_measurement() {
        assert!(measure(site(&[("x.js", "")]).path()).is_err());
        assert!(measure(Path::new("no/such/folder")).is_err());
    }
}
