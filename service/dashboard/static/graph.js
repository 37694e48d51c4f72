// A drawing of a net: the server's Mermaid flowchart as data, laid out in ranks, as SVG.

import { button, h, newId, s } from "./dom.js";

const NODE = /^(n\d+)(\(\[|\[\/|\[|\()"(.*)"(?:\]\)|\/\]|\]|\))$/;
const GROUP = /^subgraph (s\d+)\["(.*)"\]$/;
const EDGE = /^(n\d+) -->(?:\|"(.*)"\|)? (n\d+)$/;
const KINDS = { "([": "port", "[/": "tensor", "[": "layer", "(": "operation" };
const MANY = 36;
const WIDE = 640; // has the page's width for itself
const SMALLEST = 0.75;

const plain = (text) => text.replace(/#(\d+);/g, (_, code) => String.fromCodePoint(Number(code)));

/** Nodes and edges of a flowchart text, each node with the containers around it. */
export function parse(text) {
  const nodes = new Map();
  const edges = [];
  const groups = [];
  for (const line of text.split("\n").map((item) => item.trim())) {
    let found;
    if ((found = GROUP.exec(line))) groups.push({ id: found[1], title: plain(found[2]) });
    else if (line === "end") groups.pop();
    else if ((found = NODE.exec(line)))
      nodes.set(found[1], {
        id: found[1],
        kind: KINDS[found[2]],
        lines: found[3].split("<br/>").map(plain),
        groups: [...groups],
      });
    else if ((found = EDGE.exec(line))) edges.push({ from: found[1], to: found[3], label: plain(found[2] ?? "") });
  }
  return { nodes, edges };
}

/** The same with each inner container as one node, so that a deep net can be taken in. */
function folded({ nodes, edges }) {
  const kept = new Map();
  const place = new Map();
  for (const node of nodes.values()) {
    const group = node.groups[1];
    if (!group) {
      kept.set(node.id, node);
      place.set(node.id, node.id);
      continue;
    }
    place.set(node.id, group.id);
    if (!kept.has(group.id))
      kept.set(group.id, { id: group.id, kind: "folded", lines: [group.title, ""], count: 0, groups: [] });
    const one = kept.get(group.id);
    one.count += 1;
    one.lines[1] = `${one.count} parts`;
  }
  const seen = new Set();
  const links = [];
  for (const edge of edges) {
    const [from, to] = [place.get(edge.from), place.get(edge.to)];
    if (from === to || seen.has(`${from} ${to}`)) continue;
    seen.add(`${from} ${to}`);
    links.push({ from, to, label: edge.label });
  }
  return { nodes: kept, edges: links };
}

export function drawing(mermaid, label) {
  const whole = parse(mermaid);
  const many = whole.nodes.size > MANY;
  const place = h("div", { class: "graph", tabindex: "0", role: "region", "aria-label": `${label}, scrolls` });
  const show = (open) => {
    const picture = svg(open ? whole : folded(whole), label);
    const width = Number(picture.getAttribute("width"));
    picture.style.minWidth = `${Math.round(width * SMALLEST)}px`; // smaller could not be read: then it scrolls
    place.classList.toggle("wide", width > WIDE);
    place.replaceChildren(picture);
    requestAnimationFrame(() => {
      place.scrollLeft = (place.scrollWidth - place.clientWidth) / 2;
    });
  };
  show(!many);
  if (!many || folded(whole).nodes.size === whole.nodes.size) return place;
  const all = button(
    `Show all ${whole.nodes.size} parts`,
    () => {
      const open = all.getAttribute("aria-pressed") !== "true";
      all.setAttribute("aria-pressed", String(open));
      show(open);
    },
    { class: "quiet small", "aria-pressed": "false" },
  );
  return h("div", {}, all, place);
}

const CHAR = 7.1;
const HEIGHT = 44;
const GAP_X = 26;
const GAP_Y = 40;
const LETTER = 6.2; // of an edge's text

function svg({ nodes, edges }, label) {
  const ranks = ranked(nodes, edges);
  const boxes = placed(nodes, edges, ranks);
  const links = routes(edges, boxes);
  const texts = edgeTexts(links);
  const right = Math.max(
    ...[...boxes.values()].map((box) => box.x + box.width / 2),
    ...texts.filter((one) => !one.before).map((one) => one.x + one.text.length * LETTER - 12),
  );
  const bottom = Math.max(...[...boxes.values()].map((box) => box.y + HEIGHT));
  const marker = newId("arrow");
  const width = Math.ceil(right + 24);
  const height = Math.ceil(bottom + 12);
  const parts = [
    s(
      "defs",
      {},
      s(
        "marker",
        { id: marker, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
        s("path", { d: "M0 0.5 L7.5 4 L0 7.5 z", class: "arrow" }),
      ),
    ),
  ];
  for (const { points } of links) {
    const [first, ...others] = points;
    let path = `M${first.x} ${first.y}`;
    let from = first;
    for (const to of others) {
      const middle = (from.y + to.y) / 2;
      path += ` C${from.x} ${middle} ${to.x} ${middle} ${to.x} ${to.y}`;
      from = to;
    }
    parts.push(s("path", { d: path, class: "edge", "marker-end": `url(#${marker})` }));
  }
  for (const { x, y, text, before } of texts)
    parts.push(s("text", { x, y, class: `edge-text${before ? " before" : ""}` }, text));
  for (const node of nodes.values()) {
    const box = boxes.get(node.id);
    parts.push(
      s(
        "g",
        { class: `node ${node.kind}` },
        s("title", {}, [...node.groups.map((group) => group.title), node.lines.join(" ")].join(" › ")),
        s("rect", {
          x: box.x - box.width / 2,
          y: box.y,
          width: box.width,
          height: HEIGHT,
          rx: node.kind === "port" ? HEIGHT / 2 : node.kind === "operation" ? 14 : 8,
        }),
        node.lines.length > 1
          ? [
              s("text", { x: box.x, y: box.y + 18, class: "name" }, short(node.lines[0])),
              s("text", { x: box.x, y: box.y + 34, class: "kind" }, short(node.lines[1])),
            ]
          : s("text", { x: box.x, y: box.y + 27, class: "name" }, short(node.lines[0])),
      ),
    );
  }
  return s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label }, parts);
}

