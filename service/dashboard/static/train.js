// Train: data, a net, how to train it, what the server thinks of it, and off it goes.
// The request is the one truth: each section shows its part and writes to it, so a patch can mend any of it.

import { all, get, post, refused, send, subject, upload, Problem, watch } from "./api.js";
import { MISSING, header, level, likeThis, marksOf, numberIn, records, textOf } from "./csv.js";
import { button, check, dropZone, field, h, newId, replace, select, table, tabs } from "./dom.js";
import { ago, bytes, locate, number, patched, plainName, pretty, seconds, shape } from "./format.js";
import {
  announce,
  attempt,
  byHint,
  card,
  emptyState,
  entries,
  facts,
  failure,
  heading,
  histogram,
  metricName,
  net,
  problemText,
  unfolding,
  unlisted,
} from "./parts.js";

export const EXAMPLES = {
  parabola: [
    "A parabola with noise",
    "One number in, one out: watch a curve being fitted.",
    {
      type: "polynomial",
      coefficients: [0, 0, 1],
      low: -1,
      high: 1,
      rows: 100,
      noise: { type: "uniform", scale: 0.2 },
      seed: 1,
    },
  ],
  clouds: [
    "Two clouds of points",
    "Two classes in the plane: watch a border being drawn.",
    {
      type: "gaussian_clouds",
      centers: [
        [2, 2],
        [-2, -2],
      ],
      std: 1,
      rows_per_class: 100,
      seed: 1,
    },
  ],
  stripes: [
    "Striped images",
    "Small pictures in four classes, for convolutions.",
    { type: "striped_images", classes: 4, rows_per_class: 40, channels: 1, size: 16, std: 0.3, seed: 1 },
  ],
};

const OBJECTIVES = [
  ["mse", "Numbers: mean squared error"],
  ["l1", "Numbers: mean absolute error"],
  ["smooth_l1", "Numbers: smooth L1"],
  ["huber", "Numbers: Huber"],
  ["cross_entropy", "Classes: cross entropy"],
  ["bce_with_logits", "Yes or no: binary cross entropy"],
];
const CLASSIFY = ["cross_entropy", "bce_with_logits"];
const ENGINES = [
  ["", "torch, as usual"],
  ["onnxruntime", "ONNX Runtime"],
  ["aot_inductor", "compiled code"],
];
const OPTIMIZERS = ["Adam", "AdamW", "SGD", "RMSprop", "NAdam", "Adagrad"];

// What the form can show: a layer's fixed members, and its fields as [name, default, whole number].
const LAYERS = {
  Linear: [{ in_features: "auto" }, [["out_features", 16, true]]],
  ReLU: [{}, []],
  Tanh: [{}, []],
  Sigmoid: [{}, []],
  GELU: [{}, []],
  Dropout: [{}, [["p", 0.2, false]]],
  BatchNorm1d: [{ num_features: "auto" }, []],
  Conv2d: [
    { in_channels: "auto" },
    [
      ["out_channels", 8, true],
      ["kernel_size", 3, true],
      ["padding", 1, true],
    ],
  ],
  BatchNorm2d: [{ num_features: "auto" }, []],
  MaxPool2d: [{}, [["kernel_size", 2, true]]],
  Flatten: [{}, []],
};

function blank() {
  return {
    kind: "train",
    architecture: null,
    dataset: null,
    preprocessing: [],
    objective: { type: "mse" },
    optimizer: { type: "Adam", lr: 0.01 },
    budget: { epochs: 60 },
    seed: 1,
    output: { model: "", alias_on_success: "champion" },
  };
}

async function predecessor(models, { model, alias_on_success: alias }) {
  const champion = models.find((one) => one.model === model)?.aliases.champion;
  if (champion === undefined) return null;
  const { metrics } = await get(`/v1/models/${model}/versions/${champion}`);
  const [figure] = ["val_accuracy", "val_r2", "val_loss"].filter((name) => Number.isFinite(metrics[name]));
  const beside = figure ? ` (${metricName(figure)} ${number(metrics[figure])})` : "";
  const then =
    alias === "champion"
      ? "The new version takes its place, even if it is worse"
      : alias?.champion
        ? `The new version takes its place if ${alias.champion}`
        : "It stays the champion";
  return `The model ${model} is there already: version ${champion} is its champion${beside}. ${then}.`;
}

/** The alias for a version that is better than the champion, by the held-out rows if there are any; as the command. */
function ifBetter({ objective, split }) {
  const metric = `${split ? "val_" : ""}${CLASSIFY.includes(objective?.type) ? "accuracy" : "r2"}`;
  return { champion: `${metric} > champion.${metric}` };
}

/** Change a request; where its alias hangs on what this page compares, by what it is compared then. */
function change(body, work) {
  const { output } = body;
  const ours = output.alias_on_success?.champion === ifBetter(body).champion;
  work();
  if (ours) output.alias_on_success = ifBetter(body);
}

