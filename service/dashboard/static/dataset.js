// Datasets of the server: those that are here, to choose one; and one as it was read, with its columns, warnings and
// first rows, and how it may be read otherwise.

import { get } from "./api.js";
import { likeThis } from "./csv.js";
import { button, field, h, replace, table } from "./dom.js";
import { ago, at, bytes, count, number, placeOf, shape } from "./format.js";
import { attempt, emptyState, entries, facts, histogram, unfolding } from "./parts.js";

const SOURCES = { csv: "CSV", jsonl: "JSON lines", parquet: "Parquet", npz: "NPZ", images: "images" };
const SHOWN = 30; // datasets of a list, until more are asked for
const FEW = 8; // which nobody needs to filter
const PAGE = 200; // datasets of a request

/** The newest datasets: `{data, next}`. */
export const newestDatasets = () => get(`/v1/datasets?limit=${PAGE}`);

/** Those that can be read and have a name: jobs make their own without one. */
export const named = (datasets) => datasets.filter(({ name, state }) => state === "ready" && name);

/** Datasets to choose one of, newest first; a filter finds those that have all its words, wherever they stand. */
export function datasetList({ data, next }, use) {
  const place = h("div", {});
  const here = [...data];
  let words = [];
  let most = SHOWN;
  let turn = 0;
  let coming = null;
  const matching = () => named(here).filter((dataset) => words.every((word) => wordsOf(dataset).includes(word)));
  const grow = () => {
    coming ??= get(`/v1/datasets?limit=${PAGE}&after=${encodeURIComponent(next)}`)
      .then((page) => {
        here.push(...page.data);
        next = page.next;
      })
      .finally(() => {
        coming = null;
      });
    return coming;
  };
  const draw = async () => {
    turn += 1;
    const mine = turn;
    while (next && matching().length <= most) await grow();
    if (mine !== turn) return; // another letter was typed meanwhile
    const found = matching();
    replace(
      place,
      table(
        "Datasets",
        ["Name", "Made", { label: "Rows", numeric: true }, "Source", "Columns", { label: "Use", hidden: true }],
        found.slice(0, most).map((dataset) => [
          dataset.name,
          h("span", { class: "nowrap", title: at(dataset.created_at) }, ago(dataset.created_at)),
          count(dataset.rows),
          sourceOf(dataset),
          h("span", { class: "clip" }, `${usedColumns(dataset).length}: ${usedColumns(dataset).join(", ")}`),
          button("Use", () => attempt(() => use(dataset)), { class: "small", "aria-label": `Use ${dataset.name}` }),
        ]),
        { empty: "No dataset is like that.", stacked: true },
      ),
      found.length > most
        ? button("More", () =>
            attempt(async () => {
              most += SHOWN;
              await draw();
              place.querySelectorAll("tbody button")[most - SHOWN]?.focus(); // the first that is new
            }),
          )
        : null,
    );
  };
  if (!named(here).length && !next) return emptyState("No dataset yet: upload a file, or begin with an example.");
  void attempt(draw);
  const filter = h("input", {
    type: "search",
    autocomplete: "off",
    oninput: () => {
      words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      most = SHOWN;
      void attempt(draw);
    },
  });
  return h(
    "div",
    { class: "stack" },
    next || named(here).length > FEW ? field("Find by name, source or column", filter) : null,
    place,
  );
}

const sourceOf = ({ source }) => SOURCES[source.type] ?? source.type.replaceAll("_", " ");
const wordsOf = (dataset) =>
  [dataset.name, dataset.id, sourceOf(dataset), ...dataset.columns.map(({ name }) => name)].join(" ").toLowerCase();

/** Whether a dataset can be made once more of the same file with other columns. */
const canChoose = ({ source }) =>
  ["csv", "jsonl", "parquet"].includes(source.type) &&
  !source.shape &&
  (source.inputs === "*" || Array.isArray(source.inputs));
