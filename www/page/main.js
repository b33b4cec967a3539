// @ts-check
// Wires the page together: finds the coordinator and a job, follows it, and lets panel, display and tryout show what is.
// It decides nothing about work; that is the worker's and the coordinator's.

import { CallError, info as fetchInfo, jobs as fetchJobs } from "./coordinator.js";
import { Contribution, DATA_BYTES_MAX, DUTY_PERCENT, DUTY_PERCENT_MIN } from "./contribution.js";
import { build, byId, element, setText } from "./dom.js";
import { JobDisplay } from "./jobview.js";
import { follow } from "./live.js";
import { workerTrains } from "./model.js";
import { Panel } from "./panel.js";
import * as text from "./text.js";

/** @typedef {"insecure" | "offline" | "stopped" | "no_jobs" | "refused" | "old_browser"} Notice */
/** @typedef {import("../types").InfoView} InfoView */
/** @typedef {import("../types").JobView} JobView */
/** @typedef {import("../types").Link} Link */
/** @typedef {import("../types").Backend} Backend */
/** @typedef {import("../types").Tune} Tune */
/** @typedef {import("./tryout.js").Tryout} Tryout */
/** @typedef {import("./embed.js").Host} Host */
/** @typedef {import("./mine.js").Mine} Mine */

const RETRY_MS_MIN = 2_000;
const RETRY_MS_MAX = 30_000;
/** How often a visible page looks for new jobs, and whether the operator stopped or resumed everything. */
const REFRESH_MS = 20_000;

/** How long a finished job's worker may still hand in what it was about to, and fetch its last receipts, which are there within
 * a second or two; it asks for verdicts as it stops. */
const VERDICTS_MS = 6_000;

const root = document.documentElement;
const query = new URLSearchParams(location.search);
const wantedJob = query.get("job");
const backend = /** @type {Backend} */ (
  ["any", "gpu", "cpu"].includes(query.get("backend") ?? "") ? query.get("backend") : "auto"
);
/** In another site's page, which may ask for less than this page would. */
const framed = window.parent !== window;
const site = (framed && query.get("site")) || "";
/** @param {unknown} given what the site asks for @param {number} most @param {number} unit */
const lowered = (given, most, unit = 1) =>
  // What is no number, or less than one, is the least, never the most.
  typeof given === "string" ? Math.min(most, Math.max(1, Math.floor(Number(given)) || 1) * unit) : most;
/** @param {unknown} given */
const dutyOf = (given) => Math.max(DUTY_PERCENT_MIN, lowered(given, 100));
/** @param {string} name */
const asked = (name) => (framed ? query.get(name) : null);
const dutyMost = dutyOf(asked("duty"));
/** Of which kind the jobs are that are offered, where it is not one; any where it is empty. */
const category = /** @type {JobView["category"] | ""} */ ((wantedJob === null && asked("category")) || "");
const terms = {
  site,
  category,
  duty_percent: Math.min(dutyMost, DUTY_PERCENT),
  data_bytes_max: lowered(asked("data"), DATA_BYTES_MAX, 1_000_000),
};
/** @type {Tune} */
const tune = query.get("tune") === "off" ? "off" : "auto";

/** Says again what the page says instead of a job; nothing where there is a job. */
let sayNotice = () => {};

/**
 * Something the whole page has to say instead of a job.
 * @param {Notice} what
 * @param {string} state for `data-state`
 * @param {text.Values} [values]
 * @param {text.Key} [detail] where it is not that of `what`
 */
function notice(what, state, values = {}, detail = `${what}_text`) {
  element("main").hidden = true;
  element("notice").hidden = false;
  sayNotice = () => {
    setText(element("notice-title"), text.say(`${what}_title`));
    setText(element("notice-text"), text.say(detail, values));
  };
  sayNotice();
  root.dataset["state"] = state;
}

/** Says everything in the page's language, and again whenever that changes. @param {() => void} render what is not fixed */
function speak(render) {
  const chooser = byId("language", HTMLSelectElement);
  chooser.append(...text.languages.map((tag) => build("option", { value: tag, lang: tag }, text.nameOf(tag))));
  chooser.addEventListener("change", async () => {
    const isSpoken = await text.choose(chooser.value);
    setText(element("language-note"), isSpoken ? "" : text.say("language_away"));
  });
  const say = () => {
    for (const target of document.querySelectorAll("[data-text]")) {
      setText(target, text.say(/** @type {text.Key} */ (target.getAttribute("data-text"))));
    }
    chooser.value = text.language;
    sayNotice();
    render();
  };
  text.onChange(say);
  say();
}

