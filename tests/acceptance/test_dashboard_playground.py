"""The playground: what is typed, drawn or dropped is what a version is asked, and its calls work as they are shown."""

from __future__ import annotations

import ast
import codecs
import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from service.schemas import examples
from tests.browser import ADAM, LINEAR, PICTURE, csv_file, go, opened, wide_net
from tests.live import Server, run_job, wait_for


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
        job = {**examples.TRAIN, "architecture": net, "dataset": source, "preprocessing": steps, "optimizer": ADAM}
        run_job(client, {**job, "output": {"model": "gaps", "alias_on_success": "champion"}})
        answer = client.post("/predict", json={"model": "gaps", "inputs": [{"length": 30, "width": None}]}).json()
    go(page, server, "#/playground/gaps")
    expect(page.get_by_label("length")).to_have_js_property("required", True)
    page.get_by_label("length").fill("long")
    page.get_by_label("width").fill("k.A.")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator(".answer p")).to_have_text(
        [
            "length needs a number written like 1234.56, not long.",
            "width needs a number written like 1234.56, not k.A.; it may be left empty.",
        ]
    )
    expect(page.get_by_label("length")).to_be_focused()
    expect(page.locator("[aria-invalid=true]")).to_have_count(2)
    page.get_by_label("length").fill("")
    page.keyboard.press("Enter")
    expect(page.locator(".answer p").first).to_have_text("length still needs a number.")
    expect(page.locator(".answer p")).to_have_count(2)
    page.get_by_label("length").fill("30")
    page.get_by_label("width").fill("")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("[data-answer]")).to_be_visible()

    shown = page.locator("[data-answer]").get_attribute("data-answer")
    assert float(shown or "nan") == pytest.approx(answer["outputs"][0][0])
    assert answer["warnings"]
    for warning in answer["warnings"]:
        expect(page.locator(".answer")).to_contain_text(warning["detail"].replace("`", ""))


def test_numbers_are_shown_as_the_file_of_the_training_writes_them(page: Page, server: Server) -> None:
    """Where they begin, in the hints, in the answer and in warnings; and whole ones begin whole."""
    rows = "".join(f"{1960 + i};{i + 1}.{100 + i},25;{i + 1}.{200 + i},75\n" for i in range(60))
    with server.client() as client:
        text = f"Baujahr;Umsatz;Preis\n{rows}".encode()
        upload = client.post("/v1/uploads", content=text, headers={"Content-Type": "text/csv"}).json()
        source = {"type": "csv", "upload": upload["id"], "target": "Preis", "delimiter": ";"}
        source |= {"decimal": ",", "thousands": "."}
        net = {"catalogue": "mlp", "params": {"in_features": 2, "hidden": [8], "num_classes": 1}}
        steps = [{"type": "standardize"}, {"type": "standardize", "of": "target"}]
        job = {**examples.TRAIN, "architecture": net, "dataset": source, "preprocessing": steps, "optimizer": ADAM}
        run_job(client, {**job, "output": {"model": "marked"}})
        asked = {"model": "marked", "inputs": [{"Baujahr": 1990, "Umsatz": 90_000.5}]}
        [[answer]] = client.post("/predict", json=asked).json()["outputs"]
    go(page, server, "#/playground/marked")
    year, turnover = page.get_by_label("Baujahr"), page.get_by_label("Umsatz")
    expect(year).to_have_value("1990")
    expect(year).to_have_accessible_description(re.compile("Seen in training: 1960 to 2019"))
    expect(turnover).to_have_value(re.compile(r"30\.\d{3}(,\d+)?"))
    expect(turnover).to_have_accessible_description(re.compile(r"Seen in training: 1\.100,25 to 60\.159,3"))
    turnover.fill("90.000,5")
    page.get_by_role("button", name="Predict").click()

    written = f"{float(f'{answer:.7g}'):,}".translate(str.maketrans(",.", ".,")).removesuffix(",0")
    expect(page.locator("[data-answer]")).to_have_text(written)
    warning = page.locator(".answer .entries li")
    expect(warning).to_contain_text(re.compile(r"Expected: 1\.100,25 to 60\.159,2\d*\. Here: 90\.000,5\."))
    expect(warning).to_contain_text("row 1, Umsatz")
    expect(warning).not_to_contain_text("/inputs")


