// gradient[i] = 0 where activation[i] <= 0: the backward pass of y = max(x, 0), in place, from y (saved by forward as
// the output of the product's epilogue).
//
// params      uniform              values4 = ceil(values / 4)
// activation  vec4f, read          [values4], y
// gradient    vec4f, read-write    [values4], dL/dy in, dL/dx out
//
// One invocation handles four values. Dispatch: ceil(values4 / WORKGROUP) workgroups, numbered along x, then y. Buffers
// are whole vec4; values past the end are computed and never read.
// Hazards: none; the slope at 0 is taken as 0.

override WORKGROUP: u32 = 64u;

struct Params {
    values4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> activation: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> gradient: array<vec4f>;

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
    gradient[i] = select(vec4f(), gradient[i], activation[i] > vec4f());
}
