// Compares our engine with others in one headless Chromium and natively, turn by turn, so that a busy machine slows all
// alike: `node run.mjs '{"suite":"matmul"|"train"|"workers"|"receipts", …}'`, called by `cargo xtask bench`. Tables go to standard error, one
// JSON object to standard output. Each backend has a page of its own; pages are not isolated, so wasm has one thread.
import fs from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { nativeStage } from "./native.mjs";
import { receipts } from "./receipts.mjs";
import { workers } from "./workers.mjs";

const here = path.dirname(fileURLToPath(import.meta.url));
const options = {
  suite: "matmul",
  rounds: 5,
  least_ms: 150,
  // Of a step and its bare dispatches.
  pairs: 15,
  limit_s: 240,
  models: ["mlp", "cnn", "gpt"],
  // f16: on WebGPU also our blocked variant on operands in f16, beside the same on f32.
  dtype: "f32",
  shapes: [[256, 256, 256], [512, 512, 512], [1024, 1024, 1024], [64, 784, 256], [784, 64, 256], [256, 256, 1024], [1024, 384, 1536]],
  backends: ["webgpu", "wasm", "native"],
  gpu: false,
  chromium: "/usr/bin/chromium",
  native: "",
  python: "",
  ...JSON.parse(process.argv[2] ?? "{}"),
};
const others = ["tfjs", "jaxjs"];
const log = (line) => process.stderr.write(`${line}\n`);

const median = (values) => {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  return (sorted[Math.floor(middle)] + sorted[Math.ceil(middle)]) / 2;
};
const spread = (values) => ({ median: median(values), worst: Math.min(...values), best: Math.max(...values) });
const short = (value) => (value === undefined ? "-" : Number(value.toPrecision(3)).toString());

/** The libraries as files that a page can import. */
async function bundle() {
  const { build } = await import("esbuild");
  const modules = path.join(here, "node_modules");
  const version = (name) => JSON.parse(fs.readFileSync(path.join(modules, name, "package.json"), "utf8")).version;
  const dist = path.join(here, "dist");
  await build({
    entryPoints: others.map((name) => path.join(here, `page/${name}.js`)),
    outdir: dist,
    bundle: true,
    splitting: true,
    format: "esm",
    target: "es2022",
    platform: "browser",
    logLevel: "error",
    external: ["fs", "path", "util", "worker_threads", "crypto", "os", "node:*"],
    define: {
      __JAXJS_VERSION__: JSON.stringify(version("@jax-js/jax")),
      "process.env.NODE_ENV": '"production"',
    },
  });
  const wasm = path.join(modules, "@tensorflow/tfjs-backend-wasm/dist");
  fs.mkdirSync(path.join(dist, "tfjs-wasm"), { recursive: true });
  for (const file of fs.readdirSync(wasm).filter((name) => name.endsWith(".wasm"))) {
    fs.copyFileSync(path.join(wasm, file), path.join(dist, "tfjs-wasm", file));
  }
}

