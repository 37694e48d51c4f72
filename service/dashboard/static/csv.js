// CSV texts, read as the server reads them, and written.

/** What is missing among numbers anyway, as the server has it. */
export const MISSING = new Set(["", "na", "n/a", "#n/a", "null", "none", "nan", "+nan", "-nan", "-", "?", "."]);

/** A text file's content; what it `was` in where that is not UTF-8, as Excel's plain CSV in Windows-1252; and whether
 * what goes back to its spreadsheet needs the mark by which these know UTF-8 (`bom`). */
export async function textOf(file) {
  const content = await file.arrayBuffer();
  const [first, second, third] = new Uint8Array(content, 0, Math.min(3, content.byteLength));
  const wide = first === 0xff && second === 0xfe ? "utf-16le" : first === 0xfe && second === 0xff ? "utf-16be" : null;
  const text = new TextDecoder(wide ?? "utf-8").decode(content);
  if (wide) return { text, was: wide, bom: true };
  if (!text.slice(0, -4).includes("\ufffd")) // its end may be half a letter
    return { text, was: null, bom: first === 0xef && second === 0xbb && third === 0xbf };
  return { text: new TextDecoder("windows-1252").decode(content), was: "windows-1252", bom: true };
}

// What Excel writes above the names to say what parts the values; the server skips the same lines.
const TOLD = /^\ufeff?"?sep=([,;\t|])"?(?:\r?\n|$)/i;

/** The names in the first line of a CSV text, and what parts them, which a line above them may say. */
export function header(text) {
  const told = TOLD.exec(text)?.[1];
  if (told) return { names: records(text, told, 1)[0]?.cells ?? [], delimiter: told };
  const bare = text.split(/\r?\n/, 1)[0].replace(/"[^"]*"/g, "");
  const delimiter = [",", ";", "\t", "|"].sort((a, b) => bare.split(b).length - bare.split(a).length)[0];
  return { names: records(text, delimiter, 1)[0]?.cells ?? [], delimiter };
}

/** The first records of a CSV text as `{line, cells}`, with the line that each begins on; empty lines are none,
 * nor is one that says this delimiter. A cell in quotes may have delimiters, line ends and doubled quotes in it. */
export function records(text, delimiter, most = Infinity) {
  const found = [];
  let cells = [""];
  let quoted = false;
  const above = TOLD.exec(text);
  const told = above?.[1] === delimiter;
  let line = told ? 2 : 1;
  let begins = line;
  const write = (sign) => {
    cells[cells.length - 1] += sign;
  };
  const end = () => {
    if (cells.length > 1 || cells[0].trim()) found.push({ line: begins, cells: cells.map((cell) => cell.trim()) });
    cells = [""];
    begins = line;
  };
  for (let i = told ? above[0].length : Number(text.startsWith("\ufeff")); i < text.length && found.length < most; i += 1) {
    const sign = text[i];
    if (sign === "\n") line += 1;
    if (quoted && sign === '"' && text[i + 1] === '"') {
      write(sign);
      i += 1;
    } else if (sign === '"' && (quoted || cells.at(-1) === "")) quoted = !quoted;
    else if (quoted) write(sign);
    else if (sign === delimiter) cells.push("");
    else if (sign === "\n") end();
    else write(sign);
  }
  if (found.length < most) end();
  return found;
}

/** A cell with usual signs. */
export const level = (cell) => cell.replace(/[\u2019\u00a0\u202f\u2009]/g, (sign) => (sign === "\u2019" ? "'" : " "));

/** How numbers are written in these cells, as a source says it: `{decimal, thousands}`; as in `usual` where nothing
 * shows it plainly: 1,234 may have either. */
export function marksOf(cells, delimiter, usual = {}) {
  const [points, sure, maybe] = [new Set(), new Set(), new Set()];
  for (const cell of cells) {
    const text = level(cell);
    const [, mark, point] = /^[+-]?[1-9]\d{0,2}([.,' ])\d{3}(?:\1\d{3})*(?:([.,])\d+)?$/.exec(text) ?? [];
    const decimal = mark ? point : /^[+-]?\d*([.,])\d+(e[+-]?\d+)?$/i.exec(text)?.[1];
    if ([mark, decimal].includes(delimiter) || (mark && mark === point)) continue;
    if (decimal) points.add(decimal);
    if (mark && !point && /^[^.,]*[.,][^.,]*$/.test(text)) maybe.add(mark);
    else if (mark && (point || mark !== "." || delimiter !== ",")) sure.add(mark);
    if (sure.has(mark) && !point && /[.,]/.test(mark)) points.add(mark === "." ? "," : ".");
  }
  if (!points.size && maybe.has(",")) points.add(",");
  if (points.size > 1) return { decimal: "." };
  if (delimiter === ",") usual = {};
  const decimal = [...points][0] ?? usual.decimal ?? ".";
  const between = new Set(points.size ? [...maybe, ...sure] : sure);
  between.delete(decimal);
  if (sure.has(decimal) || between.size > 1) return { decimal };
  return { decimal, thousands: [...between][0] ?? (decimal === usual.decimal ? usual.thousands : undefined) };
}

export function numberIn(cell, { decimal = ".", thousands } = {}) {
  let text = level(cell);
  if (thousands && text.includes(thousands)) {
    const [whole] = text.split(decimal);
    if (!new RegExp(`^[+-]?[1-9]\\d{0,2}([${thousands}]\\d{3})+$`).test(whole)) return null;
    text = whole.replaceAll(thousands, "") + text.slice(whole.length);
  }
  if (decimal === ",") text = text.includes(".") ? "" : text.replace(",", ".");
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : null;
}

/** The number that somebody types, or null: by a source's marks, else by those that it shows plainly. */
export function numberOf(text, source) {
  const marks = marksOf([text], null);
  const plain =
    source.decimal === "," || source.thousands
      ? marks.decimal === (source.decimal ?? ".")
      : !/^[+-]?[1-9]\d{0,2},\d{3}$/.test(text);
  return numberIn(text, source) ?? (plain ? numberIn(text, marks) : null);
}

export const likeThis = ({ decimal = ".", thousands }) => `1${thousands ?? ""}234${decimal}56`;

/** A number as the command writes it: 3.4942568e-06, and 12.0 but for `whole` ones. */
function plain(value, whole) {
  const [digits, power] = value.toExponential().split("e");
  if (value && (power < -4 || power >= 16)) return `${digits}e${power[0]}${power.slice(1).padStart(2, "0")}`;
  return Number.isInteger(value) && !whole ? `${value}.0` : String(value);
}

/** Rows as a CSV text; numbers with the decimal mark, but for `whole` ones; texts as they are, nothing for null. */
export function written(rows, delimiter, decimal, { whole = false } = {}) {
  const cell = (value) => {
    const text = typeof value === "number" ? plain(value, whole).replace(".", decimal) : String(value ?? "");
    return /["\r\n]/.test(text) || text.includes(delimiter) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => `${row.map(cell).join(delimiter)}\n`).join("");
}
