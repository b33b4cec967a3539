// Compares our engine with others in one headless Chromium and natively, turn by turn, so that a busy machine slows all
// alike: `node run.mjs '{"suite":"matmul"|"train", …}'`, called by `cargo xtask bench`. Tables go to standard error, one
// JSON object to standard output. Each backend has a page of its own; pages are not isolated, so wasm has one thread.
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";
import { chromium } from "playwright-core";

const here = path.dirname(fileURLToPath(import.meta.url));
const options = {
  suite: "matmul",
  rounds: 5,
  least_ms: 150,
  limit_s: 240,
  models: ["mlp", "cnn", "gpt"],
  shapes: [[256, 256, 256], [512, 512, 512], [64, 784, 256], [784, 64, 256], [256, 256, 1024], [1024, 384, 1536]],
  backends: ["webgpu", "wasm", "native"],
  gpu: false,
  chromium: "/usr/bin/chromium",
  native: "",
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

/** Ours natively, as often as a page gives samples. */
function native(words) {
  const run = spawnSync(options.native, [...words, String(options.least_ms)], { encoding: "utf8" });
  if (run.status !== 0) throw new Error(run.stderr);
  return Number(run.stdout);
}

/**
 * One problem on one backend by all competitors, in turns; per competitor rates of `per` a repetition.
 * `prepare` gives the repetitions of a sample, or throws.
 */
async function compare(page, ids, per, prepare, nativeWords) {
  const ready = new Map();
  for (const id of ids) {
    try {
      ready.set(id, id === "ours-native" ? { count: 0 } : await limited(prepare(id)));
    } catch (error) {
      log(`  ${id}: ${String(error.message).split("\n")[0].slice(0, 160)}`);
    }
  }
  const rates = new Map([...ready.keys()].map((id) => [id, []]));
  const order = [...ready.keys()];
  for (let round = 0; round < options.rounds; round += 1) {
    for (let turn = 0; turn < order.length; turn += 1) {
      const id = order[(turn + round) % order.length];
      if (id === "ours-native") {
        rates.get(id).push(native(nativeWords));
        continue;
      }
      const { count, ms } = ready.get(id);
      // A sample of many seconds is not repeated.
      if (ms > 20_000 && round > 0) continue;
      const took = await page.evaluate(([id, count]) => window.bench.sample(id, count), [id, count]);
      rates.get(id).push((per * count) / took);
    }
  }
  for (const id of order.filter((id) => id !== "ours-native")) await page.evaluate((id) => window.bench.close(id), id);
  return { rates, ready };
}

/** What the JSON says of one problem, from rates per competitor. */
function summary({ rates, ready }, unit) {
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
  const ratios = rounds.filter(Number.isFinite);
  return {
    [`ours_${unit}`]: rate,
    peers,
    best_peer: best?.[0] ?? null,
    ratio: ratios.length > 0 ? median(ratios) : null,
    spreads,
    errors: Object.fromEntries([...ready].filter(([, told]) => "error" in told).map(([id, told]) => [id, told.error])),
  };
}

function tell(problem, { spreads, ratio, best_peer }) {
  const cells = Object.entries(spreads).map(([id, s]) => `${id} ${short(s.median)} (${short(s.worst)}–${short(s.best)})`);
  log(`${problem.padEnd(18)} ${cells.join("   ")}${ratio !== null ? `   ${short(ratio)} x ${best_peer}` : ""}`);
}

async function matmul(page, ids) {
  const shapes = [];
  for (const [m, k, n] of options.shapes) {
    const prepare = (id) =>
      page.evaluate(([id, shape, ms]) => window.bench.product(id, shape, ms), [id, [m, k, n], options.least_ms]).then((told) => {
        if (!(told.error < 1e-5)) throw new Error(`wrong product, error ${told.error}`);
        return told;
      });
    const compared = await compare(page, ids, (2 * m * k * n) / 1e6, prepare, ["product", m, k, n].map(String));
    const row = { m, k, n, ...summary(compared, "gflops") };
    shapes.push(row);
    tell(`${m}x${k}x${n}`, row);
  }
  return { shapes };
}

async function train(page, ids) {
  const reference = JSON.parse(fs.readFileSync(path.join(here, "reference-losses.json"), "utf8"));
  const models = {};
  for (const name of options.models) {
    const steps = name === "gpt" && ids.some((id) => id.endsWith("webgpu")) && !options.gpu ? 2 : 5;
    const prepare = async (id) => {
      const told = await page.evaluate((all) => window.bench.train(...all), [id, name, steps, options.least_ms]);
      const off = told.losses.map((loss, step) => Math.abs(loss - reference[name][step]) / reference[name][step]);
      const error = off.every(Number.isFinite) ? Math.max(...off) : Infinity;
      if (!(error < 5e-3)) throw new Error(`wrong losses: ${told.losses.join(" ")}`);
      return { ...told, error };
    };
    const compared = await compare(page, ids, 1000, prepare, ["train", name]);
    const row = summary(compared, "steps_per_s");
    row.loss_error = Object.entries(row.errors).find(([id]) => id.startsWith("ours"))?.[1] ?? null;
    models[name] = row;
    tell(name, row);
  }
  return { models };
}

const suites = { matmul, train };

async function main() {
  await bundle();
  const server = await serve();
  const graphics = options.gpu ? ["--enable-features=Vulkan", "--use-angle=vulkan"] : ["--use-webgpu-adapter=swiftshader"];
  const browser = await chromium.launch({
    executablePath: options.chromium,
    args: ["--no-sandbox", "--enable-unsafe-webgpu", "--disable-gpu-watchdog", ...graphics],
  });
  try {
    const result = { suite: options.suite, adapter: null, backend: "webgpu", rounds: options.rounds };
    for (const backend of ["webgpu", "wasm"].filter((name) => options.backends.includes(name))) {
      const page = await openPage(browser, server.address().port);
      const ids = ["ours", ...others].map((name) => `${name}-${backend}`);
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
      if (backend === "wasm" && options.native && options.backends.includes("native")) opened.push("ours-native");
      const part = await suites[options.suite](page, opened);
      if (backend === "webgpu") Object.assign(result, part);
      else result.cpu = { backend: "wasm", threads: 1, ...part };
      await page.close();
    }
    process.stdout.write(`${JSON.stringify(result)}\n`);
  } finally {
    await browser.close();
    server.close();
  }
}

await main();
