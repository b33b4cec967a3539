// C[m, n] = op(A) · op(B), then what EPILOGUE says, for each of several matrices that lie one after another in A, in B and
// in C. See matmul.rs for the family and its numerics.
// m and n are multiples of 4, k is one of 16.
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
// c       vec4f, written     [m, n/4], read where EPILOGUE is 1 or 3, and where k > FOLD
//
// A workgroup of 64 invocations computes a tile of 64 by 64 entries of C, an invocation 8x8 of it: two by two blocks of 4x4,
// each a matrix whose column i is row i of the block. Sixteen steps of k at a time go through workgroup memory, of A and of
// B one 4x4 patch by each invocation, turned so that four rows of A, and four columns of B, are one vec4.
//# if AHEAD
// The patches of the next sixteen steps are fetched while these are computed: for where few workgroups share a processor.
//# else
// Patches are fetched right before they are needed, which leaves registers for more workgroups at a time to hide it.
//# end
// Dispatch: one workgroup per tile, numbered along x, then y, in bands of eight tiles of rows, which share what they read.
// Tiles that hang over the edge read the last rows or columns again and store nothing for them.
//
// What hardware that serves a 16-byte access eight invocations at a time rewards: those of such an eighth that read memory
// read whole lines of it, whichever way the operand lies; in workgroup memory they touch eight different 16-byte columns,
// for which column j of step s lies at j ^ (2 · (s / 4)); and neighbours read the same A and every other one the same B, so
// that two eighths are served at once.
// Hazards: the sum of sixteen steps is taken by itself, such sums are added up in registers, at most FOLD / 16 of them, and
// then into C: that bounds the rounding error. Nothing is saved for backward.
//# if F16
// WGSL lets the unpacking flush what is subnormal in f16, below 2^-14, to zero: a device that does fails the known answers.
//# end
// Barriers and as many registers as this crash or stall browsers' software adapters: for hardware alone.

// A multiple of 16.
override FOLD: u32 = 960u;
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

// Steps of k in workgroup memory, and a tile's side in fours.
const STEPS = 16u;
const SIDE_4 = 16u;
// Tiles of a band.
const BAND = 8u;
var<workgroup> tile_a: array<vec4f, STEPS * SIDE_4>;
var<workgroup> tile_b: array<vec4f, STEPS * SIDE_4>;

// Where an operand's patch begins, from one vec4 of it to the next, and from one turn's patch to the next turn's.
struct Patch {
    at: u32,
    stride: u32,
    advance: u32,
}

// An invocation's four along the tile's side and four of k. `along` says that the operand lies in fours along the side.
fn place(index: u32, along: bool) -> vec2u {
    if (along) {
        return vec2u(index % 8u + index / 32u * 8u, index / 8u % 4u);
    }
    return vec2u(index / 4u, index % 4u);
}

// `first` is where the matrix begins, `from4` the tile's first four and `extent4` how many there are.
fn patch_at(first: u32, place: vec2u, along: bool, from4: u32, extent4: u32) -> Patch {
    let k4 = params.k / 4u;
    let four = min(from4 + place.x, extent4 - 1u);
    if (along) {
        return Patch(first + 4u * place.y * extent4 + four, extent4, STEPS * extent4);
    }
    return Patch(first + 4u * four * k4 + place.y, k4, STEPS / 4u);
}

// The vec4 of workgroup memory that takes the first of a patch's four steps.
fn put_at(place: vec2u) -> u32 {
    return 4u * place.y * SIDE_4 + (place.x ^ (2u * place.y));
}

//# if F16
fn four_a(at: u32) -> vec4f {
    return vec4f(unpack2x16float(a[at].x), unpack2x16float(a[at].y));
}

fn four_b(at: u32) -> vec4f {
    return vec4f(unpack2x16float(b[at].x), unpack2x16float(b[at].y));
}

fn fetch_a(p: Patch) -> mat4x4f {
    return mat4x4f(four_a(p.at), four_a(p.at + p.stride), four_a(p.at + 2u * p.stride), four_a(p.at + 3u * p.stride));
}

fn fetch_b(p: Patch) -> mat4x4f {
    return mat4x4f(four_b(p.at), four_b(p.at + p.stride), four_b(p.at + 2u * p.stride), four_b(p.at + 3u * p.stride));
}
//# else
fn fetch_a(p: Patch) -> mat4x4f {
    return mat4x4f(a[p.at], a[p.at + p.stride], a[p.at + 2u * p.stride], a[p.at + 3u * p.stride]);
}

fn fetch_b(p: Patch) -> mat4x4f {
    return mat4x4f(b[p.at], b[p.at + p.stride], b[p.at + 2u * p.stride], b[p.at + 3u * p.stride]);
}
//# end

fn put_a(to: u32, fetched: mat4x4f) {
    var turned = fetched;
    if (!TRANSPOSE_A) {
        turned = transpose(fetched);
    }
    tile_a[to] = turned[0];
    tile_a[to + SIDE_4] = turned[1];
    tile_a[to + 2u * SIDE_4] = turned[2];
    tile_a[to + 3u * SIDE_4] = turned[3];
}

fn put_b(to: u32, fetched: mat4x4f) {
    var turned = fetched;
    if (TRANSPOSE_B) {
        turned = transpose(fetched);
    }
    tile_b[to] = turned[0];
    tile_b[to + SIDE_4] = turned[1];
    tile_b[to + 2u * SIDE_4] = turned[2];
    tile_b[to + 3u * SIDE_4] = turned[3];
}

