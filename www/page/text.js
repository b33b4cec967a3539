// @ts-check
// Every word the page says, in English. A second language is a second file with the same shape.

/** @typedef {import("../types").VisitState} VisitState */
/** @typedef {import("../types").JobState} JobState */
/** @typedef {import("../types").Link} Link */
/** @typedef {import("../types").UnitPhase} UnitPhase */
/** @typedef {import("../types").PaceReason} PaceReason */

export const locale = "en";

const whole = new Intl.NumberFormat(locale);
const percentage = new Intl.NumberFormat(locale, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const percentageShort = new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: 0 });
const decimal = new Intl.NumberFormat(locale, { minimumFractionDigits: 3, maximumFractionDigits: 3 });
const compact = new Intl.NumberFormat(locale, { notation: "compact", compactDisplay: "long", maximumSignificantDigits: 3 });
const short = new Intl.NumberFormat(locale, { maximumSignificantDigits: 2 });
const plural = new Intl.PluralRules(locale);

/** @param {number} n @param {string} one @param {string} other */
const count = (n, one, other) => `${whole.format(n)} ${plural.select(n) === "one" ? one : other}`;

/** @param {number} n */
export const number = (n) => whole.format(n);
/** @param {number} share */
export const percent = (share) => percentage.format(share);
/** @param {number} share */
export const percentRound = (share) => percentageShort.format(share);
/** @param {number} n */
export const loss = (n) => decimal.format(n);
/** @param {number} n */
export const flop = (n) => compact.format(n);
/** @param {number} n */
export const bytes = (n) => (n >= 1e9 ? `${short.format(n / 1e9)} GB` : `${short.format(n / 1e6)} MB`);
/** @param {string} hex */
export const shortKey = (hex) => `${hex.slice(0, 8)}…${hex.slice(-4)}`;

/** Texts of elements with `data-text`, by key. */
export const fixed = {
  skip: "Skip to your contribution",
  name: "Many Hands",
  key_label: "Coordinator key",
  key_why: "Everything this page runs is signed with this key. Whoever runs the coordinator can tell you whether it is theirs.",
  jobs_title: "Jobs",
  for_label: "For",
  model_label: "Model",
  learning_title: "How well it has learnt",
  accuracy_title: "Accuracy",
  loss_title: "Loss",
  table_title: "The same as a table",
  table_round: "Round",
  table_accuracy: "Accuracy",
  progress_title: "Progress",
  hands_title: "Hands at work",
  settled_label: "Units settled",
  accepted_label: "Results accepted",
  rejected_label: "Results rejected",
  refereed_label: "Computed by the coordinator",
  contributors_label: "Contributors so far",
  try_title: "Try the model",
  try_button: "Show me",
  prompt_label: "Begin with",
  consent_title: "Lend a hand?",
  what_label: "What runs",
  whom_label: "For whom",
  cost_label: "What it costs you",
  kept_label: "What is kept",
  stop_label: "How to stop",
  stop_text: "Pause or Stop at any time, or close the tab. Stop ends the work within a second.",
  consent_note: "Nothing is downloaded or run before you press Start. Start signs a statement of this consent with a key made for it in this browser.",
  duty_label: "At most",
  background_label: "Go on while this tab is hidden",
  start: "Start",
  not_now: "Not now",
  declined_title: "All right",
  declined_text: "Nothing was downloaded, run or stored. You can watch the training all the same.",
  reconsider: "Show the offer again",
  visit_title: "Your contribution",
  pause: "Pause",
  resume: "Resume",
  stop: "Stop",
  restart: "Start again",
  adapter_label: "Runs on",
  mine_done: "Units done",
  mine_accepted: "Accepted",
  mine_rejected: "Rejected",
  mine_pending: "Pending",
  given_label: "Given so far",
  my_key_label: "Your key",
  recent_title: "Latest units",
  about: "About this job",
  footer: "No cookies, no tracking, nothing from third parties.",
};

