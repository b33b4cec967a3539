// y[i] = x[i] * scale where word i of a counter-based generator is at least threshold, else 0: dropout (Srivastava et al.,
// JMLR 15, 2014), scaled in training so that evaluation leaves x alone. It is its own backward pass: a diagonal matrix is
// its own transpose, and nothing is saved, for dX is the same function of dY.
//
// The generator is Philox4x32-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011): block i of four
// words is a function of the key and the counter (i, layer, inner step, first_row) alone, and word j of it decides value
// 4i + j. Anyone can compute any part of a mask again.
//
// params      uniform           values4 = ceil(values / 4), threshold = floor(rate * 2^32), scale = 1 / (1 - rate), and
//                               what the unit and the layer fix of key and counter
// inner_step  u32, read         [4], the step from 0 and three unused; dropout_advance.wgsl counts it
// x           vec4f, read       [values4]
// y           vec4f, written    [values4]
//
// One invocation handles four values. Dispatch: ceil(values4 / WORKGROUP) workgroups, numbered along x, then y. Buffers
// are whole vec4; values past the end are computed and never read.
// Hazards: none; the mask is integer arithmetic, the same bits everywhere.

override WORKGROUP: u32 = 64u;

struct Params {
    values4: u32,
    threshold: u32,
    scale: f32,
    key0: u32,
    key1: u32,
    layer: u32,
    first_row: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> inner_step: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

// The upper half of a * b, from products of 16 bits each.
fn upper(a: u32, b: u32) -> u32 {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let inner = a1 * b0 + ((a0 * b0) >> 16u);
    let outer = a0 * b1 + (inner & 0xffffu);
    return a1 * b1 + (inner >> 16u) + (outer >> 16u);
}

fn philox(counter: vec4u, first_key: vec2u) -> vec4u {
    var c = counter;
    var key = first_key;
    for (var round = 0u; round < 10u; round++) {
        let high0 = upper(0xD2511F53u, c.x);
        let high1 = upper(0xCD9E8D57u, c.z);
        c = vec4u(high1 ^ c.y ^ key.x, 0xCD9E8D57u * c.z, high0 ^ c.w ^ key.y, 0xD2511F53u * c.x);
        key += vec2u(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * WORKGROUP + lane;
    if (i >= params.values4) {
        return;
    }
    let words = philox(vec4u(i, params.layer, inner_step[0], params.first_row), vec2u(params.key0, params.key1));
    y[i] = select(vec4f(), x[i] * params.scale, words >= vec4u(params.threshold));
}
