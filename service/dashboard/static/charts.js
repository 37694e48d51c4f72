// Charts by plotly.js, which is fetched once the place of the first one is on screen; each has a table of its values
// beside it.
// They show the figures that the server draws, and a job's curves as they grow.

import { get } from "./api.js";
import { h, newId, replace, table, tabs } from "./dom.js";
import { number } from "./format.js";
import { attempt, later } from "./parts.js";

let loading = null;

/** plotly.js, or null where the server has none. */
function plotly() {
  const url = document.querySelector('meta[name="plotly"]').content;
  if (!url) return Promise.resolve(null);
  loading ??= new Promise((resolve) => {
    const script = h("script", {
      src: url,
      onload: () => resolve(window.Plotly ?? null),
      onerror: () => {
        loading = null;
        resolve(null);
      },
    });
    document.head.append(script);
  });
  return loading;
}

const charts = new Set();
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts)
    if (chart.root.isConnected) chart.draw();
    else charts.delete(chart);
});

/** A chart: `update({data, layout})` draws; what comes faster than it can be drawn is drawn once. */
export class Chart {
  constructor(label, { height = 300, waiting = "Loading…" } = {}) {
    this.label = label;
    this.height = height;
    this.place = h(
      "div",
      { class: "plot", role: "img", "aria-label": label, id: newId("plot") },
      h("p", { class: "empty" }, waiting),
    );
    this.place.style.minHeight = `${height}px`; // by the object model, which the policy allows
    this.values = h("div", {});
    this.details = h(
      "details",
      { class: "values", ontoggle: () => this.list() },
      h("summary", {}, "Values as a table"),
      this.values,
    );
    this.root = h("figure", { class: "chart" }, this.place, this.details);
    this.figure = null;
    charts.add(this);
    new ResizeObserver(() => this.fit()).observe(this.place);
    requestAnimationFrame(() => setTimeout(plotly)); // when it has been painted: the library takes a second to start
  }

  update(figure) {
    this.figure = figure;
    this.root.dataset.points = String(figure.data[0]?.x?.length ?? 0);
    if (this.details.open) this.list();
    if (this.waiting) return;
    this.waiting = true;
    setTimeout(
      async () => {
        await this.draw();
        this.waiting = false;
        if (this.figure !== figure) this.update(this.figure);
      },
      this.drawn ? 200 : 0,
    );
  }

  async draw() {
    const library = await plotly();
    if (!this.figure || !this.root.isConnected) return;
    if (!library) {
      replace(
        this.place,
        h("p", { class: "empty" }, "plotly is not installed on the server: the values stand in the table."),
      );
      this.place.removeAttribute("role");
      this.place.style.minHeight = "0";
      this.details.open = true;
      return;
    }
    if (!this.drawn) replace(this.place);
    const { data, layout } = recoloured(this.figure);
    this.width = this.place.clientWidth;
    await library.react(
      this.place,
      data.map((trace, i) => dressed(trace, i)),
      themed(layout ?? {}, this.height),
      { displayModeBar: false, showTips: false },
    );
    if (!this.drawn) performance.mark("drawn");
    this.drawn = true;
    this.root.dataset.drawn = "true";
    this.fit(); // its place may have changed while it was drawn
  }

  fit() {
    const width = this.place.clientWidth;
    if (!this.drawn || !width || width === this.width) return;
    this.width = width;
    window.Plotly.Plots.resize(this.place);
  }

  list() {
    if (this.figure && this.details.open) replace(this.values, valuesOf(this.figure, this.label));
  }
}

// Plotly's usual colours, for which the page puts its own: these have contrast on both grounds.
const USUAL = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b"];

function recoloured(figure) {
  let text = JSON.stringify(figure);
  palette().forEach((colour, i) => {
    text = text.replaceAll(`"${USUAL[i]}"`, `"${colour}"`);
  });
  return JSON.parse(text);
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const palette = () => ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6"].map(css);

function dressed(trace, i) {
  const colours = palette();
  const colour = colours[i % colours.length];
  const made = { ...trace };
  if (["heatmap", "image", "table", "contour"].includes(trace.type)) {
    if (trace.type !== "image" && !trace.colorscale)
      made.colorscale = [
        [0, css("--surface-2")],
        [1, css("--accent")],
      ];
    if (trace.colorbar) made.colorbar = { ...trace.colorbar, ...lettered(trace.colorbar) };
    return made;
  }
  if (trace.mode?.includes("lines") || (!trace.mode && trace.type !== "bar"))
    made.line = { width: 2, color: colour, ...trace.line };
  if (!Array.isArray(trace.marker?.color)) made.marker = { color: colour, size: 6, ...trace.marker };
  return made;
}

/** The letters of what has a title and numbers: an axis, or the bar of colours. */
const lettered = ({ title }) => ({
  tickfont: { color: css("--muted"), size: 12 },
  title: title
    ? {
        ...(typeof title === "string" ? { text: title } : title),
        font: { size: 12.5, color: css("--muted") },
      }
    : undefined,
});

function axis(given = {}) {
  const { tickfont, title } = lettered(given);
  return {
    automargin: true,
    zeroline: false,
    exponentformat: "e",
    gridcolor: css("--line"),
    linecolor: css("--line-2"),
    tickcolor: css("--line-2"),
    tickfont: given.exponentformat === "power" ? { ...tickfont, size: 10 } : tickfont, // powers are drawn larger
    ...given,
    title: title && { standoff: 10, ...title }, // beside the numbers, however long they are
  };
}

function themed(layout, height) {
  const axes = {};
  for (const name of new Set(["xaxis", "yaxis", ...Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))]))
    axes[name] = axis(layout[name]);
  const { title, template, ...rest } = layout; // the heading stands above; colours are the page's
  return {
    margin: { l: 52, r: 16, t: layout.annotations?.length ? 30 : 14, b: 44 },
    hovermode: "closest",
    ...rest,
    ...axes,
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: css("--ink"), size: 12 } },
    height: Math.max(height, rest.height ?? 0),
    autosize: true,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: css("--sans"), size: 13, color: css("--ink") },
    hoverlabel: { bgcolor: css("--surface"), bordercolor: css("--line-2"), font: { color: css("--ink") } },
  };
}

