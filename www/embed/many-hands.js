// @ts-check
// <many-hands>: lets a page's visitors lend a hand to a job. The element is a frame of the coordinator's own origin and
// nothing else: consent, key, worker and GPU live in there, out of this page's reach. It asks, pauses and stops; it cannot
// start. One file without imports, for any page and any framework.

/** What the visit in the frame is doing. @typedef {"loading" | "idle" | "declined" | "working" | "paused" | "stopped" | "unreachable" | "failed"} ManyHandsState */
/**
 * What this visit gave so far: units handed in, verdicts of the coordinator, and checked floating-point operations.
 * @typedef {{ units: number, accepted: number, rejected: number, pending: number, flop: number }} ManyHandsContribution
 */

const VERSION = 1;
/** How long the frame may take to say that it is there. */
const ANSWER_MS_MAX = 15_000;
const HEIGHT_PX_MIN = 120;
const HEIGHT_PX_MAX = 2_000;
/** Attributes that name what is offered: a change shows another frame, unless a visit is under way. */
const OFFER = ["coordinator", "job", "site", "duty", "data"];
/** Attributes of looks, which the frame takes from fixed sets of values. */
const LOOK = ["scheme", "accent", "radius", "density", "language"];
const STATES = ["loading", "idle", "declined", "working", "paused", "stopped", "unreachable", "failed"];

/** @type {ManyHandsContribution} */
const NOTHING = Object.freeze({ units: 0, accepted: 0, rejected: 0, pending: 0, flop: 0 });

/**
 * Attributes: `job` (its number; the coordinator's choice without it), `site` (the name it was registered under), `duty`
 * (at most this share of the device, 5 to 100 percent), `data` (at most so many megabytes a day), `scheme` (`light`, `dark`), `accent`
 * (`teal`, `blue`, `violet`, `rose`), `radius` (`none`, `small`), `density` (`compact`), `language` (its tag; what the visitor
 * chooses in the frame counts more), `coordinator` (its address, where the script does not come from it). The part `frame`
 * styles the outer box. Its own children are shown where no frame comes up.
 *
 * Events, both without details: `statechange` and `contributionchange`.
 */
export class ManyHandsElement extends HTMLElement {
  static observedAttributes = [...OFFER, ...LOOK];

  /** @type {HTMLIFrameElement | null} */
  #frame = null;
  /** @type {ManyHandsState} */
  #state = "loading";
  #contribution = NOTHING;
  #origin = "";
  #timer = 0;
  /** @param {MessageEvent} event */
  #hear = (event) => this.#take(event);

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    // Not a style element: a page's policy may forbid those.
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(
      ":host, iframe { display: block } :host([hidden]), [hidden] { display: none } iframe { width: 100%; border: 0; color-scheme: normal }",
    );
    root.adoptedStyleSheets = [sheet];
    root.append(document.createElement("slot"));
  }

  /** @returns {ManyHandsState} */
  get state() {
    return this.#state;
  }

  /** @returns {ManyHandsContribution} */
  get contribution() {
    return this.#contribution;
  }

  /** Brings the offer before the visitor, who alone can accept it, by a press inside the frame. */
  start() {
    this.scrollIntoView({ block: "nearest" });
    this.#frame?.focus();
    this.#say("ask");
  }

  /** Holds the work until the visitor goes on with it. */
  pause() {
    this.#say("pause");
  }

  /** Ends the work within a second. */
  stop() {
    this.#say("stop");
  }

  connectedCallback() {
    addEventListener("message", this.#hear);
    this.#show();
  }

  disconnectedCallback() {
    removeEventListener("message", this.#hear);
    this.#hide();
  }

  /** @param {string} name */
  attributeChangedCallback(name) {
    if (!this.isConnected) return;
    if (LOOK.includes(name)) this.#say("look", { look: this.#values(LOOK) });
    else if (!["working", "paused"].includes(this.#state)) this.#show();
  }

  /** @param {string[]} names @returns {Record<string, string>} */
  #values(names) {
    /** @type {Record<string, string>} */
    const values = {};
    for (const name of names) {
      const value = this.getAttribute(name);
      if (value !== null) values[name] = value;
    }
    return values;
  }

  #show() {
    this.#hide();
    let address;
    try {
      address = new URL("/", this.getAttribute("coordinator") ?? import.meta.url);
    } catch {
      return this.#fail("its coordinator is no address");
    }
    this.#origin = address.origin;
    // In its own origin the frame would be in this page's reach.
    if (this.#origin === location.origin) return this.#fail(`${location.origin} is this page's own origin: name the coordinator's`);
    const { coordinator: _, ...offer } = this.#values(OFFER);
    const { language, ...look } = this.#values(LOOK);
    address.search = String(new URLSearchParams({ ...offer, ...look, ...(language ? { lang: language } : {}) }));
    const frame = document.createElement("iframe");
    frame.setAttribute("sandbox", "allow-scripts allow-same-origin allow-popups");
    frame.setAttribute("part", "frame");
    // The frame notices when this computer is busy; a page that allows it nothing leaves it to other signs.
    frame.allow = "compute-pressure";
    frame.referrerPolicy = "no-referrer";
    frame.title = "Many Hands";
    frame.height = "0";
    frame.src = address.href;
    this.#timer = window.setTimeout(() => this.#enter("unreachable"), ANSWER_MS_MAX);
    this.#frame = frame;
    this.shadowRoot?.append(frame);
  }

  /** Takes the frame away, and with it all that runs in it. */
  #hide() {
    clearTimeout(this.#timer);
    this.#frame?.remove();
    this.#frame = null;
    this.#contribution = NOTHING;
    this.#enter("loading");
  }

  /** @param {string} why */
  #fail(why) {
    console.error(`<many-hands>: ${why}`);
    this.#enter("failed");
  }

  /** @param {string} type @param {object} [more] */
  #say(type, more = {}) {
    this.#frame?.contentWindow?.postMessage({ manyHands: VERSION, type, ...more }, this.#origin);
  }

  /** @param {MessageEvent} event */
  #take({ source, origin, data }) {
    if (!this.#frame || source !== this.#frame.contentWindow || origin !== this.#origin) return;
    if (data?.manyHands !== VERSION) return;
    if (data.type === "ready") {
      this.#say("hello");
    } else if (data.type === "size" && Number.isFinite(data.height)) {
      this.#frame.height = String(Math.min(HEIGHT_PX_MAX, Math.max(HEIGHT_PX_MIN, Math.ceil(data.height))));
    } else if (data.type === "state" && STATES.includes(data.state)) {
      clearTimeout(this.#timer);
      this.#enter(data.state);
    } else if (data.type === "contribution") {
      const number = (/** @type {keyof ManyHandsContribution} */ name) => Math.max(0, Number(data[name]) || 0);
      this.#contribution = Object.freeze({
        units: number("units"),
        accepted: number("accepted"),
        rejected: number("rejected"),
        pending: number("pending"),
        flop: number("flop"),
      });
      this.dispatchEvent(new Event("contributionchange"));
    }
  }

  /** @param {ManyHandsState} state */
  #enter(state) {
    // The slot shows the page's own words where no frame does.
    const absent = state === "unreachable" || state === "failed";
    const slot = this.shadowRoot?.querySelector("slot");
    if (slot) slot.hidden = !absent;
    if (this.#frame) this.#frame.hidden = absent && this.#frame.height === "0";
    if (state === this.#state) return;
    this.#state = state;
    this.dispatchEvent(new Event("statechange"));
  }
}

if (!customElements.get("many-hands")) customElements.define("many-hands", ManyHandsElement);
