// Jobs: the list, and one job as it goes.

import { Problem, download, get, perhaps, post, watch } from "./api.js";
import { Chart, Curves, askAll, figures, mainFigure } from "./charts.js";
import { block, button, h, replace, select, table, tabs } from "./dom.js";
import { ago, at, bytes, count, number, pretty, seconds, shortJob } from "./format.js";
import {
  KINDS,
  announce,
  attempt,
  badge,
  card,
  datasetLink,
  digestOf,
  emptyState,
  entries,
  facts,
  heading,
  isOver,
  later,
  metricName,
  metricsOf,
  nameOf,
  prose,
} from "./parts.js";
import { ask } from "./playground.js";

const STATES = ["", "queued", "running", "paused", "succeeded", "failed", "cancelled"];

export async function list(place, { query, onLeave }) {
  const filter = { state: query.get("state") ?? "", kind: query.get("kind") ?? "" };
  const rows = h("div", {});
  let next = null;
  let found = [];
  const load = async (more = false) => {
    const wanted = new URLSearchParams({
      limit: "50",
      ...Object.fromEntries(Object.entries(filter).filter(([, value]) => value)),
    });
    if (more && next) wanted.set("after", next);
    const answer = await get(`/v1/jobs?${wanted}`);
    found = more ? [...found, ...answer.data] : answer.data;
    next = answer.next;
    replace(
      rows,
      found.length
        ? table(
            "Jobs",
            ["Job", "State", "Model", "Result", "Begun"],
            found.map((job) => [
              h("a", { href: `#/jobs/${job.id}` }, `${KINDS[job.kind]} ${shortJob(job.id)}`),
              badge(job.state),
              job.output?.model
                ? h(
                    "a",
                    { href: `#/models/${job.output.model}` },
                    job.output.version ? `${job.output.model}/${job.output.version}` : job.output.model,
                  )
                : "–",
              job.error
                ? h("span", { class: "clip" }, job.error.detail)
                : h(
                    "span",
                    { class: "result" },
                    telling(job.metrics?.last ?? {})
                      .map(([name, value]) => `${metricName(name)} ${number(value)}`)
                      .join(" · ") || "–",
                  ),
              ago(job.created_at),
            ]),
            { stacked: true },
          )
        : emptyState(
            filter.state || filter.kind ? "No job is like that." : "No job yet.",
            h("a", { href: "#/train" }, "Train a model"),
          ),
      next ? button("More", () => attempt(() => load(true))) : null,
    );
  };
  const soon = throttle(() => attempt(load), 300, onLeave);
  place.append(
    heading(
      "Jobs",
      "All slow work: training, importing, evaluating, exporting.",
      h(
        "div",
        { class: "filters" },
        select(
          STATES.map((state) => [state, state || "any state"]),
          filter.state,
          (value) => {
            filter.state = value;
            void attempt(load);
          },
          { "aria-label": "State" },
        ),
        select(
          [["", "any kind"], ...Object.entries(KINDS).map(([key, text]) => [key, text.toLowerCase()])],
          filter.kind,
          (value) => {
            filter.kind = value;
            void attempt(load);
          },
          { "aria-label": "Kind" },
        ),
      ),
    ),
    h("div", { class: "card" }, rows),
  );
  watch(
    [],
    (event) => {
      if (["state", "done"].includes(event.type)) soon();
    },
    soon,
    soon,
  );
  await load();
}

/** Do `work` at once when it was not done for `wait` ms, else as soon as that has passed, and never twice at a time: an
 * older answer must not come after a newer one. */
function throttle(work, wait, onLeave) {
  let timer = null;
  let begun = -Infinity;
  let working = false;
  let again = false;
  let left = false;
  onLeave(() => {
    left = true;
    clearTimeout(timer);
  });
  const ask = () => {
    if (left) return;
    if (working) again = true;
    else timer ??= setTimeout(run, Math.max(0, begun + wait - performance.now()));
  };
  const run = async () => {
    timer = null;
    begun = performance.now();
    working = true;
    try {
      await work();
    } finally {
      working = false;
      if (again) {
        again = false;
        ask();
      }
    }
  };
  return ask;
}

