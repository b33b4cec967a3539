//! Known answers: programs of one kernel call with fixed inputs, what the reference beside the shader says of them, and
//! how far f32 may be from that. The self-test before the first lease runs a few; the tests run tables of them.

mod adamw;
mod clip;
mod dropout;
pub mod image;
mod sequence;

pub use adamw::{adamw_advance, adamw_step};
pub use clip::{clipped, square_sums};
pub use dropout::{dropout_advance, dropped};
pub use sequence::*;

use manyhands_programs::{EVERY_LAYER, READS_F16};
use manyhands_shaders::compare::compare;
use manyhands_shaders::matmul::{Epilogue, Matrices, Rows, Shape, Transposed, Variant};
use manyhands_shaders::sgd_momentum::Rates;
use manyhands_shaders::{
    accuracy, add, binary16, clear, column_sum, matmul, relu_backward, relu_forward, sgd_momentum, softmax_cross_entropy,
};

use crate::init::word;
use crate::plan::{Buffer, Matmul, Op, Program, Sharing};
use crate::tensors::Operand;

/// One program, its inputs and its answers.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub program: Program,
    /// Contents before the call.
    pub buffers: Vec<Vec<f32>>,
    answers: Vec<Answer>,
}

#[derive(Debug, Clone)]
struct Answer {
    buffer: Buffer,
    expected: Vec<f64>,
    tolerance: Vec<f64>,
}

impl Case {
    fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), program: Program::default(), buffers: Vec::new(), answers: Vec::new() }
    }

    fn input(&mut self, values: Vec<f32>) -> Buffer {
        let buffer = self.program.buffer(values.len() as u64);
        self.buffers.push(values);
        buffer
    }

    /// A buffer that the call fills: it starts as something else.
    fn output(&mut self, values: usize) -> Buffer {
        self.input(vec![77.0; values])
    }

    fn expect(&mut self, buffer: Buffer, expected: Vec<f64>, tolerance: Vec<f64>) {
        self.answers.push(Answer { buffer, expected, tolerance });
    }

    /// Whether the case is of a kernel, or of the family of products.
    pub fn is_of(&self, kernel: &str) -> bool {
        self.name.strip_prefix(kernel).is_some_and(|rest| rest.starts_with(' '))
    }

    /// Compares every answer. An empty tensor is right if it is empty: there is nothing in it to be wrong.
    pub fn compare(&self, buffers: &[Vec<f32>]) -> Result<f64, String> {
        let mut worst = 0.0f64;
        for answer in &self.answers {
            let got = buffers.get(answer.buffer.0).ok_or("a buffer is missing")?;
            if answer.expected.is_empty() && got.is_empty() {
                continue;
            }
            worst = worst.max(compare(got, &answer.expected, &answer.tolerance).map_err(|e| e.to_string())?);
        }
        Ok(worst)
    }
}

/// Fixed values on (-1, 1), each stream its own.
pub fn values(stream: u64, count: usize) -> Vec<f32> {
    (0..count as u64).map(|i| ((word(0x6D68, stream, i) >> 40) as f32 + 0.5) / (1u32 << 23) as f32 - 1.0).collect()
}

/// A and B of so many products as f16 patterns of values on (-1, 1). The last four rows of A and the last four columns of B are
/// subnormal throughout, so that a device that flushes such values to zero, at whatever place of a word, is wrong about what
/// they give.
pub fn patterns(count: usize, shape: Shape, transposed: Transposed) -> [Vec<u16>; 2] {
    let (m, k, n) = (shape.m as usize, shape.k as usize, shape.n as usize);
    let pattern = |stream, at: usize, tiny: bool| {
        let bits = word(0x6D68, stream, at as u64);
        let exponent = if tiny { 0 } else { 10 + (bits >> 32) % 5 };
        bits as u16 & 0x83FF | (exponent as u16) << 10
    };
    let row = |at: usize| if transposed.a { at % (m * k) % m } else { at % (m * k) / k };
    let column = |at: usize| if transposed.b { at % (k * n) / k } else { at % (k * n) % n };
    let a = (0..count * m * k).map(|at| pattern(1, at, row(at) + 4 >= m)).collect();
    let b = (0..count * k * n).map(|at| pattern(2, at, column(at) + 4 >= n)).collect();
    [a, b]
}

