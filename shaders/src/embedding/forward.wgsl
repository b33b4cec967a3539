// out[r, j] = token[ids[r], j] + position[r mod time, j]: learned token and position embeddings, as in Radford et al.,
// Improving Language Understanding by Generative Pre-Training, 2018.
//
// params    uniform       extents; rows are sequences · time
// ids       u32, read     [rows], each below the vocabulary
// token     f32, read     [vocabulary, channels]
// position  f32, read     [time, channels]
// out       f32, written  [rows, channels]
//
// One invocation computes one value. Dispatch: ceil(rows · channels / WORKGROUP) workgroups, numbered along x, then y.
// Hazards: an id past the vocabulary would read past the table; they are checked before they are uploaded. Backward
// needs the ids alone.

override WORKGROUP: u32 = 64u;

struct Params {
    rows: u32,
    time: u32,
    vocabulary: u32,
    channels: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> token: array<f32>;
@group(0) @binding(3) var<storage, read> position: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * WORKGROUP + lane;
    if (i >= params.rows * params.channels) {
        return;
    }
    let row = i / params.channels;
    let column = i % params.channels;
    out[i] = token[ids[row] * params.channels + column] + position[row % params.time * params.channels + column];
}
