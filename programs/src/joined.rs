//! Calls that do the same to one tensor after another, as one call over all of them where they lie side by side: a call
//! costs a device tens of microseconds, whatever it does. Only calls that compute each value, or each part of a sum, by
//! itself are joined, so that no bit changes. The backends of a processor run a program's calls as they are.

use crate::memory::{Placement, SIDE_STEP};
use crate::{Buffer, EVERY_LAYER, Op, Program};

/// Each call of a program as a device makes it whose memory is laid out like this: the first of several that are joined
/// does the work of all, and none is left of the others. No joined call does more than the program's calls may.
pub fn joined(program: &Program, placement: &Placement) -> Vec<Option<Op>> {
    if !EVERY_LAYER {
        // Only products, which are not joined.
        return program.ops.iter().copied().map(Some).collect();
    }
    let mut calls: Vec<Option<Op>> = Vec::with_capacity(program.ops.len());
    let mut open = 0;
    for op in &program.ops {
        let both = calls.get(open).copied().flatten().and_then(|first| join(first, *op, placement));
        match both.filter(|both| both.flop() <= program.call_flop_max) {
            Some(both) => {
                calls[open] = Some(both);
                calls.push(None);
            }
            None => {
                open = calls.len();
                calls.push(Some(*op));
            }
        }
    }
    calls
}

/// The two calls as one, if the second goes on where the first ends and is like it in all else.
fn join(first: Op, next: Op, placement: &Placement) -> Option<Op> {
    let (mut first, mut like) = (first, next);
    let Along { buffers, values } = along(&mut first)?;
    let next = along(&mut like)?;
    // How far behind the first call's buffers those of the second begin.
    let step = u64::from(*values).next_multiple_of(SIDE_STEP);
    for (buffer, later) in buffers.into_iter().zip(next.buffers) {
        let behind = placement.place_of[buffer.0] == placement.place_of[later.0]
            && placement.begins[buffer.0] + step == placement.begins[later.0];
        if !behind {
            return None;
        }
        *later = *buffer;
    }
    let all = u32::try_from(step + u64::from(*next.values)).ok()?;
    *next.values = *values;
    if let Op::SquareSums { first_part, .. } = &mut like {
        *first_part = first_part.checked_sub(u32::try_from(step / SIDE_STEP).ok()?)?;
    }
    if like != first {
        return None;
    }
    *along(&mut first)?.values = all;
    Some(first)
}

/// What a call walks along value by value: these buffers, from their beginning, for so many values.
struct Along<'a> {
    buffers: Vec<&'a mut Buffer>,
    values: &'a mut u32,
}

/// None for calls that are not joined.
fn along(op: &mut Op) -> Option<Along<'_>> {
    let (buffers, values) = match op {
        Op::SgdMomentum { gradient, velocity, parameter, values, .. } => (vec![gradient, velocity, parameter], values),
        Op::AdamW { gradient, first, second, parameter, values, .. } => (vec![gradient, first, second, parameter], values),
        Op::SquareSums { gradient, values, .. } | Op::Clip { gradient, values, .. } => (vec![gradient], values),
        _ => return None,
    };
    Some(Along { buffers, values })
}

#[cfg(test)]
mod tests {
    use manyhands_shaders::adamw;
    use manyhands_shaders::sgd_momentum::Rates;

    use super::*;
    use crate::CALL_FLOP_MAX;
    use crate::memory::SIDE_MAX;

    const RATES: Rates = Rates { learning_rate: 0.1, momentum: 0.9 };

    /// Three rows of tensors of so many values.
    fn rows(values: &[u64]) -> (Program, Vec<[Buffer; 3]>) {
        let mut program = Program::default();
        let tensors: Vec<_> = values.iter().map(|&values| [0; 3].map(|_| program.buffer(values))).collect();
        program.side_by_side = (0..3).map(|row| tensors.iter().map(|tensor| tensor[row]).collect()).collect();
        (program, tensors)
    }

    fn sgd(values: u32, [gradient, velocity, parameter]: [Buffer; 3], rates: Rates) -> Op {
        Op::SgdMomentum { gradient, velocity, parameter, values, rates }
    }

