//! Rust source without its comments and literals, line for line: enough for counting braces and finding names. It is
//! not a parser.

/// `source` with comments, string and character literals replaced by spaces; every line keeps its number.
pub fn blank(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out: Vec<u8> = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end > at {
            out.extend(bytes[at..end].iter().map(|&b| if b == b'\n' { b'\n' } else { b' ' }));
            at = end;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where the comment or literal that starts at `at` ends; `at` itself where none starts.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + block_comment(rest);
    }
    match rest[0] {
        b'"' => at + quoted(rest, 1, b'"'),
        b'r' | b'b' | b'c' if !word_before => at + prefixed(rest),
        b'\'' => at + character(rest),
        _ => at,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The end of a literal with escapes whose text starts at `at`.
fn quoted(rest: &[u8], mut at: usize, quote: u8) -> usize {
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"…"`, `br#"…"#`, `b"…"`, `b'…'`; 0 where the letter is just a letter.
fn prefixed(rest: &[u8]) -> usize {
    let letters = rest.iter().take_while(|b| matches!(b, b'r' | b'b' | b'c')).count();
    let hashes = rest[letters..].iter().take_while(|&&b| b == b'#').count();
    let raw = rest[..letters].contains(&b'r');
    match rest.get(letters + hashes) {
        Some(b'"') if raw => {
            let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
            let start = letters + hashes + 1;
            rest[start..].windows(close.len()).position(|w| w == close).map_or(rest.len(), |p| start + p + close.len())
        }
        Some(b'"') if hashes == 0 => quoted(rest, letters + 1, b'"'),
        Some(b'\'') if hashes == 0 && !raw => quoted(rest, letters + 1, b'\''),
        _ => 0,
    }
}

/// A character literal, told from a lifetime; 0 for a lifetime.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return quoted(rest, 1, b'\'');
    }
    // One character of up to four bytes, then the closing quote.
    let text = String::from_utf8_lossy(&rest[1..rest.len().min(6)]).into_owned();
    let Some(first) = text.chars().next() else { return 0 };
    let close = 1 + first.len_utf8();
    if rest.get(close) == Some(&b'\'') { close + 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_go_lines_stay() {
        let check = |source: &str, kept: &str| {
            let blanked = blank(source);
            assert_eq!(blanked.split_whitespace().collect::<Vec<_>>().join(" "), kept, "{source}");
            assert_eq!(blanked.lines().count(), source.lines().count());
        };
        check("a // { \" \nb", "a b");
        check("a /* { /* } */ \n { */ b", "a b");
        check(r#"f("{ \" }") }"#, "f( ) }");
        check("r#\"{ \" } \"# {", "{");
        check("b\"{\" br\"{\" {", "{");
        check("let c = '{'; let d = '\\''; fn f<'a>(x: &'a str) {", "let c = ; let d = ; fn f<'a>(x: &'a str) {");
        check("for 'outer in x { bar\"{\" }", "for 'outer in x { bar }");
        check("let c = 'é'; {", "let c = ; {");
    }

    #[test]
    fn unfinished_literals_end_with_the_file() {
        for source in ["\"{", "/* {", "r#\"{\"", "'\\", "\"\\", "'"] {
            assert!(!blank(source).contains('{'), "{source}");
        }
    }
}
