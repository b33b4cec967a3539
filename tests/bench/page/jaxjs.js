// jax-js: whole training step (forward, backward, update) inside one jit().
import * as jax from "@jax-js/jax";
import { model, cnnToNCHW } from "./models.js";
const { numpy: np, nn, lax, jit, valueAndGrad } = jax;

function lossFn(name, spec) {
  const dense = (x, w, b) => np.add(np.matmul(x, w), b);
  const xent = (logits, y) => np.negative(np.mean(np.sum(np.multiply(y, nn.logSoftmax(logits)), -1)));
  if (name === "mlp")
    return ([w1, b1, w2, b2, w3, b3], x, y) =>
      xent(dense(nn.relu(dense(nn.relu(dense(x, w1, b1)), w2, b2)), w3, b3), y);
  if (name === "cnn") {
    const pool = (h, n, c, s) => np.max(np.max(np.reshape(h, [n, c, s / 2, 2, s / 2, 2]), 5), 3);
    return ([k1, b1, k2, b2, w, b], x, y) => {
      let h = pool(nn.relu(np.add(lax.conv(x, k1, [1, 1], "VALID"), np.reshape(b1, [1, 8, 1, 1]))), 64, 8, 24);
      h = pool(nn.relu(np.add(lax.conv(h, k2, [1, 1], "VALID"), np.reshape(b2, [1, 16, 1, 1]))), 64, 16, 8);
      return xent(dense(np.reshape(h, [64, 256]), w, b), y);
    };
  }
  const { T, D, L, H, B } = spec.dims,
    hd = D / H;
  const ln = (h, g, b) => {
    const c = h.ref.sub(np.mean(h, -1, { keepdims: true }));
    const v = np.mean(np.square(c.ref), -1, { keepdims: true });
    return c
      .mul(np.reciprocal(np.sqrt(v.add(1e-5))))
      .mul(g)
      .add(b);
  };
  const gelu = (u) =>
    u.ref
      .mul(0.5)
      .mul(np.tanh(u.ref.add(np.multiply(u.ref, np.square(u)).mul(0.044715)).mul(0.7978845608028654)).add(1));
  return (P, x, y) => {
    const [oh, mask] = x;
    let h = np.reshape(np.add(np.reshape(np.matmul(oh, P[0]), [B, T, D]), P[1]), [B * T, D]),
      i = 2;
    for (let l = 0; l < L; l++, i += 12) {
      const qkv = np.transpose(
        np.reshape(dense(ln(h.ref, P[i], P[i + 1]), P[i + 2], P[i + 3]), [B, T, 3, H, hd]),
        [2, 0, 3, 1, 4],
      );
      const q = qkv.ref.slice(0),
        k = qkv.ref.slice(1),
        v = qkv.slice(2);
      const att = nn.softmax(
        np
          .matmul(q, np.transpose(k, [0, 1, 3, 2]))
          .mul(1 / Math.sqrt(hd))
          .add(l === L - 1 ? mask : mask.ref),
        -1,
      );
      const o = np.reshape(np.transpose(np.matmul(att, v), [0, 2, 1, 3]), [B * T, D]);
      h = h.add(dense(o, P[i + 4], P[i + 5]));
      h = h.ref.add(dense(gelu(dense(ln(h, P[i + 6], P[i + 7]), P[i + 8], P[i + 9])), P[i + 10], P[i + 11]));
    }
    return xent(np.matmul(ln(h, P[i], P[i + 1]), P[i + 2]), y);
  };
}

