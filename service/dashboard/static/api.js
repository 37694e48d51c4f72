// The only door: requests to /v1 with the key of this tab, and their problems as errors.

import { askForKey } from "./key.js";

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

/** The headers that every request of this tab has. */
export function credentials() {
  const key = sessionStorage.getItem(STORED);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Whether the server wants a key, or one of a larger scope. */
export const refused = (error) => [401, 403].includes(error.status);

/** The scope that a refusal says is needed, or null. */
export const scopeOf = (error) => /scope `?(\w+)/.exec(error.entries?.[0]?.hint ?? "")?.[1] ?? null;

/** Ask for another key, and begin anew with it. */
export async function changeKey() {
  const key = await askForKey(null);
  if (key === null) return;
  sessionStorage.setItem(STORED, key);
  location.reload();
}

export const hasKey = () => sessionStorage.getItem(STORED) !== null;
export const forgetKey = () => sessionStorage.removeItem(STORED);

const declined = new Set();

/** fetch, with the key; where the server wants one, the person is asked for it and the request is sent again. */
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

/** What an answer that is no success says. */
export const problemOf = async (answer) => new Problem(answer.status, isJson(answer) ? await answer.json() : null);

/** A resource as JSON, or text where it is text. */
export const get = async (path, { signal } = {}) => read(await request(path, { signal }));

/** A resource with its ETag: `{body, etag}`. */
export async function getTagged(path) {
  const answer = await request(path);
  return { body: await read(answer), etag: answer.headers.get("ETag") };
}

/** Send JSON. */
export async function send(method, path, body, { headers = {}, signal } = {}) {
  const json =
    body === undefined
      ? {}
      : { body: JSON.stringify(body), headers: { ...headers, "Content-Type": "application/json" } };
  return read(await request(path, { method, headers, signal, ...json }));
}

export const post = (path, body, options) => send("POST", path, body, options);

/** Send a file as it is. */
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

/** What a page is about, as it comes, or that it is not there in `words`: also what cannot be the id of anything. */
export async function subject(coming, words) {
  try {
    return await coming;
  } catch (error) {
    if (![400, 404, 422].includes(error.status)) throw error;
    const near = error.entries.filter(({ hint }) => hint?.startsWith("Did you mean"));
    throw new Problem(404, { detail: words, errors: near.map(({ hint }) => ({ hint })) });
  }
}

/** Save what a path answers as a file; by a link of its own, or where a key is needed through memory. */
export async function download(path, name) {
  if (!hasKey()) {
    follow(path, name);
    return;
  }
  const answer = await request(path);
  if (!answer.ok) await read(answer);
  save(await answer.blob(), name);
}

/** Save what this page has as a file. */
export function save(blob, name) {
  const address = URL.createObjectURL(blob);
  follow(address, name);
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

function follow(href, download) {
  Object.assign(document.createElement("a"), { href, download }).click();
}

/** Point an alias at a version, whether it exists or not. */
export async function promote(model, alias, version, reason) {
  const path = `/v1/models/${encodeURIComponent(model)}/aliases/${encodeURIComponent(alias)}`;
  const { aliases } = await get(`/v1/models/${encodeURIComponent(model)}`);
  const condition =
    aliases[alias] === undefined ? { "If-None-Match": "*" } : { "If-Match": (await getTagged(path)).etag };
  return send("PUT", path, reason ? { version, reason } : { version }, { headers: condition });
}
