"""Pages of the dashboard in a real browser: Debian's Chromium, driven by Playwright.

Whatever a test does, its page may ask no other host for anything, break no policy and throw no error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, BrowserContext, FilePayload, Page, expect

from tests.live import Server

PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)
HOSTILE = "<img src=x onerror=window.hit=1>"
ADAM = {"type": "Adam", "lr": 0.01}
LINEAR = {"type": "Linear", "in_features": 4, "out_features": 2}
PICTURE = {
    "schema": "arch/1",
    "inputs": [{"name": "image", "shape": ["B", 1, 16, 16]}],
    "root": {
        "type": "Sequential",
        "layers": [
            {"name": "flat", "type": "Flatten"},
            {"name": "head", "type": "Linear", "in_features": 256, "out_features": 3},
        ],
    },
}


@dataclass
class Watched:
    """What a page did that it may not do."""

    foreign: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def opened(browser: Browser, url: str, *, interrupted: bool = False) -> Iterator[Page]:
    """A page in a context of its own; `interrupted`: failed requests are part of the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    watched = _watch(context, url)
    page = context.new_page()
    yield page
    context.close()
    assert watched.foreign == []
    ignored = ("Failed to load resource",) if interrupted else ()
    assert [text for text in watched.complaints if not text.startswith(ignored or ("\0",))] == []


def _watch(context: BrowserContext, url: str) -> Watched:
    watched = Watched()

    def asked(request: Any) -> None:
        if not request.url.startswith((url, "data:", "blob:")):
            watched.foreign.append(request.url)

    context.on("request", asked)
    context.on("weberror", lambda error: watched.complaints.append(str(error.error)))
    context.on(
        "console",
        lambda message: watched.complaints.append(message.text) if message.type in ("error", "warning") else None,
    )
    return watched


def go(page: Page, server: Server, place: str) -> None:
    """Open a page of the dashboard and wait until it stands."""
    page.goto(f"{server.url}/ui/{place}")
    expect(page.locator("main")).to_have_attribute("data-ready", place)
    expect(page.locator("#connection")).to_have_attribute("data-status", "live")


def tab_to(page: Page, name: str, *, backwards: bool = False) -> None:
    """Press Tab until the control of this name has the focus."""
    for _ in range(150):
        page.keyboard.press("Shift+Tab" if backwards else "Tab")
        found = page.evaluate(
            """() => { const e = document.activeElement; return e.getAttribute('aria-label')
               ?? (e.labels?.length ? e.labels[0].textContent : e.textContent.trim()) }"""
        )
        if found == name:
            return
    raise AssertionError(f"the keyboard does not come to {name!r}")


def press(page: Page, name: str, key: str = "Enter", *, backwards: bool = False) -> None:
    tab_to(page, name, backwards=backwards)
    page.keyboard.press(key)


def write(page: Page, name: str, text: str) -> None:
    tab_to(page, name)
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type(text)


def hide(page: Page, *, hidden: bool) -> None:
    """What a browser does when another tab is shown; no driver can."""
    page.evaluate(
        """hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
           document.dispatchEvent(new Event('visibilitychange')) }""",
        hidden,
    )


def curve(page: Page) -> dict[str, list[float]]:
    """The loss that the page draws."""
    found: dict[str, list[float]] = page.evaluate(
        "() => { const { x, y } = document.querySelector('[aria-label=Curves] .plot').data[0]; return { x, y } }"
    )
    return found


def wide_net(branches: int) -> dict[str, Any]:
    """A net with so many inputs, a layer for each, and one that takes all."""
    called = ", ".join(f"branch{i}(in{i})" for i in range(branches))
    return {
        "schema": "arch/1",
        "inputs": [{"name": f"in{i}", "shape": ["B", 4]} for i in range(branches)],
        "root": {
            "type": "Graph",
            "inputs": [f"in{i}" for i in range(branches)],
            "layers": [
                *(
                    {"name": f"branch{i}", "type": "Linear", "in_features": 4, "out_features": 8}
                    for i in range(branches)
                ),
                {"name": "head", "type": "Linear", "in_features": 8 * branches, "out_features": 2},
            ],
            "forward": [f"x = cat(({called}), dim=1)", "return head(x)"],
        },
    }


def csv_file(name: str, content: str | bytes) -> FilePayload:
    """A table as a browser's chooser takes it."""
    return {"name": name, "mimeType": "text/csv", "buffer": content.encode() if isinstance(content, str) else content}
