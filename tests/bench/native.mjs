// Competitors outside the browser, each a process of one thread that computes what it is told a line at a time: ours
// (`manyhands-bench-native turns`), and OpenBLAS and XLA through Python (peers.py). Problems go to them as files, and what
// they compute comes back for checking. The protocol stands at the head of src/turns.rs.
import { spawn } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { calibrate, product, productError } from "./page/check.js";
import { model } from "./page/models.js";

const here = path.dirname(fileURLToPath(import.meta.url));

/** The variables of this process, with one thread for every library and without choices made for another machine. */
function environment() {
  const { OPENBLAS_CORETYPE: _kernels, OPENBLAS_L2_SIZE: _cache, ...rest } = process.env;
  const threads = { OPENBLAS_NUM_THREADS: "1", OMP_NUM_THREADS: "1", JAX_PLATFORMS: "cpu" };
  return { ...rest, ...threads, XLA_FLAGS: "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" };
}

/** Before a command so that it keeps to one processor, whatever threads it starts; the last that this process may use. */
function pinned() {
  if (process.platform !== "linux") return [];
  const allowed = /^Cpus_allowed_list:\s*(\S+)/m.exec(fs.readFileSync("/proc/self/status", "utf8"));
  return ["taskset", "--cpu-list", allowed[1].split(/[,-]/).at(-1)];
}

/** A process that answers each line with one line. */
class Competitor {
  constructor(command) {
    const [program, ...words] = [...pinned(), ...command];
    this.child = spawn(program, words, { env: environment(), stdio: ["pipe", "pipe", "inherit"] });
    this.answers = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]();
  }

  async ask(...words) {
    this.child.stdin.write(`${words.join(" ")}\n`);
    const { value, done } = await this.answers.next();
    if (done) throw new Error("the process ended");
    if (value.startsWith("error")) throw new Error(value);
    return value.split(" ");
  }
}

/** Leaves nothing in a folder but typed arrays as they lie in memory. */
function write(folder, arrays) {
  for (const name of fs.readdirSync(folder)) fs.rmSync(path.join(folder, name));
  for (const [name, array] of Object.entries(arrays)) fs.writeFileSync(path.join(folder, name), array);
}

/** What `compare` needs of a place where competitors run. */
export function nativeStage({ native, python }, leastMs) {
  const commands = {
    "ours-native": [native, "turns"],
    "openblas-native": [python, path.join(here, "peers.py")],
    "xla-native": [python, path.join(here, "peers.py")],
  };
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "manyhands-bench-"));
  const running = new Map();
  const open = (id) => {
    if (!running.has(id)) running.set(id, new Competitor(commands[id]));
    return running.get(id);
  };
  const sample = async (id, count) => {
    const [ms, processorMs] = (await running.get(id).ask("run", count)).map(Number);
    return { ms, processorMs };
  };
  const calibrated = (id) => calibrate(async (count) => (await sample(id, count)).ms, leastMs);
  return {
    async product(id, [m, k, n]) {
      const problem = product(m, k, n);
      write(folder, { a: problem.a, b: problem.b });
      await open(id).ask("product", m, k, n, folder);
      const bytes = fs.readFileSync(path.join(folder, "c"));
      const c = new Float32Array(new Uint8Array(bytes).buffer);
      return { error: productError(problem, c), ...(await calibrated(id)) };
    },
    async train(id, name, steps) {
      const { params, batches, dims, opt } = model(name);
      const files = batches.flatMap(({ x, y }, index) => [[`x${index}`, x], [`y${index}`, y]]);
      write(folder, Object.fromEntries([...params.map(({ data }, index) => [`p${index}`, data]), ...files]));
      const told = { shapes: params.map(({ shape }) => shape), batches: batches.length, dims, opt };
      fs.writeFileSync(path.join(folder, "model.json"), JSON.stringify(told));
      const losses = (await open(id).ask("train", name, steps, folder)).map(Number);
      return { losses, ...(await calibrated(id)) };
    },
    sample,
    async close() {},
    async end() {
      for (const { child } of running.values()) child.stdin.end();
      fs.rmSync(folder, { recursive: true });
    },
  };
}
