// y = (x - mean) rstd gain + shift per row, rstd = 1 / sqrt(variance + 1e-5). Ba, Kiros and Hinton, Layer Normalization,
// 2016.
//
// params  uniform       extents
// x       f32, read     [rows, channels]
// gain    f32, read     [channels]
// shift   f32, read     [channels]
// y       f32, written  [rows, channels]
// mean    f32, written  [rows]
// rstd    f32, written  [rows]
//
// One invocation handles one row. Dispatch: ceil(rows / WORKGROUP) workgroups, numbered along x, then y.
// Hazards: the variance is the mean of squared deviations, taken in a second pass, so that it cannot cancel or be
// negative; sums run in chunks of CHUNK, which bounds their rounding error. Backward needs x, mean and rstd.

override WORKGROUP: u32 = 32u;
override CHUNK: u32 = 64u;

struct Params {
    rows: u32,
    channels: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> gain: array<f32>;
@group(0) @binding(3) var<storage, read> shift: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read_write> mean: array<f32>;
@group(0) @binding(6) var<storage, read_write> rstd: array<f32>;

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
    let end = start + params.channels;
    var total = 0.0;
    for (var chunk = start; chunk < end; chunk += CHUNK) {
        let stop = min(chunk + CHUNK, end);
        var sum = 0.0;
        for (var i = chunk; i < stop; i++) {
            sum += x[i];
        }
        total += sum;
    }
    let center = total / f32(params.channels);
    total = 0.0;
    for (var chunk = start; chunk < end; chunk += CHUNK) {
        let stop = min(chunk + CHUNK, end);
        var sum = 0.0;
        for (var i = chunk; i < stop; i++) {
            let deviation = x[i] - center;
            sum += deviation * deviation;
        }
        total += sum;
    }
    let scale = inverseSqrt(total / f32(params.channels) + 1e-5);
    for (var j = 0u; j < params.channels; j++) {
        y[start + j] = (x[start + j] - center) * scale * gain[j] + shift[j];
    }
    mean[row] = center;
    rstd[row] = scale;
}
