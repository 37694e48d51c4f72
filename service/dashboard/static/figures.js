// The figures that the server draws of a job or a version, one tab each.

import { get } from "./api.js";
import { Chart } from "./charts.js";
import { h, tabs } from "./dom.js";
import { attempt, later } from "./parts.js";

const MAIN = ["fit", "decision", "confusion"];

/** The figure that shows best how a job of its kind does: its entry in the listing, or undefined. */
export async function mainFigure(path) {
  const { data } = await get(`${path}/figures`);
  return MAIN.map((name) => data.find((one) => one.name === name && one.available)).find(Boolean);
}

/** All figures below a path such as /v1/jobs/ID. */
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
