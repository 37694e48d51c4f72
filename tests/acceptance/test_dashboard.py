"""The dashboard in a real browser, against a real server: Debian's Chromium, driven by Playwright.

Whatever a test does, its page may ask no other host for anything, break no policy and throw no error.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright
from torch import nn

from service import keys
from service.engine import doctor
from service.schemas import examples
from tests.live import Server, run_job, wait_for

PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)
_ADAM = {"type": "Adam", "lr": 0.01}
HOSTILE = "<img src=x onerror=window.hit=1>"
WRONG: dict[str, list[Any]] = {
    "inputs": [[0.0, 0.0], [1.0, 1.0]],
    "targets": [HOSTILE, "</script><script>window.hit=1</script>"],
}


@dataclass
class Watched:
    """What a page did that it may not do."""

    foreign: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("dashboard") / "store").start()
    found.port = int(found.url.rpartition(":")[2])
    with found.client() as client:
        run_job(client, examples.TRAIN)
        run_job(client, {**examples.TRAIN, "seed": 2, "output": {"model": "quadratic"}})
        run_job(client, examples.CLASSIFY)
    yield found
    assert found.stop() == 0


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as found:
        yield found


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "these tests need the Debian package chromium"
    found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
    yield found
    found.close()


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


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with opened(browser, server.url) as found:
        yield found


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


def press(page: Page, name: str, key: str = "Enter") -> None:
    tab_to(page, name)
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


def test_train_watch_promote_and_predict_by_keyboard_alone(page: Page, server: Server) -> None:
    go(page, server, "#/")
    press(page, "Train")
    expect(page.get_by_role("heading", name="Train", exact=True)).to_be_focused()
    expect(page.get_by_role("tab", name="Upload a file")).to_have_attribute("aria-selected", "true")
    tab_to(page, "Upload a file")
    page.keyboard.press("End")
    expect(page.get_by_role("tab", name="Examples")).to_be_focused()
    press(page, "A parabola with noiseOne number in, one out: watch a curve being fitted.")
    expect(page.get_by_text("The net can be built.")).to_be_visible()
    write(page, "Epochs", "40")
    write(page, "Name of the model", "typed")
    press(page, "Make it the champion when it succeeds", "Space")
    expect(page.get_by_text("Nothing to complain about.")).to_be_visible()
    expect(page.get_by_role("button", name="Train", exact=True)).to_be_enabled()
    press(page, "Train")

    expect(page.get_by_role("heading", name="Training of typed")).to_contain_text("succeeded")
    expect(page.locator(".note")).to_have_count(0)
    expect(page.locator("[aria-label=Curves] figure[data-drawn]").first).to_be_visible()
    press(page, "Open typed/1")
    expect(page.get_by_text("No champion: the newest version, 1, answers.")).to_be_visible()
    press(page, "Promote version 1")
    expect(page.get_by_role("dialog")).to_contain_text(
        "Version 1 answers whoever asks typed from now on, also when there are newer versions."
    )
    expect(page.get_by_role("dialog").get_by_role("button", name="Promote version 1")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Promote version 1")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Version 1 is the champion and answers.")).to_be_visible()
    expect(page.locator(".note")).to_have_text(re.compile("Version 1 is the champion."))
    tab_to(page, "Ask it", backwards=True)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Playground")).to_be_focused()
    expect(page.locator(".note")).to_have_count(0)
    write(page, "x", "0.5")
    page.keyboard.press("Enter")
    expect(page.locator("[data-answer]")).to_be_visible()

    shown = page.locator("[data-answer]").get_attribute("data-answer")
    with server.client() as client:
        answer = client.post("/predict", json={"model": "typed@champion", "inputs": [[0.5]]}).json()
    assert float(shown or "nan") == pytest.approx(answer["outputs"][0][0])


def test_a_pth_of_a_lost_class_is_imported(page: Page, server: Server) -> None:
    module = types.ModuleType("lost")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Linear(1, 10)
            self.predict = nn.Linear(10, 1)

    Net.__module__, Net.__qualname__ = "lost", "Net"
    module.Net = Net  # type: ignore[attr-defined]
    sys.modules["lost"] = module
    file = io.BytesIO()
    torch.save(Net(), file)
    del sys.modules["lost"]

    go(page, server, "#/import")
    page.get_by_label("Choose a .pt").set_input_files(
        {"name": "Lost Net.pth", "mimeType": "application/octet-stream", "buffer": file.getvalue()}
    )
    expect(page.get_by_label("Name of the model")).to_have_value("lost-net")
    page.get_by_role("button", name="Read it").click()
    expect(page.get_by_text("One thing is missing")).to_be_visible()
    expect(page.get_by_role("region", name="Layers of the file")).to_contain_text("hidden")
    forward = page.get_by_label("How the net calls its layers (forward)")
    expect(forward).to_have_value("x = hidden(x)\nreturn predict(x)")
    forward.fill("x = relu(hidden(x))\nreturn predict(x)")
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_text("Published as lost-net/1")).to_be_visible()
    page.get_by_role("link", name="Open it").click()
    page.get_by_role("tab", name="Python").click()

    expect(page.get_by_role("region", name="The net as Python")).to_contain_text("class Net(nn.Module):")


def test_a_wrong_document_and_a_wrong_request_are_mended_by_their_hints(browser: Browser, server: Server) -> None:
    with opened(
        browser, server.url, interrupted=True
    ) as page:  # where it is slow, the wrong request is sent and refused
        rows = "\n".join(f"{i};{i / 10};{('red', 'green')[i % 2]};{('a', 'b')[i % 2]}" for i in range(60))
        go(page, server, "#/train")
        page.get_by_role("tab", name="Upload a file").click()
        page.get_by_label("Choose a file").set_input_files(
            {"name": "flowers.csv", "mimeType": "text/csv", "buffer": f"number;length;colour;kind\n{rows}\n".encode()}
        )
        expect(page.get_by_label("What is to be predicted")).to_have_value("kind")
        page.get_by_role("checkbox", name="number", exact=True).uncheck()
        page.get_by_role("button", name="Use this data").click()
        expect(page.get_by_role("region", name="Columns")).to_contain_text("colour")
        columns = page.get_by_role("region", name="Columns").get_by_role("row")
        expect(columns.filter(has_text="left out")).to_contain_text("number")
        expect(page.get_by_text("Nothing to complain about.")).to_be_visible()

        page.get_by_role("tab", name="JSON").click()
        editor = page.get_by_label("Architecture document")
        editor.fill(editor.input_value().replace("ReLU", "Relu", 1))
        expect(page.get_by_text("One mistake in the net.")).to_be_visible()
        page.get_by_role("button", name="Show me").first.click()
        assert (
            page.evaluate(
                "() => { const e = document.activeElement; return e.value.slice(e.selectionStart, e.selectionEnd) }"
            )
            == '"Relu"'
        )
        page.get_by_role("button", name="Use ReLU").first.click()
        expect(page.get_by_text("The net can be built.")).to_be_visible()
        expect(editor).to_have_value(re.compile('"ReLU"'))

        page.get_by_label("Encode texts as one-hot").uncheck()
        expect(page.get_by_text("Mend the mistakes, then train.")).to_be_visible()
        expect(page.get_by_role("button", name="Train", exact=True)).to_be_disabled()
        page.get_by_role("button", name="Mend this").click()
        expect(page.get_by_label("Encode texts as one-hot")).to_be_checked()
        expect(page.get_by_role("button", name="Train", exact=True)).to_be_enabled()


def test_a_table_of_a_spreadsheet_is_read_trained_and_asked(page: Page, server: Server) -> None:
    """Decimal commas, a text before the numbers, and categories that are only among the rows that are held out."""
    rows = [f"{('Süd', 'Nord')[i % 2]};{20 + i},5;{1900 + i};{300 + 9 * i},25" for i in range(60)]
    rows += [f"Ort {i};{30 + i},5;1990;{400 + 9 * i},25" for i in range(8)]
    text = "\r\n".join(["\ufeffStadtteil;Fläche;Baujahr;Miete", *rows, ""])
    go(page, server, "#/train")
    page.get_by_role("tab", name="Upload a file").click()
    page.get_by_label("Choose a file").set_input_files(
        {"name": "mieten.csv", "mimeType": "text/csv", "buffer": text.encode()}
    )
    expect(page.get_by_label("Numbers are written as")).to_have_value("1234,56")
    page.get_by_role("button", name="Use this data").click()
    expect(page.get_by_role("region", name="Columns")).to_contain_text("20.5 to 79.5")
    expect(page.get_by_label("Standardize the target")).to_be_checked()
    expect(page.get_by_text("Nothing to complain about.")).to_be_visible()
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_role("heading", name="Training of mieten")).to_contain_text("succeeded")

    go(page, server, "#/playground/mieten")
    expect(page.get_by_label("Fläche")).to_have_accessible_description(
        re.compile(r"Seen in training: 2\d,5 to 7\d,5\. Written like 1234,56")
    )
    expect(page.get_by_label("Baujahr")).to_have_accessible_description(
        re.compile(r"Seen in training: 19\d\d to 19\d\d")
    )
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("[data-answer]")).to_be_visible()
    page.get_by_role("tab", name="/v2").click()
    call = page.get_by_label("The call in the Open Inference Protocol").inner_text()
    answer = json.loads(subprocess.run(["sh", "-c", call], capture_output=True, check=True, timeout=30).stdout)
    assert [output["shape"] for output in answer["outputs"]] == [[1, 1]], answer


def test_what_is_typed_is_what_is_trained_also_after_the_net_was_made_to_fit(page: Page, server: Server) -> None:
    """Of thirty categories some are only among held-out rows, so the page asks twice and narrows its net."""
    rows = "".join(f"{number / 7:.2f},kind {number * 7 % 30},{number % 5}.5\n" for number in range(60))
    go(page, server, "#/train")
    page.get_by_role("tab", name="Upload a file").click()
    page.get_by_label("Choose a file").set_input_files(
        {"name": "flats.csv", "mimeType": "text/csv", "buffer": f"area,kind,price\n{rows}".encode()}
    )
    with page.expect_response(lambda answer: "dry_run" in answer.url and len(answer.json()["warnings"]) == 0):
        page.get_by_role("button", name="Use this data").click()
    page.get_by_label("Name of the model").fill("casa")
    page.get_by_label("Epochs").fill("7")
    page.get_by_label("Optimizer").select_option("SGD")
    page.get_by_label("Learning rate").fill("0.002")
    page.get_by_label("Seed").fill("9")
    page.get_by_label("Make it the champion when it succeeds").uncheck()
    expect(page.get_by_text("Nothing to complain about.")).to_be_visible()
    with page.expect_request(lambda request: request.method == "POST" and request.url.endswith("/v1/jobs")) as sent:
        page.get_by_role("button", name="Train", exact=True).click()

    asked: Any = sent.value.post_data_json
    assert asked["output"] == {"model": "casa"}
    assert (asked["budget"], asked["seed"]) == ({"epochs": 7, "max_seconds": 300}, 9)
    assert asked["optimizer"] == {"type": "SGD", "lr": 0.002}
    expect(page.get_by_role("heading", name="Training of casa")).to_contain_text("succeeded")
    with server.client() as client:  # without a champion it would need a hand on the first page
        assert client.delete("/v1/models/casa").is_success


def test_a_file_of_windows_with_odd_cells_is_read_and_a_spreadsheet_is_not(page: Page, server: Server) -> None:
    rows = "".join(f"{number},5;{'k.A.' if number % 20 == 0 else number};{number * 2},5\n" for number in range(60))
    go(page, server, "#/train")
    page.get_by_role("tab", name="Upload a file").click()
    chooser = page.get_by_label("Choose a file")
    chooser.set_input_files({"name": "prüfung.xlsx", "mimeType": "application/zip", "buffer": b"PK"})
    expect(page.get_by_role("alert")).to_contain_text('in Excel, as "CSV UTF-8"')
    chooser.set_input_files(
        {"name": "Prüfung.csv", "mimeType": "text/csv", "buffer": f"Fläche;Größe;Preis\n{rows}".encode("cp1252")}
    )
    expect(page.get_by_label("Name", exact=True)).to_have_value("pruefung")
    expect(page.get_by_label("Texts that mean a missing value")).to_have_value("k.A.")
    page.get_by_role("button", name="Use this data").click()
    expect(page.get_by_role("region", name="Columns")).to_contain_text("Größe")
    expect(page.get_by_text("Nothing to complain about.")).to_be_visible()
    expect(page.get_by_label("Fill missing numbers")).to_be_checked()


def test_texts_that_make_a_column_of_numbers_one_of_texts_are_read_as_missing_at_a_press(
    page: Page, server: Server
) -> None:
    rows = "".join(f"{'k.A.' if i % 20 == 0 else i};{'?!' if i == 7 else i / 4};{2 * i}\n" for i in range(60))
    go(page, server, "#/train")
    page.get_by_role("tab", name="Upload a file").click()
    page.get_by_label("Choose a file").set_input_files(
        {"name": "gaps.csv", "mimeType": "text/csv", "buffer": f"age;size;price\n{rows}".encode()}
    )
    page.get_by_label("Texts that mean a missing value").fill("")
    page.get_by_role("button", name="Use this data").click()
    columns = page.get_by_role("region", name="Columns").get_by_role("row")
    expect(columns.filter(has_text="age")).to_contain_text("text")
    check = page.get_by_role("complementary", name="Check and train")
    expect(check).to_contain_text("Still needed: how to read age, size (see Data).")
    expect(check.get_by_role("button", name="Train", exact=True)).to_be_disabled()
    page.get_by_role("button", name="Read “k.A.” as missing").click()
    expect(columns.filter(has_text="age")).to_contain_text("1 to 59")
    expect(check).to_contain_text("Still needed: how to read size (see Data).")
    page.get_by_role("button", name="Read “?!” as missing").click()
    expect(columns.filter(has_text="size")).to_contain_text("0 to 14.75")
    expect(page.get_by_text("Nothing to complain about.")).to_be_visible()
    expect(page.get_by_label("Fill missing numbers")).to_be_checked()

    with server.client() as client:
        [made] = [one for one in client.get("/v1/datasets").json()["data"] if one["name"] == "gaps"]
    assert (made["source"]["missing_texts"], made["source"]["missing"]) == (["k.A.", "?!"], "keep")


def test_marks_between_thousands_are_found_and_else_asked_about(page: Page, server: Server) -> None:
    """Where a choice makes texts of numbers, nothing is trained before somebody has said how these are meant."""

    def chosen(name: str, rows: str) -> None:
        page.get_by_label("Choose a file").set_input_files(
            {"name": name, "mimeType": "text/csv", "buffer": f"size;price\n{rows}".encode()}
        )

    rows = "".join(f"{i},5;{1 + i % 9}.{100 + i},08\n" for i in range(60))
    train = page.get_by_role("button", name="Train", exact=True)
    marks = page.get_by_label("Numbers are written as")
    columns = page.get_by_role("region", name="Columns").get_by_role("row")
    go(page, server, "#/train")
    page.get_by_role("tab", name="Upload a file").click()
    chosen("swiss.csv", rows.replace(".", "\u2019").replace(",", "."))
    expect(marks).to_have_value("1'234.56")
    chosen("plain.csv", "1.234;5\n2.500;6\n")
    expect(marks).to_have_value("1234.56")
    chosen("marks.csv", rows)
    expect(marks).to_have_value("1.234,56")
    marks.select_option("1234,56")
    page.get_by_role("button", name="Use this data").click()
    expect(page.get_by_role("listitem").filter(has_text="Column 'price' is taken as texts")).to_be_visible()
    expect(page.get_by_text("Still needed: how to read price (see Data).")).to_be_visible()
    expect(train).to_be_disabled()
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
    page.get_by_role("button", name="Its texts are classes").click()
    expect(train).to_be_enabled()
    page.get_by_role("button", name="Use this data").click()
    page.get_by_role("button", name="Read as numbers like 1.234,56").click()
    expect(columns.filter(has_text="price")).to_contain_text("1100 to 9153")
    expect(page.get_by_text("Nothing to complain about.")).to_be_visible()
    page.get_by_label("Epochs").fill("2")
    train.click()
    expect(page.get_by_role("heading", name="Training of marks")).to_contain_text("succeeded")

    with server.client() as client:
        made = [one["source"] for one in client.get("/v1/datasets").json()["data"] if one["name"] == "marks"]
    assert {"decimal": ",", "thousands": "."}.items() <= made[0].items()


def test_who_trains_a_model_that_is_there_is_told_of_its_champion(page: Page, server: Server) -> None:
    with server.client() as client:
        run_job(client, {**examples.CLASSIFY, "output": {"model": "reigning", "alias_on_success": "champion"}})
        found = client.get("/v1/models/reigning/versions/1").json()["metrics"]["val_accuracy"]
    go(page, server, "#/train")
    page.get_by_role("tab", name="Examples").click()
    page.get_by_role("button", name=re.compile("Two clouds")).click()
    page.get_by_label("Name of the model").fill("reigning")
    told = page.get_by_text(f"version 1 is its champion (validation accuracy {found:.4g})")
    expect(told).to_contain_text("The new version takes its place, even if it is worse.")
    page.get_by_label("Only if it is better").check()
    expect(told).to_contain_text("takes its place if val_accuracy > champion.val_accuracy.")
    page.get_by_label("Held out for validation").select_option("nothing")
    expect(told).to_contain_text("if accuracy > champion.accuracy.")
    page.get_by_label("Make it the champion when it succeeds").uncheck()
    expect(told).to_contain_text("It stays the champion.")
    page.get_by_label("Make it the champion when it succeeds").check()
    page.get_by_label("Only if it is better").check()
    page.get_by_label("Epochs").fill("1")
    page.get_by_label("Learning rate").fill("1e-9")
    expect(page.get_by_role("button", name="Train", exact=True)).to_be_enabled()
    page.get_by_role("button", name="Train", exact=True).click()

    expect(page.get_by_role("heading", name="Training of reigning")).to_contain_text("succeeded")
    expect(page.get_by_text("The champion stayed as it was:")).to_be_visible()
    with server.client() as client:
        assert client.get("/v1/models/reigning").json()["aliases"] == {"champion": 1}


def test_columns_that_are_no_help_are_left_out_and_others_can_be(page: Page, server: Server) -> None:
    """Before the file is read and after it; the job's page says which ones the net has not seen."""
    rows = "\n".join(f"{i},{i / 10},1,remark {i},{3 * i}" for i in range(60))
    go(page, server, "#/train")
    expect(page.get_by_label("Objective")).to_have_count(0)
    expect(page.get_by_text("Choose data first: objective, epochs")).to_be_visible()
    page.get_by_role("tab", name="Upload a file").click()
    page.get_by_label("Choose a file").set_input_files(
        {"name": "sizes.csv", "mimeType": "text/csv", "buffer": f"id,length,same,note,weight\n{rows}\n".encode()}
    )
    for name, taken, reason in (
        ("id", False, "Seems to number the rows."),
        ("length", True, ""),
        ("note", False, "Too many different texts to be a category."),
    ):
        box = page.get_by_role("checkbox", name=name, exact=True)
        expect(box).to_be_checked(checked=taken)
        expect(box).to_have_accessible_description(reason)
    page.get_by_role("button", name="Use this data").click()
    expect(page.get_by_role("checkbox", name="Learn from note")).not_to_be_checked()
    page.get_by_role("button", name="Leave same out").click()
    expect(page.get_by_role("checkbox", name="Learn from same")).not_to_be_checked()
    page.get_by_role("checkbox", name="Learn from id").check()
    page.get_by_role("button", name="Use these columns").click()
    expect(page.get_by_role("button", name="Use these columns")).to_be_hidden()
    expect(page.get_by_role("checkbox", name="Learn from id")).to_be_checked()
    expect(page.get_by_text("Nothing to complain about.")).to_be_visible()
    page.get_by_role("button", name="Train", exact=True).click()

    expect(page.get_by_role("heading", name="Training of sizes")).to_contain_text("succeeded")
    expect(page.get_by_text("Left out of the inputs: same, note.")).to_be_visible()
    with server.client() as client:
        made = [one for one in client.get("/v1/datasets").json()["data"] if one["name"] == "sizes"]
        version = client.get("/v1/models/sizes/versions/1").json()
    assert len(made) == 1
    assert version["signature"]["columns"] == ["length", "id"]


