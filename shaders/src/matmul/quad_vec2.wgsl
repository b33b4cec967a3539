// C[m, n] = op(A) · op(B), then what EPILOGUE says, for each of several matrices that lie one after another in A, in B and
// in C. See matmul.rs for the family and its numerics.
// k is a multiple of 2, n of 4, and m of 2 where TRANSPOSE_A.
//
// params  uniform            extents, the rows of C to compute, and the matrix that workgroups of z = 0 compute
// a       vec2f, read        [m, k/2], or [k, m/2] where TRANSPOSE_A
// b       vec2f, read        [k, n/2], or [n, k/2] where TRANSPOSE_B
// bias    vec4f, read        [n/4] where EPILOGUE >= 2, else any buffer
// c       vec4f, written     [m, n/4], read where EPILOGUE is 1 or 3
//
// As quad.wgsl, with what is loaded together checked once: four invocations, a quad of one subgroup, compute a 16x16 tile
// of C, each of them all 16 rows by 4 columns of its own, held as four 4x4 matrices whose column i is a row of C. Two
// steps of k go together: for both, each loads four rows of A and hands them round, and its own four columns of B.
// Dispatch: one workgroup, which is one quad, per tile, numbered row by row along x, then y. Made for adapters whose
// subgroups are 4 wide (SwiftShader); right wherever they are at least that and numbered in order.
// Tiles that hang over the edge read the last rows or columns again and store nothing for them.
// Hazards: a sum over k is taken in chunks of K_CHUNK, which bounds its rounding error; nothing is saved for backward.
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
@group(0) @binding(1) var<storage, read> a: array<vec2f>;
@group(0) @binding(2) var<storage, read> b: array<vec2f>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> c: array<vec4f>;

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

@compute @workgroup_size(4)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = group.x + group.y * groups.x;
    let tiles_across = (params.n + 15u) / 16u;
    let tile_row = tile / tiles_across;
    let row = params.row_first + tile_row * 16u;
    let column = (tile - tile_row * tiles_across) * 16u + lane * 4u;
    if (row >= params.row_end) {
        return;
    }
    let four = vec4u(0u, 1u, 2u, 3u);
    let m2 = params.m / 2u;
    let k2 = params.k / 2u;
    let n2 = params.n / 2u;
    let matrix = params.matrix_first + group.z;
    let first_a = matrix * params.m * k2;
    let first_b = matrix * params.k * n2;
    // Indices of the four vec2 that hold this invocation's four rows at two steps of k, and what moves them on by two steps:
    // two steps of each row, or where transposed, two halves of the rows at each step. Of B's columns likewise.
    var at_a = first_a + min(row + 4u * lane + four, vec4u(params.m - 1u)) * k2;
    var a_step = 1u;
    if (TRANSPOSE_A) {
        let halves = min(vec2u(row / 2u + 2u * lane) + vec2u(0u, 1u), vec2u(m2 - 1u));
        at_a = first_a + vec4u(halves, halves + m2);
        a_step = 2u * m2;
    }
    let halves = min(vec2u(column / 2u) + vec2u(0u, 1u), vec2u(n2 - 1u));
    var at_b = first_b + vec4u(halves, halves + n2);
    var b_step = 2u * n2;
    if (TRANSPOSE_B) {
        at_b = first_b + min(column + four, vec4u(params.n - 1u)) * k2;
        b_step = 1u;
    }
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
            let a0 = a[at_a.x];
            let a1 = a[at_a.y];
            let a2 = a[at_a.z];
            let a3 = a[at_a.w];
            var x = vec4f(a0.x, a1.x, a2.x, a3.x);
            var next_x = vec4f(a0.y, a1.y, a2.y, a3.y);
            if (TRANSPOSE_A) {
                x = vec4f(a0, a1);
                next_x = vec4f(a2, a3);
            }
            let b0 = b[at_b.x];
            let b1 = b[at_b.y];
            let b2 = b[at_b.z];
            let b3 = b[at_b.w];
            var y = vec4f(b0, b1);
            var next_y = vec4f(b2, b3);
            if (TRANSPOSE_B) {
                y = vec4f(b0.x, b1.x, b2.x, b3.x);
                next_y = vec4f(b0.y, b1.y, b2.y, b3.y);
            }
            sum0 = add_outer(add_outer(sum0, quadBroadcast(x, 0u), y), quadBroadcast(next_x, 0u), next_y);
            sum1 = add_outer(add_outer(sum1, quadBroadcast(x, 1u), y), quadBroadcast(next_x, 1u), next_y);
            sum2 = add_outer(add_outer(sum2, quadBroadcast(x, 2u), y), quadBroadcast(next_x, 2u), next_y);
            sum3 = add_outer(add_outer(sum3, quadBroadcast(x, 3u), y), quadBroadcast(next_x, 3u), next_y);
            at_a += vec4u(a_step);
            at_b += vec4u(b_step);
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
        store_row(matrix, row + i, column / 4u, rows[i]);
    }
}
