// Per row: 1 where no class has a larger logit than the label's and none before it one as large, else 0; so of equals the
// first is the answer. A column sum of it counts the hits of a batch.
//
// params  uniform              extents
// logits  f32, read            [rows, classes]
// labels  u32, read            [rows]; one that is no class, as of a row that only fills a batch up, is never hit
// hits    f32, written         [rows]
//
// One invocation handles one row. Dispatch: ceil(rows / WORKGROUP) workgroups, numbered along x, then y.
// Hazards: none but flushing, by which two logits next to zero may come to be equal; a NaN among the logits is no hit where
// the device keeps it. Sums are exact up to 2^24 rows. Nothing is saved: there is no backward.

override WORKGROUP: u32 = 32u;

struct Params {
    rows: u32,
    classes: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;
@group(0) @binding(3) var<storage, read_write> hits: array<f32>;

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
    let label = labels[row];
    let own = logits[start + min(label, params.classes - 1u)];
    var hit = label < params.classes;
    for (var j = 0u; j < params.classes; j++) {
        let other = logits[start + j];
        hit = hit && select(other <= own, other < own, j < label);
    }
    hits[row] = select(0.0, 1.0, hit);
}
