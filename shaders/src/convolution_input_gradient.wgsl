// dX[b, p, q, c] = sum over ky, kx, o of dY[b, i, j, o] * w[ky, kx, c, o], where i*stride = p + padding - ky and
// j*stride = q + padding - kx are solved by an output pixel: the gradient of convolution_forward by its input. See
// convolution.rs for the source and the family's numerics.
//
// params          uniform         extents and the images to compute
// w               f32, read       [kernel_height * kernel_width * channels, outputs]
// w4              vec4f, read     the same buffer, read where WIDE_OUTPUTS
// gradient        f32, read       [batch, out_height, out_width, outputs], dY
// gradient4       vec4f, read     the same buffer, read where WIDE_OUTPUTS
// input_gradient  f32, written    [batch, height, width, channels], dX
//
// One invocation gathers 8 consecutive pixels of the input by 8 channels, held as four 4x4 matrices whose column i is
// pixel i; taps that no output pixel of the eight looks through are skipped. Dispatch: ceil(blocks / WORKGROUP)
// workgroups, numbered along x, then y, where blocks = ceil(pixels / 8) * ceil(channels / 8), those of the same pixels
// together. Blocks that hang over the edge read the last pixel or channels again and store nothing for them.
// Hazards: sums are taken in chunks of K_CHUNK terms, which bounds their rounding error.

override WORKGROUP: u32 = 32u;
// A multiple of 4.
override K_CHUNK: u32 = 64u;
// A constant, so that a stride of 1 costs no division.
override STRIDE: u32 = 1u;
// Whether outputs is a multiple of 4.
override WIDE_OUTPUTS: bool = false;

