// @ts-check
// Shows the offer (consent) and this tab's contribution, and turns presses of its buttons into calls. Only a press by a
// person starts anything: synthetic events are ignored.

import { DUTY_PERCENT_MIN } from "./contribution.js";
import { build, byId, element, setText } from "./dom.js";
import { parametersOf } from "./model.js";
import { wattHours } from "./energy.js";
import * as text from "./text.js";

/** @typedef {import("./contribution.js").Contribution} Contribution */
/** @typedef {import("./contribution.js").Terms} Terms */
/** @typedef {import("../types").JobView} JobView */
/** @typedef {import("../types").UnitMessage} UnitMessage */

/** What a unit's own data is taken to weigh in the estimate; the view does not say. */
const SHARD_BYTES = 1e6;

/** Units an hour where nothing is known yet of how long they take: one in ten seconds. */
const UNITS_AN_HOUR = 360;
/** Rounds whose pace tells how long units take now. */
const ROUNDS_COUNT = 10;

/** Less electricity than this is told as less. */
const WATT_HOURS_MIN = 0.01;

/** Mark of a phase, so that colour is never alone. @type {Record<import("../types").UnitPhase, string>} */
const MARKS = {
  leased: "↓",
  computing: "…",
  computed: "↑",
  submitted: "↑",
  accepted: "✓",
  rejected: "✗",
  pending: "?",
  challenged: "?",
  given_back: "↩",
};

/**
 * Runs `action` on a press that the browser vouches for.
 * @param {string} id
 * @param {() => void} action
 */
function onPress(id, action) {
  byId(id, HTMLButtonElement).addEventListener("click", (event) => {
    if (event.isTrusted) action();
  });
}

/**
 * Shows one line, or hides it when there is nothing to say.
 * @param {string} id
 * @param {string} value
 */
function line(id, value) {
  element(id).hidden = value === "";
  setText(element(id), value);
}

/**
 * Units that one person's device computes in an hour, estimated: as fast as the job's last rounds went for those who help now.
 * @param {JobView} job
 */
function unitsAnHour({ train, contributors_now }) {
  const rounds = train?.history.slice(-ROUNDS_COUNT) ?? [];
  const hours = ((rounds.at(-1)?.at_ms ?? 0) - (rounds[0]?.at_ms ?? 0)) / 3.6e6;
  if (!train || hours <= 0) return UNITS_AN_HOUR;
  return ((rounds.length - 1) * train.units_per_round) / hours / Math.max(1, contributors_now);
}

export class Panel {
  /** What a new consent may be to; the slider's end while none is given. */
  #most;
  /** Whether the browser keeps anything for this page: where it refuses, in a frame for instance, a key lasts for a visit. */
  #isKept = true;

  /**
   * @param {Contribution} visit
   * @param {Terms} terms what Start consents to; the visitor chooses the share
   * @param {number} most the largest share that may be chosen
   * @param {() => void} onStart
   * @param {(id: "start" | "background") => "" | "covered" | "covered_box" | "unread"} doubt why a press of this does not count, if so
   * @param {() => void} onForget
   * @param {() => void} onWithdraw
   */
  constructor(visit, terms, most, onStart, doubt, onForget, onWithdraw) {
    this.visit = visit;
    this.terms = terms;
    this.#most = most;
    this.doubt = doubt;
    this.#limits();
    void this.#look();
    onPress("start", () => {
      if (!this.#mayPress("start")) return;
      onStart();
      element("visit-title").focus();
    });
    onPress("restart", () => {
      visit.reconsider();
      element("start").focus();
    });
    onPress("not-now", () => {
      visit.declined();
      element("declined-title").focus();
    });
    onPress("reconsider", () => {
      visit.reconsider();
      element("start").focus();
    });
    onPress("pause", () => (visit.pausedBy ? visit.resume() : visit.pause("visitor")));
    onPress("stop", () => {
      // The button is about to be disabled and to go away; the keyboard must not go with it.
      element("visit-title").focus();
      visit.stop();
    });
    onPress("reload", () => location.reload());
    onPress("forget", onForget);
    onPress("withdraw", onWithdraw);
  }

  /** Says so where a press cannot count. @param {"start" | "background"} id */
  #mayPress(id) {
    const why = this.doubt(id);
    line("covered", why && text.say(why));
    element("covered").dataset["why"] = why;
    return !why;
  }

