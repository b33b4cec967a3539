// @ts-check
// The model tried in the tab: held-out pictures, drawn, with the newest model's answers; or what the newest model writes,
// asked for by a press, and after each new checkpoint while this tab helps. The worker computes; this shows.

import { build, byId, element, setText } from "./dom.js";
import { isOfText } from "./model.js";
import * as text from "./text.js";

/** @typedef {import("./contribution.js").Contribution} Contribution */
/** @typedef {import("../types").Answer} Answer */
/** @typedef {import("../types").AnswersMessage} AnswersMessage */
/** @typedef {import("../types").JobView} JobView */
/** @typedef {import("../types").SampleMessage} SampleMessage */
/** @typedef {import("../types").TrainView} TrainView */

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

  /**
   * @param {Contribution} visit
   * @param {() => JobView | null} currentJob
   */
  constructor(visit, currentJob) {
    this.#visit = visit;
    this.#currentJob = currentJob;
    this.#tell(() => text.say("try_download", { worker: WORKER_BYTES }));
    this.#button.addEventListener("click", (event) => {
      const job = this.#currentJob();
      if (!event.isTrusted || !job?.train || this.#button.getAttribute("aria-disabled") === "true") return;
      if (this.#shown > 0) this.#seed = newSeed();
      void this.#ask(job, job.train);
    });
  }

  /** Says all of it again, in the language that the page has now. */
  retell() {
    this.#tell(this.#status);
    if (this.#shown > 0) setText(this.#button, text.say("try_again"));
    if (this.#answered) element("answers").replaceChildren(...this.#answered());
    for (const after of document.querySelectorAll("#samples [data-round]")) {
      setText(after, text.say("try_after", { round: Number(after.getAttribute("data-round")) }));
    }
  }

  /** @param {() => string} status what happened last, in words */
  #tell(status) {
    this.#status = status;
    setText(element("try-status"), status());
  }

  /** Another job is shown. */
  clear() {
    this.#answered = null;
    element("answers").replaceChildren();
    element("samples").replaceChildren();
    this.#asked = "";
    this.#shown = 0;
  }

  /** @param {JobView} job @param {TrainView} train */
  show(job, train) {
    const writes = isOfText(train.model);
    setText(element("try-intro"), text.say(writes ? "try_texts" : "try_pictures"));
    element("prompt-row").hidden = !writes;
    const { state } = this.#visit;
    const helping = state === "working" || state === "waiting";
    const fresh = train.checkpoint !== this.#asked && train.rounds_merged > 0;
    if (writes && helping && fresh && !this.#visit.asking && document.visibilityState === "visible") void this.#ask(job, train);
  }

  /** @param {JobView} job @param {TrainView} train */
  async #ask(job, train) {
    this.#asked = train.checkpoint;
    // Not `disabled`: that would throw the keyboard's focus away.
    this.#button.setAttribute("aria-disabled", "true");
    if (this.#shown === 0) this.#tell(() => text.say("try_loading"));
    try {
      const prompt = byId("prompt", HTMLInputElement).value;
      const message = await this.#visit.ask(job.id, ROWS, prompt, this.#seed);
      // The answer may come when another job is shown already.
      if (this.#currentJob()?.id !== job.id) return;
      if (message.type === "sample") this.#sample(message);
      else this.#answers(message, job.name);
      setText(this.#button, text.say("try_again"));
    } catch (error) {
      const what = error instanceof Error ? error.message : String(error);
      this.#tell(() => text.say("try_failed", { note: what }));
    } finally {
      this.#button.removeAttribute("aria-disabled");
    }
  }

  /** @param {AnswersMessage} message @param {string} jobName */
  #answers({ rows, bytes }, jobName) {
    this.#answered = () => rows.map((answer) => card(answer, jobName));
    element("answers").replaceChildren(...this.#answered());
    const right = rows.filter((answer) => answer.answer === answer.label).length;
    this.#tell(() => text.say("try_score", { right, total: rows.length, bytes }));
    this.#shown += 1;
    document.documentElement.dataset["answers"] = String(rows.length);
  }

  /** What a model wrote can be anything: it is set as text, never as markup. @param {SampleMessage} sample */
  #sample(sample) {
    const list = element("samples");
    const written = build("p", { class: "written" }, build("span", { class: "soft" }, sample.prompt), sample.text);
    list.prepend(build("li", {}, build("p", { class: "small", "data-round": String(sample.round) }, text.say("try_after", { round: sample.round })), written));
    while (list.childElementCount > SAMPLES_MAX) list.lastElementChild?.remove();
    this.#shown += 1;
    this.#tell(() => text.say("try_wrote", { bytes: sample.bytes }));
    Object.assign(document.documentElement.dataset, { samples: String(this.#shown), sampleRound: String(sample.round) });
  }
}

/**
 * @param {Answer} answer
 * @param {string} jobName
 */
function card(answer, jobName) {
  const right = answer.answer === answer.label;
  const label = className(jobName, answer.label);
  return build(
    "li",
    { class: right ? "right" : "wrong" },
    draw(answer, text.say("answer_picture", { label })),
    build("p", { class: "said" }, className(jobName, answer.answer)),
    build("p", { class: "soft" }, text.say("answer_sure", { probability: answer.probability })),
    build(
      "p",
      { class: "verdict" },
      build("span", { class: "mark", "aria-hidden": "true" }, right ? "✓" : "✗"),
      right ? text.say("answer_right") : text.say("answer_wrong", { label }),
    ),
  );
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
