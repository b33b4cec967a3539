//! Pools as loops along channels, eight at a time. Windows are walked in the order of the output, so that what overlaps
//! adds up in the order of the shaders.

use std::ops::Range;

use manyhands_shaders::pool::Shape;

use super::super::widest::widest;

/// Channels handled together.
const LANES: usize = 8;

/// One output pixel, and the part of its window that is not in the padding.
struct Window {
    output: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    /// The pixel of x under place (0, 0), and pixels of a row of x; wrapping, because that place may lie before x.
    corner: usize,
    width: usize,
    /// Places of a row of the window.
    window: usize,
}

impl Window {
    /// Every pixel of x in the window, and its place.
    #[inline(always)]
    fn each(&self, mut visit: impl FnMut(usize, u32)) {
        for ky in self.rows.clone() {
            for kx in self.columns.clone() {
                visit(self.corner.wrapping_add(ky * self.width + kx), (ky * self.window + kx) as u32);
            }
        }
    }
}

/// Every window of some images. An iterator, because a function that is handed on is not always inlined, and then not
/// compiled for the processor's registers.
#[inline(always)]
fn windows(shape: Shape, images: usize) -> impl Iterator<Item = Window> {
    let (height, width, window) = (shape.height as usize, shape.width as usize, shape.window as usize);
    let (out_height, out_width) = (shape.out_height() as usize, shape.out_width() as usize);
    let (stride, padding) = (shape.stride as usize, shape.padding as usize);
    let inside = move |first: usize, extent: usize| padding.saturating_sub(first)..window.min(extent + padding - first);
    (0..images * out_height * out_width).map(move |output| {
        let (line, j) = (output / out_width, output % out_width * stride);
        let (image, i) = (line / out_height, line % out_height * stride);
        let corner = ((image * height + i) * width + j).wrapping_sub(padding * width + padding);
        Window { output, rows: inside(i, height), columns: inside(j, width), corner, width, window }
    })
}

/// Images in a buffer of outputs.
fn images(shape: Shape, outputs: &[f32]) -> usize {
    outputs.len() / (shape.out_height() as usize * shape.out_width() as usize * shape.channels as usize).max(1)
}

/// Channels in blocks: the first of each, and whether it is a whole one. The rest comes one by one.
#[inline(always)]
fn blocks(channels: usize) -> impl Iterator<Item = (usize, bool)> {
    let whole = channels / LANES * LANES;
    let block = move |n: usize| if n * LANES < whole { (n * LANES, true) } else { (n + whole - whole / LANES, false) };
    (0..whole / LANES + channels - whole).map(block)
}

/// `N` values of a buffer.
#[inline(always)]
fn at<T: Copy, const N: usize>(values: &[T], first: usize) -> [T; N] {
    *values[first..].first_chunk().expect("windows lie inside their images")
}

widest!(pub fn max_forward(shape: Shape, x: &[f32], y: &mut [f32], places: &mut [u32]) = max_forward_in);

#[inline(always)]
fn max_forward_in(shape: Shape, x: &[f32], y: &mut [f32], places: &mut [u32]) {
    let c = shape.channels as usize;
    for window in windows(shape, images(shape, y)) {
        for (first, whole) in blocks(c) {
            let to = window.output * c + first;
            if whole {
                let (largest, place) = largest::<LANES>(&window, &x[first..], c);
                y[to..to + LANES].copy_from_slice(&largest);
                places[to..to + LANES].copy_from_slice(&place);
            } else {
                let ([largest], [place]) = largest::<1>(&window, &x[first..], c);
                (y[to], places[to]) = (largest, place);
            }
        }
    }
}

/// The maxima of a window and their places.
#[inline(always)]
fn largest<const N: usize>(window: &Window, x: &[f32], channels: usize) -> ([f32; N], [u32; N]) {
    let (mut largest, mut places, mut first) = ([0.0; N], [0; N], true);
    window.each(|pixel, place| {
        let x: [f32; N] = at(x, pixel * channels);
        for n in 0..N {
            let larger = first | (x[n] > largest[n]);
            // Else the choice becomes a relaxed maximum, which may lose NaN.
            #[cfg(all(target_arch = "wasm32", target_feature = "relaxed-simd"))]
            let larger = std::hint::black_box(larger);
            largest[n] = if larger { x[n] } else { largest[n] };
            places[n] = if larger { place } else { places[n] };
        }
        first = false;
    });
    (largest, places)
}

