//! Known answers of dropout and its counter.

use manyhands_shaders::dropout::{self, Mask};
use manyhands_shaders::dropout_advance::{self, Params, VALUES};

use super::{Case, values, wide};
use crate::plan::{Buffer, Op};

fn counter(case: &mut Case, step: u32) -> Buffer {
    let mut buffer = vec![0.0; VALUES as usize];
    buffer[0] = f32::from_bits(step);
    case.input(buffer)
}

/// Every bit of key and counter is some unit's: the masks of these are as likely to show a wrong one as any.
pub fn dropped(count: usize, rate: f32) -> Case {
    let mut case = Case::new(format!("{} {count}, rate {rate}", dropout::KERNEL.name));
    let (x, step) = (values(80, count), 9_999);
    let mask = Mask { rate, key: [0xF0E1_D2C3, 0x0F1E_2D3C], layer: 255, first_row: 0xFFFF_FF00 };
    let (expected, tolerance) = (dropout::reference(mask, step, &wide(&x)), dropout::tolerance(mask, step, &wide(&x)));
    let (step, x) = (counter(&mut case, step), case.input(x));
    let y = case.output(count);
    case.program.ops.push(Op::Dropout { step, x, y, values: count as u32, mask });
    case.expect(y, expected, tolerance);
    case
}

/// The step is compared as the f32 of the same bits, exactly; the bits are those of 1, so that others differ visibly.
pub fn dropout_advance() -> Case {
    let mut case = Case::new(format!("{} once", dropout_advance::KERNEL.name));
    let start = 1f32.to_bits();
    let step = counter(&mut case, start);
    let expected = f32::from_bits(dropout_advance::reference(Params { steps: 1 }, start));
    case.program.ops.push(Op::DropoutAdvance { step });
    case.expect(step, vec![expected.into(), 0.0, 0.0, 0.0], vec![0.0; VALUES as usize]);
    case
}
