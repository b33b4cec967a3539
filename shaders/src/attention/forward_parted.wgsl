// As forward.wgsl: causal self-attention, its softmax taken online, with each query's head divided over four invocations.
//
// params     uniform         extents, the pairs (heads of sequences) to compute, and scale = 1 / sqrt(head width)
// qkv        vec4f, read     [sequences, time, 3, heads, HEAD_VEC4]
// out        vec4f, written  [sequences, time, heads, HEAD_VEC4]
// logsumexp  f32, written    [sequences, heads, time], l
//
// Four invocations, a quad of one subgroup, handle one query of one pair, each every fourth vec4 of its head. All of a
// workgroup walk through the same keys, four at a time. Dispatch: one workgroup per 16 positions of a pair, numbered along x,
// then y. For devices, with subgroups at least 4 wide and numbered in order.
// Hazards: as of forward.wgsl. Keys after the query weigh nothing; where they are past the end the last one is read.
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
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> logsumexp: array<f32>;

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
    let unheld = first + lane / 4u;
    let i = min(unheld, last);
    let head = pair % params.heads * HEAD_VEC4;
    let first_row = pair / params.heads * params.time;
    let channels = params.heads * HEAD_VEC4;
    let query = (first_row + i) * 3u * channels + head;
    var q: array<vec4f, HELD>;
    var acc: array<vec4f, HELD>;
    for (var e = 0u; e < PARTS; e++) {
        let d = part + 4u * e;
        if (has(d)) {
            q[e] = qkv[query + d];
        }
    }
    var sum = 0.0;
    var largest = -1e30;
    for (var block = 0u; block < first + POSITIONS; block += 4u) {
        let j = vec4u(block) + vec4u(0u, 1u, 2u, 3u);
        let key = (first_row + min(j, vec4u(last))) * (3u * channels) + (channels + head);
        var s = vec4f();
        for (var e = 0u; e < PARTS; e++) {
            let d = part + 4u * e;
            if (has(d)) {
                s += vec4f(
                    dot(q[e], qkv[key.x + d]), dot(q[e], qkv[key.y + d]),
                    dot(q[e], qkv[key.z + d]), dot(q[e], qkv[key.w + d]),
                );
            }
        }
        s = select(over_quad(s) * params.scale, vec4f(-1e30), j > vec4u(i));
        let grown = max(largest, max(max(s.x, s.y), max(s.z, s.w)));
        let shrink = exp(largest - grown);
        let weight = select(exp(s - grown), vec4f(), j > vec4u(i));
        largest = grown;
        sum = sum * shrink + ((weight.x + weight.y) + (weight.z + weight.w));
        let value = key + channels;
        for (var e = 0u; e < PARTS; e++) {
            let d = part + 4u * e;
            if (has(d)) {
                let low = weight.x * qkv[value.x + d] + weight.y * qkv[value.y + d];
                let high = weight.z * qkv[value.z + d] + weight.w * qkv[value.w + d];
                acc[e] = acc[e] * shrink + (low + high);
            }
        }
    }
    if (unheld > last) {
        return;
    }
    let result = (first_row + i) * channels + head;
    for (var e = 0u; e < PARTS; e++) {
        let d = part + 4u * e;
        if (has(d)) {
            out[result + d] = acc[e] / sum;
        }
    }
    if (part == 0u) {
        logsumexp[pair * params.time + i] = largest + log(sum);
    }
}
