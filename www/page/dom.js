// @ts-check
// The few ways in which the page touches its document: typed look-up, building without markup, changing only what differs.

/**
 * The element with this id, which index.html has.
 * @template {Element} T
 * @param {string} id
 * @param {{ new (): T, prototype: T }} kind
 * @returns {T}
 */
export function byId(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`no ${kind.name} #${id} in the page`);
  return found;
}

/**
 * @param {string} id
 * @returns {HTMLElement}
 */
export const element = (id) => byId(id, HTMLElement);

/**
 * Sets an element's text, and leaves the document (and screen readers) alone when it is the same.
 * @param {Element} target
 * @param {string} value
 */
export function setText(target, value) {
  if (target.textContent !== value) target.textContent = value;
}

/**
 * @param {string} tag
 * @param {Record<string, string>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
export function build(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
