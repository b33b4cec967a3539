//! Programs: device-neutral lists of kernel calls over numbered buffers, compiled once and run many times by any
//! backend; and the two ways in which a processor runs them, fast (`cpu`) and by the kernels' references (`reference`).
//! A program owns no memory and knows no model. A package of its own because a build for the tab optimises it for speed
//! and everything around it for size.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cpu;
mod image;
pub mod joined;
pub mod memory;
mod op;
pub mod reference;
mod sequence;

pub use image::ImageOp;
pub use op::{Call, Matmul, Op, Sharing};
pub use sequence::{AttentionBackward, Saved, SequenceOp};

use std::collections::BTreeSet;

use manyhands_shaders::matmul::{MATRICES_MAX, Matrices, ROW_STEP, Rows, Shape};

/// Whether this build has the kernels that training calls. Without them there are products and nothing else: plans refuse
/// every model before they make a program, and the compiler drops what only those would call. A visit begins with such a
/// build.
pub const EVERY_LAYER: bool = cfg!(feature = "every-layer");

/// Whether this build hands kernels operands in f16 as they are stored. One that is only begun with chooses no kernel but the
/// usual one, for which they are widened, and is smaller without.
pub const READS_F16: bool = EVERY_LAYER;

/// What a call that this build has no kernel for would say; no plan makes one.
pub const NOT_BUILT: &str = "plans make no calls that this build has no kernels for";

/// Most work one kernel call does where nothing else is said, in floating-point operations: a tenth of a second on a software adapter.
pub const CALL_FLOP_MAX: u64 = 1 << 28;

/// The same on a device that is no program: two hundredths of a second at a TFLOP/s. A fast device idles at the end of each
/// call, and in such calls only for a hundredth of it.
pub const DEVICE_CALL_FLOP_MAX: u64 = 1 << 34;

/// Columns that a sum over rows is widened to at most, and rows it keeps at least.
const COLUMN_SUM_COLUMNS: u32 = 2048;
/// The same for a large sum, as only devices are given: with so many rows and columns or more.
const LARGE_COLUMN_SUM_COLUMNS: u32 = 1 << 16;
const LARGE_COLUMN_SUM: [u32; 2] = [4096, 256];
const COLUMN_SUM_ROWS: u32 = 64;

/// A buffer of a [`Program`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Buffer(pub usize);

/// Kernel calls in order, and the number of values of each buffer they name.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    pub values: Vec<u64>,
    pub ops: Vec<Op>,
    /// Buffers that matter only within one pass over the calls: written before they are read, and of no use after it.
    pub passing: BTreeSet<Buffer>,
    /// Rows of buffers that are best laid side by side, in this order: calls that do the same to each in turn can be one.
    pub side_by_side: Vec<Vec<Buffer>>,
    /// Most work of one call; what can be cut is cut so.
    pub call_flop_max: u64,
}

impl Default for Program {
    fn default() -> Self {
        let (values, ops, passing, side_by_side) = Default::default();
        Self { values, ops, passing, side_by_side, call_flop_max: CALL_FLOP_MAX }
    }
}

impl Program {
    /// A buffer that keeps its contents.
    pub fn buffer(&mut self, values: u64) -> Buffer {
        self.values.push(values);
        Buffer(self.values.len() - 1)
    }

    /// A buffer that matters only within one pass.
    pub fn passing(&mut self, values: u64) -> Buffer {
        let buffer = self.buffer(values);
        self.passing.insert(buffer);
        buffer
    }

    /// Makes a buffer keep its contents.
    pub fn keep(&mut self, buffer: Buffer) {
        self.passing.remove(&buffer);
    }