def test_numbers_with_a_unit_are_told_and_classes_of_one_row(page: Page, server: Server) -> None:
    """Beside what else is left out, and why; what is typed is then read as the file writes numbers."""
    rows = "".join(
        f"{i};{i},5;{1 + i % 9}.{100 + i},08;{1 + i % 9}.{100 + i},50 €;{'rare' if i == 7 else 'AB'[i % 2]};;\n"
        for i in range(60)
    )
    go(page, server, "#/train")
    page.get_by_role("tab", name="Upload a file").click()
    chooser = page.get_by_label("Choose a file")
    names = "nr;size;cost;price;kind"
    chooser.set_input_files(
        {"name": "title.csv", "mimeType": "text/csv", "buffer": f"Report;;;;;;\n{names};;\n{rows}".encode()}
    )
    expect(page.get_by_label("Texts that mean a missing value")).to_have_value("")
    expect(page.get_by_label("What is to be predicted")).to_have_value("Report")
    chooser.set_input_files({"name": "ends.csv", "mimeType": "text/csv", "buffer": f"{names};;\n{rows}".encode()})
    expect(page.get_by_label("What is to be predicted")).to_have_value("kind")
    chooser.set_input_files(
        {"name": "euros.csv", "mimeType": "text/csv", "buffer": f"{names}\n{rows.replace(';;', '')}".encode()}
    )
    expect(page.get_by_role("checkbox", name="price")).not_to_be_checked()
    page.get_by_role("button", name="Use this data").click()
    told = page.get_by_role("complementary", name="Check and train")
    expect(told).to_contain_text("price is left out. These look like numbers with a unit (€): take the unit out of")
    expect(told).to_contain_text("Only one row is of the class rare.")
    expect(told).to_contain_text("nr Seems to number the rows.")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_role("heading", name="Training of euros")).to_contain_text("succeeded")

    go(page, server, "#/playground/euros")
    cost = page.get_by_label("cost")
    expect(cost).to_have_accessible_description(re.compile("Written like 1.234,56"))
    answer = page.locator(".answer")
    for typed, read in (("8.153,08", 8153.08), ("8.153", 8153), ("8153,5", 8153.5)):
        cost.fill(typed)
        with page.expect_request("**/predict") as sent:
            page.get_by_role("button", name="Predict").click()
        asked: Any = sent.value.post_data_json
        assert asked["inputs"][0]["cost"] == read
    cost.fill("11.5")
    page.get_by_role("button", name="Predict").click()
    expect(answer).to_contain_text("cost needs a number written like 1.234,56, not 11.5.")
    cost.fill("88.153,5")
    page.get_by_role("button", name="Predict").click()
    expect(answer).to_contain_text(re.compile(r"Expected: 11\d\d\.08 to 91\d\d\.08\. Here: 88153\.5\."))