/// What patterns are in f32.
pub fn widened(patterns: &[u16]) -> Vec<f32> {
    patterns.iter().map(|&bits| binary16::widen(bits)).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// A product by a fixed variant, or by the device's choice.
pub fn product(shape: Shape, transposed: Transposed, epilogue: Epilogue, variant: Option<Variant>) -> Case {
    products(Matrices::ONE, shape, transposed, epilogue, variant)
}

/// Products of a batch, those of `matrices` computed and those before it not. Operands are stored as the variant reads them.
pub fn products(matrices: Matrices, shape: Shape, transposed: Transposed, epilogue: Epilogue, variant: Option<Variant>) -> Case {
    let (m, k, n, count) = (shape.m as usize, shape.k as usize, shape.n as usize, matrices.end as usize);
    let operands = if READS_F16 && variant.is_some_and(Variant::reads_f16) {
        patterns(count, shape, transposed).map(Operand::F16)
    } else {
        [values(1, count * m * k), values(2, count * k * n)].map(Operand::F32)
    };
    products_of(operands, matrices, shape, transposed, epilogue, variant)
}

/// The same of given operands; f16 for a variant that reads it, f32 for any other.
pub fn products_of(
    operands: [Operand; 2],
    matrices: Matrices,
    shape: Shape,
    transposed: Transposed,
    epilogue: Epilogue,
    variant: Option<Variant>,
) -> Case {
    let kernel = variant.map_or(product_name(epilogue), |variant| variant.kernel().name);
    let mut case = Case::new(format!("{kernel} {matrices:?} {shape:?} {transposed:?} {epilogue:?}"));
    let (m, k, n, count) = (shape.m as usize, shape.k as usize, shape.n as usize, matrices.end as usize);
    let (bias, before) = (values(3, n), values(4, count * m * n));
    let [wa, wb] = operands.clone().map(|operand| wide(&operand.widened()));
    let (wbias, wbefore) = (wide(&bias), wide(&before));
    let (mut expected, mut tolerance) = (wbefore.clone(), vec![0.0; count * m * n]);
    for matrix in matrices.first as usize..count {
        let (a, b) = (&wa[matrix * m * k..][..m * k], &wb[matrix * k * n..][..k * n]);
        let mut product = matmul::reference(shape, transposed, epilogue, a, b, &wbias);
        let mut bound = matmul::tolerance(shape, transposed, epilogue, a, b, &wbias);
        let of = matrix * m * n..(matrix + 1) * m * n;
        if epilogue.accumulates() {
            bound = matmul::accumulate_tolerance(shape.k, &wbefore[of.clone()], &product, &bound);
            product = matmul::accumulate_reference(&wbefore[of.clone()], &product);
        }
        expected[of.clone()].copy_from_slice(&product);
        tolerance[of].copy_from_slice(&bound);
    }
    let [a, b] = operands.map(|operand| match operand {
        Operand::F32(values) => values,
        Operand::F16(patterns) => binary16::pack(&patterns),
    });
    let [a, b, bias, c] = [a, b, bias, before].map(|values| case.input(values));
    let bias = epilogue.takes_bias().then_some(bias);
    let rows = Rows { first: 0, end: shape.m };
    case.program.matmul(Matmul { a, b, bias, c, shape, transposed, epilogue, rows, matrices, variant });
    case.expect(c, expected, tolerance);
    case
}

/// What the cases of a product are called: those of the epilogues that training a dense net has by the family, and each of the
/// others by itself, so that a visit compiles no pipeline for a test of what it does not run.
fn product_name(epilogue: Epilogue) -> &'static str {
    match epilogue {
        Epilogue::None | Epilogue::Bias | Epilogue::BiasRelu => matmul::FAMILY,
        Epilogue::Accumulate => "matmul_accumulate",
        Epilogue::BiasAccumulate => "matmul_bias_accumulate",
        Epilogue::BiasGelu => "matmul_bias_gelu",
    }
}

