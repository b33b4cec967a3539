//! Which network a caller comes from, as a tag that tells two callers of one network and nothing else: HMAC-SHA256 of the
//! address's prefix (/24, /48) under a random key. The key is in memory alone and is replaced after 24 hours; then no tag can
//! be made or compared with the old ones again, and the store forgets them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderName};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::keys::{self, KeyError};
use crate::service::Service;

/// How long a key of tags lives.
const KEY_MS: u64 = 24 * 3_600_000;
/// How long what a network opened is counted.
const COUNT_MS: u64 = 3_600_000;

/// The tag of an address's prefix.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PrefixTag(pub [u8; 32]);

impl std::fmt::Debug for PrefixTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrefixTag(…)")
    }
}

/// Address of the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// Makes tags.
pub struct Prefixes(Mutex<Key>);

struct Key {
    bytes: Zeroizing<[u8; 32]>,
    made_ms: u64,
    /// Sessions by tag, and since when.
    opened: HashMap<[u8; 32], u32>,
    counted_ms: u64,
}

impl Key {
    fn new(now_ms: u64) -> Result<Key, KeyError> {
        let bytes = Zeroizing::new(keys::random32()?);
        Ok(Key { bytes, made_ms: now_ms, opened: HashMap::new(), counted_ms: now_ms })
    }
}

impl Prefixes {
    pub fn new(now_ms: u64) -> Result<Prefixes, KeyError> {
        Ok(Prefixes(Mutex::new(Key::new(now_ms)?)))
    }

    /// When the key is to be replaced.
    pub fn due_ms(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).made_ms.saturating_add(KEY_MS)
    }

    /// Replaces the key, which is wiped.
    pub fn replace(&self, now_ms: u64) -> Result<(), KeyError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Key::new(now_ms)?;
        Ok(())
    }

    /// Counts a session that a network is about to open; false where it opened so many within the hour.
    pub fn admit(&self, tag: PrefixTag, most: u32, now_ms: u64) -> bool {
        let mut key = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Also where the clock was set back.
        if now_ms.abs_diff(key.counted_ms) >= COUNT_MS {
            key.opened.clear();
            key.counted_ms = now_ms;
        }
        let opened = key.opened.entry(tag.0).or_default();
        let is_free = *opened < most;
        *opened += u32::from(is_free);
        is_free
    }

    /// The tag of an address; none of the computer itself, which says nothing of who calls.
    pub fn tag(&self, address: IpAddr) -> Option<PrefixTag> {
        let address = address.to_canonical();
        if address.is_loopback() {
            return None;
        }
        let key = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mac = Hmac::<Sha256>::new_from_slice(key.bytes.as_slice()).ok()?;
        match address {
            IpAddr::V4(address) => mac.update(&address.octets()[..3]),
            IpAddr::V6(address) => mac.update(&address.octets()[..6]),
        }
        Some(PrefixTag(mac.finalize().into_bytes().into()))
    }
}

/// The caller's address: the peer's or, behind a proxy, the last in the header that the proxy adds to. None where that is
/// missing or no address.
pub fn address(peer: Peer, headers: &HeaderMap, forwarded: Option<&HeaderName>) -> Option<IpAddr> {
    let Some(name) = forwarded else { return Some(peer.0) };
    let last = headers.get_all(name).iter().next_back()?.to_str().ok()?.rsplit(',').next()?.trim();
    last.parse().ok()
}

/// The tag of the network that a caller comes from, as far as that is known.
pub fn tag_of(service: &Service, peer: Peer, headers: &HeaderMap) -> Option<PrefixTag> {
    service.prefixes.tag(address(peer, headers, service.config.forwarded_header.as_ref())?)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn one_network_has_one_tag_until_the_key_goes() {
        let prefixes = Prefixes::new(5).unwrap();
        let tag = |address: &str| prefixes.tag(address.parse().unwrap());
        assert_eq!(tag("192.0.2.1"), tag("192.0.2.254"));
        assert_eq!(tag("192.0.2.1"), tag("::ffff:192.0.2.7"));
        assert_ne!(tag("192.0.2.1"), tag("192.0.3.1"));
        assert_eq!(tag("2001:db8:1::1"), tag("2001:db8:1:ffff::2"));
        assert_ne!(tag("2001:db8:1::1"), tag("2001:db8:2::1"));
        assert!(tag("192.0.2.1").is_some() && tag("127.0.0.1").is_none() && tag("::1").is_none());
        let before = tag("192.0.2.1");
        assert_eq!(prefixes.due_ms(), 5 + KEY_MS);
        prefixes.replace(9).unwrap();
        assert_ne!(tag("192.0.2.1"), before);
        assert_eq!(prefixes.due_ms(), 9 + KEY_MS);
        assert_ne!(Prefixes::new(5).unwrap().tag("192.0.2.1".parse().unwrap()), before, "keys are random");
        assert_eq!(format!("{:?}", before.unwrap()), "PrefixTag(…)");
    }

    #[test]
    fn a_network_opens_so_many_sessions_an_hour() {
        let prefixes = Prefixes::new(5).unwrap();
        let admit = |address: &str, now_ms| prefixes.admit(prefixes.tag(address.parse().unwrap()).unwrap(), 2, now_ms);
        assert_eq!([6, 7, 8].map(|now_ms| admit("192.0.2.1", now_ms)), [true, true, false]);
        assert!(!admit("192.0.2.254", 9) && admit("192.0.3.1", 9));
        assert!(!admit("192.0.2.1", 4 + COUNT_MS) && admit("192.0.2.1", 5 + COUNT_MS));
        assert!(admit("192.0.2.1", 5) && admit("192.0.2.1", 5) && !admit("192.0.2.1", 5), "the clock was set back");
    }

    #[test]
    fn a_proxy_s_own_entry_counts_and_no_other() {
        let name = HeaderName::from_static("x-forwarded-for");
        let peer = Peer("10.0.0.1".parse().unwrap());
        let of = |values: &[&str], forwarded: bool| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(&name, HeaderValue::from_str(value).unwrap());
            }
            address(peer, &headers, forwarded.then_some(&name)).map(|address| address.to_string())
        };
        assert_eq!(of(&["192.0.2.1"], false).as_deref(), Some("10.0.0.1"), "nobody asked for the header");
        assert_eq!(of(&["192.0.2.1"], true).as_deref(), Some("192.0.2.1"));
        assert_eq!(of(&["198.51.100.9, 192.0.2.1"], true).as_deref(), Some("192.0.2.1"), "what the caller wrote comes first");
        assert_eq!(of(&["198.51.100.9", "2001:db8::1"], true).as_deref(), Some("2001:db8::1"));
        for nothing in [&[][..], &["unknown"], &[""]] {
            assert_eq!(of(nothing, true), None, "{nothing:?}");
        }
    }
}
