// sum[i] = x[i] + y[i]: where a residual joins, and where its gradients do.
//
// params  uniform          values4 = ceil(values / 4)
// x       vec4f, read      [values4]
// y       vec4f, read      [values4]
// sum     vec4f, written   [values4]
//
// One invocation handles four values. Dispatch: ceil(values4 / WORKGROUP) workgroups, numbered along x, then y. Buffers
// are whole vec4; values past the end are computed and never read.
// Hazards: none.

override WORKGROUP: u32 = 64u;

struct Params {
    values4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> y: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> sum: array<vec4f>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * WORKGROUP + lane;
    if (i >= params.values4) {
        return;
    }
    sum[i] = x[i] + y[i];
}