def test_where_nothing_says_how_numbers_are_written_an_ambiguous_one_is_refused(page: Page, server: Server) -> None:
    go(page, server, "#/playground/quadratic")
    box = page.get_by_label("x", exact=True)
    box.fill("0,153")
    with page.expect_request("**/predict") as sent:
        page.get_by_role("button", name="Predict").click()
    asked: Any = sent.value.post_data_json
    assert asked["inputs"] == [[0.153]]
    box.fill("8,153")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator(".answer")).to_contain_text("x needs a number written like 1234.56, not 8,153.")


def test_a_number_that_may_be_missing_may_be_left_empty(page: Page, server: Server) -> None:
    """And what the server took instead is told beside the answer."""
    rows = "\n".join(f"{i},{'' if i % 9 == 0 else i / 10},{3 * i}" for i in range(60))
    with server.client() as client:
        headers = {"Content-Type": "text/csv"}
        upload = client.post("/v1/uploads", content=f"length,width,weight\n{rows}\n".encode(), headers=headers).json()
        source = {"type": "csv", "upload": upload["id"], "target": "weight", "missing": "keep"}
        net = {"catalogue": "mlp", "params": {"in_features": 2, "hidden": [8], "num_classes": 1}}
        steps = [{"type": "impute", "columns": ["width"]}, {"type": "standardize"}]
        job = {**examples.TRAIN, "architecture": net, "dataset": source, "preprocessing": steps, "optimizer": _ADAM}
        run_job(client, {**job, "output": {"model": "gaps", "alias_on_success": "champion"}})
        answer = client.post("/predict", json={"model": "gaps", "inputs": [{"length": 30, "width": None}]}).json()
    go(page, server, "#/playground/gaps")
    expect(page.get_by_label("length")).to_have_js_property("required", True)
    page.get_by_label("length").fill("30")
    page.get_by_label("width").fill("")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("[data-answer]")).to_be_visible()

    shown = page.locator("[data-answer]").get_attribute("data-answer")
    assert float(shown or "nan") == pytest.approx(answer["outputs"][0][0])
    assert answer["warnings"]
    for warning in answer["warnings"]:
        expect(page.locator(".answer")).to_contain_text(warning["detail"].replace("`", ""))


def test_a_hidden_page_and_a_killed_server_cost_no_point(browser: Browser, server: Server) -> None:
    job = {
        **examples.CLASSIFY,
        "architecture": {"catalogue": "mlp", "params": {"in_features": 2, "hidden": [256, 256], "num_classes": 2}},
        "dataset": {**examples.CLOUDS, "rows_per_class": 500},
        "budget": {"epochs": 300},
        "checkpoint": {"every_s": 0.3},
        "output": {"model": "survivor"},
    }
    job.pop("split")
    with opened(browser, server.url, interrupted=True) as page:
        with server.client() as client:
            job_id = client.post("/v1/jobs", json=job).json()["id"]
        go(page, server, f"#/jobs/{job_id}")
        chart = page.locator("[aria-label=Curves] figure").first
        wait_for(lambda: int(chart.get_attribute("data-points") or 0) >= 20)
        hide(page, hidden=True)
        expect(page.locator("#connection")).to_have_attribute("data-status", "paused")
        before = int(chart.get_attribute("data-points") or 0)
        with server.client() as client:
            wait_for(lambda: client.get(f"/v1/jobs/{job_id}").json()["progress"]["step"] > before + 20)
        hide(page, hidden=False)
        wait_for(lambda: int(chart.get_attribute("data-points") or 0) > before + 20)
        server.kill()
        expect(page.locator("#connection")).to_have_attribute("data-status", "lost")
        server.start()
        expect(page.locator("#connection")).to_have_attribute("data-status", "live")
        expect(page.get_by_role("heading", name="Training of survivor")).to_contain_text("succeeded", timeout=60_000)
        with server.client() as client:
            series = client.get(f"/v1/jobs/{job_id}/metrics").json()["series"]
        kept = next(one for one in series if one["name"] == "loss")
        wait_for(lambda: len(curve(page)["x"]) == len(kept["steps"]))
        seen = curve(page)

    assert seen["x"] == kept["steps"] == list(range(1, 301))
    assert seen["y"] == kept["values"]


def test_what_could_not_be_read_when_an_event_told_of_it_is_read_when_the_stream_goes_on(
    browser: Browser, server: Server
) -> None:
    job = {**examples.TRAIN, "budget": {"epochs": 1_000_000}, "output": {"model": "waits"}}
    with opened(browser, server.url, interrupted=True) as page, server.client() as client:
        job_id = client.post("/v1/jobs", json=job).json()["id"]
        go(page, server, f"#/jobs/{job_id}")
        heading = page.get_by_role("heading", name="Training of waits")
        expect(heading).to_contain_text("running")
        page.route(f"**/v1/jobs/{job_id}", lambda route: route.abort())
        client.post(f"/v1/jobs/{job_id}/pause")
        wait_for(lambda: client.get(f"/v1/jobs/{job_id}").json()["state"] == "paused")
        expect(page.get_by_role("region", name="Notices").get_by_role("alert").first).to_be_visible()
        page.wait_for_timeout(500)  # no event is on its way any more
        page.unroute(f"**/v1/jobs/{job_id}")
        expect(heading).to_contain_text("running")
        hide(page, hidden=True)
        hide(page, hidden=False)
        expect(heading).to_contain_text("paused")
        client.post(f"/v1/jobs/{job_id}/cancel")


def test_versions_are_compared_on_the_numbers_that_they_answer(page: Page, server: Server) -> None:
    """What differs in the fifth digit only is seen; versions of other columns are told apart in words."""
    rows = "".join(f"{i},{i % 7},{1000 + 3 * i}\n" for i in range(60))
    text = f"area,rooms,rent\n{rows}".encode()

    def trained(client: httpx.Client, columns: list[str], name: str, rate: float, source: bytes = text) -> None:
        upload = client.post("/v1/uploads", content=source, headers={"Content-Type": "text/csv"}).json()
        net = {"catalogue": "mlp", "params": {"in_features": len(columns), "hidden": [4], "num_classes": 1}}
        dataset = {"type": "csv", "upload": upload["id"], "target": "rent", "inputs": columns}
        steps = [{"type": "standardize"}]
        job = {
            **examples.TRAIN,
            "architecture": net,
            "dataset": dataset,
            "preprocessing": steps,
            "budget": {"epochs": 1},
        }
        run_job(client, {**job, "optimizer": {"type": "SGD", "lr": rate}, "output": {"model": name}})

    with server.client() as client:
        trained(client, ["area"], "alike", 1e-9)
        trained(client, ["area"], "alike", 3e-9)
        trained(client, ["area"], "alike", 1e-9)
        trained(client, ["area"], "columns", 1e-9)
        trained(client, ["rooms", "area"], "columns", 1e-9)
        trained(client, ["floor", "area"], "columns", 1e-9, text.replace(b"rooms", b"floor"))
        answers = [
            client.post(f"/v1/models/alike/versions/{k}/predict", json={"inputs": [{"area": 0}]}).json()["outputs"][0][
                0
            ]
            for k in (1, 2)
        ]
    assert f"{answers[0]:.4g}" == f"{answers[1]:.4g}"
    predictions = page.locator(".compare")
    go(page, server, "#/models/alike?a=1&b=2")
    expect(predictions).to_contain_text(re.compile("50 of the first 50 rows of ds_.* are answered otherwise"))
    first = page.get_by_role("table", name="Changed predictions").get_by_role("row").nth(1).get_by_role("cell")
    assert [float(text) for text in first.all_inner_texts()[2:]] == [pytest.approx(one, rel=1e-6) for one in answers]
    go(page, server, "#/models/alike?a=1&b=3")
    expect(predictions).to_contain_text(re.compile("Predictions0 of the first 50 rows of ds_.* are answered otherwise"))

    for a, b in ((1, 2), (2, 1)):  # the rows have what both take
        go(page, server, f"#/models/columns?a={a}&b={b}")
        expect(predictions).to_contain_text("are answered otherwise.")
        heads = page.get_by_role("table", name="Changed predictions").get_by_role("columnheader")
        assert set(heads.all_inner_texts()) == {"Row", "area", "rooms", f"Version {a}", f"Version {b}"}
    for a, b in ((2, 3), (3, 2)):
        go(page, server, f"#/models/columns?a={a}&b={b}")
        expect(predictions).to_contain_text("Only version 2 takes rooms.")
        expect(predictions).to_contain_text("Only version 3 takes floor.")
        expect(predictions).to_contain_text("their predictions cannot be compared")
        expect(page.get_by_role("alert")).to_have_count(0)


