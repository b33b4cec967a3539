// As forward.wgsl: causal self-attention, its softmax taken online, with the keys and values shared by four queries.
//
// params     uniform         extents, the pairs (heads of sequences) to compute, and scale = 1 / sqrt(head width)
// qkv        vec4f, read     [sequences, time, 3, heads, HEAD_VEC4]
// out        vec4f, written  [sequences, time, heads, HEAD_VEC4]
// logsumexp  f32, written    [sequences, heads, time], l
//
// Four invocations, a quad of one subgroup, handle four consecutive queries of one pair, eight keys at a time: each loads
// two of the keys, and of their values, and hands them round. Dispatch: one
// workgroup, which is one quad, per four positions of a pair, numbered along x, then y. Made for adapters whose subgroups
// are 4 wide (SwiftShader); right wherever they are at least that and numbered in order.
// Hazards: as of forward.wgsl. Keys after the query, and past the end, weigh nothing; of each eight the first is not after
// any of the four queries.
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

// The dot products of x with what the four invocations hold as y.
fn dots(x: vec4f, y: vec4f) -> vec4f {
    return vec4f(
        dot(x, quadBroadcast(y, 0u)), dot(x, quadBroadcast(y, 1u)),
        dot(x, quadBroadcast(y, 2u)), dot(x, quadBroadcast(y, 3u)),
    );
}

// The sum of what the four invocations hold as y, weighted.
fn weighted(weight: vec4f, y: vec4f) -> vec4f {
    let low = weight.x * quadBroadcast(y, 0u) + weight.y * quadBroadcast(y, 1u);
    let high = weight.z * quadBroadcast(y, 2u) + weight.w * quadBroadcast(y, 3u);
    return low + high;
}

fn largest_of(s: vec4f) -> f32 {
    return max(max(s.x, s.y), max(s.z, s.w));
}

@compute @workgroup_size(4)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let quad = group.x + group.y * groups.x;
    // Remainders by multiplication: software adapters divide one lane at a time.
    let quads = (params.time + 3u) / 4u;
    let pair = params.pair_first + quad / quads;
    let first = (quad - quad / quads * quads) * 4u;
    if (pair >= params.pair_end) {
        return;
    }
    let sequence = pair / params.heads;
    let head = (pair - sequence * params.heads) * HEAD_VEC4;
    let first_row = sequence * params.time;
    let channels = params.heads * HEAD_VEC4;
    let last = params.time - 1u;
    let i = min(first + lane, last);
    let query = (first_row + i) * 3u * channels + head;
    var acc: array<vec4f, 32>;
    var sum = 0.0;
    var largest = -1e30;
    for (var block = 0u; block < first + 4u; block += 8u) {
        let j = vec4u(block) + vec4u(0u, 1u, 2u, 3u);
        let key = (first_row + min(vec2u(block + lane, block + 4u + lane), vec2u(last))) * (3u * channels) + (channels + head);
        var s0 = vec4f();
        var s1 = vec4f();
        for (var d = 0u; d < HEAD_VEC4; d++) {
            let q = qkv[query + d];
            s0 += dots(q, qkv[key.x + d]);
            s1 += dots(q, qkv[key.y + d]);
        }
        s0 = select(s0 * params.scale, vec4f(-1e30), j > vec4u(i));
        s1 = select(s1 * params.scale, vec4f(-1e30), j + 4u > vec4u(i));
        let grown = max(largest, max(largest_of(s0), largest_of(s1)));
        let shrink = exp(largest - grown);
        let weight0 = select(exp(s0 - grown), vec4f(), j > vec4u(i));
        let weight1 = select(exp(s1 - grown), vec4f(), j + 4u > vec4u(i));
        largest = grown;
        let both = weight0 + weight1;
        sum = sum * shrink + ((both.x + both.y) + (both.z + both.w));
        let value = key + channels;
        for (var d = 0u; d < HEAD_VEC4; d++) {
            acc[d] = acc[d] * shrink + (weighted(weight0, qkv[value.x + d]) + weighted(weight1, qkv[value.y + d]));
        }
    }
    if (first + lane > last) {
        return;
    }
    let result = (first_row + i) * channels + head;
    for (var d = 0u; d < HEAD_VEC4; d++) {
        out[result + d] = acc[d] / sum;
    }
    logsumexp[pair * params.time + i] = largest + log(sum);
}
