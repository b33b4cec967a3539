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
/** How long a visible page waits before it asks a coordinator again that did not answer; twice as long after each time. */
const RETRY_MS_MIN = 20_000;
const RETRY_MS_MAX = 600_000;
const HEIGHT_PX_MIN = 120;
const HEIGHT_PX_MAX = 2_000;
/** Attributes that name what is offered: a change shows another frame; during a visit, once the visitor asks for a new offer. */
const OFFER = ["coordinator", "job", "category", "site", "duty", "data"];
/** Attributes of looks, which the frame takes from fixed sets of values. */
const LOOK = ["scheme", "accent", "radius", "density", "language"];
const STATES = ["loading", "idle", "declined", "working", "paused", "stopped", "unreachable", "failed"];

/**
 * What is said where no frame comes up and the page has no words of its own, by language: the build writes it here from
 * ../words/*.json (xtask/src/web/languages.rs).
 * @type {Record<string, { direction: string, absent: string, asking: string, again: string }>}
 */
const WORDS = {};

/** Of the states without a frame. Colours are the system's own, for the visitor's scheme or the one that the page names. */
const STYLES = `
  :host, iframe { display: block }
  :host([hidden]), [hidden] { display: none }
  iframe { width: 100%; border: 0; color-scheme: normal }
  div {
    box-sizing: border-box; max-width: 40rem; padding: 16px; border: 1px solid color-mix(in srgb, CanvasText 25%, Canvas);
    border-radius: 12px; background: Canvas; color: CanvasText; color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif;
  }
  :host([scheme="light"]) div { color-scheme: light }
  :host([scheme="dark"]) div { color-scheme: dark }
  :host([radius="small"]) div { border-radius: 6px }
  :host([radius="none"]) div { border-radius: 0 }
  p { margin: 0 0 12px; overflow-wrap: anywhere }
  button {
    min-height: 44px; padding: 8px 18px; border: 1px solid CanvasText; border-radius: inherit; background: Canvas;
    color: CanvasText; font: inherit; cursor: pointer;
  }
`;

/** @type {ManyHandsContribution} */
const NOTHING = Object.freeze({ units: 0, accepted: 0, rejected: 0, pending: 0, flop: 0 });

