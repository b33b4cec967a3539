// C[m, n] = op(A) · op(B), then what EPILOGUE says, for each of several matrices that lie one after another in A, in B and
// in C. See matmul.rs for the family and its numerics.
// k and n are multiples of 4, and m is where TRANSPOSE_A.
//
// params  uniform            extents, the rows of C to compute, and the matrix that workgroups of z = 0 compute
// a       vec4f, read        [m, k/4], or [k, m/4] where TRANSPOSE_A
// b       vec4f, read        [k, n/4], or [n, k/4] where TRANSPOSE_B
// bias    vec4f, read        [n/4] where EPILOGUE >= 2, else any buffer
// c       vec4f, written     [m, n/4], read where EPILOGUE is 1 or 3
//
// A workgroup computes a tile of 8·ROWS by $COLUMNS·COLUMNS entries of C, an invocation 8x$COLUMNS of it, held as 4x4
// matrices whose column i is row i of its part of C. Sixteen steps of k at a time are brought to workgroup memory, 4x4
// patches by each invocation, turned so that four rows of A, and four columns of B, are one vec4.
// Dispatch: one workgroup per tile, numbered row by row along x, then y.
// Tiles that hang over the edge read the last rows or columns again and store nothing for them; steps past k are zeros.
// Hazards: a sum over k is taken in chunks of K_CHUNK, which bounds its rounding error; nothing is saved for backward.
// Barriers and as many registers as this crash or stall browsers' software adapters: for hardware alone.

override ROWS: u32 = 8u;
override COLUMNS: u32 = 8u;
// A multiple of 16.
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
@group(0) @binding(1) var<storage, read> a: array<vec4f>;
@group(0) @binding(2) var<storage, read> b: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> c: array<vec4f>;

// Steps of k in workgroup memory.
const STEPS = 16u;
// What one step takes there: the rows of A, and the columns of B, in fours.
override ROWS_4 = 2u * ROWS;
//# if WIDE
override COLUMNS_4 = 2u * COLUMNS;
//# else
override COLUMNS_4 = COLUMNS;
//# end
var<workgroup> tile_a: array<vec4f, STEPS * ROWS_4>;
var<workgroup> tile_b: array<vec4f, STEPS * COLUMNS_4>;

// Four rows of A at four steps of k, column p being step p; zeros past k.
fn patch_a(matrix: u32, row4: u32, step4: u32) -> mat4x4f {
    let four = vec4u(0u, 1u, 2u, 3u);
    let k4 = params.k / 4u;
    if (step4 >= k4) {
        return mat4x4f();
    }
    let first = matrix * params.m * k4;
    if (TRANSPOSE_A) {
        let m4 = params.m / 4u;
        let at = first + (4u * step4 + four) * m4 + min(row4, m4 - 1u);
        return mat4x4f(a[at.x], a[at.y], a[at.z], a[at.w]);
    }
    let at = first + min(4u * row4 + four, vec4u(params.m - 1u)) * k4 + step4;
    return transpose(mat4x4f(a[at.x], a[at.y], a[at.z], a[at.w]));
}

// Four columns of B at four steps of k, likewise.
fn patch_b(matrix: u32, column4: u32, step4: u32) -> mat4x4f {
    let four = vec4u(0u, 1u, 2u, 3u);
    let k4 = params.k / 4u;
    if (step4 >= k4) {
        return mat4x4f();
    }
    let first = matrix * k4 * params.n;
    if (TRANSPOSE_B) {
        let at = first + min(4u * column4 + four, vec4u(params.n - 1u)) * k4 + step4;
        return transpose(mat4x4f(b[at.x], b[at.y], b[at.z], b[at.w]));
    }
    let n4 = params.n / 4u;
    let at = first + (4u * step4 + four) * n4 + min(column4, n4 - 1u);
    return mat4x4f(b[at.x], b[at.y], b[at.z], b[at.w]);
}

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

@compute @workgroup_size(COLUMNS, ROWS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_id) lane: vec3u,
    @builtin(local_invocation_index) index: u32,
) {
    let tile = group.x + group.y * groups.x;
    let tiles_across = (params.n + 4u * COLUMNS_4 - 1u) / (4u * COLUMNS_4);
    let tile_row = params.row_first + tile / tiles_across * 8u * ROWS;
    let tile_column4 = tile % tiles_across * COLUMNS_4;
    if (tile_row >= params.row_end) {
        return;
    }
    let matrix = params.matrix_first + group.z;
    var total00 = mat4x4f();
    var total10 = mat4x4f();
    //# if WIDE
    var total01 = mat4x4f();
    var total11 = mat4x4f();
    //# end
    for (var chunk = 0u; chunk < params.k; chunk += K_CHUNK) {
        let end = min(chunk + K_CHUNK, params.k);
        var sum00 = mat4x4f();
        var sum10 = mat4x4f();
        //# if WIDE
        var sum01 = mat4x4f();
        var sum11 = mat4x4f();
        //# end
        for (var first = chunk; first < end; first += STEPS) {
            for (var at = index; at < STEPS / 4u * (ROWS_4 + COLUMNS_4); at += ROWS * COLUMNS) {
                if (at < STEPS / 4u * ROWS_4) {
                    let piece = patch_a(matrix, tile_row / 4u + at % ROWS_4, first / 4u + at / ROWS_4);
                    let to = at / ROWS_4 * 4u * ROWS_4 + at % ROWS_4;
                    for (var step = 0u; step < 4u; step++) {
                        tile_a[to + step * ROWS_4] = piece[step];
                    }
                } else {
                    let own = at - STEPS / 4u * ROWS_4;
                    let piece = patch_b(matrix, tile_column4 + own % COLUMNS_4, first / 4u + own / COLUMNS_4);
                    let to = own / COLUMNS_4 * 4u * COLUMNS_4 + own % COLUMNS_4;
                    for (var step = 0u; step < 4u; step++) {
                        tile_b[to + step * COLUMNS_4] = piece[step];
                    }
                }
            }
            workgroupBarrier();
            for (var step = 0u; step < STEPS; step++) {
                let x0 = tile_a[step * ROWS_4 + 2u * lane.y];
                let x1 = tile_a[step * ROWS_4 + 2u * lane.y + 1u];
                //# if WIDE
                let y0 = tile_b[step * COLUMNS_4 + 2u * lane.x];
                let y1 = tile_b[step * COLUMNS_4 + 2u * lane.x + 1u];
                sum01 = add_outer(sum01, x0, y1);
                sum11 = add_outer(sum11, x1, y1);
                //# else
                let y0 = tile_b[step * COLUMNS_4 + lane.x];
                //# end
                sum00 = add_outer(sum00, x0, y0);
                sum10 = add_outer(sum10, x1, y0);
            }
            workgroupBarrier();
        }
        total00 += sum00;
        total10 += sum10;
        //# if WIDE
        total01 += sum01;
        total11 += sum11;
        //# end
    }
    let row = tile_row + 8u * lane.y;
    //# if WIDE
    let column4 = tile_column4 + 2u * lane.x;
    //# else
    let column4 = tile_column4 + lane.x;
    //# end
    for (var i = 0u; i < 4u; i++) {
        store_row(matrix, row + i, column4, total00[i]);
        store_row(matrix, row + 4u + i, column4, total10[i]);
        //# if WIDE
        store_row(matrix, row + i, column4 + 1u, total01[i]);
        store_row(matrix, row + 4u + i, column4 + 1u, total11[i]);
        //# end
    }
}
