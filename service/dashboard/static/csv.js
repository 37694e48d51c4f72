// CSV texts, read as the server reads them, and written. Knows no page and no model.

/** What is missing among numbers anyway, as the server has it. */
export const MISSING = new Set(["", "na", "n/a", "#n/a", "null", "none", "nan", "+nan", "-nan", "-", "?", "."]);

/** A text file's content, and what it is written in where that is not UTF-8: Excel's plain CSV is in Windows-1252. */
export async function textOf(file) {
  const content = await file.arrayBuffer();
  const [first, second] = new Uint8Array(content, 0, Math.min(2, content.byteLength));
  const wide = first === 0xff && second === 0xfe ? "utf-16le" : first === 0xfe && second === 0xff ? "utf-16be" : null;
  const text = new TextDecoder(wide ?? "utf-8").decode(content);
  if (wide) return { text, was: wide };
  if (!text.slice(0, -4).includes("\ufffd")) return { text, was: null }; // its end may be half a letter
  return { text: new TextDecoder("windows-1252").decode(content), was: "windows-1252" };
}

/** The names in the first line of a CSV text, and what parts them; what stands in quotes parts nothing. */
export function header(text) {
  const bare = text.split(/\r?\n/, 1)[0].replace(/"[^"]*"/g, "");
  const delimiter = [",", ";", "\t", "|"].sort((a, b) => bare.split(b).length - bare.split(a).length)[0];
  return { names: records(text, delimiter, 1)[0]?.cells ?? [], delimiter };
}

/** The first records of a CSV text as `{line, cells}`, with the line that each begins on; empty lines are none.
 * A cell in quotes may have delimiters, line ends and doubled quotes in it. */
export function records(text, delimiter, most = Infinity) {
  const found = [];
  let cells = [""];
  let quoted = false;
  let line = 1;
  let begins = 1;
  const write = (sign) => {
    cells[cells.length - 1] += sign;
  };
  const end = () => {
    if (cells.length > 1 || cells[0].trim()) found.push({ line: begins, cells: cells.map((cell) => cell.trim()) });
    cells = [""];
    begins = line;
  };
  for (let i = text.startsWith("\ufeff") ? 1 : 0; i < text.length && found.length < most; i += 1) {
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

/** The mark that numbers have in rows of cells: a comma where some have one and none has a point, else `usual`. */
export function decimalOf(rows, delimiter, usual = ".") {
  const cells = delimiter === "," ? [] : rows.flat();
  if (!cells.length || cells.some((cell) => /^[+-]?[\d,]*\.\d+(e[+-]?\d+)?$/i.test(cell))) return ".";
  return cells.some((cell) => /^[+-]?\d*,\d+(e[+-]?\d+)?$/i.test(cell)) ? "," : usual;
}

/** The number that a cell is, or null. */
export function numberIn(cell, decimal = ".") {
  const text = decimal === "." ? cell : cell.includes(".") ? "" : cell.replace(decimal, ".");
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : null;
}

/** Rows as a CSV text; numbers with the decimal mark, texts as they are, nothing for null. */
export function written(rows, delimiter, decimal) {
  const cell = (value) => {
    const text = typeof value === "number" ? String(value).replace(".", decimal) : String(value ?? "");
    return /["\r\n]/.test(text) || text.includes(delimiter) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => `${row.map(cell).join(delimiter)}\n`).join("");
}
