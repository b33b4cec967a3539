//! The native CPU backend against the reference.
#![allow(clippy::unwrap_used)]
#![cfg(not(target_arch = "wasm32"))]

use manyhands::engine::Engine;

mod suite;

#[test]
fn cpu_agrees_with_the_reference() {
    pollster::block_on(suite::all(&Engine::cpu(), "native CPU"));
}

#[test]
fn the_reference_passes_its_own_suite() {
    pollster::block_on(Engine::reference().self_test()).unwrap();
    pollster::block_on(suite::vectors::agree(&Engine::reference(), "reference"));
}
