// One worker of a page that computes in several: our engine on one of the models, steps over and over for a given time.
import { adapters } from "/ours.mjs";

const adapter = adapters.find(({ id }) => id === "ours-wasm");
/** Losses that are compared with the reference. */
const CHECKED_STEPS = 5;
/** Steps of one call last about so long. */
const CALL_MS = 50;
let handle;
let callSteps = 1;

async function open(name) {
  await adapter.init();
  handle = await adapter.train(name);
  const losses = [];
  const begun = performance.now();
  for (let step = 0; step < CHECKED_STEPS; step += 1) losses.push(await handle.run(1));
  callSteps = Math.max(1, Math.round((CALL_MS * CHECKED_STEPS) / (performance.now() - begun)));
  return { losses };
}

/** Steps per second. */
async function run(ms) {
  const begun = performance.now();
  let steps = 0;
  let took = 0;
  while (took < ms) {
    await handle.run(callSteps);
    steps += callSteps;
    took = performance.now() - begun;
  }
  return { rate: (1000 * steps) / took };
}

self.onmessage = async ({ data: { name, ms } }) => {
  try {
    self.postMessage(name === undefined ? await run(ms) : await open(name));
  } catch (error) {
    self.postMessage({ error: String(error) });
  }
};