    /// The values of each call that is left; zero for one that is not.
    fn left(program: &Program, placement: &Placement) -> Vec<u32> {
        let values = |op: Option<Op>| op.map_or(0, |mut op| along(&mut op).map_or(1, |along| *along.values));
        joined(program, placement).into_iter().map(values).collect()
    }

    fn updates(values: &[u32], call_flop_max: u64) -> Vec<u32> {
        let (mut program, tensors) = rows(&values.iter().map(|&values| values.into()).collect::<Vec<_>>());
        program.call_flop_max = call_flop_max;
        program.ops = values.iter().zip(tensors).map(|(&values, tensor)| sgd(values, tensor, RATES)).collect();
        left(&program, &Placement::shared(&program))
    }

    #[test]
    fn calls_side_by_side_are_one() {
        assert_eq!(updates(&[10], CALL_FLOP_MAX), [10]);
        assert_eq!(updates(&[10, 1024, 5000, 3], CALL_FLOP_MAX), [1024 + 1024 + 5120 + 3, 0, 0, 0]);
        let most = SIDE_MAX as u32;
        assert_eq!(updates(&[8, most - 1024, 2000, 7], u64::MAX), [most, 0, 2055, 0], "as many as places");
        assert_eq!(updates(&[1000, 1000, 1000], 8 * 2024), [2024, 0, 1000], "no more work than one call may do");
        assert_eq!(updates(&[1000, 1000, 1000], 1), [1000; 3]);
    }

    #[test]
    fn what_differs_or_lies_apart_is_not_joined() {
        let (mut program, tensors) = rows(&[8; 3]);
        let fast = Rates { learning_rate: 0.2, ..RATES };
        program.ops = vec![sgd(8, tensors[0], RATES), sgd(8, tensors[1], fast), sgd(8, tensors[2], fast)];
        assert_eq!(left(&program, &Placement::shared(&program)), [8, 1032, 0]);
        assert_eq!(left(&program, &Placement::apart(&program)), [8; 3]);
        // One left out, in another order, with something between, or with a velocity of another tensor.
        program.ops = vec![sgd(8, tensors[0], RATES), sgd(8, tensors[2], RATES)];
        assert_eq!(left(&program, &Placement::shared(&program)), [8; 2]);
        program.ops = vec![sgd(8, tensors[1], RATES), sgd(8, tensors[0], RATES)];
        assert_eq!(left(&program, &Placement::shared(&program)), [8; 2]);
        let [x, y, sum] = tensors[0];
        program.ops = vec![sgd(8, tensors[0], RATES), Op::Add { x, y, sum, values: 8 }, sgd(8, tensors[1], RATES)];
        assert_eq!(left(&program, &Placement::shared(&program)), [8, 1, 8]);
        let crossed = [tensors[1][0], tensors[2][1], tensors[1][2]];
        program.ops = vec![sgd(8, tensors[0], RATES), sgd(8, crossed, RATES)];
        assert_eq!(left(&program, &Placement::shared(&program)), [8; 2]);
    }

    #[test]
    fn norms_and_adamw_are_joined_as_well() {
        let (mut program, tensors) = rows(&[1030, 4, 9]);
        let [parts, squares, powers] = [4, 1, 4].map(|values| program.buffer(values));
        let rates = adamw::Rates { learning_rate: 0.1, beta1: 0.9, beta2: 0.9, epsilon: 1e-8, weight_decay: 0.1 };
        for ((first_part, &[gradient, first, second]), values) in [0, 2, 3].into_iter().zip(&tensors).zip([1030, 4, 9]) {
            program.ops.push(Op::SquareSums { gradient, parts, values, first_part });
            program.ops.push(Op::Clip { squares, gradient, values, most: 1.0 });
            program.ops.push(Op::AdamW { powers, gradient, first, second, parameter: first, values, rates });
        }
        program.ops.sort_by_key(|op| matches!(op, Op::AdamW { .. }) as u8 * 2 + matches!(op, Op::Clip { .. }) as u8);
        let placement = Placement::shared(&program);
        assert_eq!(left(&program, &placement), [3081, 0, 0, 3081, 0, 0, 3081, 0, 0]);
        // Parts that do not follow each other.
        let Op::SquareSums { first_part, .. } = &mut program.ops[2] else { panic!("a sum of squares") };
        *first_part = 2;
        assert_eq!(left(&program, &placement)[..3], [2052, 0, 9]);
    }
}
