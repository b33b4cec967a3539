// v = momentum · v + g; p = p - learning_rate · v. Sutskever et al., On the importance of initialization and momentum
// in deep learning, ICML 2013, in the form without dampening.
//
// params     uniform              values4 = ceil(values / 4) and the two rates
// gradient   vec4f, read          [values4], g
// velocity   vec4f, read-write    [values4], v
// parameter  vec4f, read-write    [values4], p
//
// One invocation updates four values. Dispatch: ceil(values4 / WORKGROUP) workgroups, numbered along x, then y. Buffers
// are whole vec4; values past the end start at zero and stay there.
// Hazards: none.

override WORKGROUP: u32 = 64u;

struct Params {
    values4: u32,
    learning_rate: f32,
    momentum: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradient: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> velocity: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> parameter: array<vec4f>;

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
    let v = params.momentum * velocity[i] + gradient[i];
    velocity[i] = v;
    parameter[i] -= params.learning_rate * v;
}
