//! The volunteer's platform in a dedicated worker of a browser: keys in IndexedDB, the ways round what a browser refuses,
//! Web Locks, the session that tabs share, bounded fetch. What the loop makes of it is tested elsewhere.
#![cfg(all(target_arch = "wasm32", feature = "web"))]

use futures::FutureExt;
use futures::future::join;
use js_sys::Reflect;
use manyhands::control::Control;
use manyhands::governor::Slice;
use manyhands::volunteer::host::{Host, HostError, Method, Request, StoredSession};
use manyhands::volunteer::identity::verify;
use manyhands::volunteer::{Switch, Wish};
use manyhands::web::fields::Fields;
use manyhands::web::keyfile::{self, FileFault};
use manyhands::web::keyring::{self, Wish as KeyWish};
use manyhands::web::{
    self, Bounds, DataDay, Database, KeyOptions, Tempo, WebGovernor, WebHost, WebIdentity, WebPace, lock, sha256,
};
use manyhands_protocol::KeyId;
use std::rc::Rc;
use wasm_bindgen::JsValue;
use wasm_bindgen_test::{wasm_bindgen_test, wasm_bindgen_test_configure};

wasm_bindgen_test_configure!(run_in_dedicated_worker);

fn free() -> Rc<Tempo> {
    Tempo::new(Bounds::NONE)
}

/// A name no other test uses.
fn fresh(name: &str) -> String {
    format!("test-{name}-{}", js_sys::Math::random())
}

fn field(object: &JsValue, name: &str) -> JsValue {
    Reflect::get(object, &name.into()).expect("an object")
}

async fn signs(identity: &WebIdentity) {
    let signature = identity.sign(b"a statement").await.expect("signs");
    assert!(verify(identity.key, b"a statement", &signature));
    assert!(!verify(identity.key, b"another", &signature));
    // The small worker leaves checking to the browser.
    assert_eq!(web::verify(identity.key, b"a statement", &signature).await, Ok(true));
    assert_eq!(web::verify(identity.key, b"another", &signature).await, Ok(false));
    assert_eq!(web::verify(KeyId([3; 32]), b"a statement", &signature).await, Ok(false));
    let mut bent = signature;
    bent[40] ^= 1;
    assert_eq!(web::verify(identity.key, b"a statement", &bent).await, Ok(false));
}

#[wasm_bindgen_test]
async fn the_key_outlives_the_visit_and_cannot_be_read() {
    for webcrypto_ed25519 in [true, false] {
        let name = fresh("key");
        let options = KeyOptions { database: Some(&name), webcrypto_ed25519, unstored: None };
        let first = WebIdentity::open(options.clone()).await.expect("a key");
        assert!(first.stored, "webcrypto: {webcrypto_ed25519}");
        signs(&first).await;

        let again = WebIdentity::open(options).await.expect("the key again");
        assert_eq!((again.key, again.stored), (first.key, true), "webcrypto: {webcrypto_ed25519}");
        signs(&again).await;

        let record = Database::open(&name).await.expect("opens").get("identity", "key").await.expect("reads");
        let secret = field(&record, if webcrypto_ed25519 { "private" } else { "wrap" });
        assert_eq!(field(&secret, "extractable"), JsValue::FALSE);
        assert_eq!(field(&record, "seed"), JsValue::UNDEFINED);
    }
}

#[wasm_bindgen_test]
async fn this_browser_needs_no_fallback() {
    let name = fresh("native");
    WebIdentity::open(KeyOptions { database: Some(&name), webcrypto_ed25519: true, unstored: None }).await.expect("a key");
    let record = Database::open(&name).await.expect("opens").get("identity", "key").await.expect("reads");
    assert_eq!(field(&field(&field(&record, "private"), "algorithm"), "name"), "Ed25519");
}

#[wasm_bindgen_test]
async fn without_storage_each_visit_has_its_own_key() {
    for webcrypto_ed25519 in [true, false] {
        let options = KeyOptions { database: None, webcrypto_ed25519, unstored: None };
        let one = WebIdentity::open(options.clone()).await.expect("a key");
        let two = WebIdentity::open(options.clone()).await.expect("a key");
        assert!(!one.stored && !two.stored);
        assert_ne!(one.key, two.key);
        signs(&one).await;

        // But for the build that goes on with it.
        assert!(one.unstored.is_some());
        let on = WebIdentity::open(KeyOptions { unstored: one.unstored, ..options }).await.expect("the same key");
        assert_eq!((on.key, on.stored), (one.key, false));
        signs(&on).await;
    }
}

