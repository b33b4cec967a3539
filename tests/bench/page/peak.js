// What the page's adapter computes at most: multiply-adds on registers alone, in eight independent chains of four values
// for each invocation. Not a product: nothing is loaded, and one value is stored so that nothing is left out.
const INVOCATIONS = 1 << 18;
const TURNS = 64;
const CHAINS = 8;
const FLOP = INVOCATIONS * TURNS * CHAINS * 2 * 4 * 2;
const SAMPLES = 5;

const chains = (line) => Array.from({ length: CHAINS }, (_, chain) => line(chain)).join("\n");
const WGSL = `
@group(0) @binding(0) var<storage, read_write> sums: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let x = vec4f(0.999 + f32(id.x) * 1e-9);
  let y = vec4f(1e-3);
  ${chains((chain) => `var c${chain} = vec4f(f32(id.x) * 1e-6 + ${chain}.0);`)}
  for (var turn = 0; turn < ${TURNS}; turn++) {
    ${chains((chain) => `c${chain} = fma(c${chain}, x, y);`)}
    ${chains((chain) => `c${chain} = fma(c${chain}, x, y);`)}
  }
  let sum = ${Array.from({ length: CHAINS }, (_, chain) => `c${chain}`).join(" + ")};
  sums[id.x] = sum.x + sum.y + sum.z + sum.w;
}`;

let ready;

async function prepare(leastMs) {
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
  const device = await adapter.requestDevice();
  const module = device.createShaderModule({ code: WGSL });
  const pipeline = await device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: "main" } });
  const buffer = device.createBuffer({ size: INVOCATIONS * 4, usage: GPUBufferUsage.STORAGE });
  const layout = pipeline.getBindGroupLayout(0);
  const group = device.createBindGroup({ layout, entries: [{ binding: 0, resource: { buffer } }] });
  const run = async (count) => {
    const begun = performance.now();
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    for (let dispatch = 0; dispatch < count; dispatch += 1) pass.dispatchWorkgroups(INVOCATIONS / 64);
    pass.end();
    device.queue.submit([encoder.finish()]);
    await device.queue.onSubmittedWorkDone();
    return performance.now() - begun;
  };
  await run(1);
  let count = 1;
  while (count < 4096 && (await run(count)) < leastMs) count *= 2;
  return { run, count };
}

/** GFLOP/s of a few samples of at least so many milliseconds. */
export async function peak(leastMs) {
  ready ??= prepare(leastMs);
  const { run, count } = await ready;
  const rates = [];
  while (rates.length < SAMPLES) rates.push((FLOP * count) / (await run(count)) / 1e6);
  return rates;
}
