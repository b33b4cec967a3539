// @ts-check
// The words of the tried model; apart from the others because a page needs them only once the visitor has asked for the
// worker.

import { bytes, number, percentRound } from "./text.js";

export const tryout = {
  again: "Again",
  pictures: "See what the newest model makes of pictures it never trained on. It runs here, in this tab.",
  texts:
    "The newest model writes on, byte by byte, here in this tab: from words of yours, or from a line it never trained on. While you help, it writes after each round.",
  /** @param {number} round */
  after: (round) => `after round ${number(round)}`,
  /** @param {number} fetched */
  wrote: (fetched) => `The model has written; ${bytes(fetched)} downloaded for it`,
  loading: "Asking the model",
  /** @param {number} right @param {number} total @param {number} fetched */
  score: (right, total, fetched) => `${number(right)} of ${number(total)} right; ${bytes(fetched)} downloaded for it`,
  right: "right",
  /** @param {string} label */
  wrong: (label) => `really: ${label}`,
  /** @param {number} probability */
  sure: (probability) => `${percentRound(probability)} sure`,
  /** @param {number} label */
  klass: (label) => `class ${label}`,
  /** @param {string} label */
  picture: (label) => `Picture of: ${label}`,
  /** @param {string} why */
  failed: (why) => `The model could not be tried: ${why}`,
  download: "The first time, this downloads the worker (about 0.4 MB) and the model.",
};

const FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/**
 * What a job calls its classes; manifests have no field for it yet.
 * @type {Record<string, string[]>}
 */
const classes = { "fashion-mlp": FASHION, "fashion-cnn": FASHION };

/** @param {string} jobName @param {number} label */
export const className = (jobName, label) => classes[jobName]?.[label] ?? tryout.klass(label);
