//! Which rows of a batch a model answers right; see `accuracy.wgsl`.

use crate::{Binding, Kernel, linear_dispatch, params_fields};

/// Invocations per workgroup, one row each.
pub const WORKGROUP: u32 = 32;

pub static KERNEL: Kernel = Kernel {
    name: "accuracy",
    wgsl: crate::wgsl!("accuracy.wgsl"),
    bindings: &[Binding::Uniform, Binding::Read, Binding::Read, Binding::ReadWrite],
    params_bytes: size_of::<Params>(),
    params_fields: params_fields!(rows, classes),
};

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    pub rows: u32,
    pub classes: u32,
}

pub fn dispatch(rows: u32) -> [u32; 3] {
    linear_dispatch(u64::from(rows.div_ceil(WORKGROUP)))
}

/// 1 or 0 for each row; `labels` fixes the rows.
pub fn reference(classes: usize, logits: &[f64], labels: &[u32]) -> Vec<f64> {
    let is_hit = |(z, &label): (&[f64], &u32)| {
        let label = label as usize;
        label < classes && z[..label].iter().all(|&other| other < z[label]) && z[label..].iter().all(|&other| other <= z[label])
    };
    logits.chunks_exact(classes).zip(labels).map(is_hit).map(|hit| if hit { 1.0 } else { 0.0 }).collect()
}

/// Comparisons round nothing: only flushing can make a difference, to a row that it decides.
pub fn tolerance(classes: usize, logits: &[f64], labels: &[u32]) -> Vec<f64> {
    let is_tiny = |z: f64| z.abs() < crate::FLUSH;
    let is_open = |(z, &label): (&[f64], &u32)| {
        let own = z.get(label as usize).copied().filter(|&own| is_tiny(own));
        own.is_some_and(|own| z.iter().any(|&other| is_tiny(other) && other != own))
    };
    logits.chunks_exact(classes).zip(labels).map(is_open).map(|open| if open { 1.0 } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equals_the_first_is_the_answer() {
        let check = |logits: &[f64], label: u32, expected: f64| {
            assert_eq!(reference(logits.len(), logits, &[label]), [expected], "{logits:?} {label}");
        };
        check(&[1.0, 3.0, 2.0], 1, 1.0);
        check(&[1.0, 3.0, 2.0], 2, 0.0);
        check(&[3.0, 3.0, 2.0], 0, 1.0);
        check(&[3.0, 3.0, 2.0], 1, 0.0);
        check(&[-1.0], 0, 1.0);
        check(&[1.0, 3.0], 2, 0.0);
        check(&[f64::NAN, 3.0], 1, 0.0);
        check(&[3.0, f64::NAN], 0, 0.0);
        check(&[3.0, f64::NAN], 1, 0.0);
    }

    #[test]
    fn only_values_next_to_zero_may_be_taken_for_equal() {
        let tiny = crate::FLUSH / 2.0;
        assert_eq!(tolerance(2, &[0.0, tiny, 0.0, 0.0, 1.0, tiny, 0.0, 1.0], &[1, 1, 1, 9]), [1.0, 0.0, 0.0, 0.0]);
    }
}
