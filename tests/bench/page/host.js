// The page's side of a comparison: prepares competitors, checks what they compute, and times one sample at a time. Which
// sample comes when is the driver's business (../run.mjs).
import { calibrate, product, productError } from "./check.js";

const modules = { ours: "/ours.mjs", tfjs: "/dist/tfjs.js", jaxjs: "/dist/jaxjs.js" };
const opened = new Map();
const live = new Map();

/** The competitor with this id; its module is named before the first dash. */
async function open(id) {
  if (!opened.has(id)) {
    const { adapters } = await import(modules[id.split("-")[0]]);
    const adapter = adapters.find((candidate) => candidate.id === id);
    const told = await adapter.init();
    opened.set(id, { adapter, told });
  }
  return opened.get(id);
}

/** Milliseconds of so many repetitions. */
async function timed(handle, count) {
  const begun = performance.now();
  await handle.run(count);
  return performance.now() - begun;
}

window.bench = {
  async open(id) {
    return (await open(id)).told;
  },

  async product(id, [m, k, n], leastMs) {
    const { adapter } = await open(id);
    const problem = product(m, k, n);
    const handle = await adapter.matmul(problem);
    await handle.run(1);
    const error = productError(problem, await handle.read());
    live.set(id, handle);
    return { error, ...(await calibrate((count) => timed(handle, count), leastMs)) };
  },

  async train(id, name, steps, leastMs) {
    const { adapter } = await open(id);
    const handle = await adapter.train(name);
    const losses = [];
    for (let step = 0; step < steps; step += 1) losses.push(await handle.run(1));
    live.set(id, handle);
    return { losses, ...(await calibrate((count) => timed(handle, count), leastMs)) };
  },

  /** Milliseconds of so many repetitions. */
  async sample(id, count) {
    return timed(live.get(id), count);
  },

  close(id) {
    live.get(id)?.dispose();
    live.delete(id);
  },
};
window.benchReady = true;
