// gain[c, j] = sum of dy[i, j] n[i, j] and shift[c, j] = sum of dy[i, j] over the CHUNK rows i of chunk c, with
// n = (x - mean) rstd: the gradients of layer normalisation (forward.wgsl) by gain and shift, up to a column sum.
//
// params  uniform       extents
// x       f32, read     [rows, channels], forward's input
// mean    f32, read     [rows], saved by forward
// rstd    f32, read     [rows], saved by forward
// d_y     f32, read     [rows, channels]
// gain    f32, written  [ceil(rows / CHUNK), channels]
// shift   f32, written  [ceil(rows / CHUNK), channels]
//
// One invocation handles one channel of one chunk. Dispatch: ceil(chunks · channels / WORKGROUP) workgroups, numbered
// along x, then y.
// Hazards: none beyond those of a sum of CHUNK terms.

override WORKGROUP: u32 = 32u;
override CHUNK: u32 = 64u;

struct Params {
    rows: u32,
    channels: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> mean: array<f32>;
@group(0) @binding(3) var<storage, read> rstd: array<f32>;
@group(0) @binding(4) var<storage, read> d_y: array<f32>;
@group(0) @binding(5) var<storage, read_write> gain: array<f32>;
@group(0) @binding(6) var<storage, read_write> shift: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.x + group.y * groups.x) * WORKGROUP + lane;
    let chunks = (params.rows + CHUNK - 1u) / CHUNK;
    if (index >= chunks * params.channels) {
        return;
    }
    let column = index % params.channels;
    let first = index / params.channels * CHUNK;
    let end = min(first + CHUNK, params.rows);
    var by_gain = 0.0;
    var by_shift = 0.0;
    for (var row = first; row < end; row++) {
        let i = row * params.channels + column;
        by_gain += d_y[i] * ((x[i] - mean[row]) * rstd[row]);
        by_shift += d_y[i];
    }
    gain[index] = by_gain;
    shift[index] = by_shift;
}
