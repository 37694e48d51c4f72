// Import: drop a file, read what is in it, supply what is missing, publish.

import { get, post, upload, watch } from "./api.js";
import { button, check, dropZone, field, h, replace, table } from "./dom.js";
import { bytes, plainName, pretty, shape } from "./format.js";
import { announce, attempt, badge, card, facts, failure, heading, isOver, problemText, prose } from "./parts.js";

const OUTCOMES = {
  exact: "Every tensor has its place.",
  translated: "The file's net was translated into a document.",
  tree_only: "The file has the layers and weights, but not how the net calls them.",
  weights_only: "The file has weights alone: say which net they belong to.",
  refused: "The file was refused.",
};

/** Why weights are refused that can be taken all the same, by other words of the request. */
const MENDABLE = new Set(["keys", "shapes", "not-finite"]);

export async function page(place, { query, onLeave }) {
  const form = { upload: null, file: null, model: "" };
  const steps = h("div", { class: "stack wide-gap" });
  const name = h("input", {
    value: "",
    autocomplete: "off",
    oninput: (event) => {
      form.model = event.target.value.trim();
    },
  });
  const state = h("div", { role: "status" });
  const chosen = h("div", {});
  let stopped = false;
  onLeave(() => {
    stopped = true;
  });

  place.append(
    heading(
      "Import",
      "A .pt or .pth file from any PyTorch becomes a version. Files are read as data: nothing in them runs.",
    ),
    card(
      "File",
      h(
        "div",
        { class: "row top" },
        dropZone("Choose a .pt, .pth, .safetensors or .zip file", "or drop it here", (file) =>
          attempt(() => take(file)),
        ),
        h(
          "div",
          { class: "stack" },
          field("Name of the model", name, { hint: "Small letters, digits, dots and dashes." }),
          chosen,
        ),
      ),
      state,
    ),
    steps,
  );

  const send = async (more) => {
    const body = { kind: "import", upload: form.upload.id, output: { model: form.model }, ...more };
    replace(state, h("p", { class: "empty" }, "Reading the file…"));
    let job;
    try {
      job = await post("/v1/jobs", body, { headers: { Prefer: "wait=20" } });
      while (!isOver(job.state) && !stopped) {
        await new Promise((resolve) => {
          setTimeout(resolve, 700);
        });
        job = await get(`/v1/jobs/${job.id}`);
      }
    } catch (error) {
      replace(state, failure(error));
      return;
    }
    if (!stopped) show(job, more);
  };
  const read = () =>
    attempt(async () => {
      if (!form.model) {
        name.focus();
        throw new Error("Give the model a name first.");
      }
      await send({});
    });
  const take = async (file) => {
    form.file = file;
    replace(steps);
    if (!form.model) {
      form.model = plainName(file.name);
      name.value = form.model;
    }
    replace(state, h("p", { class: "empty" }, "Uploading…"));
    form.upload = await upload(file).catch((error) => {
      replace(state, failure(error));
      throw error;
    });
    replace(state);
    replace(
      chosen,
      h("p", {}, `${file.name}, ${bytes(file.size)}`),
      h("div", { class: "actions" }, button("Read it", read, { class: "primary" })),
    );
    announce("The file is uploaded.");
    chosen.querySelector("button").focus();
  };
  const show = (job, sent) => {
    replace(state);
    const report = job.report;
    const done = job.state === "succeeded";
    announce(done ? "The version is published." : "Something is missing; see the report.");
    if (done) document.getElementById("notes").replaceChildren(); // what failed before is mended
    const banner = done
      ? h(
          "div",
          { class: "callout good", role: "status" },
          h("strong", {}, `Published as ${job.output.model}/${job.output.version}`),
          sent.architecture || sent.forward
            ? h(
                "p",
                {},
                "How the net computes was yours to say, not the file's. Compare some answers with those you know.",
              )
            : null,
          h(
            "div",
            { class: "actions" },
            h("a", { class: "button primary", href: `#/models/${job.output.model}/${job.output.version}` }, "Open it"),
            h(
              "a",
              { class: "button", href: `#/playground/${job.output.model}?version=${job.output.version}` },
              "Ask it",
            ),
          ),
        )
      : h(
          "div",
          { class: `callout ${job.error?.code === "architecture_needed" ? "warn" : "bad"}`, role: "alert" },
          h(
            "strong",
            {},
            job.error?.code === "architecture_needed" ? "One thing is missing" : "The file was not imported",
          ),
          h("p", {}, prose(job.error?.detail ?? job.state)),
          job.error?.hint && !report?.needs?.length ? h("p", {}, prose(job.error.hint)) : null,
        );
    replace(
      steps,
      card("Report", banner, report ? reportOf(report, job) : null),
      !done && (report?.needs?.length || MENDABLE.has(job.error?.reason)) ? needsCard(report ?? {}, sent, send) : null,
    );
    const next = steps.querySelector("textarea, input, a.button");
    next?.focus();
  };
  watch([], () => {}, null);
  const earlier = query.get("job");
  if (earlier) {
    const job = await get(`/v1/jobs/${earlier}`);
    form.upload = { id: job.spec.upload };
    form.model = job.spec.output?.model ?? "";
    name.value = form.model;
    const { kind, upload: _, output, ...sent } = job.spec;
    if (form.upload.id) show(job, sent);
  }
}

