// The only door: requests to /v1 with this tab's key, their problems as errors, and the stream of events.

import { field, h, sure } from "./dom.js";

const STORED = "modelyard.key";

/** A problem that the server answered (RFC 9457). */
export class Problem extends Error {
  constructor(status, body) {
    super(body?.detail || body?.title || `The server answered ${status}.`);
    this.status = status;
    this.code = body?.code ?? "";
    this.entries = body?.errors ?? [];
    this.body = body ?? {};
  }
}

function credentials() {
  const key = sessionStorage.getItem(STORED);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Whether the server wants a key, or one of a larger scope. */
export const refused = (error) => [401, 403].includes(error.status);

/** The scope that a refusal says is needed, or null. */
export const scopeOf = (error) => /scope `?(\w+)/.exec(error.entries?.[0]?.hint ?? "")?.[1] ?? null;

export async function changeKey() {
  const key = await askForKey(null);
  if (key === null) return;
  sessionStorage.setItem(STORED, key);
  location.reload();
}

export const hasKey = () => sessionStorage.getItem(STORED) !== null;
export const forgetKey = () => sessionStorage.removeItem(STORED);

let asking = null;

/** The key that the person gives, or null where they give none; several requests that wait for one share the dialog.
 * `wrong` says what is wrong with the one before. */
function askForKey(wrong) {
  asking ??= ask(wrong).finally(() => {
    asking = null;
  });
  return asking;
}

async function ask(wrong) {
  const input = h("input", { type: "password", autocomplete: "off", required: true });
  const given = await sure(
    "This server wants an API key",
    [
      wrong ? h("p", { class: "error-text", role: "alert" }, wrong) : null,
      h("p", {}, "Whoever runs the server gives you one. It stays in this tab until you close it or sign out."),
      field("API key", input, { wide: true }),
    ],
    "Use this key",
  );
  return (given && input.value.trim()) || null;
}

const declined = new Set();

/** fetch, with the key; the person is asked for one where the server wants it. */
export async function request(path, { headers = {}, ...init } = {}) {
  for (;;) {
    const sent = credentials().Authorization;
    const answer = await fetch(path, {
      ...init,
      headers: { ...headers, ...credentials() },
      credentials: "omit",
    }).catch((error) => {
      throw error.name === "AbortError"
        ? error
        : new Error("The server cannot be reached. Is it running? Try again when it is.", { cause: error });
    });
    if (answer.status !== 401) return answer;
    if (credentials().Authorization === sent) {
      if (declined.has(sent)) return answer;
      const key = await askForKey(sent === undefined ? null : "That key was not accepted.");
      if (key === null) {
        declined.add(sent); // said once is enough: the page offers it by a button
        return answer;
      }
      sessionStorage.setItem(STORED, key);
    }
  }
}

async function read(answer) {
  if (!answer.ok) throw await problemOf(answer);
  if (answer.status === 204) return null;
  return isJson(answer) ? answer.json() : answer.text();
}

const isJson = (answer) => (answer.headers.get("Content-Type") ?? "").includes("json");

const problemOf = async (answer) => new Problem(answer.status, isJson(answer) ? await answer.json() : null);

/** A resource as JSON, or text where it is text. */
export const get = async (path, { signal } = {}) => read(await request(path, { signal }));

export async function tagOf(path) {
  const answer = await request(path);
  await read(answer);
  return answer.headers.get("ETag");
}

export async function send(method, path, body, { headers = {}, signal } = {}) {
  const json =
    body === undefined
      ? {}
      : { body: JSON.stringify(body), headers: { ...headers, "Content-Type": "application/json" } };
  return read(await request(path, { method, headers, signal, ...json }));
}

export const post = (path, body, options) => send("POST", path, body, options);

export const upload = async (file) =>
  read(
    await request("/v1/uploads", {
      method: "POST",
      body: file,
      headers: { "Content-Type": file.type === "text/csv" ? "text/csv" : "application/octet-stream" },
    }),
  );

/** Every entry of a collection, up to `most`. */
export async function all(path, most = 1000) {
  const found = [];
  const join = path.includes("?") ? "&" : "?";
  let after = "";
  do {
    const page = await get(`${path}${join}limit=200${after}`);
    found.push(...page.data);
    after = page.next ? `&after=${encodeURIComponent(page.next)}` : "";
  } while (after && found.length < most);
  return found;
}

/** Null instead of the problem that there is no such thing (yet). */
export async function perhaps(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof Problem && [404, 409].includes(error.status)) return null;
    throw error;
  }
}

/** What a page is about; where that is not there, a problem in `words`. */
export async function subject(coming, words) {
  try {
    return await coming;
  } catch (error) {
    if (![400, 404, 422].includes(error.status)) throw error;
    const near = error.entries.filter(({ hint }) => hint?.startsWith("Did you mean"));
    throw new Problem(404, { detail: words, errors: near.map(({ hint }) => ({ hint })) });
  }
}

/** Save what a path answers as a file: by a link, or with a key through memory. */
export async function download(path, name) {
  if (!hasKey()) {
    follow(path, name);
    return;
  }
  const answer = await request(path);
  if (!answer.ok) await read(answer);
  save(await answer.blob(), name);
}

export function save(blob, name) {
  const address = URL.createObjectURL(blob);
  follow(address, name);
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

function follow(href, download) {
  Object.assign(document.createElement("a"), { href, download }).click();
}

// -- events -------------------------------------------------------------------------------------------------------------

// One event stream for the page that is shown: read with fetch, so that it can carry a key; closed while the page is
// hidden; resumed after the last event that was seen, so that none is lost and none comes twice.

const state = {
  topics: "jobs",
  handler: null,
  ready: null,
  resumed: null,
  lastId: null,
  abort: null,
  generation: 0,
  listeners: new Set(),
  status: "connecting",
};

/**
 * Listen for a page.
 *
 * `ready` is called each time a stream begins that continues no other: whatever the page has read until then may be old,
 * and it reads it now. What happens from then on comes to `handler`, once each and in order.
 * `resumed` is called when a stream goes on that was cut: what `handler` asked for meanwhile may have failed.
 */
export function watch(topics, handler, ready, resumed = null) {
  state.generation += 1;
  Object.assign(state, { topics: ["jobs", ...topics].join(","), handler, ready, resumed, lastId: null });
  state.abort?.abort();
  if (!document.hidden) void run(state.generation);
}

/** Tell `listener` of the connection, and of the problem where it is "refused". */
export function onStatus(listener) {
  state.listeners.add(listener);
  listener(state.status);
}

function tell(status, problem) {
  if (state.status === status && !problem) return;
  state.status = status;
  for (const listener of state.listeners) listener(status, problem);
}

document.addEventListener("visibilitychange", () => {
  state.generation += 1;
  state.abort?.abort();
  if (document.hidden) tell("paused");
  else void run(state.generation);
});

async function run(generation) {
  let wait = 250;
  while (generation === state.generation) {
    const abort = new AbortController();
    state.abort = abort;
    try {
      const headers = { Accept: "text/event-stream" };
      if (state.lastId !== null) headers["Last-Event-ID"] = state.lastId;
      const answer = await request(`/v1/events?topics=${state.topics}`, { headers, signal: abort.signal });
      if (!answer.ok) {
        const problem = await problemOf(answer);
        if (refused(problem) && generation === state.generation) {
          tell("refused", problem); // it would be refused again: the next page, or another key, tries anew
          return;
        }
        throw problem;
      }
      tell("live");
      wait = 250;
      // Where it begins is settled now: what is read after this, and what the stream brings, leave no gap.
      if (state.lastId === null) await state.ready?.();
      else state.resumed?.();
      await events(answer.body, generation);
    } catch (error) {
      if (abort.signal.aborted || generation !== state.generation) return;
      console.debug("stream:", error.message);
    }
    if (generation !== state.generation) return;
    tell("lost");
    await new Promise((resolve) => {
      setTimeout(resolve, wait);
    });
    wait = Math.min(wait * 2, 4000);
  }
}

async function events(body, generation) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done || generation !== state.generation) return;
    text = (text + value).replaceAll("\r\n", "\n");
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      take(text.slice(0, end));
      text = text.slice(end + 2);
    }
  }
}

function take(block) {
  let id = null;
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("id:")) id = line.slice(3).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  if (!data.length) return;
  const event = JSON.parse(data.join("\n"));
  try {
    state.handler?.(event);
  } finally {
    if (id !== null) state.lastId = id;
  }
}
