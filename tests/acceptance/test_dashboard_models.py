"""The pages of jobs, models and imports: a job is watched, versions are compared, promoted and taken back."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import types

import httpx
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from torch import nn

from service.schemas import examples
from tests.browser import LINEAR, PICTURE, curve, go, hide, opened, wide_net
from tests.live import Server, end_worker, run_job, wait_for


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


def test_a_hidden_page_and_a_killed_server_cost_no_point(browser: Browser, server: Server) -> None:
    job = {
        **examples.CLASSIFY,
        "architecture": {"catalogue": "mlp", "params": {"in_features": 2, "hidden": [512, 512], "num_classes": 2}},
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
        expect(chart).to_have_attribute("data-drawn", "true")
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


def test_a_chart_begins_anew_with_an_attempt_that_begins_anew(page: Page, server: Server) -> None:
    job = {**examples.CLASSIFY, "budget": {"epochs": 1_000_000}, "checkpoint": {"every_s": 3600}}
    with server.client() as client:
        job_id = client.post("/v1/jobs", json={**job, "output": {"model": "begun"}}).json()["id"]
        go(page, server, f"#/jobs/{job_id}")
        wait_for(lambda: page.locator("figure[data-drawn]").count() and curve(page)["x"][-1] > 2000, every=0.1)
        end_worker(server.store / "jobs" / job_id / "attempt-1")
        wait_for(lambda: (client.get(f"/v1/jobs/{job_id}").json()["progress"] or {}).get("step", 2000) < 1900)
        wait_for(lambda: curve(page)["x"][-1] < 1900)
        grown = curve(page)
        wait_for(lambda: curve(page)["x"][-1] > grown["x"][-1])
        seen = curve(page)["x"]
        client.post(f"/v1/jobs/{job_id}/cancel")

    assert seen == list(range(1, len(seen) + 1))


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
    told = [float(text) for text in first.all_inner_texts()[2:]]
    assert told == [1000, *(pytest.approx(one, rel=1e-6) for one in answers)]
    go(page, server, "#/models/alike?a=1&b=3")
    expect(predictions).to_contain_text(re.compile("Predictions0 of the first 50 rows of ds_.* are answered otherwise"))

    for a, b in ((1, 2), (2, 1)):  # the rows have what both take
        go(page, server, f"#/models/columns?a={a}&b={b}")
        expect(predictions).to_contain_text("are answered otherwise.")
        heads = page.get_by_role("table", name="Changed predictions").get_by_role("columnheader")
        names = {"Row", "area", "rooms", "Target: rent", f"Version {a}", f"Version {b}"}
        assert set(heads.all_inner_texts()) == names
    for a, b in ((2, 3), (3, 2)):
        go(page, server, f"#/models/columns?a={a}&b={b}")
        expect(predictions).to_contain_text("Only version 2 takes rooms.")
        expect(predictions).to_contain_text("Only version 3 takes floor.")
        expect(predictions).to_contain_text("their predictions cannot be compared")
        expect(page.get_by_role("alert")).to_have_count(0)


def test_beside_changed_predictions_stands_what_is_right(page: Page, server: Server) -> None:
    with server.client() as client:
        rows = "".join(f"{i % 9},{i % 7},{('young', 'old')[i % 2]}\n" for i in range(60))
        headers = {"Content-Type": "text/csv"}
        upload = client.post("/v1/uploads", content=f"a,b,kind\n{rows}".encode(), headers=headers).json()["id"]
        net = {"catalogue": "mlp", "params": {"in_features": 2, "hidden": [4], "num_classes": 2}}
        job = {**examples.CLASSIFY, "architecture": net, "dataset": {"type": "csv", "upload": upload, "target": "kind"}}
        for seed in (1, 2, 3):
            run_job(client, {**job, "seed": seed, "budget": {"epochs": 1}, "output": {"model": "ages"}})
    for a, b in ((1, 2), (1, 3), (2, 3)):
        go(page, server, f"#/models/ages?a={a}&b={b}")
        expect(page.locator(".compare")).to_contain_text("of the first 50 rows of ")
        changed = page.get_by_role("table", name="Changed predictions")
        if changed.count():
            heads = ["Row", "a", "b", "Target: kind", f"Version {a}", f"Version {b}"]
            assert changed.get_by_role("columnheader").all_inner_texts() == heads
            for row in changed.get_by_role("row").all()[1:]:
                number, *_, right, before, after = row.get_by_role("cell").all_inner_texts()
                assert right == ("young", "old")[(int(number) - 1) % 2]
                assert {before, after} == {"young", "old"}
            return
    raise AssertionError("nets of other seeds answer alike")


def test_a_job_of_one_step_has_axes_and_figures_that_make_sense(page: Page, server: Server) -> None:
    """No loss below zero, no half a step, and no best where nothing was worse."""
    with server.client() as client:
        split = {"type": "random", "validation": 0.2, "seed": 1}
        job = {**examples.CLASSIFY, "split": split, "budget": {"epochs": 1}, "output": {"model": "once"}}
        job.pop("batch_size", None)
        found = run_job(client, job)
    assert found["progress"]["step"] == 1
    go(page, server, f"#/jobs/{found['id']}")
    charts = page.locator("[aria-label=Curves] figure[data-drawn]")
    expect(charts).to_have_count(2)
    ranges = page.evaluate(
        """() => [...document.querySelectorAll('[aria-label=Curves] .plot')].map(({ _fullLayout: layout }) =>
               [layout.xaxis.range, layout.xaxis.dtick, layout.yaxis.range[0]])"""
    )
    expect(page.locator(".tile")).not_to_have_count(0)

    assert [(steps, apart) for steps, apart, _ in ranges] == [([0, 2], 1)] * 2
    assert all(low >= 0 for _, _, low in ranges)
    expect(page.get_by_text(re.compile("best .* at step"))).to_have_count(0)


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


def test_of_figures_those_of_held_out_rows_come_first_and_the_actions_are_in_sight(page: Page, server: Server) -> None:
    """In the list of jobs how good the answers are; the letters of all charts are as large; a digest is there whole."""
    with server.client() as client:
        for seed in (1, 2):
            job = {**examples.CLASSIFY, "seed": seed, "optimizer": {"type": "Adam", "lr": 1.0}, "batch_size": 8}
            job |= {"checkpoint": {"publish": "best"}, "budget": {"epochs": 40}, "output": {"model": "held-out-first"}}
            found = run_job(client, job)
        files = client.get("/v1/models/held-out-first/versions/2").json()["files"]
        aliases = "/v1/models/held-out-first/aliases"
        for alias in ("champion", "challenger"):
            client.put(f"{aliases}/{alias}", json={"version": 2}, headers={"If-None-Match": "*"})
    metrics = ["validation loss", "validation accuracy", "loss", "accuracy"]
    table = page.get_by_role("region", name="Versions of held-out-first")
    for width in (1265, 900):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto("about:blank")
        go(page, server, "#/models/held-out-first")
        expect(table.get_by_role("columnheader")).to_contain_text(["Version", "Aliases", *metrics, "Size", "Made"])
        around, action = (one.bounding_box() for one in (table, table.get_by_role("button", name="Promote version 1")))
        assert around
        assert action
        assert action["x"] + action["width"] <= around["x"] + around["width"]
    version = page.get_by_role("region", name="Version 2", exact=True)
    assert version.locator("dt").all_inner_texts()[:4] == metrics
    page.get_by_role("tab", name="Files").click()
    shown = version.get_by_role("table", name="Files of the version").locator("code")
    expect(shown).to_have_text([f"{file['sha256'][:16]}…" for file in files])
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name=f"Copy the SHA-256 of {files[0]['name']}").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == files[0]["sha256"]
    page.get_by_role("tab", name="Figures").click()
    page.get_by_role("tab", name="Confusion matrix").click()
    expect(page.locator("figure[data-drawn]")).to_be_visible()
    letters = (
        "() => { const { colorbar } = document.querySelector('.plot')._fullData[0]; return colorbar.title.font.size }"
    )
    assert page.evaluate(letters) == 12.5

    go(page, server, "#/jobs")
    row = page.get_by_role("row").filter(has_text="held-out-first/2")
    last, best = found["metrics"]["last"], found["metrics"]["best"]
    told = f"validation accuracy {last['val_accuracy']:.4g} · validation loss {last['val_loss']:.4g}"
    expect(row).to_contain_text(told)
    go(page, server, f"#/jobs/{found['id']}")
    expect(page.get_by_text("Of the weights that were published, those of the best epoch.")).to_be_visible()
    expect(page.locator(".tile-label")).to_have_text(metrics)
    assert best["loss"]["value"] < last["loss"]  # at another epoch
    expect(page.locator(".tile-note")).to_have_count(0)


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
    net.fill(json.dumps({**PICTURE, "inputs": [{"name": "x", "shape": ["B", 4]}], "root": LINEAR}))
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


def test_a_wide_net_scrolls_in_its_box_where_it_would_be_too_small(page: Page, server: Server) -> None:
    with server.client() as client:
        run_job(client, {"kind": "import", "architecture": wide_net(10), "output": {"model": "wide"}})
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
    expect(dialog).to_contain_text(
        "Version 2 answers whoever asks back from now on, instead of version 3. It was the champion before version 3 "
        "became it."
    )
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
    with server.client() as client:  # back from 1 to 3; once more is a step further, not to 1
        alias = "/v1/models/back/aliases/champion"
        for version in (3, 1):
            client.put(alias, json={"version": version}, headers={"If-Match": "*"})
        assert client.post(f"{alias}/rollback", json={}).json()["version"] == 3
    go(page, server, "#/")
    go(page, server, "#/models/back")
    page.get_by_role("button", name="Roll back").click()
    expect(dialog).to_contain_text("It was the champion before version 3 became it.")
    dialog.get_by_role("button", name="Roll back to version 2").click()
    expect(page.get_by_text("Version 2 is the champion and answers.")).to_be_visible()


def test_a_champion_that_has_moved_since_is_shown_before_it_moves_again(browser: Browser, server: Server) -> None:
    alias = "/v1/models/elsewhere/aliases/champion"
    with server.client() as client, opened(browser, server.url, interrupted=True) as page:
        for _ in range(3):
            run_job(client, {"kind": "import", "architecture": wide_net(1), "output": {"model": "elsewhere"}})
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


def test_without_plotly_the_tables_still_stand(browser: Browser, server: Server) -> None:
    with server.client() as client:
        job = client.get("/v1/jobs?kind=train&state=succeeded").json()["data"][-1]
    with opened(browser, server.url, interrupted=True) as page:
        page.route("**/plotly-*.js", lambda route: route.abort())
        page.goto(f"{server.url}/ui/#/jobs/{job['id']}")
        table = page.get_by_role("table", name="Loss: loss")
        expect(table).to_be_visible()

        assert table.get_by_role("row").count() == job["progress"]["step"] + 1
