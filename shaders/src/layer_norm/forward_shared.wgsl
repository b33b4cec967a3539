// As forward.wgsl, a row by a whole workgroup: y = (x - mean) rstd gain + shift, rstd = 1 / sqrt(variance + 1e-5).
//
// params  uniform       extents
// x       f32, read     [rows, channels]
// gain    f32, read     [channels]
// shift   f32, read     [channels]
// y       f32, written  [rows, channels]
// mean    f32, written  [rows]
// rstd    f32, written  [rows]
//
// One invocation handles every 64th value of a row. Dispatch: rows workgroups, numbered along x, then y. For devices, whose
// memory rewards neighbours that read neighbouring values.
// Hazards: as of forward.wgsl; an invocation sums its own values, and those sums are added up in pairs.

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

const LANES = 64u;
var<workgroup> parts: array<f32, LANES>;

// The sum of all invocations' values, for all of them.
fn sum_of(lane: u32, value: f32) -> f32 {
    parts[lane] = value;
    workgroupBarrier();
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        if (lane < width) {
            parts[lane] += parts[lane + width];
        }
        workgroupBarrier();
    }
    let sum = parts[0];
    workgroupBarrier();
    return sum;
}

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
    var sum = 0.0;
    for (var i = start + lane; i < end; i += LANES) {
        sum += x[i];
    }
    let center = sum_of(lane, sum) / f32(params.channels);
    sum = 0.0;
    for (var i = start + lane; i < end; i += LANES) {
        let deviation = x[i] - center;
        sum += deviation * deviation;
    }
    let scale = inverseSqrt(sum_of(lane, sum) / f32(params.channels) + 1e-5);
    for (var i = start + lane; i < end; i += LANES) {
        y[i] = (x[i] - center) * scale * gain[i - start] + shift[i - start];
    }
    if (lane == 0u) {
        mean[row] = center;
        rstd[row] = scale;
    }
}
