// As backward.wgsl, a row by a whole workgroup: dx = rstd (h - mean(h) - n mean(h n)), h = dy gain, n = (x - mean) rstd,
// written, or added to what is there.
//
// params  uniform            extents
// x       f32, read          [rows, channels], forward's input
// mean    f32, read          [rows], saved by forward
// rstd    f32, read          [rows], saved by forward
// gain    f32, read          [channels]
// d_y     f32, read          [rows, channels]
// d_x     f32, read-write    [rows, channels]; read where ACCUMULATE
//
// One invocation handles every 64th value of a row. Dispatch: rows workgroups, numbered along x, then y.
// Hazards: an invocation sums its own values, and those sums are added up in pairs.

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

const LANES = 64u;
var<workgroup> parts: array<vec2f, LANES>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.x + group.y * groups.x;
    if (row >= params.rows) {
        return;
    }
    let start = row * params.channels;
    let end = start + params.channels;
    let center = mean[row];
    let scale = rstd[row];
    // Sums of h and of h n.
    var sum = vec2f();
    for (var i = start + lane; i < end; i += LANES) {
        let h = d_y[i] * gain[i - start];
        sum += vec2f(h, h * ((x[i] - center) * scale));
    }
    parts[lane] = sum;
    workgroupBarrier();
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        if (lane < width) {
            parts[lane] += parts[lane + width];
        }
        workgroupBarrier();
    }
    let means = parts[0] / f32(params.channels);
    for (var i = start + lane; i < end; i += LANES) {
        let h = d_y[i] * gain[i - start];
        let n = (x[i] - center) * scale;
        var value = scale * (h - means.x - n * means.y);
        if (ACCUMULATE) {
            value += d_x[i];
        }
        d_x[i] = value;
    }
}
