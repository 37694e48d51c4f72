// Playground: a form made from a version's signature, its answer, and the same call for other clients.

import { Problem, all, changeKey, get, hasKey, perhaps, post, save, scopeOf, watch } from "./api.js";
import { likeThis, numberOf } from "./csv.js";
import { block, button, check, code, dropZone, field, h, replace, select, table, tabs } from "./dom.js";
import { answered, inMarks, marked, pretty, shape } from "./format.js";
import { attempt, bars, card, entries, facts, failure, heading, later, noModel, pointAt, unfolding } from "./parts.js";
import { answeredSheet, isTable, placed, readSheet } from "./sheet.js";

const FEW = 64;

export async function page(place, { params: [name], query }) {
  watch([], () => {}, null);
  const head = heading("Playground", "Ask a model, and take the same call along.");
  const models = await all("/v1/models").catch((error) => {
    if (error.status === 403 && scopeOf(error) === "read") return null;
    throw error;
  });
  if (!models) {
    place.append(head, ...unseen(name, query));
    return;
  }
  if (!models.length) {
    place.append(head, h("section", { class: "card" }, noModel("There is no model to ask yet.")));
    return;
  }
  const body = h("div", {});
  const model = models.find((one) => one.model === name) ?? (name ? null : models[0]);
  if (!model) throw new Problem(404, { detail: `There is no model ${name}.` });
  const versions = (await all(`/v1/models/${encodeURIComponent(model.model)}/versions`))
    .filter((one) => one.state === "ready")
    .sort((a, b) => b.version - a.version);
  const references = [
    ...Object.entries(model.aliases).map(([alias, version]) => [
      `${model.model}@${alias}`,
      `@${alias} (version ${version})`,
      version,
    ]),
    ...versions.map((one) => [`${model.model}/${one.version}`, `version ${one.version}`, one.version]),
  ];
  const wanted = query.get("version")
    ? `${model.model}/${query.get("version")}`
    : (references.find(([reference]) => reference.endsWith("@champion"))?.[0] ?? references[0]?.[0]);
  const show = (reference) => {
    const version = versions.find((one) => one.version === references.find(([key]) => key === reference)?.[2]);
    replace(
      body,
      version
        ? later(() => ask({ version, reference }))
        : failure({ status: 404, message: "There is no such version." }),
    );
  };
  place.append(
    head,
    h(
      "section",
      { class: "card", "aria-label": "Which model" },
      h(
        "div",
        { class: "row" },
        field(
          "Model",
          select(
            models.map((one) => one.model),
            model.model,
            (value) => {
              location.hash = `#/playground/${value}`;
            },
          ),
        ),
        field(
          "Version",
          select(
            references.map(([key, text]) => [key, text]),
            wanted,
            show,
          ),
        ),
      ),
    ),
    body,
  );
  show(wanted);
}

export async function ask({ version, job, reference }) {
  if (job && !version) {
    const now = await get(`/v1/jobs/${job.id}`);
    if (now.output?.version)
      return ask({
        version: await get(`/v1/models/${now.output.model}/versions/${now.output.version}`),
        reference: `${now.output.model}/${now.output.version}`,
      });
    return form({ row: await rowOfJob(now), reference: now.id, source: await sourceOf(now) });
  }
  const { model, version: number, preprocessing } = version;
  return formOf(await signatureOf(model, number), reference, preprocessing);
}

/** What a version takes and answers, which also a key may read that may only predict; `version` may be an alias. */
const signatureOf = (model, version) =>
  get(
    `/v1/models/${encodeURIComponent(model)}/signature${version ? `?version=${encodeURIComponent(version)}` : ""}`,
  );

const formOf = (signature, reference, preprocessing) =>
  form({
    row: rowOf(signature, preprocessing),
    reference,
    version: signature,
    source: signature.written ?? {},
  });

