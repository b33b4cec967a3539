// @ts-check
// Live views of one job: one event stream per browser, whatever the number of tabs.
//
// The visible tabs of a job queue for a Web Lock; its holder reads the stream and hands every event to the others by
// BroadcastChannel. Where tabs show different jobs, one job has the stream and the others' holders poll. A hidden tab leaves the queue (or gives the lock up), so with all tabs hidden no stream is open.
// The stream is read with fetch rather than EventSource, which cannot send Last-Event-ID when another tab takes over.
// When the stream fails, the holder polls at the same widening interval at which it tries the stream again.

import { CallError, job as fetchJob, problemOf } from "./coordinator.js";

/** @typedef {import("../types").JobView} JobView */
/** @typedef {import("../types").Link} Link */
/** `ask` is a new tab's request for the leader's link state. @typedef {{ view?: JobView, id?: string, link?: Link, ask?: true }} Update */

/** Held by the tab that has the browser's one stream. */
const STREAM_LOCK = "manyhands-stream";
/** How often a job is asked about while another job has the stream. */
const POLL_MS = 5_000;
const RETRY_MS_MIN = 1_000;
const RETRY_MS_MAX = 15_000;
/** The coordinator sends a comment at least every 15 s; a stream silent for longer is held up on the way. */
const SILENCE_MS_MAX = 40_000;
/** Longest event; a view with its whole history stays far below. */
const EVENT_CHARS_MAX = 8 * 1024 * 1024;

/**
 * Follows a job until `stop`.
 * @param {number} id
 * @param {(view: JobView) => void} onView
 * @param {(link: Link) => void} onLink
 * @param {(bytes: number) => void} onBytes hears how much of the stream this tab read
 * @returns {{ stop: () => void }}
 */
export function follow(id, onView, onLink, onBytes) {
  const name = `manyhands-job-${id}`;
  const channel = new BroadcastChannel(name);
  const ended = new AbortController();
  /** @type {AbortController | null} */
  let visible = null;
  let leading = false;
  let lastId = "";
  /** @type {Link} */
  let link = "connecting";
  let final = false;

  /** @param {Update} update */
  const take = (update) => {
    if (update.id !== undefined) lastId = update.id;
    if (update.link) onLink((link = update.link));
    if (update.view) {
      final = update.view.state === "finished" || update.view.state === "cancelled";
      onView(update.view);
    }
  };
  /** @param {Update} update */
  const share = (update) => {
    take(update);
    channel.postMessage(update);
  };
  channel.onmessage = (event) => {
    const update = /** @type {Update} */ (event.data);
    if (!update.ask) take(update);
    else if (leading) channel.postMessage({ link, id: lastId });
  };

  const onVisibility = () => {
    if (document.visibilityState === "hidden") {
      visible?.abort();
      visible = null;
    } else if (!visible) {
      visible = new AbortController();
      const signal = AbortSignal.any([visible.signal, ended.signal]);
      // A follower may have missed events while it was hidden or frozen: every return starts with one plain read.
      fetchJob(id, signal).then((view) => take({ view }), () => {});
      const leads = async () => {
        leading = true;
        try {
          await lead(id, { lastId: () => lastId, final: () => final }, share, onBytes, signal);
        } finally {
          leading = false;
        }
      };
      // A browser that keeps nothing for this page may refuse locks, too: then each tab asks for itself.
      navigator.locks.request(name, { signal }, leads).catch(() => (signal.aborted ? undefined : leads()));
      channel.postMessage({ ask: true });
    }
  };
  document.addEventListener("visibilitychange", onVisibility);
  onVisibility();

  return {
    stop() {
      document.removeEventListener("visibilitychange", onVisibility);
      ended.abort();
      channel.close();
    },
  };
}

/**
 * Reads the stream, again and again, for as long as this tab leads.
 * @param {number} id
 * @param {{ lastId: () => string, final: () => boolean }} known what the tabs have seen so far
 * @param {(update: Update) => void} share
 * @param {(bytes: number) => void} onBytes
 * @param {AbortSignal} signal
 */
async function lead(id, known, share, onBytes, signal) {
  let failures = 0;
  while (!signal.aborted) {
    try {
      let silent = true;
      const streamed = await navigator.locks.request(STREAM_LOCK, { ifAvailable: true }, async (lock) => {
        if (lock) {
          const onEvent = (/** @type {Update} */ update) => {
            if (update.view) silent = false;
            if (!silent) failures = 0;
            share({ ...update, link: "live" });
          };
          await stream(id, known.lastId(), signal, onEvent, onBytes);
        }
        return lock !== null;
      });
      if (!streamed) {
        share({ view: await fetchJob(id, signal), link: "polling" });
        await pause(POLL_MS, signal);
        continue;
      }
      if (known.final()) {
        share({ link: "ended" });
        return;
      }
      failures = silent ? failures + 1 : 0;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof CallError && !error.retryable) {
        share({ link: "ended" });
        return;
      }
      failures += 1;
    }
    // The stream ended or failed. Once is ordinary (a restart, a proxy's limit); after that, poll.
    if (failures > 0) {
      try {
        const view = await fetchJob(id, signal);
        share({ view, link: "polling" });
      } catch {
        if (signal.aborted) return;
        share({ link: "offline" });
      }
    }
    await pause(Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** Math.min(failures, 4)), signal);
  }
}

/**
 * One connection to the event stream; resolves when the coordinator ends it.
 * @param {number} id
 * @param {string} lastId
 * @param {AbortSignal} signal
 * @param {(update: Update) => void} onEvent
 * @param {(bytes: number) => void} onBytes
 */
async function stream(id, lastId, signal, onEvent, onBytes) {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENCE_MS_MAX);
  try {
    /** @type {Record<string, string>} */
    const headers = { accept: "text/event-stream" };
    if (lastId) headers["last-event-id"] = lastId;
    const response = await fetch(`/v1/jobs/${id}/events`, {
      headers,
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.any([signal, silence.signal]),
    });
    if (!response.ok) throw await problemOf(response);
    if (!response.body || !response.headers.get("content-type")?.startsWith("text/event-stream")) {
      throw new CallError("unreachable", "not an event stream", true);
    }
    onEvent({});
    const events = eventReader(onEvent);
    const decoder = new TextDecoder();
    const reader = response.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS_MAX);
      onBytes(part.value.length);
      events(decoder.decode(part.value, { stream: true }));
    }
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Splits text into server-sent events (HTML standard, 9.2.6) and gives on those of type `job`.
 * @param {(update: Update) => void} onEvent
 * @returns {(text: string) => void}
 */
function eventReader(onEvent) {
  let rest = "";
  let type = "";
  let data = "";
  /** @type {string | undefined} */
  let id;
  /** @param {string} line */
  const take = (line) => {
    if (line === "") {
      if (data && type === "job") onEvent({ view: JSON.parse(data), ...(id === undefined ? {} : { id }) });
      type = data = "";
      return;
    }
    const [, field, value] = /** @type {RegExpExecArray} */ (/^([^:]*):? ?([^]*)$/.exec(line));
    if (field === "event") type = value ?? "";
    else if (field === "data") data += (data && "\n") + value;
    else if (field === "id") id = value ?? "";
  };
  return (text) => {
    rest += text;
    if (rest.length + data.length > EVENT_CHARS_MAX) throw new CallError("unreachable", "event too long", true);
    // A lone CR at the end may be half of CRLF: wait for what follows.
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop() ?? "";
    lines.forEach(take);
  };
}

/**
 * @param {number} ms
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
function pause(ms, signal) {
  return new Promise((done) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      done();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
  });
}
