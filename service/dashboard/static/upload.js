// The form for a file: what is read of it in the browser, what is asked, and the source that is made of it.

import { upload } from "./api.js";
import { jsonKeys, jsonRows, oddTexts, unfit } from "./columns.js";
import { header, likeThis, marksOf, records, textOf } from "./csv.js";
import { button, check, dropZone, field, h, replace, select } from "./dom.js";
import { plainName } from "./format.js";
import { attempt } from "./parts.js";

const SPREADSHEET = /\.(xlsx?|ods|numbers)$/i;
const FORMATS = {
  csv: "csv",
  tsv: "csv",
  parquet: "parquet",
  jsonl: "jsonl",
  ndjson: "jsonl",
  npz: "npz",
  zip: "images",
};
const START = 65_536;

// The decimal marks and those between thousands that a source may say.
const MARKS = [".", ",", ",.", ".,", ".'", ",'", ", ", ". "];

const FOUND = "Found in the file; change it if it means something.";
const ANYWAY = "Empty cells, n/a and the like are missing anyway.";

export function uploadForm(make) {
  const form = h("div", { class: "stack" });
  const zone = dropZone(
    "Choose a file",
    "or drop it here: CSV, Parquet, JSON lines, NPZ, or a zip of images",
    (file) => attempt(() => take(file)),
    { accept: Object.keys(FORMATS).map((end) => `.${end}`) },
  );
  async function take(file) {
    const type = FORMATS[file.name.split(".").pop().toLowerCase()];
    if (!type) {
      replace(
        form,
        h(
          "p",
          { class: "error-text", role: "alert" },
          SPREADSHEET.test(file.name)
            ? 'This is a spreadsheet. Save it from there as CSV; in Excel, as "CSV UTF-8".'
            : `What ${file.name} is cannot be told from its name. It ends as its format does, such as .csv.`,
        ),
      );
      return;
    }
    const { text: start, was } = ["csv", "jsonl"].includes(type)
      ? await textOf(file.slice(0, START))
      : { text: "", was: null };
    const cut = file.size > START;
    if (was) file = new File([(await textOf(file)).text], file.name); // the server takes UTF-8
    const { names, delimiter } = type === "csv" ? header(start) : { names: type === "jsonl" ? jsonKeys(start) : null };
    const columns = names?.slice(0, names.findLastIndex(Boolean) + 1); // spreadsheets leave empty ones at the end
    const rows = !columns?.length
      ? []
      : type === "csv"
        ? records(start, delimiter)
            .slice(1, cut ? -1 : undefined)
            .map(({ cells }) => cells)
        : jsonRows(start, columns);
    let marks = type === "csv" ? marksOf(rows.flat(), delimiter) : {};
    const target = type === "parquet" ? h("input") : { value: columns?.findLast(Boolean) ?? "" };
    const odd = unfit(columns ?? [], rows);
    const left = new Set(columns?.every((column) => column === target.value || odd.has(column)) ? [] : odd.keys());
    const inputs = h("div", { class: "checks" });
    const drawInputs = () =>
      replace(
        inputs,
        columns
          .filter((column) => column !== target.value)
          .map((column) =>
            check(column, !left.has(column), (taken) => (taken ? left.delete(column) : left.add(column)), {
              hint: odd.get(column),
            }),
          ),
      );
    const size = h("input", { type: "number", min: "4", placeholder: "as they are" });
    const texts = type === "csv" ? oddTexts(columns, rows, marks) : [];
    const missing = h("input", { value: texts.join("; "), autocomplete: "off" });
    const name = h("input", { value: plainName(file.name) });
    const parts = [field("Name", name)];
    if (columns?.length)
      parts.push(
        field(
          "What is to be predicted",
          select(columns.filter(Boolean), target.value, (value) => {
            target.value = value;
            drawInputs();
          }),
        ),
      );
    else if (type === "parquet")
      parts.push(field("What is to be predicted", target, { hint: "The name of a column." }));
    else if (type === "images")
      parts.push(
        field("Size in pixels", size, { hint: "One folder for each class. Images of different sizes need it." }),
      );
    const missingTexts = () =>
      missing.value
        .split(";")
        .map((one) => one.trim())
        .filter(Boolean);
    const sourceOf = ({ id }) => {
      if (type === "npz") return { type, upload: id, inputs: "x", target: "y" };
      if (type === "images")
        return { type, upload: id, ...(size.value ? { size: [Number(size.value), Number(size.value)] } : {}) };
      return {
        type,
        upload: id,
        inputs: columns?.some((column) => column !== target.value && left.has(column))
          ? columns.filter((column) => column !== target.value && !left.has(column))
          : "*",
        target: target.value,
        missing: "keep",
        ...(missingTexts().length ? { missing_texts: missingTexts() } : {}),
        ...(delimiter && delimiter !== "," ? { delimiter } : {}),
        ...(marks.decimal === "," ? { decimal: "," } : {}),
        ...(marks.thousands ? { thousands: marks.thousands } : {}),
      };
    };
    const go = button(
      "Use this data",
      () =>
        attempt(async () => {
          if (!target.value && !["npz", "images"].includes(type)) throw new Error("Say what is to be predicted.");
          go.disabled = true;
          go.textContent = "Uploading…";
          try {
            await make(name.value.trim() || file.name, upload(file).then(sourceOf), odd);
          } finally {
            go.disabled = false;
            go.textContent = "Use this data";
          }
        }),
      { class: "primary" },
    );
    const chosen = columns?.length
      ? h("fieldset", { class: "inputs" }, h("legend", {}, "What it is predicted from"), inputs)
      : null;
    if (chosen) drawInputs();
    if (type === "csv")
      parts.push(
        field(
          "Numbers are written as",
          select(
            MARKS.filter((ways) => !ways.includes(delimiter)).map(([decimal, thousands]) =>
              likeThis({ decimal, thousands }),
            ),
            likeThis(marks),
            (value) => {
              marks = { decimal: value.at(-3), thousands: value.length > 7 ? value[1] : null };
            },
          ),
        ),
        field("Texts that mean a missing value", missing, {
          hint: `${texts.length ? FOUND : "Such as k.A.; unknown."} ${ANYWAY}`,
        }),
      );
    const read = was
      ? h("p", { class: "hint" }, `The file is not in UTF-8; it is read as ${was}. Look at its names and texts.`)
      : null;
    replace(form, read, h("div", { class: "row top" }, parts), chosen, h("div", { class: "actions" }, go));
    go.focus();
  }
  return h("div", { class: "stack" }, zone, form);
}
