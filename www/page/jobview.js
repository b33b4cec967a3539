// @ts-check
// Shows one job: what it is, for whom, how far it is and how well the model has learnt. Pure display: it asks for nothing.

import { RoundChart } from "./chart.js";
import { build, byId, element, setText } from "./dom.js";
import { isOfText, parametersOf, shapeOf } from "./model.js";
import * as text from "./text.js";

/** @typedef {import("../types").JobView} JobView */
/** @typedef {import("../types").TrainView} TrainView */
/** @typedef {import("../types").RoundView} RoundView */

/** Most people drawn as dots; the number beside them is exact. */
const DOTS_MAX = 24;
/** Most rows in the table of rounds: the newest. */
const TABLE_ROWS_MAX = 500;

/** What the second chart shows of a round: a text's loss is told in bits. @param {RoundView} entry */
const lossOf = (entry) => entry.bits_per_byte ?? entry.loss;

/** Whether the newest checkpoint is as good as the job's owner wants it. @param {TrainView} train */
function isReached(train) {
  const last = train.history.at(-1);
  if (!last) return false;
  if (train.target_accuracy !== undefined) return last.accuracy >= train.target_accuracy;
  return lossOf(last) <= (train.target_bits_per_byte ?? -Infinity);
}

export class JobDisplay {
  #accuracy = new RoundChart(element("accuracy-chart"), {
    colour: "accent",
    format: text.percentRound,
    round: text.number,
    floor: 0,
    ceiling: 1,
  });
  #loss = new RoundChart(element("loss-chart"), {
    colour: "second",
    format: text.tick,
    round: text.number,
    floor: 0,
  });
  /** @type {JobView | null} */
  #shown = null;

  constructor() {
    // Pointing at a round reads it out in both captions; leaving goes back to the newest.
    for (const chart of ["accuracy-chart", "loss-chart"]) {
      element(chart).addEventListener("round", (event) => {
        const index = /** @type {CustomEvent<number | null>} */ (event).detail;
        for (const each of [this.#accuracy, this.#loss]) each.point(index);
        this.#caption(index);
      });
    }
    byId("rounds", HTMLDetailsElement).addEventListener("toggle", () => this.#table());
  }

  /**
   * @param {JobView} job
   * @param {boolean} helping this tab is at work on it
   */
  show(job, helping) {
    this.#shown = job;
    document.title = `${job.title} · ${text.say("name")}`;
    setText(element("job-category"), text.say(`category_${job.category}`));
    setText(element("job-state"), text.say(`job_${job.state}`));
    element("job-state").dataset["state"] = job.state;
    setText(element("job-title"), job.title);
    setText(element("job-description"), job.description);
    setText(element("job-owner"), job.owner);
    this.#progress(job);
    this.#hands(job.contributors_now, helping);
    setText(element("contributors"), text.number(job.contributors));
    setText(element("accepted"), text.number(job.results_accepted));
    setText(element("rejected"), text.number(job.results_rejected));
    setText(element("refereed"), text.number(job.units_refereed));
    element("tax-row").hidden = !job.tax;
    if (job.tax) setText(element("tax"), text.percentRound(job.tax.total));
    element("learning").hidden = !job.train;
    element("job-model-row").hidden = !job.train;
    if (job.train) this.#train(job.train);
  }

  /** @param {JobView} job */
  #progress(job) {
    const { train } = job;
    const reached = !!train && isReached(train);
    // A finished job is whole even when it needed fewer rounds than it was allowed.
    const share = train
      ? train.rounds_merged / Math.max(1, train.rounds_max)
      : job.units_settled / Math.max(1, job.units_total);
    byId("progress", HTMLProgressElement).value = job.state === "finished" ? 1 : Math.min(1, share);
    setText(
      element("progress-text"),
      train
        ? text.say("round_of", { round: train.rounds_merged, max: train.rounds_max })
        : text.say("units_of", { settled: job.units_settled, total: job.units_total }),
    );
    const note =
      job.state === "finished"
        ? reached
          ? text.say("note_reached")
          : text.say("note_finished")
        : job.state === "running"
          ? train
            ? ""
            : text.say("note_matmul")
          : text.say(`note_${job.state}`);
    setText(element("job-note"), note);
  }

  /** @param {number} now @param {boolean} helping */
  #hands(now, helping) {
    setText(element("hands-text"), helping ? text.say("hands_with_you", { others: Math.max(0, now - 1) }) : text.say("hands", { people: now }));
    const host = element("hands");
    const count = Math.min(DOTS_MAX, helping ? Math.max(1, now) : now);
    while (host.childElementCount > count) host.lastElementChild?.remove();
    while (host.childElementCount < count) host.append(build("span"));
    [...host.children].forEach((dot, i) => dot.classList.toggle("you", helping && i === 0));
  }

  /** @param {TrainView} train */
  #train(train) {
    const parameters = parametersOf(train.model);
    const shape = shapeOf(train.model, (layers) => text.say("model_layers", { layers }));
    setText(element("job-model"), parameters ? text.say("model_size", { shape, parameters }) : shape);
    const { target_accuracy: accuracy, target_bits_per_byte: bits } = train;
    setText(element("accuracy-target"), accuracy === undefined ? "" : text.say("target_share", { share: accuracy }));
    setText(element("loss-target"), bits === undefined ? "" : text.say("target_bits", { bits }));
    const ofText = isOfText(train.model);
    const what = text.say(ofText ? "bits_title" : "loss_title");
    setText(element("loss-title"), what);
    setText(element("table-loss"), what);
    setText(element("chart-note"), text.say(ofText ? "text_note" : "examples_note"));
    const rounds = train.history.map((entry) => entry.round);
    const [first, last] = [train.history[0], train.history.at(-1)];
    /** @param {"accuracy_summary" | "accuracy_summary_target" | "loss_summary"} key @param {(entry: RoundView) => number} of */
    const summary = (key, of) => {
      if (!first || !last) return text.say("no_history");
      const rounds = { first_round: first.round, last_round: last.round };
      return text.say(key, { what, first: of(first), last: of(last), ...rounds, target: accuracy ?? 0 });
    };
    this.#accuracy.update(
      rounds,
      train.history.map((entry) => entry.accuracy),
      accuracy ?? null,
      summary(accuracy === undefined ? "accuracy_summary" : "accuracy_summary_target", (entry) => entry.accuracy),
    );
    this.#loss.update(
      rounds,
      train.history.map(lossOf),
      bits ?? null,
      summary("loss_summary", lossOf),
    );
    this.#caption(null);
    this.#table();
  }

  /** @param {number | null} index of a round pointed at */
  #caption(index) {
    const history = this.#shown?.train?.history ?? [];
    const entry = index === null ? history.at(-1) : history[index];
    setText(element("accuracy-now"), entry ? text.percent(entry.accuracy) : "–");
    setText(element("loss-now"), entry ? text.loss(lossOf(entry)) : "–");
    setText(element("loss-round"), entry ? text.say("at_round", { round: entry.round }) : "");
  }

  #table() {
    if (!byId("rounds", HTMLDetailsElement).open) return;
    const newest = (this.#shown?.train?.history ?? []).slice(-TABLE_ROWS_MAX).reverse();
    /** @param {RoundView} entry */
    const row = (entry) =>
      build(
        "tr",
        {},
        build("th", { scope: "row" }, text.number(entry.round)),
        build("td", {}, text.percent(entry.accuracy)),
        build("td", {}, text.loss(lossOf(entry))),
      );
    element("rounds-body").replaceChildren(...newest.map(row));
  }
}
