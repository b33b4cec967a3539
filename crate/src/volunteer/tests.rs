//! The loop under failures: lost answers, refusals, dead sessions, lapsed leases, lies, and Stop. Several lanes: `lanes`.

mod lanes;
mod ledger;
mod script;

use manyhands_protocol::problem::Code;
use manyhands_protocol::wire::{Totals, Verdict};
use script::{Fault, ScriptHost, settings};

use super::host::Host as _;
use super::identity::Identity;
use super::*;

/// A visit of `units` units with faults on the way, which succeeds.
fn survives(units: u64, faults: &[(&'static str, Fault)]) -> ScriptHost {
    let host = ScriptHost::new(units, faults);
    host.visit(|_| ()).unwrap();
    assert!(host.0.faults.borrow().is_empty(), "a fault was not met");
    host
}

#[test]
fn a_unit_goes_from_lease_to_verdict() {
    let host = survives(2, &[]);
    use Phase::*;
    assert_eq!(host.phases(), [Leased, Computing, Computed, Submitted, Accepted].repeat(2));
    assert_eq!(host.states(), [State::Starting, State::SelfTest, State::Waiting, State::Working, State::Stopped]);
    assert_eq!(host.count("GET /v1/blobs/"), 2, "inputs are fetched once");
    let outputs = host.0.blobs.borrow();
    let c = crate::tensors::write_f32(&[("c", &[2, 1], &[-2.0, -2.0])]);
    assert!(outputs.contains_key(&script::hash(&c)));
}

#[test]
fn keeps_trying_while_nobody_answers() {
    let host = survives(
        1,
        &[
            ("GET /v1/info", Fault::Network),
            ("GET /v1/info", Fault::Html(502)),
            ("GET /v1/info", Fault::Hang),
            ("POST /v1/sessions", Fault::Network),
        ],
    );
    assert_eq!(host.states().iter().filter(|s| **s == State::Unreachable).count(), 1, "told once");
    assert_eq!(host.waits()[..5], [125, 250, 15_000, 500, 1000], "each wait longer, and a call that hangs is cut");
    assert_eq!(host.phases().last(), Some(&Phase::Accepted));
}

#[test]
fn a_stopped_coordinator_is_asked_again_when_it_says() {
    let host = survives(1, &[("POST /v1/leases", Fault::Problem(Code::Stopped, Some(9_000)))]);
    assert!(host.waits().contains(&9_000));
    assert!(!host.states().contains(&State::Unreachable));
}

#[test]
fn a_used_nonce_is_replaced() {
    let host = survives(1, &[("POST /v1/sessions", Fault::Problem(Code::BadNonce, None))]);
    assert_eq!((host.count("GET /v1/info"), host.count("POST /v1/sessions")), (2, 2));
}

#[test]
fn a_dead_session_is_replaced_within_the_consent() {
    for call in ["POST /v1/leases", "PUT /v1/blobs/", "POST /v1/results"] {
        let host = survives(1, &[(call, Fault::Problem(Code::SessionExpired, None))]);
        let consents = host.0.consents.borrow();
        assert_eq!(consents.len(), 2, "{call}");
        assert!(consents[1].expires_ms <= consents[0].expires_ms, "{call}: the second consent reaches further");
        assert_eq!(host.phases().last(), Some(&Phase::Accepted), "{call}");
    }
}

#[test]
fn consent_ends_and_only_a_terminal_renews_it() {
    let wait_for_work = |renew_consent| {
        let host = ScriptHost::new(0, &[]);
        host.0.sessions_max.set(3);
        let result = host.visit(|s| {
            s.units_max = None;
            s.renew_consent = renew_consent;
        });
        let sessions_count = host.0.sessions_count.get();
        (result, sessions_count)
    };
    assert!(matches!(wait_for_work(false), (Err(VolunteerError::ConsentExpired), 1)));
    assert!(matches!(wait_for_work(true), (Ok(()), 3)));
}

#[test]
fn another_coordinator_behind_the_address_gets_nothing() {
    let host = ScriptHost::new(2, &[("POST /v1/results", Fault::Problem(Code::NoSession, None))]);
    let world = host.0.clone();
    let result = host.visit_telling(settings(), move |event| {
        if matches!(event, Event::Unit(u) if u.phase == Phase::Submitted) {
            *world.coordinator.borrow_mut() = Identity::from_seed(&[6; 32]);
        }
    });
    assert!(matches!(result, Err(VolunteerError::CoordinatorChanged)));
    assert_eq!(host.0.consents.borrow().len(), 1, "no consent for the other key");
}

#[test]
fn a_unit_taken_back_is_given_up() {
    // The first upload hangs, so that the heartbeat decides; the second unit is then kept.
    let host = ScriptHost::new(2, &[("PUT /v1/blobs/", Fault::HangAndTakeBack)]);
    let world = host.0.clone();
    let one = Settings { units_max: Some(1), ..settings() };
    let result = host.visit_telling(one, move |event| {
        if matches!(event, Event::Unit(u) if u.phase == Phase::GivenBack) {
            world.keep.set(None);
        }
    });
    result.unwrap();
    assert!(host.phases().contains(&Phase::GivenBack));
    assert_eq!(host.phases().last(), Some(&Phase::Accepted));
    assert_eq!(host.count("DELETE /v1/leases/101"), 1);
    assert!(host.errors().is_empty(), "{:?}", host.errors());
}

#[test]
fn a_pause_holds_the_unit_for_a_while_and_then_gives_it_back() {
    // Where the computation is done before the pause reaches it, its upload hangs.
    let host = ScriptHost::new(2, &[("lease=101", Fault::Hang)]);
    host.0.keep.set(Some(true));
    let (world, start_ms) = (host.0.clone(), host.0.now_ms.get());
    let one = Settings { units_max: Some(1), ..settings() };
    let result = host.visit_telling(one, move |event| match event {
        Event::Unit(u) if u.phase == Phase::Computing && world.now_ms.get() < start_ms + 1000 => {
            world.switch.set(Wish::Pause);
        }
        Event::Unit(u) if u.phase == Phase::GivenBack => {
            assert!(world.now_ms.get() >= start_ms + 30_000, "given back at once");
            world.keep.set(None);
            world.switch.set(Wish::Run);
        }
        _ => {}
    });
    result.unwrap();
    assert!(host.states().contains(&State::Paused));
    assert_eq!(host.phases().iter().filter(|p| **p == Phase::GivenBack).count(), 1);
    assert_eq!(host.phases().last(), Some(&Phase::Accepted));
}

#[test]
fn a_lapsed_lease_is_dropped_and_not_given_back() {
    for call in ["PUT /v1/blobs/", "POST /v1/results"] {
        let host = ScriptHost::new(2, &[(call, Fault::Problem(Code::LeaseEnded, None))]);
        host.visit(|s| s.units_max = Some(1)).unwrap();
        assert_eq!(host.phases().iter().filter(|p| **p == Phase::GivenBack).count(), 1, "{call}");
        assert_eq!(host.count("DELETE /v1/leases/"), 0, "{call}");
        assert_eq!(host.phases().last(), Some(&Phase::Accepted), "{call}");
    }
}

#[test]
fn a_lease_handed_over_is_worked_off_before_another_is_asked_for() {
    let host = ScriptHost::new(0, &[]);
    let lease = host.manifest(host.key());
    host.visit(|s| (s.lease, s.units_max) = (Some(lease), Some(1))).unwrap();
    assert_eq!(host.phases().last(), Some(&Phase::Accepted));
    assert_eq!(host.count("POST /v1/leases"), 0);

    // One that is another key's by now is not touched.
    let host = ScriptHost::new(1, &[]);
    let lease = host.manifest(Identity::from_seed(&[6; 32]).key());
    host.visit(|s| (s.lease, s.units_max) = (Some(lease), Some(1))).unwrap();
    assert_eq!(host.count("POST /v1/leases"), 1);
    assert_eq!(host.count("DELETE /v1/leases"), 0);
    assert!(host.errors().is_empty(), "{:?}", host.errors());
}

#[test]
fn an_input_that_is_not_what_its_hash_says_is_not_computed() {
    let host = ScriptHost::new(2, &[("GET /v1/blobs/", Fault::WrongBytes)]);
    host.visit(|s| s.units_max = Some(1)).unwrap();
    assert_eq!(host.phases()[..2], [Phase::Leased, Phase::GivenBack]);
    assert_eq!(host.errors(), ["hash_mismatch"]);
    assert_eq!(host.count("DELETE /v1/leases/101"), 1);
}

#[test]
fn a_result_whose_answer_was_lost_is_sent_again_unchanged() {
    let host = survives(1, &[("POST /v1/results", Fault::LostAnswer)]);
    let results = host.0.results.borrow();
    assert_eq!(results.len(), 2);
    assert_eq!(results[0], results[1]);
}

#[test]
fn a_pending_result_is_asked_about_until_it_has_a_verdict() {
    let host = ScriptHost::new(1, &[]);
    host.0.verdicts.borrow_mut().extend([Verdict::Pending, Verdict::Pending, Verdict::Rejected]);
    host.visit(|_| ()).unwrap();
    assert_eq!(host.phases()[4..], [Phase::Pending, Phase::Rejected]);
    assert_eq!(host.0.results.borrow().len(), 3);
    assert_eq!(host.totals(), Some((0, 1, 0)));
}

/// The lease between two questions may count a verdict before the volunteer has heard it.
#[test]
fn a_verdict_that_a_lease_counted_is_not_counted_again() {
    let host = ScriptHost::new(2, &[]);
    host.0.verdicts.borrow_mut().extend([Verdict::Pending, Verdict::Accepted, Verdict::Accepted]);
    let world = host.0.clone();
    let two = Settings { units_max: Some(2), ..settings() };
    let result = host.visit_telling(two, move |event| match event {
        Event::Unit(u) if u.phase == Phase::Pending => {
            world.totals.set(Totals { accepted: 1, credit_flop: 12, ..Totals::default() });
        }
        _ => {}
    });
    result.unwrap();
    assert_eq!(host.phases().iter().filter(|p| **p == Phase::Accepted).count(), 2, "both verdicts are told");
    assert_eq!(host.totals(), Some((2, 0, 0)));
}

#[test]
fn a_visit_that_ends_asks_once_more_for_its_last_verdicts() {
    let host = ScriptHost::new(2, &[]);
    host.0.verdicts.borrow_mut().extend([Verdict::Pending, Verdict::Accepted]);
    let world = host.0.clone();
    let result = host.visit_telling(settings(), move |event| {
        if matches!(event, Event::Unit(u) if u.phase == Phase::Pending) {
            world.totals.set(Totals { pending: 1, ..Totals::default() });
            world.switch.set(Wish::Stop);
        }
    });
    result.unwrap();
    assert_eq!(host.phases().last(), Some(&Phase::Accepted));
    assert_eq!(host.totals(), Some((1, 0, 0)));
}

#[test]
fn stop_gives_the_lease_back_at_any_point() {
    for call in ["GET /v1/blobs/", "PUT /v1/blobs/", "POST /v1/results"] {
        let host = ScriptHost::new(5, &[(call, Fault::Hang)]);
        host.0.stop_at.set(Some(call));
        host.visit(|_| ()).unwrap();
        assert_eq!(host.count("DELETE /v1/leases/101"), 1, "{call}");
        assert_eq!(host.count("POST /v1/leases"), 1, "{call}: leased after Stop");
        assert_eq!(host.states().last(), Some(&State::Stopped), "{call}");
        assert_eq!(host.count("DELETE /v1/sessions"), 0, "other tabs share the session");
    }
}

/// The coordinator counts a lease from when it answers, whoever still listens.
#[test]
fn a_lease_on_its_way_when_stop_comes_is_given_back() {
    for lacks_ed25519 in [false, true] {
        let host = ScriptHost::new(5, &[("POST /v1/leases", Fault::Late(100))]);
        host.0.stop_at.set(Some("POST /v1/leases"));
        host.0.lacks_ed25519.set(lacks_ed25519);
        host.visit(|_| ()).unwrap();
        assert_eq!(host.count("DELETE /v1/leases/101"), 1);
        assert_eq!((host.count("POST /v1/leases"), host.count("GET /v1/blobs/")), (1, 0), "begun after Stop");
        assert!(host.phases().is_empty() && host.errors().is_empty());
    }
}

#[test]
fn a_lease_handed_over_is_given_back_where_stop_came_first() {
    let host = ScriptHost::new(0, &[]);
    let lease = host.manifest(host.key());
    host.0.switch.set(Wish::Stop);
    host.visit(|s| s.lease = Some(lease)).unwrap();
    assert_eq!(host.count("DELETE /v1/leases/101"), 1);
    assert_eq!(host.count("GET /v1/blobs/"), 0);
}

/// Where neither the platform nor this build can check a signature, a build that can goes on with the lease.
#[test]
fn a_lease_that_cannot_be_checked_is_for_another_build() {
    let host = ScriptHost::new(1, &[]);
    host.0.lacks_ed25519.set(true);
    let Err(VolunteerError::Beyond(Some(lease))) = host.visit(|_| ()) else { panic!("worked on, or lost") };
    assert_eq!((host.count("GET /v1/blobs/"), host.count("DELETE /v1/leases/")), (0, 0));
    let whole = ScriptHost::new(0, &[]);
    whole.visit(|s| (s.lease, s.units_max) = (Some(lease), Some(1))).unwrap();
    assert_eq!(whole.phases().last(), Some(&Phase::Accepted));
}

#[test]
fn stop_does_not_wait_for_a_coordinator_that_is_gone() {
    let host = ScriptHost::new(1, &[("PUT /v1/blobs/", Fault::Hang), ("DELETE /v1/leases/", Fault::Hang)]);
    host.0.stop_at.set(Some("PUT /v1/blobs/"));
    let start_ms = host.0.now_ms.get();
    host.visit(|_| ()).unwrap();
    assert!(host.0.now_ms.get() - start_ms <= 1000, "longer than a second");
}

#[test]
fn no_more_data_than_consented_to() {
    let host = ScriptHost::new(1000, &[]);
    let result = host.visit(|s| s.data_bytes_max = 10_000);
    assert!(matches!(result, Err(VolunteerError::DataLimit)));
    assert!(host.phases().contains(&Phase::Accepted), "some of it was used");
    assert_eq!(host.errors().last().map(String::as_str), Some("data_limit"));

    // A visit that another build began has used some of it.
    let host = ScriptHost::new(1000, &[]);
    host.0.data_bytes_used.set(9_990);
    assert!(matches!(host.visit(|s| s.data_bytes_max = 10_000), Err(VolunteerError::DataLimit)));
    assert!(!host.phases().contains(&Phase::Accepted));
}

#[test]
fn tabs_of_one_key_share_a_session_and_replace_a_dead_one() {
    let first = survives(1, &[]);
    let second = ScriptHost::new(1, &[]);
    let shared = first.0.stored.borrow().clone();
    assert_eq!(shared.len(), 1);
    second.0.stored.replace(shared);
    second.0.sessions_count.set(1);
    second.visit(|_| ()).unwrap();
    assert_eq!(second.count("POST /v1/sessions"), 0, "shares the stored one");

    // The coordinator forgot it.
    let third = ScriptHost::new(1, &[]);
    third.0.stored.replace(first.0.stored.borrow().clone());
    third.0.sessions_count.set(7);
    third.visit(|_| ()).unwrap();
    assert_eq!(third.count("POST /v1/sessions"), 1);
    assert!(third.0.stored.borrow().values().all(|s| s.token == "token-8"));

    // A wider consent's session is not borrowed.
    let fourth = ScriptHost::new(1, &[]);
    fourth.0.stored.replace(first.0.stored.borrow().clone());
    fourth.0.sessions_count.set(1);
    fourth.visit(|s| s.duty_percent = 10).unwrap();
    assert_eq!(fourth.count("POST /v1/sessions"), 1);
}

#[test]
fn a_visit_that_only_fails_ends() {
    let faults: Vec<_> = (0..20).map(|_| ("GET /v1/blobs/", Fault::WrongBytes)).collect();
    let host = ScriptHost::new(50, &faults);
    assert!(matches!(host.visit(|_| ()), Err(VolunteerError::InputHash)));
    assert_eq!(host.count("POST /v1/leases"), 8);
}

#[test]
fn a_refused_consent_ends_the_visit() {
    let host = ScriptHost::new(1, &[("POST /v1/sessions", Fault::Problem(Code::BadConsent, None))]);
    assert!(host.visit(|_| ()).is_err());
    assert_eq!(host.errors(), ["bad_consent"]);
    assert_eq!(host.states().last(), Some(&State::Stopped));
}