/** For a key that may ask and not look around: the name of the model is typed. */
function unseen(name = "", query) {
  const body = h("div", {});
  const model = h("input", { value: name, required: true, autocapitalize: "off" });
  const which = h("input", { value: query.get("version") ?? "", autocapitalize: "off" });
  const look = () => {
    const [given, of] = [model.value.trim(), which.value.trim().replace(/^@/, "")];
    const reference = of ? `${given}${/^\d+$/.test(of) ? "/" : "@"}${of}` : given;
    replace(
      body,
      later(async () => {
        if (!given) throw new Error("Type the name of the model.");
        return formOf(await signatureOf(given, of), reference);
      }),
    );
  };
  if (name) look();
  return [
    h(
      "div",
      { class: "callout" },
      h("strong", {}, "This key may ask models, not list them"),
      h("p", {}, "It lacks the scope read. Type the name of the model that you want to ask."),
      h("div", { class: "actions" }, button("Use another key", () => attempt(changeKey))),
    ),
    h(
      "form",
      {
        class: "card row top",
        "aria-label": "Which model",
        novalidate: true,
        onsubmit: (event) => {
          event.preventDefault();
          look();
        },
      },
      field("Model", model),
      field("Version or alias", which, { hint: "Such as 3 or champion. Empty: the champion, else the newest." }),
      h("button", { class: "primary" }, "Show what it takes"),
    ),
    body,
  ];
}

/**
 * What one row of a version looks like: `{kind: "table", columns}`, `{kind: "array", shape}` or `{kind: "json"}`.
 * The ranges of training are in the fitted preprocessing, for those who may read it.
 */
function rowOf({ inputs }, preprocessing) {
  const range = (i) => (preprocessing?.inputs?.[i] ?? preprocessing)?.training_range;
  const columns = (row, i) => row?.layout === "table" && columnsOf(row, range(i));
  const [{ row, shape: tensor }] = inputs;
  if (inputs.length > 1)
    return {
      kind: "json",
      inputs: inputs.map(({ name, shape: [, ...takes], row: one }, i) => ({ name, takes, columns: columns(one, i) })),
    };
  if (row?.layout === "table") return { kind: "table", columns: columns(row, 0) };
  const sizes = row?.row_shape ?? tensor.slice(1);
  const [low, high] = row?.training_range ?? [];
  return sizes.every(Number.isInteger)
    ? { kind: "array", shape: sizes, low: range(0)?.low ?? low, high: range(0)?.high ?? high }
    : { kind: "json", inputs: [{ name: inputs[0].name, takes: sizes }] };
}

function columnsOf(row, range) {
  let place = 0; // ranges are those of the columns of numbers
  return row.columns.map((column) => {
    if (column.kind !== "number") return column;
    const at = place++;
    return { ...column, low: range?.low?.[at], high: range?.high?.[at] };
  });
}

async function rowOfJob(job) {
  const dataset = job.dataset ? await perhaps(get(`/v1/datasets/${job.dataset.id}`)) : null;
  const inputs = dataset?.columns.filter((column) => column.role === "input") ?? [];
  if (inputs.length && inputs.every((column) => !column.shape.length && !column.input)) {
    const flat =
      ["polynomial", "gaussian_clouds", "inline"].includes(dataset.source.type) &&
      inputs.every((column) => column.dtype !== "text") &&
      !dataset.source.columns;
    if (flat) return { kind: "array", shape: [inputs.length] };
    return {
      kind: "table",
      columns: inputs.map((column) =>
        column.dtype === "text"
          ? { kind: "text", name: column.name, categories: column.classes }
          : { kind: "number", name: column.name },
      ),
    };
  }
  const sizes = job.resolved_spec.architecture?.inputs?.[0]?.shape.slice(1);
  return sizes?.every(Number.isInteger) ? { kind: "array", shape: sizes } : { kind: "json" };
}