export const page = {
  insecure_title: "This page needs HTTPS",
  insecure_text:
    "Browsers offer computing on the GPU and safe keys only on encrypted pages (and on this computer itself). Nothing was loaded and nothing runs here. Ask for the https:// address.",
  offline_title: "No coordinator answers",
  /** @param {string} origin */
  offline_text: (origin) =>
    `The page asks ${origin} what there is to compute and gets no answer. It keeps trying; nothing needs to be done here. Whoever runs it starts the coordinator with “manyhands serve”.`,
  lost_text: "The coordinator does not answer at the moment. What you see is the last known state; the page keeps trying.",
  stopped_title: "Stopped by the operator",
  stopped_text: "Whoever runs this coordinator has stopped all work for now. Nothing runs until they resume it.",
  no_jobs_title: "Nothing to compute right now",
  no_jobs_text: "No job is open. This page looks again now and then.",
  /** @param {string} id */
  no_such_job: (id) => `There is no job ${id} here. It may not have been approved yet.`,
  refused_title: "The coordinator refused",
  /** @param {string} detail */
  refused_text: (detail) => `It says: ${detail}. The page tries again.`,
  old_browser_title: "This browser is too old",
  old_browser_text: "The page needs Web Locks, BroadcastChannel and module workers. Any current browser has them.",
};

/** @type {Record<Link, string>} */
export const link = {
  connecting: "Connecting",
  live: "Live",
  polling: "Refreshing now and then",
  offline: "No connection",
  ended: "Up to date",
};

/** @type {Record<string, string>} */
export const category = {
  research: "Research",
  education: "Education",
  public_good: "Public good",
  commercial: "Commercial",
  demo: "Demonstration",
};

/** @type {Record<JobState, string>} */
export const jobState = {
  submitted: "Waiting for approval",
  running: "Running",
  paused: "Paused by the operator",
  cancelled: "Cancelled",
  finished: "Finished",
};

export const job = {
  /** @param {number} round @param {number} max */
  round: (round, max) => `Round ${whole.format(round)} of at most ${whole.format(max)}`,
  /** @param {number} target */
  target: (target) => `target ${percentageShort.format(target)}`,
  /** @param {number} target */
  target_bits: (target) => `target ${decimal.format(target)}`,
  bits_title: "Bits per byte",
  examples_note: "Measured by the coordinator after each round, on pictures that are never trained on.",
  text_note:
    "Measured by the coordinator after each round, on text that is never trained on: how many bits the model needs on average to write down the next byte (fewer is better), and how often its first guess is right.",
  /** @param {number} count */
  layers: (count) => `${whole.format(count)} layers`,
  /** @param {number} settled @param {number} total */
  units: (settled, total) => `${whole.format(settled)} of ${count(total, "unit", "units")}`,
  /** @param {number} n */
  hands: (n) => (n === 0 ? "Nobody right now" : `${count(n, "person", "people")} right now`),
  /** @param {number} n */
  hands_with_you: (n) => (n <= 1 ? "You, right now" : `You and ${count(n - 1, "other", "others")} right now`),
  /** @param {number} parameters @param {string} shape */
  model: (parameters, shape) => `${shape}, ${compact.format(parameters)} parameters`,
  reached: "The target is reached. The model is done.",
  finished: "This job is finished.",
  paused: "The operator has paused this job. Nothing runs until it is resumed.",
  cancelled: "This job was cancelled.",
  submitted: "This job waits for the operator’s approval.",
  needs_more: "This page cannot compute this model’s layers yet; `manyhands volunteer` in a terminal can.",
  matmul: "One large matrix product, cut into blocks. Each returned block is checked before it counts.",
  no_history: "The first evaluation comes with the first merged round.",
  /** @param {number} round */
  at_round: (round) => `round ${whole.format(round)}`,
  /** @param {{ round: number, accuracy: number, loss: number }} first @param {{ round: number, accuracy: number, loss: number }} last @param {number | undefined} target */
  accuracy_summary: (first, last, target) =>
    `Accuracy went from ${percentage.format(first.accuracy)} at round ${first.round} to ${percentage.format(last.accuracy)} at round ${last.round}${target === undefined ? "" : `; the target is ${percentageShort.format(target)}`}.`,
  /** @param {string} what @param {number} round @param {number} value @param {number} lastRound @param {number} last */
  loss_summary: (what, round, value, lastRound, last) =>
    `${what} went from ${decimal.format(value)} at round ${round} to ${decimal.format(last)} at round ${lastRound}.`,
};