    /// Adds products over all rows of all their matrices, cut into calls of at most `call_flop_max`. Cuts divide rows of C,
    /// never a sum, so they change no bits. No call has fewer than [`ROW_STEP`] rows because of a cut: a processor's product may
    /// add in another order where there are few, and so the last call may have up to that many more.
    pub fn matmul(&mut self, product: Matmul) {
        let Shape { m, k, n } = product.shape;
        let matrix_flop = 2 * u64::from(m) * u64::from(k) * u64::from(n);
        let together = (self.call_flop_max / matrix_flop.max(1)).clamp(1, MATRICES_MAX.into()) as u32;
        let mut first = product.matrices.first;
        while first < product.matrices.end {
            let end = first.saturating_add(together).min(product.matrices.end);
            self.matmul_rows(Matmul { matrices: Matrices { first, end }, ..product });
            first = end;
        }
    }

    fn matmul_rows(&mut self, product: Matmul) {
        let Shape { m, k, n } = product.shape;
        let row_flop = 2 * u64::from(k) * u64::from(n) * u64::from(product.matrices.count());
        let step = u64::from(ROW_STEP);
        let height = (self.call_flop_max / row_flop.max(1) / step).max(1) * step;
        let height = u32::try_from(height).unwrap_or(u32::MAX / 2);
        let mut first = 0;
        while first < m {
            let end = first.saturating_add(height).min(m);
            let end = if m - end < ROW_STEP { m } else { end };
            self.ops.push(Op::Matmul(Matmul { rows: Rows { first, end }, ..product }));
            first = end;
        }
    }

    /// Adds sums over the rows of x `[rows, columns]`. Many rows of few columns are first read as fewer and longer rows, and
    /// what that gives is summed up again: a call has an invocation for each column, and these would be too few to occupy a
    /// device. The shape alone decides, so that it gives the same bits.
    pub fn column_sum(&mut self, x: Buffer, sums: Buffer, rows: u32, columns: u32) {
        let large = rows >= LARGE_COLUMN_SUM[0] && columns >= LARGE_COLUMN_SUM[1];
        let widest = if large { LARGE_COLUMN_SUM_COLUMNS } else { COLUMN_SUM_COLUMNS };
        let most = (rows / COLUMN_SUM_ROWS).min(widest / columns.max(1));
        let Some(folds) = (2..=most).rev().find(|&folds| rows.is_multiple_of(folds)) else {
            return self.ops.push(Op::ColumnSum { x, sums, rows, columns });
        };
        let folded = self.passing(u64::from(folds) * u64::from(columns));
        self.ops.push(Op::ColumnSum { x, sums: folded, rows: rows / folds, columns: folds * columns });
        self.ops.push(Op::ColumnSum { x: folded, sums, rows: folds, columns });
    }

    /// Bytes of all buffers and of `more` beside them, none shared; what is past 2⁶⁴ counts as that.
    pub fn bytes(&self, more: u64) -> u64 {
        memory::bytes(self.values.iter().copied(), more)
    }
}

#[cfg(test)]
mod tests {
    use manyhands_shaders::matmul::{Epilogue, Transposed};

    use super::*;

    fn product(m: u32, k: u32, n: u32) -> Program {
        products(1, [m, k, n])
    }

    fn products(count: u32, [m, k, n]: [u32; 3]) -> Program {
        let mut program = Program::default();
        let [a, b, c] = [m * k, k * n, m * n].map(|values| program.buffer(u64::from(count) * u64::from(values)));
        program.matmul(Matmul {
            a,
            b,
            bias: None,
            c,
            shape: Shape { m, k, n },
            transposed: Transposed::default(),
            epilogue: Epilogue::None,
            rows: Rows { first: 0, end: 0 },
            matrices: Matrices { first: 0, end: count },
            variant: None,
        });
        program
    }

