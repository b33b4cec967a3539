// @ts-check
// The visitor's key and the list of their visits, loaded when they first look at it: shows what this browser keeps, and has the
// key forgotten, replaced, saved to a file or taken from one. It sees no key: what is deleted here is not read, and what comes
// from the worker to be saved is locked already.

import { AT_WORK, CHANGES, Failure } from "./contribution.js";
import { withdraw } from "./coordinator.js";
import { build, byId, element, setText } from "./dom.js";
import { wasStill, watchSight } from "./sight.js";
import * as text from "./text.js";
import { VISITS_COUNT_MAX, all, answer, forget } from "./visits.js";

/** @typedef {import("./contribution.js").Contribution} Contribution */
/** @typedef {import("../types").VisitRecord} VisitRecord */
/** @typedef {import("../types").KeyAct} KeyAct */

/** Database and stores of crate/src/web/database.rs. */
const DATABASE = "manyhands";
const IDENTITY = "identity";
const SESSIONS = "sessions";
/** Longest wait for the coordinator to hear of a withdrawal; the consent ends by itself. */
const WITHDRAW_MS_MAX = 5_000;

/** Longest key file, as in crate/src/web/keyfile.rs, and shortest passphrase for one. */
const FILE_BYTES_MAX = 16 * 1024;
const PASSPHRASE_MIN = 12;

/** Something went wrong that there are words for. */
class Fault extends Error {
  /** @param {text.Key} key @param {text.Values} [values] */
  constructor(key, values) {
    super(key);
    this.said = () => text.say(key, values);
  }
}

/** The key's database, if there is one. */
async function opened() {
  const opening = indexedDB.open(DATABASE);
  // Made anew it would lack its stores: then there is nothing to find in it.
  opening.onupgradeneeded = () => opening.transaction?.abort();
  return answer(opening).catch((error) => {
    if (error instanceof DOMException && error.name === "AbortError") return null;
    throw error;
  });
}

/** Whether a key is kept; throws where the browser keeps nothing. */
async function hasKey() {
  const database = await opened();
  if (!database) return false;
  try {
    return (await answer(database.transaction(IDENTITY).objectStore(IDENTITY).count())) > 0;
  } finally {
    database.close();
  }
}

/**
 * Withdraws the consent of every session that is kept, and deletes those that the coordinator withdrew.
 * @returns {Promise<boolean>} whether it heard of all of them
 */
async function withdrawAll() {
  const database = await opened();
  if (!database) return true;
  try {
    const kept = () => database.transaction(SESSIONS, "readwrite").objectStore(SESSIONS);
    const store = kept();
    /** @type {[IDBValidKey[], { token: string }[]]} */
    const [names, sessions] = await Promise.all([answer(store.getAllKeys()), answer(store.getAll())]);
    const asked = sessions.map(async ({ token }, at) => {
      const { ok, status } = await withdraw(token, AbortSignal.timeout(WITHDRAW_MS_MAX));
      // One that the coordinator does not know is over, too.
      if (!ok && status !== 401) return false;
      const [store, name] = [kept(), names[at] ?? ""];
      // One that was opened there meanwhile is another consent.
      if ((await answer(store.get(name)))?.token === token) await answer(store.delete(name));
      return true;
    });
    const heard = await Promise.allSettled(asked);
    return heard.every((each) => each.status === "fulfilled" && each.value);
  } finally {
    database.close();
  }
}

/** Withdraws all consent, then deletes the key and its sessions; whether the coordinator heard of it. */
async function forgetKey() {
  const isHeard = await withdrawAll();
  const database = await opened();
  if (!database) return isHeard;
  try {
    const both = database.transaction([IDENTITY, SESSIONS], "readwrite");
    both.objectStore(SESSIONS).clear();
    await answer(both.objectStore(IDENTITY).clear());
    return isHeard;
  } finally {
    database.close();
  }
}

/** Does something while no tab of this partition works with the key. @template T @param {() => Promise<T>} act @returns {Promise<T>} */
const alone = (act) => {
  const done = navigator.locks.request(AT_WORK, { ifAvailable: true }, (lock) => {
    if (!lock) throw new Fault("mine_busy");
    return act();
  });
  return /** @type {Promise<any>} */ (done);
};

/** An element whose text stays that of its key when the language changes. @param {string} tag @param {text.Key} key @param {Record<string, string>} [attributes] */
const said = (tag, key, attributes = {}) => build(tag, { ...attributes, "data-text": key }, text.say(key));

/** A labelled input. @param {string} id @param {text.Key} label @param {HTMLElement} input */
function field(id, label, input) {
  input.id = id;
  return build("p", { class: "field" }, said("label", label, { for: id }), input);
}

