//# if QUERY
// dq_i = scale · sum over j <= i of ds_ij k_j, as query_gradient.wgsl, with
//# else
// dk_j = scale · sum over i >= j of ds_ij q_i and dv_j = sum over i >= j of p_ij d_out_i, as key_gradient.wgsl, with
//# end
// ds_ij = p_ij (d_out_i · v_j - delta_i), p_ij = exp(scale q_i·k_j - l_i). See attention.rs.
//
// params     uniform         extents, the pairs (heads of sequences) to compute, and scale = 1 / sqrt(head width)
// qkv        vec4f, read     [sequences, time, 3, heads, HEAD_VEC4]
// logsumexp  f32, read       [sequences, heads, time], l, saved by forward
// delta      f32, read       [sequences, heads, time], of delta.wgsl
// d_out      vec4f, read     [sequences, time, heads, HEAD_VEC4]
//# if QUERY
// d_qkv      vec4f, written  as qkv; only the part of queries
//# else
// d_qkv      vec4f, written  as qkv; only the parts of keys and values
//# end
//
// Four invocations, a quad of one subgroup, handle one position of one pair, each every fourth vec4 of its head: what one
// alone would hold is more than a device's registers. All of a workgroup walk through the same positions, four at a time.
// Dispatch: one workgroup per 16 positions of a pair, numbered along x, then y. For devices, with subgroups at least 4 wide
// and numbered in order.
//# if QUERY
// Hazards: keys after the query weigh nothing; where they are past the end the last one is read. Sums run over blocks of four.
//# else
// Hazards: queries before the key weigh nothing, nor do those past the end, for which the last one is read. Sums run over
// blocks of four.
//# end
enable subgroups;

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

// Positions of a workgroup.
const POSITIONS = 16u;
// Most vec4 of one invocation.
const HELD = 8u;
override PARTS = (HEAD_VEC4 + 3u) / 4u;

// Whether a head has such a vec4: always where its width divides into quads.
fn has(d: u32) -> bool {
    return HEAD_VEC4 % 4u == 0u || d < HEAD_VEC4;
}

// The sum of what the four invocations hold.
fn over_quad(x: vec4f) -> vec4f {
    let pair = x + quadSwapX(x);
    return pair + quadSwapY(pair);
}

fn dots(x: vec4f, y0: vec4f, y1: vec4f, y2: vec4f, y3: vec4f) -> vec4f {
    return vec4f(dot(x, y0), dot(x, y1), dot(x, y2), dot(x, y3));
}

fn weighted(weight: vec4f, y0: vec4f, y1: vec4f, y2: vec4f, y3: vec4f) -> vec4f {
    return (weight.x * y0 + weight.y * y1) + (weight.z * y2 + weight.w * y3);
}

