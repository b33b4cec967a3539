// @ts-check
// How a press is known to be a person's who saw what they pressed: the page around a frame can cover it, fade it, shrink it or
// turn it.

/** How long something must have been in full sight before it counts as seen. */
const SEEN_MS_MIN = 500;
/** Least share of it that must be in sight; browsers round. */
const SEEN_SHARE_MIN = 0.99;

/**
 * Tells whether an element has been in sight for a while, whole and with nothing over it, whenever that changes.
 * Intersection Observer v2 knows whether anything is over an element; where it is missing, only whether it is in sight.
 * @param {HTMLElement} target
 * @param {(seen: boolean) => void} onChange
 * @param {HTMLElement | null} button where `target` is what a press on this agrees to: it must have been in sight, and may be
 *   scrolled out of it since
 */
export function watchSight(target, onChange, button = null) {
  const options = { threshold: [0, SEEN_SHARE_MIN], trackVisibility: true, delay: 100 };
  let [timer, isSeen] = [0, false];
  const see = (/** @type {boolean} */ seen) => onChange((isSeen = seen));
  const observer = new IntersectionObserver((entries) => {
    const last = /** @type {(IntersectionObserverEntry & { isVisible?: boolean }) | undefined} */ (entries.at(-1));
    const inSight = !!last && last.intersectionRatio >= SEEN_SHARE_MIN;
    if (inSight && last.isVisible !== false) {
      timer ||= setTimeout(() => see(true), SEEN_MS_MIN);
    } else {
      clearTimeout(timer);
      timer = 0;
      if (!button || inSight || !isSeen) see(false);
    }
  }, options);
  observer.observe(target);
  // Browsers do not always tell when what was over a frame is gone: look again when a hand comes near.
  const again = () => {
    if (isSeen || timer) return;
    observer.unobserve(target);
    observer.observe(target);
  };
  for (const near of ["pointerover", "focus", "click"]) (button ?? target).addEventListener(near, again);
}