/** `reference` names what is asked; `version` is its signature, where there is one. */
function form({ row, reference, version, source = {} }) {
  const answer = h(
    "div",
    { class: "answer", "aria-live": "polite" },
    h("div", { class: "empty-state" }, h("p", {}, "The answer appears here.")),
  );
  const rows = h("div", { class: "sheet" }); // of a file: too many to be read out as they come
  const calls = h("div", {});
  const control =
    row.kind === "table"
      ? columnsControl(row, source)
      : row.kind === "array" && size(row.shape) <= FEW && row.shape.length === 1
        ? numbersControl(row, source)
        : row.kind === "array" && isImage(row.shape)
          ? imageControl(row)
          : jsonControl(row);
  let turn = 0;
  // What was asked before goes first; an answer that is overtaken is not shown.
  const asking = async (work) => {
    turn += 1;
    const mine = turn;
    const show = (place, ...children) => mine === turn && replace(place, ...children);
    show(calls);
    show(rows);
    answer.setAttribute("aria-busy", "true");
    try {
      show(answer, await work(show));
    } catch (error) {
      show(answer, failure(error, { go: control.go }));
    }
    if (mine !== turn) return;
    answer.removeAttribute("aria-busy");
    if (answer.getBoundingClientRect().top > window.innerHeight - 60) answer.scrollIntoView({ block: "nearest" });
  };
  const run = () =>
    asking(async (show) => {
      const value = control.read();
      const [model, inputs] = [reference, control.whole ? value : [value]];
      show(calls, callsOf(model, inputs, version));
      return answerOf(await post("/predict", { model, inputs }), source, control.go);
    });
  const runFile = (file) =>
    asking(async (show) => {
      const sheet = await readSheet(file, row, source);
      const model = reference;
      const found = await post("/predict", { model, inputs: sheet.inputs }).catch((error) => {
        if (error.entries) error.entries = placed(error.entries, sheet);
        throw error;
      });
      const whole = version?.outputs.every(({ dtype }) => dtype.startsWith("int"));
      const [told, ...more] = answeredSheet(sheet, found, { whole });
      show(rows, more);
      show(calls, commandOf(model, file.name));
      const warnings = placed(found.warnings ?? [], sheet);
      return h("div", { class: "stack" }, told, about({ ...found, warnings }, source));
    });
  const made = h(
    "div",
    { class: "columns play" },
    card(
      "Input",
      h(
        "form",
        {
          class: "ask",
          novalidate: true,
          onsubmit: (event) => {
            event.preventDefault();
            void run();
          },
        },
        control.element,
        h("div", { class: "actions" }, h("button", { class: "primary" }, "Predict")),
      ),
      isTable(row)
        ? unfolding(
            "Many rows from a CSV file",
            dropZone(
              "Choose a CSV file",
              `or drop one here: ${
                row.kind === "table" ? "a line of names, then rows" : `${row.shape[0]} numbers a row`
              }, of which the first 1,000 are asked`,
              runFile,
              { accept: ".csv,.tsv,.txt" },
            ),
            false,
          )
        : null,
    ),
    h("div", {}, card("Answer", answer, rows), calls),
  );
  try {
    replace(calls, callsOf(reference, control.whole ? control.read() : [control.read()], version));
  } catch {
    replace(calls);
  }
  return made;
}

const size = (sizes) => sizes.reduce((product, one) => product * one, 1);
const isImage = (sizes) =>
  sizes.length === 3 && [1, 3, 4].includes(sizes[0]) && sizes[1] >= 4 && sizes[2] >= 4 && size(sizes) <= 500_000;

const isRange = (low, high) => Number.isFinite(low) && Number.isFinite(high);

/** A number in the middle of a range, and a whole one where the ends are. */
function middle(low, high) {
  const half = (low + high) / 2;
  return Number.isInteger(low) && Number.isInteger(high) ? Math.round(half) : Number(half.toPrecision(5));
}

/** A field for a number as the training's file writes them, and how to read it; empty where no range is known. */
function numberField(label, { name = label, low, high, optional }, source) {
  const as = (value) => marked(value, source);
  const known = isRange(low, high);
  const input = h("input", {
    inputmode: "decimal",
    autocomplete: "off",
    placeholder: known ? null : "a number",
    value: known ? as(middle(low, high)) : "",
    required: !optional,
  });
  const hints = [
    known && `Seen in training: ${as(low)} to ${as(high)}`,
    (source.decimal === "," || source.thousands) && `Written like ${likeThis(source)}`,
    optional && "May be left empty.",
  ];
  const given = () => input.value.trim();
  const read = () => numberOf(given(), source);
  /** What is wrong with a text that is no number; null for others. */
  const wrong = () => {
    const odd = given() && read() === null;
    if (odd) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
    if (!odd) return null;
    const end = optional ? "; it may be left empty." : given().endsWith(".") ? "" : ".";
    return `needs a number written like ${likeThis(source)}, not ${given()}${end}`;
  };
  return {
    name,
    element: field(label, input, { hint: hints.filter(Boolean).join(". ") }),
    read,
    wrong,
    lacks: () => !optional && !given(),
    focus: () => input.focus(),
  };
}

/** What the fields say, or all that is wrong with them: those that still need a number, and those that have none. */
function readAll(fields) {
  const lacking = fields.filter(({ lacks }) => lacks?.());
  const odd = fields.map((one) => ({ one, words: one.wrong?.() })).filter(({ words }) => words);
  if (!lacking.length && !odd.length) return fields.map(({ read }) => read());
  fields.find((one) => lacking.includes(one) || odd.some((other) => other.one === one)).focus();
  const named = lacking.slice(0, NAMED).map(({ name }) => name);
  const more = lacking.length - named.length;
  const needs = `still ${lacking.length === 1 ? "needs" : "need"} a number.`;
  const told = [
    ...(named.length ? [`${named.join(", ")}${more ? ` and ${more} more` : ""} ${needs}`] : []),
    ...odd.map(({ one, words }) => `${one.name} ${words}`),
  ];
  throw Object.assign(new Error(told[0]), { sentences: told.slice(1) });
}

