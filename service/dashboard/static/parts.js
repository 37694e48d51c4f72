// What several pages show: states, problems, lists of mistakes, layers, predictions' bars.

import { changeKey, refused } from "./api.js";
import { drawing } from "./graph.js";
import { button, h, newId, replace, table } from "./dom.js";
import { count, digest, locate, percent, placeOf, remedy, shape } from "./format.js";

const ACTIVE = new Set(["starting", "running", "pausing", "cancelling"]);
export const isActive = (state) => ACTIVE.has(state);
export const isOver = (state) => ["succeeded", "failed", "cancelled"].includes(state);

export const KINDS = { train: "Training", import: "Import", evaluate: "Evaluation", export: "Export" };

export const nameOf = ({ kind, output }) => `${KINDS[kind]}${output?.model ? ` of ${output.model}` : ""}`;

/** A job's state as a word with a mark; colour is never all that tells. */
export const badge = (state) =>
  h("span", { class: `badge ${state}` }, h("span", { class: "dot", "aria-hidden": "true" }), state);

export function announce(text) {
  const place = document.getElementById("announce");
  place.textContent = "";
  setTimeout(() => {
    place.textContent = text;
  }, 50);
}

/** A notice in the corner, which goes by itself unless it is an error. */
export function notify(text, { error = false } = {}) {
  const note = h(
    "div",
    { class: `note${error ? " bad" : ""}`, role: error ? "alert" : null },
    h("span", {}, text),
    button("×", () => note.remove(), { class: "quiet small", "aria-label": "Dismiss" }),
  );
  document.getElementById("notes").append(note);
  if (!error) {
    announce(text);
    setTimeout(() => note.remove(), 6000);
  }
}

export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name !== "AbortError") notify(problemText(error), { error: true });
    return undefined;
  }
}

export const problemText = (error) =>
  [error.message, ...(error.entries ?? []).slice(0, 3).flatMap((entry) => [entry.detail, entry.hint])]
    .filter((text, i, list) => text && list.indexOf(text) === i)
    .join(" ");

/** What an entry tells of what was expected and what came, where its sentences do not. */
const beyond = ({ detail, hint, expected, got, patch }) =>
  [
    ["Expected", !patch && !/^{/.test(expected) && expected],
    ["Here", got],
  ]
    .filter(([, value]) => value && !`${detail} ${hint}`.includes(value))
    .map(([word, value]) => `${word}: ${value}.`);

/** A sentence whose `quoted` words are code. */
export const prose = (text) =>
  String(text)
    .split("`")
    .map((part, i) => (i % 2 ? h("code", {}, part) : part));

/** Select what a pointer names in the JSON of a text area. */
export function pointAt(area, pointer) {
  const [start, end] = locate(area.value, pointer);
  area.focus();
  area.setSelectionRange(start, end);
  area.scrollTop = (area.value.slice(0, start).split("\n").length - 4) * 20;
}

const pointerTo = (entry, go) => button(entry.pointer, () => go(entry), { class: "quiet small mono" });

/** A whole page's or section's failure; mistakes in what was sent stand each with its place, to which `go(entry)` leads
 * where it is one in JSON. */
export function failure(error, { go } = {}) {
  const whole = error.status === 404 || refused(error); // says of no member what is wrong with it
  const placed = whole ? [] : (error.entries ?? []).filter((entry) => entry.pointer);
  const [headline, repeated] = placed.length ? error.message.split(`: ${placed[0].detail}`) : [problemText(error)];
  return h(
    "div",
    { class: "callout bad", role: "alert" },
    h("strong", {}, TITLES[error.status] ?? "That did not work"),
    h("p", {}, prose(repeated === undefined ? headline : `${headline}.`)),
    error.sentences?.slice(0, CAUSES).map((sentence) => h("p", {}, sentence)),
    placed.length
      ? h(
          "ul",
          { class: "causes" },
          placed
            .slice(0, CAUSES)
            .map((entry) =>
              h(
                "li",
                {},
                go ? pointerTo(entry, go) : placeOf(entry.pointer) && `${placeOf(entry.pointer)}:`,
                " ",
                prose([entry.detail, ...beyond(entry), entry.hint ?? ""].join(" ")),
              ),
            ),
        )
      : null,
    unlisted((error.sentences ?? placed).length - CAUSES + (error.body?.more ?? 0)),
    refused(error)
      ? h(
          "div",
          { class: "actions" },
          button("Use another key", () => attempt(changeKey)),
        )
      : null,
  );
}

export const unlisted = (many) =>
  many > 0 ? h("p", { class: "error-text more" }, `And ${count(many)} more, not shown here.`) : null;

const CAUSES = 5;
const TITLES = { 401: "An API key is needed", 403: "This key may not do that", 404: "Not found" };

/** Mistakes or warnings as a list. `where(pointer)` tells the place in words; `go(entry)` leads there, and where it is
 * `json` that stands beside, by its pointer. `mend(entry)` gives `{words, act}`, or several. */
export function entries(list, { go, json = false, mend, where = placeOf } = {}) {
  return h(
    "ul",
    { class: "entries" },
    list.map((entry) => {
      const cures = [mend?.(entry) ?? []].flat();
      const bad = entry.severity !== "warning";
      const more = [...beyond(entry), entry.hint].filter(Boolean).join(" ");
      const place = where(entry.pointer);
      const leads = go && entry.pointer;
      return h(
        "li",
        { class: bad ? "bad" : "warn" },
        h("p", {}, h("strong", {}, entry.title ?? (bad ? "Mistake" : "Warning")), " ", prose(entry.detail)),
        more && h("p", { class: "hint" }, prose(more)),
        h(
          "div",
          { class: "entry-foot" },
          leads && json ? pointerTo(entry, go) : place && h("span", { class: "where" }, place),
          leads && !json ? button("Show me", () => go(entry), { class: "quiet small" }) : null,
          cures.map(({ words, act }) => button(words, act, { class: "small" })),
        ),
      );
    }),
  );
}

/** The remedy that an entry's hint names, for what `root()` gives and `apply(patch)` changes. */
export const byHint = (root, apply) => (entry) => {
  const found = remedy(entry, root());
  return found && { words: found.words, act: () => apply(found.patch) };
};

export function net(summary, mermaid) {
  return h(
    "div",
    { class: "net" },
    facts([
      ["Parameters", count(summary.parameters)],
      ["Takes", summary.inputs.map((input) => shape(input.shape)).join(", ")],
      ["Answers", summary.outputs.map((output) => shape(output.shape)).join(", ")],
      ["FLOPs a row", count(summary.flops)],
    ]),
    h(
      "div",
      { class: "split-net" },
      table(
        "Layers",
        ["Layer", "Type", "Output", { label: "Parameters", numeric: true }],
        summary.layers.map((layer) => [
          h("code", {}, layer.path || "(net)"),
          layer.type,
          shape(layer.output_shape),
          count(layer.parameters),
        ]),
      ),
      mermaid ? drawing(mermaid, "Drawing of the net") : null,
    ),
  );
}

/** A dataset's name or id, which leads to its columns and to another training with it. */
export const datasetLink = (id, name = h("code", {}, id)) => h("a", { href: `#/datasets/${id}` }, name);

/** How a digest begins; the whole of it is its title. */
export const digestOf = (text, most) => h("code", { title: text }, digest(text, most));

export const facts = (pairs) =>
  h(
    "dl",
    { class: "facts" },
    pairs
      .filter((pair) => pair && pair[1] !== null && pair[1] !== undefined)
      .map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))),
  );