def test_figures_of_other_rows_are_told_to_be_no_comparison(page: Page, server: Server) -> None:
    with server.client() as client:
        for seed, rows in ((1, 1), (1, 1), (2, 1), (1, 2)):
            split = {"type": "random", "validation": 0.2, "seed": seed}
            job = {**examples.CLASSIFY, "dataset": {**examples.CLOUDS, "seed": rows}, "split": split}
            run_job(client, {**job, "budget": {"epochs": 1}, "output": {"model": "measured"}})
    for b, apart in ((2, False), (3, True), (4, True)):
        go(page, server, f"#/models/measured?a=1&b={b}")
        expect(page.locator(".compare")).to_contain_text("of the first 50 rows of ")
        warning = page.locator(".compare .callout")
        if apart:
            expect(warning).to_contain_text("These figures come from different rows")
        else:
            expect(warning).to_have_count(0)


def test_curves_are_the_figures_of_the_server_and_grow_by_its_events(page: Page, server: Server) -> None:
    """With its axes and words; and a chart is as wide as its place, whenever that changes."""
    job = {**examples.CLASSIFY, "budget": {"epochs": 1_000_000}, "checkpoint": {"every_s": 3600}}
    with server.client() as client:
        job_id = client.post("/v1/jobs", json={**job, "output": {"model": "growing"}}).json()["id"]
        wait_for(lambda: (client.get(f"/v1/jobs/{job_id}").json()["progress"] or {}).get("step", 0) > 50)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        go(page, server, f"#/jobs/{job_id}")
        chart = page.locator("[aria-label=Curves] figure").first
        expect(chart).to_have_attribute("data-drawn", "true")
        page.wait_for_timeout(1000)  # what had come before the figure was there may have been asked for again
        asked.clear()
        before = int(chart.get_attribute("data-points") or 0)
        wait_for(lambda: len(curve(page)["x"]) > before + 50)
        assert [url for url in asked if "/figures/loss" in url or url.endswith("/metrics")] == []
        for width in (1280, 500, 900):
            page.set_viewport_size({"width": width, "height": 900})
            wait_for(
                lambda: page.evaluate(
                    """() => [...document.querySelectorAll('.plot')].filter(plot => plot.clientWidth).every(plot => {
                         const drawn = plot.querySelector('.main-svg')?.getBoundingClientRect().width
                         return drawn === undefined || Math.abs(drawn - plot.clientWidth) <= 1 })"""
                )
            )
        page.get_by_role("button", name="Pause").click()
        expect(page.get_by_role("heading", name="Training of growing")).to_contain_text("paused")
        drawn = client.get(f"/v1/jobs/{job_id}/figures/loss?points=4000").json()
        client.post(f"/v1/jobs/{job_id}/cancel")
    axis = drawn["layout"]["yaxis"]
    shown = """() => { const { data, layout } = document.querySelector('[aria-label=Curves] .plot');
               return [data.map(({ name, mode }) => [name, mode]), layout.yaxis.title.text, layout.yaxis.type] }"""
    wanted = [[[one["name"], one["mode"]] for one in drawn["data"]], axis["title"]["text"], axis.get("type", "linear")]
    wait_for(lambda: page.evaluate(shown) == wanted)
    seen = curve(page)

    assert seen["x"] == sorted(set(seen["x"]))
    told = dict(zip(drawn["data"][0]["x"], drawn["data"][0]["y"], strict=True))
    both = {step: value for step, value in zip(seen["x"], seen["y"], strict=True) if step in told}
    assert len(both) > 50
    assert both == {step: told[step] for step in both}


def test_mistakes_that_were_not_sent_are_counted_as_not_shown(browser: Browser, server: Server) -> None:
    with server.client() as client:
        net = {
            "schema": "arch/1",
            "inputs": [{"name": "x", "shape": ["B", 3, 5]}],
            "root": _LINEAR | {"in_features": 5},
        }
        run_job(client, {"kind": "import", "architecture": net, "output": {"model": "deep"}})
        wrong = client.post("/predict", json={"model": "deep", "inputs": [[["a"] * 5] * 3] * 4}).json()
    assert wrong["more"] > 0
    with opened(browser, server.url, interrupted=True) as page:
        go(page, server, "#/playground/deep")
        page.get_by_label("Rows as JSON").fill(json.dumps([[["a"] * 5] * 3] * 4))
        page.get_by_role("button", name="Predict").click()
        shown = page.get_by_role("alert").get_by_role("listitem")
        expect(shown).to_have_count(5)
        more = len(wrong["errors"]) - 5 + wrong["more"]
        expect(page.get_by_role("alert")).to_contain_text(f"And {more} more, not shown here.")


def test_an_answer_has_the_digits_that_the_command_shows(page: Page, server: Server) -> None:
    with server.client() as client:
        net = {"catalogue": "mlp", "params": {"in_features": 1, "hidden": [4], "num_classes": 1}}
        targets = [[97_000.0 + 13.7 * i] for i in range(40)]
        source = {"type": "inline", "inputs": [[i / 40] for i in range(40)], "targets": targets}
        job = {**examples.TRAIN, "architecture": net, "dataset": source, "optimizer": _ADAM, "budget": {"epochs": 2}}
        run_job(
            client, {**job, "preprocessing": [{"type": "standardize", "of": "target"}], "output": {"model": "digits"}}
        )
        asked = {"model": "digits", "inputs": [[0.25]]}
        [[answer]] = client.post("/predict", json=asked).json()["outputs"]
    go(page, server, "#/playground/digits")
    page.get_by_label("x", exact=True).fill("0.25")
    page.get_by_role("button", name="Predict").click()

    expect(page.locator("[data-answer]")).to_have_text(f"{answer:.7g}")
    assert answer > 97_000


def test_a_running_job_is_paused_resumed_asked_and_cancelled(page: Page, server: Server) -> None:
    job = {**examples.TRAIN, "budget": {"epochs": 1_000_000}, "checkpoint": {"every_s": 0.2}}
    with server.client() as client:
        job_id = client.post("/v1/jobs", json={**job, "output": {"model": "handled"}}).json()["id"]
        wait_for(lambda: client.get(f"/v1/jobs/{job_id}").json()["state"] == "running")
        go(page, server, f"#/jobs/{job_id}")
        heading = page.get_by_role("heading", name="Training of handled")
        page.get_by_role("button", name="Pause").click()
        expect(heading).to_contain_text("paused")
        expect(page.get_by_text("Somebody paused it; it goes on where it was.")).to_be_visible()
        step = client.get(f"/v1/jobs/{job_id}").json()["progress"]["step"]
        assert step > 0
        page.get_by_role("button", name="Resume").click()
        expect(heading).to_contain_text("running")
        wait_for(lambda: client.get(f"/v1/jobs/{job_id}").json()["progress"]["step"] > step)

        page.get_by_text("Predict now").click()
        page.get_by_label("x", exact=True).fill("0.5")
        page.get_by_role("button", name="Predict", exact=True).click()
        expect(page.locator("[data-answer]")).to_be_visible()
        expect(page.get_by_role("region", name="Answer")).to_contain_text("a job's checkpoint")
        call = page.get_by_label("The call for curl").inner_text()
        answer = json.loads(subprocess.run(["sh", "-c", call], capture_output=True, check=True, timeout=30).stdout)
        assert len(answer["outputs"]) == 1

        page.get_by_role("button", name="Cancel").click()
        expect(heading).to_contain_text("cancelled")
        expect(page.get_by_text("Somebody cancelled it.")).to_be_visible()
        expect(page.get_by_role("button", name="Try again")).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)
        assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "cancelled"


def test_an_image_that_is_dropped_is_what_is_asked(page: Page, server: Server) -> None:
    with server.client() as client:
        run_job(client, {"kind": "import", "architecture": _PICTURE, "output": {"model": "dropped"}})
    go(page, server, "#/playground/dropped")
    half = page.evaluate_handle(
        """async () => {
             const canvas = new OffscreenCanvas(64, 64), context = canvas.getContext('2d'), data = new DataTransfer();
             context.fillStyle = '#fff';
             context.fillRect(0, 0, 32, 64);
             const file = await canvas.convertToBlob();
             data.items.add(new File([file], 'half.png', { type: 'image/png' }));
             return data;
           }"""
    )
    zone = page.locator(".drop").first
    zone.dispatch_event("dragover", {"dataTransfer": half})
    zone.dispatch_event("drop", {"dataTransfer": half})
    expect(zone).to_contain_text("half.png")
    drawn = "() => document.querySelector('canvas').getContext('2d').getImageData(2, 2, 1, 1).data[0]"
    wait_for(lambda: page.evaluate(drawn) == 255)

    def asked() -> list[list[float]]:
        with page.expect_request("**/predict") as sent:
            page.get_by_role("button", name="Predict", exact=True).click()
        body: Any = sent.value.post_data_json
        expect(page.locator("[data-answer]")).to_be_visible()
        rows: list[list[float]] = body["inputs"][0][0]
        return rows

    assert asked() == [[1.0] * 8 + [0.0] * 8] * 16
    page.get_by_label("Pixels are sent as").select_option("255")
    page.get_by_label("Swap dark and light").check()
    assert asked() == [[0] * 8 + [255] * 8] * 16
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Swap dark and light").uncheck()
    assert asked() == [[0] * 16] * 16


