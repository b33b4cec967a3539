// @ts-check
// Makes what a site's owner pastes, and shows what it looks like: the frame's own document, which in a page of its own origin
// is a look alone and starts nothing. Asks the coordinator for its jobs and for the element's bytes, whose hash it makes.

import { info, jobs } from "../page/coordinator.js";
import { build, byId, element, setText } from "../page/dom.js";
import * as text from "../page/text.js";

const { say } = text;

/** Where the site's name is not filled in yet. */
const ANY_SITE = "your-site";
/** As the coordinator takes it (`is_name` in protocol/src/site.rs). */
const SITE = /^[a-z0-9][a-z0-9-]{0,62}[a-z0-9]$|^[a-z0-9]$/;
const HEIGHT_PX_MIN = 120;
const HEIGHT_PX_MAX = 2_000;
/** Kinds of jobs, as a manifest names them (protocol/src/category.rs). @type {import("../types").JobView["category"][]} */
const CATEGORIES = ["research", "education", "public_good", "commercial", "demo"];
/** In the order in which the element's documentation has them. */
const NAMES = ["site", "job", "category", "duty", "data", "scheme", "accent", "radius", "density", "language"];

const form = byId("choices", HTMLFormElement);
const look = byId("look", HTMLIFrameElement);
/** `integrity` and path of the element that never changes. @type {{ path: string, integrity: string, released: boolean } | null} */
let pinned = null;
let shown = "";

/** Attributes as chosen, those left to their defaults missing; nothing where one is wrong. @returns {[string, string][] | null} */
function chosen() {
  const site = byId("site", HTMLInputElement);
  site.setCustomValidity(site.value === "" || SITE.test(site.value) ? "" : say("embed_site_wrong"));
  if (!form.checkValidity()) return null;
  const values = new FormData(form);
  const runs = String(values.get("runs"));
  values.set(/^\d+$/.test(runs) ? "job" : "category", runs);
  if (!site.value) values.set("site", ANY_SITE);
  /** @type {[string, string][]} */
  const given = NAMES.map((name) => [name, String(values.get(name) ?? "")]);
  return given.filter(([, value]) => value !== "");
}

/** @param {string} path @param {string} [integrity] */
function script(path, integrity) {
  const pin = integrity ? ` integrity="${integrity}" crossorigin="anonymous"` : "";
  return `<script type="module" src="${location.origin}${path}"${pin}></script>`;
}

function show() {
  const attributes = chosen();
  const wrong = [...form.elements].find((field) => "checkValidity" in field && !(/** @type {HTMLInputElement} */ (field).validity.valid));
  element("wrong").hidden = !!attributes;
  setText(element("wrong"), wrong instanceof HTMLInputElement ? wrong.validationMessage : "");
  if (!attributes) return;
  const hands = `<many-hands ${attributes.map(([name, value]) => `${name}="${value}"`).join(" ")}></many-hands>`;
  setText(element("short"), `${script("/embed/v1/many-hands.js")}\n${hands}`);
  element("pinned-part").hidden = !pinned;
  element("unreleased").hidden = pinned?.released !== false;
  if (pinned) setText(element("pinned"), `${script(pinned.path, pinned.integrity)}\n${hands}`);
  setText(element("policy"), `script-src ${location.origin}; frame-src ${location.origin}`);
  // Not the site: only its own pages may frame what is meant for it.
  const asked = attributes.filter(([name]) => name !== "site").map(([name, value]) => [name === "language" ? "lang" : name, value]);
  const address = `/?${new URLSearchParams([["preview", ""], ...asked])}`;
  if (address === shown) return;
  shown = address;
  // In place of the last one, not after it: Back leaves this page.
  look.contentWindow?.location.replace(address);
}

/** Everything in the page's language. */
function speak() {
  for (const target of document.querySelectorAll("[data-text]")) {
    setText(target, say(/** @type {text.Key} */ (target.getAttribute("data-text"))));
  }
  document.title = say("embed_title");
  for (const category of CATEGORIES) setText(element(category), say("embed_job_kind", { kind: say(`category_${category}`) }));
  setText(element("copied"), "");
  byId("language", HTMLSelectElement).value = text.language;
  show();
}

/** The jobs that a site may name. */
async function listJobs() {
  const open = (await jobs("")).filter(({ state }) => state !== "finished");
  byId("runs", HTMLSelectElement).append(...open.map(({ id, title }) => build("option", { value: String(id) }, `${id}: ${title}`)));
}

/** What `manyhands site add` makes, too: the hash of what the coordinator serves under its version. */
async function pin() {
  const path = `/embed/${(await info()).software_version}/many-hands.js`;
  const response = await fetch(path);
  if (!response.ok) return;
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-384", await response.arrayBuffer()));
  // What may still change is not kept by browsers for ever.
  const released = response.headers.get("cache-control")?.includes("immutable") ?? false;
  pinned = { path, integrity: `sha384-${btoa(String.fromCharCode(...hash))}`, released };
  show();
}

/** @param {Element} button */
async function copy(button) {
  const from = element(button.getAttribute("data-copies") ?? "");
  try {
    await navigator.clipboard.writeText(from.textContent ?? "");
    setText(element("copied"), say("embed_copied"));
  } catch {
    // The browser lets nobody write there; what is marked can be copied by hand.
    getSelection()?.selectAllChildren(from);
    setText(element("copied"), say("embed_marked"));
  }
}

addEventListener("message", ({ source, origin, data }) => {
  if (source !== look.contentWindow || origin !== location.origin || data?.manyHands !== 1) return;
  if (data.type === "ready") look.contentWindow?.postMessage({ manyHands: 1, type: "hello" }, origin);
  else if (data.type === "size" && Number.isFinite(data.height)) {
    look.height = String(Math.min(HEIGHT_PX_MAX, Math.max(HEIGHT_PX_MIN, Math.ceil(data.height))));
  }
});

const chooser = byId("language", HTMLSelectElement);
chooser.addEventListener("change", async () => {
  const isSpoken = await text.choose(chooser.value);
  setText(element("language-note"), isSpoken ? "" : say("language_away"));
});
for (const select of [chooser, byId("tongue", HTMLSelectElement)]) {
  select.append(...text.languages.map((tag) => build("option", { value: tag, lang: tag }, text.nameOf(tag))));
}
byId("runs", HTMLSelectElement).append(...CATEGORIES.map((category) => build("option", { value: category, id: category })));
form.addEventListener("input", show);
form.addEventListener("submit", (event) => event.preventDefault());
for (const button of document.querySelectorAll("[data-copies]")) button.addEventListener("click", () => void copy(button));
text.onChange(speak);
speak();
// Without the coordinator's answers the page makes the first snippet all the same.
await Promise.allSettled([listJobs(), pin()]);
document.documentElement.dataset["state"] = "ready";