const NAMED = 10;

function numbersControl({ shape: [count], low, high }, source) {
  const fields = Array.from({ length: count }, (_, i) =>
    numberField(count === 1 ? "x" : `x[${i}]`, { low: low?.[i], high: high?.[i] }, source),
  );
  return {
    element: [
      h(
        "div",
        { class: "fields" },
        fields.map(({ element }) => element),
      ),
      count > 1 &&
        h("p", { class: "hint more" }, "The numbers of a row have no names in this model: x[0] is the first of them."),
    ],
    read: () => readAll(fields),
  };
}

const NOTHING = "\0"; // no category is this

function columnsControl({ columns }, source) {
  const fields = columns.map((column) => {
    const { name, kind, categories, optional } = column;
    if (kind === "number") return numberField(name, column, source);
    const options = [categories ?? [], optional ? [[NOTHING, "no value"]] : []].flat();
    const control = categories ? select(options, categories[0], () => {}) : h("input", { value: "" });
    return {
      element: field(name, control, { hint: kind === "tokens" && "Free text" }),
      read: () => (control.value === NOTHING ? null : control.value),
    };
  });
  return {
    element: h(
      "div",
      { class: "fields" },
      fields.map(({ element }) => element),
    ),
    read: () => {
      const values = readAll(fields);
      return Object.fromEntries(columns.map(({ name }, i) => [name, values[i]]));
    },
  };
}

function jsonControl({ shape: sizes, inputs }) {
  const zeros = (dims) => (dims.length ? Array.from({ length: dims[0] }, () => zeros(dims.slice(1))) : 0);
  const one = (dims) => (dims.every(Number.isInteger) && size(dims) <= 4096 ? [zeros(dims)] : []);
  const first = ({ name, low, high, categories }) => [
    name,
    categories ? categories[0] : isRange(low, high) ? middle(low, high) : 0,
  ];
  const rowsOf = ({ takes, columns }) => (columns ? [Object.fromEntries(columns.map(first))] : one(takes));
  const rows = inputs ? Object.fromEntries(inputs.map((input) => [input.name, rowsOf(input)])) : sizes ? one(sizes) : [];
  const area = h("textarea", { class: "mono", rows: "12", value: pretty(rows, "", 60) });
  const hint = sizes
    ? `A list of rows of the shape ${shape(sizes)}.`
    : inputs
      ? `One list of rows for each of ${inputs.map(({ name, takes, columns }) => (columns ? name : `${name} ${shape(takes)}`)).join(", ")}.`
      : "A list of rows.";
  return {
    whole: true,
    element: field("Rows as JSON", area, { hint, wide: true }),
    go: ({ pointer }) => pointAt(area, pointer.replace(/^\/inputs/, "")),
    read: () => {
      try {
        return JSON.parse(area.value);
      } catch (error) {
        throw new Error(`The rows are not JSON: ${error.message}.`, { cause: error });
      }
    },
  };
}

