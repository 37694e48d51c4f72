// Models: the list; one model with its versions, aliases and history; one version; two compared.

import { all, download, get, perhaps, post, send, subject, tagOf, watch } from "./api.js";
import { figures } from "./charts.js";
import { block, button, code, copyButton, field, h, replace, select, sure, table, tabs } from "./dom.js";
import { ago, answered, at, bytes, count, number, pretty, shape } from "./format.js";
import {
  attempt,
  card,
  datasetLink,
  digestOf,
  facts,
  failure,
  folded,
  heading,
  later,
  metricName,
  metricsOf,
  net,
  noModel,
  notify,
} from "./parts.js";

const ALIAS = "champion";
const address = (model) => `/v1/models/${encodeURIComponent(model)}`;

export async function list(place) {
  const rows = h("div", {});
  const load = async () => {
    const models = await all("/v1/models");
    replace(
      rows,
      models.length
        ? table(
            "Models",
            [
              "Model",
              "Champion",
              "Other aliases",
              { label: "Versions", numeric: true },
              "Notes",
              "Changed",
              { label: "Try", hidden: true },
            ],
            models.map((model) => [
              h("a", { href: `#/models/${model.model}` }, model.model),
              model.aliases[ALIAS] === undefined
                ? h("span", { class: "muted" }, "none")
                : `version ${model.aliases[ALIAS]}`,
              Object.entries(model.aliases)
                .filter(([name]) => name !== ALIAS)
                .map(([name, version]) => h("span", { class: "chip" }, `${name} → ${version}`)),
              count(model.versions),
              h("span", { class: "clip" }, model.notes || "–"),
              ago(model.updated_at),
              h("a", { href: `#/playground/${model.model}`, "aria-label": `Try ${model.model}` }, "Try"),
            ]),
            { stacked: true },
          )
        : noModel("No model yet."),
    );
  };
  place.append(
    heading(
      "Models",
      "Every model is a name with numbered versions; aliases say which of them answers.",
      h("div", { class: "actions" }, h("a", { class: "button primary", href: "#/train" }, "Train a model")),
    ),
    h("div", { class: "card" }, rows),
  );
  watch(
    [],
    (event) => {
      if (event.type === "done") void attempt(load);
    },
    null,
    () => attempt(load),
  );
  await load();
}

