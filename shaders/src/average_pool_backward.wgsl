// dX[b, p, q, c] = (sum of dY[b, i, j, c] over the windows (i, j) that hold (p, q)) / window^2: the gradient of
// average_pool_forward. See pool.rs for the source.
//
// params          uniform         extents and the images to compute
// gradient        f32, read       [batch, out_height, out_width, channels], dY
// gradient4       vec4f, read     the same buffer, read where WIDE
// input_gradient  f32, written    [batch, height, width, channels], dX
//
// One invocation computes four channels of one input pixel. Dispatch: ceil(pixels * ceil(channels / 4) / WORKGROUP)
// workgroups, numbered along x, then y.
// Hazards: windows are gathered in a fixed order, a row of them summed before it is added to the total.

override WORKGROUP: u32 = 64u;
// Whether channels is a multiple of 4.
override WIDE: bool = false;

struct Params {
    image_first: u32,
    image_end: u32,
    height: u32,
    width: u32,
    channels: u32,
    window: u32,
    stride: u32,
    padding: u32,
    out_height: u32,
    out_width: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradient: array<f32>;
@group(0) @binding(2) var<storage, read> gradient4: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> input_gradient: array<f32>;

// Four channels of a pixel of dY.
fn load(pixel: u32, channel: u32) -> vec4f {
    let start = pixel * params.channels;
    if (WIDE) {
        return gradient4[(start + channel) / 4u];
    }
    let at = start + min(channel + vec4u(0u, 1u, 2u, 3u), vec4u(params.channels - 1u));
    return vec4f(gradient[at.x], gradient[at.y], gradient[at.z], gradient[at.w]);
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.x + group.y * groups.x) * WORKGROUP + lane;
    let fours = (params.channels + 3u) / 4u;
    let plane = params.height * params.width;
    let pixel = params.image_first * plane + index / fours;
    let channel = index % fours * 4u;
    if (pixel >= params.image_end * plane) {
        return;
    }
    let image = pixel / plane;
    // The windows that hold the pixel: a window at i begins at i*stride, counted from the padding's edge.
    let row = pixel % plane / params.width + params.padding;
    let column = pixel % params.width + params.padding;
    let i_first = select((row - params.window) / params.stride + 1u, 0u, row < params.window);
    let j_first = select((column - params.window) / params.stride + 1u, 0u, column < params.window);
    let i_end = min(row / params.stride + 1u, params.out_height);
    let j_end = min(column / params.stride + 1u, params.out_width);
    var total = vec4f();
    for (var i = i_first; i < i_end; i++) {
        var sum = vec4f();
        for (var j = j_first; j < j_end; j++) {
            sum += load((image * params.out_height + i) * params.out_width + j, channel);
        }
        total += sum;
    }
    let share = total / f32(params.window * params.window);
    for (var n = 0u; n < 4u && channel + n < params.channels; n++) {
        input_gradient[pixel * params.channels + channel + n] = share[n];
    }
}
