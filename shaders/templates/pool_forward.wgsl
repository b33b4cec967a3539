//# if MAX
// y[b, i, j, c] = max over the window of x[b, i*stride + ky - padding, j*stride + kx - padding, c], the padding left out,
// and places[b, i, j, c] = ky*window + kx of that maximum: of equal ones the first. See pool.rs for the source.
//
// params  uniform         extents and the images to compute
// x       f32, read       [batch, height, width, channels]
// x4      vec4f, read     the same buffer, read where WIDE
// y       f32, written    [batch, out_height, out_width, channels]
// places  u32, written    [batch, out_height, out_width, channels]
//
// One invocation computes four channels of one output pixel. Dispatch: ceil(pixels * ceil(channels / 4) / WORKGROUP)
// workgroups, numbered along x, then y.
// Hazards: a NaN is the maximum only where it comes first. The places are what forward saves for backward.

//# else
// y[b, i, j, c] = (sum over the window of x[b, i*stride + ky - padding, j*stride + kx - padding, c]) / window^2: the
// zeros of the padding count, as in torch.nn.AvgPool2d by default. See pool.rs for the source.
//
// params  uniform         extents and the images to compute
// x       f32, read       [batch, height, width, channels]
// x4      vec4f, read     the same buffer, read where WIDE
// y       f32, written    [batch, out_height, out_width, channels]
//
// One invocation computes four channels of one output pixel. Dispatch: ceil(pixels * ceil(channels / 4) / WORKGROUP)
// workgroups, numbered along x, then y.
// Hazards: a row of the window is summed before it is added to the total, which bounds the rounding error.

//# end
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
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> x4: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
//# if MAX
@group(0) @binding(4) var<storage, read_write> places: array<u32>;
//# end

// Four channels of a pixel of x.
fn load(pixel: u32, channel: u32) -> vec4f {
    let start = pixel * params.channels;
    if (WIDE) {
        return x4[(start + channel) / 4u];
    }
    let at = start + min(channel + vec4u(0u, 1u, 2u, 3u), vec4u(params.channels - 1u));
    return vec4f(x[at.x], x[at.y], x[at.z], x[at.w]);
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.x + group.y * groups.x) * WORKGROUP + lane;
    let fours = (params.channels + 3u) / 4u;
    let plane = params.out_height * params.out_width;
    // Remainders by multiplication: software adapters divide one lane at a time.
    let which = index / fours;
    let pixel = params.image_first * plane + which;
    let channel = (index - which * fours) * 4u;
    if (pixel >= params.image_end * plane) {
        return;
    }
    let image = pixel / plane;
    let within = pixel - image * plane;
    let line = within / params.out_width;
    let row = line * params.stride;
    let column = (within - line * params.out_width) * params.stride;
    //# if MAX
    var largest = vec4f();
    var place = vec4u();
    var first = true;
    //# else
    var total = vec4f();
    //# end
    for (var ky = 0u; ky < params.window; ky++) {
        let p = row + ky - params.padding;
        // Before the image this wraps to far behind it.
        if (p >= params.height) {
            continue;
        }
        //# if MAX
        //# else
        var sum = vec4f();
        //# end
        for (var kx = 0u; kx < params.window; kx++) {
            let q = column + kx - params.padding;
            //# if MAX
            if (q >= params.width) {
                continue;
            }
            let value = load((image * params.height + p) * params.width + q, channel);
            let larger = (value > largest) | vec4<bool>(first);
            largest = select(largest, value, larger);
            place = select(place, vec4u(ky * params.window + kx), larger);
            first = false;
            //# else
            if (q < params.width) {
                sum += load((image * params.height + p) * params.width + q, channel);
            }
            //# end
        }
        //# if MAX
        //# else
        total += sum;
        //# end
    }
    //# if MAX
    for (var n = 0u; n < 4u && channel + n < params.channels; n++) {
        y[pixel * params.channels + channel + n] = largest[n];
        places[pixel * params.channels + channel + n] = place[n];
    }
    //# else
    let mean = total / f32(params.window * params.window);
    for (var n = 0u; n < 4u && channel + n < params.channels; n++) {
        y[pixel * params.channels + channel + n] = mean[n];
    }
    //# end
}