export async function page(place, { params: [name, chosenNumber], query }) {
  const state = {
    model: null,
    versions: [],
    history: [],
    known: {},
    shown: chosenNumber ? Number(chosenNumber) : null,
  };
  const head = h("div", {});
  const versions = h("div", { class: "versions" });
  const detail = h("div", {});
  const compare = h("div", {});
  const history = h("div", {});
  const beside = h("p", { class: "lead" });
  const champion = `${address(name)}/aliases/${ALIAS}`;

  const load = async () => {
    [state.model, state.versions] = await subject(
      Promise.all([get(address(name)), all(`${address(name)}/versions`)]),
      `There is no model ${name}.`,
    );
    state.versions.sort((a, b) => b.version - a.version);
    const there = state.model.aliases[ALIAS] !== undefined;
    // What is pressed holds for what is shown: where the alias has moved since, the server refuses it.
    state.known = there ? { "If-Match": await perhaps(tagOf(champion)) } : { "If-None-Match": "*" };
    state.history = (there && (await perhaps(get(`${champion}/history?limit=200`)))?.data) || [];
    state.shown ??= state.model.aliases[ALIAS] ?? state.model.latest; // and stays, wherever the champion goes
    draw();
    drawHistory();
  };
  let acting = false;
  const act = (verb, version, work) => async () => {
    if (acting) return; // pressed twice: the second one would go further back
    acting = true;
    const headers = state.known; // as it is told, whatever is loaded meanwhile
    const now = state.model.aliases[ALIAS] ?? state.model.latest;
    const alone = state.history[0]?.canary ? "alone" : "also when there are newer versions";
    const then = now === version ? alone : `instead of version ${now}`;
    const words = `Version ${version} answers whoever asks ${name} from now on, ${then}.`;
    const why = verb === "Promote" || alone === "alone" ? "" : ` It was the champion before version ${now} became it.`;
    const what = `${verb} version ${version}`;
    if (await sure(`${what}?`, h("p", {}, words, why), what)) {
      await attempt(async () => {
        state.changed = (await work({ headers })).version;
        notify(`Version ${state.changed} is the champion.`);
      });
      await attempt(load); // also where it was refused: the page was old then
    }
    acting = false;
  };
  const draw = () => {
    const { model } = state;
    const serving = model.aliases[ALIAS] ?? model.latest;
    const back = before(state);
    const focused = document.activeElement?.dataset?.focus;
    replace(
      head,
      h(
        "header",
        { class: "head" },
        h(
          "div",
          {},
          h("p", { class: "crumbs" }, h("a", { href: "#/models" }, "Models"), " / ", model.model),
          h("h1", {}, model.model),
          h(
            "p",
            { class: "lead" },
            model.aliases[ALIAS] === undefined
              ? `No champion: the newest version, ${serving ?? "none"}, answers.`
              : `Version ${serving} is the champion and answers.`,
          ),
          beside,
        ),
        h(
          "div",
          { class: "actions" },
          h("a", { class: "button primary", href: `#/playground/${name}` }, "Ask it"),
          back
            ? button(
                "Roll back",
                act("Roll back to", back, (when) => post(`${champion}/rollback`, {}, when)),
                { data: { focus: "rollback" } },
              )
            : null,
        ),
      ),
    );
    const metrics = metricsOf(Object.assign({}, ...state.versions.map((version) => version.metrics)))
      .map(([metric]) => metric)
      .slice(0, 4);
    replace(
      versions,
      table(
        `Versions of ${name}`,
        [
          "Version",
          "Aliases",
          ...metrics.map((metric) => ({ label: metricName(metric), numeric: true })),
          { label: "Size", numeric: true },
          "Made",
          { label: "Actions", hidden: true },
        ],
        state.versions.map((version) => ({
          class: [version.version === state.shown && "selected", version.version === state.changed && "changed"],
          data: { version: version.version },
          cells: [
            h(
              "a",
              {
                href: `#/models/${name}/${version.version}`,
                "aria-current": version.version === state.shown ? "true" : null,
              },
              `Version ${version.version}`,
            ),
            version.state !== "ready"
              ? h("span", { class: "badge failed" }, version.state)
              : version.aliases.length
                ? version.aliases.map((alias) => h("span", { class: `chip${alias === ALIAS ? " on" : ""}` }, alias))
                : h("span", { class: "muted" }, "–"),
            ...metrics.map((metric) => number(version.metrics[metric])),
            bytes(version.size_bytes),
            ago(version.created_at),
            version.aliases.includes(ALIAS) || version.state !== "ready"
              ? ""
              : button(
                  "Promote",
                  act("Promote", version.version, (when) =>
                    send("PUT", champion, { version: version.version, reason: "promoted in the dashboard" }, when),
                  ),
                  {
                    class: "small",
                    data: { focus: `promote-${version.version}` },
                    "aria-label": `Promote version ${version.version}`,
                  },
                ),
          ],
        })),
        { empty: "All versions of this model were deleted.", stacked: true },
      ),
    );
    if (focused)
      (
        head.querySelector(`[data-focus="${focused}"]`) ??
        versions.querySelector(`[data-focus="${focused}"]`) ??
        versions.querySelector(`[data-version="${focused.split("-")[1]}"] a`) ??
        versions.querySelector("tr.selected a")
      )?.focus();
  };
  const drawHistory = () => {
    const canary = state.history[0]?.canary;
    beside.textContent = canary ? `Version ${canary.version} takes ${canary.percent} % of its requests.` : "";
    const told = state.history.slice(0, TOLD);
    const known = told.some((change) => change.by); // who asked by a request is not
    replace(
      history,
      table(
        "History of the champion",
        ["When", "From", "To", "Why", ...(known ? ["By"] : [])],
        told.map((change) => [
          at(change.at),
          change.previous ?? "–",
          change.canary
            ? `${change.version}, canary ${change.canary.version} (${change.canary.percent} %)`
            : (change.version ?? "removed"),
          change.reason ?? change.action,
          ...(known ? [whoOf(change)] : []),
        ]),
        { empty: "No version was champion yet.", stacked: true },
      ),
    );
  };
  await load();
  place.append(head, card("Versions", versions), detail, compare, folded("History", history));
  if (state.shown)
    replace(
      detail,
      await versionCard(
        name,
        state.versions.find((version) => version.version === state.shown) ??
          (await get(`${address(name)}/versions/${state.shown}`)),
      ),
    );
  if (state.versions.length > 1)
    replace(
      compare,
      compareCard(
        name,
        state.versions.map((version) => version.version),
        query,
      ),
    );
  watch(
    [],
    (event) => {
      if (event.type === "done") void attempt(load);
    },
    null,
    () => attempt(load),
  );
}