function run() {
  /** @type {InfoView | null} */
  let info = null;
  /** @type {JobView[]} */
  let list = [];
  /** @type {JobView | null} */
  let job = null;
  /** @type {{ stop: () => void } | null} */
  let following = null;
  /** @type {Link} */
  let link = "connecting";
  let failures = 0;
  let timer = 0;

  const visit = new Contribution(() => render());
  const display = new JobDisplay();
  /** What this page is framed by; loaded only where it is. @type {Host | null} */
  let host = null;
  const panel = new Panel(
    visit,
    terms,
    dutyMost,
    () => {
      // Visits are listed by what was agreed to.
      if (job) void visit.start({ id: job.id, title: category ? text.say(`category_${category}`) : job.title }, backend, tune, terms);
    },
    (id) => (framed ? (host?.doubt(id) ?? "covered") : ""),
    () => openMine((mine) => mine.offerForget()),
    () => {
      visit.stop();
      openMine((mine) => void mine.withdraw(), "withdraw_failed");
    },
  );
  const details = byId("mine", HTMLDetailsElement);
  /** The visitor's key and visits, loaded when they are first looked at. @type {Promise<Mine> | null} */
  let mine = null;
  /** @param {(mine: Mine) => void} act @param {text.Key} [away] what is said where it cannot be loaded */
  function openMine(act, away = "fault_unreachable") {
    details.open = true;
    mine ??= import("./mine.js").then(({ Mine }) => new Mine(visit));
    mine.then(act, () => {
      if (!mine) return;
      // Asked for again with the next look.
      mine = null;
      element("mine-body").replaceChildren(build("p", { role: "status", "data-text": away }, text.say(away)));
    });
  }
  details.addEventListener("toggle", () => {
    if (details.open) openMine((mine) => void mine.show());
  });
  if (framed) {
    root.dataset["framed"] = "";
    element("about").hidden = false;
    element("embed").hidden = true;
    void import("./embed.js").then(({ Host }) => {
      const lower = (/** @type {unknown} */ duty) => panel.lower(dutyOf(duty));
      host = new Host(visit, element("start"), () => element("panel").focus(), lower);
    });
  }
  if (query.has("preview")) {
    byId("start", HTMLButtonElement).disabled = true;
    element("preview").hidden = false;
  }
  /** Loaded when it is first to be seen. @type {Tryout | null} */
  let tryout = null;
  let loading = false;
  addEventListener("pagehide", ({ persisted }) => visit.leave(persisted));

  /** @param {JobView} view */
  function take(view) {
    const before = job?.state;
    job = view;
    list = list.map((known) => (known.id === view.id ? view : known));
    if (before !== view.state) {
      renderList();
      schedule(0);
      // Consent was for this job, or for its kind: when it is over, so is this tab's work, or the next one's turn has come. The
      // worker first hears its last verdicts.
      if (!category && (view.state === "finished" || view.state === "cancelled")) {
        const { begun } = visit;
        setTimeout(() => begun === visit.begun && visit.stop(), VERDICTS_MS);
      }
    }
    render();
  }

  /** @param {JobView} next */
  function choose(next) {
    if (job?.id === next.id) return;
    following?.stop();
    job = next;
    link = "connecting";
    tryout?.clear();
    const onLink = (/** @type {Link} */ now) => {
      link = now;
      render();
    };
    following = follow(next.id, take, onLink, (bytes) => visit.moved(bytes));
    renderList();
    render();
  }

  function render() {
    if (!job) return;
    element("main").hidden = false;
    element("notice").hidden = true;
    sayNotice = () => {};
    const helping = ["working", "self_test", "tuning", "waiting"].includes(visit.state);
    display.show(job, helping);
    panel.show(banner(job), job.state === "running" && !info?.stopped);
    // After it: a new offer begins with what the visitor chose last.
    panel.offer(job);
    // Trying the model takes the worker, which is downloaded for those only who asked for it: by Start, whose first unit comes
    // before anything else, or here at last.
    const hasAsked = tryout !== null || visit.done > 0;
    offerTryout(hasAsked || job.state === "finished" ? job.train : undefined);
    element("link").hidden = false;
    element("link").dataset["link"] = link;
    setText(element("link-text"), text.say(`link_${link}`));
    host?.tell();
    if (framed) element("about").setAttribute("href", `./?job=${job.id}`);
    mirror(job);
  }

  /** @param {JobView["train"]} train none where there is nothing to try */
  function offerTryout(train) {
    element("tryout").hidden = !train || !tryout;
    if (!train || !job) return;
    if (tryout) return tryout.show(job, train);
    if (loading) return;
    loading = true;
    import("./tryout.js").then(
      (module) => {
        tryout = new module.Tryout(visit, () => job);
        render();
      },
      // Asked for again with the next news of the job.
      () => (loading = false),
    );
  }

  /** @param {JobView} current */
  function banner(current) {
    if (link === "offline") return text.say("lost_text");
    if (info?.stopped) return `${text.say("stopped_title")}. ${text.say("stopped_text")}`;
    if (current.state === "finished") return text.say("note_finished");
    if (current.train && !workerTrains(current.train.model)) return text.say("needs_more");
    return current.state === "running" ? "" : text.say(`note_${current.state}`);
  }

  /** What tests may read: the same facts that are on the page. @param {JobView} current */
  function mirror(current) {
    const last = current.train?.history.at(-1);
    const newest = visit.recent[0];
    Object.assign(root.dataset, {
      state: visit.state,
      job: String(current.id),
      jobState: current.state,
      link,
      stopped: String(info?.stopped ?? false),
      backend: visit.adapter?.backend ?? "",
      adapter: visit.adapter?.adapter ?? "",
      reason: visit.adapter?.reason ?? "",
      done: String(visit.done),
      accepted: String(visit.totals.accepted),
      rejected: String(visit.totals.rejected),
      pending: String(visit.totals.pending),
      key: visit.key?.id ?? "",
      phases: visit.recent.map((unit) => unit.phase).join(" "),
      // Only while it is being computed; the panel shows it a little longer.
      unit: newest && ["leased", "computing"].includes(newest.phase) ? String(newest.unit) : "",
      round: String(current.train?.rounds_merged ?? 0),
      accuracy: last ? String(last.accuracy) : "",
      error: visit.error,
      duty: String(visit.pace?.duty_percent ?? ""),
      pace: visit.pace?.reason ?? "",
      end: visit.end ?? "",
      receipts: String(visit.receipts.size),
    });
  }

  function renderList() {
    element("jobs").hidden = list.length < 2;
    element("jobs").setAttribute("aria-label", text.say("jobs_title"));
    const had = document.activeElement?.getAttribute("data-job");
    element("jobs").replaceChildren(
      ...list.map((entry) => {
        const attributes = { type: "button", "data-job": String(entry.id) };
        const button = build("button", attributes, build("bdi", {}, entry.title), build("span", {}, text.say(`job_${entry.state}`)));
        if (entry.id === job?.id) button.setAttribute("aria-current", "true");
        // Consent names one job: while this tab works for it, another can be looked at only after Stop.
        if (visit.active && entry.id !== job?.id) button.setAttribute("disabled", "");
        button.addEventListener("click", () => choose(entry));
        return button;
      }),
    );
    // The keyboard stays where it was.
    for (const button of element("jobs").querySelectorAll("button")) if (had && button.dataset["job"] === had) button.focus();
  }

  /** @param {InfoView} view */
  function showKey(view) {
    element("key").hidden = false;
    setText(element("key-short"), text.shortKey(view.key));
    setText(element("key-full"), view.key);
  }

  async function refresh() {
    try {
      [info, list] = await Promise.all([fetchInfo(), fetchJobs(site)]);
      failures = 0;
      showKey(info);
      if (category) list = list.filter((entry) => entry.category === category);
      const first = pick(list, wantedJob);
      const same = list.find((entry) => entry.id === job?.id);
      if (category && visit.active && same?.state !== "running" && first?.state === "running") {
        choose(first);
      } else if (same && job) {
        job = same;
        renderList();
        render();
      } else if (job && visit.active) {
        // The job left the list while this tab works for it: the worker hears of it too; stay with what is shown.
        render();
      } else if (first) {
        choose(first);
      } else if (wantedJob !== null) {
        notice("no_jobs", "no_jobs", { id: wantedJob }, "no_such_job_text");
      } else if (info.stopped) {
        notice("stopped", "operator_stopped");
      } else {
        notice("no_jobs", "no_jobs");
      }
      schedule(REFRESH_MS);
    } catch (error) {
      failures += 1;
      if (!job) {
        const unreachable = !(error instanceof CallError) || error.code === "unreachable";
        if (unreachable) notice("offline", "no_coordinator", { origin: location.origin });
        else notice("refused", "refused", { note: error.message });
      }
      schedule(Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** (failures - 1)));
    }
  }

  /** @param {number} ms */
  function schedule(ms) {
    clearTimeout(timer);
    timer = setTimeout(() => {
      // A hidden page asks nothing; it catches up when it is seen again.
      if (document.visibilityState === "visible") void refresh();
    }, ms);
  }
  document.addEventListener("visibilitychange", () => schedule(0));
  speak(() => {
    tryout?.retell();
    mine?.then((mine) => mine.show()).catch(() => {});
    if (job) renderList();
    render();
  });
  schedule(0);
}

/**
 * The job asked for; else one that takes this worker's work, training first; else the newest.
 * @param {JobView[]} list
 * @param {string | null} wanted
 */
function pick(list, wanted) {
  if (wanted !== null) return list.find((entry) => String(entry.id) === wanted);
  const running = list.filter((entry) => entry.state === "running");
  const known = running.filter((entry) => !entry.train || workerTrains(entry.train.model));
  return known.find((entry) => entry.train) ?? known[0] ?? running[0] ?? list.find((entry) => entry.train) ?? list[0];
}

if (!isSecureContext) {
  speak(() => {});
  notice("insecure", "insecure");
} else if (!("locks" in navigator) || !("any" in AbortSignal)) {
  speak(() => {});
  notice("old_browser", "unsupported");
} else {
  run();
}
