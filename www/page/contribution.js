// @ts-check
// This tab's contribution: the worker's life and the state that its messages add up to. Shows nothing; asks nothing of
// the coordinator, but that it end sessions that nobody can come back to. No worker exists, and nothing of it is downloaded, before `start` or `ask` is called.

import { withdraw } from "./coordinator.js";
import * as text from "./text.js";

/** @typedef {import("../types").FromWorker} FromWorker */
/** @typedef {import("../types").JobView} JobView */
/** @typedef {import("../types").ToWorker} ToWorker */
/** @typedef {import("../types").VisitState} VisitState */
/** @typedef {import("../types").UnitMessage} UnitMessage */
/** @typedef {import("../types").AdapterMessage} AdapterMessage */
/** @typedef {import("../types").KeyMessage} KeyMessage */
/** @typedef {import("../types").PaceMessage} PaceMessage */
/** @typedef {import("./governor.js").Watch} Watch */
/** @typedef {import("./visits.js").Visit} Visit */
/** @typedef {import("../types").AnswersMessage} AnswersMessage */
/** @typedef {import("../types").SampleMessage} SampleMessage */
/** @typedef {import("../types").TryWish} TryWish */
/** @typedef {import("../types").KeyAct} KeyAct */
/** @typedef {import("../types").KeyDoneMessage} KeyDoneMessage */
/** @typedef {import("../types").ReceiptMessage} ReceiptMessage */
/** @typedef {import("../types").Backend} Backend */
/** @typedef {import("../types").Tune} Tune */
/** @typedef {{ accepted: number, rejected: number, pending: number, credit_flop: number }} Totals */

/**
 * What Start consents to, beside the job: any of a category, where it names one. The consent text says the same numbers.
 * @typedef {{ site: string, category: JobView["category"] | "", duty_percent: number, data_bytes_max: number }} Terms
 */
/** The share that is offered, and the least that can be chosen. */
export const DUTY_PERCENT = 30;
export const DUTY_PERCENT_MIN = 5;
/** In a day, over all tabs. */
export const DATA_BYTES_MAX = 1_000_000_000;

/** Stop must end the work within a second: after this the worker is ended, answer or not. */
const STOP_MS_MAX = 1_000;
/** Longest wait for the worker's program. */
const READY_MS_MAX = 60_000;
/** Longest wait for the answer to a question. */
const ANSWERS_MS_MAX = 60_000;
/** A wait between units is shown once it lasts this long: short ones are part of the work, and no news to anybody. */
const WAITING_SHOWN_MS = 4_000;
/** Units kept for the list of the latest. */
const RECENT_COUNT = 10;
/** The worker is told of what the page moved so many bytes at a time. */
const MOVED_BYTES_STEP = 16_384;
/** Receipts on offer, the newest: each is a few kilobytes. */
const RECEIPTS_COUNT_MAX = 100;

/** Drops what came first. @param {Map<unknown, unknown>} map @param {number} count */
export function keepNewest(map, count) {
  for (const oldest of map.keys()) {
    if (map.size <= count) break;
    map.delete(oldest);
  }
}

/** Held, shared, by every tab at work: the key is changed only by who has it alone. */
export const AT_WORK = "manyhands-at-work";
/**
 * On which tabs tell each other what became of the list of visits, of the key: `{key}`, its id or null, and of its consent:
 * `{withdrawn}`.
 */
export const CHANGES = "manyhands-mine";

/** Ends of a visit by their fault's code. @type {Record<string, "used_up" | "outdated" | "distrust">} */
const ENDS = {
  data_limit: "used_up",
  day_limit: "used_up",
  consent_expired: "used_up",
  version: "outdated",
  log_rewritten: "distrust",
  log_unproven: "distrust",
};

/** A failure by the code under which its words are. */
export class Failure extends Error {
  /** @param {string} code @param {string} [note] */
  constructor(code, note = "") {
    super(note || code);
    this.code = code;
  }
}

/** Before anything was given. @type {Readonly<Totals>} */
export const NOTHING = Object.freeze({ accepted: 0, rejected: 0, pending: 0, credit_flop: 0 });

/** What a worker's script is called: by its content, and by `trunk serve` as Trunk does. */
const WORKER = /^\/manyhands-worker(-opening-[0-9a-f]{16}\.js|_loader\.js)$/;

