// @ts-check
// Line charts of a job's rounds: a thin layer over uPlot (vendor/, loaded as a classic script) that takes colours from
// the style sheet, follows its element's width and the colour scheme, and describes itself to screen readers.

/** @typedef {typeof import("../vendor/uPlot")} UPlot */
/** @typedef {{ label: string, colour: string, format: (value: number) => string, floor?: number, ceiling?: number }} Look */

const HEIGHT_PX = 190;

/** @returns {UPlot} */
const library = () => /** @type {any} */ (globalThis).uPlot;

/** @param {string} name */
const styleValue = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** One line over rounds, with an optional dashed target. */
export class RoundChart {
  /** @type {import("../vendor/uPlot") | null} */
  #plot = null;
  /** @type {[number[], number[], (number | null)[]]} */
  #data = [[], [], []];

  /**
   * @param {HTMLElement} host
   * @param {string} syncKey charts with the same key share their cursor
   * @param {Look} look
   */
  constructor(host, syncKey, look) {
    this.host = host;
    this.syncKey = syncKey;
    this.look = look;
    new ResizeObserver(() => this.#fit()).observe(host);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#redraw());
  }

  /**
   * @param {number[]} rounds
   * @param {number[]} values
   * @param {number | null} target
   * @param {string} summary what the chart shows, in one sentence
   */
  update(rounds, values, target, summary) {
    this.#data = [rounds, values, rounds.map(() => target)];
    this.host.setAttribute("aria-label", summary);
    if (this.#plot) this.#plot.setData(this.#data);
    else this.#redraw();
  }

  #fit() {
    const width = this.host.clientWidth;
    if (width === 0) return;
    if (!this.#plot) this.#redraw();
    else if (this.#plot.width !== width) this.#plot.setSize({ width, height: HEIGHT_PX });
  }

  #redraw() {
    this.#plot?.destroy();
    this.#plot = null;
    const width = this.host.clientWidth;
    const Plot = library();
    if (width === 0 || this.#data[0].length === 0 || !Plot) return;
    this.#plot = new Plot(this.#options(width), this.#data, this.host);
  }

  /**
   * @param {number} width
   * @returns {import("../vendor/uPlot").Options}
   */
  #options(width) {
    const { look } = this;
    const ink = styleValue("--soft");
    const grid = { stroke: styleValue("--line"), width: 1 };
    const font = `12px ${styleValue("--font")}`;
    const stroke = styleValue(look.colour);
    return {
      width,
      height: HEIGHT_PX,
      // Half of the widest last label, 10,000, hangs over on the right.
      padding: [8, 20, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: this.syncKey }, y: false, drag: { x: false, y: false } },
      scales: {
        x: { time: false, range: (_, min, max) => [min, Math.max(max, min + 4)] },
        y: {
          range: (_, min, max) => {
            const low = Math.min(look.floor ?? min, min);
            const high = Math.max(look.ceiling ?? max, max);
            return [low, high > low ? high : low + 1];
          },
        },
      },
      axes: [
        { stroke: ink, grid: { show: false }, ticks: { show: false }, font, size: 26, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000] },
        { stroke: ink, grid, ticks: { show: false }, font, size: 44, space: 40, values: (_, splits) => splits.map(look.format) },
      ],
      series: [
        {},
        {
          label: look.label,
          stroke,
          width: 2.5,
          fill: `${stroke}1f`,
          points: { show: this.#data[0].length < 2, size: 7, fill: stroke },
        },
        { stroke: ink, width: 1.5, dash: [5, 5], points: { show: false } },
      ],
      hooks: { setCursor: [(plot) => this.host.dispatchEvent(new CustomEvent("round", { detail: plot.cursor.idx ?? null }))] },
    };
  }
}