const MOST = 200;

function valuesOf({ data, layout }, label) {
  const found = data.filter((trace) => Array.isArray(trace.z) || Array.isArray(trace.y) || Array.isArray(trace.x));
  return found.map((trace) => {
    const name = `${label}${trace.name ? `: ${trace.name}` : ""}`;
    const cell = (value) => (typeof value === "number" ? number(value, 5) : (value ?? "–"));
    if (Array.isArray(trace.z)) {
      if (trace.z.length > 60)
        return h("p", { class: "empty" }, `${name} has ${trace.z.length} rows; ask the API for them.`);
      return table(
        name,
        ["", ...(trace.x ?? trace.z[0].map((_, i) => i)).map((text) => ({ label: cell(text), numeric: true }))],
        trace.z.map((row, i) => [cell(trace.y?.[i] ?? i), ...row.map(cell)]),
      );
    }
    const count = Math.max(trace.x?.length ?? 0, trace.y?.length ?? 0);
    const stride = Math.ceil(count / MOST);
    const rows = [];
    for (let i = 0; i < count; i += 1)
      if (i % stride === 0 || i === count - 1) rows.push([cell(trace.x?.[i] ?? i), cell(trace.y?.[i])]);
    const words = (which) => layout?.[which]?.title?.text ?? layout?.[which]?.title;
    return [
      stride > 1 ? h("p", { class: "hint" }, `Every ${stride}th of ${count} values.`) : null,
      table(
        name,
        [
          { label: words("xaxis") ?? "x", numeric: true },
          { label: trace.name ?? words("yaxis") ?? "y", numeric: true },
        ],
        rows,
        { shown: true },
      ),
    ];
  });
}

// -- figures of the server ----------------------------------------------------------------------------------------------

const MAIN = ["fit", "decision", "confusion"];
const POINTS = 4000; // of a curve, when it is asked for

/** The figure that shows best how a job of its kind does: its entry in the listing, or undefined. */
export async function mainFigure(path) {
  const { data } = await get(`${path}/figures`);
  return MAIN.map((name) => data.find((one) => one.name === name && one.available)).find(Boolean);
}

/** Ask anew for those curves of which there is something. */
export async function askAll(path, curves) {
  const { data } = await get(`${path}/figures`);
  const there = data.filter(({ available }) => available);
  await Promise.all(there.map(({ name, url }) => curves.find((one) => one.name === name)?.ask(url)));
}

export const figures = (path) =>
  later(async () => {
    const { data } = await get(`${path}/figures`);
    const there = data.filter((one) => one.available);
    if (!there.length) return h("p", { class: "empty" }, data[0]?.reason ?? "There is nothing to draw yet.");
    return tabs(
      "Figures",
      there.map((one) => [
        one.name,
        one.title,
        () => {
          const chart = new Chart(one.title, { height: 380 });
          void attempt(async () => chart.update(await get(one.url)));
          return chart.root;
        },
      ]),
      there[0].name,
    );
  });

/** A figure of curves, which grows by the events of the metrics that it `takes`. */
export class Curves {
  constructor(name, title, takes, { hidden = false } = {}) {
    this.name = name;
    this.takes = takes;
    this.chart = new Chart(title, { waiting: "No step has been reported yet." });
    this.chart.root.hidden = hidden;
    this.figure = null;
    this.since = []; // what came since it was asked for
    this.missing = new Set(); // what the server may leave out: it is asked for it once
  }

  async ask(url) {
    const since = (this.since = []);
    const figure = await get(`${url}?points=${POINTS}`);
    this.figure = figure;
    this.grow(since);
    this.chart.root.hidden = figure.data.every(({ name, y }) => name === "lr" && new Set(y).size < 2);
    this.chart.update({ ...figure });
  }

  /** Add points; false where the server has to draw it anew. */
  add(series) {
    const mine = series.filter(({ name }) => this.takes(name));
    this.since.push(...mine);
    if (!mine.length) return true;
    if (!this.figure) return false;
    const grown = this.grow(mine);
    this.chart.update({ ...this.figure });
    return grown;
  }

  grow(series) {
    let all = true;
    for (const { name, steps, epochs, values } of series) {
      const trace = this.figure.data.find((one) => one.name === name);
      if (trace ? trace.mode === "markers" || trace.x.length > 2 * POINTS : !this.missing.has(name)) all = false;
      if (!trace) this.missing.add(name);
      const from = trace ? steps.findIndex((step) => step > trace.x.at(-1)) : -1;
      if (from < 0) continue; // a job that goes on after a crash tells some steps again
      trace.x.push(...steps.slice(from));
      trace.y.push(...values.slice(from));
      trace.customdata.push(...epochs.slice(from));
    }
    return all;
  }
}