const TOLD = 20; // changes of an alias that are shown

/** How a file's digest begins, and the whole of it to copy. */
const digestCell = ({ name, sha256 }) => [
  digestOf(sha256, 16),
  " ",
  copyButton(sha256, { "aria-label": `Copy the SHA-256 of ${name}` }),
];

const whoOf = ({ by }) =>
  by?.startsWith("job_")
    ? h("a", { href: `#/jobs/${by}` }, "a job")
    : by === "guard"
      ? "its guard"
      : (by ?? h("span", { class: "muted" }, "not recorded"));

/** The version that answers after a rollback; undefined where there is none to go back to. */
function before({ model, versions, history }) {
  if (model.aliases[ALIAS] === undefined) return undefined;
  if (history[0]?.canary) return model.aliases[ALIAS]; // alone then
  const trail = []; // the versions that lead to the present one: what was rolled back is not among them
  for (const { action, version } of [...history].reverse()) {
    if (action === "delete") trail.length = 0;
    else if (action === "rollback") while (trail.length && trail.at(-1) !== version) trail.pop();
    else trail.push(version);
  }
  const ready = new Set(versions.filter((one) => one.state === "ready").map((one) => one.version));
  return trail.slice(0, -1).findLast((version) => version !== model.aliases[ALIAS] && ready.has(version));
}

async function versionCard(name, version) {
  const path = `${address(name)}/versions/${version.version}`;
  const { lineage } = version;
  const save = (kind, text, file) => button(text, () => attempt(() => download(`${path}/${kind}`, file)));
  const base = `${name}-${version.version}`;
  const checked = h("span", { role: "status" });
  return card(
    `Version ${version.version}`,
    facts([
      ...metricsOf(version.metrics).map(([metric, value]) => [metricName(metric), number(value)]),
      [
        "Takes",
        version.signature.columns
          ? version.signature.columns.join(", ")
          : version.signature.inputs.map((input) => `${input.name} ${shape(input.shape)}`).join(", "),
      ],
      [
        "Answers",
        version.classes
          ? version.classes.join(", ")
          : version.signature.outputs.map((output) => `${output.name} ${shape(output.shape)}`).join(", "),
      ],
    ]),
    tabs("About the version", [
      [
        "net",
        "Net",
        () =>
          later(async () => {
            const [summary, mermaid] = await Promise.all([
              get(`${path}/architecture?view=summary`),
              get(`${path}/architecture?view=mermaid`),
            ]);
            return net(summary, mermaid);
          }),
      ],
      ["figures", "Figures", () => figures(path)],
      ["python", "Python", () => later(async () => code(await get(`${path}/python`), "The net as Python"))],
      [
        "lineage",
        "Lineage",
        () =>
          h(
            "div",
            {},
            facts([
              [
                "Made by",
                lineage.job ? h("a", { href: `#/jobs/${lineage.job}` }, `job …${lineage.job.slice(-8)}`) : "an import",
              ],
              ["Dataset", lineage.dataset ? datasetLink(lineage.dataset.id) : "–"],
              ["Data digest", lineage.dataset ? digestOf(lineage.dataset.digest) : "–"],
              [
                "Rows",
                lineage.rows
                  ? Object.entries(lineage.rows)
                      .map(([part, rows]) => `${count(rows)} ${part}`)
                      .join(", ")
                  : "–",
              ],
              ["Epochs", count(lineage.epochs)],
              ["Steps", count(lineage.steps)],
              ["Stopped by", lineage.stopped_by ?? "–"],
              ["Seed", lineage.seed ?? "–"],
              ["Made", at(version.created_at)],
              ["torch", lineage.environment?.torch ?? "–"],
            ]),
            facts([
              ["Version digest", h("code", { class: "wrap" }, version.digest)],
              ["Architecture", h("code", { class: "wrap" }, version.architecture_digest)],
              ["Weights", h("code", { class: "wrap" }, version.weights_digest)],
            ]),
          ),
      ],
      [
        "files",
        "Files",
        () =>
          h(
            "div",
            {},
            table(
              "Files of the version",
              ["File", { label: "Size", numeric: true }, "SHA-256"],
              version.files.map((file) => [file.name, bytes(file.size_bytes), digestCell(file)]),
              { stacked: true },
            ),
            h(
              "div",
              { class: "actions" },
              save("weights", "Weights (.pt)", `${base}.pt`),
              save("weights?format=safetensors", "Weights (.safetensors)", `${base}.safetensors`),
              save("bundle", "Bundle (.zip)", `${base}.zip`),
              button(
                "Verify",
                () =>
                  attempt(async () => {
                    const found = await post(`${path}/verify`);
                    checked.textContent = found.ok
                      ? "All files have the digests of the manifest."
                      : `Changed on disk: ${found.mismatches.map((one) => one.file).join(", ")}.`;
                  }),
                { class: "quiet" },
              ),
              checked,
            ),
          ),
      ],
      ["pre", "Preprocessing", () => block("Preprocessing", pretty(version.preprocessing))],
    ]),
  );
}

