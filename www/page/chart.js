// @ts-check
// Line charts of a job's rounds, as SVG that stretches with its element. Colours are the style sheet's; rounds run from left
// to right in every language. It describes itself to screen readers. No library: one would be half of all that the page loads.

import { build } from "./dom.js";

/** @typedef {{ colour: "accent" | "second", format: (value: number) => string, round: (round: number) => string, floor?: number, ceiling?: number }} Look */

/** Extent of the drawing's own coordinates; lines keep their width however it is stretched. */
const SPAN = 1000;
/** Fewest rounds that the axis shows, so that a first one is not drawn over the whole width. */
const ROUNDS_MIN = 4;
/** Most parts that the grid divides an axis into. */
const PARTS_MAX = 4;

/**
 * Round steps that divide a range into at most `PARTS_MAX` parts.
 * @param {number} low
 * @param {number} high
 * @param {number} least smallest step
 * @returns {number[]} the multiples of the step from `low` to `high`
 */
function ticks(low, high, least = 0) {
  const rough = Math.max((high - low) / PARTS_MAX, least);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough * (1 - 1e-9)) ?? 10);
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => (first + i) * step);
}

/**
 * @param {string} tag
 * @param {Record<string, string>} attributes
 */
function draw(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** One line over rounds, with an optional dashed target. Tells by a `round` event which round is pointed at. */
export class RoundChart {
  /** @type {number[]} */
  #rounds = [];
  /** @type {number[]} */
  #values = [];
  /** @type {(round: number) => number} */
  #x = () => 0;
  /** @type {(value: number) => number} */
  #y = () => 0;
  #cursor = build("i", { class: "cursor", hidden: "" });

  /**
   * @param {HTMLElement} host
   * @param {Look} look
   */
  constructor(host, look) {
    this.host = host;
    this.look = look;
    host.addEventListener("pointermove", (event) => this.#tell(this.#nearest(event.clientX)));
    host.addEventListener("pointerleave", () => this.#tell(null));
  }

  /**
   * @param {number[]} rounds ascending
   * @param {number[]} values one of each round
   * @param {number | null} target
   * @param {string} summary what the chart shows, in one sentence
   */
  update(rounds, values, target, summary) {
    this.host.setAttribute("aria-label", summary);
    [this.#rounds, this.#values] = [rounds, values];
    this.host.hidden = rounds.length === 0;
    if (rounds.length === 0) return;
    const { floor = Infinity, ceiling = -Infinity, format, round: name, colour } = this.look;
    const seen = target === null ? values : [...values, target];
    const low = Math.min(floor, ...seen);
    const high = Math.max(ceiling, ...seen, low + 1e-6);
    const first = rounds[0] ?? 0;
    const last = Math.max(rounds.at(-1) ?? 0, first + ROUNDS_MIN);
    this.#x = (round) => (round - first) / (last - first);
    this.#y = (value) => 1 - (value - low) / (high - low);
    const at = (/** @type {number} */ share) => (share * SPAN).toFixed(1);
    const points = rounds.map((round, i) => `${at(this.#x(round))} ${at(this.#y(values[i] ?? low))}`);
    const line = `M${points.join("L")}`;
    const [left, right] = [at(this.#x(first)), at(this.#x(rounds.at(-1) ?? first))];
    const rows = ticks(low, high);
    const columns = ticks(first, last, 1);
    const across = (/** @type {number} */ value) => `M0 ${at(this.#y(value))}H${SPAN}`;
    const svg = draw("svg", { viewBox: `0 0 ${SPAN} ${SPAN}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    svg.append(
      draw("path", { class: "grid", d: rows.map(across).join("") }),
      draw("path", { class: `area ${colour}`, d: `${line}L${right} ${SPAN}L${left} ${SPAN}Z` }),
      draw("path", { class: `line ${colour}`, d: rounds.length > 1 ? line : `${line}h.1` }),
    );
    if (target !== null) svg.append(draw("path", { class: "target", d: across(target) }));
    const label = (/** @type {string} */ text, /** @type {"top" | "left"} */ side, /** @type {number} */ share) => {
      const made = build("span", { class: side, "aria-hidden": "true" }, text);
      made.style[side] = `${share * 100}%`;
      return made;
    };
    this.host.replaceChildren(
      svg,
      this.#cursor,
      ...rows.map((value) => label(format(value), "top", this.#y(value))),
      ...columns.map((round) => label(name(round), "left", this.#x(round))),
    );
  }

  /** Marks a round, or none. @param {number | null} index */
  point(index) {
    const round = index === null ? undefined : this.#rounds[index];
    this.#cursor.hidden = round === undefined;
    if (index === null || round === undefined) return;
    this.#cursor.style.left = `${this.#x(round) * 100}%`;
    this.#cursor.style.setProperty("--at", `${this.#y(this.#values[index] ?? 0) * 100}%`);
  }

  /** @param {number} clientX */
  #nearest(clientX) {
    const { left, width } = this.host.getBoundingClientRect();
    const share = (clientX - left) / width;
    let best = 0;
    this.#rounds.forEach((round, i) => {
      if (Math.abs(this.#x(round) - share) <= Math.abs(this.#x(this.#rounds[best] ?? 0) - share)) best = i;
    });
    return best;
  }

  /** @param {number | null} index */
  #tell(index) {
    this.host.dispatchEvent(new CustomEvent("round", { detail: index }));
  }
}
