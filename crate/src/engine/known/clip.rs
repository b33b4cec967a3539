//! Known answers of clipping by the global norm.

use manyhands_shaders::gradient_norm::{clip, squares};

use super::{Case, values, wide};
use crate::plan::Op;

/// Parts written behind two that are there.
pub fn square_sums(count: usize) -> Case {
    let mut case = Case::new(format!("{} {count}", squares::KERNEL.name));
    let g = values(80, count);
    let wg = wide(&g);
    let (mut expected, mut tolerance) = (vec![77.0; 2], vec![0.0; 2]);
    expected.extend(squares::reference(&wg));
    tolerance.extend(squares::tolerance(&wg));
    let (gradient, parts) = (case.input(g), case.output(expected.len()));
    case.program.ops.push(Op::SquareSums { gradient, parts, values: count as u32, first_part: 2 });
    case.expect(parts, expected, tolerance);
    case
}

/// A gradient that is one of several with a sum of squares of seven.
pub fn clipped(count: usize, most: f32) -> Case {
    let mut case = Case::new(format!("{} {count} to {most}", clip::KERNEL.name));
    let (g, squares) = (values(81, count), 7.0);
    let wg = wide(&g);
    let (expected, tolerance) = (clip::reference(most, squares, &wg), clip::tolerance(most, squares, &wg));
    let (squares, gradient) = (case.input(vec![squares as f32]), case.input(g));
    case.program.ops.push(Op::Clip { squares, gradient, values: count as u32, most });
    case.expect(gradient, expected, tolerance);
    case
}
