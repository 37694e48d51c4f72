// The dialog that asks for an API key; several requests that wait for one share it.

import { field, h } from "./dom.js";

let asking = null;

/** The key that the person gives, or null where they give none. `wrong` says what is wrong with the one before. */
export function askForKey(wrong) {
  asking ??= ask(wrong).finally(() => {
    asking = null;
  });
  return asking;
}

function ask(wrong) {
  return new Promise((resolve) => {
    const input = h("input", { type: "password", autocomplete: "off", required: true, spellcheck: "false" });
    const dialog = h(
      "dialog",
      {
        class: "dialog",
        "aria-labelledby": "key-title",
        onclose: () => {
          const given = dialog.returnValue === "given" ? input.value.trim() : "";
          dialog.remove();
          resolve(given || null);
        },
      },
      h(
        "form",
        {
          method: "dialog",
          onsubmit: () => {
            dialog.returnValue = "given";
          },
        },
        h("h2", { id: "key-title" }, "This server wants an API key"),
        wrong ? h("p", { class: "error-text", role: "alert" }, wrong) : null,
        h("p", {}, "It stays in this tab until you close it, and goes to this server only."),
        field("API key", input, { wide: true }),
        h(
          "div",
          { class: "actions" },
          h("button", { class: "primary", value: "given" }, "Use this key"),
          h("button", { type: "button", class: "quiet", onclick: () => dialog.close("") }, "Not now"),
        ),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  });
}
