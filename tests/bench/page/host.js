// The page's side of a comparison: prepares competitors, checks what they compute, and times one sample at a time. Which
// sample comes when is the driver's business (../run.mjs).
import { calibrate, product, productError } from "./check.js";
import { model } from "./models.js";
import { peak } from "./peak.js";

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

  async product(id, [m, k, n], leastMs, dtype) {
    const { adapter } = await open(id);
    const problem = product(m, k, n, dtype);
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

  /** Milliseconds of so many steps, and of their dispatches and nothing else, in pairs; which comes first changes. */
  async overhead(id, count, pairs) {
    const { run, replay } = live.get(id);
    const took = async (work) => {
      const begun = performance.now();
      await work(count);
      return performance.now() - begun;
    };
    await replay(count);
    const samples = [];
    for (let pair = 0; pair < pairs; pair += 1) {
      const [first, then] = pair % 2 ? [replay, run] : [run, replay];
      const [a, b] = [await took(first), await took(then)];
      samples.push(pair % 2 ? { step_ms: b, replay_ms: a } : { step_ms: a, replay_ms: b });
    }
    return { samples, dispatches: live.get(id).dispatches };
  },

  /** Operations of a model's products in a step. */
  flop: (name) => model(name).flop,

  peak,

  close(id) {
    live.get(id)?.dispose();
    live.delete(id);
  },
};
window.benchReady = true;
