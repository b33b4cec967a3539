// parts[first_part + c] = sum of g^2 over part c of a gradient, PART fours of values each: the first of two stages of a
// global norm. See gradient_norm.rs.
//
// params    uniform       values4 = ceil(values / 4), and where this tensor's parts begin
// gradient  vec4f, read   [values4]
// parts     f32, written  [all parts]; ceil(values4 / PART) of them
//
// One invocation sums one part. Dispatch: ceil(parts / WORKGROUP) workgroups, numbered along x, then y. Buffers are whole
// vec4; values past the end are zero.
// Hazards: squares overflow past 1.8e19, and the norm is infinite then; the sum is taken in chunks of CHUNK fours, which
// bounds its rounding error.

override WORKGROUP: u32 = 32u;
override PART: u32 = 256u;
override CHUNK: u32 = 64u;

struct Params {
    values4: u32,
    first_part: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradient: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> parts: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let part = (group.x + group.y * groups.x) * WORKGROUP + lane;
    let first = part * PART;
    if (first >= params.values4) {
        return;
    }
    let end = min(first + PART, params.values4);
    var total = vec4f();
    for (var chunk = first; chunk < end; chunk += CHUNK) {
        let stop = min(chunk + CHUNK, end);
        var sum = vec4f();
        for (var i = chunk; i < stop; i++) {
            sum += gradient[i] * gradient[i];
        }
        total += sum;
    }
    parts[params.first_part + part] = (total.x + total.y) + (total.z + total.w);
}
