// dk_j = scale · sum over i >= j of ds_ij q_i and dv_j = sum over i >= j of p_ij d_out_i, with
// ds_ij = p_ij (d_out_i · v_j - delta_i), p_ij = exp(scale q_i·k_j - l_i): the gradients of attention (forward.wgsl) by
// its keys and values, probabilities made again from l (Dao et al., FlashAttention, 2022). See attention.rs.
//
// params     uniform         extents, the pairs (heads of sequences) to compute, and scale = 1 / sqrt(head width)
// qkv        vec4f, read     [sequences, time, 3, heads, HEAD_VEC4]
// logsumexp  f32, read       [sequences, heads, time], l, saved by forward
// delta      f32, read       [sequences, heads, time], of delta.wgsl
// d_out      vec4f, read     [sequences, time, heads, HEAD_VEC4]
// d_qkv      vec4f, written  as qkv; only the parts of keys and values
//
// One invocation handles one key of one pair, four queries at a time. Dispatch: ceil(pairs · time / WORKGROUP)
// workgroups, numbered along x, then y.
// Hazards: queries past the end read the last one and weigh nothing. Sums run over blocks of four.

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
    let j = index % params.time;
    let last = params.time - 1u;
    let head = pair % params.heads * HEAD_VEC4;
    let first_row = pair / params.heads * params.time;
    let channels = params.heads * HEAD_VEC4;
    let key = (first_row + j) * 3u * channels + channels + head;
    let value = key + channels;
    var d_key: array<vec4f, 32>;
    var d_value: array<vec4f, 32>;
    for (var block = j; block <= last; block += 4u) {
        let unheld = vec4u(block) + vec4u(0u, 1u, 2u, 3u);
        let i = min(unheld, vec4u(last));
        let query = (first_row + i) * (3u * channels) + head;
        let result = (first_row + i) * channels + head;
        var s = vec4f();
        var dp = vec4f();
        for (var d = 0u; d < HEAD_VEC4; d++) {
            let k = qkv[key + d];
            let v = qkv[value + d];
            s += vec4f(
                dot(k, qkv[query.x + d]), dot(k, qkv[query.y + d]),
                dot(k, qkv[query.z + d]), dot(k, qkv[query.w + d]),
            );
            dp += vec4f(
                dot(v, d_out[result.x + d]), dot(v, d_out[result.y + d]),
                dot(v, d_out[result.z + d]), dot(v, d_out[result.w + d]),
            );
        }
        let at = pair * params.time + i;
        let l = vec4f(logsumexp[at.x], logsumexp[at.y], logsumexp[at.z], logsumexp[at.w]);
        let shift = vec4f(delta[at.x], delta[at.y], delta[at.z], delta[at.w]);
        let p = select(exp(s * params.scale - l), vec4f(), unheld > vec4u(last));
        let ds = p * (dp - shift) * params.scale;
        for (var d = 0u; d < HEAD_VEC4; d++) {
            let k_low = ds.x * qkv[query.x + d] + ds.y * qkv[query.y + d];
            let k_high = ds.z * qkv[query.z + d] + ds.w * qkv[query.w + d];
            d_key[d] += k_low + k_high;
            let v_low = p.x * d_out[result.x + d] + p.y * d_out[result.y + d];
            let v_high = p.z * d_out[result.z + d] + p.w * d_out[result.w + d];
            d_value[d] += v_low + v_high;
        }
    }
    for (var d = 0u; d < HEAD_VEC4; d++) {
        d_qkv[key + d] = d_key[d];
        d_qkv[value + d] = d_value[d];
    }
}