struct Params {
    image_first: u32,
    image_end: u32,
    height: u32,
    width: u32,
    channels: u32,
    kernel_height: u32,
    kernel_width: u32,
    outputs: u32,
    out_height: u32,
    out_width: u32,
    stride: u32,
    padding: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> w4: array<vec4f>;
@group(0) @binding(3) var<storage, read> gradient: array<f32>;
@group(0) @binding(4) var<storage, read> gradient4: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> input_gradient: array<f32>;

// Four pixels of the input: image, and row and column moved by the padding.
struct Pixels {
    image: vec4u,
    row: vec4u,
    column: vec4u,
}

// What a tap meets at four pixels: whether there is an output pixel, and its index in dY, else 0.
struct Meeting {
    hit: vec4<bool>,
    at: vec4u,
}

fn pixels(pixel: vec4u) -> Pixels {
    let plane = params.height * params.width;
    let within = pixel % plane;
    return Pixels(pixel / plane, within / params.width + params.padding, within % params.width + params.padding);
}

fn meet(pixels: Pixels, ky: u32, kx: u32) -> Meeting {
    // Before the image these wrap to far behind it.
    let row = pixels.row - ky;
    let column = pixels.column - kx;
    let i = row / STRIDE;
    let j = column / STRIDE;
    let whole = (row % STRIDE == vec4u()) & (column % STRIDE == vec4u());
    let before = (pixels.row < vec4u(ky)) | (pixels.column < vec4u(kx));
    let hit = whole & !before & (i < vec4u(params.out_height)) & (j < vec4u(params.out_width));
    let at = ((pixels.image * params.out_height + i) * params.out_width + j) * params.outputs;
    return Meeting(hit, select(vec4u(), at, hit));
}

fn gather(met: Meeting, output: u32) -> vec4f {
    let at = met.at + output;
    return select(vec4f(), vec4f(gradient[at.x], gradient[at.y], gradient[at.z], gradient[at.w]), met.hit);
}

// Four outputs of four pixels: column p is output p.
fn gather_four(met: Meeting, output: u32) -> mat4x4f {
    let at = (met.at + output) / 4u;
    let zero = vec4f();
    return transpose(mat4x4f(
        select(zero, gradient4[at.x], met.hit.x),
        select(zero, gradient4[at.y], met.hit.y),
        select(zero, gradient4[at.z], met.hit.z),
        select(zero, gradient4[at.w], met.hit.w),
    ));
}

// One output of four rows of w.
fn weights(row: vec4u, output: u32) -> vec4f {
    let at = row * params.outputs + output;
    return vec4f(w[at.x], w[at.y], w[at.z], w[at.w]);
}

// Four outputs of four rows of w: column p is output p.
fn weights_four(row: vec4u, output: u32) -> mat4x4f {
    let at = (row * params.outputs + output) / 4u;
    return transpose(mat4x4f(w4[at.x], w4[at.y], w4[at.z], w4[at.w]));
}

// sum + a · bᵀ, column i holding a[i] · b.
fn add_outer(sum: mat4x4f, a: vec4f, b: vec4f) -> mat4x4f {
    return mat4x4f(
        fma(vec4f(a.x), b, sum[0]),
        fma(vec4f(a.y), b, sum[1]),
        fma(vec4f(a.z), b, sum[2]),
        fma(vec4f(a.w), b, sum[3]),
    );
}

// The same over four terms: column p of a and of b belongs to term p.
fn add_four(sum: mat4x4f, a: mat4x4f, b: mat4x4f) -> mat4x4f {
    return add_outer(add_outer(add_outer(add_outer(sum, a[0], b[0]), a[1], b[1]), a[2], b[2]), a[3], b[3]);
}

fn store(pixel: u32, channel: u32, values: vec4f) {
    if (pixel >= params.image_end * params.height * params.width) {
        return;
    }
    for (var i = 0u; i < 4u && channel + i < params.channels; i++) {
        input_gradient[pixel * params.channels + channel + i] = values[i];
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let block = (group.x + group.y * groups.x) * WORKGROUP + lane;
    let plane = params.height * params.width;
    let across = (params.channels + 7u) / 8u;
    let pixel = params.image_first * plane + block / across * 8u;
    let channel = block % across * 8u;
    let pixel_end = params.image_end * plane;
    if (pixel >= pixel_end) {
        return;
    }
    let four = vec4u(0u, 1u, 2u, 3u);
    let pixels0 = pixels(min(pixel + four, vec4u(pixel_end - 1u)));
    let pixels1 = pixels(min(pixel + 4u + four, vec4u(pixel_end - 1u)));
    let channels0 = min(channel + four, vec4u(params.channels - 1u));
    let channels1 = min(channel + 4u + four, vec4u(params.channels - 1u));
    let step = select(1u, 4u, WIDE_OUTPUTS);
    var total00 = mat4x4f();
    var total01 = mat4x4f();
    var total10 = mat4x4f();
    var total11 = mat4x4f();
    var sum00 = mat4x4f();
    var sum01 = mat4x4f();
    var sum10 = mat4x4f();
    var sum11 = mat4x4f();
    var count = 0u;
    for (var ky = 0u; ky < params.kernel_height; ky++) {
        for (var kx = 0u; kx < params.kernel_width; kx++) {
            let met0 = meet(pixels0, ky, kx);
            let met1 = meet(pixels1, ky, kx);
            if (!any(met0.hit | met1.hit)) {
                // Zeros, counted all the same: chunks must not depend on which pixels are computed together.
                count += params.outputs;
                continue;
            }
            let tap = (ky * params.kernel_width + kx) * params.channels;
            for (var o = 0u; o < params.outputs; o += step) {
                if (count >= K_CHUNK) {
                    total00 += sum00;
                    total01 += sum01;
                    total10 += sum10;
                    total11 += sum11;
                    sum00 = mat4x4f();
                    sum01 = mat4x4f();
                    sum10 = mat4x4f();
                    sum11 = mat4x4f();
                    count %= K_CHUNK;
                }
                if (WIDE_OUTPUTS) {
                    let a0 = gather_four(met0, o);
                    let a1 = gather_four(met1, o);
                    let b0 = weights_four(tap + channels0, o);
                    let b1 = weights_four(tap + channels1, o);
                    sum00 = add_four(sum00, a0, b0);
                    sum01 = add_four(sum01, a0, b1);
                    sum10 = add_four(sum10, a1, b0);
                    sum11 = add_four(sum11, a1, b1);
                } else {
                    let a0 = gather(met0, o);
                    let a1 = gather(met1, o);
                    let b0 = weights(tap + channels0, o);
                    let b1 = weights(tap + channels1, o);
                    sum00 = add_outer(sum00, a0, b0);
                    sum01 = add_outer(sum01, a0, b1);
                    sum10 = add_outer(sum10, a1, b0);
                    sum11 = add_outer(sum11, a1, b1);
                }
                count += step;
            }
        }
    }
    total00 += sum00;
    total01 += sum01;
    total10 += sum10;
    total11 += sum11;
    // In a loop, because compilers of software adapters take twice as long over sixteen stores.
    var rows = array<vec4f, 16>(
        total00[0], total00[1], total00[2], total00[3], total10[0], total10[1], total10[2], total10[3],
        total01[0], total01[1], total01[2], total01[3], total11[0], total11[1], total11[2], total11[3],
    );
    for (var i = 0u; i < 16u; i++) {
        store(pixel + i % 8u, channel + i / 8u * 4u, rows[i]);
    }
}
