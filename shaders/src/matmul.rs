//! Matrix products: what the variants in `matmul/` share, which is shapes, parameters, reference and tolerance.
//!
//! `C[m, n] = op(A) · op(B)`, row-major f32, followed by an [`Epilogue`]. `op` is the identity or the transpose: a transposed
//! A is stored `[k, m]`, a transposed B `[n, k]`. One dispatch computes [`Matrices`]: products of one shape whose A lie one
//! after another, and so their B and their C; the bias is the same for all.
//!
//! **Numerics, a contract.** Partial sums run over chunks of at most [`K_CHUNK`] consecutive k, and the chunk sums are
//! added up. A term therefore passes at most `K_CHUNK + ⌈k / K_CHUNK⌉ + 1` roundings (its product, the additions of its
//! chunk, the additions of chunk sums), which bounds `|C − A·B|` entry by entry by
//! `γ · |A|·|B|`, `γ = ρu / (1 − ρu)`, ρ the number of roundings (Higham, Accuracy and Stability of Numerical Algorithms,
//! 2nd ed., §3.1 and §4.2). The coordinator's check of a returned product rests on this bound. IEEE arithmetic rounds to
//! nearest (u = 2⁻²⁴), so that chunks twice as long stay inside it: [`K_CHUNK_IEEE`]. So do shorter chunks whose sums are
//! added up in two stages ([`tiled`]).
//!
//! A variant may read A and B as [`binary16`](crate::binary16) packs them. Its sums are f32 all the same and in the order of
//! the variant it is generated with, so that it gives the bits of that one on the widened operands. Widening is exact, and
//! so nothing is added to the bound; WGSL would allow it to flush what is subnormal in f16 to zero ("Differences from IEEE-754"), which the bound
//! does not, and a device that does so fails the known answers of these variants.

pub mod blocked;
pub mod blocked_f16;
pub mod blocked_vec4;
pub mod blocked_vec4_f16;
pub mod naive;
pub mod quad;
pub mod quad_vec2;
pub mod tiled;
pub mod tiled_ahead;
pub mod tiled_ahead_f16;
pub mod tiled_f16;

use crate::{Binding, FLUSH, Kernel, UNIT_ROUNDOFF, WORKGROUPS_MAX, gelu, linear_dispatch};

/// What the names of all variants begin with.
pub const FAMILY: &str = "matmul";

/// Longest run of k summed up before it is added to the total, at WGSL's unit roundoff of 2⁻²³.
pub const K_CHUNK: u32 = 64;
/// The same where arithmetic rounds to nearest.
pub const K_CHUNK_IEEE: u32 = 2 * K_CHUNK;

/// Row ranges that a product is cut into begin at multiples of this.
pub const ROW_STEP: u32 = 64;

/// Extents of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub m: u32,
    pub k: u32,
    pub n: u32,
}

/// Which operands are stored transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Transposed {
    pub a: bool,
    pub b: bool,
}

/// What follows the product before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Epilogue {
    None = 0,
    /// Added to what C holds.
    Accumulate = 1,
    Bias = 2,
    /// With the bias, added to what C holds.
    BiasAccumulate = 3,
    BiasRelu = 4,
    /// In the tanh form of [`gelu`].
    BiasGelu = 5,
}

impl Epilogue {
    pub const ALL: [Epilogue; 6] =
        [Epilogue::None, Epilogue::Accumulate, Epilogue::Bias, Epilogue::BiasAccumulate, Epilogue::BiasRelu, Epilogue::BiasGelu];

    pub fn takes_bias(self) -> bool {
        !matches!(self, Epilogue::None | Epilogue::Accumulate)
    }

    /// Whether C is read before it is written.
    pub fn accumulates(self) -> bool {
        matches!(self, Epilogue::Accumulate | Epilogue::BiasAccumulate)
    }
}

/// The rows of C one dispatch computes: `first` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    pub first: u32,
    pub end: u32,
}

/// The products of a batch that one dispatch computes: `first` to before `end`, at most [`MATRICES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrices {
    pub first: u32,
    pub end: u32,
}

/// Most products of one dispatch: each is a z of workgroups.
pub const MATRICES_MAX: u32 = WORKGROUPS_MAX;

impl Matrices {
    /// A product by itself.
    pub const ONE: Matrices = Matrices { first: 0, end: 1 };

    pub fn count(self) -> u32 {
        self.end.saturating_sub(self.first)
    }
}

/// The uniform of every variant.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    pub m: u32,
    pub k: u32,
    pub n: u32,
    /// First row of C to compute, a multiple of [`ROW_STEP`].
    pub row_first: u32,
    /// Row of C to stop before.
    pub row_end: u32,
    /// First of the products to compute.
    pub matrix_first: u32,
}

impl Params {
    pub fn new(shape: Shape, rows: Rows, matrices: Matrices) -> Self {
        let Shape { m, k, n } = shape;
        Self { m, k, n, row_first: rows.first, row_end: rows.end, matrix_first: matrices.first }
    }
}

