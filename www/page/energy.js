// @ts-check
// An honest guess at the electricity that a visit took. No browser tells what a device draws, so it is a range: the time
// that work took, times what devices of the kind draw while they work.

/** @typedef {import("../types").AdapterMessage} AdapterMessage */

/**
 * Watts of a device at work, from the least of its maker's to the most: integrated GPUs and those of laptops draw little,
 * desktop cards up to their board power.
 * @type {Record<string, [number, number]>}
 */
const GPU_WATTS = { apple: [5, 120], intel: [5, 225], amd: [5, 355], nvidia: [15, 575], qualcomm: [1, 30], arm: [1, 10] };
/** Of any GPU. @type {[number, number]} */
const ANY_GPU_WATTS = [1, 575];
/** Of one processor core. @type {[number, number]} */
const CORE_WATTS = [2, 20];
/** A GPU that is a program has as many cores as the computer. */
const SOFTWARE = /swiftshader|llvmpipe|basic render/i;

/**
 * Watt-hours of so much work: at least, and at most.
 * @param {number} ms milliseconds of the device, or of one core
 * @param {AdapterMessage} adapter
 * @returns {{ low: number, high: number }}
 */
export function wattHours(ms, { backend, adapter }) {
  const [low, high] = watts(backend, adapter);
  const hours = ms / 3_600_000;
  return { low: low * hours, high: high * hours };
}

/** @param {string} backend @param {string} adapter @returns {[number, number]} */
function watts(backend, adapter) {
  if (backend !== "webgpu") return CORE_WATTS;
  const cores = navigator.hardwareConcurrency || 1;
  if (SOFTWARE.test(adapter)) return [CORE_WATTS[0], CORE_WATTS[1] * cores];
  return GPU_WATTS[adapter.split(" ", 1)[0]?.toLowerCase() ?? ""] ?? ANY_GPU_WATTS;
}
