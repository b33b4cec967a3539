// @ts-check
// The model tried in the tab: held-out pictures, drawn, with the newest model's answers. The worker computes; this draws.

import { build, byId, element, setText } from "./dom.js";
import * as text from "./text.js";

/** @typedef {import("./contribution.js").Contribution} Contribution */
/** @typedef {import("../types").Answer} Answer */

/** Pictures shown at once. */
const ROWS = 12;
/** Largest side of a picture that is drawn, in pixels. */
const SIDE_MAX = 512;

/**
 * @param {Contribution} visit
 * @param {() => { id: number, name: string } | null} currentJob
 */
export function setUpTryout(visit, currentJob) {
  const button = byId("try", HTMLButtonElement);
  setText(element("try-status"), text.tryout.download);
  button.addEventListener("click", async (event) => {
    const job = currentJob();
    if (!event.isTrusted || !job || button.getAttribute("aria-disabled") === "true") return;
    // Not `disabled`: that would throw the keyboard's focus away.
    button.setAttribute("aria-disabled", "true");
    setText(element("try-status"), text.tryout.loading);
    try {
      const answers = await visit.answers(job.id, ROWS);
      element("answers").replaceChildren(...answers.map((answer) => card(answer, job.name)));
      const right = answers.filter((answer) => answer.answer === answer.label).length;
      setText(element("try-status"), text.tryout.score(right, answers.length));
      setText(button, text.fixed.try_again);
      document.documentElement.dataset["answers"] = String(answers.length);
    } catch (error) {
      const what = error instanceof Error ? error.message : String(error);
      setText(element("try-status"), text.tryout.failed(what));
    } finally {
      button.removeAttribute("aria-disabled");
    }
  });
}

/**
 * @param {Answer} answer
 * @param {string} jobName
 */
function card(answer, jobName) {
  const right = answer.answer === answer.label;
  const label = text.className(jobName, answer.label);
  return build(
    "li",
    { class: right ? "right" : "wrong" },
    draw(answer, text.tryout.picture(label)),
    build("p", { class: "said" }, text.className(jobName, answer.answer)),
    build("p", { class: "soft" }, text.tryout.sure(answer.probability)),
    build(
      "p",
      { class: "verdict" },
      build("span", { class: "mark", "aria-hidden": "true" }, right ? "✓" : "✗"),
      right ? text.tryout.right : text.tryout.wrong(label),
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
