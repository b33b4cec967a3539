// out_i = sum over j <= i of p_ij v_j, p_ij = exp(s_ij - l_i), s_ij = scale q_i·k_j, l_i = log(sum over j <= i of
// exp(s_ij)): causal self-attention of one query, its softmax taken online (Milakov and Gimelshein, Online normalizer
// calculation for softmax, 2018). See attention.rs for the layout.
//
// params     uniform         extents, the pairs (heads of sequences) to compute, and scale = 1 / sqrt(head width)
// qkv        vec4f, read     [sequences, time, 3, heads, HEAD_VEC4]
// out        vec4f, written  [sequences, time, heads, HEAD_VEC4]
// logsumexp  f32, written    [sequences, heads, time], l
//
// One invocation handles one query of one pair, four keys at a time. Dispatch: ceil(pairs · time / WORKGROUP) workgroups,
// numbered along x, then y.
// Hazards: exponents are taken of s - m, m the largest score so far, so that none exceeds 1 and the sum is at least about
// 1; when m grows, what was summed is scaled down. Keys after the query read the query's own key, which counts for the
// maximum once more and weighs nothing. Backward needs qkv, out and l.

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
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> logsumexp: array<f32>;

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
    let head = pair % params.heads * HEAD_VEC4;
    let first_row = pair / params.heads * params.time;
    let channels = params.heads * HEAD_VEC4;
    let query = (first_row + i) * 3u * channels + head;
    var acc: array<vec4f, 32>;
    var sum = 0.0;
    var largest = -1e30;
    for (var block = 0u; block <= i; block += 4u) {
        let j = vec4u(block) + vec4u(0u, 1u, 2u, 3u);
        let key = (first_row + min(j, vec4u(i))) * (3u * channels) + (channels + head);
        var s = vec4f();
        for (var d = 0u; d < HEAD_VEC4; d++) {
            let q = qkv[query + d];
            s += vec4f(dot(q, qkv[key.x + d]), dot(q, qkv[key.y + d]), dot(q, qkv[key.z + d]), dot(q, qkv[key.w + d]));
        }
        s *= params.scale;
        let grown = max(largest, max(max(s.x, s.y), max(s.z, s.w)));
        let shrink = exp(largest - grown);
        let weight = select(exp(s - grown), vec4f(), j > vec4u(i));
        largest = grown;
        sum = sum * shrink + ((weight.x + weight.y) + (weight.z + weight.w));
        let value = key + channels;
        for (var d = 0u; d < HEAD_VEC4; d++) {
            let low = weight.x * qkv[value.x + d] + weight.y * qkv[value.y + d];
            let high = weight.z * qkv[value.z + d] + weight.w * qkv[value.w + d];
            acc[d] = acc[d] * shrink + (low + high);
        }
    }
    let result = (first_row + i) * channels + head;
    for (var d = 0u; d < HEAD_VEC4; d++) {
        out[result + d] = acc[d] / sum;
    }
    logsumexp[pair * params.time + i] = largest + log(sum);
}
