// dX[b, p, q, c] = sum of dY[b, i, j, c] over the windows (i, j) whose maximum lay at (p, q): the gradient of
// max_pool_forward. See pool.rs for the source.
//
// params          uniform         extents and the images to compute
// gradient        f32, read       [batch, out_height, out_width, channels], dY
// gradient4       vec4f, read     the same buffer, read where WIDE
// places          u32, read       [batch, out_height, out_width, channels], as max_pool_forward left them
// places4         vec4u, read     the same buffer, read where WIDE
// input_gradient  f32, written    [batch, height, width, channels], dX
//
// One invocation computes four channels of one input pixel. Dispatch: ceil(pixels * ceil(channels / 4) / WORKGROUP)
// workgroups, numbered along x, then y.
// Hazards: none; windows are gathered in a fixed order, a row of them at a time.

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
@group(0) @binding(3) var<storage, read> places: array<u32>;
@group(0) @binding(4) var<storage, read> places4: array<vec4u>;
@group(0) @binding(5) var<storage, read_write> input_gradient: array<f32>;

// Four channels of a pixel of dY.
fn load_gradient(pixel: u32, channel: u32) -> vec4f {
    let start = pixel * params.channels;
    if (WIDE) {
        return gradient4[(start + channel) / 4u];
    }
    let at = start + min(channel + vec4u(0u, 1u, 2u, 3u), vec4u(params.channels - 1u));
    return vec4f(gradient[at.x], gradient[at.y], gradient[at.z], gradient[at.w]);
}

// Four channels of a pixel of the places.
fn load_places(pixel: u32, channel: u32) -> vec4u {
    let start = pixel * params.channels;
    if (WIDE) {
        return places4[(start + channel) / 4u];
    }
    let at = start + min(channel + vec4u(0u, 1u, 2u, 3u), vec4u(params.channels - 1u));
    return vec4u(places[at.x], places[at.y], places[at.z], places[at.w]);
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
    // Remainders by multiplication, and windows found without another division: software adapters divide one lane at a time.
    let which = index / fours;
    let pixel = params.image_first * plane + which;
    let channel = (index - which * fours) * 4u;
    if (pixel >= params.image_end * plane) {
        return;
    }
    let image = pixel / plane;
    let within = pixel - image * plane;
    let line = within / params.width;
    // The windows that hold the pixel: a window at i begins at i*stride, counted from the padding's edge. The last of them
    // come first.
    let row = line + params.padding;
    let column = within - line * params.width + params.padding;
    let i_end = min(row / params.stride + 1u, params.out_height);
    let j_end = min(column / params.stride + 1u, params.out_width);
    var total = vec4f();
    for (var i = i_end; i > 0u && (i - 1u) * params.stride + params.window > row; i--) {
        let below = row - (i - 1u) * params.stride;
        var sum = vec4f();
        for (var j = j_end; j > 0u && (j - 1u) * params.stride + params.window > column; j--) {
            let source = (image * params.out_height + i - 1u) * params.out_width + j - 1u;
            let place = below * params.window + column - (j - 1u) * params.stride;
            let hit = load_places(source, channel) == vec4u(place);
            sum += select(vec4f(), load_gradient(source, channel), hit);
        }
        total += sum;
    }
    for (var n = 0u; n < 4u && channel + n < params.channels; n++) {
        input_gradient[pixel * params.channels + channel + n] = total[n];
    }
}
