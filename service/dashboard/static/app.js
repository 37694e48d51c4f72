// The frame: which page an address shows, the navigation, the state of the connection.

import { Problem, forgetKey, hasKey, scopeOf, onStatus, watch } from "./api.js";
import { button, h, replace } from "./dom.js";
import { failure } from "./parts.js";
import * as imports from "./imports.js";
import * as jobs from "./jobs.js";
import * as models from "./models.js";
import * as playground from "./playground.js";
import * as start from "./start.js";
import * as train from "./train.js";

const PAGES = [
  ["Start", "#/"],
  ["Train", "#/train"],
  ["Jobs", "#/jobs"],
  ["Models", "#/models"],
  ["Playground", "#/playground"],
  ["Import", "#/import"],
];

const ROUTES = [
  [/^\/$/, start.page, "Start"],
  [/^\/train$/, train.page, "Train"],
  [/^\/datasets\/([^/]+)$/, train.page, "Train"],
  [/^\/jobs$/, jobs.list, "Jobs"],
  [/^\/jobs\/([^/]+)$/, jobs.page, "Jobs"],
  [/^\/models$/, models.list, "Models"],
  [/^\/models\/([^/]+)$/, models.page, "Models"],
  [/^\/models\/([^/]+)\/(\d+)$/, models.page, "Models"],
  [/^\/playground(?:\/([^/]+))?$/, playground.page, "Playground"],
  [/^\/import$/, imports.page, "Import"],
];

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const forget = button(
  "Sign out",
  () => {
    forgetKey();
    location.reload();
  },
  { class: "small", title: "This tab forgets its key.", hidden: !hasKey() },
);
let leave = null;
let first = true;
let turn = 0;

nav.append(
  h(
    "ul",
    {},
    PAGES.map(([text, href]) => h("li", {}, h("a", { href, data: { page: text } }, text))),
  ),
);

async function show() {
  turn += 1;
  const mine = turn;
  const [path, search] = (location.hash.slice(1) || "/").split("?");
  leave?.();
  leave = null;
  let found = null;
  for (const [pattern, page, title] of ROUTES) {
    const match = pattern.exec(path);
    if (match) {
      found = { page, title, params: match.slice(1).map((part) => part && decoded(part)) };
      break;
    }
  }
  for (const link of nav.querySelectorAll("a")) {
    if (link.dataset.page === found?.title) {
      link.setAttribute("aria-current", "page");
      nav.scrollLeft = link.offsetLeft - nav.clientWidth / 2; // where the pages stand in a row
    } else link.removeAttribute("aria-current");
  }
  const place = h("div", { class: "page" });
  replace(main, place);
  document.getElementById("notes").replaceChildren(); // they told of the page before
  document.title = `${found?.title ?? "Not found"} · Modelyard`;
  const left = [];
  leave = () => left.forEach((end) => end());
  try {
    if (!found) throw new Problem(404, { detail: "There is no such page." });
    await found.page(place, {
      params: found.params,
      query: new URLSearchParams(search ?? ""),
      onLeave: (end) => (mine === turn ? left.push(end) : end()),
    });
  } catch (error) {
    if (mine !== turn) return;
    const back = PAGES.find(([title]) => title === found?.title) ?? PAGES[0];
    replace(
      place,
      h("h1", {}, found?.title ?? "Not found"),
      failure(error),
      error.status === 404 ? h("p", {}, h("a", { href: back[1] }, `Go to ${back[0]}`)) : null,
      error.status === 403 && scopeOf(error) === "read"
        ? h(
            "p",
            {},
            "A key of the scope predict can ask a model in the ",
            h("a", { href: "#/playground" }, "playground"),
            ".",
          )
        : null,
    );
    watch([], () => {}, null);
  }
  if (mine !== turn) return;
  const heading = place.querySelector("h1");
  if (heading && heading.textContent !== found?.title) document.title = `${heading.textContent} · Modelyard`;
  if (!first && heading) {
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }
  first = false;
  forget.hidden = !hasKey();
  if (!performance.getEntriesByName("usable").length) performance.mark("usable");
  main.dataset.ready = location.hash || "#/";
}

/** A part of an address as text, also where it is not well written. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

const WORDS = {
  live: "Live",
  connecting: "Connecting",
  lost: "Connection lost, trying again",
  paused: "Paused while hidden",
};
onStatus((status, problem) => {
  document.getElementById("connection").dataset.status = status;
  const scope = problem && scopeOf(problem);
  document.getElementById("connection-text").textContent =
    WORDS[status] ?? (scope ? `Needs the scope ${scope}` : "Needs an API key");
});

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is the page's
  main.focus();
});
document.querySelector(".links").append(forget);
window.addEventListener("hashchange", show);
void show();