/** A value's shape, once, below its node: on the side to which its edge does not go. */
function edgeTexts(links) {
  const texts = new Map();
  for (const { from, points, label: text } of links) {
    const [first, next] = points;
    if (!text || texts.has(`${from} ${text}`)) continue;
    const before = next.x > first.x + 24 && first.x - 7 > text.length * LETTER;
    texts.set(`${from} ${text}`, { x: first.x + (before ? -7 : 7), y: first.y + 20, text, before });
  }
  return [...texts.values()];
}

const short = (text) => (text.length > 38 ? `${text.slice(0, 37)}…` : text);

/** Each node's rank: one more than the deepest it takes from; edges that lead back do not count. */
function ranked(nodes, edges) {
  const into = new Map([...nodes.keys()].map((id) => [id, []]));
  for (const edge of edges) into.get(edge.to)?.push(edge.from);
  const ranks = new Map();
  const open = new Set();
  const order = [...nodes.keys()];
  for (const root of order) {
    const stack = [root];
    while (stack.length) {
      // a deep net would be too deep for calls
      const id = stack[stack.length - 1];
      if (ranks.has(id)) {
        stack.pop();
        continue;
      }
      open.add(id);
      const waiting = into.get(id).filter((from) => !ranks.has(from) && !open.has(from));
      if (waiting.length) {
        stack.push(...waiting);
        continue;
      }
      ranks.set(id, Math.max(-1, ...into.get(id).map((from) => ranks.get(from) ?? -1)) + 1);
      open.delete(id);
      stack.pop();
    }
  }
  return ranks;
}

/** Boxes by id; long edges get places in the ranks that they cross, to run around the nodes. */
function placed(nodes, edges, ranks) {
  const rows = [];
  const put = (rank, item) => {
    (rows[rank] ??= []).push(item);
    return item;
  };
  const items = new Map();
  for (const node of nodes.values()) {
    const width = Math.max(84, ...node.lines.map((line) => short(line).length * CHAR + 28));
    items.set(node.id, put(ranks.get(node.id), { id: node.id, width, links: [], x: 0, rank: ranks.get(node.id) }));
  }
  for (const edge of edges) {
    const [low, high] = [ranks.get(edge.from), ranks.get(edge.to)];
    edge.via = [];
    if (high <= low) continue;
    let before = items.get(edge.from);
    for (let rank = low + 1; rank <= high; rank += 1) {
      const item = rank === high ? items.get(edge.to) : put(rank, { id: null, width: 18, links: [], x: 0, rank });
      if (rank < high) edge.via.push(item);
      before.links.push(item);
      item.links.push(before);
      before = item;
    }
  }
  const spread = (row) => {
    let x = 0;
    for (const item of row) {
      item.x = x + item.width / 2;
      x += item.width + GAP_X;
    }
    for (const item of row) item.x -= (x - GAP_X) / 2;
  };
  rows.forEach(spread);
  const mean = (item) =>
    item.links.length ? item.links.reduce((sum, link) => sum + link.x, 0) / item.links.length : item.x;
  for (let sweep = 0; sweep < 8; sweep += 1) {
    for (const row of sweep % 2 ? [...rows].reverse() : rows) {
      for (const item of row) item.wish = mean(item);
      row.sort((a, b) => a.wish - b.wish);
      let edge = -Infinity;
      for (const item of row) {
        item.x = Math.max(item.wish, edge + item.width / 2);
        edge = item.x + item.width / 2 + GAP_X;
      }
      const shift = row.reduce((sum, item) => sum + item.wish - item.x, 0) / row.length;
      for (const item of row) item.x += shift;
    }
  }
  const left = Math.min(...rows.flat().map((item) => item.x - item.width / 2)) - 12;
  let y = 10;
  for (const row of rows) {
    const aside = row.flatMap((item) =>
      item.links.filter((link) => link.rank < item.rank).map((link) => Math.abs(link.x - item.x)),
    );
    y += Math.min(60, Math.max(0, ...aside) / 10); // edges that go far aside need height to be told apart
    for (const item of row) item.y = y;
    y += HEIGHT + GAP_Y;
  }
  for (const item of rows.flat()) item.x -= left;
  return items;
}

function routes(edges, boxes) {
  return edges.map((edge) => {
    const [from, to] = [boxes.get(edge.from), boxes.get(edge.to)];
    const points = [
      { x: from.x, y: from.y + HEIGHT },
      ...edge.via.flatMap((item) => [
        { x: item.x, y: item.y },
        { x: item.x, y: item.y + HEIGHT },
      ]),
      { x: to.x, y: to.y - 2 },
    ];
    return { from: edge.from, points, label: edge.label };
  });
}
