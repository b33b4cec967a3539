// Per row: loss = (log(sum_j exp(z_j - max)) + max - z_label) / rows and gradient = (softmax(z) - onehot(label)) / rows,
// so that the sum of losses is the batch's mean and the gradient is that mean's.
//
// params    uniform              extents
// logits    f32, read            [rows, classes], z
// labels    u32, read            [rows], each below classes
// gradient  f32, written         [rows, classes]
// losses    f32, written         [rows]
//
// One invocation handles one row. Dispatch: ceil(rows / WORKGROUP) workgroups, numbered along x, then y.
// Hazards: exponents are taken of z - max, so that none exceeds 1 and the sum is at least 1; far below the maximum they
// flush to zero, an absolute error no gradient notices. Nothing is saved: backward happens here.

override WORKGROUP: u32 = 32u;

struct Params {
    rows: u32,
    classes: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;
@group(0) @binding(3) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(4) var<storage, read_write> losses: array<f32>;

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
    let start = row * params.classes;
    let end = start + params.classes;
    let hit = start + labels[row];
    var largest = logits[start];
    for (var i = start + 1u; i < end; i++) {
        largest = max(largest, logits[i]);
    }
    var sum = 0.0;
    for (var i = start; i < end; i++) {
        let e = exp(logits[i] - largest);
        gradient[i] = e;
        sum += e;
    }
    let rows = f32(params.rows);
    for (var i = start; i < end; i++) {
        gradient[i] = (gradient[i] / sum - select(0.0, 1.0, i == hit)) / rows;
    }
    losses[row] = (log(sum) + (largest - logits[hit])) / rows;
}
