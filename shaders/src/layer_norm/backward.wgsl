// dx = rstd (h - mean(h) - n mean(h n)) per row, h = dy gain, n = (x - mean) rstd: the gradient of layer normalisation by
// its input (forward.wgsl), written, or added to what is there (the gradient that came around a residual branch).
//
// params  uniform            extents
// x       f32, read          [rows, channels], forward's input
// mean    f32, read          [rows], saved by forward
// rstd    f32, read          [rows], saved by forward
// gain    f32, read          [channels]
// d_y     f32, read          [rows, channels]
// d_x     f32, read-write    [rows, channels]; read where ACCUMULATE
//
// One invocation handles one row. Dispatch: ceil(rows / WORKGROUP) workgroups, numbered along x, then y.
// Hazards: sums run in chunks of CHUNK, which bounds their rounding error.

override WORKGROUP: u32 = 32u;
override CHUNK: u32 = 64u;
override ACCUMULATE: bool = false;

struct Params {
    rows: u32,
    channels: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> mean: array<f32>;
@group(0) @binding(3) var<storage, read> rstd: array<f32>;
@group(0) @binding(4) var<storage, read> gain: array<f32>;
@group(0) @binding(5) var<storage, read> d_y: array<f32>;
@group(0) @binding(6) var<storage, read_write> d_x: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = (group.x + group.y * groups.x) * WORKGROUP + lane;
    if (row >= params.rows) {
        return;
    }
    let start = row * params.channels;
    let center = mean[row];
    let scale = rstd[row];
    // Sums of h and of h n.
    var total = vec2f();
    for (var chunk = 0u; chunk < params.channels; chunk += CHUNK) {
        let end = min(chunk + CHUNK, params.channels);
        var sum = vec2f();
        for (var j = chunk; j < end; j++) {
            let h = d_y[start + j] * gain[j];
            sum += vec2f(h, h * ((x[start + j] - center) * scale));
        }
        total += sum;
    }
    let means = total / f32(params.channels);
    for (var j = 0u; j < params.channels; j++) {
        let h = d_y[start + j] * gain[j];
        let n = (x[start + j] - center) * scale;
        var value = scale * (h - means.x - n * means.y);
        if (ACCUMULATE) {
            value += d_x[start + j];
        }
        d_x[start + j] = value;
    }
}