export async function page(place, { params: [id], onLeave }) {
  const given = id && (await subject(get(`/v1/datasets/${encodeURIComponent(id)}`), `There is no dataset ${id}.`));
  const draft = {
    body: blank(),
    dataset: null,
    reasons: new Map(), // for which columns were left out
    kept: new Set(), // columns that are one of texts by few cells, and are to be
    rare: [], // classes that only one row has
    undecided: [], // those that nobody has decided about
    verdict: null,
    broken: null,
    mode: null,
    text: null,
  };
  const data = h("div", {});
  const about = h("div", {});
  const editor = h("div", {});
  const judged = h("div", { class: "judged" });
  const training = h("div", {});
  const doctor = h("div", { "aria-live": "polite" });
  const models = all("/v1/models").catch(() => []);
  const timers = {};
  const aborts = {};
  onLeave(() => {
    Object.values(timers).forEach(clearTimeout);
    Object.values(aborts).forEach((abort) => abort.abort());
  });

  const later = (name, wait, work) => {
    clearTimeout(timers[name]);
    aborts[name]?.abort();
    timers[name] = setTimeout(() => {
      aborts[name] = new AbortController();
      void work(aborts[name].signal);
    }, wait);
  };
  const changed = () => {
    later("validate", 250, validate);
    later("examine", 600, examine);
  };

  // -- data ------------------------------------------------------------------------------------------------------------
  const useDataset = async (dataset) => {
    draft.dataset = dataset;
    draft.body.dataset = dataset.id;
    replace(about, h("p", { class: "empty" }, "Reading the data…"));
    const [preview, profile] = await Promise.all([
      get(`/v1/datasets/${dataset.id}/preview?limit=5`),
      get(`/v1/datasets/${dataset.id}/profile`),
    ]);
    if (draft.dataset !== dataset) return;
    const { top = [] } = profile.columns.find(({ role }) => role === "target") ?? {};
    draft.rare = top.filter(({ count }) => count === 1).map(({ value }) => value);
    const fill = () => {
      change(draft.body, () => suggest(draft, dataset, profile));
      draft.touched = false;
      draft.broken = null;
      draft.mode = null;
      drawEditor();
      drawTraining();
      changed();
    };
    const keep = (name) => {
      draft.kept.add(name);
      show();
      changed();
      about.querySelector(".entries button, .scroll").focus({ preventScroll: true });
    };
    const show = () =>
      replace(
        about,
        datasetView(dataset, preview, profile, draft, { remake, keep }),
        draft.touched
          ? h(
              "div",
              { class: "actions" },
              button("Fill in a net that suits this data", () => {
                fill();
                show();
                announce("Filled in.");
              }),
            )
          : null,
      );
    show();
    if (!draft.touched) change(draft.body, () => suggest(draft, dataset, profile));
    draft.fitted = false;
    if (!draft.body.output.model) draft.body.output.model = plainName(dataset.name ?? "model");
    draft.mode = null;
    drawEditor();
    drawTraining();
    changed();
    announce(`The dataset has ${dataset.rows} rows. A net and an objective that suit it are filled in.`);
  };
  let mine = null; // the dataset that this page has made and that nobody uses yet
  const read = async (name, source) => {
    let dataset = await post("/v1/datasets", { name, source });
    while (dataset.state === "processing") {
      await new Promise((resolve) => {
        setTimeout(resolve, 500);
      });
      dataset = await get(`/v1/datasets/${dataset.id}`);
    }
    return dataset;
  };
  const make = async (name, source, reasons) => {
    replace(about, h("p", { class: "empty" }, "Reading the data…"));
    try {
      const dataset = await read(name, source);
      mine = dataset.id;
      await use(dataset, reasons);
    } catch (error) {
      replace(about, failure(error));
    }
  };
  // The same file once more, read otherwise; what this page made of it before is not needed then.
  const remake = (dataset, changes) =>
    attempt(async () => {
      const made = await read(dataset.name, { ...dataset.source, ...changes });
      await useDataset(made); // from here on no request of this page names the one before
      if (mine === dataset.id) await send("DELETE", `/v1/datasets/${dataset.id}`).catch(() => {});
      mine = made.id;
      about.querySelector(".scroll")?.focus({ preventScroll: true });
    });
  const use = (dataset, reasons = new Map()) => {
    draft.reasons = reasons;
    draft.kept.clear();
    return useDataset(dataset);
  };
  const drawData = async () => {
    const known = (await all("/v1/datasets", 200)).filter((dataset) => dataset.state === "ready" && dataset.name);
    replace(
      data,
      tabs(
        "Where the data comes from",
        [
          ["upload", "Upload a file", () => uploadForm(make)],
          [
            "known",
            `Datasets here (${known.length})`,
            () =>
              known.length
                ? table(
                    "Datasets",
                    ["Name", "Made", { label: "Rows", numeric: true }, "Columns", { label: "Use", hidden: true }],
                    known.slice(0, 30).map((dataset) => [
                      dataset.name,
                      ago(dataset.created_at),
                      number(dataset.rows),
                      h("span", { class: "clip" }, usedColumns(dataset).join(", ")),
                      button("Use", () => attempt(() => use(dataset)), {
                        class: "small",
                        "aria-label": `Use ${dataset.name}`,
                      }),
                    ]),
                    { stacked: true },
                  )
                : emptyState("No dataset yet: upload a file, or begin with an example."),
          ],
          [
            "examples",
            "Examples",
            () =>
              h(
                "div",
                { class: "choices" },
                Object.entries(EXAMPLES).map(([key, [title, words, source]]) =>
                  button([h("strong", {}, title), h("span", {}, words)], () => attempt(() => make(key, source)), {
                    class: "choice",
                  }),
                ),
              ),
          ],
        ],
        known.length ? "known" : "upload",
      ),
    );
  };

  // -- the net ---------------------------------------------------------------------------------------------------------
  const setNet = (authored) => {
    draft.body.architecture = authored;
    draft.touched = true;
    draft.broken = null;
    changed();
  };
  const drawEditor = () => {
    const current = draft.body.architecture;
    if (!current) {
      replace(
        editor,
        emptyState("Choose data first: a net that fits is filled in, and you make it yours."),
      );
      return;
    }
    draft.mode ??= current.catalogue ? "catalogue" : formCan(current) ? "form" : "json";
    replace(
      editor,
      tabs(
        "How to describe the net",
        [
          [
            "form",
            "Form",
            () =>
              formCan(draft.body.architecture)
                ? netForm(draft.body.architecture, setNet)
                : emptyState(
                    "This net is more than the form can show. Edit it as JSON, or begin with a row of layers.",
                    button("Begin with a row of layers", () => {
                      suggestNet(draft);
                      setNet(draft.body.architecture);
                      drawEditor();
                    }),
                  ),
          ],
          ["json", "JSON", () => jsonEditor(draft, setNet, changed)],
          ["catalogue", "Catalogue", () => catalogueForm(draft, setNet)],
        ],
        draft.mode,
        (key) => {
          draft.mode = key;
        },
      ),
    );
  };
  const goTo = (entry) => {
    if (draft.mode !== "json") {
      draft.mode = "json";
      drawEditor();
    }
    const area = editor.querySelector("textarea");
    const [start, end] = locate(area.value, entry.pointer);
    area.focus();
    area.setSelectionRange(start, end);
    area.scrollTop = (area.value.slice(0, start).split("\n").length - 4) * 20;
  };
  const mendNet = (patch) => {
    setNet(patched(draft.body.architecture, patch));
    drawEditor();
    announce("Mended.");
  };
  const validate = async (signal) => {
    if (draft.broken) {
      replace(
        judged,
        h(
          "ul",
          { class: "entries" },
          h("li", { class: "bad" }, h("p", {}, h("strong", {}, "Not JSON"), " ", draft.broken)),
        ),
      );
      return;
    }
    if (!draft.body.architecture) {
      replace(judged);
      return;
    }
    try {
      const verdict = await post("/v1/architectures/validate?drawing=true", draft.body.architecture, { signal });
      draft.verdict = verdict;
      const open = judged.querySelector("details")?.open;
      replace(
        judged,
        verdict.valid
          ? h("p", { class: "ok", role: "status" }, "The net can be built.")
          : h(
              "p",
              { class: "error-text", role: "status" },
              `${verdict.errors.length === 1 ? "One mistake" : `${verdict.errors.length} mistakes`} in the net.`,
            ),
        entries([...verdict.errors, ...verdict.warnings.map((warning) => ({ severity: "warning", ...warning }))], {
          go: goTo,
          mend: byHint(() => draft.body.architecture, mendNet),
        }),
        verdict.summary ? unfolding("Layers and drawing", net(verdict.summary, verdict.mermaid), open) : null,
      );
    } catch (error) {
      if (error.name !== "AbortError") replace(judged, failure(error));
    }
  };

  // -- training --------------------------------------------------------------------------------------------------------
  const drawTraining = () => {
    const fields = () => [...training.querySelectorAll("input, select")];
    const at = fields().indexOf(document.activeElement);
    replace(
      training,
      draft.body.dataset
        ? trainingForm(draft.body, changed, drawTraining)
        : emptyState("Choose data first: objective, epochs and the rest are then filled in, and yours to change."),
    );
    fields()[at]?.focus();
  };

  // -- the doctor ------------------------------------------------------------------------------------------------------
  const submit = button(
    "Train",
    () =>
      attempt(async () => {
        const job = await post("/v1/jobs", draft.body).catch((error) => {
          if (error.status === 403 && draft.body.output.alias_on_success && error.entries.length)
            error.entries[0].hint += " Or untick that it becomes the champion.";
          throw error;
        });
        location.hash = `#/jobs/${job.id}`;
      }),
    { class: "primary big", disabled: true },
  );
  /** Another request in this object, since the fields of the forms write to it. */
  const take = (body) => {
    for (const member of Object.keys(draft.body)) delete draft.body[member];
    Object.assign(draft.body, body);
  };
  const applyPatch = (patch) => {
    take(patched(draft.body, patch));
    draft.touched = true;
    draft.mode = null;
    drawEditor();
    drawTraining();
    changed();
    announce("Mended.");
    submit.focus();
  };
  const byWords = byHint(() => draft.body, applyPatch);
  const examine = async (signal) => {
    submit.disabled = true;
    const { body } = draft;
    const missing = [
      !body.dataset && "data",
      !body.architecture && "a net",
      !body.output.model && "a name for the model",
    ].filter(Boolean);
    if (draft.broken) missing.push("a net that is JSON");
    const here = body.dataset === draft.dataset?.id;
    if (here && draft.undecided.length) missing.push(`how to read ${draft.undecided.join(", ")} (see Data)`);
    if (missing.length) {
      replace(doctor, h("p", { class: "empty" }, `Still needed: ${missing.join(", ")}.`));
      return;
    }
    doctor.setAttribute("aria-busy", "true");
    try {
      const [found, before] = await Promise.all([
        post("/v1/jobs?dry_run=true", body, { signal }),
        models.then((there) => predecessor(there, body.output)).catch(() => null),
      ]);
      const out = here ? draft.dataset.columns.filter(({ role }) => role === "ignored") : [];
      const left = out.map(({ name }) => ({ name, reason: draft.reasons.get(name) ?? "" }));
      const told = [
        ...left.flatMap(({ name, reason }) => (/unit/.test(reason) ? note(`${name} is left out. ${reason}`) : [])),
        ...(here ? draft.rare : []).map((name) => note(`Only one row is of the class ${name}.`)),
        ...found.warnings.filter(({ code }) => !here || code !== "nearly-numbers"), // which is decided
      ];
      // A net of ours that has the sizes of all rows may have to have those of the training rows.
      const fit = found.warnings.find(
        (warning) =>
          warning.severity === "error" && warning.patch?.every((step) => step.path.startsWith("/architecture/")),
      );
      if (fit && !draft.touched && !draft.fitted) {
        draft.fitted = true;
        take(patched(body, fit.patch));
        drawEditor();
        changed();
        return;
      }
      const bad = found.warnings.some((warning) => warning.severity === "error");
      submit.disabled = !found.valid;
      replace(
        doctor,
        facts([
          [
            "Rows",
            found.plan.rows
              ? Object.entries(found.plan.rows)
                  .map(([part, rows]) => `${number(rows)} ${part}`)
                  .join(", ")
              : "–",
          ],
          ["Steps", number(found.plan.steps)],
          ["Parameters", number(found.plan.parameters)],
          ["Takes about", seconds(found.estimate_s)],
          ["Memory", bytes(found.memory_bytes)],
        ]),
        before && h("p", { class: "callout" }, before),
        told.length
          ? entries(told, {
              mend: (entry) =>
                entry.patch ? { words: "Mend this", act: () => applyPatch(entry.patch) } : byWords(entry),
            })
          : h("p", { class: "ok" }, "Nothing to complain about."),
        bad ? h("p", { class: "error-text" }, "Mend the mistakes, then train.") : null,
        left.length > 0 && h("p", { class: "hint more" }, "Left out of the inputs:"),
        left.slice(0, 20).map(({ name, reason }) => h("p", { class: "hint" }, h("strong", {}, name), " ", reason)),
      );
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error instanceof Problem && error.entries.length && !refused(error)) {
        const others = error.entries.filter((entry) => !entry.pointer.startsWith("/architecture/"));
        const inNet = error.entries.length - others.length;
        replace(
          doctor,
          inNet ? h("p", { class: "error-text" }, "The net has to be mended first.") : null,
          entries(others, { mend: byWords }),
          unlisted(error.body.more),
        );
      } else replace(doctor, failure(error));
    } finally {
      doctor.removeAttribute("aria-busy");
    }
  };

  const request = h(
    "details",
    {
      class: "whole",
      ontoggle: (event) => {
        if (event.target.open) drawRequest();
      },
    },
    h("summary", {}, "The whole request as JSON"),
  );
  const drawRequest = () => {
    const area = h("textarea", { class: "mono", rows: "16", value: pretty(draft.body) });
    const wrong = h("p", { class: "error-text", role: "alert" });
    replace(
      request,
      request.querySelector("summary"),
      field("Request", area, {
        wide: true,
        hint: "All that POST /v1/jobs takes: schedulers, early stopping, fine-tuning and more.",
      }),
      wrong,
      button("Use this request", () => {
        try {
          take({ ...blank(), ...JSON.parse(area.value) });
          wrong.textContent = "";
          applyPatch([]);
        } catch (error) {
          wrong.textContent = problemText(error);
        }
      }),
    );
  };

  place.append(
    heading("Train", "Data, a net, an objective. Checked while you type; nothing runs before you say so."),
    h(
      "div",
      { class: "train" },
      h(
        "div",
        { class: "stack wide-gap" },
        card("1 Data", data, about),
        card("2 Net", editor, judged),
        card("3 Training", training),
      ),
      h(
        "aside",
        { class: "stack sticky", "aria-label": "Check and train" },
        card("4 Check", doctor, h("div", { class: "actions" }, submit), request),
      ),
    ),
  );
  watch([], () => {}, null);
  drawEditor();
  drawTraining();
  void examine();
  await drawData();
  if (given) await useDataset(given);
}

