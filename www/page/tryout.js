// @ts-check
// The model tried in the tab: held-out pictures and the visitor's own, drawn, with the newest model's answers; or what the
// newest model writes. Asked for by a press, and after each new checkpoint while this tab helps. The worker computes; this
// shows.

import { build, byId, element, setText } from "./dom.js";
import { isOfText, pictureOf } from "./model.js";
import * as text from "./text.js";

/** @typedef {import("./contribution.js").Contribution} Contribution */
/** @typedef {import("../types").Answer} Answer */
/** @typedef {import("../types").AnswersMessage} AnswersMessage */
/** @typedef {import("../types").JobView} JobView */
/** @typedef {import("../types").SampleMessage} SampleMessage */
/** @typedef {import("../types").TrainView} TrainView */
/** @typedef {import("../types").TryWish} TryWish */
/** @typedef {import("./pad.js").Pad} Pad */

/** Pictures shown at once. */
const ROWS = 12;
/** Largest side of a picture that is drawn, in pixels. */
const SIDE_MAX = 512;

/** Texts shown at once, newest first. */
const SAMPLES_MAX = 5;
/** Seeds are whole numbers below this. */
const SEEDS = 2 ** 32;

/** About what the worker weighs, which the first try may have to download. */
const WORKER_BYTES = 400_000;
/** Jobs whose classes the page has words for; manifests have no field for them yet. */
const FASHION = ["fashion-mlp", "fashion-cnn"];

/** What a job calls one of its classes. @param {string} jobName @param {number} label */
const className = (jobName, label) =>
  text.sayIfKnown(FASHION.includes(jobName) ? `fashion_${label}` : "", "class_number", { label });

const newSeed = () => Math.floor(Math.random() * SEEDS);

export class Tryout {
  #visit;
  #currentJob;
  #button = byId("try", HTMLButtonElement);
  /** The checkpoint last asked about. */
  #asked = "";
  /** The same from round to round, so that what changes is the model. */
  #seed = newSeed();
  #shown = 0;
  /** @type {() => string} */
  #status = () => "";
  /** The cards of the answers shown. @type {(() => HTMLElement[]) | null} */
  #answered = null;
  /** Which of the held-out pictures were right last, under this seed. @type {boolean[]} */
  #right = [];
  /** @type {Pad | null} */
  #pad = null;
  #own = byId("own", HTMLDetailsElement);
  /** The card of the visitor's own picture. */
  #ownAnswer = build("ul", { class: "answers" });
  /** @type {(() => HTMLElement) | null} */
  #ownAnswered = null;
  /** A drawing waits for its answer. */
  #drawn = false;

  /**
   * @param {Contribution} visit
   * @param {() => JobView | null} currentJob
   */
  constructor(visit, currentJob) {
    this.#visit = visit;
    this.#currentJob = currentJob;
    this.#note();
    this.#button.addEventListener("click", (event) => {
      const job = this.#currentJob();
      if (!event.isTrusted || !job?.train || this.#button.getAttribute("aria-disabled") === "true") return;
      if (this.#shown > 0) this.#seed = newSeed();
      this.#right = [];
      void this.#ask(job, job.train, { asked: true });
    });
    this.#own.addEventListener("toggle", () => void this.#openPad());
  }