/** An image to drop, or with one channel a digit to draw; sent as [channels, height, width]. */
function imageControl({ shape: [channels, height, width], low, high }) {
  const zoom = Math.max(1, Math.floor(280 / Math.max(height, width)));
  const canvas = h("canvas", {
    width: String(width),
    height: String(height),
    class: "picture",
    tabindex: "0",
    role: "img",
    "aria-label": `Picture of ${height} × ${width} pixels${channels === 1 ? ": draw with the mouse, or with the arrow keys and the space bar" : ""}`,
  });
  canvas.style.width = `${width * zoom}px`;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const clear = () => {
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
  };
  clear();
  const flatHigh = [high].flat(5).filter(Number.isFinite);
  const options = { scale: flatHigh.length && Math.max(...flatHigh) > 16 ? "255" : "1", invert: false };
  let pen = { x: width / 2, y: height / 2 };
  let last = null;
  const stroke = (to) => {
    context.strokeStyle = "#fff";
    context.lineWidth = Math.max(1.5, width / 14);
    context.lineCap = "round";
    context.beginPath();
    context.moveTo((last ?? to).x, (last ?? to).y);
    context.lineTo(to.x + 0.01, to.y);
    context.stroke();
    last = to;
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * width,
      y: ((event.clientY - box.top) / box.height) * height,
    };
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = null;
    stroke(place(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons) stroke(place(event));
  });
  canvas.addEventListener("pointerup", () => {
    last = null;
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === " ") {
      event.preventDefault();
      last = null;
      stroke(pen);
    }
    if (!step) return;
    event.preventDefault();
    const to = {
      x: Math.min(width - 1, Math.max(0, pen.x + step[0] * Math.max(1, width / 28))),
      y: Math.min(height - 1, Math.max(0, pen.y + step[1] * Math.max(1, height / 28))),
    };
    if (!event.shiftKey) {
      last = pen;
      stroke(to);
    }
    pen = to;
  });
  const load = async (file) => {
    const bitmap = await createImageBitmap(file);
    const ratio = Math.max(width / bitmap.width, height / bitmap.height);
    context.drawImage(
      bitmap,
      (width - bitmap.width * ratio) / 2,
      (height - bitmap.height * ratio) / 2,
      bitmap.width * ratio,
      bitmap.height * ratio,
    );
  };
  return {
    element: h(
      "div",
      { class: "image-input" },
      canvas,
      h(
        "div",
        { class: "stack" },
        dropZone(
          "Choose an image",
          `or drop one here; it is scaled to ${height} × ${width}`,
          (file) => attempt(() => load(file)),
          { accept: "image/*" },
        ),
        channels === 1
          ? h("p", { class: "hint" }, "Draw with the pointer, or with the arrow keys (Shift moves without drawing).")
          : null,
        field(
          "Pixels are sent as",
          select(
            [
              ["1", "0 to 1"],
              ["255", "0 to 255"],
            ],
            options.scale,
            (value) => {
              options.scale = value;
            },
          ),
        ),
        check("Swap dark and light", false, (value) => {
          options.invert = value;
        }),
        button("Clear", clear, { class: "quiet" }),
      ),
    ),
    read: () => {
      const { data } = context.getImageData(0, 0, width, height);
      const factor = options.scale === "255" ? 1 : 1 / 255;
      const at = (x, y, channel) => {
        const i = 4 * (y * width + x);
        const value = channels === 1 ? 0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2] : data[i + channel];
        return Number(((options.invert ? 255 - value : value) * factor).toFixed(options.scale === "255" ? 0 : 4));
      };
      return Array.from({ length: channels }, (_, channel) =>
        Array.from({ length: height }, (__, y) => Array.from({ length: width }, (___, x) => at(x, y, channel))),
      );
    },
  };
}

/** What one version answers; `go` leads to a place in the JSON of the rows, where that is what was typed. */
function answerOf(found, source, go) {
  const outputs = Array.isArray(found.outputs) ? found.outputs : null;
  const values = outputs && [outputs[0]].flat(9);
  const parts = [];
  if (found.labels) {
    parts.push(h("p", { class: "label", data: { answer: found.labels[0] } }, found.labels[0]));
    if (found.probabilities && found.classes) parts.push(bars(found.classes, found.probabilities[0], source));
  } else if (values?.length <= 8) {
    const kind = values.length > 2 ? "label many" : "label";
    parts.push(h("p", { class: kind, data: { answer: String(values[0]) } }, answered(values, source)));
  } else parts.push(block("Outputs", pretty(found.outputs)));
  if (outputs && outputs.length > 1)
    parts.push(
      table(
        "All rows",
        ["Row", "Answer"],
        outputs.map((output, i) => [i + 1, found.labels?.[i] ?? answered([output].flat(9).slice(0, 8), source)]),
      ),
    );
  return h("div", {}, parts, about(found, source, go));
}

const about = (found, source, go) => [
  found.warnings?.length
    ? entries(gathered(found.warnings.map((one) => inMarks(one, source))), { go, json: true })
    : null,
  facts([
    ["Model", found.model ?? "a job's checkpoint"],
    found.version ? ["Version", found.version] : ["Step", found.step],
    found.alias ? ["Alias", found.alias] : null,
  ]),
];

async function sourceOf(job) {
  const id = job.dataset?.id;
  return (id && (await perhaps(get(`/v1/datasets/${id}`)))?.source) || {};
}

function commandOf(reference, file) {
  const name = /^[\w.-]+$/.test(file) ? file : `'${file.replaceAll("'", "'\\''")}'`;
  return card(
    "All rows, in a terminal",
    code(`modelyard predict ${reference} ${name} \\\n  --url ${location.origin} -o csv > answers.csv`, "The command"),
  );
}

