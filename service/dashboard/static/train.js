// Train: data, a net, how to train it, what the server thinks of it, and off it goes.
// The request is the one truth: each section shows its part and writes to it, so a patch can mend any of it.

import { all, get, post, refused, send, subject, Problem, watch } from "./api.js";
import { datasetList, datasetView, named, newestDatasets } from "./dataset.js";
import { button, field, h, replace, tabs } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { bytes, count, number, patched, placeInNet, plainName, pretty, seconds } from "./format.js";
import { catalogueForm, formCan, jsonEditor, netForm, netWords, suggestNet } from "./net.js";
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
  metricName,
  net,
  pointAt,
  problemText,
  unfolding,
  unlisted,
} from "./parts.js";
import { CLASSIFY, blank, change, ifBetter, suggest, weighClasses } from "./request.js";
import { reveal, trainingForm } from "./training.js";
import { uploadForm } from "./upload.js";

const rareWords = ({ count, values }) =>
  count === 1
    ? `Only one row is of the class ${values[0]}: ${remedyOf("it is", "it")}`
    : `Only one row each is of the classes ${values.join(", ")}${
        count > values.length ? ` and ${count - values.length} more` : ""
      }: ${remedyOf("they are", "them")}`;
const remedyOf = (are, them) =>
  `no held-out row can tell whether ${are} learnt. Add rows of ${them}, or leave ${them} out of the file.`;

