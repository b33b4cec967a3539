// @ts-check
// What the page can see of how much its visitor would notice: frames, visibility, use, pressure, battery, data saver. It
// decides nothing: the worker does, by crate/src/governor.rs. Loaded by Start.

/** @typedef {import("../types").Conditions} Conditions */

/** Frames looked at in one go, and the pause before the next. */
const LOOK_FRAMES = 40;
const LOOK_PAUSE_MS = 2_000;
/** A frame that takes longer than this was not due: the browser draws nothing that is out of sight. */
const FRAME_MS_MAX = 1_000;
/** Somebody who touched nothing for so long is taken to look away. */
const UNUSED_MS = 60_000;

export class Watch {
  #ended = new AbortController();
  /** Of a frame where nothing drops: the shortest that was common so far. */
  #frameMs = 1000 / 60;
  #usedAt = performance.now();
  /** @type {Conditions} */
  #seen;

  /**
   * @param {(conditions: Conditions) => void} onChange
   * @param {boolean} background whether the visitor chose to go on while the page is hidden
   */
  constructor(onChange, background) {
    this.onChange = onChange;
    this.#seen = { visible: !document.hidden, in_use: true, background, dropped: null, pressure: "nominal", battery: null, saver: false };
    const { signal } = this.#ended;
    document.addEventListener("visibilitychange", () => this.#see({ visible: !document.hidden }), { signal });
    // A frame in another site's page does not hear what is done around it.
    if (parent === window) {
      for (const use of ["pointermove", "pointerdown", "keydown", "wheel", "scroll"]) {
        addEventListener(use, () => this.#use(), { signal, passive: true, capture: true });
      }
    }
    this.#connection();
    this.#battery().catch(() => {});
    this.#pressure().catch(() => {});
    void this.#frames();
  }

  /** What is seen now; frames are told once. */
  get conditions() {
    return { ...this.#seen, dropped: null };
  }

  /** @param {boolean} background */
  set background(background) {
    this.#see({ background });
  }

  end() {
    this.#ended.abort();
  }

  /** @param {Partial<Conditions>} change */
  #see(change) {
    if (this.#ended.signal.aborted) return;
    this.#seen = { ...this.#seen, dropped: null, ...change };
    this.onChange(this.#seen);
  }

  #use() {
    this.#usedAt = performance.now();
    if (!this.#seen.in_use) this.#see({ in_use: true });
  }

  #connection() {
    const connection = /** @type {(EventTarget & { saveData?: boolean }) | undefined} */ (Reflect.get(navigator, "connection"));
    if (!connection) return;
    this.#seen.saver = connection.saveData === true;
    const look = () => this.#see({ saver: connection.saveData === true });
    connection.addEventListener("change", look, { signal: this.#ended.signal });
  }

  async #battery() {
    const get = /** @type {(() => Promise<EventTarget & { charging: boolean, level: number }>) | undefined} */ (Reflect.get(navigator, "getBattery"));
    const battery = await get?.call(navigator);
    if (!battery) return;
    const look = () => this.#see({ battery: battery.charging ? null : battery.level });
    for (const change of ["chargingchange", "levelchange"]) battery.addEventListener(change, look, { signal: this.#ended.signal });
    look();
  }

  async #pressure() {
    const Observer = Reflect.get(window, "PressureObserver");
    if (!Observer) return;
    /** @param {{ state: string }[]} records */
    const look = (records) => {
      const state = records.at(-1)?.state;
      const pressure = state === "serious" || state === "critical" ? state : "nominal";
      if (pressure !== this.#seen.pressure) this.#see({ pressure });
    };
    const observer = new Observer(look);
    this.#ended.signal.addEventListener("abort", () => observer.disconnect());
    await observer.observe("cpu", { sampleInterval: 1_000 });
  }

  async #frames() {
    const { signal } = this.#ended;
    while (!signal.aborted) {
      const dropped = await this.#look();
      if (dropped !== null && !document.hidden) {
        this.#see({ dropped, in_use: parent !== window || performance.now() - this.#usedAt < UNUSED_MS });
      }
      await new Promise((done) => setTimeout(done, LOOK_PAUSE_MS));
    }
  }

  /** The share of frames that drop now; none where the browser draws none. @returns {Promise<number | null>} */
  #look() {
    return new Promise((done) => {
      /** @type {number[]} */
      const lengths = [];
      /** @type {number | null} */
      let last = null;
      const timer = setTimeout(() => done(null), FRAME_MS_MAX * 2);
      /** @param {number} now */
      const frame = (now) => {
        if (last !== null) lengths.push(now - last);
        last = now;
        if (lengths.length < LOOK_FRAMES) {
          requestAnimationFrame(frame);
          return;
        }
        clearTimeout(timer);
        if (lengths.some((length) => length > FRAME_MS_MAX)) return done(null);
        lengths.sort((a, b) => a - b);
        // Screens of more than sixty frames a second.
        const common = lengths[LOOK_FRAMES / 4] ?? this.#frameMs;
        this.#frameMs = Math.max(2, Math.min(this.#frameMs, common * 1.02));
        const due = lengths.map((length) => Math.max(1, Math.round(length / this.#frameMs))).reduce((sum, frames) => sum + frames, 0);
        done(1 - LOOK_FRAMES / due);
      };
      requestAnimationFrame(frame);
    });
  }
}
