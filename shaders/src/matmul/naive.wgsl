// C[m, n] = op(A) · op(B), then what EPILOGUE says, for each of several matrices that lie one after another in A, in B and
// in C. See matmul.rs for the family and its numerics.
//
// params  uniform            extents, the rows of C to compute, and the matrix that workgroups of z = 0 compute
// a       f32, read          [m, k], or [k, m] where TRANSPOSE_A
// b       f32, read          [k, n], or [n, k] where TRANSPOSE_B
// bias    f32, read          [n] where EPILOGUE >= 2, else any buffer
// c       f32, written       [m, n]
//
// One invocation computes one entry of C. Dispatch: ceil((row_end - row_first) · n / WORKGROUP) workgroups, numbered
// along x, then y.
// Hazards: a sum over k is taken in chunks of K_CHUNK, which bounds its rounding error; nothing is saved for backward.

override WORKGROUP: u32 = 64u;
override K_CHUNK: u32 = 64u;
override TRANSPOSE_A: bool = false;
override TRANSPOSE_B: bool = false;
// 0: none, 1: + C, 2: + bias, 3: + bias + C, 4: bias and ReLU, 5: bias and GELU.
override EPILOGUE: u32 = 0u;

struct Params {
    m: u32,
    k: u32,
    n: u32,
    row_first: u32,
    row_end: u32,
    matrix_first: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> c: array<f32>;

// As in gelu/forward.wgsl.
fn gelu(x: f32) -> f32 {
    let held = clamp(x, -9.0, 9.0);
    let w = 1.5957691 * (held + 0.044715 * (held * held * held));
    return x / (1.0 + exp(-w));
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.x + group.y * groups.x) * WORKGROUP + lane;
    let row = params.row_first + index / params.n;
    let column = index % params.n;
    if (row >= params.row_end) {
        return;
    }
    let a_row = select(params.k, 1u, TRANSPOSE_A);
    let a_step = select(1u, params.m, TRANSPOSE_A);
    let b_column = select(1u, params.k, TRANSPOSE_B);
    let b_step = select(params.n, 1u, TRANSPOSE_B);
    let matrix = params.matrix_first + group.z;
    let first_a = matrix * params.m * params.k + row * a_row;
    let first_b = matrix * params.k * params.n + column * b_column;
    var total = 0.0;
    for (var chunk = 0u; chunk < params.k; chunk += K_CHUNK) {
        let end = min(chunk + K_CHUNK, params.k);
        var sum = 0.0;
        for (var p = chunk; p < end; p++) {
            sum = fma(a[first_a + p * a_step], b[first_b + p * b_step], sum);
        }
        total += sum;
    }
    let at = (matrix * params.m + row) * params.n + column;
    if (EPILOGUE >= 2u) {
        total += bias[column];
    }
    if (EPILOGUE == 1u || EPILOGUE == 3u) {
        total += c[at];
    }
    if (EPILOGUE == 4u) {
        total = max(total, 0.0);
    }
    if (EPILOGUE == 5u) {
        total = gelu(total);
    }
    c[at] = total;
}
