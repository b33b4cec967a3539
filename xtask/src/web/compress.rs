//! Brotli beside the files of a finished build, so that a coordinator can send the small form without compressing
//! anything itself. Which file is sent when is the coordinator's business.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Ending of the compressed copy: `styles.css.br` beside `styles.css`.
pub const SUFFIX: &str = ".br";
/// Kinds that shrink. Pictures and fonts are compressed already.
const KINDS: [&str; 6] = ["css", "html", "js", "json", "svg", "wasm"];

/// Writes the copies for everything below `dir`; gives their count.
pub fn compress_below(dir: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let (entry, path) = entry.map(|entry| (entry.file_type(), entry.path()))?;
        if entry?.is_dir() {
            count += compress_below(&path)?;
        } else if path.extension().and_then(|kind| kind.to_str()).is_some_and(|kind| KINDS.contains(&kind)) {
            let mut copy = path.clone().into_os_string();
            copy.push(SUFFIX);
            fs::write(&copy, brotli(&fs::read(&path)?)?).with_context(|| format!("cannot write {}", copy.display()))?;
            count += 1;
        }
    }
    Ok(count)
}

/// `bytes` at brotli's highest level.
pub fn brotli(bytes: &[u8]) -> Result<Vec<u8>> {
    let parameters = brotli::enc::BrotliEncoderParams { quality: 11, size_hint: bytes.len(), ..Default::default() };
    let mut out = Vec::new();
    brotli::BrotliCompress(&mut &*bytes, &mut out, &parameters)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_hold_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("page")).unwrap();
        let text = "many hands ".repeat(100);
        for name in ["index.html", "page/main.js", "picture.png", "README.md"] {
            fs::write(dir.path().join(name), &text).unwrap();
        }
        assert_eq!(compress_below(dir.path()).unwrap(), 2);
        for name in ["index.html.br", "page/main.js.br"] {
            let small = fs::read(dir.path().join(name)).unwrap();
            let mut back = Vec::new();
            brotli::BrotliDecompress(&mut &*small, &mut back).unwrap();
            assert_eq!(back, text.as_bytes());
            assert!(small.len() < text.len() / 10);
        }
        assert!(!dir.path().join("picture.png.br").exists());
        // A second run compresses the files again, never their copies.
        assert_eq!(compress_below(dir.path()).unwrap(), 2);
    }
}