/** The metrics that tell most in a line: how good the answers are, of held-out rows if there are any, then a loss. */
const telling = (metrics) => {
  const first = (...names) => names.filter((name) => Number.isFinite(metrics[name])).slice(0, 1);
  const good = first("val_accuracy", "val_r2", "accuracy", "r2");
  const others = [...first("val_loss", "loss"), ...metricsOf(metrics).map(([name]) => name)];
  return [...new Set([...good, ...others])].slice(0, 2).map((name) => [name, metrics[name]]);
};

const verdictOf = ({ version, promotion: { alias, promoted, detail } }) =>
  `${promoted ? `Version ${version} became ${alias}` : `The ${alias} stayed as it was`}: ${detail}`;

const SHOWN = { spec: "Request", resolved_spec: "Resolved", report: "Report" };
const isLoss = (name) => /^(val_)?loss$/.test(name);

/** Whether the best value of a metric says more than the last one beside it. */
const isNews = (name, best, last) =>
  best !== undefined && number(best) !== number(last) && !(isLoss(name) && best > last);

export async function page(place, { params: [id], onLeave }) {
  if (!/^job_[0-9a-f]{32}$/.test(id)) throw new Problem(404, { detail: `There is no job ${id}.` });
  let job = await get(`/v1/jobs/${id}`);
  const figure = h("div", {});
  const head = h("div", {});
  const status = h("div", {});
  const numbers = h("div", {});
  const outcome = h("div", {});
  const logs = block("Log");
  const training = job.kind === "train";
  const curves = training
    ? [new Curves("loss", "Loss", isLoss), new Curves("metrics", "Metrics", (name) => !isLoss(name), { hidden: true })]
    : [];
  let drawn = null;
  let state = job.state;
  let begins = false; // an attempt: what it tells first may take the place of what an earlier one told
  let unused = null; // columns of the data

  const drawHead = () => {
    const act = (name, text, { kind = "" } = {}) =>
      button(
        text,
        () =>
          attempt(async () => {
            await post(`/v1/jobs/${id}/${name}`);
            await refresh();
          }),
        { class: kind },
      );
    const can = [];
    if (["queued", "running"].includes(job.state) && training) can.push(act("pause", "Pause"));
    if (job.state === "paused") can.push(act("resume", "Resume", { kind: "primary" }));
    if (!isOver(job.state) && job.state !== "cancelling") can.push(act("cancel", "Cancel", { kind: "danger" }));
    if (["failed", "cancelled"].includes(job.state)) can.push(act("retry", "Try again", { kind: "primary" }));
    if (training && !job.output?.version && job.progress?.step) {
      can.push(
        button("Publish best so far", () =>
          attempt(async () => {
            const made = await post(`/v1/jobs/${id}/promote`);
            location.hash = `#/jobs/${made.id}`;
          }),
        ),
      );
    }
    if (job.output?.version) {
      const { model, version } = job.output;
      can.push(
        h("a", { class: "button primary", href: `#/models/${model}/${version}` }, `Open ${model}/${version}`),
        h("a", { class: "button", href: `#/playground/${model}?version=${version}` }, "Ask it"),
      );
    }
    const focused = head.contains(document.activeElement) ? document.activeElement.textContent : null;
    replace(
      head,
      h(
        "header",
        { class: "head" },
        h(
          "div",
          {},
          h("p", { class: "crumbs" }, h("a", { href: "#/jobs" }, "Jobs"), " / ", h("code", {}, shortJob(id))),
          h("h1", {}, nameOf(job), " ", badge(job.state)),
        ),
        h("div", { class: "actions" }, can),
      ),
    );
    if (focused !== null) {
      // the button that was pressed is gone or has another name: the keyboard stays here
      const again = [...head.querySelectorAll("button, a.button")];
      (again.find((item) => item.textContent === focused) ?? again[0] ?? head.querySelector("h1")).focus();
    }
  };
  const drawStatus = () => {
    const progress = job.progress;
    const fraction = isOver(job.state) && job.state === "succeeded" ? 1 : (progress?.fraction ?? 0);
    replace(
      status,
      job.kind === "train" || !isOver(job.state)
        ? h(
            "section",
            { class: "card progress-card", "aria-label": "Progress" },
            h(
              "div",
              { class: "progress-row" },
              h("progress", { max: 1, value: fraction, "aria-label": "Progress" }),
              h("span", { class: "percent" }, `${Math.round(fraction * 100)} %`),
            ),
            facts([
              ["Epoch", count(progress?.epoch ?? 0)],
              ["Step", count(progress?.step ?? 0)],
              isOver(job.state)
                ? [
                    "Took, from start to end",
                    job.started_at ? seconds((Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1000) : "–",
                  ]
                : ["Left", seconds(progress?.eta_s)],
              ["Rows a second", progress ? count(Math.round(progress.samples_per_s ?? 0)) : "–"],
              ["Attempts", count(job.attempts.length)],
            ]),
            unused?.length
              ? h(
                  "p",
                  { class: "hint" },
                  `Left out of the inputs: ${unused.slice(0, 20).join(", ")}${unused.length > 20 ? " and more" : ""}.`,
                )
              : null,
            job.state_reason && job.state !== "failed"
              ? h(
                  "p",
                  { class: "hint" },
                  {
                    cancelled_by_user: "Somebody cancelled it.",
                    paused_by_user: "Somebody paused it; it goes on where it was.",
                  }[job.state_reason] ?? prose(job.state_reason),
                )
              : null,
          )
        : null,
    );
    const last = job.metrics?.last ?? {};
    const best = job.metrics?.best ?? {};
    // Then the figures are those of its weights; a best of another metric would be of others.
    const published = job.output?.version && job.resolved_spec.checkpoint?.publish === "best";
    replace(
      numbers,
      Object.keys(last).length
        ? h(
            "div",
            { class: "tiles" },
            metricsOf(last).map(([name, value]) =>
              h(
                "div",
                { class: "tile" },
                h("span", { class: "tile-number" }, number(value)),
                h("span", { class: "tile-label" }, metricName(name)),
                !published && isNews(name, best[name]?.value, value)
                  ? h(
                      "span",
                      { class: "tile-note" },
                      `best ${number(best[name].value)} at step ${count(best[name].step)}`,
                    )
                  : null,
              ),
            ),
          )
        : null,
      Object.keys(last).length && published
        ? h("p", { class: "hint more" }, "Of the weights that were published, those of the best epoch.")
        : null,
    );
  };
  const drawOutcome = () => {
    replace(
      outcome,
      job.error && job.state !== "cancelled"
        ? h(
            "div",
            { class: "callout bad", role: "alert" },
            h("strong", {}, job.error.code.replaceAll("_", " ")),
            h("p", {}, prose(job.error.detail)),
            job.error.hint ? h("p", {}, prose(job.error.hint)) : null,
            job.error.code === "architecture_needed"
              ? h("p", {}, h("a", { href: `#/import?job=${id}` }, "Supply what is missing"))
              : null,
          )
        : null,
      job.warnings?.length
        ? h("div", { class: "card" }, entries(job.warnings.map((warning) => ({ severity: "warning", ...warning }))))
        : null,
      job.output?.promotion ? h("p", { class: "callout" }, prose(verdictOf(job.output))) : null,
      job.output?.artifact
        ? h(
            "div",
            { class: "callout" },
            h(
              "p",
              {},
              `The file ${job.output.artifact.name} (${bytes(job.output.artifact.size_bytes)}) is ready. `,
              button(
                "Download it",
                () => attempt(() => download(`/v1/jobs/${id}/artifact`, job.output.artifact.name)),
                { class: "small" },
              ),
            ),
          )
        : null,
    );
  };
  const refresh = async () => {
    job = await get(`/v1/jobs/${id}`);
    if (job.state !== state) announce(`The job is ${job.state}.`);
    state = job.state;
    drawHead();
    drawStatus();
    drawOutcome();
  };
  const readLogs = async () => {
    const text = await get(`/v1/jobs/${id}/logs`);
    const bottom = logs.scrollHeight - logs.scrollTop - logs.clientHeight < 40;
    logs.textContent = text || "Nothing was printed yet.";
    if (bottom) logs.scrollTop = logs.scrollHeight;
  };
  // The picture that suits the job: what the server can draw of it, asked for again as it learns.
  const picture = async () => {
    if (!training || job.state === "queued") return;
    if (!drawn) {
      const main = await mainFigure(`/v1/jobs/${id}`);
      if (!main) return;
      drawn = { name: main.name, chart: new Chart(main.title, { height: 340 }) };
      replace(figure, card(main.title, drawn.chart.root));
    }
    const made = await perhaps(get(`/v1/jobs/${id}/figures/${drawn.name}`));
    if (made) drawn.chart.update(made);
  };
  const soon = throttle(() => attempt(refresh), 200, onLeave);
  const curvesSoon = throttle(() => attempt(() => askAll(`/v1/jobs/${id}`, curves)), 300, onLeave);
  const pictureSoon = throttle(() => attempt(picture), 1200, onLeave);
  const logsSoon = throttle(() => attempt(readLogs), 700, onLeave);

  const predict = h(
    "details",
    {
      class: "card",
      ontoggle: (event) => {
        if (!event.target.open || event.target.dataset.built) return;
        event.target.dataset.built = "true";
        event.target.append(later(() => ask({ job })));
      },
    },
    h("summary", {}, h("h2", {}, "Predict now")),
    h("p", { class: "hint" }, "With its best weights so far, or its version once there is one."),
  );
  const extra = h(
    "section",
    { class: "card", "aria-label": "More about the job" },
    tabs("More about the job", [
      [
        "log",
        "Log",
        () => {
          logsSoon();
          return logs;
        },
      ],
      ...(training ? [["figures", "Figures", () => figures(`/v1/jobs/${id}`)]] : []),
      ...["spec", "resolved_spec", "report"]
        .filter((member) => job[member])
        .map((member) => [member, SHOWN[member], () => block(SHOWN[member], pretty(job[member]))]),
      [
        "attempts",
        "Attempts",
        () =>
          h(
            "div",
            {},
            table(
              "Attempts",
              [{ label: "Number", numeric: true }, "State", "Process", "Begun", "Ended", "Resumed from step"],
              job.attempts.map((tried) => [
                tried.number,
                tried.state,
                tried.pid ?? "–",
                at(tried.started_at),
                at(tried.ended_at),
                tried.resumed_from_step ?? "–",
              ]),
              { stacked: true },
            ),
            facts([
              ["Dataset", job.dataset ? datasetLink(job.dataset.id) : null],
              ["Data digest", job.dataset ? digestOf(job.dataset.digest) : null],
              ["Seed", job.seed],
            ]),
            job.environment ? block("Environment", pretty(job.environment)) : null,
          ),
      ],
    ]),
  );
  place.append(
    head,
    outcome,
    status,
    numbers,
    training
      ? h(
          "div",
          { class: "columns charts" },
          h(
            "section",
            { class: "card", "aria-label": "Curves" },
            h("h2", {}, "Curves"),
            curves.map(({ chart }) => chart.root),
          ),
          figure,
        )
      : "",
    training ? predict : "",
    extra,
  );
  drawHead();
  drawStatus();
  drawOutcome();
  if (training && job.dataset)
    void attempt(async () => {
      const dataset = await perhaps(get(`/v1/datasets/${job.dataset.id}`));
      unused = (dataset?.columns ?? []).filter((column) => column.role === "ignored").map((column) => column.name);
      if (unused.length) drawStatus();
    });
  watch(
    [`job:${id}`],
    (event) => {
      if (event.job_id !== id) return;
      const data = event.data;
      if (event.type === "metrics") {
        const grown = curves.map((one) => one.add(data.series ?? []));
        if (begins || !grown.every(Boolean)) curvesSoon();
        begins = false;
        job.metrics = { last: { ...job.metrics?.last, ...data.last }, best: { ...job.metrics?.best, ...data.best } };
        drawStatus();
        pictureSoon();
      } else if (event.type === "progress") {
        const began = !job.progress?.step && data.step;
        job.progress = data;
        if (began) drawHead();
        drawStatus();
      } else {
        begins ||= event.type === "state";
        soon();
        logsSoon();
        if (["checkpoint", "done"].includes(event.type)) {
          curvesSoon(); // their axes may have others by now
          pictureSoon();
        }
      }
    },
    async () => {
      await refresh();
      curvesSoon();
      pictureSoon();
      logsSoon();
    },
    () => {
      soon();
      curvesSoon();
      pictureSoon();
      logsSoon();
    },
  );
}
