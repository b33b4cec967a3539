// sums[j] = sum over i of x[i, j]: the gradient of a bias, and the mean loss of a batch whose rows come divided.
//
// params  uniform            extents
// x       f32, read          [rows, columns]
// sums    f32, written       [columns]
//
// One invocation sums one column. Dispatch: ceil(columns / WORKGROUP) workgroups, numbered along x, then y.
// Hazards: the sum is taken in chunks of CHUNK rows, which bounds its rounding error.

override WORKGROUP: u32 = 64u;
override CHUNK: u32 = 64u;

struct Params {
    rows: u32,
    columns: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let column = (group.x + group.y * groups.x) * WORKGROUP + lane;
    if (column >= params.columns) {
        return;
    }
    var total = 0.0;
    for (var chunk = 0u; chunk < params.rows; chunk += CHUNK) {
        let end = min(chunk + CHUNK, params.rows);
        var sum = 0.0;
        for (var row = chunk; row < end; row++) {
            sum += x[row * params.columns + column];
        }
        total += sum;
    }
    sums[column] = total;
}