def test_a_net_is_written_by_the_form_and_taken_from_the_catalogue(page: Page, server: Server) -> None:
    go(page, server, "#/train")
    page.get_by_role("tab", name="Examples").click()
    page.get_by_role("button", name=re.compile("Two clouds")).click()
    expect(page.get_by_text("Nothing to complain about.")).to_be_visible()
    page.get_by_role("tab", name="JSON").click()
    document = page.get_by_label("Architecture document")
    before = json.loads(document.input_value())["root"]["layers"]
    page.get_by_role("tab", name="Form").click()
    layers = page.locator(".layers > li")
    expect(layers).to_have_count(len(before))
    page.get_by_role("button", name="+ Dropout").click()
    expect(page.get_by_label(f"Layer {len(before)}", exact=True)).to_have_value("Dropout")
    page.get_by_role("button", name="+ Linear").click()
    added = layers.nth(len(before))
    added.get_by_label("out features").fill("5")
    layers.nth(len(before) - 1).get_by_label("p", exact=True).fill("0.1")
    page.get_by_role("button", name=f"Move layer {len(before) + 1} up").click()
    expect(page.get_by_label(f"Layer {len(before)}", exact=True)).to_be_focused()
    page.get_by_label("Layer 1", exact=True).select_option("ReLU")
    page.get_by_role("button", name="Remove layer 1").click()
    expect(page.get_by_label("Layer 1", exact=True)).to_be_focused()
    page.get_by_role("tab", name="JSON").click()
    linear = {"type": "Linear", "in_features": "auto", "out_features": 5}
    wanted = [*before[1:-1], linear, {"type": "Dropout", "p": 0.1}, before[-1]]
    assert json.loads(document.input_value())["root"]["layers"] == wanted
    expect(page.get_by_text("The net can be built.")).to_be_visible()
    page.get_by_role("tab", name="Form").click()
    page.get_by_label("Shape of one row").fill("3")
    page.get_by_label("Shape of one row").press("Tab")
    expect(page.get_by_text("Mend the mistakes, then train.")).to_be_visible()
    page.get_by_label("Shape of one row").fill("2")
    page.get_by_label("Shape of one row").press("Tab")
    expect(page.get_by_text("Nothing to complain about.")).to_be_visible()

    page.get_by_role("tab", name="Catalogue").click()
    page.get_by_label("Net", exact=True).select_option("mlp")
    page.get_by_label("hidden", exact=True).fill("7, 5")
    expect(page.get_by_role("region", name="Layers")).to_contain_text("7")
    page.get_by_label("Epochs").fill("2")
    page.get_by_label("Name of the model").fill("catalogued")
    expect(page.get_by_text("Nothing to complain about.")).to_be_visible()
    with page.expect_request(lambda request: request.method == "POST" and request.url.endswith("/v1/jobs")) as sent:
        page.get_by_role("button", name="Train", exact=True).click()
    asked: Any = sent.value.post_data_json
    assert asked["architecture"]["catalogue"] == "mlp"
    params = asked["architecture"]["params"]
    assert (params["in_features"], params["hidden"], params["num_classes"]) == (2, [7, 5], 2)
    expect(page.get_by_role("heading", name="Training of catalogued")).to_contain_text("succeeded")


def test_of_a_file_with_several_sets_of_weights_one_is_taken(page: Page, server: Server) -> None:
    """Also where its numbers are not finite; the name of the file is spelt as a name."""
    weights = {"gen": nn.Linear(4, 2).state_dict(), "disc": nn.Linear(3, 1).state_dict()}
    weights["gen"]["bias"][0] = torch.nan
    file = io.BytesIO()
    torch.save(weights, file)
    go(page, server, "#/import")
    page.get_by_label("Choose a .pt").set_input_files(
        {"name": "Köln Größe é.pth", "mimeType": "application/octet-stream", "buffer": file.getvalue()}
    )
    expect(page.get_by_label("Name of the model")).to_have_value("koeln-groesse-e")
    page.get_by_role("button", name="Read it").click()
    report = page.get_by_role("region", name="Report")
    expect(report).to_contain_text("several sets of weights")
    expect(report).to_contain_text("gen")
    page.get_by_label("Part of the file").fill("gen")
    page.get_by_role("button", name="Publish").click()
    net = page.get_by_label("The net (a document, a digest, or a net of the catalogue)")
    net.fill(json.dumps({**_PICTURE, "inputs": [{"name": "x", "shape": ["B", 4]}], "root": _LINEAR}))
    page.get_by_role("button", name="Publish").click()
    expect(report).to_contain_text("not finite")
    expect(page.get_by_label("Part of the file")).to_have_value("gen")
    page.get_by_label("Take numbers that are not finite as they are").check()
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_text("Published as koeln-groesse-e/1")).to_be_visible()

    with server.client() as client:
        takes = client.get("/v1/models/koeln-groesse-e/versions/1").json()["signature"]["inputs"]
    assert [one["shape"] for one in takes] == [["B", 4]]


def test_a_net_that_is_proposed_stands_below_its_sentence(page: Page, server: Server) -> None:
    file = io.BytesIO()
    torch.save(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).state_dict(), file)
    go(page, server, "#/import")
    page.get_by_label("Choose a .pt").set_input_files(
        {"name": "proposed.pth", "mimeType": "application/octet-stream", "buffer": file.getvalue()}
    )
    page.get_by_role("button", name="Read it").click()
    expect(page.get_by_label(re.compile("^The net"))).to_have_value(re.compile("mlp"))
    expect(page.get_by_role("main")).to_contain_text("in the catalogue: it stands below. What has no weights")
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_text("Published as proposed/1")).to_be_visible()


def test_hostile_names_are_text(page: Page, server: Server) -> None:
    source = {
        "type": "inline",
        "inputs": WRONG["inputs"] * 4,
        "targets": WRONG["targets"] * 4,
        "columns": [HOSTILE, "b"],
    }
    with server.client() as client:
        dataset = client.post("/v1/datasets", json={"name": "hostile", "source": source}).json()
        job = run_job(
            client,
            {**examples.CLASSIFY, "dataset": dataset["id"], "output": {"model": "hostile"}, "labels": {"who": HOSTILE}},
        )
        model = client.get("/v1/models/hostile")
        client.patch("/v1/models/hostile", json={"notes": HOSTILE}, headers={"If-Match": model.headers["ETag"]})
    go(page, server, "#/train")
    page.get_by_role("tab", name=re.compile("Datasets here")).click()
    page.get_by_role("button", name="Use hostile").click()
    expect(page.get_by_role("region", name="Columns")).to_contain_text(HOSTILE)
    for place, text in {
        "#/models": HOSTILE,
        "#/models/hostile": HOSTILE,
        "#/playground/hostile": HOSTILE,
        f"#/jobs/{job['id']}": "Training of hostile",
        "#/jobs/%3Cimg%20src=x%20onerror=window.hit=1%3E": f"There is no job {HOSTILE}",
        "#/%3Cimg%20src=x%20onerror=window.hit=1%3E": "There is no such page.",
        "#/playground/%3Cimg%20src=x%20onerror=window.hit=1%3E": f"There is no model {HOSTILE}",
    }.items():
        page.goto(f"{server.url}/ui/{place}")
        expect(page.locator("main")).to_contain_text(text)
        if place == "#/playground/hostile":
            page.get_by_role("button", name="Predict").click()
            expect(page.locator("[data-answer]")).to_have_text(re.compile("<"))

        assert page.locator("main img, main script").count() == 0
        assert page.evaluate("window.hit") is None


def test_the_first_page_counts_what_it_says_needs_a_hand(page: Page, server: Server) -> None:
    with server.client() as client:
        run_job(client, {**examples.TRAIN, "output": {"model": "abandoned"}})
    go(page, server, "#/")
    listed = page.get_by_role("region", name="Needs a hand").get_by_role("listitem")
    expect(listed.filter(has_text="abandoned has no champion")).to_be_visible()
    tile = page.locator(".tile").last
    expect(tile).to_have_text(re.compile(r"\d+Needs? a hand"))
    assert int(tile.locator(".tile-number").text_content() or "") >= listed.count()


def test_an_import_that_was_mended_needs_no_hand(page: Page, server: Server) -> None:
    with server.client() as client:
        file = io.BytesIO()
        torch.save(nn.Linear(4, 2).state_dict(), file)
        upload = client.post("/v1/uploads", content=file.getvalue()).json()["id"]
        job = {"kind": "import", "upload": upload, "output": {"model": "mended"}}
        failed = client.post("/v1/jobs", json=job, headers={"Prefer": "wait=30"}).json()
        assert failed["state"] == "failed"
        listed = page.get_by_role("region", name="Needs a hand").get_by_role("listitem")
        go(page, server, "#/")
        expect(listed.filter(has_text="Import of mended failed")).to_be_visible()
        net = {**_PICTURE, "inputs": [{"name": "x", "shape": ["B", 4]}], "root": _LINEAR}
        run_job(client, {**job, "architecture": net})
    expect(listed.filter(has_text="Import of mended failed")).to_have_count(0)
    expect(listed.first).to_be_visible()


def test_the_first_page_counts_beyond_the_newest_jobs(browser: Browser, make_server: Callable[..., Server]) -> None:
    """One runs since before more than a page of others was queued; what is beyond what it asks for has a plus."""
    busy = make_server(job_slots="1")
    with busy.client() as client:
        endless = {**examples.TRAIN, "budget": {"epochs": 1_000_000}}
        first = client.post("/v1/jobs", json={**endless, "output": {"model": "oldest"}}).json()["id"]
        wait_for(lambda: client.get(f"/v1/jobs/{first}").json()["state"] == "running")
        for _ in range(51):
            assert client.post("/v1/jobs", json={**endless, "output": {"model": "later"}}).is_success
        with opened(browser, busy.url) as page:
            go(page, busy, "#/")
            tiles = page.locator("a.tile")
            expect(tiles).to_have_text(["1Running", "50+Waiting", "0Models"])
            listed = page.get_by_role("region", name="Running now")
            expect(listed.get_by_role("listitem")).to_have_count(8)
            expect(listed.get_by_role("listitem").first).to_contain_text("Training of oldest")
            expect(listed.get_by_role("link", name="All jobs")).to_be_visible()
            [newest, *_] = client.get("/v1/jobs").json()["data"]
            client.post(f"/v1/jobs/{newest['id']}/cancel")
            expect(tiles.nth(1)).to_have_text("50Waiting")
            tiles.nth(0).click()
            expect(page.get_by_role("table", name="Jobs").get_by_role("row")).to_have_count(2)


def test_a_champion_that_somebody_moved_back_needs_no_hand(browser: Browser, tmp_path: Path) -> None:
    """Only who has not decided yet between the champion and a newer version has to; what a guard did is told."""
    quiet = Server(tmp_path / "store").start()
    try:
        with quiet.client() as client:
            alias = "/v1/models/moved/aliases/champion"

            def imported() -> None:
                run_job(client, {"kind": "import", "architecture": _wide(1), "output": {"model": "moved"}})

            def point(**body: Any) -> None:
                assert client.put(alias, json=body, headers={"If-Match": "*"}).is_success

            imported()
            client.put(alias, json={"version": 1}, headers={"If-None-Match": "*"})
            imported()
            with opened(browser, quiet.url) as page:
                hand = page.get_by_role("region", name="Needs a hand")
                go(page, quiet, "#/")
                expect(hand.get_by_role("listitem")).to_contain_text("moved has newer versions than its champion")
                point(version=2)
                assert client.post(f"{alias}/rollback", json={}).json()["version"] == 1
                go(page, quiet, "#/models")
                go(page, quiet, "#/")
                expect(page.get_by_text("Nothing needs a hand")).to_be_visible()
                expect(page.locator(".tile.bad")).to_have_count(0)
                expect(page.get_by_role("heading", name="Needs a hand")).to_have_count(0)
                expect(hand).to_have_count(0)

                point(version=1, canary={"version": 2, "percent": 100}, guard={"requests": 10, "latency_s": 1e-9})
                wait_for(
                    lambda: (
                        client.post("/predict", json={"model": "moved@champion", "inputs": [[0.0] * 4]}).is_success
                        and client.get(alias).json()["canary"] is None
                    )
                )
                go(page, quiet, "#/models")
                go(page, quiet, "#/")
                expect(hand.get_by_role("listitem")).to_contain_text("moved was taken back by its guard")
                go(page, quiet, "#/models/moved")
                history = page.get_by_role("table", name="History of the champion")
                expect(history.get_by_role("row").nth(1)).to_contain_text("its guard")
                expect(history.get_by_role("row").last).to_contain_text("not recorded")
    finally:
        assert quiet.stop() == 0