/// Params, A, B, bias (any buffer where the epilogue takes none), C.
const BINDINGS: &[Binding] = &[Binding::Uniform, Binding::Read, Binding::Read, Binding::Read, Binding::ReadWrite];

/// A kernel of the family.
const fn kernel(name: &'static str, wgsl: &'static str) -> Kernel {
    Kernel {
        name,
        wgsl,
        bindings: BINDINGS,
        params_bytes: size_of::<Params>(),
        params_fields: crate::params_fields!(m, k, n, row_first, row_end, matrix_first),
    }
}

/// The kernels of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    Naive,
    Blocked,
    BlockedVec4,
    Quad,
    QuadVec2,
    Tiled,
    TiledAhead,
    BlockedF16,
    BlockedVec4F16,
    TiledF16,
    TiledAheadF16,
}

impl Variant {
    /// That of its kernel.
    pub fn name(self) -> &'static str {
        self.kernel().name
    }

    /// Every variant, of each element type those first that any adapter runs.
    pub const ALL: [Variant; 11] = [
        Variant::Naive,
        Variant::Blocked,
        Variant::BlockedVec4,
        Variant::Quad,
        Variant::QuadVec2,
        Variant::Tiled,
        Variant::TiledAhead,
        Variant::BlockedF16,
        Variant::BlockedVec4F16,
        Variant::TiledF16,
        Variant::TiledAheadF16,
    ];

    /// Whether A and B are stored in f16, packed, rather than in f32.
    pub fn reads_f16(self) -> bool {
        matches!(self, Variant::BlockedF16 | Variant::BlockedVec4F16 | Variant::TiledF16 | Variant::TiledAheadF16)
    }

    pub fn kernel(self) -> &'static Kernel {
        match self {
            Variant::Naive => &naive::KERNEL,
            Variant::Blocked => &blocked::KERNEL,
            Variant::BlockedVec4 => &blocked_vec4::KERNEL,
            Variant::Quad => &quad::KERNEL,
            Variant::QuadVec2 => &quad_vec2::KERNEL,
            Variant::Tiled => &tiled::KERNEL,
            Variant::TiledAhead => &tiled_ahead::KERNEL,
            Variant::BlockedF16 => &blocked_f16::KERNEL,
            Variant::BlockedVec4F16 => &blocked_vec4_f16::KERNEL,
            Variant::TiledF16 => &tiled_f16::KERNEL,
            Variant::TiledAheadF16 => &tiled_ahead_f16::KERNEL,
        }
    }

    /// Whether the variant computes a product of these extents, on an adapter that has what its kernel needs
    /// ([`Kernel::needs_subgroups`]).
    pub fn takes(self, shape: Shape, transposed: Transposed) -> bool {
        match self {
            Variant::Naive | Variant::Blocked | Variant::Quad | Variant::BlockedF16 => true,
            Variant::QuadVec2 => quad_vec2::takes(shape, transposed),
            Variant::BlockedVec4 | Variant::BlockedVec4F16 => blocked_vec4::takes(shape, transposed),
            Variant::Tiled | Variant::TiledAhead | Variant::TiledF16 | Variant::TiledAheadF16 => tiled::takes(shape),
        }
    }

    /// Whether the variant may be tried on a browser's software adapter. Large kernels with barriers bring down SwiftShader's
    /// compiler, and with it the browser's GPU process.
    pub fn spares_software(self) -> bool {
        !matches!(self, Variant::Tiled | Variant::TiledAhead | Variant::TiledF16 | Variant::TiledAheadF16)
    }

    /// Values for the `override` declarations that every variant's kernel has.
    pub fn constants(transposed: Transposed, epilogue: Epilogue) -> Vec<(&'static str, f64)> {
        vec![
            ("TRANSPOSE_A", f64::from(u8::from(transposed.a))),
            ("TRANSPOSE_B", f64::from(u8::from(transposed.b))),
            ("EPILOGUE", f64::from(epilogue as u8)),
        ]
    }

    /// The variant that runs where nothing was measured, on operands in f32: one that every adapter has.
    pub fn default_for(shape: Shape, transposed: Transposed) -> Variant {
        if Variant::BlockedVec4.takes(shape, transposed) { Variant::BlockedVec4 } else { Variant::Blocked }
    }

    /// Workgroups of a dispatch over `rows` of each of `matrices`.
    pub fn dispatch(self, shape: Shape, rows: Rows, matrices: Matrices) -> [u32; 3] {
        let [x, y, z] = self.dispatch_one(shape, rows);
        if matrices.count() == 0 { [0; 3] } else { [x, y, z * matrices.count()] }
    }

    fn dispatch_one(self, shape: Shape, rows: Rows) -> [u32; 3] {
        let height = rows.end.saturating_sub(rows.first);
        let tiles =
            |[rows, columns]: [u32; 2]| linear_dispatch(u64::from(height.div_ceil(rows)) * u64::from(shape.n.div_ceil(columns)));
        match self {
            Variant::Naive => linear_dispatch((u64::from(height) * u64::from(shape.n)).div_ceil(naive::WORKGROUP.into())),
            Variant::Blocked | Variant::BlockedVec4 | Variant::BlockedF16 | Variant::BlockedVec4F16 => {
                tiles([blocked::TILE_ROWS, blocked::TILE_COLUMNS])
            }
            Variant::Quad | Variant::QuadVec2 => tiles([quad::TILE; 2]),
            Variant::Tiled | Variant::TiledAhead | Variant::TiledF16 | Variant::TiledAheadF16 => tiles([tiled::TILE; 2]),
        }
    }
}