function compareCard(name, numbers, query) {
  const chosen = { a: Number(query.get("a")) || numbers[1], b: Number(query.get("b")) || numbers[0] };
  const result = h("div", {});
  const run = () =>
    replace(
      result,
      later(() => comparison(name, chosen.a, chosen.b)),
    );
  const choose = (key) =>
    select(
      numbers.map((version) => [String(version), `Version ${version}`]),
      String(chosen[key]),
      (value) => {
        chosen[key] = Number(value);
        run();
      },
    );
  const made = folded(
    "Compare",
    h("div", { class: "row" }, field("From", choose("a")), field("To", choose("b")), button("Compare", run)),
    result,
  );
  if (query.get("a")) {
    made.open = true;
    run();
  }
  return made;
}

async function comparison(name, a, b) {
  const [one, other, { metrics, same_rows: same, architecture }] = await Promise.all([
    get(`${address(name)}/versions/${a}`),
    get(`${address(name)}/versions/${b}`),
    get(`${address(name)}/compare?a=${a}&b=${b}`),
  ]);
  const predictions = await changed(name, one, other).catch((error) => failure(error));
  return h(
    "div",
    { class: "compare" },
    h("h3", {}, "Metrics"),
    table(
      "Metrics of both",
      [
        "Metric",
        { label: `Version ${a}`, numeric: true },
        { label: `Version ${b}`, numeric: true },
        { label: "Difference", numeric: true },
      ],
      metricsOf(metrics).map(([metric, { a: before, b: after }]) => {
        const change = (after ?? NaN) - (before ?? NaN);
        return [
          metricName(metric),
          number(before),
          number(after),
          `${change > 0 ? "+" : change < 0 ? "−" : ""}${number(Math.abs(change))}`,
        ];
      }),
    ),
    same === false &&
      h(
        "p",
        { class: "callout warn more" },
        "These figures come from different rows: the versions had other data, or another split of it. ",
        "So they do not tell which is better.",
      ),
    h("h3", {}, "Architecture"),
    architecture.equal
      ? h("p", {}, "The same net.")
      : h(
          "ul",
          {},
          architecture.changes.map((change) => h("li", {}, change.detail)),
        ),
    h("h3", {}, "Predictions"),
    predictions,
  );
}