pub fn column_sums(rows: usize, columns: usize) -> Case {
    let mut case = Case::new(format!("{} {rows} x {columns}", column_sum::KERNEL.name));
    let values = values(4, rows * columns);
    let x = wide(&values);
    let (input, sums) = (case.input(values), case.output(columns));
    case.program.ops.push(Op::ColumnSum { x: input, sums, rows: rows as u32, columns: columns as u32 });
    case.expect(sums, column_sum::reference(rows, columns, &x), column_sum::tolerance(rows, columns, &x));
    case
}

pub fn sum(count: usize) -> Case {
    let mut case = Case::new(format!("{} {count}", add::KERNEL.name));
    let [x, y] = [12, 13].map(|stream| values(stream, count));
    let (expected, tolerance) = (add::reference(&wide(&x), &wide(&y)), add::tolerance(&wide(&x), &wide(&y)));
    let ([x, y], sum) = ([x, y].map(|values| case.input(values)), case.output(count));
    case.program.ops.push(Op::Add { x, y, sum, values: count as u32 });
    case.expect(sum, expected, tolerance);
    case
}

pub fn cleared(count: usize) -> Case {
    let mut case = Case::new(format!("{} {count}", clear::KERNEL.name));
    let x = values(15, count);
    let range = clear::Params { first: count as u32 / 3, end: 2 * (count as u32 / 3) };
    let expected = clear::reference(range, &wide(&x));
    let x = case.input(x);
    case.program.ops.push(Op::Clear { x, range });
    case.expect(x, expected, clear::tolerance(count));
    case
}

pub fn relu(count: usize) -> Case {
    let mut case = Case::new(format!("{} {count}", relu_forward::KERNEL.name));
    let x = values(14, count);
    let expected = relu_forward::reference(&wide(&x));
    let (x, y) = (case.input(x), case.output(count));
    case.program.ops.push(Op::ReluForward { x, y, values: count as u32 });
    case.expect(y, expected, relu_forward::tolerance(count));
    case
}

pub fn relu_gradient(count: usize) -> Case {
    let mut case = Case::new(format!("{} {count}", relu_backward::KERNEL.name));
    // A third of the activations is exactly zero, as forward leaves them.
    let y: Vec<f32> = values(5, count).iter().map(|v| if v.abs() < 1.0 / 3.0 { 0.0 } else { v.max(0.0) }).collect();
    let g = values(6, count);
    let expected = relu_backward::reference(&wide(&y), &wide(&g));
    let (activation, gradient) = (case.input(y), case.input(g));
    case.program.ops.push(Op::ReluBackward { activation, gradient, values: count as u32 });
    case.expect(gradient, expected, relu_backward::tolerance(count));
    case
}

/// Logits are spread over ±`scale`.
pub fn cross_entropy(rows: usize, classes: usize, scale: f32) -> Case {
    let mut case = Case::new(format!("{} {rows} x {classes} within {scale}", softmax_cross_entropy::KERNEL.name));
    let z: Vec<f32> = values(7, rows * classes).iter().map(|v| v * scale).collect();
    let y: Vec<u32> = (0..rows as u64).map(|i| (word(1, 8, i) % classes as u64) as u32).collect();
    let expected = softmax_cross_entropy::reference(classes, &wide(&z), &y);
    let tolerance = softmax_cross_entropy::tolerance(classes, &wide(&z), &y);
    let mut words = vec![0.0f32; rows];
    bytemuck::cast_slice_mut(&mut words).copy_from_slice(&y);
    let (logits, labels) = (case.input(z), case.input(words));
    let (gradient, losses) = (case.output(rows * classes), case.output(rows));
    let (rows, classes) = (rows as u32, classes as u32);
    case.program.ops.push(Op::SoftmaxCrossEntropy { logits, labels, gradient, losses, rows, classes });
    case.expect(gradient, expected.gradient, tolerance.gradient);
    case.expect(losses, expected.losses, tolerance.losses);
    case
}

