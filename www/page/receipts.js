// @ts-check
// The list of receipts of a visit, loaded with the first: each can be saved. What they prove is checked by the worker.

import { build, element } from "./dom.js";
import * as text from "./text.js";

/** @typedef {import("../types").ReceiptMessage} ReceiptMessage */

/** The files on offer, by unit. @type {Map<number, { address: string, item: Element }>} */
const offered = new Map();
let language = "";

/** Adds what is not listed yet: a link that somebody is at stays where it is. @param {Map<number, ReceiptMessage>} receipts */
export function show(receipts) {
  const list = element("receipts-list");
  const isOther = language !== document.documentElement.lang;
  language = document.documentElement.lang;
  for (const [unit, { address, item }] of offered) {
    if (!isOther && receipts.has(unit)) continue;
    URL.revokeObjectURL(address);
    item.remove();
    offered.delete(unit);
  }
  for (const [unit, { index, receipt }] of receipts) {
    if (offered.has(unit)) continue;
    const address = URL.createObjectURL(new Blob([receipt], { type: "application/cbor" }));
    const link = build("a", { href: address, download: `manyhands-receipt-${index}.cbor` }, text.say("receipt_line", { index, unit }));
    const item = build("li", {}, link);
    offered.set(unit, { address, item });
    list.prepend(item);
  }
}
