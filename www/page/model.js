// @ts-check
// What the page says and asks of a model: its size, its shape in words, what it works on, and whether the worker can train
// it. The engine's own reading of a model is protocol/src/model/shapes.rs.

/** @typedef {import("../types").Model} Model */
/** @typedef {import("../types").Layer} Layer */
/** Extents of what flows between layers: an image's height and width, or a sequence's positions; and values of each.
 * @typedef {{ height: number, width: number, values: number, each: boolean }} Extent */

/**
 * Trainable values of one layer, and what comes out of it; null for a layer this page does not know.
 * @param {Layer} layer
 * @param {Extent} at
 * @returns {{ parameters: number, out: Extent } | null}
 */
function step({ type, outputs = 0, channels = 0, kernel = 1, size = 1, stride = 1, padding = 0, vocabulary = 0, width = 0 }, at) {
  const places = at.height * at.width;
  /** @param {number} extent @param {number} window */
  const windows = (extent, window) => Math.floor((extent + 2 * padding - window) / stride) + 1;
  switch (type) {
    case "relu":
    case "gelu":
    case "dropout":
    case "residual":
      return { parameters: 0, out: at };
    case "dense":
    case "projection": {
      const inputs = at.each ? at.values : places * at.values;
      const out = at.each ? { ...at, values: outputs } : { height: 1, width: 1, values: outputs, each: false };
      return { parameters: (inputs + (type === "dense" ? 1 : 0)) * outputs, out };
    }
    case "convolution":
      return {
        parameters: (kernel * kernel * at.values + 1) * channels,
        out: { ...at, height: windows(at.height, kernel), width: windows(at.width, kernel), values: channels },
      };
    case "max_pool":
    case "average_pool":
      return { parameters: 0, out: { ...at, height: windows(at.height, size), width: windows(at.width, size) } };
    case "embedding":
      return { parameters: (vocabulary + at.values) * width, out: { height: at.values, width: 1, values: width, each: true } };
    case "layer_norm":
      return { parameters: 2 * at.values, out: at };
    case "attention":
      return { parameters: 4 * at.values * (at.values + 1), out: at };
    default:
      return null;
  }
}

/** Trainable values of a model; 0 where it has layers this page does not know. @param {Model} model */
export function parametersOf(model) {
  const { shape } = model.input;
  const [height = 1, width = 1, depth = 1] = shape.length === 3 ? shape : [];
  const values = shape.length === 3 ? depth : shape.reduce((product, extent) => product * extent, 1);
  /** @type {Extent} */
  let at = { height, width, values, each: false };
  let sum = 0;
  for (const layer of model.layers) {
    const done = step(layer, at);
    if (!done) return 0;
    sum += done.parameters;
    at = done.out;
  }
  return sum;
}

/** A model in a few words: `784–128–10`, or the number of its layers. @param {Model} model @param {(layers: number) => string} many */
export function shapeOf(model, many) {
  const dense = model.layers.filter((layer) => layer.type === "dense");
  if (!model.layers.every((layer) => layer.type === "dense" || layer.type === "relu")) return many(model.layers.length);
  return [model.input.shape.join("×"), ...dense.map((layer) => layer.outputs)].join("–");
}

/** Whether it reads and writes text. @param {Model} model */
export const isOfText = (model) => model.layers[0]?.type === "embedding";

/** Whether the page's worker has the kernels to train it: those of every layer the page knows. @param {Model} model */
export const workerTrains = (model) => parametersOf(model) > 0;

/**
 * Height and width of what a model takes, where that is a picture in grey; null where it is anything else. The worker's own
 * reading is worker/src/tryout.rs.
 * @param {Model} model
 * @returns {{ height: number, width: number } | null}
 */
export function pictureOf(model) {
  if (isOfText(model)) return null;
  const { shape } = model.input;
  const [first = 1, second = 1, third = 1] = shape;
  if (shape.length === 2 || (shape.length === 3 && third === 1)) return { height: first, width: second };
  if (shape.length === 3 && first === 1) return { height: second, width: third };
  const side = Math.floor(Math.sqrt(shape.reduce((product, extent) => product * extent, 1)));
  return shape.length === 1 && side * side === first ? { height: side, width: side } : null;
}
