//! Which buffers of a program share memory: a passing buffer matters only from the first call of a pass that names it to
//! the last, and two whose spans do not meet may lie in the same place. Kernels take what lies between a buffer's values
//! and the next whole vec4 for zeros: buffers of other lengths keep a place to themselves. So do the rows of buffers that
//! are to lie side by side, for what lies between them is computed on as well, and zeros stay zeros.

use std::collections::BTreeSet;
use std::ops::Range;

use manyhands_shaders::gradient_norm::squares;
use manyhands_shaders::matmul::Variant;

use super::{Buffer, Program};

const VEC4: u64 = 4;

/// Buffers side by side begin at multiples of so many values. That is a part of a sum of squares, so that the parts of all
/// of them together are the parts of each; in bytes a multiple of what a device may ask of a binding's offset, at most 256
/// by WebGPU's limits.
pub const SIDE_STEP: u64 = 4 * squares::PART as u64;
const _: () = assert!((4 * SIDE_STEP).is_multiple_of(256));

/// Most values of a place that several buffers lie in side by side: what every WebGPU device binds at least, 128 MiB.
pub const SIDE_MAX: u64 = (128 << 20) / 4;

/// A place in memory for each buffer of a program.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// Values of each place.
    pub places: Vec<u64>,
    /// The place of each buffer.
    pub place_of: Vec<usize>,
    /// The value of its place at which each buffer begins.
    pub begins: Vec<u64>,
    /// For each buffer that shares its place, the calls from the first to the last that names it.
    pub spans: Vec<(Buffer, Range<usize>)>,
}

impl Placement {
    /// Every buffer in a place of its own, so that all of them can be read after a pass.
    pub fn apart(program: &Program) -> Self {
        let count = program.values.len();
        Self { places: program.values.clone(), place_of: (0..count).collect(), begins: vec![0; count], spans: Vec::new() }
    }

    /// Passing buffers, the largest first, each in the first place where it meets no other, else in a new one; and the
    /// rows of [`Program::side_by_side`], each in as few places as hold it.
    pub fn shared(program: &Program) -> Self {
        let mut spans = spans(program);
        let aside: BTreeSet<_> = program.side_by_side.iter().flatten().collect();
        spans.retain(|(buffer, _)| program.values[buffer.0].is_multiple_of(VEC4) && !aside.contains(buffer));
        let mut by_size: Vec<_> = spans.iter().collect();
        by_size.sort_by_key(|(buffer, _)| std::cmp::Reverse(program.values[buffer.0]));
        let mut places: Vec<u64> = Vec::new();
        let mut place_of = vec![None; program.values.len()];
        // The spans in each place so far.
        let mut taken: Vec<Vec<&Range<usize>>> = Vec::new();
        for (buffer, span) in by_size {
            let free =
                taken.iter().position(|taken| taken.iter().all(|other| other.end <= span.start || span.end <= other.start));
            let place = free.unwrap_or_else(|| {
                places.push(program.values[buffer.0]);
                taken.push(Vec::new());
                places.len() - 1
            });
            taken[place].push(span);
            place_of[buffer.0] = Some(place);
        }
        let mut begins = vec![0; program.values.len()];
        for row in &program.side_by_side {
            // Where the place that was opened last for this row ends.
            let mut end: Option<u64> = None;
            for &Buffer(buffer) in row {
                let values = program.values[buffer];
                let behind = end.map(|end| end.next_multiple_of(SIDE_STEP));
                let begin = behind.filter(|begin| begin.saturating_add(values) <= SIDE_MAX);
                if begin.is_some() {
                    places.pop();
                }
                begins[buffer] = begin.unwrap_or(0);
                places.push(begins[buffer].saturating_add(values));
                place_of[buffer] = Some(places.len() - 1);
                end = places.last().copied();
            }
        }
        let place_of = place_of.into_iter().zip(&program.values).map(|(place, &values)| {
            place.unwrap_or_else(|| {
                places.push(values);
                places.len() - 1
            })
        });
        let place_of = place_of.collect();
        Self { places, place_of, begins, spans }
    }

    /// Bytes of all places and of `more` beside them; what is past 2⁶⁴ counts as that.
    pub fn bytes(&self, more: u64) -> u64 {
        bytes(self.places.iter().copied(), more)
    }
}

/// Bytes of so many values each, and `more`.
pub fn bytes(values: impl Iterator<Item = u64>, more: u64) -> u64 {
    values.fold(more, |sum, values| sum.saturating_add(values.saturating_mul(4)))
}

