//! A new key in the place of an old one: what passes on, and what is refused.

use ed25519_dalek::Signer;
use manyhands_protocol::problem::Code;
use manyhands_protocol::statement::Rotation;
use manyhands_protocol::view::KeyView;
use manyhands_protocol::wire::{RotationRequest, SignedBytes};
use manyhands_protocol::{KeyId, cbor, cose, limits};
use reqwest::{Method, header};

use crate::client::{Answer, Volunteer};
use crate::world::World;

const PATH: &str = "/v1/rotations";

/// A rotation as honest keys would write it.
async fn rotation(old: &Volunteer, new: &Volunteer) -> Rotation {
    let info = old.info().await;
    let nonce = hex::decode(info.nonce).unwrap();
    Rotation { version: limits::PROTOCOL_VERSION, audience: info.key, nonce, old: old.id(), new: new.id() }
}

fn signed(volunteer: &Volunteer, rotation: &Rotation) -> SignedBytes {
    SignedBytes(volunteer.sign(cose::Kind::Rotation, cbor::encode(rotation)))
}

async fn send(volunteer: &Volunteer, by_old: SignedBytes, by_new: SignedBytes) -> Answer {
    volunteer.post(PATH, "application/cbor", cbor::encode(&RotationRequest { by_old, by_new })).await
}

async fn rotate(old: &Volunteer, new: &Volunteer) -> Answer {
    let rotation = rotation(old, new).await;
    send(old, signed(old, &rotation), signed(new, &rotation)).await
}

async fn view(volunteer: &Volunteer) -> KeyView {
    volunteer.get(&format!("/v1/keys/{}", volunteer.id())).await.json()
}

/// Keys of these seeds, each with a session.
async fn joined<const N: usize>(world: &World, seeds: [u8; N]) -> [Volunteer; N] {
    let mut all = Vec::new();
    for seed in seeds {
        all.push(world.join(seed).await);
    }
    all.try_into().ok().unwrap()
}

#[tokio::test]
async fn the_new_key_has_the_old_one_s_credit_and_the_old_one_is_done() {
    let world = World::start().await;
    let job = world.product_job().await;
    let old = world.join(1).await;
    let [first, second] = [old.lease_one().await, old.lease_one().await];
    old.submit(&first, old.product_bytes(&first).await).await;
    let earned = view(&old).await.totals;
    assert!(earned.accepted == 1 && earned.credit_flop > 0, "{earned:?}");
    assert_eq!(world.view(job).await.contributors_now, 1);

    let mut new = Volunteer::new(&world.url(), 2).await;
    let asked = rotation(&old, &new).await;
    let (by_old, by_new) = (signed(&old, &asked), signed(&new, &asked));
    let again = async || send(&old, by_old.clone(), by_new.clone()).await;
    again().await.is(204);
    again().await.is(204);
    let seen = view(&new).await;
    assert_eq!((seen.totals, seen.replaced_by), (earned, None));
    let seen = view(&old).await;
    assert_eq!((seen.totals, seen.replaced_by), (earned, Some(new.id())));

    // The old key's session and leases are over, and it gets no other.
    assert_eq!(world.view(job).await.contributors_now, 0);
    old.try_lease(1, None).await.refused(Code::NoSession);
    old.try_heartbeat(&second).await.refused(Code::NoSession);
    let consent = old.consent().await;
    old.try_open(&consent).await.refused(Code::KeyReplaced);

    // Lease calls of the new one count the old one's credit, and its own is added.
    let consent = new.consent().await;
    new.open(&consent).await;
    let mut response = new.lease_response(1).await;
    assert_eq!(response.totals, earned);
    let lease = new.open_manifest(response.manifests.remove(0).0);
    new.submit(&lease, new.product_bytes(&lease).await).await;
    assert_eq!(view(&new).await.totals.accepted, 2);

    // Said again long after, it is still so.
    world.clock.advance(limits::NONCE_MS + 1);
    again().await.is(204);
    assert_eq!(view(&new).await.totals.accepted, 2);
    world.finish().await;
}

#[tokio::test]
async fn what_the_old_key_handed_in_still_counts() {
    let world = World::start().await;
    let job = world.train_job().await;
    let [old, other] = joined(&world, [1, 3]).await;
    let new = Volunteer::new(&world.url(), 2).await;
    let (own, theirs) = (old.lease_one().await, other.lease_one().await);
    assert_eq!(own.manifest.unit, theirs.manifest.unit);
    let update = old.update_bytes(&own).await;
    old.submit(&own, update.clone()).await;
    assert_eq!(view(&old).await.totals.pending, 1);
    rotate(&old, &new).await.is(204);
    assert_eq!(view(&new).await.totals.pending, 1);
    other.submit(&theirs, update).await;
    world.follow(job, |view| view.units_settled == 1).await;
    let totals = view(&new).await.totals;
    assert_eq!((totals.accepted, totals.pending), (1, 0), "{totals:?}");
    world.finish().await;
}

