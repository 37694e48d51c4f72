// One event stream for the page that is shown: read with fetch, so that it can carry a key; closed while the page is
// hidden; resumed after the last event that was seen, so that none is lost and none comes twice.

import { problemOf, refused, request } from "./api.js";

const state = {
  topics: "jobs",
  handler: null,
  ready: null,
  resumed: null,
  lastId: null,
  abort: null,
  generation: 0,
  listeners: new Set(),
  status: "connecting",
};

/**
 * Listen for a page.
 *
 * `ready` is called each time a stream begins that continues no other: whatever the page has read until then may be old,
 * and it reads it now. What happens from then on comes to `handler`, once each and in order.
 * `resumed` is called when a stream goes on that was cut: what `handler` asked for meanwhile may have failed.
 */
export function watch(topics, handler, ready, resumed = null) {
  state.generation += 1;
  Object.assign(state, { topics: ["jobs", ...topics].join(","), handler, ready, resumed, lastId: null });
  state.abort?.abort();
  if (!document.hidden) void run(state.generation);
}

/** Tell `listener` of the connection: "live", "connecting", "lost", "paused", or "refused" with the problem. */
export function onStatus(listener) {
  state.listeners.add(listener);
  listener(state.status);
}

function tell(status, problem) {
  if (state.status === status && !problem) return;
  state.status = status;
  for (const listener of state.listeners) listener(status, problem);
}

document.addEventListener("visibilitychange", () => {
  state.generation += 1;
  state.abort?.abort();
  if (document.hidden) tell("paused");
  else void run(state.generation);
});

async function run(generation) {
  let wait = 250;
  while (generation === state.generation) {
    const abort = new AbortController();
    state.abort = abort;
    try {
      const headers = { Accept: "text/event-stream" };
      if (state.lastId !== null) headers["Last-Event-ID"] = state.lastId;
      const answer = await request(`/v1/events?topics=${state.topics}`, { headers, signal: abort.signal });
      if (!answer.ok) {
        const problem = await problemOf(answer);
        if (refused(problem) && generation === state.generation) {
          tell("refused", problem); // it would be refused again: the next page, or another key, tries anew
          return;
        }
        throw problem;
      }
      tell("live");
      wait = 250;
      // Where it begins is settled now: what is read after this, and what the stream brings, leave no gap.
      if (state.lastId === null) await state.ready?.();
      else state.resumed?.();
      await events(answer.body, generation);
    } catch (error) {
      if (abort.signal.aborted || generation !== state.generation) return;
      console.debug("stream:", error.message);
    }
    if (generation !== state.generation) return;
    tell("lost");
    await new Promise((resolve) => {
      setTimeout(resolve, wait);
    });
    wait = Math.min(wait * 2, 4000);
  }
}

async function events(body, generation) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done || generation !== state.generation) return;
    text = (text + value).replaceAll("\r\n", "\n");
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      take(text.slice(0, end));
      text = text.slice(end + 2);
    }
  }
}

function take(block) {
  let id = null;
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("id:")) id = line.slice(3).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  if (!data.length) return;
  const event = JSON.parse(data.join("\n"));
  try {
    state.handler?.(event);
  } finally {
    if (id !== null) state.lastId = id;
  }
}