#[wasm_bindgen_test]
async fn what_is_stored_and_no_key_is_replaced() {
    let name = fresh("broken");
    let database = Database::open(&name).await.expect("opens");
    database.put("identity", "key", &"not a key".into()).await.expect("writes");
    let identity =
        WebIdentity::open(KeyOptions { database: Some(&name), webcrypto_ed25519: true, unstored: None }).await.expect("a key");
    assert!(identity.stored);
    signs(&identity).await;
}

#[wasm_bindgen_test]
async fn two_tabs_that_start_together_make_one_key() {
    let name = fresh("together");
    let options = KeyOptions { database: Some(&name), webcrypto_ed25519: true, unstored: None };
    let (one, two) = join(WebIdentity::open(options.clone()), WebIdentity::open(options)).await;
    assert_eq!(one.expect("a key").key, two.expect("a key").key);
}

#[wasm_bindgen_test]
async fn a_lock_has_one_holder_and_a_waiter_that_gives_up_does_not_keep_it() {
    let name = fresh("lock");
    let held = lock(&name).await;
    let host = WebHost::open(KeyOptions { database: None, webcrypto_ed25519: true, unstored: None }, free(), 0, |_| ())
        .await
        .expect("a host");
    {
        let mut gives_up = Box::pin(lock(&name).fuse());
        futures::select! {
            _ = gives_up => panic!("two holders"),
            () = host.sleep(50).fuse() => {}
        }
    }
    drop(held);
    drop(lock(&name).await);
}

#[wasm_bindgen_test]
async fn tabs_share_a_session_under_its_lock() {
    let name = fresh("session");
    let options = KeyOptions { database: Some(&name), webcrypto_ed25519: true, unstored: None };
    let (one, two) = (
        WebHost::open(options.clone(), free(), 0, |_| ()).await.expect("a tab"),
        WebHost::open(options, free(), 0, |_| ()).await.expect("a tab"),
    );
    assert_eq!(one.key(), two.key());
    let coordinator = KeyId([3; 32]);

    let opened_count = std::cell::Cell::new(0);
    let open = async |tab: &WebHost| {
        let _lock = tab.lock_session(coordinator).await;
        if let Some(session) = tab.load_session("s").await {
            return session;
        }
        opened_count.set(opened_count.get() + 1);
        // Time enough for the other tab, were there no lock.
        tab.sleep(20).await;
        let session = StoredSession { token: format!("token {}", opened_count.get()), expires_ms: 1_700_000_000_001 };
        tab.store_session("s", Some(&session)).await;
        session
    };
    let (a, b) = join(open(&one), open(&two)).await;
    assert!(a == b && opened_count.get() == 1);
    assert_eq!((a.token.as_str(), a.expires_ms), ("token 1", 1_700_000_000_001));

    two.store_session("s", None).await;
    assert!(one.load_session("s").await.is_none());
}

/// A tab that was slower than another does not take back what that one saw of the log, whatever that was.
#[wasm_bindgen_test]
async fn tabs_put_a_checkpoint_in_the_place_of_what_they_saw_alone() {
    let name = fresh("checkpoint");
    let options = KeyOptions { database: Some(&name), webcrypto_ed25519: true, unstored: None };
    let host = WebHost::open(options.clone(), free(), 0, |_| ()).await.expect("a tab");
    let other = WebHost::open(options, free(), 0, |_| ()).await.expect("a tab");
    let log = KeyId([9; 32]);
    let note = |size: u64| format!("manyhands/{log}\n{size}\nroot\n");
    let store = async |tab: &WebHost, loaded: Option<u64>, size| {
        tab.store_checkpoint(log, loaded.map(note).as_deref(), &note(size)).await;
    };
    let kept = async || host.load_checkpoint(log).await;
    store(&host, None, 9).await;
    assert_eq!(other.load_checkpoint(log).await, Some(note(9)));
    store(&other, Some(9), 10).await;
    store(&host, Some(9), 9).await;
    store(&host, None, 100).await;
    assert_eq!(kept().await, Some(note(10)));
    // At once, in either order.
    join(store(&host, Some(10), 20), store(&other, Some(10), 30)).await;
    assert_eq!(kept().await, Some(note(20)));
    join(store(&other, Some(20), 40), store(&host, Some(20), 50)).await;
    assert_eq!(kept().await, Some(note(40)));
}

