//! Short names for what a worker's wasm file imports from its script. wasm-bindgen's names hold a hash each, which no
//! compression makes smaller and which a visitor would download twice.

use anyhow::{Context as _, Result, ensure};

const PREAMBLE_BYTES: usize = 8;
const IMPORTS: u8 = 2;

/// The same script and wasm file with short names between them.
pub fn shorten(script: &str, wasm: &[u8]) -> Result<(String, Vec<u8>)> {
    let (preamble, mut rest) = wasm.split_at_checked(PREAMBLE_BYTES).context("no wasm file")?;
    let (mut out, mut script) = (preamble.to_vec(), script.to_owned());
    while let Some((&id, after)) = rest.split_first() {
        let mut at = Cursor(after);
        let length = at.number()?;
        let content = at.bytes(length)?;
        rest = at.0;
        let content = if id == IMPORTS { shorten_imports(content, &mut script)? } else { content.to_vec() };
        out.push(id);
        push_number(&mut out, content.len());
        out.extend(content);
    }
    Ok((script, out))
}

fn shorten_imports(section: &[u8], script: &mut String) -> Result<Vec<u8>> {
    let mut at = Cursor(section);
    let count = at.number()?;
    let mut out = Vec::with_capacity(section.len());
    push_number(&mut out, count);
    for index in 0..count {
        let (module, name) = (at.name()?, at.name()?);
        // A field of the script's table of imports; indentation is gone.
        let (field, short) = (format!("\n{name}: "), format!("i{index:x}"));
        ensure!(script.matches(&field).count() == 1, "the script must define the import {name} once");
        *script = script.replace(&field, &format!("\n{short}: "));
        let description = at.description()?;
        for text in [module, &short] {
            push_number(&mut out, text.len());
            out.extend(text.as_bytes());
        }
        out.extend(description);
    }
    ensure!(at.0.is_empty(), "the imports go on after their end");
    Ok(out)
}

/// What is left of a section.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count).context("the wasm file is cut off")?;
        self.0 = rest;
        Ok(bytes)
    }

    /// An unsigned LEB128 number of at most 32 bits.
    fn number(&mut self) -> Result<usize> {
        let mut number = 0usize;
        for shift in (0..35).step_by(7) {
            let byte = self.bytes(1)?[0];
            number |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        anyhow::bail!("a number in the wasm file is too long")
    }

    fn name(&mut self) -> Result<&'a str> {
        let length = self.number()?;
        str::from_utf8(self.bytes(length)?).context("a name in the wasm file is not UTF-8")
    }

    /// What is imported. wasm-bindgen imports functions only, which have the index of a type.
    fn description(&mut self) -> Result<&'a [u8]> {
        let before = self.0;
        ensure!(self.bytes(1)?[0] == 0, "an import that is no function");
        self.number()?;
        Ok(&before[..before.len() - self.0.len()])
    }
}

fn push_number(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "const imports = { __proto__: null,\n__wbg_a_0123: function(x) {},\n__wbg_b_4567: f };\n";

    /// A file of an empty type section, imports of functions 0 and 200, and a custom section.
    fn wasm(names: [&str; 2], kind: u8) -> Vec<u8> {
        let mut imports = vec![2];
        for (name, index) in names.into_iter().zip([&[0u8][..], &[0xc8, 1]]) {
            imports.extend([1, b'm', name.len() as u8]);
            imports.extend(name.as_bytes());
            imports.push(kind);
            imports.extend(index);
        }
        let mut file = b"\0asm\x01\0\0\0\x01\x01\0\x02".to_vec();
        file.push(imports.len() as u8);
        file.extend(imports);
        file.extend([0, 3, 1, b'x', 9]);
        file
    }

    #[test]
    fn both_sides_get_the_same_short_names() {
        let (script, short) = shorten(SCRIPT, &wasm(["__wbg_a_0123", "__wbg_b_4567"], 0)).unwrap();
        assert_eq!(script, "const imports = { __proto__: null,\ni0: function(x) {},\ni1: f };\n");
        assert_eq!(short, wasm(["i0", "i1"], 0));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let good = wasm(["__wbg_a_0123", "__wbg_b_4567"], 0);
        assert!(shorten(SCRIPT, &wasm(["__wbg_a_0123", "__wbg_c_4567"], 0)).is_err(), "a name the script lacks");
        assert!(shorten(&SCRIPT.repeat(2), &good).is_err(), "a name it has twice");
        assert!(shorten(SCRIPT, &wasm(["__wbg_a_0123", "__wbg_b_4567"], 3)).is_err(), "an imported global");
        // At the ends of sections a shorter file is a whole one.
        for length in (0..good.len()).filter(|length| ![8, 11, good.len() - 5].contains(length)) {
            assert!(shorten(SCRIPT, &good[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn numbers_have_many_lengths() {
        for number in [0, 127, 128, 16_383, 16_384, 5_000_000] {
            let mut bytes = Vec::new();
            push_number(&mut bytes, number);
            assert_eq!(Cursor(&bytes).number().unwrap(), number);
        }
    }
}