/** @param {string} id @param {text.Key} label @param {AutoFill} autocomplete */
const secret = (id, label, autocomplete) => field(id, label, build("input", { type: "password", autocomplete }));

/** The same text is the same bytes, whatever keyboard wrote it. @param {string} id */
const typed = (id) => byId(id, HTMLInputElement).value.normalize("NFC");

export class Mine {
  /** Address of the file that can be saved now. */
  #saving = "";
  #channel = new BroadcastChannel(CHANGES);
  #where = build("p", { id: "mine-where" });
  #status = build("p", { id: "mine-status", class: "small", role: "status" });
  #actions = build("div", { class: "choice wrap" });
  #form = build("div", { id: "mine-form" });
  #visits = build("ul", { id: "mine-visits", class: "recent" });
  #note = build("p", { class: "small" });
  /** Says the last outcome again. */
  #outcome = () => "";

  /** @param {Contribution} visit */
  constructor(visit) {
    this.visit = visit;
    this.#action("mine-import", "import", () => this.#offerImport());
    this.#action("mine-export", "export", () => this.#offerExport());
    this.#action("mine-replace", "replace", () => this.#offerReplace());
    this.#action("mine-withdraw", "withdraw", () => {
      this.visit.stop();
      void this.withdraw();
    });
    this.#action("mine-forget", "forget", () => this.offerForget());
    element("mine-body").replaceChildren(
      this.#where,
      ...(window.parent === window ? [] : [said("p", "mine_framed")]),
      this.#actions,
      this.#form,
      this.#status,
      said("h3", "visits_title"),
      this.#visits,
      this.#note,
    );
    // What nobody looks at is read when they open it.
    this.#channel.onmessage = () => {
      if (byId("mine", HTMLDetailsElement).open) void this.show();
    };
  }

  /** Shows what is kept now. */
  async show() {
    setText(this.#status, this.#outcome());
    const [key, visits] = await Promise.all([hasKey(), all()]).catch(() => [null, null]);
    this.#actions.hidden = key === null;
    for (const id of ["mine-export", "mine-replace", "mine-withdraw", "mine-forget"]) element(id).hidden = !key;
    if (!visits || key === null) {
      setText(this.#where, text.say("mine_refused"));
      this.#visits.replaceChildren();
      setText(this.#note, "");
      return;
    }
    const id = this.visit.key?.stored ? text.shortKey(this.visit.key.id) : "";
    setText(this.#where, key ? text.say(id ? "mine_key" : "mine_some_key", { key: id }) : text.say("mine_no_key"));
    this.#visits.replaceChildren(...visits.map((each) => this.#line(each)));
    setText(this.#note, text.say(visits.length ? "visits_note" : "visits_none", { most: VISITS_COUNT_MAX }));
  }

  /** Ends every consent of this key, and with it the work of all tabs; then the key may go, too. */
  async withdraw() {
    // First: a tab whose session is over would open another, by what was agreed to there.
    this.#channel.postMessage({ withdrawn: true });
    const isHeard = await withdrawAll().catch(() => false);
    this.visit.hasConsent = !isHeard;
    this.visit.onChange();
    if (isHeard && (await hasKey().catch(() => false))) this.offerForget();
    this.#tell(() => text.say(isHeard ? "withdrawn" : "withdraw_failed"));
  }

  /** Asks whether the key is really to be forgotten. */
  offerForget() {
    this.#ask("forget_why", [], "forget_sure", "forget-sure", async () => {
      const isHeard = await alone(async () => {
        const isHeard = await forgetKey();
        await forget();
        return isHeard;
      });
      this.visit.hasConsent = false;
      this.#use(null);
      return () => text.say(isHeard ? "forgotten" : "forgotten_unheard");
    });
  }

  #offerReplace() {
    this.#ask("replace_why", [], "replace", "replace-sure", async () => this.#inUse((await this.#change("replace", "", "")).id));
  }

  #offerExport() {
    const fields = [secret("passphrase", "passphrase", "new-password"), secret("passphrase-again", "passphrase_again", "new-password")];
    this.#ask("export_why", fields, "export_go", "export-sure", async () => {
      const passphrase = typed("passphrase");
      if ([...passphrase].length < PASSPHRASE_MIN) throw new Fault("passphrase_short", { least: PASSPHRASE_MIN });
      if (passphrase !== typed("passphrase-again")) throw new Fault("passphrase_differs");
      const { id, file } = await this.#change("export", passphrase, "");
      const outcome = this.#inUse(id);
      return () => {
        this.#offerFile(id, file ?? "");
        return outcome();
      };
    });
  }

  /** The locked file, to be saved; a frame may save nothing, and shows it. @param {string} id @param {string} file */
  #offerFile(id, file) {
    if (window.parent !== window) {
      const copy = build("textarea", { readonly: "", rows: "6", dir: "ltr" });
      copy.textContent = file;
      this.#form.replaceChildren(field("key-copy", "export_copy", copy));
      return;
    }
    this.#saving ||= URL.createObjectURL(new Blob([file], { type: "application/json" }));
    const link = said("a", "export_save", { id: "key-save", href: this.#saving, download: `manyhands-key-${id.slice(0, 8)}.json` });
    this.#form.replaceChildren(build("p", {}, link), said("p", "export_saved"));
  }

  #offerImport() {
    const fields = [
      field("key-file", "import_file", build("input", { type: "file", accept: ".json,application/json" })),
      field("key-text", "import_text", build("textarea", { rows: "3", dir: "ltr", autocomplete: "off", spellcheck: "false" })),
      secret("passphrase", "passphrase", "current-password"),
    ];
    this.#ask("import_why", fields, "import_go", "import-sure", async () => {
      const [chosen] = byId("key-file", HTMLInputElement).files ?? [];
      if (chosen && chosen.size > FILE_BYTES_MAX) throw new Fault("fault_key_file_long");
      const file = chosen ? await chosen.text() : byId("key-text", HTMLTextAreaElement).value;
      if (!file.trim()) throw new Fault("import_none");
      if (!typed("passphrase")) throw new Fault("fault_key_passphrase_wrong");
      return this.#inUse((await this.#change("import", typed("passphrase"), file)).id);
    });
  }

  /** @param {KeyAct} act @param {string} passphrase @param {string} file */
  #change(act, passphrase, file) {
    return alone(() => this.visit.changeKey(act, passphrase, file));
  }

  /** Takes a key for the one in use, and gives what to say of it. @param {string} id */
  #inUse(id) {
    this.#use(id);
    return () => text.say("key_in_use", { key: text.shortKey(id) });
  }

  /** @param {string | null} id */
  #use(id) {
    this.visit.key = id === null ? null : { type: "key", id, stored: true };
    this.visit.onChange();
    this.#channel.postMessage({ key: id });
  }

  /**
   * A question in place of the last one.
   * @param {text.Key} why
   * @param {HTMLElement[]} fields
   * @param {text.Key} yes what the button says
   * @param {string} id the button's
   * @param {() => Promise<() => string>} act gives what to say when it is done
   */
  #ask(why, fields, yes, id, act) {
    this.#tell(() => "");
    URL.revokeObjectURL(this.#saving);
    this.#saving = "";
    const sure = said("button", yes, { type: "button", id });
    let isSeen = window.parent === window;
    // The page around a frame must not have a key forgotten or replaced by a press that was meant for something else.
    if (!isSeen) watchSight(sure, (seen) => (sure.dataset["seen"] = String((isSeen = seen))));
    sure.addEventListener("click", (event) => {
      if (!event.isTrusted) return;
      if (isSeen && (window.parent === window || wasStill())) void this.#do(sure, act);
      else this.#tell(() => text.say("covered_box"));
    });
    const not = said("button", "mine_not", { type: "button", class: "quiet" });
    not.addEventListener("click", () => this.#end());
    this.#form.replaceChildren(said("p", why), ...fields, sure, not);
    (fields[0]?.querySelector("input") ?? sure).focus();
  }

  #end() {
    this.#form.replaceChildren();
    element("mine").querySelector("summary")?.focus();
  }

  /** Does what was asked for, once, and says how it ended. @param {HTMLElement} button @param {() => Promise<() => string>} act */
  async #do(button, act) {
    button.setAttribute("disabled", "");
    try {
      const outcome = await act();
      this.#end();
      this.#tell(outcome);
    } catch (error) {
      const { code, message } = error instanceof Failure ? error : { code: "", message: String(error) };
      this.#tell(error instanceof Fault ? error.said : () => text.sayIfKnown(`fault_${code}`, "fault_other", { note: message }));
      button.removeAttribute("disabled");
    }
    await this.show();
  }

  /** @param {() => string} outcome */
  #tell(outcome) {
    this.#outcome = outcome;
    setText(this.#status, outcome());
  }

  /** @param {string} id @param {text.Key} key @param {() => void} act */
  #action(id, key, act) {
    const button = said("button", key, { type: "button", id });
    button.addEventListener("click", (event) => {
      if (event.isTrusted) act();
    });
    this.#actions.append(button);
  }

  /** @param {VisitRecord} visit */
  #line(visit) {
    const when = build("time", { datetime: new Date(visit.begun_ms).toISOString() }, text.time(visit.begun_ms));
    const { accepted, rejected, pending, credit_flop: flop, data_bytes: data } = visit;
    const sums = text.say("visit_sums", { accepted, rejected, pending, flop, data });
    return build("li", {}, build("span", {}, when, " · ", build("bdi", {}, visit.title), build("br"), sums));
  }
}
