// @ts-check
// Reads the coordinator's public JSON under /v1, and withdraws sessions. Never sends anything else about the visitor, never
// retries by itself.

/** @typedef {import("../types").InfoView} InfoView */
/** @typedef {import("../types").JobView} JobView */
/** @typedef {import("../types").ProblemView} ProblemView */

/** Longest wait for an answer. */
const ANSWER_MS_MAX = 10_000;

/** A call that failed, with what a person may be told. */
export class CallError extends Error {
  /**
   * @param {string} code stable code of the protocol, or `unreachable`
   * @param {string} detail
   * @param {boolean} retryable
   */
  constructor(code, detail, retryable) {
    super(detail);
    this.code = code;
    this.retryable = retryable;
  }
}

/**
 * The problem document of a failed answer; a gateway's own error page counts as a coordinator out of reach.
 * @param {Response} response
 * @returns {Promise<CallError>}
 */
export async function problemOf(response) {
  if (response.headers.get("content-type")?.startsWith("application/problem+json")) {
    const problem = /** @type {ProblemView} */ (await response.json());
    return new CallError(String(problem.code), String(problem.detail), problem.retryable === true);
  }
  return new CallError("unreachable", `HTTP ${response.status}`, true);
}

/**
 * @param {string} path
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
async function get(path, signal) {
  const limit = AbortSignal.timeout(ANSWER_MS_MAX);
  let response;
  try {
    response = await fetch(path, {
      headers: { accept: "application/json" },
      cache: "no-store",
      credentials: "omit",
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new CallError("unreachable", error instanceof Error ? error.message : String(error), true);
  }
  if (!response.ok) throw await problemOf(response);
  if (!response.headers.get("content-type")?.startsWith("application/json")) {
    // A static server that answers every path with its page is no coordinator.
    throw new CallError("unreachable", `${path} is not JSON`, true);
  }
  return response.json();
}

/**
 * Withdraws a session; goes out even where the page that asks is about to be gone.
 * @param {string} token
 * @param {AbortSignal} [signal]
 */
export const withdraw = (token, signal) =>
  fetch("/v1/sessions", {
    method: "DELETE",
    headers: { authorization: `Bearer ${token}` },
    credentials: "omit",
    keepalive: true,
    signal: signal ?? null,
  });

/** @returns {Promise<InfoView>} */
export const info = () => get("/v1/info");

/**
 * @param {string} site the site whose jobs are wanted; all where it is empty
 * @returns {Promise<JobView[]>}
 */
export async function jobs(site) {
  const list = (await get(site ? `/v1/jobs?site=${encodeURIComponent(site)}` : "/v1/jobs")).jobs;
  if (!Array.isArray(list)) throw new CallError("unreachable", "/v1/jobs holds no list", true);
  return list;
}

/**
 * @param {number} id
 * @param {AbortSignal} [signal]
 * @returns {Promise<JobView>}
 */
export const job = (id, signal) => get(`/v1/jobs/${id}`, signal);