export const consent = {
  /** @param {string} title @param {boolean} training */
  what: (title, training) =>
    `${training ? "Training steps" : "Matrix products"} of “${title}”, in a sandboxed worker of this tab that sees the job’s data and nothing of yours.`,
  /** @param {string} owner */
  whom: (owner) => `${owner} gets the result.`,
  gpu: "your graphics processor (or of all processor cores but one, where that is faster)",
  cpu: "all processor cores but one (this browser offers no WebGPU)",
  /** @param {string} device @param {number} duty @param {string} data */
  cost: (device, duty, data) =>
    `${duty >= 100 ? "As much as it can get" : `Up to ${duty} %`} of ${device} while the tab is in sight, or hidden if you choose so; all your tabs of this site together. ${data}. The electricity is yours; a laptop gets warm and its battery drains.`,
  /** @param {number} unit bytes for one unit, 0 where unknown @param {number} most bytes agreed to */
  data: (unit, most) =>
    `${unit > 0 ? `About ${bytes(unit)} of data` : "Usually a few MB of data"} for each unit of work, at most ${bytes(most)} a day`,
  covered: "Start was not in full sight just now. Look at it for a moment, with nothing in front of it, and press again.",
  kept: "No cookies, no tracking. A signing key is made in this browser and stays there; the coordinator sees its public half and, like any web server, your IP address.",
};

export const pace = {
  /** @param {number} share */
  limit: (share) => (share >= 100 ? "as much as it can get" : `${share} % of the time`),
  /** @param {number} most */
  more: (most) => `Less at any time. For more than the ${most} % you agreed to, stop and start again: that is a new consent.`,
  /** Why less is taken than the visitor allows. @type {Record<PaceReason, string>} */
  why: {
    "": "",
    hidden: "Held while this tab is hidden; it goes on when you are back.",
    saver: "Held while your browser is to save data.",
    battery: "Held while the battery is low; it goes on when the computer is plugged in.",
    frames: "Slower for now: this page did not move smoothly.",
    pressure: "Slower for now: the computer is busy.",
    slow: "Slower for now: the device got slower, as hot ones do.",
    shared: "Your tabs of this site take turns: together they keep to the limit.",
  },
};

/** @type {Record<VisitState, string>} */
export const visit = {
  idle: "Not started",
  declined: "Not started",
  loading: "Loading the worker",
  starting: "Opening a session",
  self_test: "Testing the device with known answers",
  tuning: "Finding out what is fastest here",
  waiting: "Waiting for work",
  working: "Working",
  paused: "Paused",
  unreachable: "No connection, trying again",
  stopping: "Stopping",
  stopped: "Stopped",
  failed: "Could not go on",
};

export const contribution = {
  gpu: "GPU, by WebGPU",
  cpu: "Processor",
  no_work: "There is no work for this device at the moment. The page asks again by itself.",
  paused: "Nothing runs until you press Resume.",
  stopped: "Nothing runs any more. Thank you for your part in it.",
  /** @param {number} unit @param {string} kind */
  unit: (unit, kind) => `${kind === "train" ? "Training unit" : "Matrix block"} ${whole.format(unit)}`,
  /** @param {number} step @param {number} steps */
  step: (step, steps) => `step ${whole.format(step)} of ${whole.format(steps)}`,
  /** @param {number} value */
  loss: (value) => `loss ${decimal.format(value)}`,
  /** @param {number} n */
  given: (n) => `${compact.format(n)} floating-point operations, checked`,
  key_stored: "kept in this browser",
  key_memory: "for this visit only",
  /** @param {string} message @param {boolean} retries */
  error: (message, retries) => `${message.replace(/[.\s]+$/, "")}. ${retries ? "It tries again by itself." : "It does not try again."}`,
  worker_failed: "The worker could not be loaded",
  worker_crashed: "The worker crashed",
  worker_silent: "The worker did not answer",
};

/** @type {Record<UnitPhase, string>} */
export const phase = {
  leased: "fetching its data",
  computing: "computing",
  computed: "being sent",
  submitted: "sent",
  accepted: "accepted",
  rejected: "rejected",
  pending: "sent, being checked",
  given_back: "given back",
};

/** Mark of a phase, so that colour is never alone. @type {Record<UnitPhase, string>} */
export const phaseMark = {
  leased: "↓",
  computing: "…",
  computed: "↑",
  submitted: "↑",
  accepted: "✓",
  rejected: "✗",
  pending: "?",
  given_back: "↩",
};