/** Warnings that say the same of several places as one: an image may have hundreds. */
function gathered(warnings) {
  const groups = new Map();
  for (const warning of warnings) groups.set(warning.detail, [...(groups.get(warning.detail) ?? []), warning]);
  return [...groups.values()].map(([first, ...others]) => ({
    severity: "warning",
    ...first,
    ...(others.length ? { hint: `The same of ${others.length} more places.`, expected: null, got: null } : {}),
  }));
}

const INLINE = 600; // characters of a request; a longer one is a file that the call reads

function callsOf(reference, inputs, version) {
  const origin = location.origin;
  const key = hasKey() ? ' -H "Authorization: Bearer $MODELYARD_API_KEY"' : "";
  const asked = { model: reference, inputs };
  const tensors = version && tensorsOf(version, inputs);
  const call = (text, label, body, file) => [
    code(text, label),
    body.length > INLINE
      ? h(
          "div",
          { class: "actions" },
          button(`Save ${file}`, () => save(new Blob([body], { type: "application/json" }), file)),
          h("span", { class: "hint" }, "The rows are in this file; make the call where you save it."),
        )
      : null,
  ];
  const curl = (path, asks, label, file) => () => {
    const body = JSON.stringify(asks);
    const data = body.length > INLINE ? `--data-binary @${file}` : `-d '${body.replaceAll("'", "'\\''")}'`;
    const text = `curl -s ${origin}${path}${key} \\\n  -H 'Content-Type: application/json' \\\n  ${data}`;
    return h("div", { class: "stack" }, call(text, label, body, file));
  };
  const python = () => {
    const body = JSON.stringify(asked);
    const long = body.length > INLINE;
    const lines = [
      ...(long ? ["import json", "from pathlib import Path", ""] : []),
      "from service.client import Client",
      "",
      ...(long ? ['request = Path("request.json").read_bytes()'] : []),
      `with Client("${origin}") as client:`,
      `    answer = client.predict(${long ? "**json.loads(request)" : `${JSON.stringify(reference)}, ${pythonic(inputs)}`})`,
      `    print(answer.predictions${version?.classes ? ", answer.probabilities" : ""})`,
    ];
    return h("div", { class: "stack" }, call(lines.join("\n"), "The call in Python", body, "request.json"));
  };
  return card(
    "The same call",
    tabs("The same call", [
      ["curl", "curl", curl("/predict", asked, "The call for curl", "request.json")],
      ["python", "Python", python],
      ...(tensors
        ? [
            [
              "v2",
              "/v2",
              curl(
                `/v2/models/${version.model}/versions/${version.version}/infer`,
                { inputs: tensors },
                "The call in the Open Inference Protocol",
                "request-v2.json",
              ),
            ],
          ]
        : []),
    ]),
  );
}

const DATATYPES = { float32: "FP32", float64: "FP64", int64: "INT64", int32: "INT32" };

/** The rows as the tensors of `/v2`: of each input one, or of a table one for each column; null for what are no rows,
 * and for pictures as texts, which have no place in its JSON. */
function tensorsOf({ inputs: takes }, inputs) {
  const rows = takes.map(({ name }) => (Array.isArray(inputs) ? inputs : inputs?.[name]));
  if (!rows.every((of) => Array.isArray(of) && typeof of[0] !== "string")) return null;
  return takes.flatMap(({ name, dtype, row }, i) => {
    if (row?.layout !== "table") return tensor(name, DATATYPES[dtype] ?? "FP32", rows[i]);
    return row.columns.map((column, place) =>
      tensor(
        takes.length > 1 ? `${name}.${column.name}` : column.name,
        column.kind === "number" ? "FP64" : "BYTES",
        rows[i].map((one) => [(Array.isArray(one) ? one[place] : one?.[column.name]) ?? null]),
      ),
    );
  });
}

const tensor = (name, datatype, rows) => ({ name, shape: shapeOf(rows), datatype, data: rows.flat(Infinity) });
const shapeOf = (value) => (Array.isArray(value) ? [value.length, ...shapeOf(value[0])] : []);

function pythonic(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(pythonic).join(", ")}]`;
  if (typeof value === "object")
    return `{${Object.entries(value)
      .map(([key, item]) => `${JSON.stringify(key)}: ${pythonic(item)}`)
      .join(", ")}}`;
  return JSON.stringify(value);
}
