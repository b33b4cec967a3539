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

/// Every window of some images.
#[inline(always)]
fn each_window(shape: Shape, images: usize, mut visit: impl FnMut(Window)) {
    let (height, width, window) = (shape.height as usize, shape.width as usize, shape.window as usize);
    let (stride, padding) = (shape.stride as usize, shape.padding as usize);
    let inside = |first: usize, extent: usize| padding.saturating_sub(first)..window.min(extent + padding - first);
    let mut output = 0;
    for image in 0..images {
        for i in (0..shape.out_height() as usize).map(|i| i * stride) {
            let rows = inside(i, height);
            for j in (0..shape.out_width() as usize).map(|j| j * stride) {
                let corner = ((image * height + i) * width + j).wrapping_sub(padding * width + padding);
                visit(Window { output, rows: rows.clone(), columns: inside(j, width), corner, width, window });
                output += 1;
            }
        }
    }
}

/// Images in a buffer of outputs.
fn images(shape: Shape, outputs: &[f32]) -> usize {
    outputs.len() / (shape.out_height() as usize * shape.out_width() as usize * shape.channels as usize).max(1)
}

/// Cuts channels into blocks: the first of each, and whether it is a whole one. The rest comes one by one.
#[inline(always)]
fn each_block(channels: usize, mut visit: impl FnMut(usize, bool)) {
    let whole = channels / LANES * LANES;
    (0..whole).step_by(LANES).for_each(|first| visit(first, true));
    (whole..channels).for_each(|first| visit(first, false));
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
    each_window(shape, images(shape, y), |window| {
        each_block(c, |first, whole| {
            let to = window.output * c + first;
            if whole {
                let (largest, place) = largest::<LANES>(&window, &x[first..], c);
                y[to..to + LANES].copy_from_slice(&largest);
                places[to..to + LANES].copy_from_slice(&place);
            } else {
                let ([largest], [place]) = largest::<1>(&window, &x[first..], c);
                (y[to], places[to]) = (largest, place);
            }
        });
    });
}

/// The maxima of a window and their places.
#[inline(always)]
fn largest<const N: usize>(window: &Window, x: &[f32], channels: usize) -> ([f32; N], [u32; N]) {
    let (mut largest, mut places, mut first) = ([0.0; N], [0; N], true);
    window.each(|pixel, place| {
        let x: [f32; N] = at(x, pixel * channels);
        for n in 0..N {
            let larger = first | (x[n] > largest[n]);
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
    each_window(shape, images(shape, gradient), |window| {
        each_block(c, |first, whole| {
            let from = window.output * c + first;
            let to = &mut input_gradient[first..];
            if whole {
                let (g, chosen): ([f32; LANES], [u32; LANES]) = (at(gradient, from), at(places, from));
                add::<LANES>(&window, to, c, |place| std::array::from_fn(|n| if chosen[n] == place { g[n] } else { 0.0 }));
            } else {
                add::<1>(&window, to, c, |place| [if places[from] == place { gradient[from] } else { 0.0 }]);
            }
        });
    });
}

/// Adds to the pixels of a window what `share` says of each place.
#[inline(always)]
fn add<const N: usize>(window: &Window, to: &mut [f32], channels: usize, share: impl Fn(u32) -> [f32; N]) {
    window.each(|pixel, place| {
        let (before, share): ([f32; N], _) = (at(to, pixel * channels), share(place));
        let after: [f32; N] = std::array::from_fn(|n| before[n] + share[n]);
        to[pixel * channels..][..N].copy_from_slice(&after);
    });
}

widest!(pub fn average_forward(shape: Shape, x: &[f32], y: &mut [f32]) = average_forward_in);

#[inline(always)]
fn average_forward_in(shape: Shape, x: &[f32], y: &mut [f32]) {
    let c = shape.channels as usize;
    let share = (1.0 / shape.area()) as f32;
    each_window(shape, images(shape, y), |window| {
        each_block(c, |first, whole| {
            let to = window.output * c + first;
            if whole {
                let sums = sum::<LANES>(&window, &x[first..], c);
                y[to..to + LANES].copy_from_slice(&sums.map(|sum| sum * share));
            } else {
                let [sum] = sum::<1>(&window, &x[first..], c);
                y[to] = sum * share;
            }
        });
    });
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
    each_window(shape, images(shape, gradient), |window| {
        each_block(c, |first, whole| {
            let from = window.output * c + first;
            let to = &mut input_gradient[first..];
            if whole {
                let shares = at::<f32, LANES>(gradient, from).map(|g| g * share);
                add::<LANES>(&window, to, c, |_| shares);
            } else {
                add::<1>(&window, to, c, |_| [gradient[from] * share]);
            }
        });
    });
}
