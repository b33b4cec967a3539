// C[m, n] = op(A) · op(B), then what EPILOGUE says, for each of several matrices that lie one after another in A, in B and
// in C. See matmul.rs for the family and its numerics.
//
// params  uniform            extents, the rows of C to compute, and the matrix that workgroups of z = 0 compute
// a       f32, read          [m, k], or [k, m] where TRANSPOSE_A
// b       f32, read          [k, n], or [n, k] where TRANSPOSE_B
// bias    f32, read          [n] where EPILOGUE >= 2, else any buffer
// c       f32, written       [m, n]
//
// Four invocations, a quad of one subgroup, compute a 16x16 tile of C: each of them all 16 rows by 4 columns of its own,
// held as four 4x4 matrices whose column i is a row of C. Per step of k each loads a quarter of A's 16 values and hands
// them round, and its own four of B: no value is loaded twice, and no workgroup memory or barrier is needed.
// Dispatch: one workgroup, which is one quad, per tile, numbered row by row along x, then y. Made for adapters whose
// subgroups are 4 wide (SwiftShader); right wherever they are at least that and numbered in order.
// Tiles that hang over the edge read the last row or column again and store nothing for it.
// Hazards: a sum over k is taken in chunks of K_CHUNK, which bounds its rounding error; nothing is saved for backward.
// Two steps of k go together; where the second is past the end it multiplies by zero.
enable subgroups;

// A multiple of 2.
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

fn load_a(at: vec4u) -> vec4f {
    return vec4f(a[at.x], a[at.y], a[at.z], a[at.w]);
}

fn load_b(at: vec4u) -> vec4f {
    return vec4f(b[at.x], b[at.y], b[at.z], b[at.w]);
}

// sum + x · yᵀ, x being what the four invocations hold: column i holds x[i] · y.
fn add_outer(sum: mat4x4f, x: f32, y: vec4f) -> mat4x4f {
    return mat4x4f(
        fma(vec4f(quadBroadcast(x, 0u)), y, sum[0]),
        fma(vec4f(quadBroadcast(x, 1u)), y, sum[1]),
        fma(vec4f(quadBroadcast(x, 2u)), y, sum[2]),
        fma(vec4f(quadBroadcast(x, 3u)), y, sum[3]),
    );
}

// As in gelu/forward.wgsl.
fn gelu(x: vec4f) -> vec4f {
    let held = clamp(x, vec4f(-9.0), vec4f(9.0));
    let w = 1.5957691 * (held + 0.044715 * (held * held * held));
    return x / (1.0 + exp(-w));
}

fn store_row(matrix: u32, row: u32, column: u32, values: vec4f) {
    if (row >= params.row_end || column >= params.n) {
        return;
    }
    let first = (matrix * params.m + row) * params.n;
    let at = first + column;
    let own = min(column + vec4u(0u, 1u, 2u, 3u), vec4u(params.n - 1u));
    var value = values;
    if (EPILOGUE >= 2u) {
        value += vec4f(bias[own.x], bias[own.y], bias[own.z], bias[own.w]);
    }
    if (EPILOGUE == 1u || EPILOGUE == 3u) {
        value += vec4f(c[first + own.x], c[first + own.y], c[first + own.z], c[first + own.w]);
    }
    if (EPILOGUE == 4u) {
        value = max(value, vec4f());
    }
    if (EPILOGUE == 5u) {
        value = gelu(value);
    }
    c[at] = value.x;
    if (column + 1u < params.n) {
        c[at + 1u] = value.y;
    }
    if (column + 2u < params.n) {
        c[at + 2u] = value.z;
    }
    if (column + 3u < params.n) {
        c[at + 3u] = value.w;
    }
}

@compute @workgroup_size(4)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = group.x + group.y * groups.x;
    let tiles_across = (params.n + 15u) / 16u;
    let row = params.row_first + tile / tiles_across * 16u;
    let column = tile % tiles_across * 16u + lane * 4u;
    if (row >= params.row_end) {
        return;
    }
    let a_row = select(params.k, 1u, TRANSPOSE_A);
    let a_step = select(1u, params.m, TRANSPOSE_A);
    let b_column = select(1u, params.k, TRANSPOSE_B);
    let b_step = select(params.n, 1u, TRANSPOSE_B);
    let four = vec4u(0u, 1u, 2u, 3u);
    let matrix = params.matrix_first + group.z;
    var at_a = matrix * params.m * params.k + min(row + lane + 4u * four, vec4u(params.m - 1u)) * a_row;
    var at_b = matrix * params.k * params.n + min(column + four, vec4u(params.n - 1u)) * b_column;
    var total0 = mat4x4f();
    var total1 = mat4x4f();
    var total2 = mat4x4f();
    var total3 = mat4x4f();
    for (var chunk = 0u; chunk < params.k; chunk += K_CHUNK) {
        let end = min(chunk + K_CHUNK, params.k);
        var sum0 = mat4x4f();
        var sum1 = mat4x4f();
        var sum2 = mat4x4f();
        var sum3 = mat4x4f();
        for (var p = chunk; p < end; p += 2u) {
            let both = p + 1u < end;
            let x = load_a(at_a);
            let y = load_b(at_b);
            let next_x = select(vec4f(), load_a(at_a + select(0u, a_step, both)), both);
            let next_y = load_b(at_b + select(0u, b_step, both));
            sum0 = add_outer(add_outer(sum0, x.x, y), next_x.x, next_y);
            sum1 = add_outer(add_outer(sum1, x.y, y), next_x.y, next_y);
            sum2 = add_outer(add_outer(sum2, x.z, y), next_x.z, next_y);
            sum3 = add_outer(add_outer(sum3, x.w, y), next_x.w, next_y);
            at_a += vec4u(2u * a_step);
            at_b += vec4u(2u * b_step);
        }
        total0 += sum0;
        total1 += sum1;
        total2 += sum2;
        total3 += sum3;
    }
    // In a loop, because compilers of software adapters take twice as long over sixteen stores.
    var rows = array<vec4f, 16>(
        total0[0], total0[1], total0[2], total0[3], total1[0], total1[1], total1[2], total1[3],
        total2[0], total2[1], total2[2], total2[3], total3[0], total3[1], total3[2], total3[3],
    );
    for (var i = 0u; i < 16u; i++) {
        store_row(matrix, row + i, column, rows[i]);
    }
}
