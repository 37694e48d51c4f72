// Numbers, times and states as people read them.

/** How many there are of something: counts have a mark between thousands, numbers of the data have not. */
export const count = (value) => (Number.isFinite(value) ? value.toLocaleString("en-US") : "–");

/** A number with so many significant digits, if it has them. */
export function number(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return String(value);
  const size = Math.abs(value);
  const short = Number(value.toPrecision(digits));
  return size !== 0 && (size < 1e-4 || size >= 1e7) ? short.toExponential() : String(short);
}

/** Whether a source writes numbers otherwise than this page does. */
const hasMarks = ({ decimal, thousands }) => decimal === "," || Boolean(thousands);

/** A number with the marks of a source, and with so many decimals where that is said. */
export function marked(value, { decimal = ".", thousands } = {}, digits = 6, decimals = null) {
  const text = decimals === null ? String(Number(value.toPrecision(digits))) : value.toFixed(decimals);
  const [whole, rest] = text.split(".");
  const groups = thousands && /^-?\d+$/.test(whole) && (rest !== undefined || Math.abs(value) >= 1e4); // else a year
  const grouped = groups ? whole.replace(/\B(?=(\d{3})+$)/g, thousands) : whole;
  return rest === undefined ? grouped : `${grouped}${decimal}${rest}`;
}

/** What a version answers: numbers with all digits that a float32 has, and with the marks of a source. */
export const answered = (values, source = {}) =>
  [values]
    .flat(9)
    .map((value) => {
      if (typeof value !== "number") return value ?? "–";
      return hasMarks(source) ? marked(value, source, 7) : number(value, 7);
    })
    .join(", ");

/** The answers of a column: numbers with as many decimals each, so that their marks stand below each other; where the
 * smallest would then be nothing, each with its own. */
export function answeredColumn(values, source = {}) {
  const sizes = values.map((value) => (typeof value === "number" ? Math.abs(value) : NaN));
  const [low, high] = [Math.min(...sizes.filter((size) => size !== 0)), Math.max(...sizes)];
  const most = Math.max(0, 6 - Math.floor(Math.log10(high))); // a float32 has seven digits
  const alike = high > 0 && high < 1e7 && low >= Math.max(1e-4, 10 ** -most);
  if (!alike) return values.map((value) => answered(value, source));
  const ends = values.map((value) => value.toFixed(most).replace(/^.*\.|0+$/g, "").length);
  const decimals = most ? Math.max(...ends) : 0;
  return values.map((value) => marked(value, hasMarks(source) ? source : {}, 7, decimals));
}

export function percent(value, { decimal = "." } = {}) {
  const share = 100 * (value ?? 0);
  const text = share.toFixed(1);
  const near = share < 100 && text === "100.0" ? "> 99.9" : share > 0 && text === "0.0" ? "< 0.1" : text;
  return `${near.replace(".", decimal)} %`;
}

/** A warning of a range, whose numbers have the marks of a source where its sentences do not have them too. */
export function inMarks(entry, source) {
  if (!hasMarks(source) || entry.code !== "outside-training-range") return entry;
  const written = (text) =>
    text && !`${entry.detail} ${entry.hint}`.includes(text)
      ? text.replace(/-?\d+(?:\.\d+)?(?:e[+-]?\d+)?/g, (found) => marked(Number(found), source, 9))
      : text;
  return { ...entry, expected: written(entry.expected), got: written(entry.got) };
}

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
export const digest = (text, most = 12) => (text ? `${text.replace("sha256:", "").slice(0, most)}…` : "–");
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

const isNumber = (part) => /^\d+$/.test(part);

const inWords = (parts) =>
  parts.map((part) => (isNumber(part) ? Number(part) + 1 : part.replaceAll("_", " "))).join(", ");

// The fields of forms that write to these places of a request; what has none is not named.
const FIELDS = [
  ["/source/target", "What is to be predicted"],
  ["/source/inputs", "What it is predicted from"],
  ["/source/missing_texts", "Texts that mean a missing value"],
  ["/source/decimal", "Numbers are written as"],
  ["/source/thousands", "Numbers are written as"],
  ["/source", ""],
  ["/dataset", "Data"],
  ["/preprocessing", "Preprocessing"],
  ["/objective", "Objective"],
  ["/optimizer/lr", "Learning rate"],
  ["/optimizer", "Optimizer"],
  ["/budget/epochs", "Epochs"],
  ["/batch_size", "Batch size"],
  ["/split", "Held out for validation"],
  ["/seed", "Seed"],
  ["/output/engine", "Answers are computed by"],
  ["/output/model", "Name of the model"],
  ["/output/alias_on_success", "Make it the champion when it succeeds"],
];

/** A place in a request as a person knows it: a row's column, or the field of a form; other texts as they are. */
export function placeOf(pointer) {
  if (!pointer?.startsWith("/")) return pointer ?? "";
  const [first, ...rest] = steps(pointer);
  if (first === "architecture") return placeInNet(pointer.slice("/architecture".length));
  if (first === "inputs") return placeInRows(rest);
  const field = FIELDS.find(([start]) => pointer === start || pointer.startsWith(`${start}/`));
  return field ? field[1] : inWords([first, ...rest]);
}

/** The first number is that of a row, others are places in it. */
function placeInRows(parts) {
  const row = parts.findIndex(isNumber);
  return parts
    .map((part, i) => (i === row ? `row ${Number(part) + 1}` : isNumber(part) ? `x[${part}]` : part))
    .join(", ");
}

/** A place in a net's document as its forms show it. */
export function placeInNet(pointer) {
  const [first, ...rest] = steps(pointer);
  if (first === undefined) return "";
  if (first === "inputs") return "Shape of one row";
  if (first === "params") return rest.join(", ");
  if (first === "root" && rest[0] === "layers" && rest.length > 1)
    return [`Layer ${Number(rest[1]) + 1}`, inWords(rest.slice(2))].filter(Boolean).join(", ");
  return first === "root" && !rest.length ? "" : inWords([first, ...rest]);
}

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
