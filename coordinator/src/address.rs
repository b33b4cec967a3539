//! Addresses of coordinators and witnesses, as people type them.

/// The address without a slash at the end, if it is `http://HOST` or `https://HOST`, with a port or a path or none.
pub fn base_address(text: &str) -> Option<String> {
    let base = text.trim_end_matches('/');
    let url = reqwest::Url::parse(base).ok()?;
    // What is printed and logged with it holds no password, and paths can be added to its end.
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain).then(|| base.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_web() {
        for (text, base) in [
            ("http://127.0.0.1:8787", Some("http://127.0.0.1:8787")),
            ("https://hands.example/", Some("https://hands.example")),
            ("https://hands.example/at/a/path//", Some("https://hands.example/at/a/path")),
            ("hands.example", None),
            ("ftp://hands.example", None),
            ("https://", None),
            ("https://me:secret@hands.example", None),
            ("https://hands.example?x", None),
            ("https://hands.example#x", None),
            ("", None),
        ] {
            assert_eq!(base_address(text).as_deref(), base, "{text}");
        }
    }
}
