// How much two workers compute beside one, as two native processes of one thread do beside one, in the same run:
// steps per second of one and of two workers of one page, and of one and two processes, round by round in turn. The page
// is not isolated, so the workers share no memory. Called by run.mjs.
import { spawn } from "node:child_process";

/** Begins workers in the page and has the model in each; gives the first losses of each. */
function open(page, name) {
  return page.evaluate(async (name) => {
    window.ask = (worker, message) =>
      new Promise((done, failed) => {
        worker.onmessage = ({ data }) => (data.error === undefined ? done(data) : failed(new Error(data.error)));
        worker.onerror = (event) => failed(new Error(event.message ?? "the worker failed"));
        worker.postMessage(message);
      });
    window.lanes = [0, 1].map(() => new Worker("/page/lane.js", { type: "module" }));
    const told = await Promise.all(window.lanes.map((worker) => window.ask(worker, { name })));
    return { isolated: window.crossOriginIsolated, losses: told.map(({ losses }) => losses) };
  }, name);
}

/** Steps per second of so many workers together. */
async function wasm(page, count, ms) {
  const rates = await page.evaluate(
    ([count, ms]) => Promise.all(window.lanes.slice(0, count).map((worker) => window.ask(worker, { ms }))),
    [count, ms],
  );
  return rates.reduce((sum, { rate }) => sum + rate, 0);
}

/** Steps per second of so many processes together. */
async function native(program, name, count, ms) {
  const one = () =>
    new Promise((done, failed) => {
      const child = spawn(program, ["train", name, String(ms)], { stdio: ["ignore", "pipe", "inherit"] });
      let text = "";
      child.stdout.on("data", (bytes) => (text += bytes));
      child.on("error", failed);
      child.on("close", (status) => (status === 0 ? done(Number(text)) : failed(new Error(`the native program: ${status}`))));
    });
  const rates = await Promise.all(Array.from({ length: count }, one));
  return rates.reduce((sum, rate) => sum + rate, 0);
}

/**
 * Per model rates, what a second one gains, and the share of the native gain that the workers reach: the median over
 * the rounds, for both were measured in each.
 */
export async function workers(page, options, reference, spread, log) {
  const models = {};
  for (const name of options.models) {
    const { isolated, losses } = await open(page, name);
    if (isolated) throw new Error("the page is isolated");
    for (const found of losses) {
      const off = found.map((loss, step) => Math.abs(loss - reference[name][step]) / reference[name][step]);
      if (!(off.length > 0 && off.every((error) => error < 5e-3))) throw new Error(`wrong losses: ${found.join(" ")}`);
    }
    const measures = [
      ["wasm_1", () => wasm(page, 1, options.least_ms)],
      ["wasm_2", () => wasm(page, 2, options.least_ms)],
      ["native_1", () => native(options.native, name, 1, options.least_ms)],
      ["native_2", () => native(options.native, name, 2, options.least_ms)],
    ];
    const rates = Object.fromEntries(measures.map(([id]) => [id, []]));
    for (let round = 0; round < options.rounds; round += 1) {
      for (let turn = 0; turn < measures.length; turn += 1) {
        const [id, measure] = measures[(turn + round) % measures.length];
        rates[id].push(await measure());
      }
    }
    await page.evaluate(() => window.lanes.forEach((worker) => worker.terminate()));
    const gains = (kind) => rates[`${kind}_2`].map((two, round) => two / rates[`${kind}_1`][round]);
    const [ours, others] = [gains("wasm"), gains("native")];
    const spreads = Object.fromEntries(Object.entries(rates).map(([id, values]) => [`${id}_steps_per_s`, spread(values)]));
    const ratio = spread(ours.map((gain, round) => gain / others[round]));
    const medians = Object.fromEntries(Object.entries(spreads).map(([id, values]) => [id, values.median]));
    models[name] = {
      ...medians,
      gain_wasm: spread(ours).median,
      gain_native: spread(others).median,
      ratio: ratio.median,
      spreads: { ...spreads, ratio },
    };
    const cells = Object.entries(models[name]).filter(([, value]) => typeof value === "number");
    log(`${name.padEnd(6)} ${cells.map(([id, value]) => `${id} ${value.toPrecision(3)}`).join("   ")}`);
  }
  return models;
}