/** What both versions answer to the first rows of data that has what both take. */
async function changed(name, one, other) {
  const both = [one, other];
  const ids = new Set([other, one].map(({ lineage }) => lineage.dataset?.id).filter(Boolean));
  const coming = [...ids].map(async (id) => ({ id, ...(await perhaps(get(`/v1/datasets/${id}/preview?limit=50`))) }));
  const previews = (await Promise.all(coming)).filter(({ rows }) => rows);
  if (!previews.length) return h("p", {}, "The data that they were trained on is not here any more.");
  if (both.some(({ signature }) => signature.inputs.length > 1))
    return h("p", {}, "Predictions of versions with several inputs are not compared here.");
  const asked = previews
    .map((preview) => ({ ...preview, seen: preview.rows, rows: both.map((version) => rowsFor(preview, version)) }))
    .find(({ rows }) => rows.every(Boolean));
  if (!asked) return unlike(one, other);
  const { rows } = asked;
  const answers = await Promise.all(
    both.map((version, k) => post(`${address(name)}/versions/${version.version}/predict`, { inputs: rows[k] })),
  );
  const differing = rows[0]
    .map((_, i) => ({ i, values: answers.map((answer) => valuesOf(answer, i)) }))
    .filter(
      ({ values: [before, after] }) => before.length !== after.length || !before.every((v, k) => near(v, after[k])),
    );
  const given = (i) => (rows.some((of) => Array.isArray(of[i])) ? rows[1][i] : { ...rows[0][i], ...rows[1][i] });
  const names = Object.keys(given(0));
  const few = names.length <= 6 && !Array.isArray(given(0));
  const target = asked.columns.findIndex(({ role }) => role === "target");
  const targetName = target >= 0 && ["Target", asked.columns[target].name].filter(Boolean).join(": ");
  const { name: dataset } = await get(`/v1/datasets/${asked.id}`);
  return h(
    "div",
    {},
    h(
      "p",
      {},
      `${differing.length} of the first ${rows[0].length} rows of `,
      datasetLink(asked.id, dataset ?? asked.id),
      " are answered otherwise. Rows of the training are among them.",
    ),
    differing.length
      ? table(
          "Changed predictions",
          [
            "Row",
            ...(few ? names : ["Input"]),
            ...(targetName ? [targetName] : []),
            `Version ${one.version}`,
            `Version ${other.version}`,
          ],
          differing.slice(0, 10).map(({ i, values }) => [
            i + 1,
            ...(few
              ? Object.values(given(i)).map(answered)
              : [h("span", { class: "clip" }, JSON.stringify(given(i), rounded))]),
            ...(targetName ? [answered(asked.seen[i][target])] : []),
            ...values.map(answered),
          ]),
        )
      : null,
  );
}

const rounded = (_, value) => (typeof value === "number" ? Number(value.toPrecision(5)) : value);

/** A preview's rows as a version takes them, or null where it takes others. */
function rowsFor({ columns, rows }, { signature, preprocessing }) {
  const row = preprocessing?.row;
  const places = signature.columns
    ? signature.columns.map((name) => columns.findIndex((column) => column.name === name))
    : columns.flatMap(({ role }, i) => (role === "input" ? i : []));
  if (places.includes(-1)) return null;
  const array = places.length === 1 && columns[places[0]].shape.length > 0;
  if (row?.row_shape && shape(row.row_shape) !== shape(array ? columns[places[0]].shape : [places.length])) return null;
  return rows.map((values) =>
    row?.layout === "table"
      ? Object.fromEntries(places.map((i) => [columns[i].name, values[i]]))
      : array
        ? values[places[0]]
        : places.map((i) => values[i]),
  );
}

function unlike(...both) {
  const takes = both.map(
    ({ signature, preprocessing }) =>
      signature.columns ?? [`rows of ${shape(preprocessing?.row?.row_shape ?? signature.inputs[0].shape.slice(1))}`],
  );
  const only = both.map(({ version }, k) => {
    const own = takes[k].filter((name) => !takes[1 - k].includes(name));
    return own.length ? `Only version ${version} takes ${own.join(", ")}. ` : "";
  });
  return h("p", {}, only, "No data here has all that both take, so their predictions cannot be compared.");
}

/** What the row was answered: its label, or its numbers. */
const valuesOf = ({ labels, outputs }, i) =>
  [labels?.[i] ?? (Array.isArray(outputs) ? outputs[i] : Object.values(outputs).map((one) => one[i]))].flat(9);

const near = (a, b) => a === b || Math.abs(a - b) <= 1e-6 * Math.max(Math.abs(a), Math.abs(b));
