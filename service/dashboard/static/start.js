// Start: what runs, what serves, what needs a hand.

import { all, get, perhaps, post, watch } from "./api.js";
import { button, h, replace, table } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { ago, count, seconds, shortJob } from "./format.js";
import { attempt, badge, card, emptyState, heading, isActive, isOver, nameOf, prose } from "./parts.js";

const QUICK = {
  kind: "train",
  architecture: { catalogue: "mlp", params: { in_features: 1, hidden: [10], num_classes: 1 } },
  dataset: EXAMPLES.parabola[2],
  objective: { type: "mse" },
  optimizer: { type: "SGD", lr: 0.2 },
  budget: { epochs: 200 },
  checkpoint: { every_s: 2 },
  seed: 1,
  output: { model: "quadratic", alias_on_success: "champion" },
};

const SHOWN = 5; // of each kind of need
const LISTED = 8; // jobs that are not over
const PAGE = 50; // jobs of a request: of what is more only that is told
const STATES = ["running", "starting", "pausing", "cancelling", "interrupted", "queued", "paused", "failed"];
const isWaiting = (state) => ["queued", "interrupted"].includes(state);

/** All jobs; or of many those in the states that this page tells of, and the states that have more (`beyond`). */
async function jobsThere() {
  const ask = (more) => get(`/v1/jobs?limit=${PAGE}${more}`);
  const newest = await ask("");
  if (!newest.next) return { jobs: newest.data, beyond: null };
  const found = await Promise.all(STATES.map((state) => ask(`&state=${state}`)));
  return { jobs: found.flatMap(({ data }) => data), beyond: STATES.filter((_, i) => found[i].next) };
}

export async function page(place, { onLeave }) {
  const running = h("div", {});
  const serving = h("div", {});
  const hand = h("div", {});
  const tiles = h("div", { class: "tiles" });
  const welcome = h("div", {});
  place.append(
    heading(
      "Start",
      "What runs, what serves, and what needs a hand.",
      h(
        "div",
        { class: "actions" },
        h("a", { class: "button primary", href: "#/train" }, "Train a model"),
        h("a", { class: "button", href: "#/import" }, "Import a .pth"),
      ),
    ),
    welcome,
    tiles,
    h("div", { class: "columns" }, card("Running now", running), card("Serving", serving)),
    hand,
  );

  let jobs = [];
  let beyond = null;
  let models = [];
  let queued = null;
  const standings = new Map(); // by model: when it changed, and how its champion stands
  const standingOf = (model) => standings.get(model.model)?.found;
  const judge = async (model) => {
    if (standings.get(model.model)?.at === model.updated_at) return;
    standings.set(model.model, { at: model.updated_at, found: await standing(model) });
  };
  const isMended = ({ kind, output, created_at: at }) =>
    jobs.some(
      (job) =>
        job.state === "succeeded" && job.kind === kind && job.output.model === output?.model && job.created_at > at,
    );
  const draw = () => {
    const active = jobs
      .filter((job) => !isOver(job.state) && job.state !== "paused") // which needs a hand
      .sort((a, b) => STATES.indexOf(a.state) - STATES.indexOf(b.state));
    const counted = (of) => `${count(active.filter(({ state }) => of(state)).length)}${beyond?.some(of) ? "+" : ""}`;
    const trouble = jobs.filter((job) => job.state === "failed" && isRecent(job.finished_at) && !isMended(job));
    const paused = jobs.filter((job) => job.state === "paused");
    const without = models.filter((model) => model.latest !== null && model.aliases.champion === undefined);
    const behind = models.filter(isBehind);
    const taken = behind.filter((model) => standingOf(model)?.guard);
    const unseen = behind.filter((model) => standingOf(model)?.unseen);
    const needs = [
      [
        trouble,
        (job) =>
          need(
            "bad",
            `#/jobs/${job.id}`,
            `${nameOf(job)} failed`,
            prose(job.error?.detail ?? ""),
            h("span", { class: "muted nowrap" }, ago(job.finished_at)),
          ),
      ],
      [paused, (job) => need("warn", `#/jobs/${job.id}`, `${nameOf(job)} is paused`, null, resumeButton(job))],
      [
        taken,
        (model) =>
          need("warn", linkOf(model), `${model.model} was taken back by its guard`, prose(standingOf(model).guard)),
      ],
      [
        without,
        (model) =>
          need(
            "warn",
            linkOf(model),
            `${model.model} has no champion`,
            "Its newest version answers until you promote one.",
          ),
      ],
      [
        unseen,
        (model) =>
          need(
            null,
            linkOf(model),
            `${model.model} has newer versions than its champion`,
            `Champion is ${model.aliases.champion}, newest is ${model.latest}.`,
          ),
      ],
    ];
    const needy = needs.reduce((sum, [list]) => sum + list.length, 0);
    const items = needs.flatMap(([list, item]) => list.slice(0, SHOWN).map(item));
    tiles.hidden = !jobs.length && !models.length && !beyond;
    replace(welcome, tiles.hidden ? empty() : null);
    replace(
      tiles,
      tile("Running", counted(isActive), "#/jobs?state=running"),
      tile("Waiting", counted(isWaiting), "#/jobs?state=queued"),
      tile(models.length === 1 ? "Model" : "Models", count(models.length), "#/models"),
      handTile(needy, trouble.length > 0),
    );
    replace(
      running,
      active.length
        ? h(
            "ul",
            { class: "list" },
            active.slice(0, LISTED).map((job) =>
              h(
                "li",
                { data: { job: job.id } },
                h(
                  "a",
                  { class: "row-link", href: `#/jobs/${job.id}` },
                  h(
                    "span",
                    { class: "grow" },
                    h("strong", {}, nameOf(job)),
                    " ",
                    h(
                      "span",
                      { class: "muted" },
                      job.progress?.eta_s ? `${seconds(job.progress.eta_s)} left` : shortJob(job.id),
                    ),
                  ),
                  badge(job.state),
                ),
                h("progress", {
                  max: 1,
                  value: job.progress?.fraction ?? 0,
                  "aria-label": `Progress of ${nameOf(job)}`,
                }),
              ),
            ),
          )
        : emptyState("No job runs.", h("a", { href: "#/train" }, "Train a model")),
      active.length > LISTED ? h("p", { class: "hint more" }, h("a", { href: "#/jobs" }, "All jobs")) : null,
    );
    replace(
      serving,
      models.length
        ? table(
            "Models that serve",
            ["Model", "Champion", { label: "Versions", numeric: true }, "Changed", { label: "Try", hidden: true }],
            models
              .slice(0, 12)
              .map((model) => [
                h("a", { href: `#/models/${model.model}` }, model.model),
                model.aliases.champion === undefined
                  ? h("span", { class: "muted" }, "none")
                  : `version ${model.aliases.champion}`,
                count(model.versions),
                ago(model.updated_at),
                h("a", { href: `#/playground/${model.model}`, "aria-label": `Try ${model.model}` }, "Try"),
              ]),
            { stacked: true },
          )
        : emptyState("No model yet. The first version appears here when a training or an import succeeds."),
    );
    replace(
      hand,
      items.length
        ? card(
            "Needs a hand",
            h("ul", { class: "list hand" }, items),
            needy > items.length ? h("p", { class: "hint more" }, `And ${count(needy - items.length)} more.`) : null,
          )
        : null,
    );
  };
  const refresh = async () => {
    [{ jobs, beyond }, models] = await Promise.all([jobsThere(), all("/v1/models", 200)]);
    await Promise.all(models.filter(isBehind).map(judge));
    draw();
  };
  const resumeButton = (job) =>
    button(
      "Resume",
      () =>
        attempt(async () => {
          await post(`/v1/jobs/${job.id}/resume`);
          await refresh();
        }),
      { class: "small" },
    );
  const soon = () => {
    queued ??= setTimeout(() => {
      queued = null;
      void attempt(refresh);
    }, 250);
  };
  onLeave(() => clearTimeout(queued));
  const timer = setInterval(() => {
    if (!document.hidden && jobs.some((job) => isActive(job.state))) soon();
  }, 2000);
  onLeave(() => clearInterval(timer));
  watch([], soon, soon, soon);
  await refresh();
}

