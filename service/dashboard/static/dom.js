// Elements out of plain data. Text only ever becomes a text node: no markup is parsed here.

const SVG = "http://www.w3.org/2000/svg";

/** An element. Props: `on…` listeners, `class`, `data`, ARIA and other attributes, DOM properties such as `value`. */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function s(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

const PROPERTIES = ["value", "checked", "disabled", "hidden", "open", "required"];

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) {
      if (PROPERTIES.includes(name) && value === false) element[name] = false;
    } else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (PROPERTIES.includes(name))
      continue; // after the children: a select has no value before it has options
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  add(element, children);
  for (const name of PROPERTIES)
    if (props && props[name] !== undefined && props[name] !== null) element[name] = props[name];
  return element;
}

/** Append children: elements, texts, numbers, lists of them; nothing for null and false. */
export function add(element, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === "") continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

export function replace(element, ...children) {
  element.replaceChildren();
  return add(element, children);
}

let ids = 0;

export const newId = (prefix = "e") => `${prefix}-${(ids += 1)}`;

/** A labelled control. `control` is an element with a value; `hint` stands below it. */
export function field(label, control, { hint, wide = false } = {}) {
  if (!control.id) control.id = newId("f");
  const note = hint ? h("p", { class: "hint", id: `${control.id}-hint` }, hint) : null;
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div", { class: `field${wide ? " wide" : ""}` }, h("label", { for: control.id }, label), control, note);
}

/** A select over `[value, text]` pairs or plain texts; a value that is none of them is one more. */
export function select(options, value, onchange, props = {}) {
  const pairs = options.map((option) => [option].flat());
  if (value && !pairs.some(([key]) => key === value)) pairs.push([value]);
  return h(
    "select",
    { ...props, value, onchange: (event) => onchange(event.target.value) },
    pairs.map(([key, text = key]) => h("option", { value: key }, text)),
  );
}

export function check(label, checked, onchange, { hint } = {}) {
  const box = h("input", {
    type: "checkbox",
    id: newId("c"),
    checked,
    onchange: (event) => onchange(event.target.checked),
  });
  const note = hint ? h("p", { class: "hint", id: `${box.id}-hint` }, hint) : null;
  if (note) box.setAttribute("aria-describedby", note.id);
  return h("div", { class: "check" }, box, h("div", {}, h("label", { for: box.id }, label), note));
}

/** A button; what it says may change, and `props` may say what kind it is. */
export const button = (text, onclick, props = {}) => h("button", { type: "button", onclick, ...props }, text);

/** A text as it is, which scrolls where it is long. */
export const block = (label, text) =>
  h("pre", { class: "logs", tabindex: "0", role: "region", "aria-label": label }, text);

const FEW = 6;

/** A table that scrolls by itself where the page is narrow, or whose rows are then each a block of lines (`stacked`).
 * `columns`: texts or `{label, numeric, hidden}`; a column of buttons has a hidden label, and beside few stays in sight. */
export function table(caption, columns, rows, { empty = "Nothing here yet.", shown = false, stacked = false } = {}) {
  if (!rows.length) return h("p", { class: "empty" }, empty);
  const heads = columns.map((column) => (typeof column === "string" ? { label: column } : column));
  const scroll = h(
    "div",
    {
      class: `scroll${stacked ? " stacked" : ""}${heads.length > FEW ? "" : " fixed"}`,
      role: "region",
      "aria-label": caption,
      tabindex: "0",
    },
    h(
      "table",
      { role: "table" }, // also where it is shown as blocks
      h("caption", { class: shown ? null : "sr" }, caption),
      h(
        "thead",
        { role: "rowgroup" },
        h(
          "tr",
          { role: "row" },
          heads.map((head) =>
            h(
              "th",
              { scope: "col", role: "columnheader", class: head.numeric ? "num" : head.hidden ? "act" : null },
              head.hidden ? h("span", { class: "sr" }, head.label) : head.label,
            ),
          ),
        ),
      ),
      h(
        "tbody",
        { role: "rowgroup" },
        rows.map((row) => {
          const cells = Array.isArray(row) ? row : row.cells;
          return h(
            "tr",
            { role: "row", class: row.class?.filter(Boolean).join(" "), data: row.data },
            cells.map((cell, i) =>
              h(
                "td",
                {
                  role: "cell",
                  class: heads[i]?.numeric ? "num" : heads[i]?.hidden ? "act" : null,
                  data: stacked && !heads[i]?.hidden ? { label: heads[i]?.label } : {},
                },
                cell,
              ),
            ),
          );
        }),
      ),
    ),
  );
  return scroll;
}

