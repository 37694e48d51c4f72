"""The page on which data, a net and a training are put together."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

from service.schemas import examples
from tests.browser import csv_file, go, opened, press
from tests.live import Server, run_job, wait_for


def flats(constant: int = 0) -> bytes:
    """A table of twelve columns, one of which numbers the rows; and others of one value."""
    same = range(constant)
    names = "id,area,rooms,floor,built,district,balcony,distance,heating,energy,lift"
    rows = [
        f"{i},{25 + i},{1 + i % 6},{i % 9},{1900 + i},{'NSEW'[i % 4]},{'yn'[i % 2]},{i / 7:.2f},{'abc'[i % 3]},{9 * i},"
        f"{'yn'[i // 2 % 2]},{''.join('1,' for _ in same)}{300 + 11 * i}"
        for i in range(60)
    ]
    return "\n".join([f"{names},{''.join(f'same{k},' for k in same)}rent", *rows, ""]).encode()


def choose(page: Page, name: str, content: bytes) -> None:
    """Choose a file on the page, which then shows how it may be read."""
    page.get_by_role("tab", name="Upload a file").click()
    page.get_by_label("Choose a file").set_input_files(csv_file(name, content))
    expect(page.get_by_role("button", name="Use this data")).to_be_visible()


def unfold(page: Page, title: str) -> None:
    """Open the part of this title, which is shut."""
    part = page.locator("details").filter(has=page.locator("summary", has_text=title))
    expect(part).not_to_have_attribute("open", re.compile(""))
    part.locator("summary", has_text=title).click()


def test_a_wrong_document_and_a_wrong_request_are_mended_by_their_hints(browser: Browser, server: Server) -> None:
    with opened(
        browser, server.url, interrupted=True
    ) as page:  # where it is slow, the wrong request is sent and refused
        rows = "\n".join(f"{i};{i / 10};{('red', 'green')[i % 2]};{('a', 'b')[i % 2]}" for i in range(60))
        go(page, server, "#/train")
        page.get_by_role("tab", name="Upload a file").click()
        page.get_by_label("Choose a file").set_input_files(
            csv_file("flowers.csv", f"number;length;colour;kind\n{rows}\n")
        )
        expect(page.get_by_label("What is to be predicted")).to_have_value("kind")
        page.get_by_role("checkbox", name="number", exact=True).uncheck()
        page.get_by_role("button", name="Use this data").click()
        expect(page.get_by_role("region", name="Columns")).to_contain_text("colour")
        columns = page.get_by_role("region", name="Columns").get_by_role("row")
        expect(columns.filter(has_text="left out")).to_contain_text("number")
        expect(page.get_by_text("Nothing to complain about.")).to_be_visible()

        unfold(page, "Change the net")
        page.get_by_role("tab", name="JSON").click()
        editor = page.get_by_label("Architecture document")
        editor.fill(editor.input_value().replace("ReLU", "Relu", 1))
        expect(page.get_by_text("One mistake in the net.")).to_be_visible()
        page.get_by_role("button", name="/root/layers/1/type").click()
        assert (
            page.evaluate(
                "() => { const e = document.activeElement; return e.value.slice(e.selectionStart, e.selectionEnd) }"
            )
            == '"Relu"'
        )
        page.get_by_role("button", name="Use ReLU").first.click()
        expect(page.get_by_text("The net can be built.")).to_be_visible()
        expect(editor).to_have_value(re.compile('"ReLU"'))

        unfold(page, "Preparing the data")
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
    page.get_by_label("Choose a file").set_input_files(csv_file("mieten.csv", text))
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
    page.get_by_label("Choose a file").set_input_files(csv_file("flats.csv", f"area,kind,price\n{rows}"))
    with page.expect_response(lambda answer: "dry_run" in answer.url and len(answer.json()["warnings"]) == 0):
        page.get_by_role("button", name="Use this data").click()
    page.get_by_label("Name of the model").fill("casa")
    page.get_by_label("Epochs").fill("7")
    unfold(page, "Optimizer and batches")
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
    chooser.set_input_files(csv_file("Prüfung.csv", f"Fläche;Größe;Preis\n{rows}".encode("cp1252")))
    expect(page.get_by_label("Name", exact=True)).to_have_value("pruefung")
    missing = page.get_by_label("Texts that mean a missing value")
    expect(missing).to_have_value("k.A.")
    expect(missing).to_have_accessible_description(re.compile("^Found in the file"))
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
    page.get_by_label("Choose a file").set_input_files(csv_file("gaps.csv", f"age;size;price\n{rows}"))
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
        page.get_by_label("Choose a file").set_input_files(csv_file(name, f"size;price\n{rows}"))

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
    unfold(page, "Other data")
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
    press(page, "Only if it is better", backwards=True)
    expect(page.get_by_label("Only if it is better")).to_be_checked()
    expect(page.get_by_label("Only if it is better")).to_be_focused()
    expect(page.get_by_role("button", name="Only if it is better")).to_have_count(0)
    expect(told).to_contain_text("takes its place if val_accuracy > champion.val_accuracy.")
    page.get_by_label("Held out for validation").select_option("nothing")
    expect(told).to_contain_text("if accuracy > champion.accuracy.")
    page.get_by_label("Make it the champion when it succeeds").uncheck()
    expect(told).to_contain_text("It stays the champion.")
    page.get_by_label("Make it the champion when it succeeds").check()
    page.get_by_label("Only if it is better").check()
    page.get_by_label("Epochs").fill("1")
    unfold(page, "Optimizer and batches")
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
    page.get_by_label("Choose a file").set_input_files(csv_file("sizes.csv", f"id,length,same,note,weight\n{rows}\n"))
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
    chooser.set_input_files(csv_file("title.csv", f"Report;;;;;;\n{names};;\n{rows}"))
    expect(page.get_by_label("Texts that mean a missing value")).to_have_value("")
    expect(page.get_by_label("What is to be predicted")).to_have_value("Report")
    chooser.set_input_files(csv_file("ends.csv", f"{names};;\n{rows}"))
    expect(page.get_by_label("What is to be predicted")).to_have_value("kind")
    chooser.set_input_files(csv_file("euros.csv", f"{names}\n{rows.replace(';;', '')}"))
    expect(page.get_by_role("checkbox", name="price")).not_to_be_checked()
    page.get_by_role("button", name="Use this data").click()
    told = page.get_by_role("complementary", name="Check and train")
    expect(told).to_contain_text("price is left out. These look like numbers with a unit (€): take the unit out of")
    expect(told).to_contain_text(
        "Only one row is of the class rare: no held-out row can tell whether it is learnt. Add rows of it, or leave it "
        "out of the file."
    )
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
    expect(answer).to_contain_text(re.compile(r"Expected: 1\.1\d\d,08 to 9\.1\d\d,08\. Here: 88\.153,5\."))


def test_classes_of_few_rows_are_weighed_and_held_out_like_others(page: Page, server: Server) -> None:
    """At a press beside the warning, which shows the control. A dataset that was here tells what is left out of it."""
    rows = "".join(f"{i},{i / 7},{'yes' if i % 15 == 0 else 'no'}\n" for i in range(120))
    go(page, server, "#/train")
    page.get_by_role("tab", name="Upload a file").click()
    page.get_by_label("Choose a file").set_input_files(csv_file("churn.csv", f"id,usage,left\n{rows}"))
    page.get_by_role("button", name="Use this data").click()
    warning = page.get_by_role("region", name="1 Data").get_by_role("listitem").filter(has_text="of the class")
    expect(warning).to_contain_text("112 rows are of the class 'no', 8 of the class 'yes'.")
    expect(warning.locator(".entry-foot")).to_contain_text(re.compile("^left"))
    expect(warning).not_to_contain_text("{")
    check = page.get_by_role("complementary", name="Check and train")
    expect(check).to_contain_text("id Seems to number the rows.")
    weigh = page.get_by_label("Weigh classes equally")
    expect(weigh).not_to_be_checked()
    warning.get_by_role("button", name="Weigh classes equally").click()
    expect(weigh).to_be_checked()
    expect(weigh).to_be_focused()
    expect(page.get_by_text("Nothing to complain about.")).to_be_visible()
    page.get_by_label("Objective").select_option("mse")
    expect(weigh).to_have_count(0)
    page.get_by_label("Objective").select_option("cross_entropy")
    weigh.check()
    page.get_by_label("Epochs").fill("2")
    expect(page.get_by_text("Nothing to complain about.")).to_be_visible()
    with page.expect_request(lambda request: request.method == "POST" and request.url.endswith("/v1/jobs")) as sent:
        page.get_by_role("button", name="Train", exact=True).click()
    asked: Any = sent.value.post_data_json
    assert asked["objective"] == {"type": "cross_entropy", "weight": "balanced"}
    assert asked["split"]["type"] == "stratified"
    expect(page.get_by_role("heading", name="Training of churn")).to_contain_text("succeeded")

    go(page, server, f"#/datasets/{asked['dataset']}")
    expect(check).to_contain_text("Left out of the inputs, as the dataset was made:id")


def test_places_are_told_in_words_where_no_json_is_open(browser: Browser, server: Server) -> None:
    """And the layers of a net that was proposed are folded up until somebody wants to see them."""
    with opened(browser, server.url, interrupted=True) as page:
        go(page, server, "#/train")
        page.get_by_role("tab", name="Examples").click()
        page.get_by_role("button", name=re.compile("Two clouds")).click()
        net = page.get_by_role("region", name="2 Net")
        layers = net.get_by_role("region", name="Layers")
        expect(net.get_by_text("The net can be built.")).to_be_visible()
        expect(layers).to_be_hidden()
        net.get_by_text("Layers and drawing").click()
        expect(layers).to_be_visible()
        unfold(page, "Change the net")
        net.get_by_label("Layer 1", exact=True).select_option("Dropout")
        net.get_by_label("p", exact=True).fill("3")
        mistake = net.locator(".entries li").first
        expect(mistake.locator(".entry-foot")).to_contain_text("Layer 1, p")
        expect(mistake).not_to_contain_text("/root")
        expect(mistake.get_by_role("button", name="Show me")).to_be_visible()
        net.get_by_role("tab", name="JSON").click()
        mistake.get_by_role("button", name="/root/layers/0/p").click()

        selected = "() => { const e = document.activeElement; return e.value.slice(e.selectionStart, e.selectionEnd) }"
        assert page.evaluate(selected) == "3"
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


def test_rows_without_a_label_are_left_out_at_a_press(browser: Browser, server: Server) -> None:
    """Also where they lack one only since a text was read as missing, and where the file takes long to be read."""
    rows = "".join(f"{'k.A.' if i % 9 == 0 else i},{'' if i % 20 == 3 else i / 4}\n" for i in range(60))
    with opened(browser, server.url, interrupted=True) as page:
        go(page, server, "#/train")
        page.get_by_role("tab", name="Upload a file").click()
        chooser = page.get_by_label("Choose a file")
        skip = page.get_by_role("button", name="Skip these rows")
        again = page.get_by_role("button", name="Use this data")
        columns = page.get_by_role("region", name="Columns").get_by_role("row")
        told = (
            page.get_by_role("region", name="1 Data")
            .get_by_role("listitem")
            .filter(has_text="left out, without a value in column")
        )
        for name, head in (("quick", {}), ("slow", {"prefer": "wait=0"})):

            def slowly(route: Route, *, head: dict[str, str] = head) -> None:
                route.continue_(headers={**route.request.headers, **head})

            page.route("**/v1/datasets", slowly)
            if name == "slow":
                unfold(page, "Other data")
            chooser.set_input_files(csv_file(f"{name}.csv", f"age,price\n{rows}"))
            page.get_by_label("Texts that mean a missing value").fill("")
            page.get_by_role("button", name="Use this data").click()
            refused = page.get_by_role("alert")
            expect(refused).to_contain_text("The data cannot be read as a dataset.")
            assert refused.inner_text().count("line 5, column 'price': A value is missing") == 1
            grounds = [one.evaluate("e => getComputedStyle(e).backgroundColor") for one in (again, skip)]
            assert grounds[0] != grounds[1]
            found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
            assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
            skip.click()
            expect(columns.filter(has_text="price")).to_contain_text("0 to 14.75")
            expect(told).to_contain_text("3 of 60 rows are left out")
            expect(page.get_by_role("alert")).to_have_count(0)
            expect(page.get_by_role("region", name="Columns")).to_be_focused()
            page.unroute("**/v1/datasets")

        swapped = rows.replace(",\n", ",k.A.\n")
        unfold(page, "Other data")
        chooser.set_input_files(csv_file("both.csv", f"age,price\n{swapped}"))
        page.get_by_label("Texts that mean a missing value").fill("")
        page.get_by_role("button", name="Use this data").click()
        page.get_by_role("button", name="Read “k.A.” as missing").first.click()
        expect(skip).to_be_focused()
        expect(columns.filter(has_text="price")).to_contain_text("target")
        page.keyboard.press("Enter")
        expect(told).to_contain_text("3 of 60 rows are left out")
        expect(skip).to_have_count(0)
        expect(page.get_by_role("region", name="Columns")).to_be_focused()
        expect(page.get_by_role("button", name="Train", exact=True)).to_be_enabled()
        expect(page.get_by_role("complementary", name="Check and train")).not_to_contain_text("left out, without")

    with server.client() as client:
        there = [one for one in client.get("/v1/datasets").json()["data"] if one["state"] == "ready"]
    made = {one["name"]: one["source"] for one in there}
    assert [made[name]["unlabelled"] for name in ("quick", "slow", "both")] == ["skip"] * 3
    assert made["both"]["missing_texts"] == ["k.A."]


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"], ids=["comma", "semicolon", "tab", "bar"])
def test_a_line_that_says_what_parts_the_values_is_believed(page: Page, server: Server, sign: str) -> None:
    """And columns of nothing at the right end, as spreadsheets leave them, are none."""
    name = f"told{ord(sign)}"
    lines = ['id;"a, b";"c; d";price;', *(f"{100 + i};{i};{i / 7:.2f};{3 * i};" for i in range(60)), ""]
    text = "\r\n".join(lines).replace(";", sign).replace(f"c{sign} d", "c; d")
    go(page, server, "#/train")
    page.get_by_role("tab", name="Upload a file").click()
    page.get_by_label("Choose a file").set_input_files(csv_file(f"{name}.csv", f"\ufeffsep={sign}\r\n{text}"))
    expect(page.get_by_label("What is to be predicted")).to_have_value("price")
    expect(page.get_by_role("checkbox", name="id", exact=True)).not_to_be_checked()
    page.get_by_role("button", name="Use this data").click()
    expect(page.get_by_text("Nothing to complain about.")).to_be_visible()

    with server.client() as client:
        [made] = [one for one in client.get("/v1/datasets").json()["data"] if one["name"] == name]
    assert (made["rows"], made["source"].get("delimiter", ",")) == (60, sign)
    roles = {"id": "ignored", "a, b": "input", "c; d": "input", "price": "target"}
    assert {column["name"]: column["role"] for column in made["columns"]} == roles


def test_datasets_of_one_name_are_told_apart_and_all_are_found(
    browser: Browser, make_server: Callable[..., Server]
) -> None:
    own = make_server()
    with own.client() as client:
        for i in range(64):
            row = [0.0] * (1 + i % 3)
            source = {"type": "inline", "inputs": [row] * (i + 4), "targets": [1.0] * (i + 4)}
            name = "first" if i == 0 else "alike"
            columns = ["once"] if i == 3 else [f"x{k}" for k in range(len(row))]
            assert client.post("/v1/datasets", json={"name": name, "source": {**source, "columns": columns}}).is_success
        upload = client.post("/v1/uploads", content=b"a,b\n1,2\n3,4\n", headers={"Content-Type": "text/csv"}).json()
        file = {"type": "csv", "upload": upload["id"], "target": "b"}
        client.post("/v1/datasets", json={"name": "alike", "source": file})
    with opened(browser, own.url) as page:
        page.route(  # a request gives fewer, so fewer have to be made
            "**/v1/datasets?*", lambda route: route.continue_(url=route.request.url.replace("=200", "=40"))
        )
        go(page, own, "#/train")
        table = page.get_by_role("table", name="Datasets")
        rows = table.get_by_role("row")
        expect(page.get_by_role("tab", name="Datasets here (40+)")).to_have_attribute("aria-selected", "true")
        expect(rows).to_have_count(31)
        expect(table.get_by_role("columnheader")).to_have_text(["Name", "Made", "Rows", "Source", "Columns", "Use"])
        told = rows.nth(1).get_by_role("cell").all_inner_texts()
        assert [told[0], *told[2:5]] == ["alike", "2", "CSV", "2: a, b"]
        told = rows.nth(2).get_by_role("cell").all_inner_texts()
        assert [told[0], *told[2:4]] == ["alike", "67", "inline"]
        page.get_by_role("button", name="More").click()
        expect(rows).to_have_count(61)
        expect(rows.nth(31).get_by_role("button")).to_be_focused()
        find = page.get_by_label("Find by name, source or column")
        find.fill("FIRST")  # the oldest: of the second page that the server gives
        expect(rows).to_have_count(2)
        find.fill("inline once")
        expect(rows).to_have_count(2)
        expect(rows.nth(1)).to_contain_text("7")
        find.fill("nowhere")
        expect(page.get_by_text("No dataset is like that.")).to_be_visible()
        find.fill("alike csv")
        expect(rows).to_have_count(2)
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
        page.get_by_role("button", name="Use alike").click()
        expect(page.get_by_role("region", name="Columns").get_by_role("row")).to_have_count(3)


def test_every_column_of_a_profile_is_in_sight_or_within_reach(page: Page, server: Server) -> None:
    """Beside the check; where not all have room, a shadow shows on which side there is more."""
    names = ["od280/od315_of_diluted_wines", "a column with a rather long name", "nonflavanoid_phenols"]
    rows = "".join(f"{i / 7},{i + 1},{1000 + i / 7},{2 * i}\n" for i in range(60))
    with server.client() as client:
        text = f"{','.join(names)},price\n{rows}".encode()
        upload = client.post("/v1/uploads", content=text, headers={"Content-Type": "text/csv"}).json()["id"]
        source = {"type": "csv", "upload": upload, "target": "price"}
        dataset = client.post("/v1/datasets", json={"name": "broad", "source": source}).json()["id"]
    columns = page.get_by_role("region", name="Columns")
    hidden = "box => box.scrollWidth - box.clientWidth - box.scrollLeft"
    for width, room in ((1280, True), (1000, False), (400, False)):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto("about:blank")
        go(page, server, f"#/datasets/{dataset}")
        expect(page.get_by_text("Nothing to complain about.")).to_be_visible()
        assert columns.evaluate("box => getComputedStyle(box).backgroundImage.includes('gradient')")
        assert (columns.evaluate(hidden) <= 0) == room
        columns.focus()
        for _ in range(30):
            page.keyboard.press("ArrowRight")
        wait_for(lambda: columns.evaluate(hidden) <= 1)
        last, around = columns.get_by_role("img").last.bounding_box(), columns.bounding_box()

        assert last
        assert around
        assert around["x"] <= last["x"]
        assert last["x"] + last["width"] <= around["x"] + around["width"]


def test_the_page_is_short_with_what_needs_no_decision_folded(page: Page, server: Server) -> None:
    """Each shut part says what is in it, and opens by the keyboard; where many columns are warned of, they too."""
    page.set_viewport_size({"width": 1280, "height": 800})
    height = "document.documentElement.scrollHeight"
    train = page.get_by_role("button", name="Train", exact=True)
    go(page, server, "#/train")
    choose(page, "flats.csv", flats())
    expect(page.get_by_role("button", name="Use this data")).to_be_in_viewport(ratio=1)
    page.keyboard.press("Enter")  # the button has the focus
    expect(page.get_by_text("Nothing to complain about.")).to_be_visible()

    assert page.evaluate(height) <= 1800
    expect(train).to_be_in_viewport(ratio=1)
    expect(page.locator("summary", has_text="Other data")).to_be_focused()
    expect(page.get_by_role("region", name="Columns").get_by_role("row")).to_have_count(13)
    expect(page.get_by_role("heading", name="Profile of 12 columns")).to_be_visible()
    for title, told, inside in (
        ("Other data", "a file, a dataset that is here, or an example", page.get_by_label("What is to be predicted")),
        ("First rows", "5 of 60", page.get_by_role("region", name="First rows")),
        ("Change the net", "Linear 64, ReLU, Linear 64, ReLU, Linear 1", page.get_by_label("Layer 1", exact=True)),
        ("Layers and drawing", "parameters", page.get_by_role("region", name="Layers")),
        ("Optimizer and batches", "Adam 0.003, 32 rows a step, seed 0", page.get_by_label("Learning rate")),
        ("Preparing the data", "numbers standardized, texts one-hot", page.get_by_label("Standardize numbers")),
    ):
        summary = page.locator("summary", has_text=title)
        expect(summary).to_contain_text(told)
        expect(inside).to_be_hidden()
        summary.focus()
        page.keyboard.press("Enter")
        expect(inside).to_be_visible()
    for title, label, value, told in (
        ("Change the net", "out features", "9", "Linear 9, ReLU"),
        ("Optimizer and batches", "Batch size", "", "all rows at once"),
        ("Optimizer and batches", "Learning rate", "0.5", "Adam 0.5, all rows at once, seed 0"),
    ):
        page.get_by_label(label).first.fill(value)
        expect(page.locator("summary", has_text=title)).to_contain_text(told)
    page.get_by_label("Encode texts as one-hot").uncheck()
    expect(page.get_by_label("Encode texts as one-hot")).to_be_focused()  # and its part stays open
    preparing = page.locator("summary", has_text="Preparing the data")
    expect(preparing).not_to_contain_text("one-hot")
    expect(page.get_by_text("Mend the mistakes, then train.")).to_be_visible()
    preparing.click()
    expect(page.get_by_label("Encode texts as one-hot")).to_be_hidden()
    page.get_by_label("Epochs").fill("3")
    expect(page.get_by_label("Encode texts as one-hot")).to_be_visible()  # where the mistake is

    choose(page, "constant.csv", flats(constant=5))
    page.get_by_role("button", name="Use this data").click()
    unfold(page, "Warnings of 5 columns")
    page.get_by_role("button", name="Leave same2 out").click()
    expect(page.get_by_role("checkbox", name="Learn from same2")).not_to_be_checked()
    expect(page.locator("summary", has_text="Warnings of 4 columns")).to_contain_text("same0, same1, same3, same4")


@pytest.mark.parametrize("width", [1280, 390])
def test_what_has_the_focus_is_in_sight_beside_the_button(browser: Browser, server: Server, width: int) -> None:
    """The button that trains stays in the window with what it will do; nothing that is focused lies below it."""
    with opened(browser, server.url, interrupted=True) as page:  # what is wrong is sent, and refused
        page.set_viewport_size({"width": width, "height": 800})
        train = page.get_by_role("button", name="Train", exact=True)
        outcome = page.locator(".outcome")
        go(page, server, "#/train")
        expect(train).to_be_in_viewport(ratio=1)
        expect(train).to_be_disabled()
        choose(page, "flats.csv", flats())
        page.get_by_role("button", name="Use this data").click()
        expect(train).to_be_enabled()
        expect(train).to_be_in_viewport(ratio=1)
        if width == 390:
            assert page.evaluate("document.documentElement.scrollHeight") <= 2600
            expect(outcome).to_contain_text(re.compile(r"^1,000 steps at most, about .+4 Check: no remarks$"))
            page.get_by_label("Name of the model").fill("")
            expect(outcome).to_have_text("Something is still needed.")
            page.get_by_label("Name of the model").fill("flats")
            page.get_by_label("Epochs").fill("0")
            expect(outcome).to_contain_text("Mistakes to mend")
            page.get_by_label("Epochs").fill("500")
            expect(train).to_be_enabled()
        else:
            expect(outcome).to_be_hidden()  # the check itself is beside
        page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
            assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []

        covered = """() => {
          const e = document.activeElement;
          const bar = document.querySelector(".bar");
          if (e === document.body || bar.contains(e) || e.closest(".drop")) return null; // its zone shows the focus
          const { left, right, top, bottom } = e.getBoundingClientRect();
          const [x, low] = [Math.min(left + 20, (left + right) / 2), Math.min(bottom, innerHeight) - 2];
          const seen = [Math.max(top, 0) + 2, low].map(y => document.elementFromPoint(x, y));
          const [first, last] = seen.map(at => at && (e.contains(at) || at.contains(e)));
          return (first && (last || bottom - top > innerHeight / 2)) ? null : e.outerHTML;
        }"""
        names = set()
        for key in ("Tab", "Shift+Tab"):
            page.evaluate("document.activeElement.blur()")
            for _ in range(120):
                page.keyboard.press(key)
                assert page.evaluate(covered) is None
                names.add(page.evaluate("document.activeElement.labels?.[0]?.textContent ?? ''"))
        assert names >= {"Name", "Epochs", "Seed", "Standardize numbers", "Request"}


def test_a_net_is_written_by_the_form_and_taken_from_the_catalogue(page: Page, server: Server) -> None:
    go(page, server, "#/train")
    page.get_by_role("tab", name="Examples").click()
    page.get_by_role("button", name=re.compile("Two clouds")).click()
    expect(page.get_by_text("Nothing to complain about.")).to_be_visible()
    unfold(page, "Change the net")
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


@pytest.fixture
def held(page: Page) -> list[Route]:
    """The next request for a dataset, which waits until the test lets it go on."""
    waiting: list[Route] = []
    page.route(re.compile(r"/v1/datasets$"), lambda route: waiting.append(route), times=1)
    return waiting


def let_go(page: Page, held: list[Route]) -> None:
    """Let what was held go on, and the page read the answer."""
    with page.expect_response(re.compile(r"/v1/datasets$")):
        held[0].continue_()
    page.wait_for_timeout(700)  # longer than it waits before it asks for a check


def test_data_that_come_late_replace_nothing_that_was_chosen_later(
    page: Page, server: Server, held: list[Route]
) -> None:
    go(page, server, "#/train")
    page.get_by_role("tab", name="Examples").click()
    page.get_by_role("button", name=re.compile("A parabola")).click()
    expect(page.get_by_text("Reading the data…")).to_be_visible()
    page.get_by_role("button", name=re.compile("Two clouds")).click()
    expect(page.get_by_label("Name of the model")).to_have_value("clouds")
    page.get_by_label("Epochs").fill("77")
    objective = page.get_by_label("Objective").input_value()
    let_go(page, held)

    expect(page.get_by_label("Epochs")).to_have_value("77")
    expect(page.get_by_label("Objective")).to_have_value(objective)
    expect(page.get_by_label("Name of the model")).to_have_value("clouds")
    expect(page.get_by_role("region", name="1 Data")).to_contain_text("200")


def test_a_page_that_was_left_asks_for_nothing_more(page: Page, server: Server, held: list[Route]) -> None:
    go(page, server, "#/train")
    page.get_by_role("tab", name="Examples").click()
    page.get_by_role("button", name=re.compile("A parabola")).click()
    expect(page.get_by_text("Reading the data…")).to_be_visible()
    go(page, server, "#/models")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.method} {request.url.removeprefix(server.url)}"))
    let_go(page, held)

    assert [one for one in asked if "/v1/models" not in one] == []
    expect(page.locator("#announce")).to_have_text("")


def test_a_remedy_that_is_pressed_while_another_is_at_work_stays_to_be_pressed(page: Page, server: Server) -> None:
    rows = "".join(f"{'k.A.' if i == 7 else i},{'??' if i == 9 else 2 * i},{i / 4}\n" for i in range(60))
    go(page, server, "#/train")
    choose(page, "odd.csv", f"age,rooms,price\n{rows}".encode())
    page.get_by_label("Texts that mean a missing value").fill("")
    page.get_by_role("button", name="Use this data").click()
    first, second = (page.get_by_role("button", name=f"Read “{text}” as missing") for text in ("k.A.", "??"))
    expect(second).to_be_visible()
    waiting: list[Route] = []
    page.route(re.compile(r"/v1/datasets$"), lambda route: waiting.append(route), times=1)
    first.click()
    expect(page.locator("[aria-busy=true]")).to_have_count(1)
    second.click()
    let_go(page, waiting)
    expect(first).to_have_count(0)
    second.click()
    expect(second).to_have_count(0)

    columns = page.get_by_role("region", name="Columns").get_by_role("row")
    expect(columns.filter(has_text="age")).to_contain_text("0 to 59")
    expect(columns.filter(has_text="rooms")).to_contain_text("0 to 118")
