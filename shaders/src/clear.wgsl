// x[i] = 0 for first <= i < end: gradients that are zero by definition.
//
// params  uniform          the range
// x       f32, read-write  any length from end on
//
// One invocation handles one value. Dispatch: ceil((end - first) / WORKGROUP) workgroups, numbered along x, then y.
// Hazards: none.

override WORKGROUP: u32 = 64u;

struct Params {
    first: u32,
    end: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = params.first + (group.x + group.y * groups.x) * WORKGROUP + lane;
    if (i >= params.end) {
        return;
    }
    x[i] = 0.0;
}