/// Logits are quarters, so that many are equal; every seventh label is no class.
pub fn accuracy(rows: usize, classes: usize) -> Case {
    let mut case = Case::new(format!("{} {rows} x {classes}", accuracy::KERNEL.name));
    let z: Vec<f32> = values(90, rows * classes).iter().map(|v| (v * 4.0).round() / 4.0).collect();
    let label = |row: usize| if row % 7 == 6 { classes as u32 } else { (word(1, 91, row as u64) % classes as u64) as u32 };
    let y: Vec<u32> = (0..rows).map(label).collect();
    let (expected, tolerance) = (accuracy::reference(classes, &wide(&z), &y), accuracy::tolerance(classes, &wide(&z), &y));
    let (logits, labels) = (case.input(z), case.input(bytemuck::cast_slice(&y).to_vec()));
    let hits = case.output(rows);
    case.program.ops.push(Op::Accuracy { logits, labels, hits, rows: rows as u32, classes: classes as u32 });
    case.expect(hits, expected, tolerance);
    case
}

pub fn sgd_step(count: usize) -> Case {
    let mut case = Case::new(format!("{} {count}", sgd_momentum::KERNEL.name));
    let rates = Rates { learning_rate: 0.05, momentum: 0.9 };
    let [g, v, p] = [9, 10, 11].map(|stream| values(stream, count));
    let expected = sgd_momentum::reference(rates, &wide(&g), &wide(&v), &wide(&p));
    let tolerance = sgd_momentum::tolerance(rates, &wide(&g), &wide(&v), &wide(&p));
    let [gradient, velocity, parameter] = [g, v, p].map(|values| case.input(values));
    case.program.ops.push(Op::SgdMomentum { gradient, velocity, parameter, values: count as u32, rates });
    case.expect(velocity, expected.velocity, tolerance.velocity);
    case.expect(parameter, expected.parameter, tolerance.parameter);
    case
}

/// The kernel of a call, for [`Case::is_of`]: of products the family, whose variant the device chooses, and of others that
/// which needs nothing of the device.
pub fn kernel_of(op: &Op) -> &'static str {
    match op {
        Op::Matmul(product) => product_name(product.epilogue),
        _ => op.call(Sharing::Nothing, |_| Variant::Blocked).kernel.name,
    }
}

/// Shapes with edges: more than one block, tile and chunk of k, with extents that are multiples of four and not.
const EDGES: [Shape; 2] = [Shape { m: 36, k: 144, n: 44 }, Shape { m: 35, k: 67, n: 37 }];

/// Deeper than what the tiled variants keep in registers (`matmul::tiled::FOLD`).
const DEEP: Shape = Shape { m: 12, k: 976, n: 20 };

/// `A · B` and nothing more, as the device runs it.
pub fn plain_products() -> Vec<Case> {
    EDGES.map(|shape| product(shape, Transposed::default(), Epilogue::None, None)).into()
}

/// A product by a fixed variant where it takes such shapes.
pub fn variant_products(transposed: Transposed, epilogues: &[Epilogue], variant: Variant) -> Vec<Case> {
    let shapes = EDGES.into_iter().chain([DEEP]).filter(|shape| variant.takes(*shape, transposed));
    shapes.flat_map(|shape| epilogues.iter().map(move |&epilogue| product(shape, transposed, epilogue, Some(variant)))).collect()
}

