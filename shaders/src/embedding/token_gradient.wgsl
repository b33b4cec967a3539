// gradient[v, j] = sum of d_out[r, j] over the rows r with ids[r] = v: the gradient of the token embedding. Every token
// looks through all ids in order, so that no float atomics are needed and the same input gives the same bits.
//
// params    uniform       extents
// ids       vec4u, read   [rows], each below the vocabulary, filled up to whole vec4 by anything
// d_out     f32, read     [rows, channels]
// gradient  f32, written  [vocabulary, channels]
//
// One invocation computes four channels of one token. Dispatch: ceil(vocabulary · ceil(channels / 4) / WORKGROUP)
// workgroups, numbered along x, then y.
// Hazards: the sum is taken in chunks of CHUNK matches, which bounds its rounding error. The work is
// vocabulary · rows · channels / 4 comparisons: meant for vocabularies of bytes.

override WORKGROUP: u32 = 64u;
override CHUNK: u32 = 64u;

struct Params {
    rows: u32,
    time: u32,
    vocabulary: u32,
    channels: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<vec4u>;
@group(0) @binding(2) var<storage, read> d_out: array<f32>;
@group(0) @binding(3) var<storage, read_write> gradient: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.x + group.y * groups.x) * WORKGROUP + lane;
    let fours = (params.channels + 3u) / 4u;
    if (index >= params.vocabulary * fours) {
        return;
    }
    let own = index / fours;
    // Channels past the last one read and count that one again, and are not stored.
    let last = params.channels - 1u;
    let first = index % fours * 4u;
    let columns = min(vec4u(first) + vec4u(0u, 1u, 2u, 3u), vec4u(last));
    var total = vec4f();
    var sum = vec4f();
    var matches = 0u;
    for (var four = 0u; four < params.rows; four += 4u) {
        let hits = ids[four / 4u] == vec4u(own);
        if (any(hits)) {
            for (var row = four; row < min(four + 4u, params.rows); row++) {
                if (hits[row - four]) {
                    let at = row * params.channels + columns;
                    sum += vec4f(d_out[at.x], d_out[at.y], d_out[at.z], d_out[at.w]);
                    matches++;
                    if (matches % CHUNK == 0u) {
                        total += sum;
                        sum = vec4f();
                    }
                }
            }
        }
    }
    total += sum;
    for (var j = 0u; j < min(4u, params.channels - first); j++) {
        gradient[own * params.channels + first + j] = total[j];
    }
}