const isRecent = (text) => Date.now() - Date.parse(text) < 86_400_000;
const isBehind = ({ aliases, latest }) => aliases.champion !== undefined && aliases.champion < latest;

/** How a champion stands that is not the newest version: `{unseen}` since nobody chose between the two, or `{guard}`,
 * what its guard says that took a version back. Where somebody chose when both were there, it is where it should be. */
async function standing(model) {
  const address = `/v1/models/${encodeURIComponent(model.model)}`;
  const [history, newest] = await Promise.all([
    perhaps(get(`${address}/aliases/champion/history?limit=1`)),
    perhaps(get(`${address}/versions/${model.latest}`)),
  ]);
  const last = history?.data[0];
  if (!last || !newest) return {}; // somebody changes it just now
  if (last.at > newest.created_at) return last.by === "guard" && isRecent(last.at) ? { guard: last.reason ?? "" } : {};
  const job = newest.lineage.job && (await perhaps(get(`/v1/jobs/${newest.lineage.job}`)));
  return { unseen: !job?.output?.promotion }; // a condition may have decided
}

const linkOf = ({ model }) => `#/models/${model}`;

const need = (kind, href, title, text, beside) =>
  h("li", { class: kind }, h("div", { class: "grow" }, h("a", { href }, title), text && h("p", {}, text)), beside);

const tile = (label, told, href) =>
  h(
    "a",
    { class: "tile", href },
    h("span", { class: "tile-number" }, told),
    h("span", { class: "tile-label" }, label),
  );

/** What the card below tells one by one; calm where that is nothing. */
const handTile = (needed, bad) =>
  h(
    "div",
    { class: `tile ${needed ? (bad ? "bad" : "") : "calm"}` },
    h("span", { class: "tile-number", "aria-hidden": !needed && "true" }, needed ? count(needed) : "✓"),
    h("span", { class: "tile-label" }, needed ? `Need${needed === 1 ? "s" : ""} a hand` : "Nothing needs a hand"),
  );

function empty() {
  return h(
    "section",
    { class: "hero", "aria-label": "First steps" },
    h("h2", {}, "From data to a served prediction, without code"),
    h(
      "ol",
      { class: "steps" },
      h("li", {}, h("strong", {}, "Bring data"), h("span", {}, "a CSV, images, arrays, or an example")),
      h("li", {}, h("strong", {}, "Describe a net"), h("span", {}, "by form, as JSON, or from the catalogue")),
      h("li", {}, h("strong", {}, "Watch it learn"), h("span", {}, "then promote it and ask it")),
    ),
    h(
      "div",
      { class: "actions" },
      button(
        "Train an example now",
        () =>
          attempt(async () => {
            const job = await post("/v1/jobs", QUICK);
            location.hash = `#/jobs/${job.id}`;
          }),
        { class: "primary" },
      ),
      h("a", { class: "button", href: "#/train" }, "Begin with my data"),
    ),
  );
}
