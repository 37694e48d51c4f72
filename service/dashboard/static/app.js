// The frame: which page an address shows, the navigation, the state of the connection.
// A page's module is loaded when the page is first shown.

import { Problem, forgetKey, hasKey, scopeOf, onStatus, request, watch } from "./api.js";
import { button, h, replace } from "./dom.js";
import { failure } from "./parts.js";

const PAGES = [
  ["Start", "#/"],
  ["Train", "#/train"],
  ["Jobs", "#/jobs"],
  ["Models", "#/models"],
  ["Playground", "#/playground"],
  ["Import", "#/import"],
];

// Addresses, each with the module of its page, the function in it that draws, and the title.
const ROUTES = [
  [/^\/$/, "start", "page", "Start"],
  [/^\/train$/, "train", "page", "Train"],
  [/^\/datasets\/([^/]+)$/, "train", "page", "Train"],
  [/^\/jobs$/, "jobs", "list", "Jobs"],
  [/^\/jobs\/([^/]+)$/, "jobs", "page", "Jobs"],
  [/^\/models$/, "models", "list", "Models"],
  [/^\/models\/([^/]+)$/, "models", "page", "Models"],
  [/^\/models\/([^/]+)\/(\d+)$/, "models", "page", "Models"],
  [/^\/playground(?:\/([^/]+))?$/, "playground", "page", "Playground"],
  [/^\/import$/, "imports", "page", "Import"],
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
  for (const [pattern, module, draw, title] of ROUTES) {
    const match = pattern.exec(path);
    if (match) {
      found = { module, draw, title, params: match.slice(1).map((part) => part && decoded(part)) };
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
  let stands = false;
  try {
    if (!found) throw new Problem(404, { detail: "There is no such page." });
    const module = await loaded(found.module, () => mine === turn);
    if (mine !== turn) return;
    await module[found.draw](place, {
      params: found.params,
      query: new URLSearchParams(search ?? ""),
      onLeave: (end) => (mine === turn ? left.push(end) : end()),
    });
    stands = true;
  } catch (error) {
    if (mine !== turn) return;
    const back = PAGES.find(([title]) => title === found?.title) ?? PAGES[0];
    replace(
      place,
      h("h1", {}, found?.title ?? "Not found"),
      failure(error),
      error instanceof NotLoaded ? h("p", {}, button("Try again", show, { class: "primary" })) : null,
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
  if (stands && !performance.getEntriesByName("usable").length) performance.mark("usable");
  main.dataset.ready = location.hash || "#/";
}

/** The module of a page could not be loaded. */
class NotLoaded extends Error {}

const RELOADED = "modelyard.reloaded";

/** The module of a page. Another release of the server has others in their place: then the whole page is loaded anew,
 * once, if it is still `wanted`; and not where no server answers, since this page tells that better than a browser. */
async function loaded(name, wanted) {
  try {
    const module = await import(`./${name}.js`);
    sessionStorage.removeItem(RELOADED);
    return module;
  } catch (cause) {
    const answer = await request(location.pathname, { cache: "no-store" }).catch((error) => error);
    if (answer.ok && wanted() && !sessionStorage.getItem(RELOADED)) {
      sessionStorage.setItem(RELOADED, "once");
      location.reload();
      await new Promise(() => {}); // nothing more is drawn here
    }
    if (wanted()) sessionStorage.removeItem(RELOADED); // whoever tries again may
    throw new NotLoaded(answer.message ?? "A part of this page could not be loaded from the server.", { cause });
  }
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
  const scope = problem && scopeOf(problem);
  document.getElementById("connection").dataset.status = scope ? "unseen" : status; // a key may be right without them
  document.getElementById("connection-text").textContent =
    WORDS[status] ?? (scope ? "This key sees no events" : "Needs an API key");
});

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is the page's
  main.focus();
});
document.querySelector(".links").append(forget);
window.addEventListener("hashchange", show);
void show();
