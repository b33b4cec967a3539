// m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p -= rate ((m / c1) / (sqrt(v / c2) + eps) + decay p), with
// c1 = 1 - b1^t and c2 = 1 - b2^t. Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019, with
// the decay multiplied by the learning rate.
//
// params     uniform            values4 = ceil(values / 4) and the rates
// powers     f32, read          [4], b1^t and b2^t of this step, and two unused; see adamw_advance.wgsl
// gradient   vec4f, read        [values4], g
// first      vec4f, read-write  [values4], m
// second     vec4f, read-write  [values4], v
// parameter  vec4f, read-write  [values4], p
//
// One invocation updates four values. Dispatch: ceil(values4 / WORKGROUP) workgroups, numbered along x, then y. Buffers
// are whole vec4; values past the end start at zero and stay there.
// Hazards: powers are below 1 once advanced, so that c1 and c2 are positive; for small t they carry the rounding of a
// difference, which is exact here, and of the powers, which is not. v below 10^-38 flushes to zero, which eps hides.

override WORKGROUP: u32 = 64u;

struct Params {
    values4: u32,
    learning_rate: f32,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    weight_decay: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> powers: array<f32>;
@group(0) @binding(2) var<storage, read> gradient: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> first: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> second: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> parameter: array<vec4f>;

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
    let g = gradient[i];
    let m = params.beta1 * first[i] + (1.0 - params.beta1) * g;
    let v = params.beta2 * second[i] + (1.0 - params.beta2) * (g * g);
    first[i] = m;
    second[i] = v;
    let step = (m / (1.0 - powers[0])) / (sqrt(v / (1.0 - powers[1])) + params.epsilon);
    let p = parameter[i];
    parameter[i] = p - params.learning_rate * (step + params.weight_decay * p);
}