/// The span of each passing buffer, by its first call.
fn spans(program: &Program) -> Vec<(Buffer, Range<usize>)> {
    let mut spans: Vec<Option<Range<usize>>> = vec![None; program.values.len()];
    for (index, op) in program.ops.iter().enumerate() {
        // All kernels for an op bind the same buffers.
        for buffer in op.call(super::Sharing::Nothing, |_| Variant::Naive).buffers {
            let span = spans[buffer.0].get_or_insert(index..index);
            span.end = index + 1;
        }
    }
    let passing = program.passing.iter().filter_map(|&buffer| Some((buffer, spans[buffer.0].clone()?)));
    let mut spans: Vec<_> = passing.collect();
    spans.sort_by_key(|(buffer, span)| (span.start, buffer.0));
    spans
}

/// Bytes that no placement can do without: what stays, and the most that passing buffers hold at one call.
pub fn bytes_least(program: &Program) -> u64 {
    let spans = spans(program);
    let staying = program.values.iter().enumerate().filter(|(buffer, _)| !program.passing.contains(&Buffer(*buffer)));
    let at = |call: usize| {
        let live = spans.iter().filter(|(_, span)| span.contains(&call)).map(|(buffer, _)| program.values[buffer.0]);
        bytes(live, 0)
    };
    let most = spans.iter().map(|(_, span)| at(span.start)).max().unwrap_or(0);
    bytes(staying.map(|(_, &values)| values), most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    /// A chain of sums: each reads what the one before wrote.
    fn chain(values: &[u64]) -> Program {
        let mut program = Program::default();
        let mut x = program.buffer(values[0]);
        for &values in values {
            let sum = program.passing(values);
            program.ops.push(Op::Add { x, y: x, sum, values: values as u32 });
            x = sum;
        }
        program
    }

    #[test]
    fn two_places_carry_a_chain() {
        let program = chain(&[8; 6]);
        let placement = Placement::shared(&program);
        assert_eq!(placement.places, [8, 8, 8], "two in turn, and what stays");
        assert_eq!(placement.bytes(0), bytes_least(&program));
        assert_eq!(Placement::apart(&program).bytes(0), 7 * 32);
    }

    #[test]
    fn nothing_that_is_in_use_shares() {
        let program = chain(&[4, 16, 4, 64, 8, 8, 128, 12]);
        let placement = Placement::shared(&program);
        for (buffer, values) in program.values.iter().enumerate() {
            assert!(placement.places[placement.place_of[buffer]] >= *values);
        }
        for (i, (one, span)) in placement.spans.iter().enumerate() {
            for (other, later) in &placement.spans[i + 1..] {
                let meet = span.start < later.end && later.start < span.end;
                assert!(!meet || placement.place_of[one.0] != placement.place_of[other.0], "{one:?} and {other:?}");
            }
        }
        assert!(placement.bytes(0) <= 2 * bytes_least(&program));
    }

    #[test]
    fn rows_lie_side_by_side() {
        let check = |values: &[u64], expected: &[(usize, u64)], ends: &[u64]| {
            let mut program = chain(&[8]);
            let row: Vec<_> = values.iter().map(|&values| program.passing(values)).collect();
            for &x in &row {
                program.ops.push(Op::Add { x, y: x, sum: x, values: 1 });
            }
            program.side_by_side.push(row.clone());
            let placement = Placement::shared(&program);
            let first = placement.place_of[row[0].0];
            let lie = |buffer: &Buffer| (placement.place_of[buffer.0] - first, placement.begins[buffer.0]);
            assert_eq!(row.iter().map(lie).collect::<Vec<_>>(), expected);
            assert_eq!(&placement.places[first..first + ends.len()], ends);
            // What lies between them stays zero only where nobody else writes.
            assert!(placement.spans.iter().all(|(buffer, _)| !row.contains(buffer)));
            assert_eq!([0, 1].map(|buffer| placement.begins[buffer]), [0; 2]);
        };
        check(&[5], &[(0, 0)], &[5]);
        check(&[5, 1024, 8, 1], &[(0, 0), (0, 1024), (0, 2048), (0, 3072)], &[3073]);
        check(&[SIDE_MAX - 1024, 1024, 4], &[(0, 0), (0, SIDE_MAX - 1024), (1, 0)], &[SIDE_MAX, 4]);
        check(&[4, SIDE_MAX + 4, 4], &[(0, 0), (1, 0), (2, 0)], &[4, SIDE_MAX + 4, 4]);
    }

    #[test]
    fn what_stays_has_its_own_place() {
        let mut program = chain(&[8, 8, 8]);
        let (unused, kept) = (program.passing(4), Buffer(1));
        program.keep(kept);
        let odd = program.passing(5);
        program.ops.push(Op::Add { x: odd, y: odd, sum: odd, values: 5 });
        let placement = Placement::shared(&program);
        let sharing = |buffer: Buffer| placement.place_of.iter().filter(|&&place| place == placement.place_of[buffer.0]).count();
        assert_eq!([kept, Buffer(0), unused, odd].map(sharing), [1; 4]);
    }
}
