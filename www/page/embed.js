// @ts-check
// This page as a frame in another site: what the site may ask, and how it may make the frame look. The site can lower, pause
// and stop; it cannot start, and hears no more than the state and the sums of this visit. The other end is embed/many-hands.js.

import { element } from "./dom.js";
import { wasStill, watchRead, watchSight } from "./sight.js";
import * as text from "./text.js";

/** @typedef {import("./contribution.js").Contribution} Contribution */
/** @typedef {import("../types").VisitState} VisitState */

const VERSION = 1;
/** Kept for the tab's session once its visitor declined. */
const DECLINED = "manyhands-declined";

/** Looks by name: the values that the style sheet knows, whose contrast a test measures. @type {Record<string, string[]>} */
const LOOKS = {
  scheme: ["light", "dark"],
  accent: ["teal", "blue", "violet", "rose"],
  radius: ["none", "small"],
  density: ["compact"],
};

/** What the site is told. @type {Record<VisitState, string>} */
const TOLD = {
  idle: "idle",
  declined: "declined",
  loading: "working",
  starting: "working",
  self_test: "working",
  tuning: "working",
  waiting: "working",
  working: "working",
  paused: "paused",
  unreachable: "working",
  stopping: "working",
  stopped: "stopped",
  failed: "failed",
};

/** Takes looks from fixed sets of values, and no others. @param {(name: string) => unknown} value */
function dress(value) {
  const { dataset } = document.documentElement;
  for (const [name, known] of Object.entries(LOOKS)) {
    const wished = known.find((look) => look === value(name));
    if (wished) dataset[name] = wished;
    else delete dataset[name];
  }
}

/** Whether the offer was declined in this tab, on any page of the site: it is not made again by itself. */
function refusal() {
  try {
    return sessionStorage.getItem(DECLINED) !== null;
  } catch {
    return false;
  }
}

/** @param {boolean} declined */
function keepRefusal(declined) {
  try {
    if (declined) sessionStorage.setItem(DECLINED, "");
    else sessionStorage.removeItem(DECLINED);
  } catch {
    // For this frame, then.
  }
}

export class Host {
  /** Origin of the page around, once it spoke. */
  #origin = "";
  #last = "";
  /** What has not been in sight for a while, whole and with nothing over it. @type {Set<HTMLElement>} */
  #unseen = new Set();
  /** What Start agrees to and was not yet all in sight, with where it was not. @type {Map<HTMLElement, () => ScrollLogicalPosition>} */
  #unread = new Map();

  /**
   * @param {Contribution} visit
   * @param {HTMLElement} start
   * @param {() => void} onAsk the site wishes that the offer be seen
   * @param {(duty: unknown) => void} onLower the site offers this share by now
   */
  constructor(visit, start, onAsk, onLower) {
    this.visit = visit;
    // The head of the page is not shown in a frame.
    element("footer").prepend(element("language-row"));
    const query = new URLSearchParams(location.search);
    dress((name) => query.get(name));
    addEventListener("message", ({ source, origin, data }) => {
      // Who may frame this page is in its policy: only such a page can be its parent.
      if (source !== parent || data?.manyHands !== VERSION) return;
      this.#origin = origin;
      if (data.type === "hello") this.#again();
      else if (data.type === "look") {
        dress((name) => data.look?.[name]);
        void text.suggest(data.look?.language);
      }
      else if (data.type === "ask") onAsk();
      else if (data.type === "lower") onLower(data.duty);
      else if (data.type === "pause" && visit.active && !visit.pausedBy) visit.pause("site");
      else if (data.type === "stop") visit.stop();
    });
    new ResizeObserver(() => this.#say({ type: "size", height: document.body.getBoundingClientRect().height })).observe(document.body);
    for (const part of [start, element("background")]) {
      this.#unseen.add(part);
      watchSight(part, (seen) => this.#see(part, seen));
    }
    for (const term of /** @type {NodeListOf<HTMLElement>} */ (element("consent").querySelectorAll("dd"))) {
      // That nothing is over the frame is asked of Start: of a text in a frame of the same process Chromium takes what stands beside
      // it for a cover.
      this.#unread.set(term, watchRead(term, () => this.#read(term)));
    }
    if (refusal()) visit.declined();
    // Who is around is known once it answers; that this page listens is nobody's secret.
    parent.postMessage({ manyHands: VERSION, type: "ready" }, "*");
  }

  /** Tells the site what changed. */
  tell() {
    const { state, end, done, sums: visit } = this.visit;
    if (state === "declined" || state === "idle") keepRefusal(state === "declined");
    // What was agreed to is used up: no failure, and the page has its own words for it.
    const told = end === "used_up" ? "stopped" : TOLD[state];
    // Never the key's totals, by which a site could know a visitor again.
    const sums = { units: done, accepted: visit.accepted, rejected: visit.rejected, pending: visit.pending, flop: visit.credit_flop };
    const now = JSON.stringify([told, sums]);
    if (now === this.#last) return;
    this.#last = now;
    this.#say({ type: "contribution", ...sums });
    this.#say({ type: "state", state: told });
  }

  /**
   * Why a press of this does not count; empty where a person saw it, and what they agree to. That is brought before them, where
   * it is not so.
   * @param {"start" | "background"} id
   * @returns {"" | "covered" | "covered_box" | "unread"}
   */
  doubt(id) {
    if (this.#unseen.has(element(id)) || !wasStill()) {
      // A term that was not read may have taken its place.
      element(id).scrollIntoView({ block: "nearest" });
      return id === "start" ? "covered" : "covered_box";
    }
    const [unread] = id === "start" ? this.#unread : [];
    if (!unread) return "";
    unread[0].scrollIntoView({ block: unread[1]() });
    return "unread";
  }

  /** @param {HTMLElement} part @param {boolean} seen */
  #see(part, seen) {
    if (seen) this.#unseen.delete(part);
    else this.#unseen.add(part);
    this.#mirror();
  }

  /** @param {HTMLElement} term */
  #read(term) {
    this.#unread.delete(term);
    this.#mirror();
  }

  /** For tests. */
  #mirror() {
    const seen = String(!this.#unseen.has(element("start")));
    Object.assign(document.documentElement.dataset, { seen, unread: String(this.#unread.size) });
  }

  #again() {
    this.#last = "";
    this.tell();
    this.#say({ type: "size", height: document.body.getBoundingClientRect().height });
  }

  /** @param {object} message */
  #say(message) {
    if (this.#origin) parent.postMessage({ manyHands: VERSION, ...message }, this.#origin);
  }
}
