// y[b, i, j, o] = sum over ky, kx, c of x[b, i*stride + ky - padding, j*stride + kx - padding, c] * w[ky, kx, c, o],
// then + bias[o] and max(., 0) as EPILOGUE says. See convolution.rs for the source and the family's numerics.
//
// params  uniform         extents and the images to compute
// x       f32, read       [batch, height, width, channels]
// x4      vec4f, read     the same buffer, read where WIDE_CHANNELS
// w       f32, read       [kernel_height * kernel_width * channels, outputs]
// w4      vec4f, read     the same buffer, read where WIDE_OUTPUTS
// bias    f32, read       [outputs] where EPILOGUE > 0, else any buffer
// y       f32, written    [batch, out_height, out_width, outputs]
//
// An implicit matrix product of pixels by outputs: one invocation computes 8 consecutive pixels by 8 outputs, held as
// four 4x4 matrices whose column i is pixel i. What lies under a tap is the same distance from each pixel's corner, so
// that x is read in place. Dispatch: ceil(blocks / WORKGROUP) workgroups, numbered along x, then y, where
// blocks = ceil(pixels / 8) * ceil(outputs / 8), those of the same pixels together. Blocks that hang over the edge read
// the last pixel or outputs again and store nothing for them.
// Hazards: sums are taken in chunks of K_CHUNK terms, which bounds their rounding error. Backward needs x, and y where a
// ReLU follows.

override WORKGROUP: u32 = 32u;
// A multiple of 4.
override K_CHUNK: u32 = 64u;
// Whether padding is more than 0.
override PADDED: bool = false;
// Whether channels and outputs are multiples of 4.
override WIDE_CHANNELS: bool = false;
override WIDE_OUTPUTS: bool = false;
// 0: none, 1: bias, 2: bias and ReLU.
override EPILOGUE: u32 = 0u;

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
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> x4: array<vec4f>;
@group(0) @binding(3) var<storage, read> w: array<f32>;
@group(0) @binding(4) var<storage, read> w4: array<vec4f>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

// Where the windows of four pixels begin: row, column and index in x, each before the image where it is padded.
struct Corners {
    row: vec4i,
    column: vec4i,
    at: vec4i,
}

fn corners(pixel: vec4u) -> Corners {
    let plane = params.out_height * params.out_width;
    let within = pixel % plane;
    let row = vec4i(within / params.out_width * params.stride) - i32(params.padding);
    let column = vec4i(within % params.out_width * params.stride) - i32(params.padding);
    let image = vec4i(pixel / plane * params.height);
    return Corners(row, column, ((image + row) * i32(params.width) + column) * i32(params.channels));
}

// Which windows have the tap inside the image.
fn inside(corner: Corners, ky: u32, kx: u32) -> vec4<bool> {
    // Before the image wraps to far behind it.
    let row = vec4u(corner.row + i32(ky));
    let column = vec4u(corner.column + i32(kx));
    return (row < vec4u(params.height)) & (column < vec4u(params.width));
}

fn gather(at: vec4i, hit: vec4<bool>) -> vec4f {
    if (!PADDED) {
        return vec4f(x[at.x], x[at.y], x[at.z], x[at.w]);
    }
    let source = select(vec4i(), at, hit);
    return select(vec4f(), vec4f(x[source.x], x[source.y], x[source.z], x[source.w]), hit);
}

// Four channels of four pixels: column p is channel p.
fn gather_four(at: vec4i, hit: vec4<bool>) -> mat4x4f {
    if (!PADDED) {
        let source = at / 4;
        return transpose(mat4x4f(x4[source.x], x4[source.y], x4[source.z], x4[source.w]));
    }
    let source = select(vec4i(), at, hit) / 4;
    let zero = vec4f();
    return transpose(mat4x4f(
        select(zero, x4[source.x], hit.x),
        select(zero, x4[source.y], hit.y),
        select(zero, x4[source.z], hit.z),
        select(zero, x4[source.w], hit.w),
    ));
}