// -- data ---------------------------------------------------------------------------------------------------------------

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

function uploadForm(make) {
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
    const { names: columns, delimiter } =
      type === "csv" ? header(start) : { names: type === "jsonl" ? jsonKeys(start) : null };
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
    const go = button(
      "Use this data",
      () =>
        attempt(async () => {
          go.disabled = true;
          go.textContent = "Uploading…";
          try {
            if (!target.value && !["npz", "images"].includes(type)) throw new Error("Say what is to be predicted.");
            const { id } = await upload(file);
            const source =
              type === "npz"
                ? { type, upload: id, inputs: "x", target: "y" }
                : type === "images"
                  ? { type, upload: id, ...(size.value ? { size: [Number(size.value), Number(size.value)] } : {}) }
                  : {
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
            await make(name.value.trim() || file.name, source, odd);
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
          hint: "Such as n/a; unknown. Empty cells are missing anyway.",
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

const START = 65_536;

// The decimal marks and those between thousands that a source may say.
const MARKS = [".", ",", ",.", ".,", ".'", ",'", ", ", ". "];

/** Texts that stand here and there in columns of numbers, such as "n/a": they seem to mean a missing value. */
function oddTexts(names, rows, marks) {
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

const note = (detail) => ({ severity: "warning", detail, pointer: "" });

/** Whether a warning's sentence begins with this column, as the server quotes it. */
const isAbout = (detail, name) =>
  [`'${name}'`, `"${name}"`].some((quoted) => detail.startsWith(`Column ${quoted} is taken as texts`));

function jsonRows(text, names) {
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

const DATE = /^(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([T ,].*)?$/;
const NUMBERING = /(?:^|[_ .-])(?:id|index|row|no|nr)\.?$|nummer$/i;
const CATEGORIES = 50; // a text with more values is none; as `modelyard train` has it

/** Columns of which a net learns nothing, each with the reason. */
function unfit(names, rows) {
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

function jsonKeys(text) {
  try {
    return Object.keys(JSON.parse(text.split("\n")[0]));
  } catch {
    return null;
  }
}

/** Whether a dataset can be made once more of the same file with other columns. */
const canChoose = ({ source }) =>
  ["csv", "jsonl", "parquet"].includes(source.type) &&
  !source.shape &&
  (source.inputs === "*" || Array.isArray(source.inputs));
const OF_A_COLUMN = ["many-missing", "constant-column", "too-many-categories"]; // which may be left out for it
const usedColumns = ({ columns }) => columns.filter((column) => column.role !== "ignored").map((column) => column.name);
const typeOf = (column) =>
  column.role === "ignored" ? "–" : column.shape?.length ? `${column.dtype} ${shape(column.shape)}` : column.dtype;
const ROLES = { ignored: "left out", kept: "for splits" };

function datasetView(dataset, preview, profile, draft, { remake, keep }) {
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
  const withoutIt = (entry) =>
    leave(OF_A_COLUMN.includes(entry.code) && profile.columns[entry.pointer.split("/")[2]]?.name);
  const odd = { remake: (changes) => remake(dataset, changes), leave, keep };
  const warnings = [...dataset.warnings, ...profile.warnings]
    .filter((one) => one.code !== "unscaled-inputs" || !one.hint?.includes('"standardize"'))
    .map((one) => ({ severity: "warning", ...one, ...readings(one, dataset, odd) }))
    .filter(({ column }) => !draft.kept.has(column));
  draft.undecided = warnings.flatMap(({ column }) => column ?? []);
  const told = warnings.filter(({ code }) => !draft.undecided.length || code !== "too-many-categories"); // it may be none
  return h(
    "div",
    { class: "dataset" },
    facts([
      ["Dataset", dataset.name ?? dataset.id],
      ["Rows", number(dataset.rows)],
      ["Size", bytes(dataset.size_bytes)],
    ]),
    told.length ? entries(told, { mend: (entry) => entry.cures ?? withoutIt(entry) }) : null,
    h("h3", {}, "Profile"),
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
          column.name,
          ROLES[column.role] ?? column.role,
          typeOf(column),
          about.min !== undefined && about.min !== null
            ? `${number(about.min)} to ${number(about.max)}`
            : about.distinct
              ? `${about.distinct} different`
              : column.classes
                ? `${column.classes.length} classes`
                : "–",
          column.role === "ignored" ? "–" : number(about.missing ?? 0),
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
    ),
  );
}

const sizes = (value) => (Array.isArray(value) ? [value.length, ...sizes(value[0])] : []);

/** Fill in what suits a dataset: steps, objective, net, batches. A proposal, which the person changes. */
function suggest(draft, dataset, profile) {
  const { body } = draft;
  const inputs = dataset.columns.filter((column) => column.role === "input");
  const target = dataset.columns.find((column) => column.role === "target");
  const seen = profile.columns.find((column) => column.name === target?.name);
  const classes =
    target?.classes?.length ?? (target?.dtype === "int" && seen?.min === 0 && seen.max < 50 ? seen.max + 1 : null);
  const generated = ["polynomial", "gaussian_clouds", "striped_images"].includes(dataset.source.type);
  const texts = inputs.filter((column) => column.dtype === "text");
  const image = inputs.length === 1 && inputs[0].shape.length === 3;
  const absent = inputs.filter((column) => column.dtype !== "text" && column.missing);
  body.preprocessing = absent.length ? [{ type: "impute", columns: absent.map((column) => column.name) }] : [];
  if (!image && !generated && inputs.some((column) => column.dtype !== "text"))
    body.preprocessing.push({ type: "standardize" });
  if (texts.length) body.preprocessing.push({ type: "one_hot" });
  if (!classes && !generated && target?.shape.length === 0)
    body.preprocessing.push({ type: "standardize", of: "target" });
  body.objective = { type: classes ? "cross_entropy" : "mse" };
  const outputs = classes ?? (target?.shape?.length === 1 ? target.shape[0] : 1);
  const width = inputs.reduce(
    (sum, column) =>
      sum +
      (column.dtype === "text"
        ? (column.classes?.length ?? 1)
        : column.shape.reduce((product, size) => product * size, 1)),
    0,
  );
  draft.row = { shape: image || (inputs.length === 1 && inputs[0].shape.length) ? inputs[0].shape : [width], outputs };
  body.architecture = image
    ? imageNet(inputs[0].shape, outputs)
    : rowNet(draft.row.shape, outputs, generated ? [16] : [64, 64]);
  const usual = !image && !generated; // then as `modelyard train` has it
  body.optimizer = { type: "Adam", lr: usual ? 0.003 : 0.01 };
  body.budget = usual ? { epochs: 500, max_seconds: 300 } : { epochs: image ? 8 : 60 };
  body.checkpoint = { every_s: 2 }; // what the pictures and the predictions before the end are made of
  const { rows } = dataset;
  delete body.batch_size;
  if (usual) body.batch_size = rows < 10_000 ? 32 : rows < 200_000 ? 256 : 1024;
  else if (rows >= 200) body.batch_size = image ? 16 : 32;
  delete body.split;
  delete body.early_stopping;
  if (rows >= 30) {
    body.split = { type: usual && classes && classes < rows / 10 ? "stratified" : "random", validation: 0.2, seed: 1 };
    body.checkpoint.publish = "best";
    if (usual) body.early_stopping = { metric: "val_loss", patience: 30 };
  }
}

/** What the net must take and answer: of the data, else of the net as it is. */
function wanted(draft) {
  const was = draft.verdict?.summary;
  return draft.row ?? { shape: was?.inputs[0]?.shape.slice(1) ?? [1], outputs: was?.outputs[0]?.shape.at(-1) ?? 1 };
}

function suggestNet(draft) {
  const { shape: rowShape, outputs } = wanted(draft);
  draft.body.architecture = rowShape.length === 3 ? imageNet(rowShape, outputs) : rowNet(rowShape, outputs);
}

const sequential = (rowShape, layers) => ({
  schema: "arch/1",
  inputs: [{ name: "x", shape: ["B", ...rowShape] }],
  root: { type: "Sequential", layers },
});
const layer = (type, given = {}) => ({
  type,
  ...LAYERS[type][0],
  ...Object.fromEntries(LAYERS[type][1].map(([name, value]) => [name, value])),
  ...given,
});
const rowNet = (rowShape, outputs, hidden = [64, 64]) =>
  sequential(rowShape, [
    ...(rowShape.length > 1 ? [layer("Flatten")] : []),
    ...hidden.flatMap((size) => [layer("Linear", { out_features: size }), layer("ReLU")]),
    layer("Linear", { out_features: outputs }),
  ]);
const imageNet = (rowShape, outputs) =>
  sequential(rowShape, [
    layer("Conv2d"),
    layer("ReLU"),
    layer("MaxPool2d"),
    layer("Conv2d", { out_channels: 16 }),
    layer("ReLU"),
    layer("MaxPool2d"),
    layer("Flatten"),
    layer("Linear", { out_features: outputs }),
  ]);

// -- the net ------------------------------------------------------------------------------------------------------------

function formCan(authored) {
  if (
    !authored ||
    Object.keys(authored).some((key) => !["schema", "inputs", "root"].includes(key)) ||
    authored.inputs?.length !== 1
  )
    return false;
  const { root } = authored;
  return (
    root?.type === "Sequential" &&
    Object.keys(root).every((key) => ["type", "layers"].includes(key)) &&
    Array.isArray(root.layers) &&
    root.layers.every((one) => {
      const known = LAYERS[one.type];
      return (
        known &&
        Object.keys(one).every((key) => key === "type" || key in known[0] || known[1].some(([name]) => name === key))
      );
    })
  );
}

function netForm(authored, set) {
  const rows = h("ol", { class: "layers" });
  let now = authored;
  const write = (layers, focus) => {
    now = { ...now, root: { ...now.root, layers } };
    set(now);
    draw();
    if (focus !== undefined)
      rows.querySelectorAll("li")[Math.min(focus, layers.length - 1)]?.querySelector("select")?.focus();
  };
  const rowShape = h("input", {
    value: now.inputs[0].shape.slice(1).join(", "),
    onchange: (event) => {
      const given = event.target.value
        .split(/[,×x\s]+/)
        .filter(Boolean)
        .map((part) => (/^\d+$/.test(part) ? Number(part) : part));
      now = { ...now, inputs: [{ ...now.inputs[0], shape: ["B", ...given] }] };
      set(now);
    },
  });
  const draw = () => {
    const { layers } = now.root;
    replace(
      rows,
      layers.map((one, i) =>
        h(
          "li",
          {},
          h("span", { class: "layer-number", "aria-hidden": "true" }, i + 1),
          select(
            Object.keys(LAYERS),
            one.type,
            (type) =>
              write(
                layers.map((other, j) => (j === i ? layer(type) : other)),
                i,
              ),
            { "aria-label": `Layer ${i + 1}` },
          ),
          h(
            "div",
            { class: "layer-fields" },
            LAYERS[one.type][1].map(([name, value, whole]) => {
              const id = newId("l");
              return h(
                "span",
                { class: "mini" },
                h("label", { for: id }, name.replaceAll("_", " ")),
                h("input", {
                  id,
                  type: "number",
                  step: whole ? "1" : "any",
                  min: "0",
                  value: String(one[name] ?? value),
                  oninput: (event) => {
                    if (event.target.value === "") return;
                    now = {
                      ...now,
                      root: {
                        ...now.root,
                        layers: now.root.layers.map((other, j) =>
                          j === i ? { ...other, [name]: Number(event.target.value) } : other,
                        ),
                      },
                    };
                    set(now);
                  },
                }),
              );
            }),
          ),
          h(
            "div",
            { class: "layer-buttons" },
            button("↑", () => write(swap(now.root.layers, i, i - 1), i - 1), {
              class: "quiet small",
              disabled: i === 0,
              "aria-label": `Move layer ${i + 1} up`,
            }),
            button("↓", () => write(swap(now.root.layers, i, i + 1), i + 1), {
              class: "quiet small",
              disabled: i === layers.length - 1,
              "aria-label": `Move layer ${i + 1} down`,
            }),
            button(
              "×",
              () =>
                write(
                  now.root.layers.filter((_, j) => j !== i),
                  i,
                ),
              { class: "quiet small", "aria-label": `Remove layer ${i + 1}`, disabled: layers.length === 1 },
            ),
          ),
        ),
      ),
    );
  };
  draw();
  return h(
    "div",
    { class: "stack" },
    field("Shape of one row", rowShape, { hint: "Without the batch, for example 4, or 1, 28, 28." }),
    rows,
    h(
      "div",
      { class: "actions" },
      ["Linear", "ReLU", "Dropout", "Conv2d", "MaxPool2d"].map((type) =>
        button(
          `+ ${type}`,
          () => {
            const { layers } = now.root;
            write([...layers.slice(0, -1), layer(type), ...layers.slice(-1)], layers.length - 1);
          },
          { class: "small" },
        ),
      ),
    ),
  );
}

function swap(list, i, j) {
  const copy = [...list];
  [copy[i], copy[j]] = [copy[j], copy[i]];
  return copy;
}

function jsonEditor(draft, set, changed) {
  const area = h("textarea", {
    class: "mono",
    rows: "18",
    autocapitalize: "off",
    value: draft.broken ? draft.text : pretty(draft.body.architecture),
    oninput: () => {
      draft.text = area.value;
      draft.touched = true;
      try {
        set(JSON.parse(area.value));
      } catch (error) {
        draft.broken = error.message;
        changed();
      }
    },
  });
  return field("Architecture document", area, {
    wide: true,
    hint: "Sequential layers, or a Graph with its forward as lines. Tab leaves the editor.",
  });
}

function catalogueForm(draft, set) {
  const place = h("div", { class: "stack" });
  void attempt(async () => {
    const { data: nets } = await get("/v1/architectures/catalogue");
    const chosen = {
      name: draft.body.architecture?.catalogue ?? nets[0].name,
      params: { ...draft.body.architecture?.params },
    };
    const fields = h("div", { class: "fields" });
    const first = h(
      "div",
      { class: "actions" },
      button("Use this net", () => {
        chosen.params = fitting(draft, nets.find((one) => one.name === chosen.name).params);
        draw();
        write();
      }),
      h("p", { class: "hint" }, "It replaces the net that you have."),
    );
    first.hidden = Boolean(draft.body.architecture?.catalogue);
    const write = () => {
      first.hidden = true;
      set({ catalogue: chosen.name, params: chosen.params });
    };
    const draw = () =>
      replace(
        fields,
        Object.entries(nets.find((one) => one.name === chosen.name).params).map(([name, usual]) => {
          const value = chosen.params[name] ?? usual;
          const read = (text) =>
            Array.isArray(usual)
              ? text
                  .split(/[,\s]+/)
                  .filter(Boolean)
                  .map(Number)
              : Number(text);
          if (typeof usual === "boolean")
            return check(name.replaceAll("_", " "), value, (on) => {
              chosen.params[name] = on;
              write();
            });
          return field(
            name.replaceAll("_", " "),
            h("input", {
              type: Array.isArray(usual) ? "text" : "number",
              step: "any",
              value: Array.isArray(value) ? value.join(", ") : String(value),
              oninput: (event) => {
                if (event.target.value === "") return;
                chosen.params[name] = read(event.target.value);
                write();
              },
            }),
          );
        }),
      );
    replace(
      place,
      field(
        "Net",
        select(
          nets.map((one) => one.name),
          chosen.name,
          (name) => {
            chosen.name = name;
            chosen.params = fitting(draft, nets.find((one) => one.name === name).params);
            draw();
            write();
          },
        ),
      ),
      fields,
      first,
    );
    draw();
  });
  return place;
}

function fitting(draft, params) {
  const { shape: rowShape, outputs } = wanted(draft);
  const found = {};
  if ("in_features" in params) found.in_features = rowShape.reduce((product, size) => product * size, 1);
  if ("in_channels" in params && rowShape.length === 3) found.in_channels = rowShape[0];
  if ("num_classes" in params) found.num_classes = outputs;
  if ("hidden" in params) found.hidden = [32, 32];
  return found;
}

// -- training -----------------------------------------------------------------------------------------------------------

function trainingForm(body, changed, redraw) {
  const set = (work) => (value) => {
    change(body, () => work(value));
    changed();
  };
  const numeric = (value, props, work) =>
    h("input", {
      type: "number",
      value: value === undefined || value === null ? "" : String(value),
      ...props,
      oninput: (event) => {
        work(event.target.value === "" ? undefined : Number(event.target.value));
        changed();
      },
    });
  const put = (name, part) => (value) => {
    const owner = part ? (body[part] ??= {}) : body; // as it is then: another optimizer is another object
    if (value === undefined) delete owner[name];
    else owner[name] = value;
  };
  const classifies = () => CLASSIFY.includes(body.objective?.type);
  const steps = () => body.preprocessing ?? [];
  const place = ({ type, of }) => (of === "target" ? 3 : ["impute", "standardize", "one_hot"].indexOf(type));
  const prepared = (label, step, hint) => {
    const isIt = (one) => one.type === step.type && (one.of === "target") === (step.of === "target");
    return check(
      label,
      steps().some(isIt),
      set((on) => {
        const others = steps().filter((one) => !isIt(one));
        const later = others.filter((one) => place(one) > place(step));
        body.preprocessing = on ? [...others.filter((one) => !later.includes(one)), step, ...later] : others;
        redraw();
      }),
      { hint },
    );
  };
  const alias = body.output?.alias_on_success;
  const engine = body.output?.engine?.type ?? "";
  return h(
    "div",
    { class: "stack" },
    h(
      "div",
      { class: "fields" },
      field(
        "Objective",
        select(
          OBJECTIVES,
          body.objective?.type,
          set((value) => {
            const before = classifies();
            body.objective = { type: value };
            if (classifies()) body.preprocessing = steps().filter((step) => step.of !== "target");
            if (before !== classifies()) redraw();
          }),
        ),
        { wide: true, hint: "How the error of an answer is measured. Training makes it small." },
      ),
      field(
        "Optimizer",
        select(
          OPTIMIZERS,
          body.optimizer?.type,
          set((value) => {
            body.optimizer = { type: value, lr: body.optimizer?.lr };
          }),
        ),
      ),
      field("Learning rate", numeric(body.optimizer?.lr, { step: "any", min: "0" }, put("lr", "optimizer"))),
      field("Epochs", numeric(body.budget?.epochs, { min: "1", step: "1" }, put("epochs", "budget"))),
      field(
        "Batch size",
        numeric(body.batch_size, { min: "1", step: "1", placeholder: "all rows" }, put("batch_size")),
      ),
      field(
        "Held out for validation",
        select(
          [
            ["0", "nothing"],
            ["0.1", "10 %"],
            ["0.2", "20 %"],
            ["0.3", "30 %"],
          ],
          String(body.split?.validation ?? 0),
          set((value) => {
            if (value === "0") {
              delete body.split;
              delete body.early_stopping;
            } else body.split = { type: "random", seed: 1, ...body.split, validation: Number(value) };
          }),
        ),
      ),
      field(
        "Answers are computed by",
        select(
          ENGINES,
          engine,
          set((value) => {
            if (value) body.output.engine = { type: value };
            else delete body.output.engine;
          }),
        ),
      ),
      field("Seed", numeric(body.seed, { min: "0", step: "1" }, put("seed"))),
      field(
        "Name of the model",
        h("input", {
          value: body.output?.model ?? "",
          autocomplete: "off",
          oninput: (event) => {
            body.output.model = event.target.value.trim();
            changed();
          },
        }),
      ),
    ),
    h(
      "div",
      { class: "checks" },
      prepared(
        "Standardize numbers",
        { type: "standardize" },
        "To mean 0 and spread 1; part of the version, so predict does it too.",
      ),
      classifies()
        ? null
        : prepared(
            "Standardize the target",
            { type: "standardize", of: "target" },
            "Answers come in its own units all the same.",
          ),
      prepared(
        "Fill missing numbers",
        { type: "impute" },
        "With the mean of the training rows; part of the version, so predict does it too.",
      ),
      prepared("Encode texts as one-hot", { type: "one_hot" }),
      check(
        "Make it the champion when it succeeds",
        Boolean(alias),
        (on) => {
          if (on) body.output.alias_on_success = "champion";
          else delete body.output.alias_on_success;
          redraw();
          changed();
        },
        { hint: "Its answers are then what others get." },
      ),
      alias
        ? check(
            "Only if it is better",
            typeof alias === "object",
            (on) => {
              body.output.alias_on_success = on ? ifBetter(body) : "champion";
              redraw();
              changed();
            },
            { hint: typeof alias === "object" ? `If ${Object.values(alias)[0]}.` : "Than the champion that there is." },
          )
        : null,
    ),
  );
}
