// What the first rows of a file tell of its columns: which are no help, and which texts among numbers mean nothing.
// Knows rows of texts, and neither the page nor the server.

import { MISSING, level, numberIn } from "./csv.js";

/** Texts that stand here and there in columns of numbers, such as "n/a": they seem to mean a missing value. */
export function oddTexts(names, rows, marks) {
  const found = new Set();
  const isOdd = (cell) => !MISSING.has(cell.toLowerCase()) && numberIn(cell, marks) === null;
  const first = rows[0]?.filter(isOdd).length > names.length / 2 ? 1 : 0; // it may be the names, below a title
  names.forEach((_, i) => {
    const cells = rows.slice(first).map((row) => row[i] ?? "").filter((cell) => !MISSING.has(cell.toLowerCase()));
    const odd = new Set(cells.filter((cell) => numberIn(cell, marks) === null));
    const count = cells.filter((cell) => odd.has(cell)).length;
    if (odd.size && odd.size <= 3 && count <= cells.length / 5) for (const text of odd) found.add(text);
  });
  return [...found].filter((text) => !text.includes(";")).slice(0, 8);
}

const DATE = /^(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([T ,].*)?$/;
const NUMBERING = /(?:^|[_ .-])(?:id|index|row|no|nr)\.?$|nummer$/i;
const CATEGORIES = 50; // a text with more values is none; as `modelyard train` has it

/** Columns of which a net learns nothing, each with the reason. */
export function unfit(names, rows) {
  const found = new Map();
  names.forEach((name, i) => {
    const cells = rows.map((row) => row[i] ?? "").filter(Boolean);
    const texts = new Set(cells.filter((cell) => !/^[+-]?[\d.,' ]*\d(e[+-]?\d+)?$/i.test(level(cell))));
    if (cells.length && NUMBERING.test(name) && cells.every((cell) => /^[+-]?\d+$/.test(cell)))
      found.set(name, "Seems to number the rows.");
    else if (cells.length && cells.every((cell) => DATE.test(cell))) found.set(name, "Dates are no categories.");
    else if (texts.size > CATEGORIES || (cells.length >= 10 && texts.size === cells.length))
      found.set(
        name,
        withUnit(cells) ??
          (texts.size > CATEGORIES
            ? "Too many different texts to be a category."
            : "Another text in each row is no category."),
      );
  });
  return found;
}

const UNIT = /^(\p{Sc}?) ?[+-]?[\d.,' ]*\d ?([\p{L}\p{S}%][^\d\s]{0,6})?$/u;

/** What to do about cells that are mostly numbers with the same unit; null for others. */
function withUnit(cells) {
  const units = cells.map((cell) => UNIT.exec(level(cell))?.slice(1).join("")).filter(Boolean);
  const unit = units.sort()[units.length >> 1];
  return units.filter((one) => one === unit).length > cells.length / 2
    ? `These look like numbers with a unit (${unit}): take the unit out of the file.`
    : null;
}

// -- JSON lines ---------------------------------------------------------------------------------------------------------

export function jsonKeys(text) {
  try {
    return Object.keys(JSON.parse(text.split("\n")[0]));
  } catch {
    return null;
  }
}

export function jsonRows(text, names) {
  const rows = [];
  for (const line of text.split("\n").slice(0, -1)) {
    try {
      const row = JSON.parse(line);
      rows.push(names.map((name) => String(row[name] ?? "")));
    } catch {
      break;
    }
  }
  return rows;
}