/**
 * Attributes: `job` (its number; the coordinator's choice without it), `category` (in place of one job, all of a kind: `research`,
 * `education`, `public_good`, `commercial`, `demo`), `site` (the name it was registered under), `duty`
 * (at most this share of the device, 5 to 100 percent), `data` (at most so many megabytes a day), `scheme` (`light`, `dark`), `accent`
 * (`teal`, `blue`, `violet`, `rose`), `radius` (`none`, `small`), `density` (`compact`), `language` (its tag; what the visitor
 * chooses in the frame counts more), `coordinator` (its address, where the script does not come from it). The part `frame`
 * styles the outer box, `absent` the words where no frame comes up; its own children are shown instead of those.
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
  /** Until the frame counts as absent; then until it is asked for again. */
  #timer = 0;
  #retryMs = RETRY_MS_MIN;
  /** Whether attributes say something else by now than the frame was made of. */
  #isStale = false;
  /** @param {MessageEvent} event */
  #hear = (event) => this.#take(event);

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    // Not a style element: a page's policy may forbid those.
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(STYLES);
    root.adoptedStyleSheets = [sheet];
    const absent = document.createElement("div");
    absent.setAttribute("part", "absent");
    absent.hidden = true;
    const said = document.createElement("p");
    said.setAttribute("role", "status");
    const again = document.createElement("button");
    again.type = "button";
    again.addEventListener("click", () => {
      this.#retryMs = RETRY_MS_MIN;
      this.#load();
    });
    absent.append(said, again);
    root.append(document.createElement("slot"), absent);
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

  /** @param {string} name @param {string | null} before @param {string | null} now */
  attributeChangedCallback(name, before, now) {
    if (!this.isConnected || before === now) return;
    if (LOOK.includes(name)) this.#say("look", { look: this.#values(LOOK) });
    // Who declined is not asked again by another offer, either.
    else if (!["working", "paused", "declined"].includes(this.#state)) this.#show();
    else {
      // Another offer is the visitor's to accept; less they get at once.
      this.#isStale = true;
      if (name === "duty") this.#say("lower", { duty: this.getAttribute("duty") });
    }
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
    const hadFocus = document.activeElement === this;
    this.#hide();
    this.#retryMs = RETRY_MS_MIN;
    this.#load();
    if (hadFocus) this.#frame?.focus();
  }

  /** Asks for the frame, in place of one that did not answer. */
  #load() {
    clearTimeout(this.#timer);
    this.#frame?.remove();
    this.#frame = null;
    this.#isStale = false;
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
    frame.hidden = this.#state === "unreachable";
    frame.src = address.href;
    this.#timer = window.setTimeout(() => this.#miss(), ANSWER_MS_MAX);
    this.#frame = frame;
    this.shadowRoot?.append(frame);
    this.#explain("asking");
  }

  /** The frame did not answer; a late answer counts all the same, until it is asked for again. */
  #miss() {
    this.#explain("absent");
    this.#enter("unreachable");
    this.#timer = window.setTimeout(() => (document.hidden ? this.#miss() : this.#load()), this.#retryMs);
    this.#retryMs = Math.min(RETRY_MS_MAX, this.#retryMs * 2);
  }

  /** Words for where there is no frame, in the language of the element, else of the page, else of the visitor. @param {"absent" | "asking"} what */
  #explain(what) {
    const [said, again] = [this.shadowRoot?.querySelector("p"), this.shadowRoot?.querySelector("button")];
    if (!said || !again) return;
    const wished = [this.getAttribute("language"), this.closest("[lang]")?.getAttribute("lang"), ...navigator.languages];
    const tag = wished.map((wish) => wish?.toLowerCase().split("-")[0] ?? "").find((wish) => wish in WORDS) ?? "en";
    const words = WORDS[tag] ?? WORDS.en;
    said.textContent = words[what].replace("{host}", new URL(this.#origin).host);
    again.textContent = words.again;
    Object.assign(said.parentElement ?? {}, { lang: tag, dir: words.direction });
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
      // What changed while it loaded.
      this.#say("look", { look: this.#values(LOOK) });
    } else if (data.type === "size" && Number.isFinite(data.height)) {
      this.#frame.height = String(Math.min(HEIGHT_PX_MAX, Math.max(HEIGHT_PX_MIN, Math.ceil(data.height))));
    } else if (data.type === "state" && STATES.includes(data.state)) {
      clearTimeout(this.#timer);
      if (this.#isStale && data.state === "idle") this.#show();
      else this.#enter(data.state);
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

  get #hasWords() {
    return this.childElementCount > 0 || this.textContent?.trim() !== "";
  }

  /** @param {ManyHandsState} state */
  #enter(state) {
    // A frame that is there has words of its own for what failed in it.
    const isAbsent = state === "unreachable" || (state === "failed" && !this.#frame);
    const [slot, absent] = [this.shadowRoot?.querySelector("slot"), this.shadowRoot?.querySelector("div")];
    // The page's own words, where it has some; what an owner got wrong is told to them, in the console.
    slot?.toggleAttribute("hidden", !isAbsent);
    const hadFocus = !!absent?.contains(this.shadowRoot?.activeElement ?? null);
    absent?.toggleAttribute("hidden", state !== "unreachable" || this.#hasWords);
    if (this.#frame) this.#frame.hidden = isAbsent && this.#frame.height === "0";
    if (hadFocus && !isAbsent) this.#frame?.focus();
    if (state === this.#state) return;
    this.#state = state;
    this.dispatchEvent(new Event("statechange"));
  }
}

if (!customElements.get("many-hands")) customElements.define("many-hands", ManyHandsElement);
