//! How images and weights lie in memory while a convolution runs: padded, and in panels of 8 columns.

use manyhands_shaders::convolution::Shape;

use super::COLUMNS;

/// Extents in memory: images are padded, so that nothing has to look at borders.
#[derive(Clone, Copy)]
pub struct Extents {
    pub images: usize,
    /// Values of a padded row and of a padded image.
    pub row: usize,
    pub image: usize,
    /// Values under one row of the kernel.
    pub run: usize,
    pub outputs: usize,
    pub out_height: usize,
    pub out_width: usize,
    /// From one window to the next along a row, and from one row of windows to the next.
    pub step: usize,
    pub row_step: usize,
}

impl Extents {
    pub fn new(shape: Shape, images: usize) -> Self {
        let (channels, padding, stride) = (shape.channels as usize, shape.padding as usize, shape.stride as usize);
        let row = (shape.width as usize + 2 * padding) * channels;
        Self {
            images,
            row,
            image: (shape.height as usize + 2 * padding) * row,
            run: shape.kernel_width as usize * channels,
            outputs: shape.outputs as usize,
            out_height: shape.out_height() as usize,
            out_width: shape.out_width() as usize,
            step: stride * channels,
            row_step: stride * row,
        }
    }

    /// Where the window of every output pixel begins.
    pub fn corners(self, corners: &mut Vec<usize>) {
        corners.clear();
        for image in 0..self.images {
            for i in 0..self.out_height {
                let first = image * self.image + i * self.row_step;
                corners.extend((0..self.out_width).map(|j| first + j * self.step));
            }
        }
    }
}

/// Copies images into the middle of padded ones; without padding there is nothing to do.
pub fn pad<'a>(shape: Shape, x: &'a [f32], padded: &'a mut Vec<f32>) -> &'a [f32] {
    if shape.padding == 0 || x.is_empty() {
        return x;
    }
    let extents = Extents::new(shape, 0);
    padded.clear();
    padded.resize(x.len() / (image_values(shape)) * extents.image, 0.0);
    for (padded, x) in padded.chunks_exact_mut(extents.image).zip(x.chunks_exact(image_values(shape))) {
        for (padded, x) in inner_rows(shape, extents, padded).zip(x.chunks_exact(row_values(shape))) {
            padded.copy_from_slice(x);
        }
    }
    padded
}

pub fn row_values(shape: Shape) -> usize {
    shape.width as usize * shape.channels as usize
}

pub fn image_values(shape: Shape) -> usize {
    shape.height as usize * row_values(shape)
}

/// The rows of a padded image without their padding.
pub fn inner_rows(shape: Shape, extents: Extents, padded: &mut [f32]) -> impl Iterator<Item = &mut [f32]> {
    let (padding, edge) = (shape.padding as usize, shape.padding as usize * shape.channels as usize);
    let rows = padded.chunks_exact_mut(extents.row).skip(padding).take(shape.height as usize);
    rows.map(move |row| &mut row[edge..edge + row_values(shape)])
}

/// Copies a matrix of `columns` columns into panels of 8, rows of a panel one after another, filled up with zeros.
pub fn pack(matrix: &[f32], columns: usize, panels: &mut Vec<f32>) {
    for first in (0..columns).step_by(COLUMNS) {
        for row in matrix.chunks_exact(columns) {
            match row[first..].first_chunk::<COLUMNS>() {
                Some(values) => panels.extend_from_slice(values),
                None => panels.extend((first..first + COLUMNS).map(|column| row.get(column).copied().unwrap_or(0.0))),
            }
        }
    }
}

/// The same of the transpose of a matrix of `rows` columns.
pub fn pack_transposed(matrix: &[f32], rows: usize, panels: &mut Vec<f32>) {
    for columns in matrix.chunks(rows * COLUMNS) {
        for row in 0..rows {
            panels.extend((0..COLUMNS).map(|column| columns.get(column * rows + row).copied().unwrap_or(0.0)));
        }
    }
}