// Four outputs of a row of w.
fn weights(term: u32, output: u32) -> vec4f {
    let start = term * params.outputs;
    if (WIDE_OUTPUTS) {
        return w4[(start + min(output, params.outputs - 4u)) / 4u];
    }
    let at = start + min(output + vec4u(0u, 1u, 2u, 3u), vec4u(params.outputs - 1u));
    return vec4f(w[at.x], w[at.y], w[at.z], w[at.w]);
}

fn weights_four(term: u32, output: u32) -> mat4x4f {
    return mat4x4f(
        weights(term, output),
        weights(term + 1u, output),
        weights(term + 2u, output),
        weights(term + 3u, output),
    );
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

fn store(pixel: u32, output: u32, values: vec4f) {
    if (pixel >= params.image_end * params.out_height * params.out_width) {
        return;
    }
    for (var i = 0u; i < 4u && output + i < params.outputs; i++) {
        var value = values[i];
        if (EPILOGUE >= 1u) {
            value += bias[output + i];
        }
        if (EPILOGUE == 2u) {
            value = max(value, 0.0);
        }
        y[pixel * params.outputs + output + i] = value;
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let block = (group.x + group.y * groups.x) * WORKGROUP + lane;
    let plane = params.out_height * params.out_width;
    let across = (params.outputs + 7u) / 8u;
    let pixel = params.image_first * plane + block / across * 8u;
    let output = block % across * 8u;
    let pixel_end = params.image_end * plane;
    if (pixel >= pixel_end) {
        return;
    }
    let four = vec4u(0u, 1u, 2u, 3u);
    let corners0 = corners(min(pixel + four, vec4u(pixel_end - 1u)));
    let corners1 = corners(min(pixel + 4u + four, vec4u(pixel_end - 1u)));
    let step = select(1u, 4u, WIDE_CHANNELS);
    var total00 = mat4x4f();
    var total01 = mat4x4f();
    var total10 = mat4x4f();
    var total11 = mat4x4f();
    var sum00 = mat4x4f();
    var sum01 = mat4x4f();
    var sum10 = mat4x4f();
    var sum11 = mat4x4f();
    var term = 0u;
    var count = 0u;
    for (var ky = 0u; ky < params.kernel_height; ky++) {
        for (var kx = 0u; kx < params.kernel_width; kx++) {
            let hit0 = inside(corners0, ky, kx);
            let hit1 = inside(corners1, ky, kx);
            let tap = (ky * params.width + kx) * params.channels;
            for (var c = 0u; c < params.channels; c += step) {
                let at0 = corners0.at + i32(tap + c);
                let at1 = corners1.at + i32(tap + c);
                if (WIDE_CHANNELS) {
                    let a0 = gather_four(at0, hit0);
                    let a1 = gather_four(at1, hit1);
                    let b0 = weights_four(term, output);
                    let b1 = weights_four(term, output + 4u);
                    sum00 = add_four(sum00, a0, b0);
                    sum01 = add_four(sum01, a0, b1);
                    sum10 = add_four(sum10, a1, b0);
                    sum11 = add_four(sum11, a1, b1);
                } else {
                    let a0 = gather(at0, hit0);
                    let a1 = gather(at1, hit1);
                    let b0 = weights(term, output);
                    let b1 = weights(term, output + 4u);
                    sum00 = add_outer(sum00, a0, b0);
                    sum01 = add_outer(sum01, a0, b1);
                    sum10 = add_outer(sum10, a1, b0);
                    sum11 = add_outer(sum11, a1, b1);
                }
                term += step;
                count += step;
                if (count >= K_CHUNK) {
                    total00 += sum00;
                    total01 += sum01;
                    total10 += sum10;
                    total11 += sum11;
                    sum00 = mat4x4f();
                    sum01 = mat4x4f();
                    sum10 = mat4x4f();
                    sum11 = mat4x4f();
                    count = 0u;
                }
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
        store(pixel + i % 8u, output + i / 8u * 4u, rows[i]);
    }
}
