// Problems whose answers can be checked: the operands of a product, and how far its result is from float64.
import { uniform } from "./models.js";

/** In f16 the operands are multiples of 2^-10 up to 1, which it has all of. */
export function product(m, k, n, dtype = "f32") {
  const [a, b] = [uniform(m * k, 1), uniform(k * n, 2)];
  const exact = (values) => (dtype === "f16" ? values.map((value) => Math.round(value * 1024) / 1024) : values);
  return { m, k, n, a: exact(a), b: exact(b) };
}

/** Largest error of random entries against a float64 dot product, over the norms of row and column. */
export function productError({ m, k, n, a, b }, c) {
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

/** Repetitions that make a sample last about as long as wanted; `run` gives the milliseconds that so many take. */
export async function calibrate(run, leastMs) {
  let [count, ms] = [1, 0];
  for (let turn = 0; turn < 8; turn += 1) {
    ms = await run(count);
    if (ms >= leastMs) break;
    count = Math.ceil(count * Math.min(8, (1.2 * leastMs) / Math.max(ms, 0.2)));
  }
  return { count, ms };
}