// The four blocks of an invocation, by rows and columns.
struct Blocks {
    b00: mat4x4f,
    b01: mat4x4f,
    b10: mat4x4f,
    b11: mat4x4f,
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

// The sum with one step of k, whose vec4 of A and B begin at these.
fn add_step(sum: Blocks, at_a: u32, at_b: u32) -> Blocks {
    let x0 = tile_a[at_a];
    let x1 = tile_a[at_a + SIDE_4 / 2u];
    let y0 = tile_b[at_b];
    let y1 = tile_b[at_b + SIDE_4 / 2u];
    return Blocks(
        add_outer(sum.b00, x0, y0),
        add_outer(sum.b01, x0, y1),
        add_outer(sum.b10, x1, y0),
        add_outer(sum.b11, x1, y1),
    );
}

// Four steps of k, the first being 4 · `quarter`.
fn add_steps(sum: Blocks, lane: vec2u, quarter: u32) -> Blocks {
    let at = (lane ^ vec2u(2u * quarter)) + 4u * quarter * SIDE_4;
    let one = add_step(sum, at.y, at.x);
    let two = add_step(one, at.y + SIDE_4, at.x + SIDE_4);
    let three = add_step(two, at.y + 2u * SIDE_4, at.x + 2u * SIDE_4);
    return add_step(three, at.y + 3u * SIDE_4, at.x + 3u * SIDE_4);
}

// As in gelu/forward.wgsl.
fn gelu(x: vec4f) -> vec4f {
    let held = clamp(x, vec4f(-9.0), vec4f(9.0));
    let w = 1.5957691 * (held + 0.044715 * (held * held * held));
    return x / (1.0 + exp(-w));
}

// Puts four columns of a row into C: added to it where `more`, and with what comes after the sum where `last`.
fn store_row(matrix: u32, row: u32, column4: u32, values: vec4f, more: bool, last: bool) {
    let n4 = params.n / 4u;
    if (row >= params.row_end || column4 >= n4) {
        return;
    }
    let at = (matrix * params.m + row) * n4 + column4;
    var value = values;
    if (more || EPILOGUE == 1u || EPILOGUE == 3u) {
        value += c[at];
    }
    if (last && EPILOGUE >= 2u) {
        value += bias[column4];
    }
    if (last && EPILOGUE == 4u) {
        value = max(value, vec4f());
    }
    if (last && EPILOGUE == 5u) {
        value = gelu(value);
    }
    c[at] = value;
}

fn store_block(matrix: u32, row: u32, column4: u32, block: mat4x4f, more: bool, last: bool) {
    store_row(matrix, row, column4, block[0], more, last);
    store_row(matrix, row + 1u, column4, block[1], more, last);
    store_row(matrix, row + 2u, column4, block[2], more, last);
    store_row(matrix, row + 3u, column4, block[3], more, last);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) index: u32,
) {
    let tile = group.x + group.y * groups.x;
    let across = (params.n + 4u * SIDE_4 - 1u) / (4u * SIDE_4);
    let down = (params.row_end - params.row_first + 4u * SIDE_4 - 1u) / (4u * SIDE_4);
    if (tile >= across * down) {
        return;
    }
    let band = tile / (BAND * across);
    let height = min(BAND, down - BAND * band);
    let within = tile - band * BAND * across;
    let tile_row = params.row_first + (band * BAND + within % height) * 4u * SIDE_4;
    let tile_column4 = within / height * SIDE_4;
    let matrix = params.matrix_first + group.z;
    let lane = vec2u(index / 2u % 8u, index % 2u + index / 16u % 2u * 2u + index / 32u * 4u);

    let place_a = place(index, TRANSPOSE_A);
    let place_b = place(index, !TRANSPOSE_B);
    var patch_a = patch_at(matrix * params.m * (params.k / 4u), place_a, TRANSPOSE_A, tile_row / 4u, params.m / 4u);
    var patch_b = patch_at(matrix * params.n * (params.k / 4u), place_b, !TRANSPOSE_B, tile_column4, params.n / 4u);
//# if AHEAD
    var next_a = fetch_a(patch_a);
    var next_b = fetch_b(patch_b);
//# end
    for (var fold = 0u; fold < params.k; fold += FOLD) {
        let end = min(fold + FOLD, params.k);
        var total = Blocks();
        for (var first = fold; first < end; first += STEPS) {
//# if AHEAD
            put_a(put_at(place_a), next_a);
            put_b(put_at(place_b), next_b);
            workgroupBarrier();
            patch_a.at += patch_a.advance;
            patch_b.at += patch_b.advance;
            if (first + STEPS < params.k) {
                next_a = fetch_a(patch_a);
                next_b = fetch_b(patch_b);
            }
//# else
            let next_a = fetch_a(patch_a);
            let next_b = fetch_b(patch_b);
            patch_a.at += patch_a.advance;
            patch_b.at += patch_b.advance;
            // The steps before were read by all.
            workgroupBarrier();
            put_a(put_at(place_a), next_a);
            put_b(put_at(place_b), next_b);
            workgroupBarrier();
//# end
            var sum = add_steps(Blocks(), lane, 0u);
            sum = add_steps(sum, lane, 1u);
            sum = add_steps(sum, lane, 2u);
            sum = add_steps(sum, lane, 3u);
            total = Blocks(total.b00 + sum.b00, total.b01 + sum.b01, total.b10 + sum.b10, total.b11 + sum.b11);
//# if AHEAD
            workgroupBarrier();
//# end
        }
        let row = tile_row + 4u * lane.y;
        let column4 = tile_column4 + lane.x;
        let last = end == params.k;
        store_block(matrix, row, column4, total.b00, fold > 0u, last);
        store_block(matrix, row, column4 + SIDE_4 / 2u, total.b01, fold > 0u, last);
        store_block(matrix, row + 2u * SIDE_4, column4, total.b10, fold > 0u, last);
        store_block(matrix, row + 2u * SIDE_4, column4 + SIDE_4 / 2u, total.b11, fold > 0u, last);
    }
}