export async function page(place, { params: [id], onLeave }) {
  const given = id && (await subject(get(`/v1/datasets/${encodeURIComponent(id)}`), `There is no dataset ${id}.`));
  const draft = {
    body: blank(),
    dataset: null,
    reasons: null, // for which columns of a file were left out; of a dataset that was here they are not known
    kept: new Set(), // columns that are one of texts by few cells, and are to be
    rare: null, // how many classes have one row alone, and some of these
    undecided: [], // those that nobody has decided about
    told: new Set(), // what the data's section warns of
    verdict: null,
    unfolded: null, // whether the layers are to be seen, once somebody has said so
    broken: null,
    mode: null,
    text: null,
  };
  const data = h("div", {});
  const source = unfolding("Other data", data, true, "a file, a dataset that is here, or an example");
  const about = h("div", {});
  const form = h("div", {});
  const layersTold = h("span", {});
  const changing = unfolding("Change the net", form, false, layersTold);
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
    layersTold.textContent = netWords(draft.body.architecture);
    later("validate", 250, validate);
    later("examine", 600, examine);
  };

  // -- data ------------------------------------------------------------------------------------------------------------
  let turn = 0;
  onLeave(() => {
    turn += 1;
  });
  /** Other data are asked for. What comes back says whether they are still wanted: no later ones, and the page is here. */
  const begin = () => {
    turn += 1;
    const mine = turn;
    return () => mine === turn;
  };
  const useDataset = async (dataset, wanted) => {
    draft.dataset = dataset;
    draft.body.dataset = dataset.id;
    replace(about, h("p", { class: "empty" }, "Reading the data…"));
    const [preview, profile] = await Promise.all([
      get(`/v1/datasets/${dataset.id}/preview?limit=5`),
      get(`/v1/datasets/${dataset.id}/profile`),
    ]);
    if (!wanted()) return;
    draft.rare = profile.columns.find(({ role }) => role === "target")?.rare ?? null;
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
    const weigh = () => {
      change(draft.body, () => weighClasses(draft.body));
      drawTraining();
      changed();
      training.querySelector(`[data-option="weight"] input`).focus();
      announce("Classes are weighed equally.");
    };
    const show = () =>
      replace(
        about,
        datasetView(dataset, preview, profile, draft, { remake, keep, weigh }),
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
  let remaking = false;
  const read = async (name, source, wanted) => {
    let dataset = await post("/v1/datasets", { name, source });
    while (wanted() && dataset.state === "processing") {
      await new Promise((resolve) => {
        setTimeout(resolve, 500);
      });
      dataset = await get(`/v1/datasets/${dataset.id}`);
    }
    if (dataset.state === "failed") throw new Problem(422, dataset.error);
    return dataset;
  };
  /** `source`, or what is awaited for it: a file is on its way. */
  const make = async (name, coming, reasons = null) => {
    const wanted = begin();
    let source = null;
    replace(about, h("p", { class: "empty" }, "Reading the data…"));
    try {
      source = await coming;
      if (!wanted()) return;
      const dataset = await read(name, source, wanted);
      if (!wanted()) return;
      mine = dataset.id;
      await use(dataset, reasons, wanted);
    } catch (error) {
      if (!wanted()) return;
      replace(
        about,
        refusal(error, async (members) => {
          await make(name, { ...source, ...members }, reasons);
          about.querySelector(".scroll")?.focus({ preventScroll: true });
        }),
      );
    }
  };
  // The same file once more, read otherwise; what this page made of it before is not needed then.
  const remake = (dataset, changes) =>
    attempt(async () => {
      if (remaking) return; // the other remedies stand there again afterwards, for what came of this one
      const wanted = begin();
      remaking = true;
      about.setAttribute("aria-busy", "true");
      try {
        about.querySelector(":scope > .refusal")?.remove();
        const made = await read(dataset.name, { ...dataset.source, ...changes }, wanted);
        if (!wanted()) return;
        await useDataset(made, wanted); // from here on no request of this page names the one before
        if (mine === dataset.id) await send("DELETE", `/v1/datasets/${dataset.id}`).catch(() => {});
        mine = made.id;
        about.querySelector(".scroll")?.focus({ preventScroll: true });
      } catch (error) {
        if (!wanted()) return;
        if (!unlabelled(error)) throw error;
        about.prepend(refusal(error, (members) => remake(dataset, { ...changes, ...members })));
        about.querySelector(".refusal button").focus();
      } finally {
        remaking = false;
        about.removeAttribute("aria-busy");
      }
    });
  /** Data is there: where it comes from is folded, and opens again for other data. */
  const fold = () => {
    const { activeElement: at } = document;
    const summary = source.querySelector("summary");
    summary.hidden = false;
    source.open = false;
    if (at === document.body || data.contains(at)) summary.focus(); // what was pressed is no longer in sight
  };
  const use = async (dataset, reasons = null, wanted = begin()) => {
    draft.reasons = reasons;
    draft.kept.clear();
    await useDataset(dataset, wanted);
    if (wanted()) fold();
  };
  const drawData = async () => {
    const here = await newestDatasets();
    const known = named(here.data);
    replace(
      data,
      tabs(
        "Where the data comes from",
        [
          ["upload", "Upload a file", () => uploadForm(make)],
          ["known", `Datasets here (${known.length}${here.next ? "+" : ""})`, () => datasetList(here, use)],
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
    if (!changing.isConnected) replace(editor, changing);
    replace(
      form,
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
          drawVerdict();
        },
      ),
    );
  };
  const goTo = (entry) => {
    changing.open = true;
    if (draft.mode !== "json") {
      draft.mode = "json";
      drawEditor();
      drawVerdict();
    }
    const area = editor.querySelector("textarea");
    pointAt(area, entry.pointer);
  };
  const mendNet = (patch) => {
    setNet(patched(draft.body.architecture, patch));
    drawEditor();
    announce("Mended.");
  };
  const drawVerdict = () => {
    const { verdict } = draft;
    if (!verdict) return; // it is asked for
    const json = draft.mode === "json";
    const open = draft.unfolded ?? (draft.touched ? undefined : false);
    const layers =
      verdict.summary &&
      unfolding(
        "Layers and drawing",
        net(verdict.summary, verdict.mermaid),
        open,
        `${count(verdict.summary.parameters)} parameters`,
      );
    layers?.querySelector("summary").addEventListener("click", () => {
      draft.unfolded = !layers.open;
    });
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
        json,
        mend: byHint(() => draft.body.architecture, mendNet),
        where: placeInNet,
      }),
      layers,
    );
  };
  const validate = async (signal) => {
    draft.verdict = null;
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
      draft.verdict = await post("/v1/architectures/validate?drawing=true", draft.body.architecture, { signal });
      drawVerdict();
    } catch (error) {
      if (error.name !== "AbortError") replace(judged, failure(error));
    }
  };

  // -- training --------------------------------------------------------------------------------------------------------
  const drawTraining = () => {
    const fields = () => [...training.querySelectorAll("input, select")];
    const at = fields().indexOf(document.activeElement);
    const folds = () => [...training.querySelectorAll("details")];
    const were = folds().map(({ open }) => open);
    replace(
      training,
      draft.body.dataset
        ? trainingForm(draft.body, changed, drawTraining)
        : emptyState("Choose data first: objective, epochs and the rest are then filled in, and yours to change."),
    );
    folds().forEach((one, i) => {
      one.open = were[i] ?? false;
    });
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
  const outcome = h("p", { class: "outcome" }); // beside the button, where the page is narrow and the check is far
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
  const onlyIfBetter = () => {
    draft.body.output.alias_on_success = ifBetter(draft.body);
    drawTraining();
    changed();
    training.querySelector(`[data-option="better"] input`).focus();
    announce("It becomes the champion only if it is better.");
  };
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
      replace(outcome, body.dataset ? "Something is still needed." : "Begin with the data.");
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
      const left = out.map(({ name }) => ({ name, reason: draft.reasons?.get(name) ?? "" }));
      const told = [
        ...left.flatMap(({ name, reason }) => (/unit/.test(reason) ? note(`${name} is left out. ${reason}`) : [])),
        ...(here && draft.rare?.count && CLASSIFY.includes(body.objective.type) ? [note(rareWords(draft.rare))] : []),
        ...found.warnings.filter(
          ({ code, detail, patch }) =>
            !here || (code !== "nearly-numbers" && (patch || !draft.told.has(detail))), // decided, or told above
        ),
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
      const early = Boolean(body.early_stopping); // it may end before
      submit.disabled = !found.valid;
      reveal(training, found.warnings.flatMap(({ severity, pointer }) => (severity === "error" ? pointer : [])));
      replace(
        outcome,
        h("strong", {}, bad ? "Mistakes to mend" : outlook(found, early)),
        h("br"),
        `4 Check: ${told.length ? (told.length === 1 ? "one remark" : `${told.length} remarks`) : "no remarks"}`,
      );
      replace(
        doctor,
        facts([
          [
            "Rows",
            found.plan.rows
              ? Object.entries(found.plan.rows)
                  .map(([part, rows]) => `${count(rows)} ${part}`)
                  .join(", ")
              : "–",
          ],
          [early ? "Steps at most" : "Steps", count(found.plan.steps)],
          ["Parameters", count(found.plan.parameters)],
          early && Number.isFinite(found.estimate_s)
            ? ["Takes at most", `about ${seconds(found.estimate_s)}`]
            : ["Takes about", seconds(found.estimate_s)],
          ["Memory", bytes(found.memory_bytes)],
        ]),
        before &&
          h(
            "div",
            { class: "callout" },
            h("p", {}, before),
            body.output.alias_on_success === "champion"
              ? h("div", { class: "actions" }, button("Only if it is better", onlyIfBetter, { class: "small" }))
              : null,
          ),
        told.length
          ? entries(told, {
              mend: (entry) =>
                entry.patch ? { words: "Mend this", act: () => applyPatch(entry.patch) } : byWords(entry),
            })
          : h("p", { class: "ok" }, "Nothing to complain about."),
        bad ? h("p", { class: "error-text" }, "Mend the mistakes, then train.") : null,
        left.length > 0 &&
          h("p", { class: "hint more" }, `Left out of the inputs${draft.reasons ? "" : ", as the dataset was made"}:`),
        left.slice(0, 20).map(({ name, reason }) => h("p", { class: "hint" }, h("strong", {}, name), " ", reason)),
      );
    } catch (error) {
      if (error.name === "AbortError") return;
      replace(outcome, h("strong", {}, "Mistakes to mend"), h("br"), "See 4 Check.");
      if (error instanceof Problem && error.entries.length && !refused(error)) {
        const others = error.entries.filter((entry) => !entry.pointer.startsWith("/architecture/"));
        reveal(training, others.map(({ pointer }) => pointer));
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
        card("1 Data", source, about),
        card("2 Net", editor, judged),
        card("3 Training", training),
      ),
      h(
        "aside",
        { class: "stack sticky", "aria-label": "Check and train" },
        card("4 Check", doctor, h("div", { class: "bar" }, outcome, submit), request),
      ),
    ),
  );
  source.querySelector("summary").hidden = true; // until there is data
  source.addEventListener("dragenter", () => {
    source.open = true;
  });
  watch([], () => {}, null);
  drawEditor();
  drawTraining();
  void examine();
  await drawData();
  if (given) {
    await useDataset(given, begin());
    source.open = false;
    source.querySelector("summary").hidden = false;
  }
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