/** Tabs with the keyboard of the ARIA pattern. `items`: `[key, label, build]`; the panel is built when it is shown. */
export function tabs(label, items, current, onchange = () => {}) {
  const prefix = newId("tabs");
  const panel = h("div", { class: "panel", role: "tabpanel", id: `${prefix}-panel`, tabindex: "0" });
  const buttons = items.map(([key, text]) =>
    h(
      "button",
      {
        type: "button",
        role: "tab",
        id: `${prefix}-${key}`,
        "aria-controls": panel.id,
        class: "tab",
        onclick: () => show(key, true),
        onkeydown: (event) => {
          const at = items.findIndex(([name]) => name === key);
          const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: items.length - 1 }[event.key];
          if (to === undefined) return;
          event.preventDefault();
          const [name] = items[(to + items.length) % items.length];
          show(name, true);
          buttons.find((button) => button.id === `${prefix}-${name}`).focus();
        },
      },
      text,
    ),
  );
  function show(key, told) {
    for (const button of buttons) {
      const on = button.id === `${prefix}-${key}`;
      button.setAttribute("aria-selected", String(on));
      button.tabIndex = on ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", `${prefix}-${key}`);
    if (told) onchange(key);
    replace(panel, items.find(([name]) => name === key)[2]());
  }
  show(current ?? items[0][0], false);
  return h("div", {}, h("div", { role: "tablist", "aria-label": label, class: "tablist" }, buttons), panel);
}

/** A button that copies a text; null where the browser gives no clipboard, as without TLS. */
export function copyButton(text, props = {}) {
  const copy = async ({ target }) => {
    await navigator.clipboard.writeText(text);
    target.textContent = "Copied";
    setTimeout(() => replace(target, "Copy"), 1500);
  };
  return navigator.clipboard ? button("Copy", copy, { class: "quiet small", ...props }) : null;
}

export function code(text, label) {
  return h(
    "div",
    { class: "code" },
    copyButton(text, { class: "quiet small copy" }),
    h("pre", { tabindex: "0", role: "region", "aria-label": label }, text),
  );
}

export function dropZone(label, hint, onfile, { accept } = {}) {
  const input = h("input", {
    type: "file",
    id: newId("file"),
    class: "sr",
    accept,
    onchange: () => {
      if (input.files[0]) take(input.files[0]);
      input.value = ""; // so that the same file can be chosen once more, when it was mended
    },
  });
  const name = h("span", { class: "file-name" });
  const zone = h(
    "div",
    {
      class: "drop",
      ondragover: (event) => {
        event.preventDefault();
        zone.classList.add("over");
      },
      ondragleave: () => zone.classList.remove("over"),
      ondrop: (event) => {
        event.preventDefault();
        zone.classList.remove("over");
        if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
      },
    },
    input,
    h("label", { for: input.id }, label),
    h("p", { class: "hint" }, hint),
    name,
  );
  function take(file) {
    replace(name, file.name);
    onfile(file);
  }
  return zone;
}

/** Whether the person says `yes` to what is going to happen. */
export function sure(title, content, yes) {
  return new Promise((resolve) => {
    const id = newId("dialog");
    const dialog = h(
      "dialog",
      {
        class: "dialog",
        "aria-labelledby": id,
        onclose: () => {
          dialog.remove();
          resolve(dialog.returnValue === "yes");
        },
      },
      h(
        "form",
        { method: "dialog" },
        h("h2", { id }, title),
        content,
        h(
          "div",
          { class: "actions" },
          h("button", { class: "primary", value: "yes" }, yes),
          button("Not now", () => dialog.close(), { class: "quiet" }),
        ),
      ),
    );
    document.body.append(dialog);
    dialog.showModal(); // the first control has the focus, and the one that was pressed gets it back
  });
}