def test_mistakes_that_were_not_sent_are_counted_as_not_shown(browser: Browser, server: Server) -> None:
    with server.client() as client:
        net = {
            "schema": "arch/1",
            "inputs": [{"name": "x", "shape": ["B", 3, 5]}],
            "root": LINEAR | {"in_features": 5},
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
        job = {**examples.TRAIN, "architecture": net, "dataset": source, "optimizer": ADAM, "budget": {"epochs": 2}}
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


def test_an_image_that_is_dropped_is_what_is_asked(page: Page, server: Server) -> None:
    with server.client() as client:
        run_job(client, {"kind": "import", "architecture": PICTURE, "output": {"model": "dropped"}})
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


def test_a_refused_prediction_says_which_input_is_missing(browser: Browser, server: Server) -> None:
    with server.client() as client:
        run_job(client, {"kind": "import", "architecture": wide_net(3), "output": {"model": "three"}})
    with opened(browser, server.url, interrupted=True) as page:
        go(page, server, "#/playground/three")
        rows = page.get_by_label("Rows as JSON")
        rows.fill('{"in0": [[0, 0, 0, 0]], "in1": [[0, "many", 0, 0]], "in2": [[0, 0, 0, 0]]}')
        page.get_by_role("button", name="Predict").click()
        page.get_by_role("alert").get_by_role("button", name="/inputs/in1").click()
        selected = rows.evaluate("e => e.value.slice(e.selectionStart, e.selectionEnd)")
        assert "many" in selected
        assert selected != rows.input_value()
        rows.fill('{"in0": [[0, 0, 0, 0]], "in2": [[0, 0, 0, 0]]}')
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
        job = {**examples.TRAIN, "architecture": net, "dataset": source, "preprocessing": steps, "optimizer": ADAM}
        run_job(client, {**job, "budget": {"epochs": 1}, "output": {"model": "tables"}})
    go(page, server, "#/playground/tables")
    asked = json.loads(page.get_by_label("Rows as JSON").input_value())
    page.get_by_role("button", name="Predict").click()

    expect(page.locator("[data-answer]")).to_be_visible()
    assert asked == {"sizes": [{"length": 30, "width": 3}], "looks": [{"colour": "green"}]}


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
        job = {**examples.TRAIN, "architecture": net, "dataset": source, "preprocessing": steps, "optimizer": ADAM}
        run_job(client, {**job, "output": {"model": "mietspiegel"}})
        asked = [{"Fläche": 30.25, "Jahre": None, "Ort": "Süd"}, {"Fläche": 40, "Jahre": 7, "Ort": "Nord"}]
        outputs = client.post("/predict", json={"model": "mietspiegel", "inputs": asked}).json()["outputs"]
    head = "Ort;Notiz;Fläche;Jahre\r\n"
    two = f'{head}Süd;"eins; ""zwei""\r\ndrei";30,25;k.A.\r\n\r\nNord;;40;7'

    def drop(page: Page, content: str, encoding: str = "utf-8") -> None:
        page.get_by_label("Choose a CSV file").set_input_files(csv_file("neu (1).csv", content.encode(encoding)))

    with opened(browser, server.url, interrupted=True) as page:
        go(page, server, "#/playground/mietspiegel")
        page.get_by_text("Many rows from a CSV file").click()
        answers = page.get_by_role("table", name="Answers to the rows of the file")
        for encoding in ("utf-8-sig", "cp1252", "utf-8"):
            drop(page, two, encoding)
            expect(page.get_by_text("2 rows are answered.")).to_be_visible()
            expect(answers.get_by_role("row")).to_have_count(3)
            expect(answers.get_by_role("row").last.get_by_role("cell").first).to_have_text("5")
            with page.expect_download() as saved:
                page.get_by_role("button", name="Save the answers as CSV").click()
            assert saved.value.suggested_filename == "neu (1)-answers.csv"
            whole = Path(saved.value.path()).read_bytes()
            assert whole.startswith(codecs.BOM_UTF8) == (encoding != "utf-8")
            content = whole.decode("utf-8-sig")
            table = list(csv.reader(io.StringIO(content, newline=""), delimiter=";"))
            assert table[0] == ["Ort", "Notiz", "Fläche", "Jahre", "prediction"]
            assert table[1][:4] == ["Süd", 'eins; "zwei"\r\ndrei', "30,25", "k.A."]
            assert "," in table[1][4]
            first, second = answers.locator("tbody strong").all_inner_texts()
            assert len(first.partition(",")[2]) == len(second.partition(",")[2])
            expect(page.get_by_text("Here are the first")).to_have_count(0)
            found = [float(row[4].replace(",", ".")) for row in table[1:]]
            assert found == pytest.approx([one[0] for one in outputs], rel=1e-5)
        command = page.get_by_label("The command").inner_text()
        assert command.startswith("modelyard predict mietspiegel/1 'neu (1).csv'")
        (tmp_path / "neu (1).csv").write_text(two, "utf-8")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        subprocess.run(["sh", "-c", command], check=True, timeout=60, cwd=tmp_path, env={**os.environ, "PATH": path})
        assert (tmp_path / "answers.csv").read_bytes() == whole

        drop(page, f"{head}Süd;;30,25;9999\nNord;;40;k.A.\n")
        expect(page.locator(".answer .where")).to_have_text(["line 2, Jahre", "line 3, Jahre"])
        drop(page, f"a;b;c;{head}1;2;3;Süd;;30,25;7\n")
        expect(page.get_by_text("Here are the first columns only")).to_be_visible()
        drop(page, f"{head}{'Nord;;40;7' + chr(10)}Süd;;viel;7\n")
        expect(page.get_by_role("alert").get_by_role("listitem")).to_contain_text(["line 3, Fläche"])
        expect(answers).to_have_count(0)
        drop(page, f"sep=;\r\n{head}Süd;;30,25;7\n")
        expect(page.get_by_text("1 row is answered.")).to_be_visible()
        expect(answers.get_by_role("row").last.get_by_role("cell").first).to_have_text("3")
        drop(page, "Ort;Jahre\nSüd;7\n")
        expect(page.get_by_role("alert")).to_contain_text("The file has no column Fläche. It has: Ort, Jahre.")
        drop(page, f"{head}Süd;7\n")
        expect(page.get_by_role("alert")).to_contain_text("Line 2 has 2 values, the first line has 4.")
        drop(page, head + "Nord;;40,5;7\n" * 1205)
        expect(page.get_by_text("The first 1,000 rows are answered; the file has more.")).to_be_visible()
        expect(answers.get_by_role("row")).to_have_count(51)
        expect(page.get_by_text("Here are the first rows only")).to_be_visible()
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
            job = {**examples.TRAIN, "architecture": net, "optimizer": ADAM, "preprocessing": [{"type": "one_hot"}]}
            job |= {"dataset": {"type": "csv", "upload": upload, "target": "y"}, "output": {"model": name}}
        else:
            net = PICTURE if kind == "picture" else wide_net(3)
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
    alone = "table" in kind  # a number a row
    assert ast.literal_eval(printed["Python"].decode()) == ([number for [number] in outputs] if alone else outputs)
    assert told == [pytest.approx([value for row in outputs for value in row], rel=1e-5)]
