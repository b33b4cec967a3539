// C[m, n] = op(A) · op(B), then what EPILOGUE says, for each of several matrices that lie one after another in A, in B and
// in C. See matmul.rs for the family and its numerics.
//
// params  uniform            extents, the rows of C to compute, and the matrix that workgroups of z = 0 compute
//# if F16
// a       u32, read          [m, k], or [k, m] where TRANSPOSE_A: f16, two to a word, the first in its lower half
// b       u32, read          [k, n], or [n, k] where TRANSPOSE_B, likewise
//# else
// a       f32, read          [m, k], or [k, m] where TRANSPOSE_A
// b       f32, read          [k, n], or [n, k] where TRANSPOSE_B
//# end
// bias    f32, read          [n] where EPILOGUE >= 2, else any buffer
// c       f32, written       [m, n]
//
// One invocation computes an 8x8 block of C, held as four 4x4 matrices whose column i is row i of its part of C.
// Dispatch: one workgroup per tile of 8·ROWS by 8·COLUMNS entries, numbered row by row along x, then y.
// Blocks that hang over the edge read the last row or column again and store nothing for it.
// Hazards: a sum over k is taken in chunks of K_CHUNK, which bounds its rounding error; nothing is saved for backward.
//# if F16
// WGSL lets the unpacking flush what is subnormal in f16, below 2^-14, to zero: a device that does fails the known answers.
//# end

override ROWS: u32 = 4u;
override COLUMNS: u32 = 4u;
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
//# if F16
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
//# else
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
//# end
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> c: array<f32>;

//# if F16
fn value_a(at: u32) -> f32 {
    return unpack2x16float(a[at / 2u] >> (at % 2u * 16u)).x;
}

fn value_b(at: u32) -> f32 {
    return unpack2x16float(b[at / 2u] >> (at % 2u * 16u)).x;
}

fn load_a(at: vec4u) -> vec4f {
    return vec4f(value_a(at.x), value_a(at.y), value_a(at.z), value_a(at.w));
}

fn load_b(at: vec4u) -> vec4f {
    return vec4f(value_b(at.x), value_b(at.y), value_b(at.z), value_b(at.w));
}
//# else
fn load_a(at: vec4u) -> vec4f {
    return vec4f(a[at.x], a[at.y], a[at.z], a[at.w]);
}

fn load_b(at: vec4u) -> vec4f {
    return vec4f(b[at.x], b[at.y], b[at.z], b[at.w]);
}
//# end

// sum + x · yᵀ, column i holding x[i] · y.
fn add_outer(sum: mat4x4f, x: vec4f, y: vec4f) -> mat4x4f {
    return mat4x4f(
        fma(vec4f(x.x), y, sum[0]),
        fma(vec4f(x.y), y, sum[1]),
        fma(vec4f(x.z), y, sum[2]),
        fma(vec4f(x.w), y, sum[3]),
    );
}

// As in gelu/forward.wgsl.
fn gelu(x: f32) -> f32 {
    let held = clamp(x, -9.0, 9.0);
    let w = 1.5957691 * (held + 0.044715 * (held * held * held));
    return x / (1.0 + exp(-w));
}

fn store_row(matrix: u32, row: u32, column: u32, values: vec4f) {
    if (row >= params.row_end) {
        return;
    }
    let at = (matrix * params.m + row) * params.n + column;
    for (var j = 0u; j < min(4u, params.n - min(column, params.n)); j++) {
        var value = values[j];
        if (EPILOGUE >= 2u) {
            value += bias[column + j];
        }
        if (EPILOGUE == 1u || EPILOGUE == 3u) {
            value += c[at + j];
        }
        if (EPILOGUE == 4u) {
            value = max(value, 0.0);
        }
        if (EPILOGUE == 5u) {
            value = gelu(value);
        }
        c[at + j] = value;
    }
}

@compute @workgroup_size(COLUMNS, ROWS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_id) lane: vec3u,
) {
    let tile = group.x + group.y * groups.x;
    let tiles_across = (params.n + 8u * COLUMNS - 1u) / (8u * COLUMNS);
    let row = params.row_first + (tile / tiles_across * ROWS + lane.y) * 8u;
    let column = (tile % tiles_across * COLUMNS + lane.x) * 8u;
    if (row >= params.row_end || column >= params.n) {
        return;
    }
    let a_row = select(params.k, 1u, TRANSPOSE_A);
    let a_step = select(1u, params.m, TRANSPOSE_A);
    let b_column = select(1u, params.k, TRANSPOSE_B);
    let b_step = select(params.n, 1u, TRANSPOSE_B);
    let four = vec4u(0u, 1u, 2u, 3u);
    let matrix = params.matrix_first + group.z;
    let first_a = matrix * params.m * params.k;
    let first_b = matrix * params.k * params.n;
    var a0 = first_a + min(row + four, vec4u(params.m - 1u)) * a_row;
    var a1 = first_a + min(row + 4u + four, vec4u(params.m - 1u)) * a_row;
    var b0 = first_b + min(column + four, vec4u(params.n - 1u)) * b_column;
    var b1 = first_b + min(column + 4u + four, vec4u(params.n - 1u)) * b_column;
    var total00 = mat4x4f();
    var total01 = mat4x4f();
    var total10 = mat4x4f();
    var total11 = mat4x4f();
    for (var chunk = 0u; chunk < params.k; chunk += K_CHUNK) {
        let end = min(chunk + K_CHUNK, params.k);
        var sum00 = mat4x4f();
        var sum01 = mat4x4f();
        var sum10 = mat4x4f();
        var sum11 = mat4x4f();
        for (var p = chunk; p < end; p++) {
            let x0 = load_a(a0);
            let x1 = load_a(a1);
            let y0 = load_b(b0);
            let y1 = load_b(b1);
            sum00 = add_outer(sum00, x0, y0);
            sum01 = add_outer(sum01, x0, y1);
            sum10 = add_outer(sum10, x1, y0);
            sum11 = add_outer(sum11, x1, y1);
            a0 += vec4u(a_step);
            a1 += vec4u(a_step);
            b0 += vec4u(b_step);
            b1 += vec4u(b_step);
        }
        total00 += sum00;
        total01 += sum01;
        total10 += sum10;
        total11 += sum11;
    }
    // In a loop, because compilers of software adapters take twice as long over sixteen stores.
    var rows = array<vec4f, 16>(
        total00[0], total00[1], total00[2], total00[3], total10[0], total10[1], total10[2], total10[3],
        total01[0], total01[1], total01[2], total01[3], total11[0], total11[1], total11[2], total11[3],
    );
    for (var i = 0u; i < 16u; i++) {
        store_row(matrix, row + i % 8u, column + i / 8u * 4u, rows[i]);
    }
}
