//! Max pooling, forward; see `max_pool_forward.wgsl` and, for the family, `pool.rs`.

use crate::pool::{self, Shape, each_place};
use crate::{Binding, FLUSH, Kernel};

pub static KERNEL: Kernel = pool::kernel(
    "max_pool_forward",
    crate::wgsl!("max_pool_forward.wgsl"),
    &[Binding::Uniform, Binding::Read, Binding::Read, Binding::ReadWrite, Binding::ReadWrite],
);

/// What forward writes.
pub struct Pooled {
    pub y: Vec<f64>,
    /// Place of each maximum in its window, row by row; of equal ones the first.
    pub places: Vec<u32>,
}

pub fn reference(shape: Shape, x: &[f64]) -> Pooled {
    let values = shape.values()[1] as usize;
    let mut largest: Vec<Option<(f64, u32)>> = vec![None; values];
    each_place(shape, |y, from, place| {
        if largest[y].is_none_or(|(value, _)| x[from] > value) {
            largest[y] = Some((x[from], place));
        }
    });
    let (y, places) = largest.into_iter().map(Option::unwrap_or_default).unzip();
    Pooled { y, places }
}

/// Of y, whose values are copies, but for denormal ones. The places are exact where no two values of a window are
/// within this of each other or both are the same.
pub fn tolerance(shape: Shape) -> Vec<f64> {
    vec![FLUSH; shape.values()[1] as usize]
}
