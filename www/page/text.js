// @ts-check
// Every word the page says, in the visitor's language: chooses it, loads its one file of ../words and fills in the sentences.
//
// A file's sentences are ICU messages of the plainest kind: `{name}` is a text or a whole number, `{name, number, style}` a
// number in a style of STYLES, `{name, plural, one {# unit} other {# units}}` chooses by the language's own plural rules,
// or by `=0`. A language is one file; the build writes the list of files into the page.

/** @typedef {keyof typeof import("../words/en.json")} Key */
/** @typedef {Record<string, string | number>} Values */

/** The language of last resort. */
const FALLBACK = "en";
/** Where the visitor's own choice is kept, once they made one. */
const CHOICE = "manyhands-language";
/** The pause before words that did not come are asked for again. */
const RETRY_MS = 2_000;
/** The choice made now. @type {string | undefined} */
let choice;

/** @type {Record<string, Intl.NumberFormatOptions>} */
const STYLES = {
  whole: {},
  tick: { maximumSignificantDigits: 3 },
  rough: { maximumSignificantDigits: 2 },
  percent: { style: "percent", maximumFractionDigits: 0 },
  percent_fine: { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 },
  decimal: { minimumFractionDigits: 3, maximumFractionDigits: 3 },
  compact: { notation: "compact", compactDisplay: "long", maximumSignificantDigits: 3 },
  kilobytes: { style: "unit", unit: "kilobyte", maximumSignificantDigits: 2 },
  megabytes: { style: "unit", unit: "megabyte", maximumSignificantDigits: 2 },
  gigabytes: { style: "unit", unit: "gigabyte", maximumSignificantDigits: 2 },
};

/** @param {string} name @param {string} otherwise */
const told = (name, otherwise) => document.querySelector(`meta[name="manyhands-${name}"]`)?.getAttribute("content") ?? otherwise;
/** Those that there is a file for. */
export const languages = told("languages", FALLBACK).split(" ");
/** Where the files are, seen from here. */
const folder = told("words", "../words/");
const query = new URLSearchParams(location.search);

/** One of `languages`. */
export let language = "";
/** The language wished for last. */
let newest = "";
/** @type {Record<Key, string>} */
let words;
/** With the region that the visitor's browser asks for: numbers differ by it. */
let locale = "";
/** @type {Map<string, Intl.NumberFormat>} */
let formats = new Map();
/** @type {Intl.PluralRules} */
let plurals;
/** @type {() => void} */
let changed = () => {};

/** @param {unknown} wish a language tag @returns {string | undefined} the language that serves it */
function known(wish) {
  if (typeof wish !== "string") return undefined;
  const [tag, base] = [wish.toLowerCase(), wish.toLowerCase().split("-")[0]];
  return languages.find((one) => one.toLowerCase() === tag) ?? languages.find((one) => one === base);
}

/** What the visitor chose on this page, now or earlier. */
function chosen() {
  // What a site's owner looks at is in the language that they choose for it.
  if (query.has("preview")) return undefined;
  if (choice) return choice;
  try {
    return known(localStorage.getItem(CHOICE));
  } catch {
    return undefined;
  }
}

/** Words that were loaded, by language. @type {Map<string, Record<Key, string>>} */
const loaded = new Map();

/** @param {string} wanted one of `languages` @returns {Promise<Record<Key, string> | null>} nothing where its file does not come */
async function load(wanted) {
  try {
    const response = await fetch(new URL(`${folder}${wanted}.json`, import.meta.url), { credentials: "omit" });
    if (!response.ok) return null;
    const found = await response.json();
    loaded.set(wanted, found);
    return found;
  } catch {
    return null;
  }
}

/**
 * Makes a language the page's, where its words come; else all stays as it is.
 * @param {string} wanted one of `languages`
 * @returns {Promise<boolean>} false where they did not come
 */
async function use(wanted) {
  newest = wanted;
  const found = loaded.get(wanted) ?? (await load(wanted));
  // Another was wished for meanwhile.
  if (newest !== wanted) return true;
  if (found) {
    words = found;
    language = wanted;
    locale = navigator.languages.find((tag) => known(tag) === wanted) ?? wanted;
    formats = new Map();
    plurals = new Intl.PluralRules(locale);
    Object.assign(document.documentElement, { lang: wanted, dir: words.direction });
  }
  changed();
  return found !== null;
}

/** Calls back whenever everything is to be said again, in another language. @param {() => void} say */
export function onChange(say) {
  changed = say;
}

/**
 * The visitor chose. It is kept for later visits where the browser keeps anything, once it is spoken.
 * @param {string} wanted
 * @returns {Promise<boolean>} false where its words did not come: the page goes on in the language that it spoke
 */
