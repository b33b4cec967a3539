// gradient *= min(1, most / sqrt(squares)): the second stage of clipping by the global norm, in place, per tensor. See
// gradient_norm.rs.
//
// params    uniform            values4 = ceil(values / 4), and the norm that is not exceeded
// squares   f32, read          [1], the sum of squares of all gradients together
// gradient  vec4f, read-write  [values4]
//
// One invocation handles four values. Dispatch: ceil(values4 / WORKGROUP) workgroups, numbered along x, then y. Buffers
// are whole vec4; values past the end are zero and stay so.
// Hazards: a norm within `most` leaves the gradient as it is, zero among them: nothing is divided by it then.

override WORKGROUP: u32 = 64u;

struct Params {
    values4: u32,
    most: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> squares: array<f32>;
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
    let norm = sqrt(squares[0]);
    if (norm > params.most) {
        gradient[i] *= params.most / norm;
    }
}
