//! An f32 matrix product without threads or allocation per call. Panels of eight columns of B, and of four rows of an A whose
//! rows do not lie along memory, are copied into order, over the whole depth; a register tile of four by eight runs over them:
//! 8 registers of wasm's 128 bits, so that none of an x86's 16 is spilled. Where the build has relaxed SIMD, a term is one
//! fused operation. Every value of C is written once. Natively only its tests run; there the `gemm` crate is faster.

use manyhands_shaders::matmul::{K_CHUNK_IEEE, Shape};

use super::kernels::{Finish, Strided};

const ROWS: usize = 4;
const COLUMNS: usize = 8;
/// The chunk of the numerics contract of `manyhands_shaders::matmul`.
const CHUNK: usize = K_CHUNK_IEEE as usize;
/// Most values of B packed at a time, but for one panel: 4 MB. They are read in order, so they need not fit a near cache.
const B_PACKED: usize = 1 << 20;
/// Most values of A packed at a time, but for one panel: 16 KB, to stay near while a panel of B passes over them.
const A_PACKED: usize = 1 << 12;

type Tile = [[f32; COLUMNS]; ROWS];

/// Packed panels, as large as products so far needed.
#[derive(Default)]
pub struct Panels {
    a: Vec<[f32; ROWS]>,
    b: Vec<[f32; COLUMNS]>,
}

/// `C = A · B`, finished; C row-major `[m, n]`. Either the rows or the columns of A and of B are contiguous.
pub fn product(shape: Shape, a: Strided, b: Strided, c: &mut [f32], finish: Finish, panels: &mut Panels) {
    let (m, k, n) = (shape.m as usize, shape.k as usize, shape.n as usize);
    if k == 0 {
        c.fill(0.0);
        return finish.rows(c, n);
    }
    let group = (A_PACKED / k / ROWS).max(1) * ROWS;
    let most = (B_PACKED / k).next_multiple_of(COLUMNS).max(COLUMNS);
    for column in (0..n).step_by(most) {
        let width = most.min(n - column);
        panels.b.resize(width.div_ceil(COLUMNS) * k, [0.0; COLUMNS]);
        pack(Strided { values: &b.values[column * b.column..], ..b }, width, &mut panels.b, k);
        for row in (0..m).step_by(group) {
            let height = group.min(m - row);
            let a = Strided { values: &a.values[row * a.row..], ..a };
            let lies_along = a.column == 1;
            if !lies_along {
                panels.a.resize(height.div_ceil(ROWS) * k, [0.0; ROWS]);
                pack_rows(a, height, &mut panels.a, k);
            }
            for (b, first) in panels.b.chunks_exact(k).zip((column..column + width).step_by(COLUMNS)) {
                for i in (0..height).step_by(ROWS) {
                    let tile = if lies_along {
                        // Rows past the last are the last one again.
                        tile_along(std::array::from_fn(|r| &a.values[(i + r).min(height - 1) * a.row..][..k]), b)
                    } else {
                        tile(&panels.a[i / ROWS * k..][..k], b)
                    };
                    let c = &mut c[(row + i) * n + first..];
                    store(&tile[..ROWS.min(height - i)], c, n, COLUMNS.min(column + width - first), first, finish);
                }
            }
        }
    }
}

/// The product of a panel of A and one of B: sums of chunks, added up.
#[inline(always)]
fn tile(a: &[[f32; ROWS]], b: &[[f32; COLUMNS]]) -> Tile {
    let mut total = Tile::default();
    for (index, (a, b)) in a.chunks(CHUNK).zip(b.chunks(CHUNK)).enumerate() {
        add_chunk(a, b, &mut total, index == 0);
    }
    total
}

/// The same of rows of A as they lie.
#[inline(always)]
fn tile_along(a: [&[f32]; ROWS], b: &[[f32; COLUMNS]]) -> Tile {
    let mut total = Tile::default();
    for (index, b) in b.chunks(CHUNK).enumerate() {
        add_chunk_along(a.map(|row| &row[index * CHUNK..][..b.len()]), b, &mut total, index == 0);
    }
    total
}

/// The sums of one chunk, added to those before. A function by itself: inside a larger one browsers' compilers run out of
/// registers.
#[inline(never)]
fn add_chunk(a: &[[f32; ROWS]], b: &[[f32; COLUMNS]], total: &mut Tile, first: bool) {
    add(sums(a.iter().copied(), b), total, first);
}