/** Serves this folder on loopback. */
async function serve() {
  const kinds = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm" };
  const server = http.createServer((request, response) => {
    const file = path.join(here, path.normalize(new URL(request.url, "http://x").pathname));
    if (!file.startsWith(here + path.sep) || !fs.existsSync(file) || !fs.statSync(file).isFile()) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, { "content-type": kinds[path.extname(file)] ?? "application/octet-stream" });
    response.end(fs.readFileSync(file));
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return server;
}

async function openPage(browser, port) {
  const page = await browser.newPage();
  page.setDefaultTimeout(options.limit_s * 1000);
  await page.goto(`http://127.0.0.1:${port}/page/index.html`);
  await page.waitForFunction("window.benchReady");
  return page;
}

/** A promise, or an error once the limit is over. */
function limited(promise) {
  let timer;
  const late = new Promise((_, failed) => {
    timer = setTimeout(() => failed(new Error(`no answer within ${options.limit_s} s`)), options.limit_s * 1000);
  });
  promise.catch(() => {});
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** What `compare` needs of a page where competitors run. */
function pageStage(page, backend) {
  const { least_ms } = options;
  return {
    product: (id, shape) => page.evaluate((all) => window.bench.product(...all), [id, shape, least_ms, options.dtype]),
    train: (id, name, steps) => page.evaluate((all) => window.bench.train(...all), [id, name, steps, least_ms]),
    sample: async (id, count) => ({ ms: await page.evaluate((all) => window.bench.sample(...all), [id, count]) }),
    close: (id) => page.evaluate((id) => window.bench.close(id), id),
    // What only a page with a GPU device can tell.
    device: backend === "webgpu" && {
      peak: () => page.evaluate((ms) => window.bench.peak(ms), least_ms),
      overhead: (id, count, pairs) => page.evaluate((all) => window.bench.overhead(...all), [id, count, pairs]),
      flop: (name) => page.evaluate((name) => window.bench.flop(name), name),
    },
  };
}

/**
 * One problem on one backend by all competitors, in turns; per competitor rates of `per` a repetition, by the clock and,
 * where it is told, by the time that the competitor had the processor. `prepare` gives the repetitions of a sample, or throws;
 * `last` is called before anything is closed.
 */
async function compare(stage, ids, per, prepare, last = async () => undefined) {
  const ready = new Map();
  for (const id of ids) {
    try {
      ready.set(id, await limited(prepare(id)));
    } catch (error) {
      log(`  ${id}: ${String(error.message).split("\n")[0].slice(0, 160)}`);
    }
  }
  const order = [...ready.keys()];
  const [rates, processor] = [new Map(order.map((id) => [id, []])), new Map()];
  for (let round = 0; round < options.rounds; round += 1) {
    for (let turn = 0; turn < order.length; turn += 1) {
      const id = order[(turn + round) % order.length];
      const { count, ms } = ready.get(id);
      // A sample of many seconds is not repeated.
      if (ms > 20_000 && round > 0) continue;
      const took = await stage.sample(id, count);
      rates.get(id).push((per * count) / took.ms);
      if (took.processorMs) processor.set(id, [...(processor.get(id) ?? []), (per * count) / took.processorMs]);
    }
  }
  const more = await last(ready);
  for (const id of order) await stage.close(id);
  return { rates, processor, ready, more };
}

/** Ours, the others and how ours does beside the best of them, from rates per competitor. */
function ratios(rates, unit) {
  const peers = {};
  const spreads = {};
  for (const [id, values] of rates) {
    spreads[id] = spread(values);
    if (!id.startsWith("ours")) peers[id] = spreads[id].median;
  }
  const ours = [...rates.keys()].find((id) => id.startsWith("ours"));
  const best = Object.entries(peers).toSorted((a, b) => b[1] - a[1])[0];
  const rate = ours === undefined ? null : spreads[ours].median;
  // Round by round, for what else the machine does slows the samples of a round alike.
  const rounds = ours && best ? rates.get(best[0]).map((value, round) => rates.get(ours)[round] / value) : [];
  const finite = rounds.filter(Number.isFinite);
  const ratio = finite.length > 0 ? median(finite) : null;
  return { [`ours_${unit}`]: rate, peers, best_peer: best?.[0] ?? null, ratio, spreads };
}

/** What the JSON says of one problem. */
function summary({ rates, processor, ready }, unit) {
  return {
    ...ratios(rates, unit),
    ...(processor.size > 0 ? { by_processor_time: ratios(processor, unit) } : {}),
    errors: Object.fromEntries([...ready].filter(([, told]) => "error" in told).map(([id, told]) => [id, told.error])),
  };
}

/** The adapter's fma peak by samples from before and after a problem, and the share of it that so many GFLOP/s are. */
async function shareOfPeak(device, gflops, before) {
  const peak = spread([...before, ...(await device.peak())]);
  return { fma_peak_gflops: peak, share_of_peak: gflops === null ? null : gflops / peak.median };
}

/** What a step takes longer than its dispatches alone, as a share of it: per pair of samples. */
async function overhead(device, ready) {
  const id = "ours-webgpu";
  if (!ready.has(id)) return {};
  const { samples, dispatches } = await device.overhead(id, ready.get(id).count, options.pairs);
  const shares = samples.map(({ step_ms, replay_ms }) => 1 - replay_ms / step_ms).toSorted((a, b) => a - b);
  const quartile = (part) => shares[Math.round((shares.length - 1) * part)];
  const told = { median: median(shares), quartiles: [quartile(0.25), quartile(0.75)], pairs: shares.length };
  return { dispatches, overhead: told };
}

function tell(problem, { spreads, ratio, best_peer, by_processor_time, share_of_peak, overhead, dispatches }) {
  const cells = Object.entries(spreads).map(([id, s]) => `${id} ${short(s.median)} (${short(s.worst)}–${short(s.best)})`);
  const beside = ratio !== null ? `   ${short(ratio)} x ${best_peer}` : "";
  const used = typeof by_processor_time?.ratio === "number" ? `   ${short(by_processor_time.ratio)} by processor time` : "";
  log(`${problem.padEnd(18)} ${cells.join("   ")}${beside}${used}`);
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  if (typeof share_of_peak === "number") log(`${"".padEnd(18)} ${percent(share_of_peak)} of the adapter's fma peak`);
  if (overhead) {
    const [low, high] = overhead.quartiles.map(percent);
    log(`${"".padEnd(18)} overhead ${percent(overhead.median)} (${low} to ${high}), ${dispatches} dispatches a step`);
  }
}

/** What the blocked variant gains by operands in f16, of so many bytes. */
function besideF32({ spreads }, operand_bytes) {
  const [f32, f16] = ["ours-webgpu-blocked", "ours-webgpu-blocked-f16"].map((id) => spreads[id]?.median);
  return f32 && f16 ? { ratio: f16 / f32, operand_bytes } : null;
}

async function matmul(stage, ids) {
  const shapes = [];
  for (const [m, k, n] of options.shapes) {
    const prepare = async (id) => {
      const told = await stage.product(id, [m, k, n]);
      if (!(told.error < 1e-5)) throw new Error(`wrong product, error ${told.error}`);
      return told;
    };
    const before = stage.device ? await stage.device.peak() : [];
    const row = { m, k, n, ...summary(await compare(stage, ids, (2 * m * k * n) / 1e6, prepare), "gflops") };
    if (stage.device) Object.assign(row, await shareOfPeak(stage.device, row.ours_gflops, before));
    const halved = besideF32(row, (m * k + k * n) * 2);
    if (halved) row.f16 = halved;
    shapes.push(row);
    tell(`${m}x${k}x${n}`, row);
    if (halved) log(`${"".padEnd(18)} f16 ${short(halved.ratio)} x f32, ${halved.operand_bytes} bytes of operands in place of twice as many`);
  }
  return { shapes };
}

/** The first losses of each model. */
const references = () => JSON.parse(fs.readFileSync(path.join(here, "reference-losses.json"), "utf8"));

async function train(stage, ids) {
  const { device } = stage;
  const reference = references();
  const models = {};
  for (const name of options.models) {
    const steps = name === "gpt" && device && !options.gpu ? 2 : 5;
    const prepare = async (id) => {
      const told = await stage.train(id, name, steps);
      const off = told.losses.map((loss, step) => Math.abs(loss - reference[name][step]) / reference[name][step]);
      const error = off.length === steps && off.every(Number.isFinite) ? Math.max(...off) : Infinity;
      if (!(error < 5e-3)) throw new Error(`wrong losses: ${told.losses.join(" ")}`);
      return { ...told, error };
    };
    const before = device ? await device.peak() : [];
    const last = async (ready) => (device ? overhead(device, ready) : {});
    const compared = await compare(stage, ids, 1000, prepare, last);
    const row = { ...summary(compared, "steps_per_s"), ...compared.more };
    if (device) {
      row.gflop_per_step = (await device.flop(name)) / 1e9;
      const gflops = row.ours_steps_per_s === null ? null : row.ours_steps_per_s * row.gflop_per_step;
      Object.assign(row, await shareOfPeak(device, gflops, before));
    }
    row.loss_error = Object.entries(row.errors).find(([id]) => id.startsWith("ours"))?.[1] ?? null;
    models[name] = row;
    tell(name, row);
  }
  return { models };
}

const suites = { matmul, train };

/** What `measure` finds with a browser and this folder's server at hand. */
async function inBrowser(measure) {
  const { chromium } = await import("playwright-core");
  const server = await serve();
  const graphics = options.gpu ? ["--enable-features=Vulkan", "--use-angle=vulkan"] : ["--use-webgpu-adapter=swiftshader"];
  const browser = await chromium.launch({
    executablePath: options.chromium,
    args: ["--no-sandbox", "--enable-unsafe-webgpu", "--disable-gpu-watchdog", ...graphics],
  });
  try {
    await measure(browser, server.address().port);
  } finally {
    await browser.close();
    server.close();
  }
}

/** Our engine and others, on WebGPU and as wasm, each backend on a page of its own. */
async function compareInPages(backends, result, browser, port) {
  for (const backend of backends) {
    const page = await openPage(browser, port);
    const ids = ["ours", ...others].map((name) => `${name}-${backend}`);
    if (options.dtype === "f16" && backend === "webgpu") ids.push("ours-webgpu-blocked", "ours-webgpu-blocked-f16");
    const opened = [];
    for (const id of ids) {
      try {
        const told = await limited(page.evaluate((id) => window.bench.open(id), id));
        if (id === "ours-webgpu") result.adapter = told.adapter;
        opened.push(id);
      } catch (error) {
        log(`${id}: ${String(error.message).slice(0, 200)}`);
      }
    }
    log(`\n${options.suite} on ${backend}: medians of ${options.rounds} rounds (worst–best)`);
    const part = await suites[options.suite](pageStage(page, backend), opened);
    if (backend === "webgpu") Object.assign(result, part);
    else result.cpu = { backend: "wasm", threads: 1, ...part };
    await page.close();
  }
}

/** Our engine natively beside OpenBLAS or XLA, all on one thread. */
async function natively() {
  log(`\n${options.suite} natively, one thread: medians of ${options.rounds} rounds (worst–best)`);
  const stage = nativeStage(options, options.least_ms);
  try {
    const part = await suites[options.suite](stage, ["ours-native", { matmul: "openblas-native", train: "xla-native" }[options.suite]]);
    return { adapter: os.cpus()[0]?.model ?? null, backend: "native", threads: 1, ...part };
  } finally {
    await stage.end();
  }
}

async function main() {
  const result = { suite: options.suite, adapter: null, backend: "webgpu", rounds: options.rounds };
  const browsed = ["webgpu", "wasm"].filter((name) => options.backends.includes(name));
  if (options.suite === "workers") {
    await inBrowser(async (browser, port) => {
      const page = await openPage(browser, port);
      log(`\none and two at once: medians of ${options.rounds} rounds`);
      const models = await workers(page, options, references(), spread, log);
      Object.assign(result, { backend: "wasm", cores: os.availableParallelism(), models });
    });
    process.stdout.write(`${JSON.stringify(result)}\n`);
    return;
  }
  if (options.suite === "receipts") {
    await inBrowser(async (browser, port) => {
      const page = await openPage(browser, port);
      log(`\nchecks of a log in a tab: medians of ${options.rounds} rounds (least–most)`);
      Object.assign(result, { backend: "wasm", ...(await receipts(page, options, spread, log)) });
    });
    process.stdout.write(`${JSON.stringify(result)}\n`);
    return;
  }
  if (browsed.length > 0) {
    await bundle();
    await inBrowser((browser, port) => compareInPages(browsed, result, browser, port));
  }
  if (options.backends.includes("native")) {
    const part = await natively();
    if (browsed.length > 0) result.native = part;
    else Object.assign(result, part);
  }
  process.stdout.write(`${JSON.stringify(result)}\n`);
}

await main();
