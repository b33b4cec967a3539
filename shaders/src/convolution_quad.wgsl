// y[b, i, j, o] = sum over ky, kx, c of x[b, i + ky - padding_y, j + kx - padding_x, c] * w[ky, kx, c, o], then + bias[o]
// and max(., 0) as EPILOGUE says: a convolution of stride 1. Where GRADIENT it is that of the gradient by the input: x is
// dY, and the taps of w run backwards with its channels and outputs exchanged. See convolution.rs for the source and the
// family's numerics.
//
// params  uniform         extents as the formula has them, the images to compute, and rows of taps to a chunk
// x       f32, read       [batch, height, width, channels]
// w       f32, read       [kernel_height * kernel_width, channels, outputs], or [.., outputs, channels] where GRADIENT
// bias    f32, read       [outputs] where EPILOGUE > 0, else any buffer
// y       f32, written    [batch, out_height, out_width, outputs]
//
// An invocation computes a run of 4 pixels of one row by 8 outputs, held as two 4x4 matrices whose column i is an output.
// The next tap of a row meets the same values of x one pixel on: it loads one. The four of a quad take the same outputs,
// so that each loads a quarter of the weights and hands them round. No value is loaded twice within a row of taps.
// Dispatch: one workgroup, which is one quad, per 4 runs and 8 outputs, those of the same runs together, numbered along
// x, then y. Runs that hang over the edge of a row, and quads over the last run, store nothing for what is outside.
// Hazards: sums are taken in chunks of whole rows of taps, which bounds their rounding error.
enable subgroups;

// Whether any padding is more than 0.
override PADDED: bool = false;
override GRADIENT: bool = false;
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
    padding_y: u32,
    padding_x: u32,
    chunk_rows: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

// A value of the row of x that begins at `start`, whose columns are `column` less the padding; zero outside the image.
fn load_x(start: u32, inside: bool, column: u32, c: u32) -> f32 {
    let at = column - params.padding_x;
    // Left of the image wraps to far behind it.
    let value = x[start + min(at, params.width - 1u) * params.channels + c];
    if (!PADDED) {
        return value;
    }
    return select(0.0, value, inside && at < params.width);
}

// A weight of the tap (ky, kx), numbered together.
fn load_w(tap: u32, c: u32, output: u32) -> f32 {
    let o = min(output, params.outputs - 1u);
    if (GRADIENT) {
        let mirrored = params.kernel_height * params.kernel_width - 1u - tap;
        return w[(mirrored * params.outputs + o) * params.channels + c];
    }
    return w[(tap * params.channels + c) * params.outputs + o];
}

// sum + u · vᵀ, u being what the four invocations hold: column i holds u[i] · v.
fn add_outer(sum: mat4x4f, u: f32, v: vec4f) -> mat4x4f {
    return mat4x4f(
        fma(vec4f(quadBroadcast(u, 0u)), v, sum[0]),
        fma(vec4f(quadBroadcast(u, 1u)), v, sum[1]),
        fma(vec4f(quadBroadcast(u, 2u)), v, sum[2]),
        fma(vec4f(quadBroadcast(u, 3u)), v, sum[3]),
    );
}

// Four outputs of a pixel.
fn store(pixel: u32, output: u32, values: vec4f) {
    let four = vec4u(0u, 1u, 2u, 3u);
    var value = values;
    if (EPILOGUE >= 1u) {
        let at = min(output + four, vec4u(params.outputs - 1u));
        value += vec4f(bias[at.x], bias[at.y], bias[at.z], bias[at.w]);
    }
    if (EPILOGUE == 2u) {
        value = max(value, vec4f());
    }
    let at = pixel * params.outputs + output;
    if (output < params.outputs) {
        y[at] = value.x;
    }
    if (output + 1u < params.outputs) {
        y[at + 1u] = value.y;
    }
    if (output + 2u < params.outputs) {
        y[at + 2u] = value.z;
    }
    if (output + 3u < params.outputs) {
        y[at + 3u] = value.w;
    }
}

@compute @workgroup_size(4)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let quad = group.x + group.y * groups.x;
    // Remainders by multiplication: software adapters divide one lane at a time.
    let across = (params.outputs + 7u) / 8u;
    let quad_row = quad / across;
    let output = (quad - quad_row * across) * 8u;
    let runs_across = (params.out_width + 3u) / 4u;
    let runs = params.out_height * runs_across;
    let run_end = params.image_end * runs;
    let run_first = params.image_first * runs + quad_row * 4u;
    if (run_first >= run_end) {
        return;
    }
    let image_first = run_first / runs;
    let within = run_first - image_first * runs;
    let i_first = within / runs_across;
    let run_across = within - i_first * runs_across;
    // On to this invocation's run, past the ends of as many rows and images as there may be.
    var image = image_first;
    var i = i_first;
    var across_row = run_across + min(lane, run_end - 1u - run_first);
    for (var carried = 0u; carried < 3u; carried++) {
        let row_over = across_row >= runs_across;
        across_row -= select(0u, runs_across, row_over);
        i += select(0u, 1u, row_over);
        let image_over = i >= params.out_height;
        i -= select(0u, params.out_height, image_over);
        image += select(0u, 1u, image_over);
    }
    let j = across_row * 4u;
    var total0 = mat4x4f();
    var total1 = mat4x4f();
    // A row of taps is one row of the window in one channel. Rows go channel by channel, then downwards. Those that lie in
    // the padding for the whole quad are left out; chunks begin where they would with them.
    var first = 0u;
    var last = params.kernel_height;
    let i_last = i_first + (run_across + 3u) / runs_across;
    if (PADDED && i_last < params.out_height) {
        first = params.padding_y - min(i_last, params.padding_y);
        last = min(last, params.height + params.padding_y - i_first);
    }
    for (var chunk = 0u; chunk < params.kernel_height * params.channels; chunk += params.chunk_rows) {
        let begin = max(chunk, first * params.channels);
        let end = min(chunk + params.chunk_rows, last * params.channels);
        var ky = begin / params.channels;
        var c = begin - ky * params.channels;
        var sum0 = mat4x4f();
        var sum1 = mat4x4f();
        for (var taps = begin; taps < end; taps++) {
            // Above the image wraps to far below it.
            let row = i + ky - params.padding_y;
            let inside = row < params.height;
            let start = (image * params.height + min(row, params.height - 1u)) * params.width * params.channels;
            var v = vec4f(
                0.0,
                load_x(start, inside, j, c),
                load_x(start, inside, j + 1u, c),
                load_x(start, inside, j + 2u, c),
            );
            for (var kx = 0u; kx < params.kernel_width; kx++) {
                v = vec4f(v.yzw, load_x(start, inside, j + 3u + kx, c));
                let tap = ky * params.kernel_width + kx;
                sum0 = add_outer(sum0, load_w(tap, c, output + lane), v);
                sum1 = add_outer(sum1, load_w(tap, c, output + 4u + lane), v);
            }
            c += 1u;
            let below = c == params.channels;
            ky += select(0u, 1u, below);
            c = select(c, 0u, below);
        }
        total0 += sum0;
        total1 += sum1;
    }
    total0 = transpose(total0);
    total1 = transpose(total1);
    if (run_first + lane >= run_end) {
        return;
    }
    let pixel = (image * params.out_height + i) * params.out_width + j;
    var values = array<vec4f, 8>(
        total0[0], total1[0], total0[1], total1[1], total0[2], total1[2], total0[3], total1[3],
    );
    for (var at = 0u; at < 8u; at++) {
        if (j + at / 2u < params.out_width) {
            store(pixel + at / 2u, output + at % 2u * 4u, values[at]);
        }
    }
}
