//! Convolutions as products that read images in place. Under one row of the kernel, what a window holds stands together
//! in memory (`kernel_width · channels` values, a *run*), so that a register tile of 6 or 8 pixels by 8 outputs needs no copy
//! of the windows; padding is made real by copying images into a larger one. Sums run over chunks of at most 128 terms,
//! as `manyhands_shaders::matmul` asks of arithmetic that rounds to nearest.

mod layout;

use manyhands_shaders::convolution::Shape;
use manyhands_shaders::convolution_weight_gradient::splits;
use manyhands_shaders::images::Part;
use manyhands_shaders::matmul::K_CHUNK_IEEE;

use self::layout::{Extents, image_values, inner_rows, pack, pack_transposed, pad, row_values};
use super::super::widest::widest;
use super::Scratch;

/// As many rows as let the sums, and what is multiplied, stay in registers.
const ROWS: usize = if cfg!(target_arch = "wasm32") { 6 } else { 8 };
const COLUMNS: usize = 8;
const CHUNK: usize = K_CHUNK_IEEE as usize;

type Tile<const R: usize> = [[f32; COLUMNS]; R];

/// `sum + a·b`, rounded once where FUSED.
#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, sum: f32) -> f32 {
    if FUSED { a.mul_add(b, sum) } else { sum + a * b }
}

/// `[of(0), of(1), …]`; `std::array::from_fn` is not always inlined, and then not compiled for the processor's registers.
#[inline(always)]
fn by_row<T: Copy + Default>(of: impl Fn(usize) -> T) -> [T; ROWS] {
    let mut all = [T::default(); ROWS];
    for (i, one) in all.iter_mut().enumerate() {
        *one = of(i);
    }
    all
}

/// `sums[i] += Σ_p rows[i][p] · panel[p]`; all rows are as long as the panel.
#[inline(always)]
fn accumulate<const FUSED: bool>(mut sums: Tile<ROWS>, rows: [&[f32]; ROWS], panel: &[f32]) -> Tile<ROWS> {
    let panel = panel.as_chunks::<COLUMNS>().0;
    let rows = by_row(|i| &rows[i][..panel.len()]);
    for (p, weights) in panel.iter().enumerate() {
        for i in 0..ROWS {
            for j in 0..COLUMNS {
                sums[i][j] = multiply_add::<FUSED>(rows[i][p], weights[j], sums[i][j]);
            }
        }
    }
    sums
}

fn add(totals: &mut Tile<ROWS>, sums: &Tile<ROWS>) {
    totals.as_flattened_mut().iter_mut().zip(sums.as_flattened()).for_each(|(total, sum)| *total += sum);
}

/// What follows the sums: a bias per output, filled up with zeros to whole panels, and ReLU.
#[derive(Clone, Copy)]
struct Finish<'a> {
    bias: &'a [f32],
    relu: bool,
}

/// y of images `x`; `bias` is empty where there is none.
pub fn forward(shape: Shape, x: &[f32], w: &[f32], bias: &[f32], relu: bool, y: &mut [f32], scratch: &mut Scratch) {
    let pixels = y.len() / (shape.outputs as usize).max(1);
    let extents = Extents::new(shape, pixels / (shape.plane() as usize).max(1));
    let Scratch { padded, panels, corners, bias: whole } = scratch;
    let x = pad(shape, x, padded);
    panels.clear();
    whole.clear();
    whole.extend_from_slice(bias);
    whole.resize(extents.outputs.next_multiple_of(COLUMNS), 0.0);
    pack(w, extents.outputs, panels);
    extents.corners(corners);
    tiles(extents, x, panels, corners, Finish { bias: whole, relu }, y);
}

widest!(
    fn tiles(extents: Extents, x: &[f32], panels: &[f32], corners: &[usize], finish: Finish, y: &mut [f32]) =
        tiles_in::<false>, tiles_in::<true>
);

#[inline(always)]
fn tiles_in<const FUSED: bool>(extents: Extents, x: &[f32], panels: &[f32], corners: &[usize], finish: Finish, y: &mut [f32]) {
    if y.is_empty() {
        return;
    }
    let each = panels.len() / extents.outputs.div_ceil(COLUMNS);
    let chunk = each <= CHUNK * COLUMNS;
    for (corners, y) in corners.chunks(ROWS).zip(y.chunks_mut(ROWS * extents.outputs)) {
        // Past the end the last pixel again, which is not stored.
        let corners = by_row(|i| corners[i.min(corners.len() - 1)]);
        for (bias, first) in finish.bias.as_chunks::<COLUMNS>().0.iter().zip((0..).step_by(COLUMNS)) {
            let panel = &panels[first / COLUMNS * each..][..each];
            // Kernels of one channel have runs too short for a loop.
            let tile = match extents.run {
                3 if chunk => short_windows::<FUSED, 3>(extents, x, corners, panel),
                5 if chunk => short_windows::<FUSED, 5>(extents, x, corners, panel),
                0 => Tile::default(),
                _ => windows::<FUSED>(extents, x, corners, panel),
            };
            for (y, sums) in y.chunks_exact_mut(extents.outputs).zip(&tile) {
                let mut values = *sums;
                for j in 0..COLUMNS {
                    values[j] += bias[j];
                    if finish.relu {
                        values[j] = values[j].max(0.0);
                    }
                }
                let to = &mut y[first..];
                match to.first_chunk_mut() {
                    Some(to) => *to = values,
                    None => to.copy_from_slice(&values[..to.len()]),
                }
            }
        }
    }
}

