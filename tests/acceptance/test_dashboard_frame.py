"""What all pages have: the keyboard, rules of accessibility, keys, narrow screens, the policy, and the first page."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect
from torch import nn

from service import keys
from service.client import Client
from service.engine import doctor
from service.schemas import examples
from tests.browser import HOSTILE, LINEAR, PICTURE, go, opened, press, tab_to, wide_net, write
from tests.live import Server, run_job, wait_for

WRONG: dict[str, list[Any]] = {
    "inputs": [[0.0, 0.0], [1.0, 1.0]],
    "targets": [HOSTILE, "</script><script>window.hit=1</script>"],
}


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
        net = {**PICTURE, "inputs": [{"name": "x", "shape": ["B", 4]}], "root": LINEAR}
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
                run_job(client, {"kind": "import", "architecture": wide_net(1), "output": {"model": "moved"}})

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
        run_job(client, {"kind": "import", "architecture": PICTURE, "output": {"model": "drawn"}})
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


@contextmanager
def guarded(folder: Path, *scopes: keys.Scope) -> Iterator[tuple[Server, list[str]]]:
    """A server that asks for keys, and a key of each scope; it must end well."""
    file = folder / "keys.toml"
    made = [keys.make(scope.word, scope, now=datetime.now(UTC)) for scope in scopes]
    keys.write(file, keys.Keys(keys=tuple(stored for _, stored in made)))
    server = Server(folder / "store", api_keys_file=str(file)).start()
    try:
        yield server, [key for key, _ in made]
    finally:
        assert server.stop() == 0


def test_a_key_is_asked_for_once_and_stays_in_the_tab(browser: Browser, tmp_path: Path) -> None:
    with (
        guarded(tmp_path, keys.Scope.PUBLISH) as (server, [key]),
        opened(browser, server.url, interrupted=True) as page,
    ):
        page.goto(f"{server.url}/ui/")
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


def test_a_key_of_too_small_a_scope_is_told_which_one_is_needed(browser: Browser, tmp_path: Path) -> None:
    """Once and plainly: the stream of events is not asked for again and again."""
    with (
        guarded(tmp_path, keys.Scope.PREDICT, keys.Scope.READ) as (server, [small, large]),
        opened(browser, server.url, interrupted=True) as page,
    ):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{server.url}/ui/#/jobs")
        page.get_by_role("textbox", name="API key").fill(small)
        page.get_by_role("button", name="Use this key").click()
        expect(page.get_by_role("alert")).to_contain_text("This key may not do that")
        expect(page.get_by_role("alert")).to_contain_text("Use a key of the scope read.")
        expect(page.locator("#connection")).to_have_text("This key sees no events")
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


def test_a_key_that_may_only_predict_asks_by_name(browser: Browser, tmp_path: Path) -> None:
    german = tmp_path / "homes.csv"
    german.write_text("area;town;rent\n" + "".join(f"{30 + n},5;{('Ulm', 'Bonn')[n % 2]};{9 * n}\n" for n in range(60)))
    with guarded(tmp_path, keys.Scope.PREDICT, keys.Scope.PUBLISH) as (server, [small, large]):
        with server.client() as client:
            client.headers["Authorization"] = f"Bearer {large}"
            run_job(client, examples.TRAIN)
            outputs = client.post("/predict", json={"model": "quadratic", "inputs": [[0.25]]}).json()["outputs"]
        with Client(server.url, api_key=large) as client:
            client.jobs.wait(client.train("homes", german, target="rent", epochs=2, decimal=","))
            ((rent,),) = client.predict("homes", [{"area": 70.5, "town": "Ulm"}]).outputs
        with opened(browser, server.url, interrupted=True) as page:
            page.goto(f"{server.url}/ui/#/models")
            page.get_by_role("textbox", name="API key").fill(small)
            page.get_by_role("button", name="Use this key").click()
            page.locator("main").get_by_role("link", name="playground").click()
            expect(page.get_by_text("It lacks the scope read")).to_be_visible()
            page.get_by_role("button", name="Show what it takes").click()
            expect(page.get_by_role("alert")).to_contain_text("Type the name of the model.")
            page.get_by_role("textbox", name="Model").fill("quadratic")
            for which in ("", "1", "champion", "@champion"):
                page.get_by_label("Version or alias").fill(which)
                page.get_by_role("button", name="Show what it takes").click()
                page.get_by_label("x", exact=True).fill("0.25")
                page.get_by_role("button", name="Predict").click()
                expect(page.locator("[data-answer]")).to_be_visible()
                shown = page.locator("[data-answer]").get_attribute("data-answer")
                assert float(shown or "nan") == pytest.approx(outputs[0][0])
            expect(page.get_by_label("The call for curl")).to_contain_text('"model":"quadratic@champion"')
            found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
            assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
            page.get_by_role("textbox", name="Model").fill("homes")
            page.get_by_label("Version or alias").fill("")
            page.get_by_label("Version or alias").press("Enter")
            expect(page.get_by_label("area")).to_have_value("")
            page.get_by_role("button", name="Predict").click()
            expect(page.locator(".answer")).to_contain_text("area still needs a number.")
            expect(page.get_by_label("area")).to_be_focused()
            model, version = (page.get_by_role("textbox", name=one).bounding_box() for one in ("Model", "Version"))
            assert model
            assert version
            assert model["y"] == version["y"]
            page.get_by_label("area").fill("70,5")
            page.get_by_label("town").select_option("Ulm")
            page.get_by_role("button", name="Predict").click()
            shown = page.locator("[data-answer]").get_attribute("data-answer")
            assert float(shown or "nan") == pytest.approx(rent)
            expect(page.locator("[data-answer]")).to_have_text(f"{rent:.7g}".replace(".", ","))
            page.get_by_role("textbox", name="Model").fill("nix")
            page.get_by_role("button", name="Show what it takes").click()
            expect(page.get_by_role("alert")).to_contain_text("nix")
            expect(page.locator("[data-answer]")).to_have_count(0)


def test_where_the_page_is_narrow_nothing_reaches_out_of_it(page: Page, server: Server) -> None:
    """The rows of lists are blocks there, with their actions in sight; what is wider scrolls in its box."""
    with server.client() as client:
        job = client.get("/v1/jobs?kind=train&state=succeeded").json()["data"][0]
    page.set_viewport_size({"width": 390, "height": 900})
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
    page.set_viewport_size({"width": 320, "height": 900})
    expect(page.get_by_role("navigation").get_by_role("link", name="Import")).to_be_in_viewport(ratio=1)


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


def test_the_page_writes_numbers_in_one_way(page: Page, server: Server) -> None:
    """Counts with marks between thousands; those of a file as the command does; those of a column below each other."""
    go(page, server, "#/")
    values = [3.4942568e-06, 0.5, 1.0, -2.5e-05, 0.0001, 1e22, 123456.75, 0.0, 1e16]
    counts, shares, columns, cells = page.evaluate(
        """async values => {
             const at = name => document.querySelector('script[src$="app.js"]').src.replace('app.js', name);
             const { count, percent, answeredColumn } = await import(at('format.js'));
             const { written } = await import(at('csv.js'));
             const german = { decimal: ',', thousands: '.' };
             return [[4865, 28095, null].map(count), [0.99992, 1, 0.0004, 0, 0.5].map(one => percent(one)),
               [[[374.8675, 1854.696], german], [[374.8675, 1854.696], {}], [[2, 10500], german], [[0.5, 0.25], {}],
                [[1e-9, 100], {}], [[0, 0], {}], [['a', 'b'], german]].map(one => answeredColumn(...one)),
               written([values], ' ', '.')];
           }""",
        values,
    )

    assert counts == ["4,865", "28,095", "–"]
    assert shares == ["> 99.9 %", "100.0 %", "< 0.1 %", "0.0 %", "50.0 %"]
    assert columns[:4] == [["374,868", "1.854,696"], ["374.868", "1854.696"], ["2", "10.500"], ["0.50", "0.25"]]
    assert columns[4:] == [["1e-9", "100"], ["0", "0"], ["a", "b"]]
    assert cells.split() == [repr(value) for value in values]


def test_a_page_is_loaded_when_it_is_first_shown(page: Page, server: Server) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    go(page, server, "#/")
    assert "start.js" in asked
    assert not {"train.js", "models.js", "playground.js", "imports.js", "jobs.js"}.intersection(asked)
    for _ in range(2):
        for name, module in (("Train", "train.js"), ("Models", "models.js")):
            page.get_by_role("navigation").get_by_role("link", name=name).click()
            expect(page.get_by_role("heading", name=name, exact=True)).to_be_focused()
            assert asked.count(module) == 1


def test_a_page_of_another_release_of_the_server_is_loaded_anew_once(browser: Browser, server: Server) -> None:
    with opened(browser, server.url, interrupted=True) as page:
        refused: list[str] = []

        def once(route: Route) -> None:
            if refused:
                route.continue_()
            else:
                refused.append(route.request.url)
                route.fulfill(status=404)

        loads: list[str] = []
        page.on("load", lambda _: loads.append(page.url))
        page.route("**/train.js", once)
        go(page, server, "#/")
        page.get_by_role("navigation").get_by_role("link", name="Train").click()
        expect(page.locator("main")).to_have_attribute("data-ready", "#/train")
        expect(page.get_by_role("heading", name="Train", exact=True)).to_be_visible()

        assert len(refused) == 1
        assert [url.rpartition("#")[2] for url in loads] == ["/", "/train"]


def test_a_page_that_cannot_be_loaded_says_so_and_is_tried_again_at_a_press(browser: Browser, server: Server) -> None:
    with opened(browser, server.url, interrupted=True) as page:
        loads: list[str] = []
        page.on("load", lambda _: loads.append(page.url))
        page.route("**/net.js", lambda route: route.abort())  # which the page of this name imports
        page.goto(f"{server.url}/ui/#/train")
        alert = page.get_by_role("alert")
        again = page.get_by_role("button", name="Try again")
        for times in (2, 3):  # loaded, and anew by itself; and at a press
            expect(again).to_be_visible()
            expect(alert).to_contain_text("A part of this page could not be loaded from the server.")
            page.wait_for_timeout(1000)  # longer than it takes to load it once more
            assert len(loads) == times
            assert page.evaluate("performance.getEntriesByName('usable').length") == 0
            if times == 2:
                with page.expect_event("load"):
                    again.click()
        page.unroute("**/net.js")
        again.click()
        expect(page.get_by_role("tab", name="Upload a file")).to_be_visible()
        expect(alert).to_have_count(0)

        go(page, server, "#/models")
        before = len(loads)
        page.context.set_offline(True)
        page.get_by_role("navigation").get_by_role("link", name="Import").click()
        expect(alert).to_contain_text("The server cannot be reached.")
        page.context.set_offline(False)
        again.click()
        expect(page.get_by_role("heading", name="Import", exact=False)).to_be_visible()
        assert len(loads) <= before + 1


def test_a_page_that_comes_when_another_is_shown_is_not_drawn(page: Page, server: Server) -> None:
    held: list[Route] = []
    page.route("**/train.js", lambda route: held.append(route))
    go(page, server, "#/")
    page.get_by_role("navigation").get_by_role("link", name="Train").click()
    wait_for(lambda: page.title() and held)
    page.get_by_role("navigation").get_by_role("link", name="Jobs").click()
    expect(page.locator("main")).to_have_attribute("data-ready", "#/jobs")
    with page.expect_event("requestfinished", lambda request: request.url.endswith("/upload.js")):
        held[0].continue_()
    page.wait_for_timeout(300)  # it would be drawn by now

    expect(page.locator("main")).to_have_attribute("data-ready", "#/jobs")
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
    assert page.title() == "Jobs · Modelyard"


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
    view = sum(size for name, size, _ in figures["resources"] if "/ui/" in name and "plotly" not in name)
    charts = sum(size for name, size, _ in figures["resources"] if "plotly" in name)
    with server.client() as client:
        everything = sum(int(client.get(path).headers["Content-Length"]) for path in _files(client))
    own, whole, plotly = (f"{size / 1000:.0f} kB" for size in (view, everything, charts))
    measured(
        f"Dashboard: {own} of its own for one view, {whole} for all, and {plotly} of plotly.js over the wire; "
        f"usable after {figures['usable'] / 1000:.2f} s, charts after {figures['drawn'] / 1000:.2f} s"
    )

    assert view < 80_000
    assert 500_000 < charts < 2_500_000
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
        linked = re.findall(r'(?:href|src|content)="(/ui/[^"]+)"', page.text)
        names = {path.rpartition("/")[2] for path in linked}
        assert names >= {"app.js", "api.js", "dom.js", "parts.js", "style.css", "mark.svg"}
        assert not names & {"start.js", "train.js", "jobs.js"}  # they come when they are shown
        for path in {*linked, *_files(client)}:
            asset = client.get(path)
            assert asset.status_code == 200, path
            assert "immutable" in asset.headers["Cache-Control"]
            assert asset.headers["Content-Encoding"] == "gzip"
            assert client.get(path, headers={"Accept-Encoding": "identity"}).content == asset.content
        for path in ("/ui/plotly-0.js", "/ui/0/app.js", "/ui/..%2fapp.py", "/ui/0/..%2f..%2fapp.py"):
            assert client.get(path).status_code == 404, path


def _files(client: httpx.Client) -> list[str]:
    """The addresses of all files of the page but plotly.js."""
    [folder] = re.findall(r'src="(/ui/[^"]+)/app.js"', client.get("/ui/").text)
    folders = resources.files("service").joinpath("dashboard", "static")
    return [f"{folder}/{file.name}" for file in folders.iterdir() if file.name != "index.html"]
