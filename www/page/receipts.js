// @ts-check
// The list of receipts of a visit, loaded with the first: each can be saved. What they prove is checked by the worker.

import { build, element } from "./dom.js";
import * as text from "./text.js";

/** @typedef {import("../types").ReceiptMessage} ReceiptMessage */

/** Addresses of the files on offer, by unit. @type {Map<number, string>} */
const offered = new Map();
let language = "";

/** Adds what is not listed yet: a link that somebody is at stays where it is. @param {Map<number, ReceiptMessage>} receipts */
export function show(receipts) {
  const list = element("receipts-list");
  if (language !== document.documentElement.lang || [...offered.keys()].some((unit) => !receipts.has(unit))) {
    language = document.documentElement.lang;
    offered.forEach((address) => URL.revokeObjectURL(address));
    offered.clear();
    list.replaceChildren();
  }
  for (const [unit, { index, receipt }] of receipts) {
    if (offered.has(unit)) continue;
    const address = URL.createObjectURL(new Blob([receipt], { type: "application/cbor" }));
    offered.set(unit, address);
    const link = build("a", { href: address, download: `manyhands-receipt-${index}.cbor` }, text.say("receipt_line", { index, unit }));
    list.prepend(build("li", {}, link));
  }
}