def test_a_wide_net_scrolls_in_its_box_where_it_would_be_too_small(page: Page, server: Server) -> None:
    with server.client() as client:
        run_job(client, {"kind": "import", "architecture": _wide(10), "output": {"model": "wide"}})
    sizes = """() => { const box = document.querySelector('.graph'), svg = box.querySelector('svg');
                return { drawn: svg.getBoundingClientRect().width, natural: Number(svg.getAttribute('width')),
                         inside: box.clientWidth, scrolled: box.scrollLeft, reach: box.scrollWidth - box.clientWidth,
                         page: document.documentElement.scrollWidth - innerWidth } }"""
    found = []
    for width in (1440, 400):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto("about:blank")
        go(page, server, "#/models/wide")
        expect(page.locator(".graph svg")).to_be_visible()
        page.evaluate("() => new Promise(requestAnimationFrame)")
        found.append(page.evaluate(sizes))
    wide, narrow = found

    assert wide["reach"] == 0
    assert narrow["reach"] > 0
    assert narrow["scrolled"] == pytest.approx(narrow["reach"] / 2, abs=2)
    for one in found:
        assert one["drawn"] >= 0.74 * one["natural"]
        assert one["page"] <= 0


def test_a_refused_prediction_says_which_input_is_missing(browser: Browser, server: Server) -> None:
    with server.client() as client:
        run_job(client, {"kind": "import", "architecture": _wide(3), "output": {"model": "three"}})
    with opened(browser, server.url, interrupted=True) as page:
        go(page, server, "#/playground/three")
        page.get_by_label("Rows as JSON").fill('{"in0": [[0, 0, 0, 0]], "in2": [[0, 0, 0, 0]]}')
        page.get_by_role("button", name="Predict").click()
        expect(page.get_by_role("alert").get_by_role("listitem")).to_contain_text(
            ["/inputs/in1 This input is missing."]
        )


def test_several_tables_begin_with_a_row_of_each(page: Page, server: Server) -> None:
    rows = "".join(f"{i},{i % 7},{'red' if i % 2 else 'green'},{3 * i}\n" for i in range(60))
    net = {
        "schema": "arch/1",
        "inputs": [{"name": "sizes", "shape": ["B", 2]}, {"name": "looks", "shape": ["B", 2]}],
        "root": {
            "type": "Graph",
            "inputs": ["sizes", "looks"],
            "layers": [{"name": "head", "type": "Linear", "in_features": 4, "out_features": 1}],
            "forward": ["return head(cat((sizes, looks), dim=1))"],
        },
    }
    with server.client() as client:
        content, headers = f"length,width,colour,weight\n{rows}".encode(), {"Content-Type": "text/csv"}
        upload = client.post("/v1/uploads", content=content, headers=headers).json()["id"]
        source = {"type": "csv", "upload": upload, "target": "weight"}
        source |= {"inputs": {"sizes": ["length", "width"], "looks": ["colour"]}}
        steps = [{"type": "one_hot", "input": "looks"}]
        job = {**examples.TRAIN, "architecture": net, "dataset": source, "preprocessing": steps, "optimizer": _ADAM}
        run_job(client, {**job, "budget": {"epochs": 1}, "output": {"model": "tables"}})
    go(page, server, "#/playground/tables")
    asked = json.loads(page.get_by_label("Rows as JSON").input_value())
    page.get_by_role("button", name="Predict").click()

    expect(page.locator("[data-answer]")).to_be_visible()
    assert asked == {"sizes": [{"length": 29.5, "width": 3}], "looks": [{"colour": "green"}]}


def test_what_was_answered_before_goes_when_the_next_question_fails(browser: Browser, server: Server) -> None:
    net = {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 3, 5]}],
        "root": {"type": "Linear", "in_features": 5, "out_features": 1},
    }
    with server.client() as client:
        run_job(client, {"kind": "import", "architecture": net, "output": {"model": "block"}})
    with opened(browser, server.url, interrupted=True) as page:
        go(page, server, "#/playground/block")
        rows, call = page.get_by_label("Rows as JSON"), page.get_by_label("The call for curl")
        for broken, told, shown in (
            ("[[", "The rows are not JSON", None),
            ('{"nix": 1}', "nix", "nix"),
            ("[[1, 2]]", "/inputs/0", "[[1,2]]"),
        ):
            rows.fill(json.dumps([[[0.0] * 5] * 3]))
            page.get_by_role("button", name="Predict").click()
            expect(page.locator("[data-answer]")).to_be_visible()
            rows.fill(broken)
            page.get_by_role("button", name="Predict").click()
            expect(page.get_by_role("alert")).to_contain_text(told)
            expect(page.locator("[data-answer]")).to_have_count(0)
            expect(page.locator(".note")).to_have_count(0)
            if shown:
                expect(call).to_contain_text(shown)
            else:
                expect(call).to_have_count(0)