/**
 * The one way in which this page makes a script of an address, which the coordinator's policy demands (Trusted Types).
 * @type {{ createScriptURL: (address: string) => any }}
 */
const scripts = globalThis.trustedTypes?.createPolicy("manyhands-worker", { createScriptURL: checked }) ?? { createScriptURL: checked };

/** @param {string} address the worker's @returns {string} the same @throws {TypeError} for any other */
function checked(address) {
  const { origin, pathname, href } = new URL(address, location.origin);
  if (origin !== location.origin || !WORKER.test(pathname)) throw new TypeError(`no worker: ${address}`);
  return href;
}

/** @returns {{ promise: Promise<void>, resolve: () => void }} */
function defer() {
  let resolve = () => {};
  const promise = new Promise((/** @type {(value: void) => void} */ done) => (resolve = done));
  return { promise, resolve };
}

/**
 * Where the worker is, as the build wrote it into the page. A built page also has the script's hash, which is checked
 * here because workers have no `integrity` option; the worker then gets the same immutable bytes from the cache, and
 * checks its wasm itself.
 * @returns {Promise<URL>}
 */
async function workerAddress() {
  const meta = document.querySelector('meta[name="manyhands-worker"]');
  const address = new URL(meta?.getAttribute("content") ?? "", document.baseURI);
  const integrity = meta?.getAttribute("data-integrity");
  if (integrity) {
    try {
      await (await fetch(address, { integrity })).arrayBuffer();
    } catch {
      throw new Failure("worker_load");
    }
  }
  return address;
}

export class Contribution {
  /** @type {VisitState} */
  state = "idle";
  detail = "";
  /** What went wrong last; null once work goes on. @type {{ code: string, message: string, retryable: boolean } | null} */
  #fault = null;
  /** Who asked for the last pause. @type {"visitor" | "site" | null} */
  pausedBy = null;
  /** The share asked for last, in percent. */
  #limit = 100;
  /** Units this tab handed in, in this visit. */
  done = 0;
  /** @type {AdapterMessage | null} */
  adapter = null;
  /** @type {KeyMessage | null} */
  key = null;
  /** What the governor decided last. @type {PaceMessage | null} */
  pace = null;
  /** Go on while the page is hidden. */
  #background = false;
  /** What is kept of this visit. @type {Visit | null} */
  #kept = null;
  /** Of this visit alone. @type {Readonly<Totals>} */
  sums = NOTHING;
  #release = () => {};
  /** @type {Watch | null} */
  #watch = null;
  /** Of the key, over all tabs and visits. @type {Readonly<Totals>} */
  totals = NOTHING;
  /** What work took in this visit, in milliseconds of a device or core. */
  spentMs = 0;
  /** Newest first. @type {UnitMessage[]} */
  recent = [];
  /** Of this visit's results, as far as they came, by unit, the newest. @type {Map<number, ReceiptMessage>} */
  receipts = new Map();

  /** @type {Worker | null} */
  #worker = null;
  /** @type {Promise<Worker> | null} */
  #ready = null;
  /** @type {{ done: (message: AnswersMessage | SampleMessage | KeyDoneMessage) => void, failed: (error: Error) => void } | null} */
  #asked = null;
  /** Ends a load in progress. @type {((error: Error) => void) | null} */
  #abandon = null;
  /** The worker is the whole one, which counts what the page moves. */
  #isWhole = false;
  /** What the page moved for visits and no worker counted yet. */
  #movedBytes = 0;
  /** Tokens of sessions whose key is in the worker's memory and nowhere else. @type {Set<string>} */
  #unkept = new Set();
  #stopTimer = 0;
  #waitingTimer = 0;
  /** How many visits were begun: what an earlier one still waits for is not for this one. */
  begun = 0;
  /** A consent of this page stands, or will in a moment. */
  hasConsent = false;

  /** @param {() => void} onChange */
  constructor(onChange) {
    this.onChange = onChange;
    // What the page loads during a visit is a part of its data: all but the event stream, which tells by itself, as it comes.
    new PerformanceObserver((list) => {
      for (const each of /** @type {PerformanceResourceTiming[]} */ (list.getEntries())) {
        if (!each.name.endsWith("/events")) this.moved(Math.min(each.transferSize, each.encodedBodySize));
      }
    }).observe({ type: "resource" });
    // What a stopped tab says of the key is what another did to it.
    new BroadcastChannel(CHANGES).onmessage = ({ data }) => {
      if ("withdrawn" in data) {
        this.hasConsent = false;
        this.stop();
        this.onChange();
      }
      if (this.active || !("key" in data)) return;
      this.key = data.key && { type: "key", id: data.key, stored: true };
      this.onChange();
    };
  }