#[wasm_bindgen_test]
async fn an_answer_is_read_no_further_than_its_bound() {
    let host = WebHost::open(KeyOptions { database: None, webcrypto_ed25519: true, unstored: None }, free(), 0, |_| ())
        .await
        .expect("a host");
    let get = |answer_bytes_max| Request {
        method: Method::Get,
        path: "/",
        token: None,
        content_type: None,
        body: &[],
        answer_bytes_max,
    };
    let whole = host.request(get(1 << 20)).await.expect("the test's own page");
    assert_eq!(whole.status, 200);
    let length = whole.body.len() as u64;
    assert!(length > 1);
    assert!(host.request(get(length)).await.is_ok());
    assert_eq!(host.request(get(length - 1)).await.err(), Some(HostError::TooLarge(length - 1)));
}

#[wasm_bindgen_test]
async fn sha256_of_abc() {
    // FIPS 180-4's example.
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sha256(b"abc").await.expect("a hash").to_string(), expected);
}

#[wasm_bindgen_test]
async fn a_computation_breathes_and_idles() {
    let tempo = free();
    let options = KeyOptions { database: None, webcrypto_ed25519: true, unstored: None };
    let host = WebHost::open(options, tempo.clone(), 0, |_| ()).await.expect("a host");
    let busy: Control = host.control();
    for _ in 0..100 {
        busy.worked(Slice { flop: 1, ms: 1.0 });
        busy.between_slices().await.expect("goes on");
    }
    tempo.set(Bounds { duty_percent: 50.0, ..Bounds::NONE });
    let half = host.control();
    let start_ms = half.now_ms();
    half.worked(Slice { flop: 1, ms: 80.0 });
    half.between_slices().await.expect("goes on");
    // Timers may fire a little early by this clock, and what was idled before counts a little.
    assert!(half.now_ms() - start_ms >= 55.0);
    half.stop();
    assert!(half.between_slices().await.is_err());
}

/// Two tabs count as one, to the byte; the next day begins anew.
#[wasm_bindgen_test]
async fn tabs_share_the_day_s_data() {
    const MOST: u64 = 1_000_000;
    let name = fresh("day");
    let (one, two) = join(DataDay::open(Some(&name), MOST), DataDay::open(Some(&name), MOST)).await;
    let mut taken = 0;
    loop {
        let got = join(one.take(30_001), two.take(70_003)).await;
        taken += u64::from(got.0) * 30_001 + u64::from(got.1) * 70_003;
        assert!(taken <= MOST, "{taken}");
        if got == (false, false) {
            break;
        }
    }
    // Each may hold what is less than it was asked for last.
    assert!(taken > MOST - 30_001 - 70_003, "{taken}");
    let again = DataDay::open(Some(&name), MOST).await;
    assert!(!again.take(MOST / 2).await, "a new tab finds the day's data used");
    let kept = Database::open_with(&format!("{name}-day"), &["day"]).await.expect("opens");
    let record = kept.get("day", "moved").await.expect("reads");
    let day = field(&record, "day").as_f64().expect("a date");
    Reflect::set(&record, &"day".into(), &(day - 1.0).into()).expect("an object");
    kept.put("day", "moved", &record).await.expect("writes");
    assert!(again.take(MOST / 2).await, "yesterday's data still counts");
    assert!(DataDay::open(Some(&name), 0).await.take(u64::MAX).await && DataDay::open(None, 1).await.take(2).await, "no bound");
}

/// Slices of one tab in milliseconds of the test's clock, as they begin.
async fn slices(governor: Rc<WebGovernor>, count: usize, ms: f64, tell: impl Fn(f64)) {
    let control = Control::with_pace(WebPace::new(governor.tempo()));
    for _ in 0..count {
        control.between_slices().await.expect("goes on");
        tell(control.now_ms());
        control.worked(Slice { flop: 1000, ms });
    }
}