export async function choose(wanted) {
  const found = known(wanted);
  if (!found) return true;
  const before = choice;
  choice = found;
  if (!(await use(found))) {
    choice = before;
    return false;
  }
  try {
    if (choice === found) localStorage.setItem(CHOICE, found);
  } catch {
    // For this visit, then.
  }
  return true;
}

/** The page around wishes for a language; what the visitor chose counts more. @param {unknown} wish */
export async function suggest(wish) {
  const found = chosen() ?? known(wish);
  if (found && found !== language) await use(found);
}

/** A number in one of the styles. @param {number} n @param {string} style @returns {string} */
function styled(n, style) {
  if (style === "bytes") {
    if (n >= 1e9) return styled(n / 1e9, "gigabytes");
    return n >= 1e5 ? styled(n / 1e6, "megabytes") : styled(n / 1e3, "kilobytes");
  }
  let format = formats.get(style);
  if (!format) formats.set(style, (format = new Intl.NumberFormat(locale, STYLES[style])));
  return format.format(n);
}

/** @param {number} n */
export const number = (n) => styled(n, "whole");
/** @param {number} n */
export const tick = (n) => styled(n, "tick");
/** @param {number} share */
export const percent = (share) => styled(share, "percent_fine");
/** @param {number} share */
export const percentRound = (share) => styled(share, "percent");
/** A moment, as the visitor's region writes it. @param {number} ms */
export const time = (ms) => new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" }).format(ms);
/** @param {number} n */
export const loss = (n) => styled(n, "decimal");
/** @param {string} hex */
export const shortKey = (hex) => `${hex.slice(0, 8)}…${hex.slice(-4)}`;

/** A language's name in itself. @param {string} tag */
export const nameOf = (tag) => new Intl.DisplayNames(tag, { type: "language" }).of(tag) ?? tag;

/**
 * A sentence.
 * @param {Key} key
 * @param {Values} [values] what its placeholders stand for
 */
export const say = (key, values = {}) => fill(words[key], values);

/**
 * The sentence of a key that is made of something from outside, or of another one where it is none.
 * @param {string} key
 * @param {Key} otherwise
 * @param {Values} [values]
 */
export const sayIfKnown = (key, otherwise, values) => say(key in words ? /** @type {Key} */ (key) : otherwise, values);

/** Text from elsewhere, kept from turning the sentence around it the other way (Unicode's isolates). @param {string} value */
function isolated(value) {
  // Characters that turn what follows have no place in a name.
  const plain = value.replace(/[\u202a-\u202e\u2066-\u2069]/g, "");
  return words.direction === "rtl" || /[\u0590-\u08ff]/.test(plain) ? `\u2068${plain}\u2069` : plain;
}

/** @param {string} template @param {Values} values @param {number} [counted] what `#` stands for */
function fill(template, values, counted) {
  let said = "";
  let at = 0;
  while (at < template.length) {
    const open = template.indexOf("{", at);
    const plain = template.slice(at, open < 0 ? template.length : open);
    said += counted === undefined ? plain : plain.replaceAll("#", number(counted));
    if (open < 0) break;
    const close = closing(template, open);
    said += field(template.slice(open + 1, close), values);
    at = close + 1;
  }
  return said;
}

/** Where the brace that opens at `open` is closed. @param {string} template @param {number} open */
function closing(template, open) {
  let depth = 0;
  for (let at = open; at < template.length; at += 1) {
    if (template[at] === "{") depth += 1;
    else if (template[at] === "}" && --depth === 0) return at;
  }
  throw new Error(`a brace stays open: ${template}`);
}

/** @param {string} inner what stands between two braces @param {Values} values */
function field(inner, values) {
  const [, name = "", kind, how = ""] = /^(\w+)(?:, (number|plural), ([^]*))?$/.exec(inner) ?? [];
  const value = values[name];
  if (kind === undefined) return typeof value === "number" ? number(value) : isolated(String(value));
  const n = Number(value);
  if (kind === "number") return styled(n, how);
  const forms = new Map();
  for (let at = 0; at < how.length; ) {
    const open = how.indexOf("{", at);
    const close = closing(how, open);
    forms.set(how.slice(at, open).trim(), how.slice(open + 1, close));
    at = close + 1;
  }
  return fill(forms.get(`=${n}`) ?? forms.get(plurals.select(n)) ?? forms.get("other"), values, n);
}

const wishes = [query.get("lang"), ...navigator.languages];
const first = chosen() ?? wishes.map(known).find(Boolean) ?? FALLBACK;
// Nothing can be said before there are words: they are asked for until they come.
while (!(await use(first)) && !(await use(FALLBACK))) await new Promise((done) => setTimeout(done, RETRY_MS));