  /** One line about what went wrong last and whether it is tried again; empty where nothing did. */
  get error() {
    if (!this.#fault) return "";
    const { code, message, retryable } = this.#fault;
    const what = text.sayIfKnown(`fault_${code}`, "fault_other", { note: message.replace(/[.\s]+$/, "") });
    if (this.end) return what;
    return text.say(retryable && this.active ? "retries" : "retries_not", { what });
  }

  /** How the visit ended, where its own words say it: what was agreed to is used up, the page is too old, or the log false. */
  get end() {
    return this.state === "failed" ? ENDS[this.#fault?.code ?? ""] : undefined;
  }

  /** At work, or about to be. */
  get active() {
    return !["idle", "declined", "stopped", "failed"].includes(this.state);
  }

  /** The unit being worked on, or the last one until the next comes. @returns {UnitMessage | null} */
  get unit() {
    return ((this.state === "working" || this.state === "tuning") && this.recent[0]) || null;
  }

  /**
   * @param {{ id: number, title: string }} job the first one, where the terms name a category
   * @param {Backend} backend
   * @param {Tune} tune
   * @param {Terms} terms
   */
  async start(job, backend, tune, terms) {
    if (this.active) return;
    Object.assign(this, { done: 0, recent: [], adapter: null, pace: null, spentMs: 0, sums: NOTHING });
    this.#fault = null;
    this.receipts.clear();
    this.hasConsent = true;
    this.#limit = terms.duty_percent;
    this.pausedBy = null;
    this.#enter("loading");
    const begun = ++this.begun;
    const isOver = () => this.state !== "loading" || begun !== this.begun;
    try {
      const [worker, { Watch }, { Visit }] = await Promise.all([this.#open(), import("./governor.js"), import("./visits.js"), this.#hold()]);
      if (isOver()) return;
      this.#enter("starting");
      this.#kept = new Visit(job.title);
      this.sums = this.#kept.record;
      this.#post(worker, { type: "start", job: terms.category ? null : job.id, backend, tune, ...terms });
      // What was lowered or held while the worker was on its way.
      if (this.#limit < terms.duty_percent) this.limit(this.#limit);
      if (this.pausedBy) this.pause(this.pausedBy);
      this.#watch = new Watch((seen) => this.#tell(seen), this.#background);
      this.#tell(this.#watch.conditions);
    } catch (error) {
      // A stop during the load is no failure.
      if (isOver()) return;
      this.#close();
      this.#fail(error);
    }
  }

  /** @param {"visitor" | "site"} by */
  pause(by) {
    this.pausedBy = by;
    if (this.#worker) this.#post(this.#worker, { type: "pause" });
  }

  resume() {
    this.pausedBy = null;
    if (this.#worker) this.#post(this.#worker, { type: "resume" });
  }

  /** Takes no more than this from now on. @param {number} percent */
  limit(percent) {
    this.#limit = percent;
    if (this.active && this.#worker) this.#post(this.#worker, { type: "limit", duty_percent: percent });
  }

  get background() {
    return this.#background;
  }

  set background(background) {
    this.#background = background;
    if (this.#watch) this.#watch.background = background;
  }

  stop() {
    if (!this.active || this.state === "stopping") return;
    if (this.#worker) this.#post(this.#worker, { type: "stop" });
    this.#enter("stopping");
    this.#stopTimer = setTimeout(() => this.#stopped(), STOP_MS_MAX);
  }

  /**
   * The page goes away: leases are given back where the browser still lets the worker do so, and what nobody can come back to
   * is withdrawn. A page that the visitor may come back to goes on then, with a new session where it needs one.
   * @param {boolean} mayComeBack
   */
  leave(mayComeBack) {
    const worker = this.#worker;
    // A worker that stops would open another session, to give its leases back under; a session that ends does so itself.
    if (worker && this.active && !mayComeBack) {
      if (this.#unkept.size > 0) worker.terminate();
      else this.#post(worker, { type: "stop" });
    }
    this.#withdraw();
  }

  /** Ends the sessions that nobody can come back to. The time of one that the coordinator does not hear of ends by itself. */
  #withdraw() {
    for (const token of this.#unkept) withdraw(token).catch(() => {});
    this.#unkept.clear();
  }

  /** Counts what the page itself moved as the visit's. @param {number} bytes */
  moved(bytes) {
    if (!this.active) return;
    this.#movedBytes += bytes;
    if (!this.#worker || !this.#isWhole || this.#movedBytes < MOVED_BYTES_STEP) return;
    this.#post(this.#worker, { type: "moved", bytes: this.#movedBytes });
    this.#movedBytes = 0;
  }

  declined() {
    if (!this.active) this.#enter("declined");
  }

  reconsider() {
    if (!this.active) this.#enter("idle");
  }

  /** The model is being asked. */
  get asking() {
    return this.#asked !== null;
  }

  /**
   * The newest model's answers to what is wished. One question at a time.
   * @param {number} job
   * @param {TryWish} wish
   * @returns {Promise<AnswersMessage | SampleMessage>}
   */
  ask(job, wish) {
    // What nobody waits for may take as long as its visit's limits make it.
    return this.#request({ type: "try", job, ...wish }, wish.asked);
  }

  /**
   * Has the worker do something with the key. The caller sees to it that no tab is at work.
   * @param {KeyAct} act
   * @param {string} passphrase
   * @param {string} file
   * @returns {Promise<KeyDoneMessage>}
   */
  changeKey(act, passphrase, file) {
    return this.#request({ type: "key", act, passphrase, file }, true);
  }

  /**
   * One question and its answer.
   * @param {ToWorker} question
   * @param {boolean} hasLimit whether somebody waits for it
   * @returns {Promise<any>}
   */
  async #request(question, hasLimit) {
    const worker = await this.#open();
    return new Promise((done, failed) => {
      const silent = () => {
        this.#asked = null;
        failed(new Failure("worker_silent", text.say("fault_worker_silent")));
      };
      const timer = hasLimit ? setTimeout(silent, ANSWERS_MS_MAX) : 0;
      this.#asked = {
        done: (message) => {
          clearTimeout(timer);
          done(message);
        },
        failed: (error) => {
          clearTimeout(timer);
          failed(error);
        },
      };
      this.#post(worker, question);
    });
  }

  /** The worker, loaded if there is none. @returns {Promise<Worker>} */
  #open() {
    if (!this.#ready) {
      /** @type {Promise<Worker>} */
      const ready = workerAddress().then((address) => {
        // Stop came first: this worker would be nobody's.
        if (this.#ready !== ready) throw new Error(text.say("visit_stopped"));
        return this.#load(address);
      });
      this.#ready = ready;
      // A failed load is not kept: the next press tries afresh.
      ready.catch(() => {
        if (this.#ready === ready) this.#ready = null;
      });
    }
    return this.#ready;
  }

  /** @param {URL} address @returns {Promise<Worker>} */
  #load(address) {
    return new Promise((done, failed) => {
      const worker = new Worker(scripts.createScriptURL(address.href), { type: "module", name: "many-hands" });
      this.#worker = worker;
      this.#abandon = failed;
      let ready = false;
      /** @param {Failure} error */
      const broken = (error) => {
        clearTimeout(timer);
        if (this.#worker !== worker) return;
        this.#abandon = null;
        this.#close();
        failed(error);
        this.#asked?.failed(error);
        this.#asked = null;
        if (ready && this.active) this.#fail(error);
      };
      const timer = setTimeout(() => broken(new Failure("worker_silent")), READY_MS_MAX);
      worker.onerror = (event) => {
        event.preventDefault();
        broken(new Failure(ready ? "worker_crashed" : "worker_load", event.message));
      };
      worker.onmessageerror = () => broken(new Failure("worker_crashed"));
      worker.onmessage = (event) => {
        const message = /** @type {FromWorker} */ (event.data);
        if (message.type === "ready") {
          ready = true;
          this.#isWhole = message.whole === true;
          clearTimeout(timer);
          done(worker);
        } else if (this.#worker === worker) {
          this.#take(message);
        }
      };
    });
  }

  /** @param {import("../types").Conditions} seen */
  #tell(seen) {
    if (this.active && this.#worker) this.#post(this.#worker, { type: "conditions", ...seen });
  }

  /** Has the key left as it is while this tab works. */
  #hold() {
    const { promise: released, resolve } = defer();
    this.#release = resolve;
    const { promise: held, resolve: hold } = defer();
    navigator.locks
      .request(AT_WORK, { mode: "shared" }, () => {
        hold();
        return released;
      })
      // Where locks are refused nobody has it alone, either.
      .catch(hold);
    return held;
  }

  #close() {
    // The list of visits is whole before the key may be forgotten with it.
    void (this.#kept?.saved ?? Promise.resolve()).then(this.#release);
    this.#kept = null;
    this.#watch?.end();
    this.#watch = null;
    this.#worker?.terminate();
    this.#isWhole = false;
    this.#withdraw();
    this.#abandon?.(new Error(text.say("visit_stopped")));
    this.#abandon = null;
    this.#worker = null;
    this.#ready = null;
  }

  /** @param {Worker} worker @param {ToWorker} message */
  #post(worker, message) {
    worker.postMessage(message);
  }

  /** @param {FromWorker} message */
  #take(message) {
    switch (message.type) {
      case "state":
        if (message.state === "stopped") this.#stopped(message.detail ?? "");
        else if (this.state === "working" && message.state === "waiting") {
          // From the first message on: a call that is tried again says so each time.
          this.#waitingTimer ||= setTimeout(() => this.#enter("waiting", message.detail ?? ""), WAITING_SHOWN_MS);
        } else if (this.state !== "stopping") this.#enter(message.state, message.detail ?? "");
        return;
      case "adapter":
        this.adapter = message;
        break;
      case "key":
        this.key = message;
        break;
      case "session":
        this.#unkept.add(message.token);
        return;
      case "pace":
        this.pace = message;
        break;
      case "spent":
        this.spentMs += message.ms;
        break;
      case "totals":
        this.totals = {
          accepted: Number(message.accepted),
          rejected: Number(message.rejected),
          pending: Number(message.pending),
          credit_flop: Number(message.credit_flop),
        };
        break;
      case "unit":
        this.#takeUnit(message);
        break;
      case "receipt":
        if (this.#fault?.code === "log_silent") this.#fault = null;
        this.receipts.set(message.unit, message);
        keepNewest(this.receipts, RECEIPTS_COUNT_MAX);
        break;
      case "answers":
      case "sample":
      case "key_done":
        this.#asked?.done(message);
        this.#asked = null;
        return;
      case "error":
        // A failed try is told where it was asked, not as a failure of the contribution.
        if (message.code.startsWith("try_") || (this.#asked && !this.active)) {
          this.#asked?.failed(new Failure(message.code, message.message));
          this.#asked = null;
          return;
        }
        this.#fault = message;
        break;
    }
    this.onChange();
  }

  /** @param {UnitMessage} unit */
  #takeUnit(unit) {
    const at = this.recent.findIndex((known) => known.job === unit.job && known.unit === unit.unit);
    if (at >= 0) this.recent[at] = unit;
    else this.recent = [unit, ...this.recent].slice(0, RECENT_COUNT);
    this.#kept?.take(unit);
    if (unit.phase === "submitted") this.done += 1;
    // Work that goes on shows that an earlier failure is over.
    if ((unit.phase === "computing" || unit.phase === "accepted") && this.#fault?.code !== "log_silent") this.#fault = null;
  }

  /** @param {VisitState} state @param {string} [detail] */
  #enter(state, detail = "") {
    clearTimeout(this.#waitingTimer);
    this.#waitingTimer = 0;
    this.state = state;
    this.detail = detail;
    this.onChange();
  }

  /** The worker has stopped, by the visitor's wish or because it cannot go on. @param {string} [detail] */
  #stopped(detail = "") {
    clearTimeout(this.#stopTimer);
    const asked = this.state === "stopping";
    this.#close();
    this.#asked?.failed(new Error(text.say("visit_stopped")));
    this.#asked = null;
    this.recent = this.recent.filter((unit) => !["leased", "computing", "computed"].includes(unit.phase));
    if (asked) this.#fault = null;
    // The detail of a failure is the error's own line.
    this.#enter(this.#fault ? "failed" : "stopped", this.#fault ? "" : detail);
  }

  /** @param {unknown} error */
  #fail(error) {
    const code = error instanceof Failure ? error.code : "other";
    this.#fault = { code, message: error instanceof Error ? error.message : String(error), retryable: false };
    this.#enter("failed");
  }
}