/// Two tabs with work compute in turns, and one that is held has none.
#[wasm_bindgen_test]
async fn tabs_with_work_take_turns() {
    let begun = std::cell::RefCell::new(Vec::new());
    let tab = |name: usize, count| {
        let governor = WebGovernor::new(50, Switch::new(), |_| ());
        if name == 2 {
            governor.wish(Wish::Pause);
        }
        let (turns, begun) = (governor.clone(), &begun);
        async move {
            let work = slices(governor, count, 10.0, |at_ms| begun.borrow_mut().push((name, at_ms)));
            futures::select_biased! {
                () = work.fuse() => {}
                never = turns.take_turns().fuse() => match never {},
            }
        }
    };
    let all = join(tab(0, 60), tab(1, 60));
    futures::select_biased! {
        _ = all.fuse() => {}
        () = tab(2, 1).fuse() => panic!("a tab that is held computes"),
    }
    let begun = begun.into_inner();
    let mut turns: Vec<usize> = begun.iter().map(|(name, _)| *name).collect();
    turns.dedup();
    // Their work takes no time here, but the rest after it does: fifty slices fill a turn.
    assert!((3..=8).contains(&turns.len()), "{turns:?}");
    let all_ms = begun.last().expect("slices").1 - begun[0].1;
    assert!(all_ms >= 0.9 * 119.0 * 10.0, "both together rest as long as they work: {all_ms} ms");
}

/// A rest that is longer than a turn goes on in the next: while another tab works, nothing rests.
#[wasm_bindgen_test]
async fn tabs_with_long_rests_keep_the_limit_together() {
    let begun = std::cell::RefCell::new(Vec::new());
    let tab = || {
        let (governor, begun) = (WebGovernor::new(5, Switch::new(), |_| ()), &begun);
        let turns = governor.clone();
        async move {
            let work = slices(governor, 2, 50.0, |at_ms| begun.borrow_mut().push(at_ms));
            futures::select_biased! {
                () = work.fuse() => {}
                never = turns.take_turns().fuse() => match never {},
            }
        }
    };
    join(tab(), tab()).await;
    let begun = begun.into_inner();
    let all_ms = begun.last().expect("slices") - begun[0];
    assert!(all_ms >= 0.9 * 2.0 * 950.0, "each rests nineteen times as long as it worked: {all_ms} ms");
}

/// Made by tests/vectors/make.py, which shares no code with what reads it here.
const KEY_FILE: &str = include_str!("../../tests/vectors/key-file.json");
/// The same private key under another one's name.
const WRONG_KEY_FILE: &str = include_str!("../../tests/vectors/key-file-wrong-key.json");
const PASSPHRASE: &str = "correct horse battery staple";

fn key_of(seed: &[u8; 32]) -> KeyId {
    manyhands::volunteer::identity::Identity::from_seed(seed).key()
}

#[wasm_bindgen_test]
async fn key_files_are_those_of_the_specification() {
    assert_eq!(keyfile::open(KEY_FILE, PASSPHRASE).await, Ok([1; 32]));
    let own = keyfile::seal(&[2; 32], "another passphrase").await.expect("a file");
    assert_eq!(keyfile::open(&own, "another passphrase").await, Ok([2; 32]));
    assert_ne!(own, keyfile::seal(&[2; 32], "another passphrase").await.expect("a file"), "salt and nonce are fresh");
    assert!(!own.contains(&"02".repeat(32)));
}

/// The file as if it asked for so many rounds, and whole in all else.
async fn with_iterations(count: &str) -> String {
    let fields = Fields::parse(KEY_FILE.as_bytes()).expect("JSON");
    let [key, sealed, checksum] = ["key", "sealed", "checksum"].map(|name| fields.text(name).expect("a text"));
    let salt = fields.object("kdf").and_then(|kdf| kdf.text("salt")).expect("a salt");
    let iv = fields.object("cipher").and_then(|cipher| cipher.text("iv")).expect("a nonce");
    let text = format!("manyhands-key 1 {key} {count} {salt} {iv} {sealed}");
    let hash = sha256(text.as_bytes()).await.expect("hashes").to_string();
    KEY_FILE.replace("600000", count).replace(&checksum, &hash)
}

