// partial[s, ky, kx, c, o] = sum over the output pixels (b, i, j) of split s of
// x[b, i*stride + ky - padding, j*stride + kx - padding, c] * dY[b, i, j, o]: the gradient of convolution_forward by its
// weights is the sum of all splits, which column_sum takes. See convolution.rs for the source and the family's numerics.
//
// params     uniform         extents and the splits to compute
// x          f32, read       [batch, height, width, channels]
// x4         vec4f, read     the same buffer, read where WIDE_CHANNELS
// gradient   f32, read       [batch, out_height, out_width, outputs], dY
// gradient4  vec4f, read     the same buffer, read where WIDE_OUTPUTS
// partial    f32, written    [splits, kernel_height * kernel_width * channels, outputs]
//
// One invocation computes 8 rows of w (a tap and a channel each) by 8 outputs of one split, held as four 4x4 matrices
// whose column i is row i, and walks the pixels of the split: a row is the same distance from the corner of every
// pixel's window. Dispatch: ceil(blocks / WORKGROUP) workgroups, numbered along x, then y, where
// blocks = splits * ceil(rows / 8) * ceil(outputs / 8), those of the same split together. Blocks that hang over the edge
// read the last row or outputs again and store nothing for them.
// Hazards: sums are taken in chunks of K_CHUNK pixels, which bounds their rounding error. Splits follow from the shape
// alone, so that the same shape gives the same bits.

override WORKGROUP: u32 = 32u;
override K_CHUNK: u32 = 64u;
// Whether padding is more than 0.
override PADDED: bool = false;
// Whether channels and outputs are multiples of 4.
override WIDE_CHANNELS: bool = false;
override WIDE_OUTPUTS: bool = false;

struct Params {
    split_first: u32,
    split_end: u32,
    split_pixels: u32,
    batch: u32,
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
@group(0) @binding(3) var<storage, read> gradient: array<f32>;
@group(0) @binding(4) var<storage, read> gradient4: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> partial: array<f32>;

// Four rows of w: the row and column of their taps in the window, and how far they are from its corner in x.
struct Taps {
    row: vec4i,
    column: vec4i,
    offset: vec4i,
}

fn taps(row: vec4u) -> Taps {
    let tap = row / params.channels;
    let ky = tap / params.kernel_width;
    let kx = tap % params.kernel_width;
    let offset = (ky * params.width + kx) * params.channels + row % params.channels;
    return Taps(vec4i(ky), vec4i(kx), vec4i(offset));
}

// x under four taps of the window that begins at this row and column, with this index in x.
fn gather(taps: Taps, row: i32, column: i32, corner: i32) -> vec4f {
    let at = taps.offset + corner;
    if (PADDED) {
        // Before the image wraps to far behind it.
        let rows = vec4u(taps.row + row);
        let columns = vec4u(taps.column + column);
        let hit = (rows < vec4u(params.height)) & (columns < vec4u(params.width));
        if (WIDE_CHANNELS) {
            return select(vec4f(), x4[select(0, at.x, hit.x) / 4], hit.x);
        }
        let source = select(vec4i(), at, hit);
        return select(vec4f(), vec4f(x[source.x], x[source.y], x[source.z], x[source.w]), hit);
    }
    if (WIDE_CHANNELS) {
        return x4[at.x / 4];
    }
    return vec4f(x[at.x], x[at.y], x[at.z], x[at.w]);
}

// Four outputs of a pixel.
fn outputs(pixel: u32, output: u32) -> vec4f {
    let start = pixel * params.outputs;
    if (WIDE_OUTPUTS) {
        return gradient4[(start + min(output, params.outputs - 4u)) / 4u];
    }
    let at = start + min(output + vec4u(0u, 1u, 2u, 3u), vec4u(params.outputs - 1u));
    return vec4f(gradient[at.x], gradient[at.y], gradient[at.z], gradient[at.w]);
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

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let block = (group.x + group.y * groups.x) * WORKGROUP + lane;
    let terms = params.kernel_height * params.kernel_width * params.channels;
    let across = (params.outputs + 7u) / 8u;
    let blocks = (terms + 7u) / 8u * across;
    let split = params.split_first + block / blocks;
    if (split >= params.split_end) {
        return;
    }
    let term = block % blocks / across * 8u;
    let output = block % across * 8u;
    let four = vec4u(0u, 1u, 2u, 3u);
    let taps0 = taps(min(term + four, vec4u(terms - 1u)));
    let taps1 = taps(min(term + 4u + four, vec4u(terms - 1u)));
    let plane = params.out_height * params.out_width;
    let pixel_first = split * params.split_pixels;
    let pixel_end = min(pixel_first + params.split_pixels, params.batch * plane);
    // The position of the next pixel.
    var image = pixel_first / plane;
    var i = pixel_first % plane / params.out_width;
    var j = pixel_first % params.out_width;
    var total00 = mat4x4f();
    var total01 = mat4x4f();
    var total10 = mat4x4f();
    var total11 = mat4x4f();
    for (var chunk = pixel_first; chunk < pixel_end; chunk += K_CHUNK) {
        let end = min(chunk + K_CHUNK, pixel_end);
        var sum00 = mat4x4f();
        var sum01 = mat4x4f();
        var sum10 = mat4x4f();
        var sum11 = mat4x4f();
        for (var pixel = chunk; pixel < end; pixel++) {
            let row = i32(i * params.stride) - i32(params.padding);
            let column = i32(j * params.stride) - i32(params.padding);
            let corner = ((i32(image * params.height) + row) * i32(params.width) + column) * i32(params.channels);
            let a0 = gather(taps0, row, column, corner);
            let a1 = gather(taps1, row, column, corner);
            let b0 = outputs(pixel, output);
            let b1 = outputs(pixel, output + 4u);
            sum00 = add_outer(sum00, a0, b0);
            sum01 = add_outer(sum01, a0, b1);
            sum10 = add_outer(sum10, a1, b0);
            sum11 = add_outer(sum11, a1, b1);
            j += 1u;
            if (j == params.out_width) {
                j = 0u;
                i += 1u;
            }
            if (i == params.out_height) {
                i = 0u;
                image += 1u;
            }
        }
        total00 += sum00;
        total01 += sum01;
        total10 += sum10;
        total11 += sum11;
    }
    // In a loop, because compilers of software adapters take twice as long over sixteen stores.
    var rows = array<vec4f, 16>(
        total00[0], total00[1], total00[2], total00[3], total10[0], total10[1], total10[2], total10[3],
        total01[0], total01[1], total01[2], total01[3], total11[0], total11[1], total11[2], total11[3],
    );
    for (var at = 0u; at < 64u; at++) {
        let row = term + at / 4u % 8u;
        let column = output + at / 32u * 4u + at % 4u;
        if (row < terms && column < params.outputs) {
            partial[(split * terms + row) * params.outputs + column] = rows[at / 4u][at % 4u];
        }
    }
}
