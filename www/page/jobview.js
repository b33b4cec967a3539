// @ts-check
// Shows one job: what it is, for whom, how far it is and how well the model has learnt. Pure display: it asks for nothing.

import { RoundChart } from "./chart.js";
import { build, byId, element, setText } from "./dom.js";
import * as text from "./text.js";

/** @typedef {import("../types").JobView} JobView */
/** @typedef {import("../types").TrainView} TrainView */
/** @typedef {import("../types").Model} Model */
/** @typedef {import("../types").RoundView} RoundView */

/** Most people drawn as dots; the number beside them is exact. */
const DOTS_MAX = 24;
/** Most rows in the table of rounds: the newest. */
const TABLE_ROWS_MAX = 500;

/** Trainable values of a model; 0 where it has layers this page does not know. @param {Model} model */
export function parametersOf(model) {
  let width = model.input.shape.reduce((product, extent) => product * extent, 1);
  let sum = 0;
  for (const layer of model.layers) {
    if (layer.type === "dense" && layer.outputs) {
      sum += width * layer.outputs + layer.outputs;
      width = layer.outputs;
    } else if (layer.type !== "relu" && layer.type !== "dropout") {
      return 0;
    }
  }
  return sum;
}

/** The widths of a dense net, `784-128-10`. @param {Model} model */
function shapeOf(model) {
  const widths = model.layers.filter((layer) => layer.type === "dense").map((layer) => layer.outputs);
  return [model.input.shape.join("×"), ...widths].join("–");
}

export class JobDisplay {
  #accuracy = new RoundChart(element("accuracy-chart"), "rounds", {
    label: text.fixed.accuracy_title,
    colour: "--accent",
    format: text.percentRound,
    floor: 0,
    ceiling: 1,
  });
  #loss = new RoundChart(element("loss-chart"), "rounds", {
    label: text.fixed.loss_title,
    colour: "--second",
    format: (value) => String(Number(value.toPrecision(3))),
    floor: 0,
  });
  /** @type {JobView | null} */
  #shown = null;

  constructor() {
    // Pointing at a round reads it out in both captions; leaving goes back to the newest.
    for (const chart of ["accuracy-chart", "loss-chart"]) {
      element(chart).addEventListener("round", (event) => {
        this.#caption(/** @type {CustomEvent<number | null>} */ (event).detail);
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
    document.title = `${job.title} · ${text.fixed.name}`;
    setText(element("job-category"), text.category[job.category] ?? job.category);
    setText(element("job-state"), text.jobState[job.state]);
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
    element("learning").hidden = !job.train;
    element("job-model-row").hidden = !job.train;
    if (job.train) this.#train(job.train);
  }

  /** @param {JobView} job */
  #progress(job) {
    const { train } = job;
    const last = train?.history.at(-1);
    const reached = !!train && !!last && last.accuracy >= train.target_accuracy;
    // A finished job is whole even when it needed fewer rounds than it was allowed.
    const share = train
      ? train.rounds_merged / Math.max(1, train.rounds_max)
      : job.units_settled / Math.max(1, job.units_total);
    byId("progress", HTMLProgressElement).value = job.state === "finished" ? 1 : Math.min(1, share);
    setText(
      element("progress-text"),
      train ? text.job.round(train.rounds_merged, train.rounds_max) : text.job.units(job.units_settled, job.units_total),
    );
    const note =
      job.state === "finished"
        ? reached
          ? text.job.reached
          : text.job.finished
        : job.state === "running"
          ? train
            ? ""
            : text.job.matmul
          : text.job[job.state];
    setText(element("job-note"), note);
  }

  /** @param {number} now @param {boolean} helping */
  #hands(now, helping) {
    setText(element("hands-text"), helping ? text.job.hands_with_you(now) : text.job.hands(now));
    const host = element("hands");
    const count = Math.min(DOTS_MAX, helping ? Math.max(1, now) : now);
    while (host.childElementCount > count) host.lastElementChild?.remove();
    while (host.childElementCount < count) host.append(build("span"));
    [...host.children].forEach((dot, i) => dot.classList.toggle("you", helping && i === 0));
  }

  /** @param {TrainView} train */
  #train(train) {
    const parameters = parametersOf(train.model);
    setText(element("job-model"), parameters ? text.job.model(parameters, shapeOf(train.model)) : shapeOf(train.model));
    setText(element("accuracy-target"), text.job.target(train.target_accuracy));
    const rounds = train.history.map((entry) => entry.round);
    const [first, last] = [train.history[0], train.history.at(-1)];
    const some = first && last;
    this.#accuracy.update(
      rounds,
      train.history.map((entry) => entry.accuracy),
      train.target_accuracy,
      some ? text.job.accuracy_summary(first, last, train.target_accuracy) : text.job.no_history,
    );
    this.#loss.update(
      rounds,
      train.history.map((entry) => entry.loss),
      null,
      some ? text.job.loss_summary(first, last) : text.job.no_history,
    );
    this.#caption(null);
    this.#table();
  }

  /** @param {number | null} index of a round pointed at */
  #caption(index) {
    const history = this.#shown?.train?.history ?? [];
    const entry = index === null ? history.at(-1) : history[index];
    setText(element("accuracy-now"), entry ? text.percent(entry.accuracy) : "–");
    setText(element("loss-now"), entry ? text.loss(entry.loss) : "–");
    setText(element("loss-round"), entry ? text.job.at_round(entry.round) : "");
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
        build("td", {}, text.loss(entry.loss)),
      );
    element("rounds-body").replaceChildren(...newest.map(row));
  }
}