#[tokio::test]
async fn keys_form_chains_and_nothing_else() {
    let world = World::start().await;
    let [a, b, c, d] = joined(&world, [1, 2, 3, 4]).await;
    let stranger = Volunteer::new(&world.url(), 9).await;
    rotate(&stranger, &a).await.refused(Code::UnknownKey);
    rotate(&a, &a).await.refused(Code::BadRotation);
    rotate(&a, &b).await.is(204);
    rotate(&a, &c).await.refused(Code::KeyReplaced);
    rotate(&b, &a).await.refused(Code::KeyReplaced);
    rotate(&d, &a).await.refused(Code::KeyReplaced);
    rotate(&c, &b).await.refused(Code::BadRotation);
    rotate(&b, &c).await.is(204);
    rotate(&c, &a).await.refused(Code::KeyReplaced);
    rotate(&c, &b).await.refused(Code::KeyReplaced);
    rotate(&a, &b).await.is(204);
    assert_eq!(view(&a).await.replaced_by, Some(b.id()));
    assert_eq!(view(&c).await.replaced_by, None);
    world.finish().await;
}

#[tokio::test]
async fn chains_end() {
    let world = World::start().await;
    let mut last = world.join(1).await;
    for n in 0..=limits::KEY_ROTATIONS_MAX {
        let mut next = Volunteer::new(&world.url(), 0).await;
        let mut seed = [7; 32];
        seed[..4].copy_from_slice(&n.to_be_bytes());
        next.key = ed25519_dalek::SigningKey::from_bytes(&seed);
        let answer = rotate(&last, &next).await;
        if n < limits::KEY_ROTATIONS_MAX {
            answer.is(204);
        } else {
            answer.refused(Code::BadRotation);
        }
        last = next;
    }
    world.finish().await;
}

#[tokio::test]
async fn statements_that_are_none_change_nothing() {
    let world = World::start().await;
    let [old, other] = joined(&world, [1, 3]).await;
    let new = Volunteer::new(&world.url(), 2).await;
    let refused = async |code: Code, change: &dyn Fn(&mut Rotation)| {
        let mut rotation = rotation(&old, &new).await;
        change(&mut rotation);
        send(&old, signed(&old, &rotation), signed(&new, &rotation)).await.refused(code);
    };
    refused(Code::BadRotation, &|r| r.version = 2).await;
    refused(Code::BadRotation, &|r| r.audience = KeyId([7; 32])).await;
    refused(Code::BadNonce, &|r| r.nonce[0] ^= 1).await;
    refused(Code::BadNonce, &|r| r.nonce.clear()).await;
    // Somebody else's name in the statement, and somebody else's signature under it.
    refused(Code::WrongKey, &|r| r.old = other.id()).await;
    refused(Code::WrongKey, &|r| r.new = other.id()).await;
    let good = rotation(&old, &new).await;
    let (by_old, by_new) = (signed(&old, &good), signed(&new, &good));
    send(&old, signed(&other, &good), by_new.clone()).await.refused(Code::WrongKey);
    send(&old, by_old.clone(), signed(&other, &good)).await.refused(Code::WrongKey);
    send(&old, by_new.clone(), by_old.clone()).await.refused(Code::WrongKey);
    let forged = |by: &Volunteer, name: KeyId| {
        let unsigned = cose::prepare(cose::Kind::Rotation, name, cbor::encode(&good));
        SignedBytes(unsigned.finish(by.key.sign(&unsigned.to_be_signed()).to_bytes()))
    };
    send(&old, forged(&other, old.id()), by_new.clone()).await.refused(Code::BadSignature);
    send(&old, by_old.clone(), forged(&other, new.id())).await.refused(Code::BadSignature);
    let later = rotation(&old, &new).await;
    send(&old, by_old.clone(), signed(&new, &later)).await.refused(Code::BadRotation);
    let consent = SignedBytes(old.sign(cose::Kind::Consent, cbor::encode(&good)));
    send(&old, consent, by_new.clone()).await.refused(Code::WrongContentType);
    let body = cbor::encode(&RotationRequest { by_old: by_old.clone(), by_new: by_new.clone() });
    for cut in [0, 1, 40, body.len() / 2, body.len() - 1] {
        old.post(PATH, "application/cbor", body[..cut].to_vec()).await.refused(Code::BadCbor);
    }
    old.post(PATH, "application/cose", body.clone()).await.refused(Code::WrongContentType);
    // Another site's page, with everything else right.
    let foreign = old.call(Method::POST, PATH).header(header::CONTENT_TYPE, "application/cbor").body(body);
    Answer::of(foreign.header(header::ORIGIN, "https://evil.example")).await.refused(Code::ForeignOrigin);
    // One that was kept back.
    world.clock.advance(limits::NONCE_MS + 1);
    send(&old, by_old, by_new).await.refused(Code::BadNonce);
    assert_eq!(view(&old).await.replaced_by, None);
    new.get(&format!("/v1/keys/{}", new.id())).await.refused(Code::UnknownKey);
    world.finish().await;
}
