//# if QUERY
// As query_gradient.wgsl: the gradient of attention by its queries, with the keys and values shared by four of these.
//# else
// As key_gradient.wgsl: the gradients of attention by its keys and values, with the queries shared by four of these.
//# end
//
// params     uniform         extents, the pairs (heads of sequences) to compute, and scale = 1 / sqrt(head width)
// qkv        vec4f, read     [sequences, time, 3, heads, HEAD_VEC4]
// logsumexp  f32, read       [sequences, heads, time], l, saved by forward
// delta      f32, read       [sequences, heads, time], of delta.wgsl
// d_out      vec4f, read     [sequences, time, heads, HEAD_VEC4]
//# if QUERY
// d_qkv      vec4f, written  as qkv; only the queries' part
//# else
// d_qkv      vec4f, written  as qkv; only the parts of keys and values
//# end
//
//# if QUERY
// Four invocations, a quad of one subgroup, handle four consecutive queries of one pair, eight keys at a time: each loads
// two of the keys, and of their values, and hands them round. Dispatch: one
//# else
// Four invocations, a quad of one subgroup, handle four consecutive keys of one pair, eight queries at a time: each
// loads two of the queries, and of the output's gradients, and hands them round. Dispatch: one
//# end
// workgroup, which is one quad, per four positions of a pair, numbered along x, then y. Made for adapters whose subgroups
// are 4 wide (SwiftShader); right wherever they are at least that and numbered in order.
//# if QUERY
// Hazards: keys after the query, and past the end, weigh nothing. Sums run over blocks of eight.
//# else
// Hazards: queries before the key, and past the end, weigh nothing. Sums run over blocks of eight.
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

//# if KEY
// What the four invocations hold.
fn all_four(value: f32) -> vec4f {
    return vec4f(quadBroadcast(value, 0u), quadBroadcast(value, 1u), quadBroadcast(value, 2u), quadBroadcast(value, 3u));
}

//# end
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
    //# if QUERY
    let i = min(first + lane, last);
    let query = (first_row + i) * 3u * channels + head;
    let result = (first_row + i) * channels + head;
    let l = logsumexp[pair * params.time + i];
    let shift = delta[pair * params.time + i];
    var acc: array<vec4f, 32>;
    for (var block = 0u; block < first + 4u; block += 8u) {
        let j = vec4u(block) + vec4u(0u, 1u, 2u, 3u);
        let key = (first_row + min(vec2u(block + lane, block + 4u + lane), vec2u(last))) * (3u * channels) + (channels + head);
        let value = key + channels;
    //# else
    let j = min(first + lane, last);
    let key = (first_row + j) * 3u * channels + channels + head;
    let value = key + channels;
    var d_key: array<vec4f, 32>;
    var d_value: array<vec4f, 32>;
    for (var block = first; block <= last; block += 8u) {
        let unheld = vec4u(block) + vec4u(0u, 1u, 2u, 3u);
        let i = min(vec2u(block + lane, block + 4u + lane), vec2u(last));
        let query = (first_row + i) * (3u * channels) + head;
        let result = (first_row + i) * channels + head;
    //# end
        var s0 = vec4f();
        var s1 = vec4f();
        var dp0 = vec4f();
        var dp1 = vec4f();
        for (var d = 0u; d < HEAD_VEC4; d++) {
            //# if QUERY
            let q = qkv[query + d];
            let g = d_out[result + d];
            s0 += dots(q, qkv[key.x + d]);
            s1 += dots(q, qkv[key.y + d]);
            dp0 += dots(g, qkv[value.x + d]);
            dp1 += dots(g, qkv[value.y + d]);
            //# else
            let k = qkv[key + d];
            let v = qkv[value + d];
            s0 += dots(k, qkv[query.x + d]);
            s1 += dots(k, qkv[query.y + d]);
            dp0 += dots(v, d_out[result.x + d]);
            dp1 += dots(v, d_out[result.y + d]);
            //# end
        }
        //# if QUERY
        let p0 = exp(s0 * params.scale - l);
        let p1 = exp(s1 * params.scale - l);
        let ds0 = select(p0 * (dp0 - shift) * params.scale, vec4f(), j > vec4u(i));
        let ds1 = select(p1 * (dp1 - shift) * params.scale, vec4f(), j + 4u > vec4u(i));
        //# else
        let at = pair * params.time + i;
        let exponent0 = s0 * params.scale - all_four(logsumexp[at.x]);
        let exponent1 = s1 * params.scale - all_four(logsumexp[at.y]);
        let p0 = select(exp(exponent0), vec4f(), (unheld > vec4u(last)) | (unheld < vec4u(j)));
        let p1 = select(exp(exponent1), vec4f(), unheld + 4u > vec4u(last));
        let ds0 = p0 * (dp0 - all_four(delta[at.x])) * params.scale;
        let ds1 = p1 * (dp1 - all_four(delta[at.y])) * params.scale;
        //# end
        for (var d = 0u; d < HEAD_VEC4; d++) {
            //# if QUERY
            acc[d] += weighted(ds0, qkv[key.x + d]) + weighted(ds1, qkv[key.y + d]);
            //# else
            d_key[d] += weighted(ds0, qkv[query.x + d]) + weighted(ds1, qkv[query.y + d]);
            d_value[d] += weighted(p0, d_out[result.x + d]) + weighted(p1, d_out[result.y + d]);
            //# end
        }
    }
    if (first + lane > last) {
        return;
    }
    for (var d = 0u; d < HEAD_VEC4; d++) {
        //# if QUERY
        d_qkv[query + d] = acc[d];
        //# else
        d_qkv[key + d] = d_key[d];
        d_qkv[value + d] = d_value[d];
        //# end
    }
}