/// The sums of a tile of pixels by outputs.
#[inline(always)]
fn windows<const FUSED: bool>(extents: Extents, x: &[f32], corners: [usize; ROWS], panel: &[f32]) -> Tile<ROWS> {
    let (mut totals, mut sums, mut count) = (Tile::default(), Tile::default(), 0);
    for (ky, weights) in panel.chunks_exact(extents.run * COLUMNS).enumerate() {
        let rows = by_row(|i| &x[corners[i] + ky * extents.row..][..extents.run]);
        for (piece, weights) in weights.chunks(CHUNK * COLUMNS).enumerate() {
            let terms = weights.len() / COLUMNS;
            if count + terms > CHUNK {
                add(&mut totals, &sums);
                (sums, count) = (Tile::default(), 0);
            }
            sums = accumulate::<FUSED>(sums, by_row(|i| &rows[i][piece * CHUNK..][..terms]), weights);
            count += terms;
        }
    }
    add(&mut totals, &sums);
    totals
}

/// The same where a run has RUN values and all terms are one chunk.
#[inline(always)]
fn short_windows<const FUSED: bool, const RUN: usize>(
    extents: Extents,
    x: &[f32],
    corners: [usize; ROWS],
    panel: &[f32],
) -> Tile<ROWS> {
    let mut sums: Tile<ROWS> = Tile::default();
    for (ky, weights) in panel.as_chunks::<COLUMNS>().0.as_chunks::<RUN>().0.iter().enumerate() {
        let x = &x[ky * extents.row..];
        let mut rows = [[0.0f32; RUN]; ROWS];
        for i in 0..ROWS {
            rows[i] = *x[corners[i]..].first_chunk().expect("windows lie inside x");
        }
        for (p, weights) in weights.iter().enumerate() {
            for i in 0..ROWS {
                for j in 0..COLUMNS {
                    sums[i][j] = multiply_add::<FUSED>(rows[i][p], weights[j], sums[i][j]);
                }
            }
        }
    }
    sums
}

/// dX of the images of `gradient`: per output pixel and row of the kernel, a run of `dY · Wᵀ` is added where the window
/// has it. Some rows of windows at a time, because no two of them share a row of x under the same row of the kernel; of
/// one image, so that images that are computed apart get the same bits.
pub fn input_gradient(shape: Shape, w: &[f32], gradient: &[f32], to: &mut [f32], scratch: &mut Scratch) {
    let images = to.len() / image_values(shape).max(1);
    let extents = Extents::new(shape, images);
    let Extents { run, outputs, .. } = extents;
    let Scratch { padded, panels, .. } = scratch;
    panels.clear();
    for w in w.chunks_exact((run * outputs).max(1)) {
        pack_transposed(w, outputs, panels);
    }
    if shape.padding == 0 {
        to.fill(0.0);
        return scatter(extents, panels, gradient, to);
    }
    padded.clear();
    padded.resize(images * extents.image, 0.0);
    scatter(extents, panels, gradient, padded);
    for (padded, to) in padded.chunks_exact_mut(extents.image.max(1)).zip(to.chunks_exact_mut(image_values(shape).max(1))) {
        for (padded, to) in inner_rows(shape, extents, padded).zip(to.chunks_exact_mut(row_values(shape))) {
            to.copy_from_slice(padded);
        }
    }
}

widest!(
    fn scatter(extents: Extents, panels: &[f32], gradient: &[f32], to: &mut [f32]) = scatter_in::<false>, scatter_in::<true>
);

/// Adds every window's part to padded images.
#[inline(always)]
fn scatter_in<const FUSED: bool>(extents: Extents, panels: &[f32], gradient: &[f32], to: &mut [f32]) {
    let Extents { run, outputs, out_width, .. } = extents;
    if outputs == 0 || run == 0 {
        return;
    }
    let each = run.div_ceil(COLUMNS) * outputs * COLUMNS;
    let starts = (0..extents.images).flat_map(|image| {
        (0..extents.out_height).step_by(ROWS).map(move |line| (image * extents.out_height + line, extents.out_height - line))
    });
    for (line, left) in starts {
        let count = ROWS.min(left);
        // Past the end the last row again, which is not added.
        let lines = by_row(|i| line + i.min(count - 1));
        let first = by_row(|i| lines[i] / extents.out_height * extents.image + lines[i] % extents.out_height * extents.row_step);
        for j in 0..out_width {
            let rows = by_row(|i| &gradient[(lines[i] * out_width + j) * outputs..][..outputs]);
            for (ky, panels) in panels.chunks_exact(each).enumerate() {
                let at = by_row(|i| first[i] + ky * extents.row + j * extents.step);
                for (panel, column) in panels.chunks_exact(outputs * COLUMNS).zip((0..run).step_by(COLUMNS)) {
                    for (piece, panel) in panel.chunks(CHUNK * COLUMNS).enumerate() {
                        let rows = by_row(|i| &rows[i][piece * CHUNK..]);
                        let sums = accumulate::<FUSED>(Tile::default(), rows, panel);
                        for (at, sums) in at.iter().zip(&sums).take(count) {
                            add_run(&mut to[at + column..at + run], sums);
                        }
                    }
                }
            }
        }
    }
}