  /** What the first try takes; no status, which would be read out when it comes up. */
  #note() {
    element("try-note").hidden = this.#shown > 0;
    setText(element("try-note"), text.say("try_download", { worker: WORKER_BYTES }));
  }

  /** Says all of it again, in the language that the page has now. */
  retell() {
    this.#note();
    this.#tell(this.#status);
    if (this.#shown > 0) setText(this.#button, text.say("try_again"));
    if (this.#answered) element("answers").replaceChildren(...this.#answered());
    if (this.#ownAnswered) this.#ownAnswer.replaceChildren(this.#ownAnswered());
    this.#pad?.retell();
    for (const after of document.querySelectorAll("#samples [data-round]")) {
      setText(after, text.say("try_after", { round: Number(after.getAttribute("data-round")) }));
    }
  }

  /** @param {() => string} status what happened last, in words */
  #tell(status) {
    element("try-note").hidden = this.#shown > 0;
    this.#status = status;
    setText(element("try-status"), status());
  }

  /** Another job is shown. */
  clear() {
    this.#answered = null;
    this.#ownAnswered = null;
    this.#right = [];
    element("answers").replaceChildren();
    this.#ownAnswer.replaceChildren();
    element("samples").replaceChildren();
    this.#asked = "";
    this.#shown = 0;
  }

  /** @param {JobView} job @param {TrainView} train */
  show(job, train) {
    const writes = isOfText(train.model);
    setText(element("try-intro"), text.say(writes ? "try_texts" : "try_pictures"));
    element("prompt-row").hidden = !writes;
    this.#own.hidden = pictureOf(train.model) === null;
    const { state } = this.#visit;
    const helping = state === "working" || state === "waiting";
    const fresh = train.checkpoint !== this.#asked && train.rounds_merged > 0;
    // Pictures take a download that a press must ask for once; after it, only the model's newest state is one.
    const wished = writes || this.#answered !== null;
    if (wished && helping && fresh && !this.#visit.asking && document.visibilityState === "visible") void this.#ask(job, train, { asked: false });
  }

  async #openPad() {
    if (!this.#own.open || this.#pad) return;
    const { Pad } = await import("./pad.js");
    if (this.#pad) return;
    this.#pad = new Pad(this.#own, build("div", { role: "status" }, this.#ownAnswer), () => {
      this.#drawn = true;
      this.#askOwn();
    });
  }

  /** Asks what the newest drawing is, once nothing else is asked. */
  #askOwn() {
    const job = this.#currentJob();
    const size = job?.train && pictureOf(job.train.model);
    if (!this.#drawn || this.#visit.asking || !job?.train || !size) return;
    this.#drawn = false;
    const picture = this.#pad?.picture(size.width, size.height);
    if (picture) void this.#ask(job, job.train, { asked: true, picture });
  }

  /** @param {JobView} job @param {TrainView} train @param {{ asked: boolean, picture?: Uint8Array }} how */
  async #ask(job, train, { asked, picture }) {
    this.#asked = train.checkpoint;
    // What nobody asked for is not read out to them.
    element("try-status").setAttribute("aria-live", asked ? "polite" : "off");
    // Not `disabled`: that would throw the keyboard's focus away.
    this.#button.setAttribute("aria-disabled", "true");
    if (this.#shown === 0) this.#tell(() => text.say("try_loading"));
    try {
      const prompt = byId("prompt", HTMLInputElement).value;
      const message = await this.#visit.ask(job.id, { rows: ROWS, prompt, seed: this.#seed, picture: picture ?? null, asked });
      // The answer may come when another job is shown already.
      if (this.#currentJob()?.id !== job.id) return;
      if (message.type === "sample") this.#sample(message);
      else if (picture) this.#answerOwn(message, job.name);
      else this.#answers(message, job.name);
    } catch (error) {
      const what = error instanceof Error ? error.message : String(error);
      this.#tell(() => text.say("try_failed", { note: what }));
    } finally {
      this.#button.removeAttribute("aria-disabled");
      this.#askOwn();
    }
  }

  /** @param {AnswersMessage} message @param {string} jobName */
  #answers({ rows, bytes }, jobName) {
    const before = this.#right;
    this.#right = rows.map((answer) => answer.answer === answer.label);
    this.#answered = () => rows.map((answer, at) => card(answer, jobName, before[at] === false));
    element("answers").replaceChildren(...this.#answered());
    setText(this.#button, text.say("try_again"));
    const right = this.#right.filter(Boolean).length;
    this.#tell(() => text.say("try_score", { right, total: rows.length, bytes }));
    this.#shown += 1;
    Object.assign(document.documentElement.dataset, { answers: String(rows.length), answersShown: String(this.#shown) });
  }

  /** @param {AnswersMessage} message @param {string} jobName */
  #answerOwn({ rows: [answer], bytes }, jobName) {
    if (!answer) return;
    this.#ownAnswered = () => card(answer, jobName, false);
    this.#ownAnswer.replaceChildren(this.#ownAnswered());
    this.#tell(() => text.say("try_own", { bytes }));
    document.documentElement.dataset["ownAnswer"] = String(answer.answer);
  }

  /** What a model wrote can be anything: it is set as text, never as markup. @param {SampleMessage} sample */
  #sample(sample) {
    const list = element("samples");
    const written = build("p", { class: "written" }, build("span", { class: "soft" }, sample.prompt), sample.text);
    list.prepend(build("li", {}, build("p", { class: "small", "data-round": String(sample.round) }, text.say("try_after", { round: sample.round })), written));
    while (list.childElementCount > SAMPLES_MAX) list.lastElementChild?.remove();
    this.#shown += 1;
    setText(this.#button, text.say("try_again"));
    this.#tell(() => text.say("try_wrote", { bytes: sample.bytes }));
    Object.assign(document.documentElement.dataset, { samples: String(this.#shown), sampleRound: String(sample.round) });
  }
}

/**
 * @param {Answer} answer
 * @param {string} jobName
 * @param {boolean} wasWrong the model's answer to it before
 */
function card(answer, jobName, wasWrong) {
  const { label } = answer;
  const name = label === null ? text.say("own_picture") : text.say("answer_picture", { label: className(jobName, label) });
  const parts = [
    draw(answer, name),
    build("p", { class: "said" }, className(jobName, answer.answer)),
    build("p", { class: "soft" }, text.say("answer_sure", { probability: answer.probability })),
  ];
  if (label === null) return build("li", {}, ...parts);
  const right = answer.answer === label;
  const verdict = right ? text.say(wasWrong ? "answer_now_right" : "answer_right") : text.say("answer_wrong", { label: className(jobName, label) });
  const mark = build("span", { class: "mark", "aria-hidden": "true" }, right ? "✓" : "✗");
  return build("li", { class: right ? "right" : "wrong" }, ...parts, build("p", { class: "verdict" }, mark, verdict));
}

/**
 * @param {Answer} answer
 * @param {string} name
 */
function draw({ pixels, width, height }, name) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", name);
  const sound = width > 0 && height > 0 && width <= SIDE_MAX && height <= SIDE_MAX && pixels.length === width * height;
  const context = canvas.getContext("2d");
  if (!sound || !context) return canvas;
  canvas.width = width;
  canvas.height = height;
  const image = context.createImageData(width, height);
  for (let i = 0; i < pixels.length; i += 1) {
    const grey = Number(pixels[i]);
    image.data.set([grey, grey, grey, 255], i * 4);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
