// How a net is trained: the form of objective, optimizer, epochs and the model's name, which writes to a request.

import { check, field, h, select } from "./dom.js";
import { count } from "./format.js";
import { unfolding } from "./parts.js";
import { CLASSIFY, change, ifBetter, splitFor } from "./request.js";

const OBJECTIVES = [
  ["mse", "Numbers: mean squared error"],
  ["l1", "Numbers: mean absolute error"],
  ["smooth_l1", "Numbers: smooth L1"],
  ["huber", "Numbers: Huber"],
  ["cross_entropy", "Classes: cross entropy"],
  ["bce_with_logits", "Yes or no: binary cross entropy"],
];
const ENGINES = [
  ["", "torch, as usual"],
  ["onnxruntime", "ONNX Runtime"],
  ["aot_inductor", "compiled code"],
];
const OPTIMIZERS = ["Adam", "AdamW", "SGD", "RMSprop", "NAdam", "Adagrad"];

/** What is folded, in a line: how the steps are made. */
function stepsTold({ optimizer, batch_size: size, output, seed }) {
  const engine = output?.engine && (ENGINES.find(([type]) => type === output.engine.type)?.[1] ?? output.engine.type);
  return [
    [optimizer?.type, optimizer?.lr].filter((one) => one !== undefined).join(" "),
    size === undefined ? "all rows at once" : `${count(size)} rows a step`,
    seed !== undefined && `seed ${seed}`,
    engine && `answers by ${engine}`,
  ]
    .filter(Boolean)
    .join(", ");
}

const PREPARED = {
  impute: "missing numbers filled",
  standardize: "numbers standardized",
  one_hot: "texts one-hot",
};

/** And what is done to the data before. */
const preparedTold = (steps) =>
  steps.map(({ type, of }) => (of === "target" ? "target standardized" : (PREPARED[type] ?? type))).join(", ") ||
  "the data is taken as it is";

/** A part of the form that is shut; `members` of the request are in it, and it is opened where one is wrong. */
const shut = (title, members, content, told) => {
  const part = unfolding(title, content, false, told);
  part.dataset.members = members;
  return part;
};

/** Open the parts in which something that these pointers name is. */
export function reveal(form, pointers) {
  const wrong = new Set(pointers.map((pointer) => pointer.split("/")[1]));
  for (const part of form.querySelectorAll("details"))
    if (part.dataset.members.split(" ").some((member) => wrong.has(member))) part.open = true;
}

export function trainingForm(body, whenChanged, redraw) {
  const inSteps = h("span", {});
  const inPrepared = h("span", {});
  const tell = () => {
    inSteps.textContent = stepsTold(body);
    inPrepared.textContent = preparedTold(body.preprocessing ?? []);
  };
  const changed = () => {
    tell();
    whenChanged();
  };
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
  tell();
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
            const before = body.objective?.type;
            const split = body.split?.type === splitFor(body.objective);
            body.objective = { type: value };
            if (split) body.split.type = splitFor(body.objective);
            if (classifies()) body.preprocessing = steps().filter((step) => step.of !== "target");
            if ([before, value].some((one) => CLASSIFY.includes(one))) redraw();
          }),
        ),
        { hint: "How the error of an answer is measured. Training makes it small." },
      ),
      field("Epochs", numeric(body.budget?.epochs, { min: "1", step: "1" }, put("epochs", "budget")), {
        hint: "How often all rows are seen, at most.",
      }),
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
            } else body.split = { type: splitFor(body.objective), seed: 0, ...body.split, validation: Number(value) };
          }),
        ),
      ),
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
        ? h(
            "div",
            { data: { option: "better" } },
            check(
              "Only if it is better",
              typeof alias === "object",
              (on) => {
                body.output.alias_on_success = on ? ifBetter(body) : "champion";
                redraw();
                changed();
              },
              {
                hint: typeof alias === "object" ? `If ${Object.values(alias)[0]}.` : "Than the champion that there is.",
              },
            ),
          )
        : null,
      body.objective?.type === "cross_entropy"
        ? h(
            "div",
            { data: { option: "weight" } },
            check(
              "Weigh classes equally",
              body.objective.weight === "balanced",
              set((on) => {
                if (on) body.objective.weight = "balanced";
                else delete body.objective.weight;
              }),
              { hint: "A class of few rows counts as much as one of many." },
            ),
          )
        : null,
    ),
    h(
      "div",
      {},
      shut(
        "Optimizer and batches",
        "optimizer batch_size seed",
        h(
          "div",
          { class: "fields" },
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
          field(
            "Batch size",
            numeric(body.batch_size, { min: "1", step: "1", placeholder: "all rows" }, put("batch_size")),
          ),
          field("Seed", numeric(body.seed, { min: "0", step: "1" }, put("seed"))),
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
        ),
        inSteps,
      ),
      shut(
        "Preparing the data",
        "preprocessing",
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
        ),
        inPrepared,
      ),
    ),
  );
}