/// Likewise.
#[inline(never)]
fn add_chunk_along([a0, a1, a2, a3]: [&[f32]; ROWS], b: &[[f32; COLUMNS]], total: &mut Tile, first: bool) {
    let a = a0.iter().zip(a1).zip(a2).zip(a3).map(|(((a0, a1), a2), a3)| [*a0, *a1, *a2, *a3]);
    add(sums(a, b), total, first);
}

#[inline(always)]
fn add(sums: Tile, total: &mut Tile, first: bool) {
    if first {
        *total = sums;
        return;
    }
    total.iter_mut().zip(&sums).for_each(|(total, sums)| *total = std::array::from_fn(|j| total[j] + sums[j]));
}

/// The sums of one chunk, in the order of k.
#[cfg(not(target_arch = "wasm32"))]
#[inline(always)]
fn sums(a: impl Iterator<Item = [f32; ROWS]>, b: &[[f32; COLUMNS]]) -> Tile {
    let mut sums = Tile::default();
    for (a, b) in a.zip(b) {
        for i in 0..ROWS {
            for j in 0..COLUMNS {
                sums[i][j] += a[i] * b[j];
            }
        }
    }
    sums
}

/// The sums of one chunk, in the order of k. One term a turn: of several, the compiler orders the operations by their sums,
/// and registers run out.
#[cfg(target_arch = "wasm32")]
#[inline(always)]
fn sums(a: impl Iterator<Item = [f32; ROWS]>, b: &[[f32; COLUMNS]]) -> Tile {
    use core::arch::wasm32::{f32x4_splat, v128, v128_load, v128_store};
    let mut sums = [[f32x4_splat(0.0); COLUMNS / 4]; ROWS];
    for (a, b) in a.zip(b.iter().map(|b| b.as_chunks::<4>().0)) {
        // SAFETY: four values of f32 are what a v128 holds; it need not be aligned.
        let b: [v128; COLUMNS / 4] = std::array::from_fn(|j| unsafe { v128_load(b[j].as_ptr().cast()) });
        for i in 0..ROWS {
            let a = f32x4_splat(a[i]);
            for j in 0..COLUMNS / 4 {
                sums[i][j] = multiply_add(a, b[j], sums[i][j]);
            }
        }
    }
    let mut tile = Tile::default();
    for (to, sums) in tile.as_flattened_mut().as_chunks_mut::<4>().0.iter_mut().zip(sums.as_flattened()) {
        // SAFETY: as above.
        unsafe { v128_store(to.as_mut_ptr().cast(), *sums) };
    }
    tile
}

/// `sum + a·b`, rounded once where the build has relaxed SIMD and the processor such an operation.
#[cfg(target_arch = "wasm32")]
#[inline(always)]
fn multiply_add(
    a: core::arch::wasm32::v128,
    b: core::arch::wasm32::v128,
    sum: core::arch::wasm32::v128,
) -> core::arch::wasm32::v128 {
    #[cfg(target_feature = "relaxed-simd")]
    return core::arch::wasm32::f32x4_relaxed_madd(a, b, sum);
    #[cfg(not(target_feature = "relaxed-simd"))]
    return core::arch::wasm32::f32x4_add(sum, core::arch::wasm32::f32x4_mul(a, b));
}

/// Copies rows of an A whose columns lie along memory into panels of four and of depth k, k-major, the last one filled up
/// with zeros.
fn pack_rows(a: Strided, height: usize, panels: &mut [[f32; ROWS]], k: usize) {
    for (panel, first) in panels.chunks_exact_mut(k).zip((0..height).step_by(ROWS)) {
        for (out, column) in panel.iter_mut().zip(a.values[first..].chunks(a.column)) {
            let rows = ROWS.min(height - first);
            *out = match column.first_chunk() {
                Some(column) if rows == ROWS => *column,
                _ => std::array::from_fn(|i| if i < rows { column[i] } else { 0.0 }),
            };
        }
    }
}

/// Copies columns of B into panels of eight and of depth k, k-major, the last one filled up with zeros.
fn pack(b: Strided, width: usize, panels: &mut [[f32; COLUMNS]], k: usize) {
    for (panel, first) in panels.chunks_exact_mut(k).zip((0..width).step_by(COLUMNS)) {
        let width = COLUMNS.min(width - first);
        if width < COLUMNS {
            pack_some(b, first, width, panel);
        } else if b.row != 1 {
            for (out, row) in panel.iter_mut().zip(b.values[first..].chunks(b.row)) {
                *out = *row.first_chunk().expect("a row of B has the panel's columns");
            }
        } else {
            pack_across(std::array::from_fn(|j| &b.values[(first + j) * b.column..]), panel);
        }
    }
}

