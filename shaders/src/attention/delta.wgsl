// delta_i = d_out_i · out_i per head: the part of attention's backward pass that a row's keys share. See attention.rs.
//
// params  uniform       extents, and the pairs (heads of sequences) to compute
// out     vec4f, read   [sequences, time, heads, HEAD_VEC4], forward's output
// d_out   vec4f, read   [sequences, time, heads, HEAD_VEC4]
// delta   f32, written  [sequences, heads, time]
//
// One invocation handles one position of one pair. Dispatch: ceil(pairs · time / WORKGROUP) workgroups, numbered along x,
// then y.
// Hazards: none.

override WORKGROUP: u32 = 32u;
// Width of a head in fours, at most 32.
override HEAD_VEC4: u32 = 8u;

struct Params {
    time: u32,
    heads: u32,
    pair_first: u32,
    pair_end: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> out: array<vec4f>;
@group(0) @binding(2) var<storage, read> d_out: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> delta: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.x + group.y * groups.x) * WORKGROUP + lane;
    if (index >= (params.pair_end - params.pair_first) * params.time) {
        return;
    }
    let pair = params.pair_first + index / params.time;
    let i = index % params.time;
    let row = pair / params.heads * params.time + i;
    let start = (row * params.heads + pair % params.heads) * HEAD_VEC4;
    var sum = 0.0;
    for (var d = 0u; d < HEAD_VEC4; d++) {
        sum += dot(d_out[start + d], out[start + d]);
    }
    delta[pair * params.time + i] = sum;
}
