//! The checks themselves: what a backend computed right is made wrong, and every case must see it.

use manyhands::control::Control;
use manyhands::engine::{Engine, known};

/// What makes right values wrong.
type Change = fn(&mut Vec<f32>);

/// Of every kernel's self-test: the results as they are pass; a value short, one too many, none at all, or NaN fail.
pub async fn wrong_results_are_seen(engine: &Engine) {
    let wrong: [(&str, Change); 5] = [
        ("short", |values| values.truncate(values.len() - 1)),
        ("long", |values| values.push(0.0)),
        ("empty", Vec::clear),
        ("NaN at the end", |values| *values.last_mut().unwrap() = f32::NAN),
        ("NaN everywhere", |values| values.fill(f32::NAN)),
    ];
    for case in known::self_test_cases() {
        let right = engine.run(&case.program, case.buffers.clone(), &Control::new()).await.unwrap();
        assert!(case.compare(&right).is_ok(), "{}", case.name);
        for (what, change) in wrong {
            let mut buffers = right.clone();
            buffers.iter_mut().for_each(change);
            assert!(case.compare(&buffers).is_err(), "{}: {what}", case.name);
        }
        assert!(case.compare(&[]).is_err(), "{}: no buffers", case.name);
    }
}
