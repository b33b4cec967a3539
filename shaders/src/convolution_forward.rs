//! Convolution, forward; see `convolution_forward.wgsl` and, for the family, `convolution.rs`.

use crate::convolution::{BLOCK, CHUNK, Epilogue, Params, Shape, chunks, each_term, magnitudes};
use crate::images::Part;
use crate::matmul::gamma;
use crate::{Binding, FLUSH, Kernel, UNIT_ROUNDOFF, convolution, linear_dispatch};

/// Invocations per workgroup, a block of 8 pixels by 8 outputs each.
pub const WORKGROUP: u32 = 32;

pub static KERNEL: Kernel = convolution::kernel(
    "convolution_forward",
    crate::wgsl!("convolution_forward.wgsl"),
    &[Binding::Uniform, Binding::Read, Binding::Read, Binding::Read, Binding::Read, Binding::Read, Binding::ReadWrite],
);

pub fn params(shape: Shape, images: Part) -> Params {
    Params::new(shape, images)
}

/// Values for the `override` declarations.
pub fn constants(shape: Shape, epilogue: Epilogue) -> Vec<(&'static str, f64)> {
    let mut constants = convolution::wide(shape).to_vec();
    constants.push(("PADDED", f64::from(u8::from(shape.padding > 0))));
    constants.push(("EPILOGUE", f64::from(epilogue as u8)));
    constants
}

pub fn dispatch(shape: Shape, images: Part) -> [u32; 3] {
    let pixels = u64::from(images.count()) * u64::from(shape.plane());
    let blocks = pixels.div_ceil(BLOCK.into()) * u64::from(shape.outputs.div_ceil(BLOCK));
    linear_dispatch(blocks.div_ceil(WORKGROUP.into()))
}

/// y of the whole batch; `bias` may be empty where the epilogue takes none.
pub fn reference(shape: Shape, epilogue: Epilogue, x: &[f64], w: &[f64], bias: &[f64]) -> Vec<f64> {
    let mut y = vec![0.0; shape.values()[2] as usize];
    each_term(shape, |at, from, weight| y[at] += x[from] * w[weight]);
    for (index, value) in y.iter_mut().enumerate() {
        let output = index % shape.outputs as usize;
        *value = match epilogue {
            Epilogue::None => *value,
            Epilogue::Bias => *value + bias[output],
            Epilogue::BiasRelu => (*value + bias[output]).max(0.0),
        };
    }
    y
}

/// Roundings that a term of the sum passes in any kernel.
pub fn roundings(shape: Shape) -> f64 {
    f64::from(CHUNK + chunks(shape, shape.channels) + 1)
}

/// As of a product as deep as the chunks would be if they were full (see `matmul::tolerance`): `γ·|x|∗|w|`, one more
/// rounding of the sum with the bias, and as many products flushed to zero as there are terms.
pub fn tolerance(shape: Shape, epilogue: Epilogue, x: &[f64], w: &[f64], bias: &[f64]) -> Vec<f64> {
    let gamma = gamma(CHUNK * chunks(shape, shape.channels));
    let mut bounds = reference(shape, Epilogue::None, &magnitudes(x), &magnitudes(w), &[]);
    for (index, bound) in bounds.iter_mut().enumerate() {
        let bias = if epilogue == Epilogue::None { 0.0 } else { bias[index % shape.outputs as usize].abs() };
        *bound = gamma * *bound + UNIT_ROUNDOFF * (*bound * (1.0 + gamma) + bias) + f64::from(shape.terms() + 2) * FLUSH;
    }
    bounds
}
