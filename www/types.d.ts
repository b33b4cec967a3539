// Types of what crosses the page's two borders: the coordinator's JSON views and the worker's messages. For the type
// checker only; never shipped. The coordinator's side is protocol/src/view.rs, the worker's side worker/src/messages.rs.

// GET /v1/info
export interface InfoView {
  name: string;
  software_version: string;
  protocol_version: number;
  terms_version: number;
  /** Hexadecimal Ed25519 public key. */
  key: string;
  stopped: boolean;
}

export type JobState = "submitted" | "running" | "paused" | "cancelled" | "finished";

// GET /v1/jobs/{id}, and the data of its events
export interface JobView {
  id: number;
  name: string;
  title: string;
  description: string;
  owner: string;
  category: "research" | "education" | "public_good" | "commercial" | "demo";
  kind: "matmul" | "train";
  state: JobState;
  units_total: number;
  units_settled: number;
  contributors: number;
  contributors_now: number;
  results_accepted: number;
  results_rejected: number;
  units_refereed: number;
  tax?: { replicas: number; audits: number; checks: number; total: number };
  train?: TrainView | null;
}

export interface TrainView {
  model: Model;
  rounds_merged: number;
  merges_undone?: number;
  rounds_max: number;
  units_per_round: number;
  target_accuracy?: number;
  target_bits_per_byte?: number;
  checkpoint: string;
  test: string;
  history: RoundView[];
}

export interface Model {
  input: { shape: number[]; dtype: string; scale: number; offset: number };
  layers: Layer[];
  loss: string;
}

/** One layer with the figures of its type. */
export interface Layer {
  type: string;
  outputs?: number;
  channels?: number;
  kernel?: number;
  stride?: number;
  padding?: number;
  size?: number;
  vocabulary?: number;
  width?: number;
  heads?: number;
  layers?: number;
  rate?: number;
}

export interface RoundView {
  round: number;
  loss: number;
  accuracy: number;
  /** The loss in bits; set for models of text. */
  bits_per_byte?: number;
  checkpoint: string;
  at_ms: number;
}

// RFC 9457 problem document
export interface ProblemView {
  type: string;
  title: string;
  status: number;
  detail: string;
  code: string;
  retryable: boolean;
}

// page → worker
export type Tune = "auto" | "off";
export type Backend = "auto" | "any" | "gpu" | "cpu";
export type ToWorker =
  | {
      type: "start";
      job: number | null;
      /** The kind of jobs agreed to; empty where it is one job, or any. */
      category: string;
      site: string;
      backend: Backend;
      /** Whether the fastest kernels are found by measuring. */
      tune: Tune;
      duty_percent: number;
      data_bytes_max: number;
      /** Units computed at once where no GPU computes; as many as suit the computer where it is not said. */
      lanes?: number;
    }
  /** The visitor's newest limit, within what was agreed to. */
  | { type: "limit"; duty_percent: number }
  | ({ type: "conditions" } & Conditions)
  /** What the page itself moved for the visit; for the whole worker alone. */
  | { type: "moved"; bytes: number }
  | { type: "pause" }
  | { type: "resume" }
  | { type: "stop" }
  | ({ type: "try"; job: number } & TryWish)
  /** What is to become of the key: a new one in its place, the same saved to a file, or one from a file. */
  | { type: "key"; act: KeyAct; passphrase: string; file: string };
export type KeyAct = "replace" | "export" | "import";

/**
 * What to try the newest model on: so many held-out pictures, or one of grey values, 0 to 255, row by row; or, of a model of
 * text, the beginning it goes on from.
 */
export interface TryWish {
  rows: number;
  prompt: string;
  seed: number;
  picture: Uint8Array | null;
  /** The visitor waits for it. Else it is a part of the visit's work, and keeps to its limits. */
  asked: boolean;
}

/** What the page sees of how much its visitor would notice. */
export interface Conditions {
  visible: boolean;
  in_use: boolean;
  background: boolean;
  dropped: number | null;
  pressure: "nominal" | "serious" | "critical";
  battery: number | null;
  saver: boolean;
}

// worker → page
export type WorkerState =
  | "starting"
  | "self_test"
  | "tuning"
  | "waiting"
  | "working"
  | "paused"
  | "stopped"
  | "unreachable";