/// Cases of the pipelines of such calls: their kernels with their constants, at small shapes with edges. Products are of the
/// variant that their calls name.
pub fn cases_of(ops: &[Op]) -> Vec<Case> {
    let (mut cases, mut named) = (Vec::new(), Vec::new());
    for op in ops {
        match op {
            Op::Matmul(Matmul { variant: Some(variant), transposed, epilogue, .. }) => {
                cases.extend(variant_products(*transposed, &[*epilogue], *variant));
            }
            Op::Image(op) => cases.push(image::case_of(op)),
            Op::Sequence(op) if let Some(case) = sequence::attention_of(op) => cases.push(case),
            _ => named.push(kernel_of(op)),
        }
    }
    if !named.is_empty() {
        cases.extend(self_test_cases().into_iter().filter(|case| named.iter().any(|kernel| case.is_of(kernel))));
    }
    cases
}

/// Every pipeline that this build uses, at shapes with edges.
pub fn self_test_cases() -> Vec<Case> {
    if !EVERY_LAYER {
        return plain_products();
    }
    let forward = Transposed { a: false, b: false };
    let weights = Transposed { a: true, b: false };
    let inputs = Transposed { a: false, b: true };
    let mut cases = Vec::new();
    for shape in EDGES {
        for (transposed, epilogue) in [
            (forward, Epilogue::None),
            (forward, Epilogue::Bias),
            (forward, Epilogue::BiasRelu),
            (weights, Epilogue::None),
            (inputs, Epilogue::None),
            (inputs, Epilogue::Accumulate),
            (forward, Epilogue::BiasAccumulate),
            (forward, Epilogue::BiasGelu),
        ] {
            cases.push(product(shape, transposed, epilogue, None));
        }
    }
    cases.extend([
        column_sums(67, 70),
        sum(301),
        cleared(301),
        relu(301),
        relu_gradient(301),
        cross_entropy(35, 10, 8.0),
        accuracy(35, 3),
        sgd_step(301),
    ]);
    cases.extend([adamw_advance(), adamw_step(301, 1), square_sums(2500), clipped(301, 1.0)]);
    cases.extend([dropped(301, 0.3), dropout_advance()]);
    cases.extend(sequence::self_test_cases());
    cases.extend(image::self_test_cases());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_fails_on_any_wrong_buffer() {
        let case = sgd_step(5);
        let right = |case: &Case| {
            let mut buffers = case.buffers.clone();
            for answer in &case.answers {
                buffers[answer.buffer.0] = answer.expected.iter().map(|&v| v as f32).collect();
            }
            buffers
        };
        assert!(case.compare(&right(&case)).is_ok());
        assert!(case.compare(&case.buffers).is_err());
        assert!(case.compare(&[]).is_err());
        for buffer in [1, 2] {
            let mut wrong = right(&case);
            wrong[buffer][4] += 1e-3;
            assert!(case.compare(&wrong).is_err());
            wrong[buffer][4] = f32::NAN;
            assert!(case.compare(&wrong).is_err());
            wrong[buffer].pop();
            assert!(case.compare(&wrong).is_err());
            wrong[buffer].clear();
            assert!(case.compare(&wrong).is_err());
        }
    }

    /// The self-test covers every kernel; of the products, the variant that the device chooses.
    #[test]
    fn every_kernel_in_use_has_a_case() {
        let cases = self_test_cases();
        for kernel in manyhands_shaders::KERNELS {
            let name = match kernel.name {
                name if name.starts_with(matmul::FAMILY) => matmul::FAMILY,
                // Where a device is better off with these, they are what the cases of the kernels they replace run.
                "convolution_quad" => "convolution_forward",
                name => ["_quad", "_parted", "_shared"].iter().fold(name, |name, end| name.trim_end_matches(end)),
            };
            assert!(cases.iter().any(|case| case.is_of(name)), "{name}");
        }
    }
}
