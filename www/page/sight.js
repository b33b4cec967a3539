// @ts-check
// How a press is known to be a person's who saw what they pressed: the page around a frame can cover it, fade it, shrink it,
// turn it, or move it under a hand that is about to press something else.

/** How long something must have been in full sight before it counts as seen. */
const SEEN_MS_MIN = 500;
/** How often what is not in sight is looked at again. */
const LOOK_AGAIN_MS = 1_000;
/** Least share of it that must be in sight; browsers round. */
const SEEN_SHARE_MIN = 0.99;
/** How long the frame must have kept its place under the mouse before a press counts. */
const STILL_MS_MIN = 500;
/** How far it may seem to have moved all the same; browsers round. */
const STILL_PX_MAX = 3;

/**
 * Tells whether an element has been in sight for a while, whole and with nothing over it, whenever that changes.
 * Intersection Observer v2 knows whether anything is over an element; where it is missing, only whether it is in sight.
 * @param {HTMLElement} target
 * @param {(seen: boolean) => void} onChange
 * @param {number} share that must be in sight
 * @param {boolean} clear nothing may be over it
 * @returns {() => void} ends it
 */
export function watchSight(target, onChange, share = SEEN_SHARE_MIN, clear = true) {
  const options = { threshold: [0, share], trackVisibility: clear, delay: 100 };
  let [timer, isSeen] = [0, false];
  const see = (/** @type {boolean} */ seen) => onChange((isSeen = seen));
  const observer = new IntersectionObserver((entries) => {
    const last = /** @type {(IntersectionObserverEntry & { isVisible?: boolean }) | undefined} */ (entries.at(-1));
    if (last && last.intersectionRatio >= share && (!clear || last.isVisible !== false)) {
      timer ||= setTimeout(() => see(true), SEEN_MS_MIN);
    } else {
      clearTimeout(timer);
      timer = 0;
      see(false);
    }
  }, options);
  observer.observe(target);
  // Browsers do not always tell when what was over a frame is gone, or when a frame has come to its place: look again, and at
  // once when a hand comes near.
  const again = () => {
    if (isSeen || timer || document.hidden) return;
    observer.unobserve(target);
    observer.observe(target);
  };
  const end = () => {
    clearInterval(timerAgain);
    clearTimeout(timer);
    observer.disconnect();
  };
  const timerAgain = setInterval(() => (target.isConnected ? again() : end()), LOOK_AGAIN_MS);
  for (const near of ["pointerover", "focus", "click"]) target.addEventListener(near, again);
  return end;
}

/** Where the frame lies on the screen, as the mouse over it tells, and since when. @type {{ x: number, y: number, since: number } | null} */
let place = null;
let isStill = true;

/** Whether the frame was where it is for a while before the last press. Nothing tells that of a finger, which comes from nowhere. */
export function wasStill() {
  return isStill;
}

/** @param {PointerEvent} event @returns {boolean} whether the frame has been here for a while */
function look({ pointerType, screenX, screenY, clientX, clientY, timeStamp }) {
  if (pointerType !== "mouse") return true;
  const [x, y] = [screenX - clientX, screenY - clientY];
  // On a zoomed page the two differ by where the mouse is, too: then it counts once the mouse rests.
  if (!place || Math.hypot(x - place.x, y - place.y) > STILL_PX_MAX) place = { x, y, since: timeStamp };
  return timeStamp - place.since >= STILL_MS_MIN;
}

addEventListener("pointermove", look, true);
addEventListener("pointerdown", (event) => (isStill = look(event)), true);
addEventListener("pointerup", (event) => (isStill = look(event) && isStill), true);
addEventListener("keydown", () => (isStill = true), true);
// A frame that the mouse has left may come back anywhere.
addEventListener("pointerout", ({ relatedTarget }) => (place = relatedTarget ? place : null), true);
