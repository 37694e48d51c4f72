// Charts by plotly.js, which is fetched when the first one is on screen; each has a table of its values beside it.

import { h, newId, replace, table } from "./dom.js";
import { number } from "./format.js";

let loading = null;

/** plotly.js, or null where the server has none. */
export function plotly() {
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
  constructor(label, { height = 300 } = {}) {
    this.label = label;
    this.height = height;
    this.place = h("div", { class: "plot", role: "img", "aria-label": label, id: newId("plot") });
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
    let width = 0;
    new ResizeObserver(([{ contentRect }]) => {
      if (this.drawn && width && contentRect.width && Math.abs(contentRect.width - width) > 1)
        window.Plotly.Plots.resize(this.place);
      width = contentRect.width;
    }).observe(this.place);
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
    const { data, layout } = recoloured(this.figure);
    await library.react(
      this.place,
      data.map((trace, i) => dressed(trace, i)),
      themed(layout ?? {}, this.height),
      { displayModeBar: false, responsive: true, showTips: false },
    );
    if (!this.drawn) performance.mark("drawn");
    this.drawn = true;
    this.root.dataset.drawn = "true";
  }

  list() {
    if (this.figure && this.details.open) replace(this.values, valuesOf(this.figure, this.label));
  }
}

// Plotly's usual colours, with which figures come, and the page's in their place: these have contrast on both grounds.
const USUAL = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b"];

function recoloured(figure) {
  let text = JSON.stringify(figure);
  palette().forEach((colour, i) => {
    text = text.replaceAll(`"${USUAL[i]}"`, `"${colour}"`);
  });
  return JSON.parse(text);
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export const palette = () => ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6"].map(css);

function dressed(trace, i) {
  const colours = palette();
  const colour = colours[(trace.colour ?? i) % colours.length];
  const made = { ...trace };
  delete made.colour;
  if (["heatmap", "image", "table", "contour"].includes(trace.type)) {
    if (trace.type !== "image" && !trace.colorscale)
      made.colorscale = [
        [0, css("--surface-2")],
        [1, css("--accent")],
      ];
    return made;
  }
  if (trace.mode?.includes("lines") || (!trace.mode && trace.type !== "bar"))
    made.line = { width: 2, color: colour, ...trace.line };
  if (!Array.isArray(trace.marker?.color)) made.marker = { color: colour, size: 6, ...trace.marker };
  return made;
}

function axis(given = {}) {
  return {
    automargin: true,
    zeroline: false,
    exponentformat: "e",
    gridcolor: css("--line"),
    linecolor: css("--line-2"),
    tickcolor: css("--line-2"),
    tickfont: { color: css("--muted"), size: given.exponentformat === "power" ? 10 : 12 }, // powers are drawn larger
    ...given,
    title: given.title
      ? {
          standoff: 10, // beside the numbers, however long they are
          ...(typeof given.title === "string" ? { text: given.title } : given.title),
          font: { size: 12.5, color: css("--muted") },
        }
      : undefined,
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

/** A job's series as a figure. `series`: Map of name to Map of step to value; `perEpoch`: steps of an epoch, if known. */
export function curves(series, names, perEpoch = null) {
  const told = names.some(isHeldOut) && names.some((name) => !isHeldOut(name)) && perEpoch > 1;
  const data = names
    .filter((name) => series.has(name))
    .map((name) => {
      const points = series.get(name);
      const steps = thinned(
        [...points.keys()].sort((a, b) => a - b),
        points,
      );
      return {
        type: "scatter",
        mode: steps.length < 3 || (told && isHeldOut(name) && steps.length <= MARKED) ? "lines+markers" : "lines",
        name: told ? `${name}, ${isHeldOut(name) ? "after each epoch" : "of each step"}` : name,
        x: steps,
        y: steps.map((step) => points.get(step)),
        ...(told && !isHeldOut(name) && steps.length > MARKED ? { line: { width: 1 }, opacity: 0.6 } : {}), // it jumps
      };
    });
  const positive =
    data.length > 0 &&
    names.every((name) => name.endsWith("loss")) &&
    data.every((trace) => trace.y.every((value) => value === null || value > 0));
  const few = data.every(({ x }) => x.at(-1) - x[0] < 8); // or a half step would have a number
  const [low, high] = range(data);
  const wide = positive && high / low >= LOG_FROM;
  return {
    data,
    layout: {
      xaxis: {
        title: { text: perEpoch > 1 ? `step (${perEpoch} to an epoch)` : "step" },
        tickformat: ",d",
        ...(few ? { dtick: 1 } : {}),
      },
      yaxis: { title: { text: axisName(names) }, ...(wide ? logarithmic(low, high) : {}) },
      showlegend: data.length > 1,
    },
  };
}

const isHeldOut = (name) => name.startsWith("val_"); // measured on the held-out rows, at the end of an epoch
const MARKED = 60;
const LOG_FROM = 100; // as in the server's figure, so that a loss looks the same in both
const POWERS_SHOWN = 8;

/** An axis with 1, 2 and 5 of each power as plain numbers; powers of ten where those would be long or many. */
function logarithmic(low, high) {
  const powers = Math.log10(high) - Math.log10(low);
  if (powers <= 3 && low >= 1e-4 && high <= 1e5) return { type: "log", dtick: "D2", tickformat: "~g" };
  return { type: "log", dtick: Math.ceil(powers / POWERS_SHOWN), exponentformat: "power" };
}

function axisName(names) {
  if (names.every((name) => name.endsWith("loss"))) return "loss";
  return names.length > 1 ? "value" : names[0];
}

const DRAWN = 4000;

/** The steps that are drawn: all, or of each stretch those with its least and its greatest value, and the last. */
function thinned(steps, points) {
  if (steps.length <= DRAWN) return steps;
  const stretch = Math.ceil((2 * steps.length) / DRAWN);
  const found = [];
  for (let from = 0; from < steps.length; from += stretch) {
    const part = steps.slice(from, from + stretch);
    const least = part.reduce((a, b) => (points.get(b) < points.get(a) ? b : a));
    const greatest = part.reduce((a, b) => (points.get(b) > points.get(a) ? b : a));
    found.push(...[...new Set([least, greatest])].sort((a, b) => a - b));
  }
  if (found.at(-1) !== steps.at(-1)) found.push(steps.at(-1));
  return found;
}

function range(data) {
  let low = Infinity;
  let high = 0;
  for (const { y } of data)
    for (const value of y)
      if (value !== null) {
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
  return [low, high];
}