  async #look() {
    try {
      // Keys are kept in IndexedDB; to ask which databases there are makes none.
      if (localStorage !== null) await indexedDB.databases?.();
    } catch {
      this.#isKept = false;
      this.visit.onChange();
    }
  }

  /** The site offers no more than this from now on, whatever was agreed to. @param {number} percent */
  lower(percent) {
    if (percent >= this.#most) return;
    this.#most = percent;
    this.visit.onChange();
    if (this.visit.active) this.visit.limit(byId("duty", HTMLInputElement).valueAsNumber);
  }

  /** The visitor's own limits: before Start they are a part of the consent, after it they can only be lowered. */
  #limits() {
    const { visit, terms } = this;
    const [duty, background] = ["duty", "background"].map((id) => byId(id, HTMLInputElement));
    if (!duty || !background) return;
    duty.min = String(DUTY_PERCENT_MIN);
    duty.max = String(this.#most);
    duty.value = String(terms.duty_percent);
    duty.addEventListener("input", (event) => {
      if (!event.isTrusted) return;
      if (visit.active) visit.limit(duty.valueAsNumber);
      else terms.duty_percent = duty.valueAsNumber;
      visit.onChange();
    });
    background.addEventListener("change", (event) => {
      if (!event.isTrusted) return;
      // More than before, as Start is: only where it is seen what is pressed.
      if (background.checked && !this.#mayPress("background")) background.checked = false;
      visit.background = background.checked;
    });
  }

  /** The consent text for a job. @param {JobView} job */
  offer(job) {
    // One unit fetches the model and hands in an update of the same size; its data comes on top, once per shard.
    const parameters = job.train ? parametersOf(job.train.model) : 0;
    const [unit, most] = [parameters * 8 + SHARD_BYTES, this.terms.data_bytes_max];
    const hour = Math.min(most, unit * unitsAnHour(job));
    const data = text.say(parameters ? "consent_data" : "consent_data_unknown", { unit, hour, most });
    const device = text.say("gpu" in navigator ? "device_gpu" : "device_cpu");
    const share = this.terms.duty_percent / 100;
    const { category } = this.terms;
    const what = text.say(job.train ? "consent_what_train" : "consent_what_matmul", { title: job.title });
    const whom = text.say("consent_whom", { owner: job.owner });
    const kind = category && text.say(`category_${category}`);
    setText(element("consent-what"), kind ? text.say("consent_what_category", { kind, what }) : what);
    setText(element("consent-whom"), kind ? text.say("consent_whom_category", { whom }) : whom);
    setText(element("consent-cost"), text.say(share < 1 ? "consent_cost_share" : "consent_cost_all", { share, device, data }));
    const kept = this.#isKept ? (window.parent === window ? "consent_kept" : "consent_kept_framed") : "consent_kept_visit";
    setText(element("consent-kept"), text.say(kept));
  }

  /**
   * @param {string} banner why no work can be done at all; empty where it can
   * @param {boolean} open whether the job takes work
   */
  show(banner, open) {
    const { visit } = this;
    const offering = visit.state === "idle" && open && !banner;
    element("consent").hidden = !offering;
    element("declined").hidden = visit.state !== "declined";
    element("visit").hidden = visit.state === "idle" || visit.state === "declined";
    line("banner", banner);
    element("panel").hidden = !banner && visit.state === "idle" && !offering;
    if (!element("visit").hidden) this.#visit(open);
    this.#showLimits(offering);
  }

  /** @param {boolean} offering */
  #showLimits(offering) {
    const { visit, terms } = this;
    const [limits, duty] = [element("limits"), byId("duty", HTMLInputElement)];
    limits.hidden = !offering && !visit.active;
    const place = element(offering ? "consent" : "visit").querySelector(".choice");
    if (place && limits.nextElementSibling !== place) {
      place.before(limits);
      // What it says must not move what is pressed.
      place.after(element("covered"));
    }
    // A new offer begins with what was chosen last.
    if (offering && duty.max !== String(this.#most)) {
      terms.duty_percent = duty.valueAsNumber;
      duty.max = String(this.#most);
    } else if (visit.active) {
      duty.max = String(Math.min(terms.duty_percent, this.#most));
    }
    setText(element("duty-now"), text.say(duty.valueAsNumber < 100 ? "pace_share" : "pace_all", { share: duty.valueAsNumber / 100 }));
    line("duty-note", visit.active && terms.duty_percent < this.#most ? text.say("pace_more", { share: terms.duty_percent / 100 }) : "");
  }

  /** @param {boolean} open */
  #visit(open) {
    const { visit } = this;
    element("visit").dataset["state"] = visit.state;
    element("visit").dataset["end"] = visit.end ?? "";
    setText(element("visit-state"), text.say(`visit_${visit.end ?? visit.state}`));
    line("visit-detail", this.#detail());
    line("visit-error", visit.error);
    this.#buttons(open);
    this.#unit(visit.unit);
    setText(element("mine-done"), text.number(visit.done));
    setText(element("mine-accepted"), text.number(visit.sums.accepted));
    setText(element("mine-rejected"), text.number(visit.sums.rejected));
    setText(element("mine-pending"), text.number(visit.sums.pending));
    this.#facts();
    element("recent").hidden = visit.recent.length === 0;
    element("recent-list").replaceChildren(...visit.recent.map((unit) => this.#recent(unit)));
    element("receipts").hidden = visit.receipts.size === 0;
    if (visit.receipts.size > 0) import("./receipts.js").then(({ show }) => show(visit.receipts)).catch(() => {});
  }

  #detail() {
    const { visit } = this;
    if (visit.state === "waiting") return text.say(visit.detail ? "detail_waiting_why" : "detail_waiting", { note: visit.detail });
    if (visit.state === "paused" && visit.pausedBy) return text.say(visit.pausedBy === "site" ? "detail_paused_site" : "detail_paused");
    const reason = visit.pace?.reason ?? "";
    if (visit.active && reason) return text.say(`pace_${reason}`);
    if (visit.state === "stopped") return text.say("detail_stopped");
    return "";
  }

  /** @param {boolean} open */
  #buttons(open) {
    const { visit } = this;
    const [pause, stop, restart, reload] = ["pause", "stop", "restart", "reload"].map((id) => byId(id, HTMLButtonElement));
    if (!pause || !stop || !restart || !reload) return;
    const had = document.activeElement;
    pause.hidden = !visit.active;
    stop.hidden = !visit.active;
    const outdated = visit.end === "outdated";
    restart.hidden = visit.active || !open || outdated;
    reload.hidden = !outdated;
    element("forget").hidden = visit.active || !visit.key?.stored;
    // The consent of a key that is not kept ends with its visit.
    element("withdraw").hidden = !visit.hasConsent || !(visit.active || visit.key?.stored);
    pause.disabled = !["working", "tuning", "waiting", "paused", "unreachable"].includes(visit.state);
    stop.disabled = visit.state === "stopping";
    setText(pause, text.say(visit.pausedBy ? "resume" : "pause"));
    // A button that goes away must not take the keyboard's place in the page with it.
    if ((had === pause || had === stop) && had instanceof HTMLElement && had.hidden) element("visit-title").focus();
  }

  /** @param {UnitMessage | null} unit */
  #unit(unit) {
    element("unit").hidden = !unit;
    if (!unit) return;
    setText(element("unit-name"), text.say(`unit_${unit.kind}`, { unit: unit.unit }));
    const parts = [text.say(`phase_${unit.phase}`)];
    if (unit.phase === "computing" && unit.step && unit.steps) parts.push(text.say("unit_step", { step: unit.step, steps: unit.steps }));
    if (typeof unit.loss === "number") parts.push(text.say("unit_loss", { loss: unit.loss }));
    setText(element("unit-step"), parts.join(" · "));
    const progress = byId("unit-progress", HTMLProgressElement);
    const ended = unit.phase !== "leased" && unit.phase !== "computing";
    // Without a step there is nothing to measure yet: the bar says so instead of standing at nought.
    if (ended) progress.value = 1;
    else if (unit.step && unit.steps) progress.value = unit.step / unit.steps;
    else progress.removeAttribute("value");
  }

  #facts() {
    const { adapter, key, totals } = this.visit;
    element("adapter-row").hidden = !adapter;
    if (adapter) {
      const kind = text.say(adapter.backend === "webgpu" ? "runs_gpu" : "runs_cpu");
      const device = adapter.adapter ? text.say("runs_on", { kind, adapter: adapter.adapter }) : kind;
      const why = () => (adapter.reason ? text.say("runs_why", { device, note: adapter.reason }) : device);
      setText(element("adapter"), adapter.is_faster ? text.say("runs_faster", { device }) : why());
    }
    element("given-row").hidden = totals.credit_flop === 0;
    setText(element("given"), text.say("given", { flop: totals.credit_flop }));
    const { spentMs, recent } = this.visit;
    element("spent-row").hidden = !adapter || spentMs === 0;
    if (adapter) {
      const bytes = Math.max(0, ...recent.map((unit) => unit.data_bytes));
      const energy = wattHours(spentMs, adapter);
      setText(element("spent"), text.say(energy.high < WATT_HOURS_MIN ? "spent_little" : "spent", { ...energy, least: WATT_HOURS_MIN, bytes }));
    }
    element("my-key-row").hidden = !key;
    if (key) {
      setText(element("my-key"), text.say(key.stored ? "key_stored" : "key_memory", { key: text.shortKey(key.id) }));
    }
  }

  /** @param {UnitMessage} unit */
  #recent(unit) {
    const said = { unit: text.say(`unit_${unit.kind}`, { unit: unit.unit }), phase: text.say(`phase_${unit.phase}`), note: unit.reason ?? "" };
    const line = text.say(unit.reason ? "unit_line_why" : "unit_line", said);
    const receipt = this.visit.receipts.get(unit.unit);
    return build(
      "li",
      { "data-phase": unit.phase },
      build("span", { class: "mark", "aria-hidden": "true" }, MARKS[unit.phase]),
      receipt ? text.say("unit_logged", { line, index: receipt.index }) : line,
    );
  }
}