function make(dev, id, kind) {
  const use = () => jax.defaultDevice(dev);
  const arr = (d, shape) => np.array(d, { shape, device: dev });
  return {
    id,
    label: `jax-js ${dev}`,
    kind,
    async init() {
      const got = await jax.init(dev);
      if (!got.includes(dev)) throw new Error("device refused: " + dev);
      use();
      return {
        version: __JAXJS_VERSION__,
        threads: dev === "wasm" ? (globalThis.crossOriginIsolated ? "all cores" : 1) : undefined,
      };
    },
    async matmul({ m, k, n, a, b }) {
      use();
      const A = arr(a, [m, k]),
        B = arr(b, [k, n]),
        f = jit((x, y) => np.matmul(x, y));
      await jax.blockUntilReady([A.ref, B.ref]);
      return {
        // jax-js is lazy: a result that is dropped unread is never computed, so every result is forced.
        async run(reps) {
          use();
          for (let i = 0; i < reps; ) {
            const outs = [];
            for (let j = 0; j < 16 && i < reps; j++, i++) {
              const c = f(A.ref, B.ref);
              outs.push(c.blockUntilReady().then(() => c.dispose()));
            }
            await Promise.all(outs);
          }
        },
        async read() {
          use();
          return await f(A.ref, B.ref).data();
        },
        dispose() {
          A.dispose();
          B.dispose();
          f.dispose?.();
        },
      };
    },
    async train(name) {
      use();
      const spec = model(name),
        o = spec.opt,
        ps = name === "cnn" ? cnnToNCHW(spec.params) : spec.params;
      const oh = (y, c) => {
        const d = new Float32Array(y.length * c);
        y.forEach((v, i) => (d[i * c + v] = 1));
        return arr(d, [y.length, c]);
      };
      const data = spec.batches.map(({ x, y }) =>
        name === "gpt"
          ? { x: oh(x, 256), y: oh(y, 256) }
          : { x: arr(x, name === "cnn" ? [64, 1, 28, 28] : [64, 784]), y: oh(y, 10) },
      );
      let mask = null;
      if (name === "gpt") {
        const T = spec.dims.T,
          mk = new Float32Array(T * T);
        for (let i = 0; i < T; i++) for (let j = i + 1; j < T; j++) mk[i * T + j] = -1e9;
        mask = arr(mk, [1, 1, T, T]);
      }
      const vg = valueAndGrad(lossFn(name, spec));
      let P = ps.map((p) => arr(p.data, p.shape)),
        M = null,
        V = null;
      const zeros = () => ps.map((p) => arr(new Float32Array(p.data.length), p.shape));
      let step;
      if (o.kind === "sgd") {
        step = jit((P, x, y) => {
          const [loss, g] = vg(
            P.map((p) => p.ref),
            x,
            y,
          );
          return [loss, P.map((p, i) => p.sub(g[i].mul(o.lr)))];
        });
      } else {
        M = zeros();
        V = zeros();
        step = jit((P, M, V, c, x, mask, y) => {
          const [loss, g] = vg(
            P.map((p) => p.ref),
            [x, mask],
            y,
          );
          const c1 = c.ref.slice(0),
            c2 = c.slice(1); // 1/(1-b1^t), 1/(1-b2^t)
          const nM = M.map((m, i) => m.mul(o.b1).add(g[i].ref.mul(1 - o.b1)));
          const nV = V.map((v, i) => v.mul(o.b2).add(np.square(g[i]).mul(1 - o.b2)));
          const nP = P.map((p, i) =>
            p.mul(1 - o.lr * o.wd).sub(
              nM[i].ref
                .mul(c1.ref)
                .mul(o.lr)
                .div(np.sqrt(nV[i].ref.mul(c2.ref)).add(o.eps)),
            ),
          );
          c1.dispose();
          c2.dispose();
          return [loss, nP, nM, nV];
        });
      }
      let it = 0,
        t = 0;
      return {
        async run(steps) {
          use();
          let loss, prev;
          for (let i = 0; i < steps; i++) {
            const { x, y } = data[it++ % data.length];
            loss?.dispose();
            t++;
            if (o.kind === "sgd") [loss, P] = step(P, x.ref, y.ref);
            else
              [loss, P, M, V] = step(
                P,
                M,
                V,
                arr(new Float32Array([1 / (1 - o.b1 ** t), 1 / (1 - o.b2 ** t)]), [2]),
                x.ref,
                mask.ref,
                y.ref,
              );
            await prev;
            prev = loss.ref.blockUntilReady().then((a) => a.dispose()); // submit this step, wait for the one before
          }
          await prev;
          await P[P.length - 1].blockUntilReady();
          return (await loss.data())[0];
        },
        dispose() {
          for (const q of [P, M, V]) q?.forEach((a) => a.dispose());
          data.forEach((d) => {
            d.x.dispose();
            d.y.dispose();
          });
          mask?.dispose();
          step.dispose?.();
        },
      };
    },
  };
}
export const adapters = [make("webgpu", "jaxjs-webgpu", "webgpu"), make("wasm", "jaxjs-wasm", "wasm")];