/// `op(A) · op(B)` with its epilogue, but for what C held before, which [`accumulate_reference`] adds; `bias` may be empty where
/// the epilogue takes none.
pub fn reference(shape: Shape, transposed: Transposed, epilogue: Epilogue, a: &[f64], b: &[f64], bias: &[f64]) -> Vec<f64> {
    let (m, k, n) = (shape.m as usize, shape.k as usize, shape.n as usize);
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for p in 0..k {
            let a_ip = if transposed.a { a[p * m + i] } else { a[i * k + p] };
            for j in 0..n {
                c[i * n + j] += a_ip * if transposed.b { b[j * k + p] } else { b[p * n + j] };
            }
        }
        for j in 0..n {
            let value = c[i * n + j];
            c[i * n + j] = match epilogue {
                Epilogue::None | Epilogue::Accumulate => value,
                Epilogue::Bias | Epilogue::BiasAccumulate => value + bias[j],
                Epilogue::BiasRelu => (value + bias[j]).max(0.0),
                Epilogue::BiasGelu => gelu::forward_reference(&[value + bias[j]])[0],
            };
        }
    }
    c
}

/// What C holds after a product that accumulates, by what it held `before` and what the product is.
pub fn accumulate_reference(before: &[f64], product: &[f64]) -> Vec<f64> {
    before.iter().zip(product).map(|(before, product)| before + product).collect()
}

/// Roundings of what C held before, after the first: variants that fold the depth add each further fold to it.
pub fn fold_roundings(k: u32) -> f64 {
    f64::from(k.div_ceil(tiled::FOLD).saturating_sub(1))
}

/// The tolerance of a product of depth `k`, one more rounding of the sum, and [`fold_roundings`] of what C held before.
pub fn accumulate_tolerance(k: u32, before: &[f64], product: &[f64], tolerance: &[f64]) -> Vec<f64> {
    let sums = accumulate_reference(before, product);
    let bound = |((sum, bound), before): ((&f64, &f64), &f64)| {
        bound + UNIT_ROUNDOFF * (sum.abs() + bound + fold_roundings(k) * before.abs()) + FLUSH
    };
    sums.iter().zip(tolerance).zip(before).map(bound).collect()
}

/// Error bound of a product of depth `k` relative to `|A|·|B|`; see the head of this file.
pub fn gamma(k: u32) -> f64 {
    let roundings = f64::from(K_CHUNK) + f64::from(k.div_ceil(K_CHUNK)) + 1.0;
    roundings * UNIT_ROUNDOFF / (1.0 - roundings * UNIT_ROUNDOFF)
}

/// No epilogue stretches a difference more than GELU, whose slope is at most 1.13. That of GELU's own tolerance, some hundred
/// roundings, is inside what this is rounded up by.
pub const EPILOGUE_SLOPE: f64 = 1.14;

/// Tolerance per entry: `γ·|A|·|B|`, one more rounding of the sum with the bias, and k products flushed to zero. ReLU only ever
/// brings two values closer; GELU stretches them by [`EPILOGUE_SLOPE`] at most and has a tolerance of its own.
pub fn tolerance(shape: Shape, transposed: Transposed, epilogue: Epilogue, a: &[f64], b: &[f64], bias: &[f64]) -> Vec<f64> {
    let magnitudes = |values: &[f64]| values.iter().map(|v| v.abs()).collect::<Vec<_>>();
    let mut bounds = reference(shape, transposed, Epilogue::None, &magnitudes(a), &magnitudes(b), &[]);
    for (index, bound) in bounds.iter_mut().enumerate() {
        let bias = if epilogue.takes_bias() { bias[index % shape.n as usize].abs() } else { 0.0 };
        let product = *bound;
        *bound = gamma(shape.k) * product + UNIT_ROUNDOFF * (product * (1.0 + gamma(shape.k)) + bias);
        *bound += f64::from(shape.k + 2) * FLUSH;
    }
    if epilogue == Epilogue::BiasGelu {
        let sums = reference(shape, transposed, Epilogue::Bias, a, b, bias);
        let own = gelu::forward_tolerance(&sums);
        bounds.iter_mut().zip(own).for_each(|(bound, own)| *bound = EPILOGUE_SLOPE * *bound + own);
    }
    bounds
}
