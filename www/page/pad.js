// @ts-check
// Where a visitor draws a picture for the model, or picks one: a square of black on which a pen draws in white, as the
// pictures that such models learn from are. Loaded when it is first opened; nothing of it leaves the tab.

import { build } from "./dom.js";
import * as text from "./text.js";

/** Of the drawing, in pixels; the model's picture is made of it. */
const SIDE = 280;
/** Width of the pen, as a share of the side. */
const PEN = 0.08;
/** Largest file that is read. */
const FILE_BYTES_MAX = 50e6;

export class Pad {
  #canvas = /** @type {HTMLCanvasElement} */ (build("canvas", { class: "drawing", width: String(SIDE), height: String(SIDE), role: "img" }));
  #context = /** @type {CanvasRenderingContext2D} */ (this.#canvas.getContext("2d", { willReadFrequently: true }));
  #clear = build("button", { type: "button", class: "quiet" });
  #file = /** @type {HTMLInputElement} */ (build("input", { type: "file", accept: "image/*", id: "own-file" }));
  #label = build("label", { for: "own-file" });
  #hint = build("p", { class: "small" });
  #fault = build("p", { class: "error", role: "status" });
  #empty = true;

  /**
   * @param {HTMLElement} host
   * @param {HTMLElement} answer shown beside the drawing
   * @param {() => void} onDrawn hears of each stroke that ended, and each picture that was picked
   */
  constructor(host, answer, onDrawn) {
    this.onDrawn = onDrawn;
    const pick = build("p", { class: "row" }, build("span", {}, this.#label, " ", this.#file), this.#clear);
    host.append(this.#hint, build("div", { class: "drawn" }, this.#canvas, answer), pick, this.#fault);
    this.#wipe();
    this.#pen();
    this.#clear.addEventListener("click", () => this.#wipe());
    this.#file.addEventListener("change", () => void this.#picked());
    this.retell();
  }

  /** Says all of it again, in the language that the page has now. */
  retell() {
    this.#hint.textContent = text.say("own_hint");
    this.#canvas.setAttribute("aria-label", text.say("own_canvas"));
    this.#label.textContent = text.say("own_pick");
    this.#fault.textContent = text.say("own_unreadable");
    this.#clear.textContent = text.say("own_clear");
  }

  /**
   * What was drawn, at the model's size; null where nothing was.
   * @param {number} width
   * @param {number} height
   * @returns {Uint8Array | null}
   */
  picture(width, height) {
    if (this.#empty) return null;
    const small = new OffscreenCanvas(width, height);
    const context = small.getContext("2d");
    if (!context) return null;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.#canvas, 0, 0, width, height);
    return greys(context.getImageData(0, 0, width, height));
  }

  #wipe() {
    this.#context.fillStyle = "#000";
    this.#context.fillRect(0, 0, SIDE, SIDE);
    this.#fault.hidden = true;
    this.#empty = true;
  }

  #pen() {
    const canvas = this.#canvas;
    const context = this.#context;
    /** @param {PointerEvent} event */
    const stroke = (event) => {
      const { left, top, width, height } = canvas.getBoundingClientRect();
      context.lineTo(((event.clientX - left) / width) * SIDE, ((event.clientY - top) / height) * SIDE);
      context.stroke();
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      Object.assign(context, { strokeStyle: "#fff", lineWidth: SIDE * PEN, lineCap: "round", lineJoin: "round" });
      context.beginPath();
      stroke(event);
      // A dot, where the pen does not move.
      stroke(event);
      this.#empty = false;
    });
    canvas.addEventListener("pointermove", (event) => {
      if (canvas.hasPointerCapture(event.pointerId)) stroke(event);
    });
    canvas.addEventListener("pointerup", () => this.onDrawn());
  }

  async #picked() {
    const file = this.#file.files?.[0];
    if (!file) return;
    this.#wipe();
    try {
      if (file.size > FILE_BYTES_MAX) throw new Error("too large");
      const image = await createImageBitmap(file);
      this.#fit(image);
      image.close();
    } catch {
      this.#fault.hidden = false;
      return;
    }
    this.#empty = false;
    this.onDrawn();
  }

  /** The whole picture in grey, on the colour of its edge; a bright edge becomes a dark one. @param {ImageBitmap} image */
  #fit(image) {
    const context = this.#context;
    const scale = SIDE / Math.max(image.width, image.height);
    const [width, height] = [Math.max(1, image.width * scale), Math.max(1, image.height * scale)];
    const [left, top] = [(SIDE - width) / 2, (SIDE - height) / 2];
    context.imageSmoothingQuality = "high";
    // What is not there is white, as paper is.
    context.fillStyle = "#fff";
    context.fillRect(0, 0, SIDE, SIDE);
    context.drawImage(image, left, top, width, height);
    const [x, y] = [Math.ceil(left), Math.ceil(top)];
    const drawn = context.getImageData(x, y, Math.max(1, Math.floor(width)), Math.max(1, Math.floor(height)));
    const grey = greys(drawn);
    const edge = edgeOf(grey, drawn.width, drawn.height);
    const inverted = edge > 127;
    for (let i = 0; i < grey.length; i += 1) {
      const value = inverted ? 255 - Number(grey[i]) : Number(grey[i]);
      drawn.data.set([value, value, value, 255], i * 4);
    }
    const around = Math.round(inverted ? 255 - edge : edge);
    context.fillStyle = `rgb(${around} ${around} ${around})`;
    context.fillRect(0, 0, SIDE, SIDE);
    context.putImageData(drawn, x, y);
  }
}

/** Luma of each pixel (ITU-R BT.601), 0 to 255. @param {ImageData} image */
function greys({ data, width, height }) {
  const grey = new Uint8Array(width * height);
  for (let i = 0; i < grey.length; i += 1) {
    grey[i] = Math.round(0.299 * Number(data[i * 4]) + 0.587 * Number(data[i * 4 + 1]) + 0.114 * Number(data[i * 4 + 2]));
  }
  return grey;
}

/** Mean grey of the outermost pixels. @param {Uint8Array} grey @param {number} width @param {number} height */
function edgeOf(grey, width, height) {
  let [sum, count] = [0, 0];
  for (let at = 0; at < grey.length; at += 1) {
    const [x, y] = [at % width, Math.floor(at / width)];
    if (x > 0 && y > 0 && x < width - 1 && y < height - 1) continue;
    sum += Number(grey[at]);
    count += 1;
  }
  return sum / count;
}
