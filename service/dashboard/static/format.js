// Numbers, times and states as people read them.

/** A number with so many significant digits, if it has them. */
export function number(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e4) return String(value); // it may be a year
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  const short = Number(value.toPrecision(digits));
  return size !== 0 && (size < 1e-4 || size >= 1e7) ? short.toExponential() : String(short);
}

/** What a version answers: numbers with all digits that a float32 has. */
export const answered = (values) =>
  [values]
    .flat(9)
    .map((value) => (typeof value === "number" ? number(value, 7) : (value ?? "–")))
    .join(", ");

export function bytes(count) {
  if (count === null || count === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  let size = count;
  while (size >= 1000 && at < units.length - 1) {
    size /= 1000;
    at += 1;
  }
  return `${at ? size.toFixed(size < 10 ? 1 : 0) : size} ${units[at]}`;
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.1) return "under 0.1 s";
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 90) return `${Math.round(value)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

export function ago(text) {
  if (!text) return "–";
  const passed = (Date.now() - Date.parse(text)) / 1000;
  if (passed < 5) return "just now";
  if (passed < 60) return `${Math.floor(passed)} s ago`;
  if (passed < 3600) return `${Math.floor(passed / 60)} min ago`;
  if (passed < 86400) return `${Math.floor(passed / 3600)} h ago`;
  return new Date(text).toISOString().slice(0, 10);
}

export const at = (text) => (text ? text.replace("T", " ").replace(/\.\d+Z$/, " UTC") : "–");
export const digest = (text) => (text ? text.replace("sha256:", "").slice(0, 12) : "–");
export const shortJob = (id) => `…${id.slice(-8)}`;
export const shape = (sizes) =>
  Array.isArray(sizes)
    ? sizes.map((size) => (Array.isArray(size) ? `(${shape(size)})` : size)).join(" × ")
    : String(sizes ?? "–");

/** JSON whose short lists and objects stand on one line, as a person would write a document. */
export function pretty(value, indent = "", width = 96) {
  const flat = flatText(value);
  if (flat.length + indent.length <= width || value === null || typeof value !== "object") return flat;
  const inner = `${indent}  `;
  if (Array.isArray(value))
    return `[\n${value.map((item) => inner + pretty(item, inner, width)).join(",\n")}\n${indent}]`;
  const members = Object.entries(value).map(
    ([key, item]) => `${inner}${JSON.stringify(key)}: ${pretty(item, inner, width)}`,
  );
  return `{\n${members.join(",\n")}\n${indent}}`;
}

function flatText(value) {
  if (Array.isArray(value)) return `[${value.map(flatText).join(", ")}]`;
  if (value && typeof value === "object")
    return `{${Object.entries(value)
      .map(([key, item]) => `${JSON.stringify(key)}: ${flatText(item)}`)
      .join(", ")}}`;
  return JSON.stringify(value);
}

/** The members and places that an RFC 6901 pointer goes through. */
const steps = (pointer) =>
  pointer
    .split("/")
    .slice(1)
    .map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));

const TOKENS = /"(?:\\.|[^"\\])*"|[{}[\],:]|[^\s{}[\],:"]+/g;

/** Where in a JSON text the value that a pointer names stands, or its nearest parent: `[start, end]`. */
export function locate(text, pointer) {
  const wanted = steps(pointer);
  const around = []; // the objects and lists that are open: where they begin, and at which member they are
  let best = [0, 0];
  let depth = -1;
  const ends = (start, end) => {
    if (around.length <= depth || !around.every(({ at }, i) => String(at) === wanted[i])) return;
    best = [start, end];
    depth = around.length;
  };
  for (const { 0: token, index } of text.matchAll(TOKENS)) {
    const end = index + token.length;
    const inner = around.at(-1);
    if (token === "{" || token === "[") around.push({ start: index, at: token === "[" ? 0 : null });
    else if (token === "}" || token === "]") ends(around.pop()?.start ?? 0, end);
    else if (token === "," && inner) inner.at = typeof inner.at === "number" ? inner.at + 1 : null;
    else if (inner?.at === null) inner.at = token.slice(1, -1);
    else if (token !== ":") ends(index, end);
  }
  return best;
}

const lookup = (value, pointer) => steps(pointer).reduce((found, part) => found?.[part], value);

/** A copy of a value after a JSON Patch (RFC 6902: add, remove, replace). */
export function patched(value, patch) {
  const copy = structuredClone(value);
  for (const { op, path, value: given } of patch) {
    const parts = steps(path);
    const last = parts.pop();
    const owner = parts.reduce((found, part) => found[part], copy);
    if (Array.isArray(owner)) {
      const index = last === "-" ? owner.length : Number(last);
      if (op === "remove") owner.splice(index, 1);
      else owner.splice(index, op === "replace" ? 1 : 0, given);
    } else if (op === "remove") delete owner[last];
    else owner[last] = given;
  }
  return copy;
}

/** What a hint plainly says to do at an error's place in `root`: `{words, patch}`, else null. */
export function remedy(entry, root) {
  const { pointer, hint = "" } = entry;
  const name = /^Did you mean '([^']+)'\?/.exec(hint)?.[1];
  const there = lookup(root, pointer);
  if (name && entry.code === "unknown-member") {
    if (there === undefined) return null;
    const path = `${pointer.slice(0, pointer.lastIndexOf("/"))}/${name}`;
    return {
      words: `Rename it to ${name}`,
      patch: [
        { op: "remove", path: pointer },
        { op: "add", path, value: there },
      ],
    };
  }
  if (name && typeof there === "string")
    return { words: `Use ${name}`, patch: [{ op: "replace", path: pointer, value: name }] };
  const sized = /^Set (\w+) to (-?\d+)\b/.exec(hint);
  if (sized && pointer.endsWith(`/${sized[1]}`))
    return {
      words: `Use ${sized[2]}`,
      patch: [{ op: there === undefined ? "add" : "replace", path: pointer, value: Number(sized[2]) }],
    };
  return null;
}

export const plainName = (text) =>
  text
    .toLowerCase()
    .replace(/[äöüß]/g, (sign) => ({ ä: "ae", ö: "oe", ü: "ue", ß: "ss" })[sign])
    .normalize("NFKD")
    .replace(/[\u0300-\u036f]/g, "")
    .replace(/\.[a-z0-9]+$/, "")
    .replace(/[^a-z0-9._-]+/g, "-")
    .replace(/^[^a-z0-9]+|[.]+$/g, "")
    .slice(0, 63) || "model";
