// gradient[t, j] = sum of d_out[s, t, j] over the sequences s: the gradient of the position embedding.
//
// params    uniform       extents; rows are sequences · time
// d_out     f32, read     [rows, channels]
// gradient  f32, written  [time, channels]
//
// One invocation computes one value. Dispatch: ceil(time · channels / WORKGROUP) workgroups, numbered along x, then y.
// Hazards: the sum is taken in chunks of CHUNK sequences, which bounds its rounding error.

override WORKGROUP: u32 = 64u;
override CHUNK: u32 = 64u;

struct Params {
    rows: u32,
    time: u32,
    vocabulary: u32,
    channels: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> d_out: array<f32>;
@group(0) @binding(2) var<storage, read_write> gradient: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * WORKGROUP + lane;
    let step = params.time * params.channels;
    if (i >= step) {
        return;
    }
    let values = params.rows * params.channels;
    var total = 0.0;
    for (var chunk = i; chunk < values; chunk += CHUNK * step) {
        let end = min(chunk + CHUNK * step, values);
        var sum = 0.0;
        for (var at = chunk; at < end; at += step) {
            sum += d_out[at];
        }
        total += sum;
    }
    gradient[i] = total;
}
