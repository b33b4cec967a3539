//! What the file that a key is kept in outside its owner's device says of itself, once for the page and for programs.
//! docs/protocol.md, section 13, specifies it. No cryptography here: each has its own.

/// Longest file that is read.
pub const BYTES_MAX: usize = 16 * 1024;
pub const FORMAT: &str = "manyhands-key";
pub const VERSION: u64 = 1;
pub const KDF: &str = "PBKDF2-HMAC-SHA-256";
pub const CIPHER: &str = "AES-256-GCM";
/// As OWASP's password storage cheat sheet advises for this function.
pub const ITERATIONS: u32 = 600_000;
/// A file that asks for more would keep a tab busy for minutes.
pub const ITERATIONS_MAX: u32 = 10_000_000;
/// What stands before the seed in an Ed25519 key's PKCS#8 form (RFC 8410 section 7).
pub const PKCS8: [u8; 16] = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// Bytes of the form under AES-GCM, which adds its tag.
pub const SEALED_BYTES: usize = PKCS8.len() + 32 + 16;