    #[test]
    fn products_are_cut_along_rows() {
        let check = |m, k, n, calls: usize| {
            let program = product(m, k, n);
            assert_eq!(program.ops.len(), calls);
            let mut next = 0;
            for op in &program.ops {
                let Op::Matmul(Matmul { rows, .. }) = op else { panic!("a product") };
                assert_eq!(rows.first, next);
                assert_eq!(rows.first % ROW_STEP, 0);
                let (height, row_flop) = (rows.end - rows.first, 2 * u64::from(k) * u64::from(n));
                assert!(op.flop() <= CALL_FLOP_MAX + u64::from(ROW_STEP - 1) * row_flop);
                assert!(height >= ROW_STEP.min(m));
                next = rows.end;
            }
            assert_eq!(next, m);
        };
        check(1, 1, 1, 1);
        check(0, 5, 5, 0);
        check(1024, 1024, 1024, 8);
        check(130, 4096, 2048, 2);
        check(1 << 24, 1, 1, 1);
    }

    /// As many products in a call as its work allows and a dispatch has workgroups for; one too large for a call is cut along
    /// rows as well.
    #[test]
    fn batches_are_cut_along_matrices_then_rows() {
        let calls = |count, extents| -> Vec<_> {
            let parts = products(count, extents).ops.into_iter().map(|op| match op {
                Op::Matmul(Matmul { matrices, rows, .. }) => (matrices.first, matrices.end, rows.first, rows.end),
                other => panic!("{other:?}"),
            });
            parts.collect()
        };
        assert_eq!(calls(3, [64, 64, 64]), [(0, 3, 0, 64)]);
        assert_eq!(calls(0, [64, 64, 64]), []);
        assert_eq!(calls(5, [64, 1024, 1024]), [(0, 2, 0, 64), (2, 4, 0, 64), (4, 5, 0, 64)]);
        assert_eq!(calls(2, [256, 1024, 1024]), [(0, 1, 0, 128), (0, 1, 128, 256), (1, 2, 0, 128), (1, 2, 128, 256)]);
        assert_eq!(calls(MATRICES_MAX + 1, [1, 1, 1]), [(0, MATRICES_MAX, 0, 1), (MATRICES_MAX, MATRICES_MAX + 1, 0, 1)]);
    }

    #[test]
    fn long_sums_of_few_columns_are_folded() {
        let check = |rows: u32, columns: u32, expected: &[[u32; 2]]| {
            let mut program = Program::default();
            let [x, sums] = [rows * columns, columns].map(|values| program.buffer(values.into()));
            program.column_sum(x, sums, rows, columns);
            let shapes: Vec<_> = program
                .ops
                .iter()
                .map(|op| match *op {
                    Op::ColumnSum { rows, columns, .. } => [rows, columns],
                    ref other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(shapes, expected, "{rows} x {columns}");
            let values: Vec<f32> = (0..rows * columns).map(|i| (i % 7) as f32).collect();
            let mut buffers: Vec<_> = program.values.iter().map(|&values| vec![0.0; values as usize]).collect();
            buffers[x.0].copy_from_slice(&values);
            for op in &program.ops {
                reference::run(op, &mut buffers);
            }
            for (column, &sum) in buffers[sums.0].iter().enumerate() {
                assert_eq!(sum, values.iter().skip(column).step_by(columns as usize).sum::<f32>());
            }
        };
        check(64, 10, &[[64, 10]]);
        check(1024, 128, &[[64, 2048], [16, 128]]);
        check(36_864, 8, &[[144, 2048], [256, 8]]);
        check(1021, 8, &[[1021, 8]]);
        check(4096, 256, &[[64, 16_384], [64, 256]]);
        check(8192, 2048, &[[256, 65_536], [32, 2048]]);
        check(4095, 256, &[[585, 1792], [7, 256]]);
        check(4096, 255, &[[512, 2040], [8, 255]]);
        check(0, 8, &[[0, 8]]);
        check(300, 3000, &[[300, 3000]]);
    }

    #[test]
    fn bytes_do_not_wrap() {
        let mut program = Program::default();
        program.buffer(1024);
        assert_eq!(program.bytes(4), 4100);
        program.buffer(u64::MAX / 2);
        assert_eq!(program.bytes(4), u64::MAX);
    }
}
