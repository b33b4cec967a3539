// C[m, n] = op(A) · op(B), then what EPILOGUE says, for each of several matrices that lie one after another in A, in B and
// in C. See matmul.rs for the family and its numerics.
// k and n are multiples of 4, and m is where TRANSPOSE_A.
//
// params  uniform            extents, the rows of C to compute, and the matrix that workgroups of z = 0 compute
//# if F16
// a       vec2u, read        [m, k/4], or [k, m/4] where TRANSPOSE_A: four f16, two to a word, the first in its lower half
// b       vec2u, read        [k, n/4], or [n, k/4] where TRANSPOSE_B, likewise
//# else
// a       vec4f, read        [m, k/4], or [k, m/4] where TRANSPOSE_A
// b       vec4f, read        [k, n/4], or [n, k/4] where TRANSPOSE_B
//# end
// bias    vec4f, read        [n/4] where EPILOGUE >= 2, else any buffer
// c       vec4f, written     [m, n/4], read where EPILOGUE is 1 or 3
//
// One invocation computes an 8x8 block of C, held as four 4x4 matrices whose column i is row i of its part of C, and
// walks k in fours. Dispatch: one workgroup per tile of 8·ROWS by 8·COLUMNS entries, numbered row by row along x, then y.
// Blocks that hang over the edge read the last rows or columns again and store nothing for them.
// Hazards: a sum over k is taken in chunks of K_CHUNK, which bounds its rounding error; nothing is saved for backward.
//# if F16
// WGSL lets the unpacking flush what is subnormal in f16, below 2^-14, to zero: a device that does fails the known answers.
//# end

override ROWS: u32 = 4u;
override COLUMNS: u32 = 4u;
// A multiple of 4.
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
@group(0) @binding(1) var<storage, read> a: array<vec2u>;
@group(0) @binding(2) var<storage, read> b: array<vec2u>;
//# else
@group(0) @binding(1) var<storage, read> a: array<vec4f>;
@group(0) @binding(2) var<storage, read> b: array<vec4f>;
//# end
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> c: array<vec4f>;

//# if F16
fn four_a(at: u32) -> vec4f {
    return vec4f(unpack2x16float(a[at].x), unpack2x16float(a[at].y));
}

fn four_b(at: u32) -> vec4f {
    return vec4f(unpack2x16float(b[at].x), unpack2x16float(b[at].y));
}

fn gather_a(at: vec4u) -> mat4x4f {
    return mat4x4f(four_a(at.x), four_a(at.y), four_a(at.z), four_a(at.w));
}

fn gather_b(at: vec4u) -> mat4x4f {
    return mat4x4f(four_b(at.x), four_b(at.y), four_b(at.z), four_b(at.w));
}
//# else
fn gather_a(at: vec4u) -> mat4x4f {
    return mat4x4f(a[at.x], a[at.y], a[at.z], a[at.w]);
}

fn gather_b(at: vec4u) -> mat4x4f {
    return mat4x4f(b[at.x], b[at.y], b[at.z], b[at.w]);
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

// sum + X · Yᵀ for four steps of k: column p of x holds A's four rows at k + p, column p of y holds B's four columns.
fn add_four(sum: mat4x4f, x: mat4x4f, y: mat4x4f) -> mat4x4f {
    return add_outer(add_outer(add_outer(add_outer(sum, x[0], y[0]), x[1], y[1]), x[2], y[2]), x[3], y[3]);
}

// As in gelu/forward.wgsl.
fn gelu(x: vec4f) -> vec4f {
    let held = clamp(x, vec4f(-9.0), vec4f(9.0));
    let w = 1.5957691 * (held + 0.044715 * (held * held * held));
    return x / (1.0 + exp(-w));
}

fn store_row(matrix: u32, row: u32, column4: u32, values: vec4f) {
    let n4 = params.n / 4u;
    if (row >= params.row_end || column4 >= n4) {
        return;
    }
    let at = (matrix * params.m + row) * n4 + column4;
    var value = values;
    if (EPILOGUE >= 2u) {
        value += bias[column4];
    }
    if (EPILOGUE == 1u || EPILOGUE == 3u) {
        value += c[at];
    }
    if (EPILOGUE == 4u) {
        value = max(value, vec4f());
    }
    if (EPILOGUE == 5u) {
        value = gelu(value);
    }
    c[at] = value;
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
    let m4 = params.m / 4u;
    let k4 = params.k / 4u;
    let n4 = params.n / 4u;
    let four = vec4u(0u, 1u, 2u, 3u);
    let matrix = params.matrix_first + group.z;
    let first_a = matrix * params.m * k4;
    let first_b = matrix * params.k * n4;
    // Indices of the four vec4 that hold a 4x4 part, and what moves them on by four steps of k.
    var a0 = first_a + min(row + four, vec4u(params.m - 1u)) * k4;
    var a1 = first_a + min(row + 4u + four, vec4u(params.m - 1u)) * k4;
    var a_step = 1u;
    if (TRANSPOSE_A) {
        a0 = first_a + four * m4 + row / 4u;
        a1 = first_a + four * m4 + min(row / 4u + 1u, m4 - 1u);
        a_step = 4u * m4;
    }
    var b0 = first_b + four * n4 + column / 4u;
    var b1 = first_b + four * n4 + min(column / 4u + 1u, n4 - 1u);
    var b_step = 4u * n4;
    if (TRANSPOSE_B) {
        b0 = first_b + (column + four) * k4;
        b1 = first_b + min(column + 4u + four, vec4u(params.n - 1u)) * k4;
        b_step = 1u;
    }
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
        for (var p = chunk; p < end; p += 4u) {
            var x0 = gather_a(a0);
            var x1 = gather_a(a1);
            var y0 = gather_b(b0);
            var y1 = gather_b(b1);
            if (!TRANSPOSE_A) {
                x0 = transpose(x0);
                x1 = transpose(x1);
            }
            if (TRANSPOSE_B) {
                y0 = transpose(y0);
                y1 = transpose(y1);
            }
            sum00 = add_four(sum00, x0, y0);
            sum01 = add_four(sum01, x0, y1);
            sum10 = add_four(sum10, x1, y0);
            sum11 = add_four(sum11, x1, y1);
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
        store_row(matrix, row + i % 8u, column / 4u + i / 8u, rows[i]);
    }
}
