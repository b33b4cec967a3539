// Our engine as one competitor of a benchmark page: products and training steps on WebGPU and on the wasm CPU path.
// `cargo xtask bench module` makes pkg/ beside this file. The page gives models as /page/models.js says.
import { load } from "./pkg/load.js";
import { model } from "/page/models.js";

/** One wasm instance for both backends. */
const ready = load();

/** `dtype` names the operands' type for the blocked variant alone; without it the device runs its usual one. */
function adapter(id, kind, backend, suites, dtype = "") {
  let device;
  return {
    id,
    kind,
    suites,
    async init() {
      device = await (await ready).open(backend);
      return { version: "0.1.0", adapter: device.adapter() };
    },
    async matmul({ m, k, n, a, b }) {
      const product = await device.product(m, k, n, a, b, dtype);
      return {
        run: (reps) => product.run(reps),
        async read() {
          await product.run(1);
          return product.read();
        },
        dispose: () => product.free(),
      };
    },
    async train(name) {
      const spec = model(name);
      const bits = (values) => (values instanceof Float32Array ? values : new Float32Array(values.buffer));
      const join = (parts) => {
        const all = new parts[0].constructor(parts.reduce((sum, part) => sum + part.length, 0));
        parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
        return all;
      };
      const x = bits(join(spec.batches.map((batch) => batch.x)));
      const y = new Uint32Array(join(spec.batches.map((batch) => batch.y)));
      const steps = await device.trainer(name, spec.params.map((p) => p.data), x, y);
      return {
        run: (count) => steps.run(count),
        replay: (count) => steps.replay(count),
        dispatches: kind === "webgpu" ? steps.dispatches() : null,
        dispose: () => steps.free(),
      };
    },
  };
}

export const adapters = [
  adapter("ours-webgpu", "webgpu", "gpu", ["matmul", "train"]),
  adapter("ours-wasm", "wasm", "cpu", ["cpu", "train"]),
  adapter("ours-webgpu-blocked", "webgpu", "gpu", ["matmul"], "f32"),
  adapter("ours-webgpu-blocked-f16", "webgpu", "gpu", ["matmul"], "f16"),
];