const OF_A_COLUMN = ["many-missing", "constant-column", "too-many-categories"]; // which may be left out for it
const MOST_WARNED = 3; // columns whose warnings nobody has to unfold
const MOST_NAMED = 8; // of others, beside the number of them
const usedColumns = ({ columns }) => columns.filter((column) => column.role !== "ignored").map((column) => column.name);
const typeOf = (column) =>
  column.role === "ignored" ? "–" : column.shape?.length ? `${column.dtype} ${shape(column.shape)}` : column.dtype;
const ROLES = { ignored: "left out", kept: "for splits" };

export function datasetView(dataset, preview, profile, draft, { remake, keep, weigh }) {
  const byName = new Map(profile.columns.map((column) => [column.name, column]));
  const text = (value) =>
    typeof value === "number"
      ? number(value, 7)
      : Array.isArray(value)
        ? value.length <= 6 && !Array.isArray(value[0])
          ? value.map(text).join(", ")
          : shape(sizes(value))
        : value === null
          ? "missing"
          : String(value);
  // Numbers are standardized by what is filled in below.
  const choosable = canChoose(dataset);
  const before = dataset.columns.filter((column) => column.role === "input").map((column) => column.name);
  const taken = new Set(before);
  const inputs = () => dataset.columns.map((column) => column.name).filter((name) => taken.has(name));
  const only = (names) => {
    const free = dataset.source.free_text?.filter((column) => names.includes(column));
    return { inputs: names, ...(free ? { free_text: free } : {}) };
  };
  const anew = h(
    "div",
    { class: "actions", hidden: true },
    button("Use these columns", () => remake(dataset, only(inputs())), { class: "primary" }),
    h("p", { class: "hint" }, "The file is read once more."),
  );
  const use = ({ name, role }) =>
    ["input", "ignored"].includes(role)
      ? h("input", {
          type: "checkbox",
          "aria-label": `Learn from ${name}`,
          checked: taken.has(name),
          onchange: (event) => {
            if (event.target.checked) taken.add(name);
            else taken.delete(name);
            anew.hidden = inputs().join() === before.join();
            anew.querySelector("button").disabled = !taken.size;
          },
        })
      : null;
  const leave = (name) =>
    choosable && taken.has(name) && before.length > 1
      ? {
          words: `Leave ${name} out`,
          act: () => remake(dataset, only(before.filter((other) => other !== name))),
        }
      : null;
  const columnOf = (pointer) => /^\/columns\/\d+/.test(pointer) && profile.columns[pointer.split("/")[2]]?.name;
  const withoutIt = (entry) => leave(OF_A_COLUMN.includes(entry.code) && columnOf(entry.pointer));
  const odd = { remake: (changes) => remake(dataset, changes), leave, keep };
  const warnings = [...dataset.warnings, ...profile.warnings]
    .filter((one) => one.code !== "unscaled-inputs" || !one.hint?.includes('"standardize"'))
    .map((one) => ({ severity: "warning", ...one, ...readings(one, dataset, odd), ...unequal(one, weigh) }))
    .filter(({ column }) => !draft.kept.has(column));
  draft.undecided = warnings.flatMap(({ column }) => column ?? []);
  draft.told = new Set([...dataset.warnings, ...profile.warnings].map(({ detail }) => detail));
  const told = warnings.filter(({ code }) => !draft.undecided.length || code !== "too-many-categories"); // it may be none
  const listed = (list) =>
    entries(list, {
      mend: (entry) => entry.cures ?? withoutIt(entry),
      where: (pointer) => columnOf(pointer) || placeOf(pointer),
    });
  const ofColumns = told.filter(({ code, pointer }) => OF_A_COLUMN.includes(code) && columnOf(pointer));
  const many = ofColumns.length > MOST_WARNED ? ofColumns : [];
  return h(
    "div",
    { class: "dataset" },
    facts([
      ["Dataset", dataset.name ?? dataset.id],
      ["Rows", count(dataset.rows)],
      ["Size", bytes(dataset.size_bytes)],
    ]),
    listed(told.filter((entry) => !many.includes(entry))),
    many.length
      ? unfolding(
          `Warnings of ${many.length} columns`,
          listed(many),
          false,
          many.slice(0, MOST_NAMED).map(({ pointer }) => columnOf(pointer)).join(", ") +
            (many.length > MOST_NAMED ? ` and ${many.length - MOST_NAMED} more` : ""),
        )
      : null,
    h("h3", {}, `Profile of ${dataset.columns.length === 1 ? "one column" : `${dataset.columns.length} columns`}`),
    table(
      "Columns",
      [
        ...(choosable ? ["Use"] : []),
        "Column",
        "Role",
        "Type",
        "Values",
        { label: "Missing", numeric: true },
        "Distribution",
      ],
      dataset.columns.map((column) => {
        const about = byName.get(column.name) ?? {};
        return [
          ...(choosable ? [use(column)] : []),
          h("span", { class: "name" }, column.name),
          ROLES[column.role] ?? column.role,
          typeOf(column),
          about.min !== undefined && about.min !== null
            ? `${number(about.min)} to ${number(about.max)}`
            : about.distinct
              ? `${count(about.distinct)} different`
              : column.classes
                ? `${count(column.classes.length)} classes`
                : "–",
          column.role === "ignored" ? "–" : count(about.missing ?? 0),
          histogram({ ...about, name: column.name }),
        ];
      }),
    ),
    anew,
    unfolding(
      "First rows",
      table(
        "First rows",
        preview.columns.map((column) => ({
          label: column.name ?? String(column),
          numeric: !column.shape?.length && ["float", "int"].includes(column.dtype),
        })),
        preview.rows.map((row) => row.map(text)),
      ),
      false,
      `${count(preview.rows.length)} of ${count(dataset.rows)}`,
    ),
  );
}

