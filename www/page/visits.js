// @ts-check
// What this browser gave, visit by visit: kept in IndexedDB of this storage partition, the newest VISITS_COUNT_MAX, and sent
// nowhere. Where the browser refuses storage nothing is kept. Shows nothing.

import { CHANGES, NOTHING, keepNewest } from "./contribution.js";

/** @typedef {import("../types").UnitMessage} UnitMessage */
/** @typedef {import("../types").VisitRecord} VisitRecord */

const DATABASE = "manyhands-visits";
const STORE = "visits";
export const VISITS_COUNT_MAX = 100;
/** The newest units of a visit, which are known again: one that waited longer counts as pending and by its verdict. */
const UNITS_COUNT_MAX = 1000;

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
export function answer(request) {
  return new Promise((done, failed) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error);
  });
}

/** Runs `act` on the list in a transaction of its own. @template T @param {IDBTransactionMode} mode @param {(visits: IDBObjectStore) => Promise<T>} act */
async function on(mode, act) {
  const opening = indexedDB.open(DATABASE, 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { autoIncrement: true });
  const database = await answer(opening);
  try {
    return await act(database.transaction(STORE, mode).objectStore(STORE));
  } finally {
    database.close();
  }
}

/** Newest first. @returns {Promise<VisitRecord[]>} */
export const all = () => on("readonly", async (visits) => (await answer(visits.getAll())).reverse());

export const forget = () => on("readwrite", (visits) => answer(visits.clear()));

/** Adds a visit and gives its number; the oldest make room. @param {VisitRecord} record */
const add = (record) =>
  on("readwrite", async (visits) => {
    const at = await answer(visits.add(record));
    const numbers = await answer(visits.getAllKeys());
    for (const old of numbers.slice(0, -VISITS_COUNT_MAX)) visits.delete(old);
    return at;
  });

/** One visit as it goes on; kept from its first sent unit on. */
export class Visit {
  /** Until what was heard so far is kept. @type {Promise<unknown>} */
  saved = Promise.resolve();
  /** What became of the units that were sent. @type {Map<string, "accepted" | "rejected" | "pending">} */
  #units = new Map();
  /** @type {IDBValidKey | undefined} */
  #number;
  #waiting = false;

  /** @param {string} title the job's */
  constructor(title) {
    /** @type {VisitRecord} */
    this.record = { begun_ms: Date.now(), title, ...NOTHING, data_bytes: 0 };
  }

  /** @param {UnitMessage} unit */
  take({ job, unit, phase: told, credit_flop, data_bytes }) {
    const { record } = this;
    const phase = told === "challenged" ? "pending" : told;
    record.data_bytes = data_bytes;
    if (phase !== "accepted" && phase !== "rejected" && phase !== "pending") return;
    const id = `${job} ${unit}`;
    const before = this.#units.get(id);
    if (before === phase) return;
    if (before) record[before] -= 1;
    record[phase] += 1;
    record.credit_flop += credit_flop;
    this.#units.delete(id);
    this.#units.set(id, phase);
    keepNewest(this.#units, UNITS_COUNT_MAX);
    this.#save();
  }

  #save() {
    // One write at a time; the next has all that came meanwhile.
    if (this.#waiting) return;
    this.#waiting = true;
    this.saved = this.saved.then(async () => {
      this.#waiting = false;
      const { record } = this;
      if (this.#number === undefined) this.#number = await add(record);
      else await on("readwrite", (visits) => answer(visits.put(record, this.#number)));
      tell.postMessage({});
    }).catch(() => {});
  }
}

const tell = new BroadcastChannel(CHANGES);
