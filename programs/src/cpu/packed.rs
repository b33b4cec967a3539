//! A packed f32 matrix product without threads or allocation per call: panels of A and B are copied into order, and a
//! 6x8 register tile runs over them. Written so that the compiler turns the tile into SIMD (wasm's 128 bits hold it in
//! 12 registers). Natively only its tests run; there the `gemm` crate is faster.

use manyhands_shaders::matmul::{K_CHUNK_IEEE, Shape};

use super::kernels::Strided;

const ROWS: usize = 6;
const COLUMNS: usize = 8;
/// Depth of a panel, and the chunk of the numerics contract of `manyhands_shaders::matmul`.
const DEPTH: usize = K_CHUNK_IEEE as usize;
/// Rows of A and columns of B packed at a time: 48 KB and 256 KB.
const ROWS_PACKED: usize = 96;
const COLUMNS_PACKED: usize = 512;

/// Packed panels, allocated at first use.
#[derive(Default)]
pub struct Panels {
    a: Vec<f32>,
    b: Vec<f32>,
}

/// `C = A · B`, C row-major `[m, n]`.
pub fn product(shape: Shape, a: Strided, b: Strided, c: &mut [f32], panels: &mut Panels) {
    let (m, k, n) = (shape.m as usize, shape.k as usize, shape.n as usize);
    if k == 0 {
        return c.fill(0.0);
    }
    panels.a.resize(ROWS_PACKED * DEPTH, 0.0);
    panels.b.resize(COLUMNS_PACKED * DEPTH, 0.0);
    for column in (0..n).step_by(COLUMNS_PACKED) {
        let width = COLUMNS_PACKED.min(n - column);
        for p in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - p);
            // Panels run along k: B's columns are the rows of its transpose.
            let across = Strided { values: &b.values[p * b.row + column * b.column..], row: b.column, column: b.row };
            pack::<COLUMNS>(across, width, depth, &mut panels.b);
            for row in (0..m).step_by(ROWS_PACKED) {
                let height = ROWS_PACKED.min(m - row);
                let block = Strided { values: &a.values[row * a.row + p * a.column..], ..a };
                pack::<ROWS>(block, height, depth, &mut panels.a);
                let c = &mut c[row * n + column..];
                multiply(panels, Block { height, width, depth, first: p == 0 }, c, n);
            }
        }
    }
}

/// Copies `count` rows of depth `depth` into panels of `N` rows, k-major, filling up with zeros.
fn pack<const N: usize>(x: Strided, count: usize, depth: usize, panels: &mut [f32]) {
    for (panel, first) in panels.chunks_exact_mut(N * depth).zip((0..count).step_by(N)) {
        let rows = N.min(count - first);
        if rows < N {
            panel.fill(0.0);
        }
        if x.row == 1 {
            for (p, out) in panel.chunks_exact_mut(N).enumerate() {
                let from = first + p * x.column;
                out[..rows].copy_from_slice(&x.values[from..from + rows]);
            }
        } else {
            for i in 0..rows {
                let row = &x.values[(first + i) * x.row..];
                for (p, out) in panel.chunks_exact_mut(N).enumerate() {
                    out[i] = row[p * x.column];
                }
            }
        }
    }
}

/// The part of C that packed panels make, and whether they are the first along k.
#[derive(Clone, Copy)]
struct Block {
    height: usize,
    width: usize,
    depth: usize,
    first: bool,
}

fn multiply(panels: &Panels, block: Block, c: &mut [f32], n: usize) {
    for (b, column) in panels.b.chunks_exact(COLUMNS * block.depth).zip((0..block.width).step_by(COLUMNS)) {
        let width = COLUMNS.min(block.width - column);
        for (a, row) in panels.a.chunks_exact(ROWS * block.depth).zip((0..block.height).step_by(ROWS)) {
            let tile = tile(a, b);
            for (i, sums) in tile.iter().enumerate().take(block.height - row) {
                let c = &mut c[(row + i) * n + column..][..width];
                if block.first {
                    c.copy_from_slice(&sums[..width]);
                } else {
                    c.iter_mut().zip(sums).for_each(|(c, sum)| *c += sum);
                }
            }
        }
    }
}

/// The product of one panel of A and one of B.
#[inline(always)]
fn tile(a: &[f32], b: &[f32]) -> [[f32; COLUMNS]; ROWS] {
    let mut sums = [[0.0f32; COLUMNS]; ROWS];
    for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(COLUMNS)) {
        for i in 0..ROWS {
            for j in 0..COLUMNS {
                sums[i][j] += a[i] * b[j];
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use manyhands_shaders::compare::compare;
    use manyhands_shaders::matmul::{self, Epilogue, Transposed};

    fn values(seed: usize, count: usize) -> Vec<f32> {
        (0..count).map(|i| ((seed * 31 + i) as f32 * 0.7).sin()).collect()
    }

    fn check(m: usize, k: usize, n: usize) {
        let mut panels = Panels::default();
        for transposed in [(false, false), (false, true), (true, false), (true, true)].map(|(a, b)| Transposed { a, b }) {
            let shape = Shape { m: m as u32, k: k as u32, n: n as u32 };
            let (a, b) = (values(1, m * k), values(2, k * n));
            let strided = |x, transposed, rows, columns| match transposed {
                true => Strided { values: x, row: 1, column: rows },
                false => Strided { values: x, row: columns, column: 1 },
            };
            let mut c = vec![f32::NAN; m * n];
            product(shape, strided(&a, transposed.a, m, k), strided(&b, transposed.b, k, n), &mut c, &mut panels);
            let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
            let (a, b) = (wide(&a), wide(&b));
            let expected = matmul::reference(shape, transposed, Epilogue::None, &a, &b, &[]);
            let tolerance = matmul::tolerance(shape, transposed, Epilogue::None, &a, &b, &[]);
            compare(&c, &expected, &tolerance).unwrap_or_else(|e| panic!("{shape:?} {transposed:?}: {e}"));
        }
    }

    #[test]
    fn products_of_every_edge() {
        for (m, k, n) in
            [(1, 1, 1), (6, 128, 8), (7, 129, 9), (5, 127, 7), (97, 130, 513), (96, 256, 512), (1, 300, 1), (13, 1, 17)]
        {
            check(m, k, n);
        }
    }

    #[test]
    fn no_depth_gives_zeros() {
        let nothing = Strided { values: &[], row: 0, column: 1 };
        let mut c = vec![f32::NAN; 6];
        product(Shape { m: 2, k: 0, n: 3 }, nothing, nothing, &mut c, &mut Panels::default());
        assert_eq!(c, [0.0; 6]);
    }
}
