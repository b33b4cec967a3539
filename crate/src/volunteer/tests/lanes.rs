//! Several lanes of one visit: they share what the visitor agreed to, none holds up another, and one that fails loses its
//! own unit alone.

use futures::future::join;

use super::script::{Fault, ScriptHost, settings};
use super::*;

fn lanes(count: usize) -> Settings {
    Settings { lanes: count, ..settings() }
}

/// A visit that is stopped once so many units are accepted.
fn stopped_after(accepted: usize, host: &ScriptHost, settings: Settings) -> Result<(), VolunteerError> {
    let (world, mut count) = (host.0.clone(), 0);
    host.visit_telling(settings, move |event| {
        count += usize::from(matches!(event, Event::Unit(u) if u.phase == Phase::Accepted));
        if count == accepted {
            world.switch.set(Wish::Stop);
        }
    })
}

fn count(host: &ScriptHost, phase: Phase) -> usize {
    host.phases().into_iter().filter(|p| *p == phase).count()
}

#[test]
fn lanes_have_one_session_and_fetch_inputs_once() {
    let host = ScriptHost::new(20, &[]);
    stopped_after(20, &host, lanes(2)).unwrap();
    assert_eq!((host.count("POST /v1/sessions"), host.count("GET /v1/blobs/")), (1, 2));
    assert_eq!((count(&host, Phase::Accepted), host.0.results.borrow().len()), (20, 20));
    assert_eq!(host.count("aside opens"), 1, "a lane keeps its thread");
}

#[test]
fn one_blob_is_on_its_way_at_a_time_and_none_twice() {
    let calls = ["GET /v1/blobs/", "GET /v1/blobs/", "PUT /v1/blobs/", "PUT /v1/blobs/", "PUT /v1/blobs/"];
    let host = ScriptHost::new(9, &calls.map(|call| (call, Fault::Slow)));
    host.visit_for(lanes(3), 60_000, |_| ()).unwrap();
    assert_eq!((count(&host, Phase::Accepted), host.count("GET /v1/blobs/")), (9, 2));
    assert_eq!(host.0.transfers.get().1, 1);
}

#[test]
fn a_lane_that_hangs_holds_up_no_other_and_stop_gives_its_unit_back() {
    let host = ScriptHost::new(9, &[("aside computes", Fault::Hang)]);
    stopped_after(8, &host, lanes(2)).unwrap();
    assert_eq!((count(&host, Phase::Leased), count(&host, Phase::Accepted)), (9, 8));
    assert_eq!(host.count("DELETE /v1/leases/"), 1);
}

#[test]
fn a_killed_lane_loses_its_own_unit_and_goes_on() {
    let host = ScriptHost::new(40, &[("aside computes", Fault::Network)]);
    host.visit_for(lanes(2), 60_000, |_| ()).unwrap();
    assert_eq!((count(&host, Phase::Accepted), host.count("POST /v1/results")), (39, 39));
    assert_eq!((count(&host, Phase::GivenBack), host.count("DELETE /v1/leases/")), (1, 1));
    assert_eq!((host.count("aside opens"), host.errors()), (2, vec!["worker_failed".to_owned()]));
}

#[test]
fn where_no_lane_can_be_opened_the_first_goes_on() {
    let faults: Vec<_> = (0..20).map(|_| ("aside opens", Fault::Network)).collect();
    let host = ScriptHost::new(3, &faults);
    host.visit_for(lanes(2), 120_000, |_| ()).unwrap();
    assert_eq!((count(&host, Phase::Leased), count(&host, Phase::Accepted)), (3, 3), "nothing is leased for nobody");
    assert_eq!(host.count("aside opens"), 8);
}

/// A device computes one unit at a time.
#[cfg(feature = "gpu")]
#[test]
fn beside_a_gpu_there_is_no_further_lane() {
    let host = ScriptHost::new(20, &[]);
    stopped_after(3, &host, Settings { choice: Choice::Gpu, ..lanes(4) }).unwrap();
    assert_eq!((count(&host, Phase::Leased), host.count("aside opens")), (3, 0));
}

/// The first lane finds no more work, the other has some.
#[test]
fn a_visit_works_while_any_lane_does() {
    let host = ScriptHost::new(8, &[("aside computes", Fault::Hang)]);
    let world = host.0.clone();
    host.visit_for(lanes(2), 60_000, move |event| {
        if matches!(event, Event::Unit(u) if u.phase == Phase::Leased) && world.units_left.get() == 0 {
            // Told from here on.
            world.events.borrow_mut().clear();
        }
    })
    .unwrap();
    assert!(host.count("POST /v1/leases") > 20, "the first lane goes on asking");
    assert!(!host.states().contains(&State::Waiting), "{:?}", host.states());
}

#[test]
fn lanes_ask_for_work_no_more_often_than_one() {
    let asked = |count| {
        let host = ScriptHost::new(0, &[]);
        host.visit_for(lanes(count), 60_500, |_| ()).unwrap();
        host.count("POST /v1/leases")
    };
    assert_eq!(asked(1), 61);
    assert_eq!(asked(8), 61);
}

#[test]
fn nothing_is_leased_in_a_pause() {
    let host = ScriptHost::new(0, &[]);
    let world = host.0.clone();
    let pause = move |event: &Event| {
        if matches!(event, Event::State { state: State::Waiting, .. }) {
            world.switch.set(Wish::Pause);
        }
    };
    host.visit_for(lanes(3), 60_000, pause).unwrap();
    assert!(host.states().contains(&State::Paused));
    assert_eq!(host.count("POST /v1/leases"), 0);

    // Pressed while one lane asks and the others wait for their turn.
    let host = ScriptHost::new(0, &[]);
    let pressed = async {
        host.sleep(500).await;
        host.0.switch.set(Wish::Pause);
        host.sleep(60_000).await;
        host.0.switch.set(Wish::Stop);
    };
    host.drive(join(host.begin(lanes(3), |_| ()), pressed)).0.unwrap();
    assert_eq!(host.count("POST /v1/leases"), 1);
}

/// The answer to another lane's lease may count a result before its own answer arrives.
#[test]
fn no_result_is_counted_twice() {
    let faults: Vec<_> = (0..4).map(|_| ("POST /v1/results", Fault::LostAnswer)).collect();
    let host = ScriptHost::new(20, &faults);
    host.0.totals_are_true.set(true);
    let told = host.clone();
    host.visit_for(lanes(4), 60_000, move |event| {
        if let Event::Totals(totals) = event {
            assert!(totals.accepted <= told.accepted(), "{totals:?} of {}", told.accepted());
        }
    })
    .unwrap();
    assert_eq!(host.totals(), Some((20, 0, 0)), "and none is forgotten");
}

#[test]
fn all_lanes_have_one_allowance_of_data() {
    let host = ScriptHost::new(1000, &[]);
    let result = host.visit_telling(Settings { data_bytes_max: 10_000, ..lanes(4) }, |_| ());
    assert!(matches!(result, Err(VolunteerError::DataLimit)));
    assert!(count(&host, Phase::Accepted) > 0, "some of it was used");
    assert!(host.0.moved_bytes.get() <= 10_000, "{} bytes", host.0.moved_bytes.get());
}
