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
 */
export function watchSight(target, onChange) {
  const options = { threshold: [0, SEEN_SHARE_MIN], trackVisibility: true, delay: 100 };
  let [timer, isSeen] = [0, false];
  const see = (/** @type {boolean} */ seen) => onChange((isSeen = seen));
  const observer = new IntersectionObserver((entries) => {
    const last = /** @type {(IntersectionObserverEntry & { isVisible?: boolean }) | undefined} */ (entries.at(-1));
    if (last && last.intersectionRatio >= SEEN_SHARE_MIN && last.isVisible !== false) {
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
  const timerAgain = setInterval(() => {
    if (target.isConnected) return again();
    clearInterval(timerAgain);
    observer.disconnect();
  }, LOOK_AGAIN_MS);
  for (const near of ["pointerover", "focus", "click"]) target.addEventListener(near, again);
}

/** Rows and columns of the parts in which a text is read. */
const [ROWS, COLUMNS] = [16, 4];
/** How often a text that is being read is looked at. */
const READING_MS = 250;
/** A stretch of a text that is lower or narrower than this, in pixels, is not read: a slit that is moved over it shows no words. */
const [LEGIBLE_HEIGHT, LEGIBLE_WIDTH] = [64, 160];
/** What of a part may be out of sight, as a share of it; browsers round. */
const EDGE = 0.1;

/**
 * Whether one of so many equal parts lies in a stretch of the whole.
 * @param {number} part
 * @param {number} count
 * @param {number} from as a share of the whole
 * @param {number} to likewise
 */
const isWithin = (part, count, from, to) => part + EDGE >= from * count && part + 1 - EDGE <= to * count;

/**
 * Tells once each part of a text has been in sight for a while, all at once or one after another, as on a screen that has no room
 * for the whole. Whether something is over it is not asked.
 * @param {HTMLElement} target
 * @param {() => void} onRead
 * @returns {() => ScrollLogicalPosition} where in it something is that was not in sight
 */
export function watchRead(target, onRead) {
  /** Since when each part is in sight, in milliseconds; null where it is not. @type {Map<number, number | null>} */
  const unread = new Map(Array.from({ length: ROWS * COLUMNS }, (_, part) => [part, null]));
  const look = (/** @type {IntersectionObserverEntry[]} */ entries) => {
    const last = entries.at(-1);
    if (!last) return;
    const { boundingClientRect: box, intersectionRect: seen, time } = last;
    const isLegible =
      seen.height >= Math.min(box.height * (1 - EDGE), LEGIBLE_HEIGHT) && seen.width >= Math.min(box.width * (1 - EDGE), LEGIBLE_WIDTH);
    for (const [part, since] of unread) {
      const isSeen =
        isLegible &&
        isWithin(Math.floor(part / COLUMNS), ROWS, (seen.top - box.top) / box.height, (seen.bottom - box.top) / box.height) &&
        isWithin(part % COLUMNS, COLUMNS, (seen.left - box.left) / box.width, (seen.right - box.left) / box.width);
      if (isSeen && since !== null && time - since >= SEEN_MS_MIN) unread.delete(part);
      else unread.set(part, isSeen ? (since ?? time) : null);
    }
    if (unread.size > 0) return;
    clearInterval(timer);
    observer.disconnect();
    onRead();
  };
  const observer = new IntersectionObserver(look, { threshold: Array.from({ length: ROWS + 1 }, (_, row) => row / ROWS) });
  observer.observe(target);
  // What goes on being in sight is told by nobody.
  const timer = setInterval(() => {
    observer.unobserve(target);
    if (!document.hidden) return observer.observe(target);
    for (const part of unread.keys()) unread.set(part, null);
  }, READING_MS);
  return () => {
    const row = Math.floor(([...unread.keys()][0] ?? 0) / COLUMNS);
    return row < ROWS / 3 ? "start" : row < (2 * ROWS) / 3 ? "center" : "end";
  };
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