function reportOf(report, job) {
  return h(
    "div",
    {},
    facts([
      ["Outcome", OUTCOMES[report.outcome] ?? report.outcome],
      ["Format", report.format],
      ["Job", h("a", { href: `#/jobs/${job.id}` }, badge(job.state))],
      ["Tensors", report.tensors.length],
      ["Layers", report.layers.length || "none"],
    ]),
    list("Missing tensors", report.missing),
    list("Unexpected tensors", report.unexpected),
    list("Other shapes", report.mismatched),
    list("Repaired", report.repaired),
    report.layers.length
      ? details(
          "Layers",
          table(
            "Layers of the file",
            ["Path", "Type", "Arguments"],
            report.layers.map((layer) => [
              h("code", {}, layer.path),
              layer.type,
              h(
                "code",
                {},
                Object.entries(layer.arguments ?? {})
                  .map(([key, value]) => `${key}=${JSON.stringify(value)}`)
                  .join(", "),
              ),
            ]),
          ),
          true,
        )
      : null,
    details(
      `Tensors (${report.tensors.length})`,
      table(
        "Tensors of the file",
        ["Name", "Type", "Shape"],
        report.tensors.slice(0, 300).map((tensor) => [h("code", {}, tensor.name), tensor.dtype, shape(tensor.shape)]),
      ),
      !report.layers.length,
    ),
    report.classes?.length
      ? details(
          "Classes that the file names",
          h(
            "ul",
            {},
            report.classes.map((one) => h("li", {}, h("code", {}, one))),
          ),
        )
      : null,
  );
}

const details = (title, content, open = false) => h("details", { open }, h("summary", {}, title), content);
const list = (title, items) =>
  items?.length
    ? details(
        `${title} (${items.length})`,
        h(
          "ul",
          {},
          items
            .slice(0, 100)
            .map((item) => h("li", {}, h("code", {}, typeof item === "string" ? item : JSON.stringify(item)))),
        ),
        true,
      )
    : null;

/** What can be said of any file: which part of it is taken, under which names, and with which numbers. */
function choices(sent, open) {
  const part = h("input", { autocomplete: "off", value: sent.part ?? "" });
  const rename = h("textarea", {
    class: "mono",
    rows: "3",
    value: (sent.rename ?? []).map((rule) => `${rule.from} -> ${rule.to}`).join("\n"),
  });
  let nonfinite = sent.allow_nonfinite ?? false;
  const element = h(
    "details",
    { open },
    h("summary", {}, "Which tensors are taken"),
    h(
      "div",
      { class: "stack" },
      field("Part of the file", part, { hint: "Where it has several sets of weights: the key of one, such as gen." }),
      field("Other names", rename, {
        wide: true,
        hint: "One rule a line, such as model.* -> *, where * is a name and ** are several.",
      }),
      check("Take numbers that are not finite as they are", nonfinite, (on) => {
        nonfinite = on;
      }),
    ),
  );
  const read = () => {
    const rules = rename.value.split("\n").filter((line) => line.trim());
    return {
      part: part.value.trim() || undefined,
      allow_nonfinite: nonfinite || undefined,
      rename: rules.length
        ? rules.map((line) => {
            const [from, to, more] = line.split("->").map((text) => text.trim());
            if (to === undefined || more !== undefined) throw new Error(`“${line}” is no rule such as model.* -> *.`);
            return { from, to };
          })
        : undefined,
    };
  };
  return { element, read };
}

function needsCard(report, sent, send) {
  const controls = {};
  const needs = report.needs ?? [];
  const chosen = choices(sent, !needs.length);
  const parts = needs.map((need) => {
    const given =
      sent[need.what] ??
      (need.what === "architecture"
        ? report.proposal?.forward
          ? undefined
          : report.proposal
        : report.proposal?.[need.what]);
    const text =
      need.what === "forward" && Array.isArray(given)
        ? given.join("\n")
        : given === undefined || given === null
          ? ""
          : pretty(given);
    const area = h("textarea", {
      class: "mono",
      rows: need.what === "forward" ? "5" : "9",
      value: text,
    });
    controls[need.what] = area;
    const label =
      {
        forward: "How the net calls its layers (forward)",
        architecture: "The net (a document, a digest, or a net of the catalogue)",
        inputs: "What the net takes (inputs)",
      }[need.what] ?? need.what;
    return h(
      "div",
      { class: "stack" },
      h("p", {}, prose(need.detail.replace("send the proposal as `architecture`", "it stands below"))),
      field(label, area, {
        wide: true,
        hint:
          need.what === "forward"
            ? "One statement a line, ending in return; or the Python text of the method."
            : 'JSON, for example {"catalogue": "resnet18"}',
      }),
    );
  });
  const wrong = h("div", {});
  const read = (what, text) => {
    if (what === "forward" && !text.trim().startsWith("{")) return text.split("\n").filter((line) => line.trim());
    if (what === "architecture" && /^sha256:/.test(text.trim())) return text.trim();
    return JSON.parse(text);
  };
  return card(
    needs.length ? "Supply what is missing" : "Try it otherwise",
    report.proposal?.guess
      ? h(
          "p",
          { class: "hint" },
          `The server guesses: ${report.proposal.guess} Activations that were functions leave no trace in a file, so look twice.`,
        )
      : null,
    h(
      "form",
      {
        onsubmit: (event) => {
          event.preventDefault();
          try {
            const more = { ...sent, ...chosen.read() };
            for (const [what, area] of Object.entries(controls))
              if (area.value.trim()) more[what] = read(what, area.value);
            replace(wrong);
            void attempt(() => send(more));
          } catch (error) {
            replace(wrong, h("p", { class: "error-text", role: "alert" }, problemText(error)));
          }
        },
      },
      parts,
      chosen.element,
      wrong,
      h("div", { class: "actions" }, h("button", { class: "primary" }, "Publish")),
    ),
  );
}