export type UnitPhase =
  | "leased"
  | "computing"
  | "computed"
  | "submitted"
  | "accepted"
  | "rejected"
  | "pending"
  | "challenged"
  | "given_back";
export interface StateMessage { type: "state"; state: WorkerState; detail?: string | null }
export interface AdapterMessage {
  type: "adapter";
  backend: "webgpu" | "wasm";
  adapter: string;
  /** Why this backend; set where it is not the first choice. */
  reason?: string | null;
  /** Whether it was measured to be faster than the graphics processor, which `reason` names. */
  is_faster?: boolean;
}
export interface KeyMessage { type: "key"; id: string; stored: boolean }
export interface UnitMessage {
  type: "unit";
  job: number;
  unit: number;
  kind: "matmul" | "train";
  phase: UnitPhase;
  step?: number | null;
  steps?: number | null;
  loss?: number | null;
  reason?: string | null;
  /** Operations credited for it. */
  credit_flop: number;
  /** What the visit moved so far. */
  data_bytes: number;
}
export interface TotalsMessage {
  type: "totals";
  accepted: number | bigint;
  rejected: number | bigint;
  pending: number | bigint;
  credit_flop: number | bigint;
}
/** Why a visit takes less than its limit. */
export type PaceReason = "" | "hidden" | "saver" | "battery" | "frames" | "pressure" | "slow" | "shared";
/** The share of time that work takes from now on; 0 where it is held. */
export interface PaceMessage { type: "pace"; duty_percent: number; reason: PaceReason }
export interface Answer {
  /** Grey values, 0 to 255, row by row. */
  pixels: ArrayLike<number>;
  width: number;
  height: number;
  /** Of what is held out; the visitor's own pictures have none. */
  label: number | null;
  answer: number;
  /** The model's probability for its answer, 0 to 1. */
  probability: number;
}
/** That a result is in the public log of `size` entries, at `index`; `receipt` is the proof, as the coordinator gave it. */
export interface ReceiptMessage { type: "receipt"; job: number; unit: number; index: number; size: number; receipt: Uint8Array<ArrayBuffer> }
/** What work took since this was told last, in milliseconds of one device or core. */
export interface SpentMessage { type: "spent"; ms: number }
/** `bytes` were fetched for it. */
export interface AnswersMessage { type: "answers"; rows: Answer[]; bytes: number }
/** What the model of this round wrote after the prompt; both are text of any kind. */
export interface SampleMessage { type: "sample"; round: number; prompt: string; text: string; bytes: number }
/** The key in use from now on, and the text of its file where one was asked for. */
export interface KeyDoneMessage { type: "key_done"; id: string; file: string | null }
export interface ErrorMessage { type: "error"; code: string; message: string; retryable: boolean }
export type FromWorker =
  | { type: "ready"; whole?: boolean }
  /** A session was opened with a key that is not kept. */
  | { type: "session"; token: string }
  | StateMessage
  | AdapterMessage
  | KeyMessage
  | UnitMessage
  | TotalsMessage
  | PaceMessage
  | SpentMessage
  | ReceiptMessage
  | AnswersMessage
  | SampleMessage
  | KeyDoneMessage
  | ErrorMessage;

/** State of this tab's contribution as the page shows it. */
export type VisitState =
  | "idle"
  | "declined"
  | "loading"
  | "starting"
  | "self_test"
  | "tuning"
  | "waiting"
  | "working"
  | "paused"
  | "unreachable"
  | "stopping"
  | "stopped"
  | "failed";

/** What one visit gave, as the browser keeps it. */
export interface VisitRecord {
  begun_ms: number;
  title: string;
  accepted: number;
  rejected: number;
  /** Sent, and without a verdict when the visit ended. */
  pending: number;
  credit_flop: number;
  data_bytes: number;
}

/** How live data reaches this tab. */
export type Link = "connecting" | "live" | "polling" | "offline" | "ended";

declare global {
  /** Where the browser has Trusted Types, which TypeScript does not know yet. */
  var trustedTypes:
    | { createPolicy(name: string, rules: { createScriptURL: (address: string) => string }): { createScriptURL: (address: string) => any } }
    | undefined;
}
