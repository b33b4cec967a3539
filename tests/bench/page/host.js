// The page's side of a comparison: prepares competitors, checks what they compute, and times one sample at a time. Which
// sample comes when is the driver's business (../run.mjs).
import { model, uniform } from "./models.js";
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

/** Largest error of random entries against a float64 dot product, over the norms of row and column. */
function productError({ m, k, n, a, b }, c) {
  if (c?.length !== m * n) return Infinity;
  let seed = 12345;
  const below = (count) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 4294967296) * count);
  };
  let worst = 0;
  for (let entry = 0; entry < 256; entry += 1) {
    const [i, j] = [below(m), below(n)];
    let [dot, row, column] = [0, 0, 0];
    for (let p = 0; p < k; p += 1) {
      const [x, y] = [a[i * k + p], b[p * n + j]];
      dot += x * y;
      row += x * x;
      column += y * y;
    }
    const error = Math.abs(c[i * n + j] - dot) / Math.sqrt(row * column);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

/** Repetitions that make a sample last about as long as wanted. */
async function calibrate(run, leastMs) {
  let [count, ms] = [1, 0];
  for (let turn = 0; turn < 8; turn += 1) {
    const begun = performance.now();
    await run(count);
    ms = performance.now() - begun;
    if (ms >= leastMs) break;
    count = Math.ceil(count * Math.min(8, (1.2 * leastMs) / Math.max(ms, 0.2)));
  }
  return { count, ms };
}

window.bench = {
  async open(id) {
    return (await open(id)).told;
  },

  async product(id, [m, k, n], leastMs) {
    const { adapter } = await open(id);
    const problem = { m, k, n, a: uniform(m * k, 1), b: uniform(k * n, 2) };
    const handle = await adapter.matmul(problem);
    await handle.run(1);
    const error = productError(problem, await handle.read());
    live.set(id, handle);
    return { error, ...(await calibrate((count) => handle.run(count), leastMs)) };
  },

  async train(id, name, steps, leastMs) {
    const { adapter } = await open(id);
    const handle = await adapter.train(name);
    const losses = [];
    for (let step = 0; step < steps; step += 1) losses.push(await handle.run(1));
    live.set(id, handle);
    return { losses, ...(await calibrate((count) => handle.run(count), leastMs)) };
  },

  /** Milliseconds of so many repetitions. */
  async sample(id, count) {
    const begun = performance.now();
    await live.get(id).run(count);
    return performance.now() - begun;
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