def test_a_file_is_asked_row_by_row_and_saved_with_its_answers(
    browser: Browser, server: Server, tmp_path: Path
) -> None:
    """Names in any order, columns that are passed through, decimal commas, gaps as the training's file had them."""
    towns = ("Nord", "Süd")
    rows = "".join(f"{20 + i},5;{'k.A.' if i % 9 == 0 else i};{towns[i % 2]};{3 * i}\n" for i in range(60))
    with server.client() as client:
        text = f"Fläche;Jahre;Ort;Miete\n{rows}".encode()
        upload = client.post("/v1/uploads", content=text, headers={"Content-Type": "text/csv"}).json()
        source = {"type": "csv", "upload": upload["id"], "target": "Miete", "delimiter": ";", "decimal": ","}
        source |= {"missing": "keep", "missing_texts": ["k.A."]}
        net = {"catalogue": "mlp", "params": {"in_features": 4, "hidden": [8], "num_classes": 1}}
        steps = [{"type": "impute", "columns": ["Jahre"]}, {"type": "standardize"}, {"type": "one_hot"}]
        job = {**examples.TRAIN, "architecture": net, "dataset": source, "preprocessing": steps, "optimizer": _ADAM}
        run_job(client, {**job, "output": {"model": "mietspiegel"}})
        asked = [{"Fläche": 30.25, "Jahre": None, "Ort": "Süd"}, {"Fläche": 40, "Jahre": 7, "Ort": "Nord"}]
        outputs = client.post("/predict", json={"model": "mietspiegel", "inputs": asked}).json()["outputs"]
    head = "Ort;Notiz;Fläche;Jahre\r\n"
    two = f'{head}Süd;"eins; ""zwei""\r\ndrei";30,25;k.A.\r\n\r\nNord;;40;7'

    def drop(page: Page, content: str, encoding: str = "utf-8") -> None:
        page.get_by_label("Choose a CSV file").set_input_files(
            {"name": "neu (1).csv", "mimeType": "text/csv", "buffer": content.encode(encoding)}
        )

    with opened(browser, server.url, interrupted=True) as page:
        go(page, server, "#/playground/mietspiegel")
        page.get_by_text("Many rows from a CSV file").click()
        answers = page.get_by_role("table", name="Answers to the rows of the file")
        for encoding in ("utf-8-sig", "cp1252"):
            drop(page, two, encoding)
            expect(page.get_by_text("2 rows are answered.")).to_be_visible()
            expect(answers.get_by_role("row")).to_have_count(3)
            expect(answers.get_by_role("row").last.get_by_role("cell").first).to_have_text("5")
            with page.expect_download() as saved:
                page.get_by_role("button", name="Save the answers as CSV").click()
            assert saved.value.suggested_filename == "neu (1)-answers.csv"
            content = Path(saved.value.path()).read_bytes().decode("utf-8-sig")
            table = list(csv.reader(io.StringIO(content, newline=""), delimiter=";"))
            assert table[0] == ["Ort", "Notiz", "Fläche", "Jahre", "prediction"]
            assert table[1][:4] == ["Süd", 'eins; "zwei"\r\ndrei', "30,25", "k.A."]
            assert "," in table[1][4]
            found = [float(row[4].replace(",", ".")) for row in table[1:]]
            assert found == pytest.approx([one[0] for one in outputs], rel=1e-5)
        command = page.get_by_label("The command").inner_text()
        assert command.startswith("modelyard predict mietspiegel/1 'neu (1).csv'")
        (tmp_path / "neu (1).csv").write_text(two, "utf-8")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        subprocess.run(["sh", "-c", command], check=True, timeout=60, cwd=tmp_path, env={**os.environ, "PATH": path})
        content = (tmp_path / "answers.csv").read_text("utf-8-sig")
        told = [row[-1] for row in csv.reader(io.StringIO(content, newline=""), delimiter=";")]
        assert [float(text.replace(",", ".")) for text in told[1:]] == pytest.approx(found)

        drop(page, f"{head}{'Nord;;40;7' + chr(10)}Süd;;viel;7\n")
        expect(page.get_by_role("alert").get_by_role("listitem")).to_contain_text(["line 3, Fläche"])
        expect(answers).to_have_count(0)
        drop(page, "Ort;Jahre\nSüd;7\n")
        expect(page.get_by_role("alert")).to_contain_text("The file has no column Fläche. It has: Ort, Jahre.")
        drop(page, f"{head}Süd;7\n")
        expect(page.get_by_role("alert")).to_contain_text("Line 2 has 2 values, the first line has 4.")
        drop(page, head + "Nord;;40,5;7\n" * 1205)
        expect(page.get_by_text("The first 1,000 rows are answered; the file has more.")).to_be_visible()
        expect(answers.get_by_role("row")).to_have_count(51)
        page.set_viewport_size({"width": 390, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []

        page.set_viewport_size({"width": 1280, "height": 900})
        go(page, server, "#/playground/clouds")
        page.get_by_text("Many rows from a CSV file").click()
        drop(page, "0.5,1\n-2,-2.5\n")
        expect(answers.get_by_role("row")).to_have_count(3)
        expect(answers.get_by_role("row").first).to_have_text(
            re.compile(r"Line.*prediction.*probability.*x\[0\].*x\[1\]")
        )
        drop(page, "1,2,3\n")
        expect(page.get_by_role("alert")).to_contain_text("The model takes 2 numbers a row, the file has 3 columns.")


_LINEAR = {"type": "Linear", "in_features": 4, "out_features": 2}
_PICTURE = {
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


@pytest.mark.parametrize("kind", ["table", "wide-table", "picture", "several-inputs", "several-long-inputs"])
def test_each_call_that_is_shown_works_as_it_is_pasted(page: Page, server: Server, tmp_path: Path, kind: str) -> None:
    """With the file that it reads, where its rows are too many to be shown."""
    name, long = f"pasted-{kind}", kind not in ("table", "several-inputs")
    with server.client() as client:
        if "table" in kind:
            columns = [f"x {i}" for i in range(60 if kind == "wide-table" else 2)]
            head = ",".join(["it's", *columns, "y"])
            rows = "".join(
                f"{'ab'[i % 2]},{','.join(str(i + k / 7) for k in range(len(columns)))},{i}\n" for i in range(40)
            )
            content, headers = f"{head}\n{rows}".encode(), {"Content-Type": "text/csv"}
            upload = client.post("/v1/uploads", content=content, headers=headers).json()["id"]
            net: Any = {
                "catalogue": "mlp",
                "params": {"in_features": len(columns) + 2, "hidden": [4], "num_classes": 1},
            }
            job = {**examples.TRAIN, "architecture": net, "optimizer": _ADAM, "preprocessing": [{"type": "one_hot"}]}
            job |= {"dataset": {"type": "csv", "upload": upload, "target": "y"}, "output": {"model": name}}
        else:
            net = _PICTURE if kind == "picture" else _wide(3)
            job = {"kind": "import", "architecture": net, "output": {"model": name}}
        run_job(client, job)
    go(page, server, f"#/playground/{name}")
    if kind == "picture":
        box = page.get_by_role("img", name="Picture").bounding_box()
        assert box
        page.mouse.move(box["x"] + 60, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + 200, box["y"] + 200, steps=5)
        page.mouse.up()
    elif kind == "several-long-inputs":
        asked = {f"in{i}": [[k / 3, i, 0.25, 1] for k in range(30)] for i in range(3)}
        page.get_by_label("Rows as JSON").fill(json.dumps(asked))
    with page.expect_response("**/predict") as answered:
        page.get_by_role("button", name="Predict").click()
    outputs = answered.value.json()["outputs"]
    if kind == "picture":
        sent: Any = answered.value.request.post_data_json
        pixels = sent["inputs"][0][0]
        assert pixels[8][8] > 0.9  # where the line goes through
        assert pixels[0][15] == 0

    expect(page.get_by_role("region", name="Answer")).to_contain_text("Version")
    printed = {}
    for tab, label, file in (
        ("curl", "The call for curl", "request.json"),
        ("Python", "The call in Python", "request.json"),
        ("/v2", "The call in the Open Inference Protocol", "request-v2.json"),
    ):
        page.get_by_role("tab", name=tab, exact=True).click()
        call = page.get_by_label(label).inner_text()
        assert len(call) < 1100
        button = page.get_by_role("button", name=f"Save {file}")
        expect(button).to_have_count(int(long))
        if long:
            with page.expect_download() as saved:
                button.click()
            assert saved.value.suggested_filename == file
            saved.value.save_as(tmp_path / file)
        command = [sys.executable, "-c", call] if tab == "Python" else ["sh", "-c", call]
        found = subprocess.run(command, capture_output=True, check=False, timeout=60, cwd=tmp_path)
        assert found.returncode == 0, found.stderr
        printed[tab] = found.stdout
    told = [one["data"] for one in json.loads(printed["/v2"])["outputs"]]

    assert json.loads(printed["curl"])["outputs"] == outputs
    assert ast.literal_eval(printed["Python"].decode()) == outputs
    assert told == [pytest.approx([value for row in outputs for value in row], rel=1e-5)]


def _wide(branches: int) -> dict[str, Any]:
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


def test_what_is_not_there_is_named_and_the_list_is_near(browser: Browser, server: Server) -> None:
    with server.client() as client:
        dataset = client.get("/v1/datasets").json()["data"][0]["id"]
    with opened(browser, server.url, interrupted=True) as page:
        for place, told, title in (
            ("#/jobs/nix", "There is no job nix.", "Jobs"),
            (f"#/jobs/job_{32 * '0'}", "job_00000", "Jobs"),
            ("#/jobs/%", "There is no job %.", "Jobs"),
            ("#/models/quadratc", "There is no model quadratc. Did you mean 'quadratic'?", "Models"),
            ("#/models/Not%20a%20Name", "There is no model Not a Name.", "Models"),
            ("#/models/quadratic/99", "99", "Models"),
            ("#/playground/nix", "There is no model nix.", "Playground"),
            ("#/datasets/nix", "There is no dataset nix.", "Train"),
            ("#/nix", "There is no such page.", "Start"),
        ):
            page.goto(f"{server.url}/ui/{place}")
            expect(page.get_by_role("alert")).to_contain_text("Not found")
            expect(page.get_by_role("alert")).to_contain_text(told)
            expect(page.locator("main").get_by_role("link", name=f"Go to {title}")).to_be_visible()
        go(page, server, f"#/datasets/{dataset}")
        expect(page.get_by_role("region", name="Columns")).to_be_visible()
        expect(page.get_by_role("button", name="Train", exact=True)).to_be_visible()


def test_no_page_breaks_a_rule_of_accessibility(page: Page, server: Server) -> None:
    axe = Axe()
    with server.client() as client:
        jobs = client.get("/v1/jobs?kind=train&state=succeeded").json()["data"]
    job = next(one for one in jobs if one["output"]["model"] == "clouds")
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    with server.client() as client:
        run_job(client, {"kind": "import", "architecture": _PICTURE, "output": {"model": "drawn"}})
    for place in (
        "#/",
        "#/train",
        "#/jobs",
        f"#/jobs/{job['id']}",
        "#/models",
        "#/models/quadratic?a=1&b=2",
        "#/playground/clouds",
        "#/playground/drawn",
        f"#/datasets/{job['dataset']['id']}",
        "#/import",
        "#/nowhere",
    ):
        page.goto(f"{server.url}/ui/{place}")
        expect(page.locator("main")).to_have_attribute("data-ready", place)
        if place == "#/train":
            page.get_by_role("tab", name="Examples").click()
            page.get_by_role("button", name=re.compile("Two clouds")).click()
            expect(page.get_by_text("Nothing to complain about.")).to_be_visible()
        elif "/datasets/" in place:
            expect(page.get_by_text("Nothing to complain about.")).to_be_visible()
        elif "playground" in place:
            page.get_by_role("button", name="Predict").click()
            expect(page.locator("[data-answer]")).to_be_visible()
        elif "/jobs/" in place:
            expect(page.locator("figure[data-drawn]").first).to_be_visible()
        elif "?a=" in place:
            expect(page.get_by_text("The same net.")).to_be_visible()
        expect(page.locator("[aria-busy=true]")).to_have_count(0)
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            options = {"runOnly": rules, "resultTypes": ["violations"]}
            found = axe.run(page, options=options).response["violations"]

            assert [(place, scheme, one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


def test_a_key_is_asked_for_once_and_stays_in_the_tab(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    key, stored = keys.make("person", keys.Scope.PUBLISH, now=datetime.now(UTC))
    keys.write(file, keys.Keys(keys=(stored,)))
    guarded = Server(tmp_path / "store", api_keys_file=str(file)).start()
    try:
        with opened(browser, guarded.url, interrupted=True) as page:
            page.goto(f"{guarded.url}/ui/")
            page.get_by_role("textbox", name="API key").fill(key)
            page.get_by_role("button", name="Use this key").click()
            page.get_by_role("button", name="Train an example now").click()
            expect(page.get_by_role("heading", name="Training of quadratic")).to_contain_text("succeeded")
            page.reload()
            expect(page.get_by_role("link", name="Open quadratic/1")).to_be_visible()
            page.get_by_role("link", name="Open quadratic/1").click()
            page.get_by_role("tab", name="Files").click()
            with page.expect_download() as saved:
                page.get_by_role("button", name="Weights (.safetensors)").click()

            assert Path(saved.value.path()).stat().st_size > 100
            assert page.context.cookies() == []
            assert page.evaluate("Object.keys(localStorage).length") == 0
    finally:
        assert guarded.stop() == 0


def test_a_key_of_too_small_a_scope_is_told_which_one_is_needed(browser: Browser, tmp_path: Path) -> None:
    """Once and plainly: the stream of events is not asked for again and again."""
    file = tmp_path / "keys.toml"
    small, stored = keys.make("program", keys.Scope.PREDICT, now=datetime.now(UTC))
    large, other = keys.make("person", keys.Scope.READ, now=datetime.now(UTC))
    keys.write(file, keys.Keys(keys=(stored, other)))
    guarded = Server(tmp_path / "store", api_keys_file=str(file)).start()
    try:
        with opened(browser, guarded.url, interrupted=True) as page:
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.goto(f"{guarded.url}/ui/#/jobs")
            page.get_by_role("textbox", name="API key").fill(small)
            page.get_by_role("button", name="Use this key").click()
            expect(page.get_by_role("alert")).to_contain_text("This key may not do that")
            expect(page.get_by_role("alert")).to_contain_text("Use a key of the scope read.")
            expect(page.locator("#connection")).to_have_text("Needs the scope read")
            asked.clear()
            page.wait_for_timeout(1500)  # longer than three of the waits after which a lost stream is tried again
            assert [url for url in asked if "/v1/" in url] == []

            page.get_by_role("button", name="Use another key").click()
            page.get_by_role("textbox", name="API key").fill(large)
            page.get_by_role("button", name="Use this key").click()
            expect(page.get_by_text("No job yet.")).to_be_visible()
            expect(page.locator("#connection")).to_have_attribute("data-status", "live")
            page.get_by_role("button", name="Sign out").click()
            page.get_by_role("button", name="Not now").click()
            expect(page.get_by_role("alert")).to_contain_text("An API key is needed")
    finally:
        assert guarded.stop() == 0


def test_a_key_that_may_only_predict_asks_by_name(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    small, stored = keys.make("program", keys.Scope.PREDICT, now=datetime.now(UTC))
    large, other = keys.make("person", keys.Scope.PUBLISH, now=datetime.now(UTC))
    keys.write(file, keys.Keys(keys=(stored, other)))
    guarded = Server(tmp_path / "store", api_keys_file=str(file)).start()
    try:
        with guarded.client() as client:
            client.headers["Authorization"] = f"Bearer {large}"
            run_job(client, examples.TRAIN)
            outputs = client.post("/predict", json={"model": "quadratic", "inputs": [[0.25]]}).json()["outputs"]
        with opened(browser, guarded.url, interrupted=True) as page:
            page.goto(f"{guarded.url}/ui/#/models")
            page.get_by_role("textbox", name="API key").fill(small)
            page.get_by_role("button", name="Use this key").click()
            page.locator("main").get_by_role("link", name="playground").click()
            expect(page.get_by_text("It lacks the scope read")).to_be_visible()
            page.get_by_role("button", name="Predict").click()
            expect(page.get_by_role("alert")).to_contain_text("Type the name of the model.")
            page.get_by_label("Model").fill("quadratic")
            page.get_by_label("Rows as JSON").fill("[[0.25]]")
            for which in ("", "1", "champion", "@champion"):
                page.get_by_label("Version or alias").fill(which)
                page.get_by_role("button", name="Predict").click()
                expect(page.locator("[data-answer]")).to_be_visible()
                shown = page.locator("[data-answer]").get_attribute("data-answer")
                assert float(shown or "nan") == pytest.approx(outputs[0][0])
            expect(page.get_by_label("The call for curl")).to_contain_text('"model":"quadratic@champion"')
            found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
            assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
            page.get_by_label("Model").fill("nix")
            page.get_by_role("button", name="Predict").click()
            expect(page.get_by_role("alert")).to_contain_text("nix")
            expect(page.locator("[data-answer]")).to_have_count(0)
    finally:
        assert guarded.stop() == 0


def test_a_champion_can_be_rolled_back_only_where_it_was_another_version(page: Page, server: Server) -> None:
    with server.client() as client:
        for seed in (1, 2, 3):
            job = {**examples.TRAIN, "seed": seed, "output": {"model": "back", "alias_on_success": "champion"}}
            run_job(client, job)
            go(page, server, "#/")
            go(page, server, "#/models/back")
            expect(page.get_by_text(f"Version {seed} is the champion and answers.")).to_be_visible()
            expect(page.get_by_role("button", name="Roll back")).to_have_count(int(seed > 1))
    dialog = page.get_by_role("dialog")
    page.get_by_role("button", name="Roll back").dblclick()
    expect(dialog).to_contain_text("Version 2 answers whoever asks back from now on, instead of version 3.")
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
    dialog.get_by_role("button", name="Not now").click()
    expect(page.get_by_text("Version 3 is the champion and answers.")).to_be_visible()
    expect(page.get_by_role("button", name="Roll back")).to_be_focused()
    page.get_by_role("button", name="Roll back").click()
    dialog.get_by_role("button", name="Roll back to version 2").click()
    expect(page.get_by_text("Version 2 is the champion and answers.")).to_be_visible()
    expect(page.locator("tr.changed")).to_contain_text("Version 2")
    expect(page.get_by_role("button", name="Roll back")).to_be_focused()
    page.get_by_role("button", name="Roll back").click()
    dialog.get_by_role("button", name="Roll back to version 1").click()
    expect(page.get_by_text("Version 1 is the champion and answers.")).to_be_visible()
    expect(page.get_by_role("button", name="Roll back")).to_have_count(0)
    for shown in (page.locator("tr.selected"), page.get_by_role("region", name="Version 3", exact=True)):
        expect(shown).to_contain_text("Version 3")  # what was looked at stays, wherever the champion goes
    page.get_by_role("button", name="Promote version 2").click()
    dialog.get_by_role("button", name="Promote version 2").click()
    expect(page.get_by_text("Version 2 is the champion and answers.")).to_be_visible()
    expect(page.locator("tr.changed")).to_contain_text("Version 2")
    expect(page.get_by_role("link", name="Version 2")).to_be_focused()


def test_a_champion_that_has_moved_since_is_shown_before_it_moves_again(browser: Browser, server: Server) -> None:
    alias = "/v1/models/elsewhere/aliases/champion"
    with server.client() as client, opened(browser, server.url, interrupted=True) as page:
        for _ in range(3):
            run_job(client, {"kind": "import", "architecture": _wide(1), "output": {"model": "elsewhere"}})
        client.put(alias, json={"version": 1}, headers={"If-None-Match": "*"})
        client.put(alias, json={"version": 2}, headers={"If-Match": "*"})
        go(page, server, "#/models/elsewhere")
        expect(page.get_by_text("Version 2 is the champion and answers.")).to_be_visible()
        client.put(alias, json={"version": 3}, headers={"If-Match": "*"})
        page.get_by_role("button", name="Roll back").click()
        page.get_by_role("dialog").get_by_role("button", name="Roll back to version 1").click()
        expect(page.get_by_role("region", name="Notices").get_by_role("alert")).to_be_visible()
        expect(page.get_by_text("Version 3 is the champion and answers.")).to_be_visible()
        assert client.get(alias).json()["version"] == 3
        page.get_by_role("button", name="Roll back").click()
        page.get_by_role("dialog").get_by_role("button", name="Roll back to version 2").click()
        expect(page.get_by_text("Version 2 is the champion and answers.")).to_be_visible()


def test_where_the_page_is_narrow_nothing_reaches_out_of_it(page: Page, server: Server) -> None:
    """The rows of lists are blocks there, with their actions in sight; what is wider scrolls in its box."""
    with server.client() as client:
        job = client.get("/v1/jobs?kind=train&state=succeeded").json()["data"][0]
    page.set_viewport_size({"width": 400, "height": 900})
    for place in (
        "#/",
        "#/train",
        "#/jobs",
        f"#/jobs/{job['id']}",
        "#/models",
        "#/models/quadratic",
        "#/playground/clouds",
    ):
        go(page, server, place)
        if place == "#/models/quadratic":
            page.get_by_role("tab", name="Figures").click()
            expect(page.get_by_role("tab", name="Loss over the steps")).to_be_visible()
        tried = page.evaluate(
            """() => [...document.querySelectorAll('.stacked td, .tab, nav a')].filter(e => {
                 const { left, right } = e.getBoundingClientRect(); return left < 0 || right > innerWidth })
                 .map(e => e.textContent)"""
        )

        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, place
        assert tried == [], place


def test_without_plotly_the_tables_still_stand(browser: Browser, server: Server) -> None:
    with server.client() as client:
        job = client.get("/v1/jobs?kind=train&state=succeeded").json()["data"][-1]
    with opened(browser, server.url, interrupted=True) as page:
        page.route("**/plotly-*.js", lambda route: route.abort())
        page.goto(f"{server.url}/ui/#/jobs/{job['id']}")
        table = page.get_by_role("table", name="Loss: loss")
        expect(table).to_be_visible()

        assert table.get_by_role("row").count() == job["progress"]["step"] + 1


def test_the_page_patches_and_points_as_the_server_does(page: Page, server: Server) -> None:
    go(page, server, "#/")
    body = {"a/b": {"list": [1, {"~x": "y"}, 3]}, "text": 'with "quotes" and ]', "deep": [[[{"z": None}]]]}
    patches: list[list[dict[str, Any]]] = [
        [{"op": "add", "path": "/new", "value": [1]}],
        [{"op": "replace", "path": "/a~1b/list/1/~0x", "value": 2}],
        [{"op": "remove", "path": "/a~1b/list/0"}, {"op": "add", "path": "/a~1b/list/0", "value": "first"}],
    ]
    patched, found = page.evaluate(
        """async ([body, patches, pointers]) => {
             const at = document.querySelector('script[src$="app.js"]').src.replace('app.js', 'format.js');
             const { patched, locate, pretty } = await import(at);
             const text = pretty(body, '', 40);
             return [patches.map(patch => patched(body, patch)), pointers.map(one => text.slice(...locate(text, one)))];
           }""",
        [body, patches, ["/a~1b/list/1/~0x", "/text", "/deep/0/0/0/z", "/deep/0/0/0/nowhere", "/a~1b/list/2"]],
    )

    assert patched == [doctor.patched(body, patch) for patch in patches]
    assert found == ['"y"', json.dumps(body["text"]), "null", '{"z": null}', "3"]


def test_the_page_is_light_and_stands_soon(page: Page, server: Server, measured: Callable[[str], None]) -> None:
    with server.client() as client:
        job = next(one for one in client.get("/v1/jobs?kind=train&state=succeeded").json()["data"])
    page.goto(f"{server.url}/ui/#/jobs/{job['id']}")
    expect(page.locator("figure[data-drawn]").first).to_be_visible()
    figures = page.evaluate(
        """() => ({ resources: performance.getEntriesByType('resource').map(({ name, encodedBodySize, responseEnd }) =>
               [name, encodedBodySize, responseEnd]), usable: performance.getEntriesByName('usable')[0].startTime,
               drawn: performance.getEntriesByName('drawn')[0].startTime })"""
    )
    own = sum(size for name, size, _ in figures["resources"] if "/ui/" in name and "plotly" not in name)
    plotly = sum(size for name, size, _ in figures["resources"] if "plotly" in name)
    measured(
        f"Dashboard: {own / 1000:.0f} kB of its own and {plotly / 1000:.0f} kB of plotly.js over the wire; "
        f"usable after {figures['usable'] / 1000:.2f} s, charts after {figures['drawn'] / 1000:.2f} s"
    )

    assert own < 80_000
    assert 500_000 < plotly < 2_500_000
    assert figures["usable"] < 10_000  # half a second on a quiet machine


def test_the_page_is_served_whole_compressed_and_under_a_strict_policy(server: Server) -> None:
    with server.client() as client:
        assert client.get("/").headers["Location"] == "/ui/"
        page = client.get("/ui/")
        assert page.headers["Cache-Control"] == "no-cache"
        assert "Set-Cookie" not in page.headers
        policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == "'self'"
        assert re.search(r"<script(?![^>]*src=)|<style|\son[a-z]+=", page.text) is None
        for path in re.findall(r'(?:href|src|content)="(/ui/[^"]+)"', page.text):
            asset = client.get(path)
            assert asset.status_code == 200, path
            assert "immutable" in asset.headers["Cache-Control"]
            assert asset.headers["Content-Encoding"] == "gzip"
            assert client.get(path, headers={"Accept-Encoding": "identity"}).content == asset.content
        for path in ("/ui/plotly-0.js", "/ui/0/app.js", "/ui/..%2fapp.py", "/ui/0/..%2f..%2fapp.py"):
            assert client.get(path).status_code == 404, path
