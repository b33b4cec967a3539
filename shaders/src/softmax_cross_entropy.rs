//! Softmax cross-entropy and its gradient in one pass; see `softmax_cross_entropy.wgsl`.

use crate::{Binding, FLUSH, Kernel, UNIT_ROUNDOFF, linear_dispatch, params_fields};

/// Invocations per workgroup, one row each.
pub const WORKGROUP: u32 = 32;

pub static KERNEL: Kernel = Kernel {
    name: "softmax_cross_entropy",
    wgsl: crate::wgsl!("softmax_cross_entropy.wgsl"),
    bindings: &[Binding::Uniform, Binding::Read, Binding::Read, Binding::ReadWrite, Binding::ReadWrite],
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

/// A batch's gradient `[rows, classes]` and losses `[rows]`, both divided by the rows; or their tolerances.
pub struct Batch {
    pub gradient: Vec<f64>,
    pub losses: Vec<f64>,
}

/// `labels` fixes the rows; each is below `classes`.
pub fn reference(classes: usize, logits: &[f64], labels: &[u32]) -> Batch {
    let rows = labels.len() as f64;
    let mut batch = Batch { gradient: Vec::new(), losses: Vec::new() };
    for (z, &label) in logits.chunks_exact(classes).zip(labels) {
        let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = z.iter().map(|z| (z - largest).exp()).sum();
        for (j, z) in z.iter().enumerate() {
            let hit = if j == label as usize { 1.0 } else { 0.0 };
            batch.gradient.push(((z - largest).exp() / sum - hit) / rows);
        }
        batch.losses.push((sum.ln() + largest - z[label as usize]) / rows);
    }
    batch
}

/// With x = z − max, rounded once (relative error u): `exp(x)` is within 3 + 2|x| units in the last place, and the
/// rounded x changes it by |x|u, so e is within (4 + 3|x|)u of exp(x) relatively. The sum adds the weighted mean of that
/// and one rounding per class; the quotient 2.5 units, the subtraction, the division by the rows 2.5 more. log is within
/// 2⁻²¹ absolutely on [0.5, 2] and 3 units elsewhere.
pub fn tolerance(classes: usize, logits: &[f64], labels: &[u32]) -> Batch {
    let (rows, u) = (labels.len() as f64, UNIT_ROUNDOFF * 1.001);
    let mut batch = Batch { gradient: Vec::new(), losses: Vec::new() };
    for (z, &label) in logits.chunks_exact(classes).zip(labels) {
        let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let relative = |z: f64| (4.0 + 3.0 * (z - largest).abs()) * u;
        let sum: f64 = z.iter().map(|z| (z - largest).exp()).sum();
        let weighted: f64 = z.iter().map(|&z| (z - largest).exp() * relative(z) + FLUSH).sum();
        let sum_error = weighted / sum + classes as f64 * u;
        for (j, &z) in z.iter().enumerate() {
            let p = (z - largest).exp() / sum;
            let hit = if j == label as usize { 1.0 } else { 0.0 };
            let quotient = p * (relative(z) + sum_error + 3.0 * u) + 2.0 * FLUSH;
            batch.gradient.push((quotient + 4.0 * u * ((p - hit).abs() + quotient)) / rows + FLUSH);
        }
        let margin = largest - z[label as usize];
        let log_error = (1.0f64 / (1 << 21) as f64).max(3.0 * u * sum.ln()) + sum_error;
        batch.losses.push((log_error + u * margin + 4.0 * u * (sum.ln() + margin)) / rows + FLUSH);
    }
    batch
}