widest!(pub fn max_backward(shape: Shape, gradient: &[f32], places: &[u32], input_gradient: &mut [f32]) = max_backward_in);

#[inline(always)]
fn max_backward_in(shape: Shape, gradient: &[f32], places: &[u32], input_gradient: &mut [f32]) {
    let c = shape.channels as usize;
    input_gradient.fill(0.0);
    for window in windows(shape, images(shape, gradient)) {
        for (first, whole) in blocks(c) {
            let from = window.output * c + first;
            let to = &mut input_gradient[first..];
            if whole {
                let (g, chosen): ([f32; LANES], [u32; LANES]) = (at(gradient, from), at(places, from));
                add::<LANES>(&window, to, c, |place| {
                    let mut share = [0.0; LANES];
                    (0..LANES).for_each(|n| share[n] = if chosen[n] == place { g[n] } else { 0.0 });
                    share
                });
            } else {
                add::<1>(&window, to, c, |place| [if places[from] == place { gradient[from] } else { 0.0 }]);
            }
        }
    }
}

/// Adds to the pixels of a window what `share` says of each place.
#[inline(always)]
fn add<const N: usize>(window: &Window, to: &mut [f32], channels: usize, share: impl Fn(u32) -> [f32; N]) {
    window.each(|pixel, place| {
        let (before, share): ([f32; N], _) = (at(to, pixel * channels), share(place));
        let mut after = before;
        (0..N).for_each(|n| after[n] += share[n]);
        to[pixel * channels..][..N].copy_from_slice(&after);
    });
}

widest!(pub fn average_forward(shape: Shape, x: &[f32], y: &mut [f32]) = average_forward_in);

#[inline(always)]
fn average_forward_in(shape: Shape, x: &[f32], y: &mut [f32]) {
    let c = shape.channels as usize;
    let share = (1.0 / shape.area()) as f32;
    for window in windows(shape, images(shape, y)) {
        for (first, whole) in blocks(c) {
            let to = window.output * c + first;
            if whole {
                let sums = sum::<LANES>(&window, &x[first..], c);
                y[to..to + LANES].copy_from_slice(&sums.map(|sum| sum * share));
            } else {
                let [sum] = sum::<1>(&window, &x[first..], c);
                y[to] = sum * share;
            }
        }
    }
}

/// The sum of a window, a row of it at a time, which bounds the rounding error of large ones.
#[inline(always)]
fn sum<const N: usize>(window: &Window, x: &[f32], channels: usize) -> [f32; N] {
    let mut totals = [0.0; N];
    for ky in window.rows.clone() {
        let mut sums = [0.0; N];
        for kx in window.columns.clone() {
            let x: [f32; N] = at(x, window.corner.wrapping_add(ky * window.width + kx) * channels);
            (0..N).for_each(|n| sums[n] += x[n]);
        }
        (0..N).for_each(|n| totals[n] += sums[n]);
    }
    totals
}

widest!(pub fn average_backward(shape: Shape, gradient: &[f32], input_gradient: &mut [f32]) = average_backward_in);

#[inline(always)]
fn average_backward_in(shape: Shape, gradient: &[f32], input_gradient: &mut [f32]) {
    let c = shape.channels as usize;
    let share = (1.0 / shape.area()) as f32;
    input_gradient.fill(0.0);
    for window in windows(shape, images(shape, gradient)) {
        for (first, whole) in blocks(c) {
            let from = window.output * c + first;
            let to = &mut input_gradient[first..];
            if whole {
                let shares = at::<f32, LANES>(gradient, from).map(|g| g * share);
                add::<LANES>(&window, to, c, |_| shares);
            } else {
                add::<1>(&window, to, c, |_| [gradient[from] * share]);
            }
        }
    }
}