/// Adds to the beginning of a run.
#[inline(always)]
fn add_run(run: &mut [f32], sums: &[f32; COLUMNS]) {
    match run.first_chunk_mut::<COLUMNS>() {
        Some(run) => run.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum),
        None => run.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum),
    }
}

/// The sums of the splits of `part`.
pub fn weight_gradient(shape: Shape, part: Part, x: &[f32], gradient: &[f32], partial: &mut [f32], scratch: &mut Scratch) {
    let extents = Extents::new(shape, shape.batch as usize);
    let Extents { run, outputs, .. } = extents;
    let values = shape.terms() as usize * outputs;
    if values == 0 {
        return;
    }
    let Scratch { padded, panels, corners, .. } = scratch;
    let x = pad(shape, x, padded);
    extents.corners(corners);
    let pixels = splits(shape).pixels as usize;
    for split in part.first as usize..part.end as usize {
        let partial = &mut partial[split * values..][..values];
        partial.fill(0.0);
        let end = corners.len().min((split + 1) * pixels);
        for first in (split * pixels..end).step_by(CHUNK) {
            let corners = &corners[first..end.min(first + CHUNK)];
            let gradient = &gradient[first * outputs..][..corners.len() * outputs];
            panels.clear();
            pack(gradient, outputs, panels);
            for (panel, column) in panels.chunks_exact(corners.len() * COLUMNS).zip((0..outputs).step_by(COLUMNS)) {
                for (ky, partial) in partial.chunks_exact_mut(run * outputs).enumerate() {
                    outer(extents, &x[ky * extents.row..], corners, panel, column, partial);
                }
            }
        }
    }
}

widest!(
    fn outer(extents: Extents, x: &[f32], corners: &[usize], panel: &[f32], column: usize, partial: &mut [f32]) =
        outer_in::<false>, outer_in::<true>
);

/// Adds `Σ_pixels runᵀ · dY` to eight columns of the rows of w under one row of the kernel, in tiles of equal height.
#[inline(always)]
fn outer_in<const FUSED: bool>(
    extents: Extents,
    x: &[f32],
    corners: &[usize],
    panel: &[f32],
    column: usize,
    partial: &mut [f32],
) {
    let height = extents.run.div_ceil(extents.run.div_ceil(ROWS));
    let mut next = 0;
    while next < extents.run {
        let height = height.min(extents.run - next);
        let to = &mut partial[next * extents.outputs..][..height * extents.outputs];
        let x = &x[next..];
        let tile = match height {
            1 => spread(outer_tile::<FUSED, 1>(x, corners, panel)),
            2 => spread(outer_tile::<FUSED, 2>(x, corners, panel)),
            3 => spread(outer_tile::<FUSED, 3>(x, corners, panel)),
            4 => spread(outer_tile::<FUSED, 4>(x, corners, panel)),
            5 => spread(outer_tile::<FUSED, 5>(x, corners, panel)),
            6 => spread(outer_tile::<FUSED, 6>(x, corners, panel)),
            7 => spread(outer_tile::<FUSED, 7>(x, corners, panel)),
            _ => outer_tile::<FUSED, ROWS>(x, corners, panel),
        };
        for (to, sums) in to.chunks_exact_mut(extents.outputs).zip(&tile) {
            add_run(&mut to[column..], sums);
        }
        next += height;
    }
}

/// A tile with rows of zeros after it.
#[inline(always)]
fn spread<const R: usize>(tile: Tile<R>) -> Tile<ROWS> {
    let mut whole = Tile::default();
    whole[..R.min(ROWS)].copy_from_slice(&tile[..R.min(ROWS)]);
    whole
}

#[inline(always)]
fn outer_tile<const FUSED: bool, const R: usize>(x: &[f32], corners: &[usize], panel: &[f32]) -> Tile<R> {
    let mut sums = [[0.0f32; COLUMNS]; R];
    for (&corner, gradient) in corners.iter().zip(panel.as_chunks::<COLUMNS>().0) {
        let Some(run) = x[corner..].first_chunk::<R>() else { return sums };
        for i in 0..R {
            for j in 0..COLUMNS {
                sums[i][j] = multiply_add::<FUSED>(run[i], gradient[j], sums[i][j]);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests;