const lacksLabel = ({ expected }) => /^{"unlabelled"/.test(expected);

/** The members of a source that leave out rows for which its file is refused, as the server names them; or null. */
function unlabelled({ entries: found = [] }) {
  const members = found.find(lacksLabel)?.expected;
  return members ? JSON.parse(members) : null;
}

/** Why a file was not read; rows without a label are left out at a press. */
function refusal(error, skip) {
  const members = unlabelled(error);
  if (!members) return h("div", { class: "refusal" }, failure(error));
  const errors = error.entries.map((entry) => (lacksLabel(entry) ? { ...entry, hint: null } : entry));
  return h(
    "div",
    { class: "refusal" },
    failure(new Problem(error.status, { ...error.body, errors })),
    h(
      "div",
      { class: "actions" },
      button("Skip these rows", () => skip(members), { class: "primary" }),
      h("p", { class: "hint" }, "What is to be learnt must be known in every row: skip those, or fill it in."),
    ),
  );
}

/** What a job would do, in a few words. */
const outlook = ({ plan, estimate_s: time }, early) =>
  [
    Number.isFinite(plan.steps) && `${count(plan.steps)} steps${early ? " at most" : ""}`,
    Number.isFinite(time) && `about ${seconds(time)}`,
  ]
    .filter(Boolean)
    .join(", ") || "Ready";

const note = (detail) => ({ severity: "warning", detail, pointer: "" });
