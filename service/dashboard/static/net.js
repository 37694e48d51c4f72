// The net of a request: by a form of layers, as JSON, or out of the catalogue; and plain ones for rows and images.

import { get } from "./api.js";
import { button, check, field, h, newId, replace, select } from "./dom.js";
import { pretty } from "./format.js";
import { attempt } from "./parts.js";

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
export const rowNet = (rowShape, outputs, hidden = [64, 64]) =>
  sequential(rowShape, [
    ...(rowShape.length > 1 ? [layer("Flatten")] : []),
    ...hidden.flatMap((size) => [layer("Linear", { out_features: size }), layer("ReLU")]),
    layer("Linear", { out_features: outputs }),
  ]);
export const imageNet = (rowShape, outputs) =>
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

/** What the net must take and answer: of the data, else of the net as it is. */
function wanted(draft) {
  const was = draft.verdict?.summary;
  return draft.row ?? { shape: was?.inputs[0]?.shape.slice(1) ?? [1], outputs: was?.outputs[0]?.shape.at(-1) ?? 1 };
}

const MOST_TOLD = 7;

/** A net in one line: its layers, each with its size. */
export function netWords(authored) {
  if (!authored) return "";
  if (authored.catalogue) return `${authored.catalogue} of the catalogue`;
  const layers = authored.root?.layers;
  if (!Array.isArray(layers)) return authored.root?.type ?? "";
  const words = layers.map((one) => [one?.type, one?.out_features ?? one?.out_channels].filter(Boolean).join(" "));
  const more = words.length - MOST_TOLD;
  return `${words.slice(0, MOST_TOLD).join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
}

export function suggestNet(draft) {
  const { shape: rowShape, outputs } = wanted(draft);
  draft.body.architecture = rowShape.length === 3 ? imageNet(rowShape, outputs) : rowNet(rowShape, outputs);
}

// -- the form -----------------------------------------------------------------------------------------------------------

export function formCan(authored) {
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

export function netForm(authored, set) {
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

// -- as JSON, and of the catalogue ---------------------------------------------------------------------------------------

export function jsonEditor(draft, set, changed) {
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

export function catalogueForm(draft, set) {
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