/// The last panel, which has fewer columns.
fn pack_some(b: Strided, first: usize, width: usize, panel: &mut [[f32; COLUMNS]]) {
    for (p, out) in panel.iter_mut().enumerate() {
        *out = std::array::from_fn(|j| if j < width { b.values[p * b.row + (first + j) * b.column] } else { 0.0 });
    }
}

/// A panel from columns that lie along memory, in squares of four by four.
fn pack_across(columns: [&[f32]; COLUMNS], panel: &mut [[f32; COLUMNS]]) {
    let depth = panel.len();
    let columns = columns.map(|column| &column[..depth]);
    let (fours, rest) = panel.as_chunks_mut::<4>();
    for (q, out) in fours.iter_mut().enumerate() {
        let lines: [[f32; 4]; COLUMNS] = columns.map(|column| *column[q * 4..].first_chunk().expect("four more of them"));
        for half in [0, 4] {
            let turned: [[f32; 4]; 4] = std::array::from_fn(|p| std::array::from_fn(|j| lines[half + j][p]));
            for (out, turned) in out.iter_mut().zip(turned) {
                out[half..half + 4].copy_from_slice(&turned);
            }
        }
    }
    let done = depth - rest.len();
    for (p, out) in rest.iter_mut().enumerate() {
        *out = columns.map(|column| column[done + p]);
    }
}

/// Puts rows of a tile where `c` begins, which is column `first` of C, finished.
#[inline(always)]
fn store(tile: &[[f32; COLUMNS]], c: &mut [f32], n: usize, width: usize, first: usize, finish: Finish) {
    let bias = finish.bias.get(first..).unwrap_or_default();
    let plain = bias.is_empty() && !finish.relu;
    for (c, sums) in c.chunks_mut(n).zip(tile) {
        let values = if plain { *sums } else { finish.run(*sums, bias) };
        match c.first_chunk_mut() {
            Some(c) if width == COLUMNS => *c = values,
            _ => c[..width].copy_from_slice(&values[..width]),
        }
    }
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
        let transposes = [(false, false), (false, true), (true, false), (true, true)].map(|(a, b)| Transposed { a, b });
        let epilogues = [Epilogue::None, Epilogue::Bias, Epilogue::BiasRelu];
        for (transposed, epilogue) in transposes.into_iter().flat_map(|t| epilogues.map(|e| (t, e))) {
            let shape = Shape { m: m as u32, k: k as u32, n: n as u32 };
            let (a, b, bias) = (values(1, m * k), values(2, k * n), values(3, n));
            let strided = |x, transposed, rows, columns| match transposed {
                true => Strided { values: x, row: 1, column: rows },
                false => Strided { values: x, row: columns, column: 1 },
            };
            let (sa, sb) = (strided(&a, transposed.a, m, k), strided(&b, transposed.b, k, n));
            let finish = match epilogue {
                Epilogue::None => Finish::NOTHING,
                _ => Finish { bias: &bias, relu: epilogue == Epilogue::BiasRelu },
            };
            let mut c = vec![f32::NAN; m * n];
            product(shape, sa, sb, &mut c, finish, &mut panels);
            let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
            let (a, b, bias) = (wide(&a), wide(&b), wide(&bias));
            let expected = matmul::reference(shape, transposed, epilogue, &a, &b, &bias);
            let tolerance = matmul::tolerance(shape, transposed, epilogue, &a, &b, &bias);
            compare(&c, &expected, &tolerance).unwrap_or_else(|e| panic!("{shape:?} {transposed:?} {epilogue:?}: {e}"));
        }
    }

    #[test]
    fn products_of_every_edge() {
        for (m, k, n) in
            [(1, 1, 1), (4, 128, 8), (5, 129, 9), (3, 127, 7), (97, 130, 513), (96, 256, 512), (1, 300, 1), (13, 1, 17)]
        {
            check(m, k, n);
        }
    }

    #[test]
    fn no_depth_gives_the_bias_alone() {
        let nothing = Strided { values: &[], row: 0, column: 1 };
        let mut c = vec![f32::NAN; 6];
        let finish = Finish { bias: &[1.0, -1.0, 0.5], relu: true };
        product(Shape { m: 2, k: 0, n: 3 }, nothing, nothing, &mut c, finish, &mut Panels::default());
        assert_eq!(c, [1.0, 0.0, 0.5, 1.0, 0.0, 0.5]);
    }
}
