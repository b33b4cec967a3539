//! Sites that embed the page: what an operator registers and what a site's owner may read. JSON only.

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::manifest::Category;

/// A registered site: `PUT /v1/admin/sites/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Named by the element's `site` attribute and by consent statements: lower-case letters, digits and hyphens.
    pub name: String,
    /// Origins whose pages may frame the coordinator's page: `https://` and a host, and a port where it is not 443. Plain
    /// `http://` on this computer alone.
    pub origins: Vec<String>,
    /// Kinds of jobs that may run there.
    pub categories: Vec<Category>,
}

/// `GET /v1/admin/sites`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SitesView {
    pub sites: Vec<Site>,
}

/// `POST /v1/admin/sites/{name}/token`: what the site's owner reads its totals with. Told once; the last one counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteToken {
    pub token: String,
}

/// `GET /v1/sites/{name}/totals`: what came through a site, over all time. Nothing in it is about a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SiteTotals {
    /// Sessions opened.
    pub sessions: u64,
    pub results_accepted: u64,
    pub results_rejected: u64,
    /// Checked floating-point operations.
    pub credit_flop: u64,
}

/// A field of a site is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct BadSite {
    pub field: String,
    pub reason: String,
}

impl Site {
    /// Refuses anything that could not be told apart or would not be safe in a header.
    pub fn validate(&self) -> Result<(), BadSite> {
        let fault = |field: &str, reason: String| Err(BadSite { field: field.to_owned(), reason });
        if !is_name(&self.name) {
            let reason = format!("must be 1 to {} lower-case letters, digits and inner hyphens", limits::SITE_NAME_BYTES_MAX);
            return fault("name", reason);
        }
        if self.origins.is_empty() || self.origins.len() > limits::SITE_ORIGINS_MAX {
            return fault("origins", format!("must be 1 to {}", limits::SITE_ORIGINS_MAX));
        }
        for (index, origin) in self.origins.iter().enumerate() {
            if !is_origin(origin) {
                let reason =
                    "must be https://HOST or https://HOST:PORT, or http:// of this computer, in lower case, without a path";
                return fault(&format!("origins[{index}]"), reason.to_owned());
            }
        }
        if self.categories.is_empty() {
            return fault("categories", "must name at least one kind of jobs".to_owned());
        }
        Ok(())
    }
}

/// Whether a text can be a site's name.
pub fn is_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty()
        && name.len() <= limits::SITE_NAME_BYTES_MAX
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Whether a text is an origin in the form that browsers send (HTML standard, serialisation of an origin), secure or of this
/// computer. Wildcards, user names, paths and anything that could end a header's value are not.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    const HERE: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];
    // A colon inside brackets belongs to an IPv6 address.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let default = if scheme == "https" { "443" } else { "80" };
    let port_is_plain = |port: &str| port.parse::<u16>().is_ok_and(|n| n > 0 && n.to_string() == port) && port != default;
    let is_label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(inner)
    };
    let is_here = HERE.contains(&host);
    let is_secure = scheme == "https" && host.split('.').all(is_label);
    text.len() <= limits::TEXT_BYTES_MAX && port.is_none_or(port_is_plain) && (is_secure || scheme == "http" && is_here)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> Site {
        Site { name: "shop".to_owned(), origins: vec!["https://shop.example".to_owned()], categories: vec![Category::Demo] }
    }

    #[test]
    fn origins_are_those_that_browsers_send() {
        for good in [
            "https://shop.example",
            "https://shop.example:8443",
            "https://xn--bcher-kva.example",
            "http://localhost:8000",
            "http://127.0.0.1",
            "http://[::1]:9000",
            "https://192.0.2.1",
        ] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "",
            "https://",
            "shop.example",
            "http://shop.example",
            "https://*.example",
            "https://shop.example/",
            "https://shop.example:443",
            "https://shop.example:08443",
            "https://shop.example:0",
            "https://shop.example:x",
            "https://Shop.example",
            "https://user@shop.example",
            "https://shop.example; script-src *",
            "https://shop.example\r\nx: y",
            "https://shop..example",
            "https://a b.example",
            "ftp://shop.example",
            "http://[::1",
            "http://127.0.0.1.evil.example",
            "null",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }

    #[test]
    fn each_field_is_named() {
        assert_eq!(site().validate(), Ok(()));
        let field = |site: Site| site.validate().expect_err("a bad site").field;
        for name in ["", "-a", "a-", "A", "ä", "a.b", &"a".repeat(64)] {
            assert_eq!(field(Site { name: name.to_owned(), ..site() }), "name", "{name}");
        }
        assert_eq!(field(Site { origins: Vec::new(), ..site() }), "origins");
        assert_eq!(field(Site { origins: vec!["https://a.example".to_owned(); 17], ..site() }), "origins");
        let origins = vec!["https://a.example".to_owned(), "https://a.example/x".to_owned()];
        assert_eq!(field(Site { origins, ..site() }), "origins[1]");
        assert_eq!(field(Site { categories: Vec::new(), ..site() }), "categories");
    }
}