#[wasm_bindgen_test]
async fn each_fault_of_a_key_file_is_told_apart() {
    let check = async |from: &str, to: &str, fault: FileFault| {
        assert!(KEY_FILE.contains(from), "{from}");
        assert_eq!(keyfile::open(&KEY_FILE.replacen(from, to, 1), PASSPHRASE).await, Err(fault), "{from} became {to}");
    };
    assert_eq!(keyfile::open(KEY_FILE, "correct horse battery stable").await, Err(FileFault::WrongPassphrase));
    assert_eq!(keyfile::open(KEY_FILE, "").await, Err(FileFault::WrongPassphrase));
    for text in ["", "a key", &KEY_FILE[..KEY_FILE.len() - 4]] {
        assert_eq!(keyfile::open(text, PASSPHRASE).await, Err(FileFault::NotJson), "{text}");
    }
    for text in ["1", "null", "[]", "{}", "\"manyhands-key\""] {
        assert_eq!(keyfile::open(text, PASSPHRASE).await, Err(FileFault::Damaged), "{text}");
    }
    let long = format!("{KEY_FILE}{}", " ".repeat(manyhands::keyfile::BYTES_MAX));
    assert_eq!(keyfile::open(&long, PASSPHRASE).await, Err(FileFault::TooLong));
    assert_eq!(keyfile::open(WRONG_KEY_FILE, PASSPHRASE).await, Err(FileFault::Damaged));
    assert_eq!(with_iterations("600000").await, KEY_FILE, "the changed files below are changed in one place");
    for count in ["599999", "10000001"] {
        assert_eq!(keyfile::open(&with_iterations(count).await, PASSPHRASE).await, Err(FileFault::Damaged), "{count}");
    }
    check("\"version\": 1", "\"version\": 2", FileFault::Version).await;
    check("\"version\": 1", "\"version\": \"1\"", FileFault::Version).await;
    for (from, to) in [
        ("manyhands-key", "other-key"),
        ("PBKDF2-HMAC-SHA-256", "PBKDF2-HMAC-SHA-1"),
        ("AES-256-GCM", "AES-128-GCM"),
        ("600000", "600001"),
        ("\"salt\": \"00", "\"salt\": \"01"),
        ("\"salt\": \"00", "\"salt\": \""),
        ("\"iv\": \"00", "\"iv\": \"01"),
        ("\"sealed\": \"", "\"sealed\": \"00"),
        ("\"checksum\": \"", "\"checksum\": \"0"),
        ("\"key\": \"8a", "\"key\": \"8b"),
    ] {
        check(from, to, FileFault::Damaged).await;
    }
}

/// The test runner's server is no coordinator: what needs one fails, and what does not works.
#[wasm_bindgen_test]
async fn a_key_is_taken_from_a_file_and_kept_until_another_is_there() {
    let name = fresh("ring");
    let own = async || {
        let options = KeyOptions { database: Some(&name), webcrypto_ed25519: true, unstored: None };
        WebIdentity::open(options).await.expect("a key")
    };
    let passphrase = || PASSPHRASE.to_owned();
    let saved = keyring::act(&name, KeyWish::Export { passphrase: passphrase() }).await.ok().expect("nothing to replace");
    assert_eq!(own().await.key, saved.key);
    signs(&own().await).await;
    let file = saved.file.expect("a file");
    assert_eq!(keyfile::open(&file, PASSPHRASE).await.map(|seed| key_of(&seed)), Ok(saved.key));

    for wrong in [KeyWish::Import { passphrase: "wrong".to_owned(), file: KEY_FILE.to_owned() }, KeyWish::Replace] {
        assert!(keyring::act(&name, wrong).await.is_err());
        assert_eq!(own().await.key, saved.key, "the present key is kept");
    }
    // What could not be told the coordinator is not lost, and nothing else is done before.
    let database = Database::open(&name).await.expect("opens");
    assert!(!database.get("identity", "next").await.expect("reads").is_undefined());
    let early = keyring::act(&name, KeyWish::Import { passphrase: passphrase(), file: KEY_FILE.to_owned() }).await;
    assert_eq!(early.err().map(|fault| fault.code).as_deref(), Some("bad_answer"));
    database.delete("identity", "next").await.expect("deletes");

    let taken = keyring::act(&name, KeyWish::Import { passphrase: passphrase(), file: KEY_FILE.to_owned() }).await;
    assert_eq!(taken.ok().map(|done| done.key), Some(key_of(&[1; 32])));
    assert_eq!(own().await.key, key_of(&[1; 32]));
    signs(&own().await).await;
    let record = database.get("identity", "key").await.expect("reads");
    assert_eq!(field(&field(&record, "private"), "extractable"), JsValue::FALSE);
    assert_eq!(field(&record, "seed"), JsValue::UNDEFINED);
}
