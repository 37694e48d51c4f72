// The rows of a CSV file, asked in one request: read as a version takes them, and saved with the answers beside them.

import { save } from "./api.js";
import { MISSING, header, marksOf, numberIn, records, textOf, written } from "./csv.js";
import { button, h, table } from "./dom.js";
import { answeredColumn, count, percent } from "./format.js";
import { attempt } from "./parts.js";

const MOST = 1000; // rows of a request
const LARGEST = 16_000_000; // bytes that are read for them
const SHOWN = 50; // rows on the page, beside each so many columns of the file
const COLUMNS = 6;

export const isTable = (row) => row.kind === "table" || (row.kind === "array" && row.shape.length === 1);

/** A file's rows: `inputs` as they are sent, `lines` as they stand there, and whether there are `more` of them.
 * `row` is what one of them looks like, `source` how the training's file was read, where that is known. */
export async function readSheet(file, row, source = {}) {
  const { text, bom } = await textOf(file.slice(0, LARGEST));
  const { delimiter } = header(text);
  const [first, ...others] = records(text, delimiter, MOST + 2);
  if (!first) throw new Error("The file is empty.");
  const headless =
    row.kind === "array" &&
    first.cells.every((cell) => numberIn(cell, { decimal: "," }) !== null || numberIn(cell) !== null);
  const head = headless ? first.cells.map((_, i) => `x[${i}]`) : first.cells;
  const all = headless ? [first, ...others] : others;
  const cut = file.size > LARGEST && all.length <= MOST;
  const lines = all.slice(0, cut ? -1 : MOST);
  if (!lines.length) throw new Error("The file has a line of names, but no rows.");
  const uneven = lines.find(({ cells }) => cells.length !== head.length);
  if (uneven)
    throw new Error(`Line ${uneven.line} has ${uneven.cells.length} values, the first line has ${head.length}.`);
  const columns =
    row.kind === "table"
      ? row.columns
      : Array.from({ length: row.shape[0] }, () => ({ kind: "number", optional: true }));
  const named = row.kind === "table";
  const absent = named ? columns.map(({ name }) => name).filter((name) => !head.includes(name)) : [];
  if (absent.length)
    throw new Error(`The file has no column ${absent.join(", ")}. It has: ${head.slice(0, 20).join(", ")}.`);
  if (!named && head.length !== columns.length)
    throw new Error(`The model takes ${columns.length} numbers a row, the file has ${head.length} columns.`);
  const places = columns.map(({ name }, i) => (named ? head.indexOf(name) : i));
  const numeric = places.filter((_, i) => columns[i].kind === "number");
  const marks = marksOf(
    lines.flatMap(({ cells }) => numeric.map((at) => cells[at])),
    delimiter,
    source,
  );
  const gone = new Set(source.missing_texts?.map((text) => text.toLowerCase()));
  const value = ({ kind, optional }, cell) => {
    const missing = gone.has(cell.toLowerCase());
    if (kind !== "number") return optional && (missing || !cell) ? null : cell;
    return missing || MISSING.has(cell.toLowerCase()) ? null : (numberIn(cell, marks) ?? cell); // refused by the server
  };
  const inputs = lines.map(({ cells }) => {
    const values = columns.map((column, i) => value(column, cells[places[i]]));
    return named ? Object.fromEntries(columns.map(({ name }, i) => [name, values[i]])) : values;
  });
  return {
    name: file.name,
    head,
    lines,
    inputs,
    named,
    delimiter,
    marks,
    bom,
    more: cut || all.length > MOST,
  };
}

/** Mistakes or warnings with their lines in the file, in the order of these; what is of no row comes last. */
export const placed = (entries, { head, lines, named }) =>
  entries.toSorted((a, b) => rowOf(a) - rowOf(b)).map((entry) => {
    const [, at, column] = /^\/inputs\/(\d+)(?:\/([^/]+))?$/.exec(entry.pointer ?? "") ?? [];
    if (!lines[at]) return entry.pointer === "/inputs" ? { ...entry, pointer: "" } : entry;
    const name = column && (named ? column.replaceAll("~1", "/").replaceAll("~0", "~") : (head[column] ?? column));
    return { ...entry, pointer: `line ${lines[at].line}${name ? `, ${name}` : ""}` };
  });

const rowOf = ({ pointer }) => Number(/^\/inputs\/(\d+)/.exec(pointer)?.[1] ?? MOST);

/** Names of what is answered, and that of each row; as `modelyard predict -o csv` has them. */
function answersOf({ labels, probabilities, classes, outputs }) {
  if (labels) {
    const odds = probabilities && classes ? classes.map((name) => `p(${name})`) : [];
    return {
      names: ["prediction", ...odds],
      rows: labels.map((label, i) => [label, ...(odds.length ? probabilities[i] : [])]),
    };
  }
  if (!Array.isArray(outputs)) {
    const names = Object.keys(outputs);
    return { names, rows: outputs[names[0]].map((_, i) => names.map((name) => plain(outputs[name][i]))) };
  }
  const flat = Array.isArray(outputs[0]) && !outputs[0].some(Array.isArray);
  if (!flat || outputs[0].length === 1) return { names: ["prediction"], rows: outputs.map((one) => [plain(one)]) };
  return { names: outputs[0].map((_, i) => `output_${i}`), rows: outputs };
}

const plain = (value) =>
  Array.isArray(value) ? (value.length === 1 ? plain(value[0]) : JSON.stringify(value)) : value;

/** The answers of a file: what was answered and saved, and a table. `whole`: the answers are whole numbers. */
export function answeredSheet(sheet, found, { whole } = {}) {
  const { names, rows } = answersOf(found);
  const { head, lines, delimiter, marks } = sheet;
  const many = `${count(lines.length)} ${lines.length === 1 ? "row is" : "rows are"} answered`;
  const saveAll = () => {
    const text = written(
      [[...head, ...names], ...lines.map(({ cells }, i) => [...cells, ...rows[i]])],
      delimiter,
      marks.decimal,
      { whole },
    );
    const mark = sheet.bom ? "\ufeff" : "";
    save(new Blob([mark, text], { type: "text/csv" }), `${sheet.name.replace(/\.\w+$/, "")}-answers.csv`);
  };
  const told = names.slice(0, found.labels ? 1 : COLUMNS);
  const likely = found.labels && names.length > 1;
  const seen = lines.slice(0, SHOWN);
  const cells = told.map((_, k) => answeredColumn(rows.slice(0, SHOWN).map((row) => row[k]), marks));
  const columns = head.length > COLUMNS || (!found.labels && names.length > COLUMNS);
  const only = [seen.length < lines.length && "rows", columns && "columns"].filter(Boolean).join(" and ");
  return [
    h(
      "div",
      { class: "stack" },
      h("p", {}, sheet.more ? `The first ${many}; the file has more.` : `${many}.`),
      h(
        "div",
        {},
        button("Save the answers as CSV", () => attempt(saveAll)),
      ),
    ),
    table(
      "Answers to the rows of the file",
      [
        { label: "Line", numeric: true },
        ...told.map((name) => ({ label: name, numeric: !found.labels })),
        ...(likely ? [{ label: "probability", numeric: true }] : []),
        ...head.slice(0, COLUMNS),
      ],
      seen.map(({ line, cells: given }, i) => [
        line,
        ...cells.map((column) => h("strong", {}, column[i])),
        ...(likely ? [percent(Math.max(...rows[i].slice(1)), marks)] : []),
        ...given.slice(0, COLUMNS),
      ]),
    ),
    only && h("p", { class: "hint more" }, `Here are the first ${only} only; the saved file has all that were asked.`),
  ];
}
