//! Ed25519 by ed25519-dalek: checking the coordinator's signatures everywhere, and signing where the platform has no
//! key of its own to offer. It stores nothing.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use manyhands_protocol::KeyId;

/// A signing key held in memory; wiped when dropped, and never printed.
pub struct Identity(SigningKey);

impl Identity {
    /// The key of a 32-byte RFC 8032 seed.
    pub fn from_seed(seed: &[u8; 32]) -> Identity {
        Identity(SigningKey::from_bytes(seed))
    }

    pub fn key(&self) -> KeyId {
        KeyId(self.0.verifying_key().to_bytes())
    }

    pub fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        self.0.sign(bytes).to_bytes()
    }
}

/// Whether `signature` over `bytes` is `key`'s. Strict: small-order keys and malleable signatures are refused.
pub fn verify(key: KeyId, bytes: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(&key.0).is_ok_and(|key| key.verify_strict(bytes, &Signature::from_bytes(signature)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_key_bytes_and_signature_verify() {
        let (one, two) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
        let signature = one.sign(b"unit");
        assert!(verify(one.key(), b"unit", &signature));
        assert!(!verify(two.key(), b"unit", &signature));
        assert!(!verify(one.key(), b"Unit", &signature));
        let mut bent = signature;
        bent[40] ^= 1;
        assert!(!verify(one.key(), b"unit", &bent));
    }

    #[test]
    fn a_small_order_key_signs_nothing() {
        // The identity point with R = identity and s = 0 satisfies the plain equation for every message.
        let mut point = [0; 32];
        point[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(!verify(KeyId(point), b"anything", &signature));
    }
}
