// A train request: an empty one, one that suits a dataset, and how its parts hang together.

import { imageNet, rowNet } from "./net.js";

export const CLASSIFY = ["cross_entropy", "bce_with_logits"];

export function blank() {
  return {
    kind: "train",
    architecture: null,
    dataset: null,
    preprocessing: [],
    objective: { type: "mse" },
    optimizer: { type: "Adam", lr: 0.01 },
    budget: { epochs: 60 },
    seed: 0,
    output: { model: "", alias_on_success: "champion" },
  };
}

/** The alias for a version that is better than the champion, by the held-out rows if there are any; as the command. */
export function ifBetter({ objective, split }) {
  const metric = `${split ? "val_" : ""}${CLASSIFY.includes(objective?.type) ? "accuracy" : "r2"}`;
  return { champion: `${metric} > champion.${metric}` };
}

/** Change a request; where its alias hangs on what this page compares, by what it is compared then. */
export function change(body, work) {
  const { output } = body;
  const ours = output.alias_on_success?.champion === ifBetter(body).champion;
  work();
  if (ours) output.alias_on_success = ifBetter(body);
}

/** The same share of each class is held out where classes are learnt: else a rare one may be missing there. */
export const splitFor = (objective) => (objective?.type === "cross_entropy" ? "stratified" : "random");

/** Let a class of few rows count as much as one of many, and be among what is held out. */
export function weighClasses(body) {
  if (body.objective?.type === "cross_entropy") body.objective.weight = "balanced";
  else body.objective = { type: "cross_entropy", weight: "balanced" };
  if (body.split?.type === "random") body.split.type = "stratified";
}

/** Fill in what suits a dataset: steps, objective, net, batches. A proposal, which the person changes. */
export function suggest(draft, dataset, profile) {
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
    const few = target?.shape?.length || classes >= rows / 10; // a fifth of so few rows of a class is none
    body.split = { type: few ? "random" : splitFor(body.objective), validation: 0.2, seed: 0 };
    body.checkpoint.publish = "best";
    if (usual) body.early_stopping = { metric: "val_loss", patience: 30 };
  }
}
