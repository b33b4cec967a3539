// dq_i = scale · sum over j <= i of ds_ij k_j, ds_ij = p_ij (d_out_i · v_j - delta_i), p_ij = exp(scale q_i·k_j - l_i):
// the gradient of attention (forward.wgsl) by its queries, probabilities made again from l (Dao et al., FlashAttention,
// 2022). See attention.rs.
//
// params     uniform         extents, the pairs (heads of sequences) to compute, and scale = 1 / sqrt(head width)
// qkv        vec4f, read     [sequences, time, 3, heads, HEAD_VEC4]
// logsumexp  f32, read       [sequences, heads, time], l, saved by forward
// delta      f32, read       [sequences, heads, time], of delta.wgsl
// d_out      vec4f, read     [sequences, time, heads, HEAD_VEC4]
// d_qkv      vec4f, written  as qkv; only the queries' part
//
// One invocation handles one query of one pair, four keys at a time. Dispatch: ceil(pairs · time / WORKGROUP) workgroups,
// numbered along x, then y.
// Hazards: keys after the query read the query's own key and weigh nothing. Sums run over blocks of four.

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
@group(0) @binding(2) var<storage, read> logsumexp: array<f32>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read> d_out: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> d_qkv: array<vec4f>;

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
    let result = (first_row + i) * channels + head;
    let l = logsumexp[pair * params.time + i];
    let shift = delta[pair * params.time + i];
    var acc: array<vec4f, 32>;
    for (var block = 0u; block <= i; block += 4u) {
        let j = vec4u(block) + vec4u(0u, 1u, 2u, 3u);
        let key = (first_row + min(j, vec4u(i))) * (3u * channels) + (channels + head);
        let value = key + channels;
        var s = vec4f();
        var dp = vec4f();
        for (var d = 0u; d < HEAD_VEC4; d++) {
            let q = qkv[query + d];
            let g = d_out[result + d];
            s += vec4f(
                dot(q, qkv[key.x + d]), dot(q, qkv[key.y + d]),
                dot(q, qkv[key.z + d]), dot(q, qkv[key.w + d]),
            );
            dp += vec4f(
                dot(g, qkv[value.x + d]), dot(g, qkv[value.y + d]),
                dot(g, qkv[value.z + d]), dot(g, qkv[value.w + d]),
            );
        }
        let p = exp(s * params.scale - l);
        let ds = select(p * (dp - shift) * params.scale, vec4f(), j > vec4u(i));
        for (var d = 0u; d < HEAD_VEC4; d++) {
            let low = ds.x * qkv[key.x + d] + ds.y * qkv[key.y + d];
            let high = ds.z * qkv[key.z + d] + ds.w * qkv[key.w + d];
            acc[d] += low + high;
        }
    }
    for (var d = 0u; d < HEAD_VEC4; d++) {
        d_qkv[query + d] = acc[d];
    }
}