export const heading = (title, lead, beside) =>
  h("header", { class: "head" }, h("div", {}, h("h1", {}, title), h("p", { class: "lead" }, lead)), beside);

export const emptyState = (words, more) => h("div", { class: "empty-state" }, h("p", {}, words), more);

export const noModel = (words) =>
  emptyState(
    words,
    h("p", {}, h("a", { href: "#/train" }, "Train one"), " or ", h("a", { href: "#/import" }, "import one"), "."),
  );

export function card(title, ...children) {
  const id = newId("card");
  return h("section", { class: "card", "aria-labelledby": id }, h("h2", { id }, title), children);
}

const isWide = () => window.matchMedia("(min-width: 861px)").matches;

/** A card that can be folded up, and begins so where the page is narrow. */
export const folded = (title, ...children) =>
  h("details", { class: "card", open: isWide() }, h("summary", {}, h("h2", {}, title)), children);

/** A part that opens; `told` beside its title says what is in it while it is shut. */
export const unfolding = (title, content, open = isWide(), told = null) =>
  h("details", { class: "part", open }, h("summary", {}, h("h3", {}, title), told && [" ", told]), content);

export const metricName = (name) =>
  name
    .replace(/^val_/, "validation ")
    .replace(/^test_/, "test ")
    .replaceAll("_", " ")
    .replace("r2", "R²");

/** Metrics by their names, those of held-out rows first. */
export const metricsOf = (metrics) => Object.entries(metrics).sort(([a], [b]) => heldOut(b) - heldOut(a));
const heldOut = (name) => Number(name.startsWith("val_"));

export function bars(classes, values, source = {}, most = 10) {
  const sorted = classes
    .map((name, i) => [name, values[i]])
    .sort((a, b) => b[1] - a[1])
    .slice(0, most);
  return h(
    "ul",
    { class: "bars" },
    sorted.map(([name, value], i) => {
      const fill = h("span", { class: `fill${i ? "" : " first"}`, "aria-hidden": "true" });
      fill.style.width = `${Math.max(1, 100 * (value ?? 0))}%`;
      return h(
        "li",
        {},
        h("span", { class: "bar-name" }, name),
        h("span", { class: "track" }, fill),
        h("span", { class: "bar-value" }, percent(value, source)),
      );
    }),
  );
}

export function histogram(column) {
  const counts = column.histogram?.counts ?? column.top?.map((item) => item.count) ?? [];
  if (!counts.length) return null;
  const most = Math.max(...counts, 1);
  const bar = h("span", {
    class: "histogram",
    role: "img",
    "aria-label": column.histogram
      ? `Histogram of ${column.name} over ${counts.length} ranges`
      : `Counts of ${counts.length} values of ${column.name}`,
  });
  for (const count of counts) {
    const one = h("span", {});
    one.style.height = `${Math.max(4, (100 * count) / most)}%`;
    bar.append(one);
  }
  return bar;
}

/** A place that shows that something is on its way, then what `work` gives, or its failure. */
export function later(work, waiting = "Loading…") {
  const place = h("div", { "aria-busy": "true" }, h("p", { class: "empty" }, waiting));
  Promise.resolve()
    .then(work)
    .then(
      (made) => replace(place, made),
      (error) => replace(place, failure(error)),
    )
    .finally(() => place.removeAttribute("aria-busy"));
  return place;
}
