// The three training problems, fully determined by seeds so that every competitor starts from the
// same weights, sees the same batches and must produce the same losses.
export const SPEC_VERSION = 1;

export function rng(seed) {
  // mulberry32
  let s = seed >>> 0;
  return () => {
    s = (s + 0x6d2b79f5) >>> 0;
    let t = s;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
export function uniform(n, seed, lo = -1, hi = 1) {
  const r = rng(seed),
    o = new Float32Array(n);
  for (let i = 0; i < n; i++) o[i] = lo + (hi - lo) * r();
  return o;
}
export function normal(n, seed, std) {
  const r = rng(seed),
    o = new Float32Array(n);
  for (let i = 0; i < n; i += 2) {
    const u = Math.sqrt(-2 * Math.log(1 - r())),
      v = 2 * Math.PI * r();
    o[i] = std * u * Math.cos(v);
    if (i + 1 < n) o[i + 1] = std * u * Math.sin(v);
  }
  return o;
}
const size = (s) => s.reduce((a, b) => a * b, 1);

function images(nBatches, batch) {
  // ten noisy 28x28 prototypes
  const proto = uniform(10 * 784, 77, 0, 1),
    out = [];
  for (let q = 0; q < nBatches; q++) {
    const x = new Float32Array(batch * 784),
      y = new Int32Array(batch),
      r = rng(1000 + q);
    for (let i = 0; i < batch; i++) {
      const c = Math.floor(r() * 10);
      y[i] = c;
      for (let j = 0; j < 784; j++) x[i * 784 + j] = 0.5 * proto[c * 784 + j] + 0.5 * r();
    }
    out.push({ x, y });
  }
  return out;
}
function tokens(nBatches, B, T, V) {
  // order-1 chain with a few successors per symbol
  const out = [];
  for (let q = 0; q < nBatches; q++) {
    const x = new Int32Array(B * T),
      y = new Int32Array(B * T),
      r = rng(5000 + q);
    for (let b = 0; b < B; b++) {
      let t = Math.floor(r() * V);
      for (let i = 0; i < T; i++) {
        x[b * T + i] = t;
        t = (t * 7 + 13 + Math.floor(r() * 3)) % V;
        y[b * T + i] = t;
      }
    }
    out.push({ x, y });
  }
  return out;
}

export const MODEL_NAMES = ["mlp", "cnn", "gpt"];

export function model(name) {
  let seed = 10;
  const params = [];
  const P = (n, shape, std, fill) =>
    params.push({
      name: n,
      shape,
      data: std ? normal(size(shape), seed++, std) : new Float32Array(size(shape)).fill(fill || 0),
    });
  if (name === "mlp") {
    P("w1", [784, 256], Math.sqrt(2 / 784));
    P("b1", [256]);
    P("w2", [256, 128], Math.sqrt(2 / 256));
    P("b2", [128]);
    P("w3", [128, 10], Math.sqrt(1 / 128));
    P("b3", [10]);
    const f = 2 * 64 * (784 * 256 + 256 * 128 + 128 * 10),
      bx = 2 * 64 * (256 * 128 + 128 * 10);
    return { name, batch: 64, opt: { kind: "sgd", lr: 0.1 }, params, batches: images(4, 64), flop: 2 * f + bx };
  }
  if (name === "cnn") {
    // NHWC images, HWIO kernels, flatten in (h,w,c) order
    P("k1", [5, 5, 1, 8], Math.sqrt(2 / 25));
    P("b1", [8]);
    P("k2", [5, 5, 8, 16], Math.sqrt(2 / 200));
    P("b2", [16]);
    P("w", [256, 10], Math.sqrt(1 / 256));
    P("b", [10]);
    const c1 = 2 * 64 * 24 * 24 * 8 * 25,
      c2 = 2 * 64 * 8 * 8 * 16 * 25 * 8,
      d = 2 * 64 * 256 * 10;
    return {
      name,
      batch: 64,
      opt: { kind: "sgd", lr: 0.05 },
      params,
      batches: images(4, 64),
      flop: 2 * (c1 + c2 + d) + c2 + d,
    };
  }
  if (name === "gpt") {
    const V = 256,
      T = 64,
      D = 128,
      L = 4,
      H = 4,
      B = 16;
    P("wte", [V, D], 0.02);
    P("wpe", [T, D], 0.02);
    for (let l = 0; l < L; l++) {
      P(`l${l}.ln1g`, [D], 0, 1);
      P(`l${l}.ln1b`, [D]);
      P(`l${l}.wqkv`, [D, 3 * D], 0.02);
      P(`l${l}.bqkv`, [3 * D]);
      P(`l${l}.wo`, [D, D], 0.02 / Math.sqrt(2 * L));
      P(`l${l}.bo`, [D]);
      P(`l${l}.ln2g`, [D], 0, 1);
      P(`l${l}.ln2b`, [D]);
      P(`l${l}.w1`, [D, 4 * D], 0.02);
      P(`l${l}.b1`, [4 * D]);
      P(`l${l}.w2`, [4 * D, D], 0.02 / Math.sqrt(2 * L));
      P(`l${l}.b2`, [D]);
    }
    P("lnfg", [D], 0, 1);
    P("lnfb", [D]);
    P("head", [D, V], 0.02);
    const lin = 2 * B * T * (L * 12 * D * D + D * V),
      att = L * B * 2 * 2 * T * T * D;
    return {
      name,
      batch: B,
      dims: { V, T, D, L, H, B },
      opt: { kind: "adamw", lr: 1e-3, b1: 0.9, b2: 0.95, eps: 1e-8, wd: 0.01 },
      params,
      batches: tokens(4, B, T, V),
      flop: 3 * (lin + att),
    };
  }
  throw new Error("unknown model " + name);
}

// HWIO -> OIHW, and dense rows from (h,w,c) to (c,h,w) order, for NCHW libraries
export function cnnToNCHW(params) {
  return params.map((p) => {
    if (p.shape.length === 4) {
      const [h, w, i, o] = p.shape,
        d = new Float32Array(p.data.length);
      let z = 0;
      for (let a = 0; a < o; a++)
        for (let b = 0; b < i; b++)
          for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) d[z++] = p.data[((y * w + x) * i + b) * o + a];
      return { name: p.name, shape: [o, i, h, w], data: d };
    }
    if (p.name === "w") {
      const d = new Float32Array(p.data.length);
      for (let c = 0; c < 16; c++)
        for (let s = 0; s < 16; s++)
          for (let j = 0; j < 10; j++) d[(c * 16 + s) * 10 + j] = p.data[(s * 16 + c) * 10 + j];
      return { ...p, data: d };
    }
    return p;
  });
}