const sizes = (value) => (Array.isArray(value) ? [value.length, ...sizes(value[0])] : []);

/** How a column may be read that a few cells, or the marks in its numbers, make one of texts; null for other warnings.
 * `remake` reads the file otherwise, `leave` without a column, `keep` takes the texts of one as they are. */
function readings(entry, { source, columns }, { remake, leave, keep }) {
  const column = entry.code === "nearly-numbers" && columns.find(({ name }) => isAbout(entry.detail, name));
  if (!column) return null;
  const { name, role } = column;
  const members = entry.expected && JSON.parse(entry.expected);
  const texts = members?.missing_texts?.filter((text) => !source.missing_texts?.includes(text)) ?? [];
  const named = texts.slice(0, 3).map((text) => `“${text}”`);
  const more = texts.length > 3 ? ` and ${texts.length - 3} more` : "";
  const cures = [
    members && {
      words: texts.length
        ? `Read ${named.join(", ")}${more} as missing`
        : `Read as numbers like ${likeThis({ ...source, ...members })}`,
      act: () => remake(members),
    },
    role === "input" && leave(name),
    { words: role === "input" ? "Keep its texts" : "Its texts are classes", act: () => keep(name) },
  ];
  return {
    column: name,
    cures: cures.filter(Boolean),
    title: "To decide",
    hint: "As texts, each that differs would be a category of its own.",
    pointer: "",
  };
}

/** What to do about a class that has many times the rows of another; null for other warnings. */
const unequal = ({ code }, weigh) =>
  code === "class-imbalance"
    ? {
        hint: "The rare class may hardly be learnt unless each weighs the same. Judge by more than accuracy.",
        cures: [{ words: "Weigh classes equally", act: weigh }],
      }
    : null;

/** Whether a warning's sentence begins with this column, as the server quotes it. */
const isAbout = (detail, name) =>
  [`'${name}'`, `"${name}"`].some((quoted) => detail.startsWith(`Column ${quoted} is taken as texts`));