@compute @workgroup_size(4u * POSITIONS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let number = group.x + group.y * groups.x;
    let blocks = (params.time + POSITIONS - 1u) / POSITIONS;
    let pair = params.pair_first + number / blocks;
    let first = number % blocks * POSITIONS;
    if (pair >= params.pair_end) {
        return;
    }
    let part = lane % 4u;
    let last = params.time - 1u;
    let unheld_own = first + lane / 4u;
    let own = min(unheld_own, last);
    let head = pair % params.heads * HEAD_VEC4;
    let first_row = pair / params.heads * params.time;
    let channels = params.heads * HEAD_VEC4;
//# if QUERY
    let own_query = (first_row + own) * 3u * channels + head;
    let own_result = (first_row + own) * channels + head;
    let l = logsumexp[pair * params.time + own];
    let shift = delta[pair * params.time + own];
    var q: array<vec4f, HELD>;
    var g: array<vec4f, HELD>;
    var d_query: array<vec4f, HELD>;
    for (var e = 0u; e < PARTS; e++) {
        let d = part + 4u * e;
        if (has(d)) {
            q[e] = qkv[own_query + d];
            g[e] = d_out[own_result + d];
        }
    }
    for (var block = 0u; block < first + POSITIONS; block += 4u) {
        let j = vec4u(block) + vec4u(0u, 1u, 2u, 3u);
        let key = (first_row + min(j, vec4u(last))) * (3u * channels) + (channels + head);
        let value = key + channels;
        var s = vec4f();
        var dp = vec4f();
        for (var e = 0u; e < PARTS; e++) {
            let d = part + 4u * e;
            if (has(d)) {
                s += dots(q[e], qkv[key.x + d], qkv[key.y + d], qkv[key.z + d], qkv[key.w + d]);
                dp += dots(g[e], qkv[value.x + d], qkv[value.y + d], qkv[value.z + d], qkv[value.w + d]);
            }
        }
        let p = select(exp(over_quad(s) * params.scale - l), vec4f(), j > vec4u(own));
        let ds = p * (over_quad(dp) - shift) * params.scale;
        for (var e = 0u; e < PARTS; e++) {
            let d = part + 4u * e;
            if (has(d)) {
                d_query[e] += weighted(ds, qkv[key.x + d], qkv[key.y + d], qkv[key.z + d], qkv[key.w + d]);
            }
        }
    }
    if (unheld_own > last) {
        return;
    }
    for (var e = 0u; e < PARTS; e++) {
        let d = part + 4u * e;
        if (has(d)) {
            d_qkv[own_query + d] = d_query[e];
        }
    }
//# else
    let own_key = (first_row + own) * 3u * channels + channels + head;
    let own_value = own_key + channels;
    var k: array<vec4f, HELD>;
    var v: array<vec4f, HELD>;
    var d_key: array<vec4f, HELD>;
    var d_value: array<vec4f, HELD>;
    for (var e = 0u; e < PARTS; e++) {
        let d = part + 4u * e;
        if (has(d)) {
            k[e] = qkv[own_key + d];
            v[e] = qkv[own_value + d];
        }
    }
    for (var block = first; block <= last; block += 4u) {
        let unheld = vec4u(block) + vec4u(0u, 1u, 2u, 3u);
        let i = min(unheld, vec4u(last));
        let query = (first_row + i) * (3u * channels) + head;
        let result = (first_row + i) * channels + head;
        var s = vec4f();
        var dp = vec4f();
        for (var e = 0u; e < PARTS; e++) {
            let d = part + 4u * e;
            if (has(d)) {
                s += dots(k[e], qkv[query.x + d], qkv[query.y + d], qkv[query.z + d], qkv[query.w + d]);
                dp += dots(v[e], d_out[result.x + d], d_out[result.y + d], d_out[result.z + d], d_out[result.w + d]);
            }
        }
        let at = pair * params.time + i;
        let l = vec4f(logsumexp[at.x], logsumexp[at.y], logsumexp[at.z], logsumexp[at.w]);
        let shift = vec4f(delta[at.x], delta[at.y], delta[at.z], delta[at.w]);
        let weightless = (unheld > vec4u(last)) | (unheld < vec4u(own));
        let p = select(exp(over_quad(s) * params.scale - l), vec4f(), weightless);
        let ds = p * (over_quad(dp) - shift) * params.scale;
        for (var e = 0u; e < PARTS; e++) {
            let d = part + 4u * e;
            if (has(d)) {
                d_key[e] += weighted(ds, qkv[query.x + d], qkv[query.y + d], qkv[query.z + d], qkv[query.w + d]);
                d_value[e] += weighted(p, d_out[result.x + d], d_out[result.y + d], d_out[result.z + d], d_out[result.w + d]);
            }
        }
    }
    if (unheld_own > last) {
        return;
    }
    for (var e = 0u; e < PARTS; e++) {
        let d = part + 4u * e;
        if (has(d)) {
            d_qkv[own_key + d] = d_key[e];
            d_qkv[own_value + d] = d_value[e];
        }
    }
//# end
}
