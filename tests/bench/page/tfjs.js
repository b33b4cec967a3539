// TensorFlow.js: one engine, three backends. Weights stay in tf.Variable, a step is
// computeGradients + applyGradients; nothing is read back until the end of run().
import * as tf from "@tensorflow/tfjs-core";
import "@tensorflow/tfjs-core/dist/register_all_gradients.js";
import "@tensorflow/tfjs-backend-cpu";
import { setWasmPaths, setThreadsCount } from "@tensorflow/tfjs-backend-wasm";
import "@tensorflow/tfjs-backend-webgpu";
import { model } from "./models.js";

function lossFn(name, V, x, y, spec, useGather) {
  const dense = (a, i, j) => tf.fused.matMul({ a, b: V[i], bias: V[j] });
  const xent = (logits) => tf.neg(tf.mean(tf.sum(tf.mul(y, tf.logSoftmax(logits)), -1)));
  if (name === "mlp") return xent(dense(tf.relu(dense(tf.relu(dense(x, 0, 1)), 2, 3)), 4, 5));
  if (name === "cnn") {
    let h = tf.maxPool(tf.relu(tf.add(tf.conv2d(x, V[0], 1, "valid"), V[1])), 2, 2, "valid");
    h = tf.maxPool(tf.relu(tf.add(tf.conv2d(h, V[2], 1, "valid"), V[3])), 2, 2, "valid");
    return xent(dense(tf.reshape(h, [64, 256]), 4, 5));
  }
  const { T, D, L, H, B } = spec.dims,
    hd = D / H;
  const ln = (h, g, b) => {
    const m = tf.mean(h, -1, true),
      c = tf.sub(h, m),
      v = tf.mean(tf.square(c), -1, true);
    return tf.add(tf.mul(tf.mul(c, tf.rsqrt(tf.add(v, 1e-5))), V[g]), V[b]);
  };
  const gelu = (u) =>
    tf.mul(
      tf.mul(0.5, u),
      tf.add(1, tf.tanh(tf.mul(0.7978845608028654, tf.add(u, tf.mul(0.044715, tf.mul(u, tf.square(u))))))),
    );
  const emb = useGather ? tf.gather(V[0], x) : tf.matMul(x, V[0]);
  let h = tf.reshape(tf.add(tf.reshape(emb, [B, T, D]), V[1]), [B * T, D]),
    i = 2;
  for (let l = 0; l < L; l++, i += 12) {
    const qkv = tf.transpose(tf.reshape(dense(ln(h, i, i + 1), i + 2, i + 3), [B, T, 3, H, hd]), [2, 0, 3, 1, 4]);
    const [q, k, v] = tf.unstack(qkv, 0);
    const att = tf.softmax(tf.add(tf.mul(tf.matMul(q, k, false, true), 1 / Math.sqrt(hd)), spec.mask));
    const o = tf.reshape(tf.transpose(tf.matMul(att, v), [0, 2, 1, 3]), [B * T, D]);
    h = tf.add(h, dense(o, i + 4, i + 5));
    h = tf.add(h, dense(gelu(dense(ln(h, i + 6, i + 7), i + 8, i + 9)), i + 10, i + 11));
  }
  return xent(tf.matMul(ln(h, i, i + 1), V[i + 2]));
}

function make(backend, id, kind) {
  const use = async () => {
    if (tf.getBackend() !== backend) {
      if (!(await tf.setBackend(backend))) throw new Error("backend " + backend + " refused");
      await tf.ready();
    }
  };
  return {
    id,
    label: `tfjs ${backend}`,
    kind,
    async init() {
      if (backend === "wasm") {
        setWasmPaths("/dist/tfjs-wasm/");
        if (globalThis.crossOriginIsolated) setThreadsCount(navigator.hardwareConcurrency);
      }
      await use();
      return {
        version: tf.version_core,
        threads: backend === "wasm" ? (globalThis.crossOriginIsolated ? navigator.hardwareConcurrency : 1) : undefined,
      };
    },
    async matmul({ m, k, n, a, b }) {
      await use();
      const A = tf.tensor2d(a, [m, k]),
        B = tf.tensor2d(b, [k, n]);
      return {
        async run(reps) {
          await use();
          for (let i = 0; i < reps; i++) {
            const c = tf.matMul(A, B);
            if (i === reps - 1) {
              const s = tf.slice(c, [0, 0], [1, 1]);
              await s.data();
              s.dispose();
            }
            c.dispose();
          }
        },
        async read() {
          await use();
          const c = tf.matMul(A, B),
            d = await c.data();
          c.dispose();
          return d;
        },
        dispose() {
          A.dispose();
          B.dispose();
        },
      };
    },
    async train(name) {
      await use();
      const need = name === "cnn" ? ["Conv2DBackpropFilter", "Conv2DBackpropInput", "MaxPoolGrad"] : [];
      for (const op of need)
        if (!tf.getKernel(op, backend)) throw new Error(`unsupported: tfjs ${backend} has no ${op} kernel`);
      const spec = model(name),
        useGather = !!tf.getKernel("UnsortedSegmentSum", backend);
      const vars = spec.params.map((p) => tf.variable(tf.tensor(p.data, p.shape)));
      const oh = (y, c) => tf.tidy(() => tf.cast(tf.oneHot(tf.tensor1d(y, "int32"), c), "float32"));
      const data = spec.batches.map(({ x, y }) =>
        name === "gpt"
          ? { x: useGather ? tf.tensor1d(x, "int32") : oh(x, 256), y: oh(y, 256) }
          : { x: tf.tensor(x, name === "cnn" ? [64, 28, 28, 1] : [64, 784]), y: oh(y, 10) },
      );
      if (name === "gpt") {
        const T = spec.dims.T,
          mk = new Float32Array(T * T);
        for (let i = 0; i < T; i++) for (let j = i + 1; j < T; j++) mk[i * T + j] = -1e9;
        spec.mask = tf.tensor(mk, [1, 1, T, T]);
      }
      const o = spec.opt,
        opt = o.kind === "sgd" ? tf.train.sgd(o.lr) : tf.train.adam(o.lr, o.b1, o.b2, o.eps);
      let it = 0;
      const step = () =>
        tf.tidy(() => {
          const { x, y } = data[it++ % data.length];
          const { value, grads } = tf.variableGrads(() => lossFn(name, vars, x, y, spec, useGather), vars);
          if (o.wd) for (const v of vars) v.assign(tf.mul(v, 1 - o.lr * o.wd));
          opt.applyGradients(grads);
          return value;
        });
      return {
        async run(steps) {
          await use();
          for (let i = 0; i < steps; i++) {
            const l = step();
            if (i === steps - 1) {
              const s = tf.tidy(() => tf.slice(tf.reshape(vars[vars.length - 1], [-1]), [0], [1]));
              await s.data();
              s.dispose();
              const r = (await l.data())[0];
              l.dispose();
              return r;
            }
            l.dispose();
          }
        },
        dispose() {
          vars.forEach((v) => v.dispose());
          data.forEach((d) => {
            d.x.dispose();
            d.y.dispose();
          });
          opt.dispose();
          spec.mask?.dispose();
        },
      };
    },
  };
}
export const adapters = [
  make("webgpu", "tfjs-webgpu", "webgpu"),
  make("wasm", "tfjs-wasm", "wasm"),
  make("cpu", "tfjs-cpu", "js"),
];
