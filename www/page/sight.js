// @ts-check
// How a press is known to be a person's who saw what they pressed: the page around a frame can cover it, fade it, shrink it or
// turn it.

/** How long something must have been in full sight before it counts as seen. */
const SEEN_MS_MIN = 500;
/** How often what is not in sight is looked at again. */
const LOOK_AGAIN_MS = 1_000;
/** Least share of it that must be in sight; browsers round. */
const SEEN_SHARE_MIN = 0.99;

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
  const timerAgain = setInterval(() => (target.isConnected ? again() : clearInterval(timerAgain)), LOOK_AGAIN_MS);
  for (const near of ["pointerover", "focus", "click"]) target.addEventListener(near, again);
}
