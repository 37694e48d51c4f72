"""The command: what it refuses to start, how it says so, and that it stays light."""

from __future__ import annotations

import csv
import inspect
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import httpx
import pytest
import sklearn.datasets
import yaml
from jsonschema import Draft202012Validator
from typer.testing import CliRunner, Result

from service import __version__, keys
from service.cli import app, training
from service.cli.session import exit_code
from service.client import Client, recipes
from service.errors import Draining, Entry, Forbidden, Overloaded, Unauthenticated
from service.schemas import engines, examples, versions
from tests.live import Server, run_job, wait_for


def modelyard(*arguments: str, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments],
        env=environment(folder, **settings),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """As in a container: nothing is inherited but the path."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MODELYARD_STORE": str(folder / "store"),
        **{f"MODELYARD_{name.upper()}": value for name, value in settings.items()},
    }


def test_a_public_address_is_refused_unless_the_operator_says_otherwise(tmp_path: Path) -> None:
    done = modelyard("serve", folder=tmp_path, host="0.0.0.0")  # noqa: S104  refused, which is the point

    assert done.returncode == 2
    assert "Refused to listen on 0.0.0.0" in done.stderr
    assert "MODELYARD_ALLOW_ANONYMOUS=1" in done.stderr
    assert not (tmp_path / "store").exists()


def test_a_port_that_is_in_use_is_told_in_a_sentence_before_anything_is_started(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = modelyard("serve", folder=tmp_path, port=str(port))

    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == (
        f"Port {port} of 127.0.0.1 is in use: another server listens there. Stop that one, or choose another port with "
        "--port; --port 0 takes a free one.\n"
    )
    assert not (tmp_path / "store").exists()


def test_the_settings_of_the_image_start_a_server_and_sigterm_ends_it_with_0(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"host": "0.0.0.0", "port": str(port), "allow_anonymous": "1", "drain_delay_s": "1"}  # noqa: S104
    server = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve"],
        env=environment(tmp_path, **settings),
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )

    def ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_for(ready, timeout=60)
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)

        assert server.wait(30) == 0
        assert time.monotonic() - began >= 1  # the delay in which a balancer takes the server out
    finally:
        server.kill()
        server.wait()


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    done = modelyard("serve", folder=tmp_path, job_slots="many")

    assert done.returncode == 2
    assert "MODELYARD_JOB_SLOTS" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_told(tmp_path: Path) -> None:
    done = modelyard("--version", folder=tmp_path)

    assert (done.returncode, done.stdout.strip()) == (0, f"modelyard {__version__}")


def test_the_command_imports_no_torch_until_it_serves(tmp_path: Path) -> None:
    script = "import sys, service.cli; print('torch' in sys.modules, 'fastapi' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(tmp_path), capture_output=True, text=True, timeout=60
    )

    assert done.stdout.split() == ["False", "False"]


HEAVY = ("torch", "fastapi", "starlette", "sqlalchemy", "httpx", "numpy", "pandas", "yaml", "service.schemas.document")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["predict", "-h"], ["keys", "--help"], ["jobs", "-h"], ["-h"], ["--version"]],
    ids=" ".join,
)
def test_help_loads_nothing_that_it_does_not_show(arguments: list[str], tmp_path: Path) -> None:
    script = (
        f"import sys; sys.argv = ['modelyard', *{arguments}]; from service.cli import main\n"
        f"try: main()\nexcept SystemExit: pass\n"
        f"print('loaded', *[name for name in {HEAVY} if name in sys.modules], len(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(tmp_path), capture_output=True, text=True, timeout=60
    )
    *found, count = done.stderr.split()

    assert found == ["loaded"]
    assert int(count) < 600  # 0.2 to 0.3 s on one core
    assert done.stdout


def test_the_alias_that_train_moves_by_default_is_the_one_that_predict_asks() -> None:
    assert training.DEFAULT_ALIAS == versions.DEFAULT_ALIAS


def test_the_client_calls_the_options_of_train_as_the_command_does_but_for_those_in_the_guide() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "guide" / "client.md").read_text()
    [table] = re.findall(r"\| `modelyard train` \| `client.train` \|\n\| --- \| --- \|\n((?:\|.*\n)+)", page)
    otherwise = {name.replace("-", "_") for name in re.findall(r"--([a-z-]+)", table)}
    options = set(inspect.signature(training.train, eval_str=True).parameters)
    arguments = set(inspect.signature(Client.train).parameters) - {"self"}
    of_the_command = {"file", "context", "url", "api_key", "output"}

    assert options - arguments - of_the_command == {"arch", "missing_text", "dry_run", "wait"}
    assert options - arguments - of_the_command <= otherwise
    assert arguments - options == {"architecture", "missing_texts", "shape"}


def test_the_help_of_train_tells_the_rules_that_the_client_has() -> None:
    ours = (training.LEARNING_RATE, training.EPOCHS, training.MINUTES)

    assert ours == (recipes.LEARNING_RATE, recipes.EPOCHS, recipes.MINUTES)


IRIS = Path(sklearn.datasets.__file__).parent / "data" / "iris.csv"
SPECIES = ("setosa", "versicolor", "virginica")
HEADS = ("sepal_length", "sepal_width", "petal_length", "petal_width")


class Command:
    """The command in this process, against one server."""

    def __init__(self, server: Server, document: dict[str, Any]) -> None:
        self._server = server
        self._document = document
        self.url = server.url

    def __call__(
        self, *arguments: object, code: int = 0, stdin: str | None = None, url: str | None = None, key: str = ""
    ) -> Result:
        settings = {"MODELYARD_URL": url or self._server.url, **({"MODELYARD_API_KEY": key} if key else {})}
        done = CliRunner().invoke(app, [str(one) for one in arguments], input=stdin, env=settings)
        assert done.exit_code == code, f"{arguments}: {done.exit_code}\n{done.output}\n{done.exception!r}"
        return done

    def json(self, *arguments: object, operation: str, status: str = "200", stdin: str | None = None) -> Any:
        """The answer with -o json, which is that of the operation by the OpenAPI document."""
        found = json.loads(self(*arguments, "-o", "json", stdin=stdin).stdout)
        method, path = operation.split()
        responses = self._document["paths"][path][method.lower()]["responses"]
        schema = responses[status]["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": self._document["components"]}).validate(found)
        return found


@pytest.fixture(scope="module")
def run(shared_server: Server) -> Command:
    with shared_server.client() as client:
        return Command(shared_server, client.get("/openapi.json").json())


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table as people have it: names in the first line, a text to be learnt, a category, a gap."""
    path = tmp_path_factory.mktemp("data") / "flowers.csv"
    lines = IRIS.read_text().splitlines()[1:]
    rows = [line.split(",") for line in lines]
    told = [[*row[:4], ("north", "south")[place % 2], SPECIES[int(row[4])]] for place, row in enumerate(rows)]
    told[3][1] = ""
    path.write_text("\n".join(",".join(row) for row in [[*HEADS, "garden", "species"], *told]) + "\n")
    return path


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of numbers, most of whose prices is in the area, and of a category."""
    path = tmp_path_factory.mktemp("data") / "homes.csv"
    rows = [(30 + 37 * place % 151, 1 + place % 4, "ns"[place % 2]) for place in range(80)]
    lines = [f"{area},{rooms},{site},{1000 * area + 100 * rooms}" for area, rooms, site in rows]
    path.write_text("\n".join(["area_m2,rooms,site,price", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def flower_job(run: Command, flowers: Path) -> dict[str, Any]:
    """The job that made flowers/1: the command's own rules."""
    done = run.json(
        *("train", flowers, "--target", "species", "--model", "flowers", "--wait"), operation="GET /v1/jobs/{job_id}"
    )
    assert isinstance(done, dict)
    return done


KNOWN = ("class", *SPECIES)


def ready_datasets(run: Command) -> set[str]:
    """Those that can be used: neither refused nor deleted."""
    found = run.json("datasets", "list", "--limit", 200, operation="GET /v1/datasets")["data"]
    return {one["id"] for one in found if one["state"] == "ready"}


def there(run: Command) -> tuple[list[str], list[str]]:
    """All datasets, the refused ones too, and all uploads."""
    datasets = run.json("datasets", "list", "--limit", 200, operation="GET /v1/datasets")["data"]
    with Client(run.url) as client:
        return [one["id"] for one in datasets], [one.id for one in client.uploads.list(limit=200).data]


class TestFromDataToPredictions:
    def test_a_table_becomes_a_classifier_by_documented_rules(self, run: Command, flower_job: dict[str, Any]) -> None:
        spec = flower_job["spec"]

        assert flower_job["output"] == {"model": "flowers", "version": 1, "alias": "champion"}
        assert spec["architecture"] == {
            "catalogue": "mlp",
            "params": {"in_features": "auto", "hidden": [64, 64], "num_classes": "auto"},
        }
        shapes = [layer.get("in_features") for layer in flower_job["resolved_spec"]["architecture"]["root"]["layers"]]
        assert (shapes[0], flower_job["resolved_spec"]["architecture"]["root"]["layers"][-1]["out_features"]) == (6, 3)
        assert [step["type"] for step in spec["preprocessing"]] == ["impute", "standardize", "one_hot"]
        assert spec["split"] == {"type": "stratified", "validation": 0.2}
        assert flower_job["metrics"]["last"]["val_accuracy"] > 0.85

    def test_a_file_of_new_rows_gets_its_predictions(self, run: Command, flowers: Path, flower_job: Any) -> None:
        found = run("predict", "flowers", flowers, "-o", "csv")
        rows = list(csv.DictReader(io.StringIO(found.stdout)))

        assert len(rows) == 150
        assert sum(row["species"] == row["prediction"] for row in rows) > 130
        assert float(rows[0]["p(setosa)"]) > 0.5

    def test_predictions_come_in_every_form(self, run: Command, flowers: Path, flower_job: Any, tmp_path: Path) -> None:
        head = "\n".join(flowers.read_text().splitlines()[:3]) + "\n"
        answer = run.json("predict", "flowers@champion", "-", stdin=head, operation="POST /predict")
        lines = run("predict", "flowers/1", "-", "-o", "jsonl", stdin=head).stdout.splitlines()
        (tmp_path / "rows.json").write_text(json.dumps({"inputs": [[5.1, 3.5, 1.4, 0.2, "north"]]}))
        table = run("predict", "flowers", tmp_path / "rows.json")

        assert answer["labels"] == [json.loads(line)["prediction"] for line in lines] == ["setosa", "setosa"]
        assert "setosa" in table.stdout
        assert "By flowers/1." in table.stderr
        for more, told in ((",7", "1 more column of the file is not"), (",7,8", "2 more columns of the file are not")):
            wide = "\n".join(line + more for line in head.splitlines())
            assert told in run("predict", "flowers", "-", stdin=wide).stderr

    def test_a_file_longer_than_one_request_is_asked_in_pieces(self, run: Command, flower_job: Any) -> None:
        row = "5.1,3.5,1.4,0.2,west"
        text = "\n".join([",".join([*HEADS, "garden"]), *[row] * 2500])
        answer = run.json("predict", "flowers", "-", stdin=text, operation="POST /predict")

        gaps = "\n".join([",".join([*HEADS, "garden"]), row, *["5.1,,1.4,0.2,north"] * 1500])
        told = run("predict", "flowers", "-", "-o", "csv", stdin=gaps).stderr.splitlines()

        assert told[0].startswith("Line 2 ('west'): ")
        assert [line.partition(";")[0] for line in told[1:]] == [
            "Line 3: Column 'sepal_width' has no value in 1500 rows, of which this is the first"
        ]
        assert len(answer["labels"]) == len(answer["outputs"]) == 2500
        assert any(warning["pointer"].startswith("/inputs/1000/") for warning in answer["warnings"])

    def test_nets_of_several_inputs_and_outputs_are_asked_in_pieces_too(self, run: Command, tmp_path: Path) -> None:
        layers = [
            {"name": "a", "type": "Linear", "in_features": 2, "out_features": 1},
            {"name": "b", "type": "Linear", "in_features": 1, "out_features": 3},
        ]
        net = {
            "schema": "arch/1",
            "inputs": [{"name": "left", "shape": ["B", 2]}, {"name": "right", "shape": ["B", 1]}],
            "root": {"type": "Graph", "class_name": "Net", "layers": layers, "forward": ["return a(left), b(right)"]},
        }
        weights = {"a.weight": [[1, 2]], "a.bias": [0], "b.weight": [[1], [2], [3]], "b.bias": [0, 0, 0]}
        request = {"kind": "import", "architecture": net, "state_dict": weights, "output": {"model": "pairs"}}
        (tmp_path / "pairs.json").write_text(json.dumps(request))
        run("train", tmp_path / "pairs.json", "--wait")
        rows = {"left": [[place, 1] for place in range(5000)], "right": [[place] for place in range(5000)]}
        (tmp_path / "rows.json").write_text(json.dumps({"inputs": rows}))
        answer = run.json("predict", "pairs/1", tmp_path / "rows.json", operation="POST /predict")
        lines = run("predict", "pairs/1", tmp_path / "rows.json", "-o", "jsonl").stdout.splitlines()

        first, second = answer["outputs"].values()
        assert first == [[place + 2] for place in range(5000)]
        assert second == [[place, 2 * place, 3 * place] for place in range(5000)]
        assert [tuple(json.loads(line).values()) for line in lines] == list(zip(first, second, strict=True))
        rows["right"][4321] = ["x"]  # type: ignore[list-item]
        (tmp_path / "rows.json").write_text(json.dumps({"inputs": rows}))
        refused = run("predict", "pairs/1", tmp_path / "rows.json", code=7).stderr
        assert "Row 4322 ('x'), input 'right'" in refused

    def test_numbers_of_rows_are_not_learnt_and_the_way_to_the_new_version_is_told(
        self, run: Command, tmp_path: Path
    ) -> None:
        path = tmp_path / "numbered.csv"
        path.write_text("customer_id,x,y\n" + "".join(f"{place},{place / 50},{place / 25}\n" for place in range(60)))
        done = run("train", path, *("--target", "y", "--model", "numbered", "--epochs", 5, "--alias", "", "--wait"))

        assert "Left out: customer_id (numbers the rows). To learn from customer_id too, pass --inc" in done.output
        assert "Learns y as a number, from x (numbers)." in done.output
        assert "Ask it with: modelyard predict numbered/1 FILE.csv" in done.output

    def test_a_name_that_ends_in_a_point_gets_no_second_one(self, run: Command, tmp_path: Path) -> None:
        path = tmp_path / "points.csv"
        path.write_text("Prüf-Nr.;Größe ca.;Preis\n" + "".join(f"{n};{n / 50};{n / 25}\n" for n in range(60)))
        done = run("train", path, *("--target", "Preis", "--model", "points", "--epochs", 2, "--alias", "", "--wait"))
        (tmp_path / "new.csv").write_text("Größe\n1\n")
        refused = run("predict", "points/1", tmp_path / "new.csv", code=7)

        assert "Left out: Prüf-Nr. (numbers the rows). To learn from Prüf-Nr. too, pass --include 'Pr" in done.output
        assert "Learns Preis as a number, from Größe ca. (numbers).\n" in done.output
        assert "points/1 takes: Größe ca.\n" in refused.stderr
        assert ".." not in done.stderr + refused.stderr

    def test_columns_are_left_out_at_a_wish(self, run: Command, flowers: Path) -> None:
        common = ("train", flowers, "--target", "species", "--model", "narrow", "--epochs", 2, "--alias", "")
        before = ready_datasets(run)
        job = run.json(*common, "--exclude", "sepal_length,petal_width", "--wait", operation="GET /v1/jobs/{job_id}")
        refused = run(*common, "--exclude", "stem,garden", code=7)
        named = run(*common, "--inputs", "petal_length, garden", "--inputs", "petal_width", "--dry-run").stderr
        left = run(*common, "--exclude", "sepal_length", "--exclude", "petal_width,garden", "--dry-run").stderr
        near = run(*common, "--exclude", "petal_widht,gardn", code=7)

        assert "Learns species as one of 3 classes, from petal_length, petal_width (numbers) and garden (te" in named
        assert "Learns species as one of 3 classes, from sepal_width, petal_length (numbers)." in left
        known = "'sepal_length', 'sepal_width', 'petal_length', 'petal_width', 'garden'"
        assert refused.stderr == f"--exclude names no input: 'stem'. Inputs: {known}.\n"
        assert near.stderr == (
            "--exclude names no input: 'petal_widht', 'gardn'. Did you mean 'petal_width'? Did you mean 'garden'?\n"
        )
        assert ready_datasets(run) - before == {job["dataset"]["id"]}  # nothing else is left behind
        shown = json.loads(run("models", "show", "narrow/1", "-o", "json").stdout)
        assert not {"sepal_length", "petal_width"} & set(shown["signature"]["columns"])
        assert "petal_length" in shown["signature"]["columns"]

    def test_numbers_are_learnt_as_numbers(self, run: Command, tmp_path: Path) -> None:
        path = tmp_path / "line.csv"
        path.write_text("x;y\n" + "".join(f"{x / 50};{3 * x / 50 + 1}\n" for x in range(100)))
        job = run.json(
            *("train", "--data", path, "--target", "y", "--model", "line", "--epochs", 30, "--wait"),
            operation="GET /v1/jobs/{job_id}",
        )

        assert job["spec"]["objective"] == {"type": "mse"}
        assert job["spec"]["preprocessing"][-1] == {"type": "standardize", "of": "target"}
        assert job["metrics"]["last"]["val_r2"] > 0.5

    def test_decimal_commas_are_found_told_and_read(self, run: Command, tmp_path: Path) -> None:
        path = tmp_path / "rents.csv"
        rows = "".join(f"{x / 50:.2f};{('Ulm', 'Bonn')[x % 2]};{3 * x / 50 + 1:.2f}\n" for x in range(100))
        path.write_text(f"area;town;rent\n{rows}".replace(".", ","))
        common = ("--target", "rent", "--epochs", 30, "--alias", "")
        done = run("train", path, *common, "--model", "rents", "--wait")
        shown = json.loads(run("models", "show", "rents/1", "-o", "json").stdout)
        asked = run("predict", "rents/1", path, "-o", "csv").stdout
        as_texts = run("datasets", "add", path, "--target", "rent", "--decimal", "point").stderr
        whole = run("predict", "rents/1", "-", "-o", "csv", stdin="area;town\n1;Ulm\n").stdout.splitlines()
        pointed = run("predict", "rents/1", "-", "-o", "csv", stdin="area;town\n1.5;Ulm\n").stdout.splitlines()

        assert re.fullmatch(r"1;Ulm;[0-9]+,[0-9]+", whole[1])  # as the training's file had it, where none is shown
        assert re.fullmatch(r"1.5;Ulm;[0-9]+\.[0-9]+", pointed[1])
        assert "rents.csv has numbers with a decimal comma, such as 0,00." in done.stderr
        assert (shown["signature"]["columns"], shown["classes"]) == (["area", "town"], None)
        assert shown["metrics"]["val_r2"] > 0.5
        written = list(csv.DictReader(io.StringIO(asked), delimiter=";"))
        assert [*written[1]] == ["area", "town", "rent", "prediction"]
        assert written[1]["area"] == "0,02"
        for_excel = run("predict", "rents/1", path, "-o", "csv", "--bom").stdout
        assert for_excel == "\ufeff" + asked
        assert run("predict", "rents/1", path, "--bom", code=2).stderr == "--bom is for -o csv.\n"
        assert abs(float(written[-1]["prediction"].replace(",", ".")) - 6.94) < 3
        assert "Are these numbers with a decimal comma?" in as_texts
        assert (
            "--decimal is one of point, comma."
            in run("train", path, *common, *("--model", "rents", "--decimal", "x"), code=2).stderr
        )

    def test_marks_between_thousands_are_found_told_and_read(self, run: Command, tmp_path: Path) -> None:
        path, new = tmp_path / "prices.csv", tmp_path / "new.csv"
        lines = [f"{n // 9 + 1}.{37 * n % 1000:03d};{n % 4 + 1}.{111 * n % 1000:03d},50" for n in range(60)]
        path.write_text("\n".join(["size;price", *lines]) + "\n")
        new.write_text("size\n8.553\n")
        wide = tmp_path / "wide.csv"
        wide.write_text("size;note\n8.553;a\n")
        common = ("train", path, "--target", "price", "--model", "grouped", "--epochs", 1, "--alias", "")
        done = run(*common, "--wait")
        refused = run(*common, "--thousands", "none", code=7).stderr
        source = json.loads(run("train", path, *common[2:], "--dry-run").stdout)["dataset"]
        asked = run("predict", "grouped/1", path, "-o", "csv")
        as_trained = json.loads(run("predict", "grouped/1", wide, "-o", "jsonl").stdout)["prediction"]
        told = json.loads(run("predict", "grouped/1", "--inputs", "[[8553]]", "-o", "jsonl").stdout)["prediction"]
        none = run("predict", "grouped/1", wide, "--decimal", "comma", "--thousands", "none", code=7).stderr

        assert (
            "prices.csv has numbers with points between thousands and a decimal comma, such as 1.000,50. If that is "
            "wrong: --thousands none.\n"
        ) in done.stderr
        assert {name: source[name] for name in ("delimiter", "decimal", "thousands")} == {
            **{"delimiter": ";", "decimal": ",", "thousands": "."}
        }
        assert "column 'price': 0 of 60 values are numbers; line 2 has '1.000,50'" in refused
        assert "Pass --thousands point. Else mend the file;" in refused
        assert asked.stdout.splitlines()[1].startswith("1.000;1.000,50;")
        assert as_trained == told  # 8.553 alone may be either: it is what the training's file had
        with Client(run.url) as client:
            used = json.loads(run("models", "show", "grouped/1", "-o", "json").stdout)["lineage"]["dataset"]["id"]
            client.datasets.delete(used)
        assert run("predict", "grouped/1", wide, code=7).stderr == (
            "The data that it was trained on are not known any more.\n"
            "If 8.553 is a number, say how it is written: --decimal point, or --decimal comma --thousands point.\n"
        )
        assert (
            "If 8.553 is a number, say how it is written: --decimal point, or --decimal comma --thousands point."
            in (none)
        )
        assert run(*common, "--thousands", "semicolon", code=2).stderr == (
            "--thousands is one of point, comma, apostrophe, space, none.\n"
        )
        assert (
            "--thousands: '.' cannot be the decimal mark and stand between thousands too. Pass --decimal comma if"
            in (run(*common, "--decimal", "point", "--thousands", "point", code=7).stderr)
        )

    def test_numbers_with_units_are_no_classes(self, run: Command, tmp_path: Path) -> None:
        path = tmp_path / "prices.csv"
        path.write_text("size;price\n" + "".join(f"{n};{n // 3 + 1}.{n:03d},50 €\n" for n in range(60)))
        common = ("train", path, "--target", "price", "--model", "prices", "--epochs", 1, "--alias", "")

        assert run(*common, code=7).stderr == (
            "column 'price': 0 of 60 values are numbers; line 2 has '1.000,50 €', others have '1.001,50 €', "
            "'1.002,50 €', '2.003,50 €' and 56 more. Write plain numbers: no marks between thousands, no units. Mend "
            "the file; or pass --task classes, if its values are classes.\n"
        )

    def test_a_table_that_is_refused_leaves_nothing_behind(self, run: Command, flowers: Path, tmp_path: Path) -> None:
        lines = flowers.read_text().splitlines()
        path = tmp_path / "gap.csv"
        path.write_text("\n".join([*lines[:9], lines[9].replace("setosa", ""), *lines[10:]]) + "\n")
        common = ("--target", "species", "--model", "gap")

        before = there(run)
        refused = run("train", path, *common, code=7)
        run("train", flowers, *common, "--task", "numbers", code=7)

        assert "line 10, column 'species': A value is missing" in refused.stderr
        assert there(run) == before
        job = run.json("train", flowers, *common, "--epochs", 1, operation="POST /v1/jobs", status="202")
        assert set(there(run)[0]) - set(before[0]) == {
            job["dataset"]["id"]
        }  # none of the first try without missing cells

    def test_an_alias_that_moves_is_told_with_what_that_changes(self, run: Command, homes: Path) -> None:
        common = ("train", homes, "--target", "price", "--model", "homes", "--wait")
        first = run(*common, "--epochs", 30).stderr
        narrower = run(*common, "--epochs", 1, "--exclude", "area_m2").stderr
        r2 = [json.loads(run("models", "show", f"homes/{n}", "-o", "json").stdout)["metrics"]["val_r2"] for n in (1, 2)]
        back = run(*common, "--epochs", 30, "--if-better").stderr
        worse = run(*common, "--epochs", 1, "--exclude", "area_m2", "--if-better")

        assert "moved" not in first
        assert f"champion moved from version 1 to 2: val_r2 {r2[0]:.4g} → {r2[1]:.4g}." in narrower
        assert "It no longer takes area_m2." in narrower
        assert "champion moved from version 2 to 3: val_r2 " in back
        assert re.search(r"\nBack to version 2: modelyard models rollback \S+\n", back)
        assert "It takes area_m2 too, which version 2 did not." in back
        assert "champion stays with version 3: val_r2 is " in worse.stderr
        assert "modelyard predict homes/4 FILE.csv" in worse.stderr
        run(*common, "--if-better", "--alias", "", code=2)

    def test_one_bad_cell_among_numbers_stops_the_command_before_anything_is_trained(
        self, run: Command, homes: Path, tmp_path: Path
    ) -> None:
        lines = homes.read_text().splitlines()
        path = tmp_path / "ca.csv"
        path.write_text("\n".join([*lines[:9], f"ca. {lines[9]}", *lines[10:]]) + "\n")
        common = ("train", path, "--target", "price", "--model", "ca", "--epochs", 1, "--alias", "", "--wait")
        told = f"79 of 80 values are numbers; line 10 has 'ca. {lines[9].split(',')[0]}'."

        assert run(*common, code=7).stderr == (
            f"column 'area_m2': {told} If that means no value, pass --missing-text 'ca. {lines[9].split(',')[0]}'. "
            "Else mend the file; or pass --exclude area_m2, or --include area_m2 to take its values as texts.\n"
        )
        run("models", "show", "ca", code=4)
        assert "ca. " not in run(*common, "--exclude", "area_m2").stderr
        assert "is taken as texts" in run(*common, "--inputs", "area_m2,rooms").stderr
        assert "from rooms (numbers) and area_m2, site (texts)." in run(*common, "--include", "area_m2").stderr
        as_target = ("train", path, "--target", "area_m2", "--model", "ca")
        refused = run(*as_target, code=7).stderr
        option = f"--missing-text 'ca. {lines[9].split(',')[0]}' --skip-unlabelled"
        assert refused.endswith(
            f"If that means no value, pass {option}. Else mend the file; or pass --task classes, if its values are "
            "classes.\n"
        )
        assert "1 of 80 rows is left out, without a value in column 'area_m2' (line 10)." in (
            run(*as_target, *shlex.split(option), "--dry-run").stderr
        )

    def test_a_text_that_means_a_missing_value_is_one_in_training_and_in_prediction(
        self, run: Command, homes: Path, tmp_path: Path
    ) -> None:
        head, *lines = homes.read_text().splitlines()
        path = tmp_path / "odd.csv"
        odd = {3: "k.A.", 9: "-9999", 20: "n/a"}
        told = [line if n not in odd else f"{odd[n]},{line.partition(',')[2]}" for n, line in enumerate(lines)]
        path.write_text("\n".join([head, *told]) + "\n")
        common = ("train", path, "--target", "price", "--model", "odd", "--epochs", 5)
        refused = run(*common, code=7).stderr
        done = run(*common, "--missing-text", "K.a.", "--missing-text", "-9999", "--wait")
        (tmp_path / "new.csv").write_text("site ,rooms,area_m2\nn,2,70\n s,3,k.a.\nn,3,-9999\n")
        asked = run("predict", "odd", tmp_path / "new.csv", "-o", "jsonl")
        otherwise = run("predict", "odd", tmp_path / "new.csv", "--missing-text", "70", code=7).stderr
        dataset = json.loads(run("jobs", "show", "last", "-o", "json").stdout)["dataset"]["id"]
        columns = run.json("datasets", "list", "--limit", 200, operation="GET /v1/datasets")["data"]

        assert "If that means no value, pass --missing-text 'k.A.'. Else mend the file" in refused
        assert "--missing-text TEXT" not in done.stderr
        [area] = [c for one in columns if one["id"] == dataset for c in one["columns"] if c["name"] == "area_m2"]
        assert (area["dtype"], area["missing"]) == ("float", 3)
        assert asked.stderr.startswith("Line 3: Column 'area_m2' has no value in 2 rows, of which this is the first; ")
        assert asked.stderr.endswith(" was taken for it.\n")
        assert len(asked.stdout.splitlines()) == 3
        assert "Line 3 ('k.a.'): Column 'area_m2' takes numbers." in otherwise
        assert "--missing-text is for CSV files" in (
            run("datasets", "add", tmp_path / "x.jsonl", "--missing-text", "x", code=2).stderr
        )

    def test_a_gap_among_texts_is_a_missing_value_too(self, run: Command, homes: Path, tmp_path: Path) -> None:
        head, first, *lines = homes.read_text().splitlines()
        path = tmp_path / "siteless.csv"
        path.write_text("\n".join([head, first.replace(",n,", ",,"), *lines]) + "\n")
        run("train", path, "--target", "price", "--model", "siteless", "--epochs", 1, "--wait")
        (tmp_path / "new.csv").write_text("area_m2,rooms,site\n70,2,\n70,2,x\n")

        assert run("predict", "siteless", tmp_path / "new.csv").stderr.splitlines()[:2] == [
            "Line 2: Column 'site' has no value; it counts as none of the known texts.",
            "Line 3 ('x'): This text of column 'site' was not among the training rows; it counts as none. Expected "
            "'n', 's'.",
        ]

    def test_a_file_of_another_encoding_is_read_and_told(self, run: Command, homes: Path, tmp_path: Path) -> None:
        path, wide = tmp_path / "latin.csv", tmp_path / "wide.csv"
        text = homes.read_text().replace("site", "Straße")
        path.write_bytes(text.encode("cp1252"))
        wide.write_bytes(text.encode("utf-16"))
        common = (*("--target", "price", "--epochs", 1, "--alias", ""), "--model", "latin")
        done = run("train", path, *common, "--wait")
        shown = json.loads(run("models", "show", "latin/1", "-o", "json").stdout)
        asked = run("predict", "latin/1", wide, "-o", "csv")
        added = run("datasets", "add", path, "--encoding", "cp437", "-o", "json")
        path.write_bytes(text.encode("cp1252").replace(b"\xdf", b"\x81"))

        way = "If letters are wrong, name another with --encoding.\n"
        assert f"latin.csv is not in UTF-8; it is read as windows-1252. {way}" in done.stderr
        assert shown["signature"]["columns"] == ["area_m2", "rooms", "Straße"]
        assert asked.stderr == f"wide.csv is not in UTF-8; it is read as utf-16. {way}"
        assert asked.stdout.startswith("\ufeffarea_m2,rooms,Straße,price,prediction\n30,1,n,")
        assert run("predict", "latin/1", wide, "-o", "csv", "--no-bom").stdout == asked.stdout.removeprefix("\ufeff")
        wide.write_bytes(text.encode("utf-8-sig"))
        assert run("predict", "latin/1", wide, "-o", "csv").stdout == asked.stdout
        assert [column["name"] for column in json.loads(added.stdout)["columns"]][2] == "Stra▀e"
        assert added.stderr == ""
        assert "no text in CHARMAP: byte 18 is not. Name what it is in with --encoding.\n" in (
            run("train", path, *common, code=7).stderr
        )
        assert run("predict", "latin", path, "--encoding", "latein", code=2).stderr == (
            "--encoding: no encoding 'latein' is known here; such are utf-8, windows-1252, utf-16 and cp437.\n"
        )

    def test_a_file_of_another_program_is_told_how_to_become_csv(self, run: Command, tmp_path: Path) -> None:
        (tmp_path / "sheet.xlsx").write_bytes(b"PK")
        options = ("--target", "price", "--model", "sheet")

        assert "CSV UTF-8" in run("train", tmp_path / "sheet.xlsx", *options, code=2).stderr
        assert "CSV UTF-8" in run("predict", "latin", tmp_path / "sheet.xlsx", code=2).stderr

    def test_dates_and_texts_that_are_no_categories_are_left_out(self, run: Command, tmp_path: Path) -> None:
        path = tmp_path / "sales.csv"
        rows = [f"{n % 12 + 1:02d}.05.2024,K-{n},{n % 9},{('a', 'b')[n % 2]}" for n in range(40)]
        path.write_text("\n".join(["day,customer,size,kind", *rows]) + "\n")
        common = ("train", path, "--target", "kind", "--model", "sales", "--epochs", 1)
        done = run(*common, "--wait")
        added = run(*common, "--include", "customer", "--include", "day", "--dry-run")
        wrong = run(*common, "--include", "custmer", code=7).stderr

        assert (
            "Left out: day (dates), customer (another text in each row). A net learns nothing from dates as texts: "
            "make a number of them, such as the month or an age in days. To learn from customer too, pass --include "
            "customer.\n"
        ) in done.stderr
        assert "Learns kind as one of 2 classes, from size (numbers)." in done.stderr
        assert "Left out" not in added.stderr
        assert "Learns kind as one of 2 classes, from size (numbers) and day, customer (texts)." in added.stderr
        assert wrong == "--include names no input: 'custmer'. Did you mean 'customer'?\n"
        run(*common, "--include", "day", "--exclude", "day", code=2)
        run(*common, "--include", "day", "--inputs", "day", code=2)

    def test_names_with_commas_stand_in_quotes_and_options_are_repeated(self, run: Command, tmp_path: Path) -> None:
        path = tmp_path / "lands.csv"
        rows = [f"{('a', 'b')[n % 2]};{n % 7};{n % 5};{n % 3 + 0.5}" for n in range(40)]
        path.write_text("\n".join(["Region, Land;Stadt;Jahr;Preis", *rows]) + "\n")
        common = ("train", path, "--target", "Preis", "--model", "lands", "--dry-run")

        assert "from Jahr (numbers)." in run(*common, "--exclude", '"Region, Land", Stadt').stderr
        assert "from Region, Land (texts)." in run(*common, "--exclude", "Stadt", "--exclude", "Jahr").stderr
        options = ("--inputs", '"Region, Land"', "--inputs", "Jahr", "-o", "json")
        added = json.loads(run("datasets", "add", path, "--target", "Preis", *options).stdout)
        assert added["source"]["inputs"] == ["Region, Land", "Jahr"]

    def test_all_spellings_of_no_value_make_one_ready_line(self, run: Command, tmp_path: Path) -> None:
        path = tmp_path / "spelt.csv"
        odd = {3: "k.A.", 9: "unbekannt", 20: "#NV", 21: "K.A."}
        path.write_text("x,y\n" + "".join(f"{odd.get(n, n)},{3 * n + 0.5}\n" for n in range(60)))
        common = ("train", path, "--target", "y", "--model", "spelt", "--epochs", 1)
        refused = run(*common, code=7).stderr
        options = ("--missing-text", "k.A.", "--missing-text", "unbekannt", "--missing-text", "#NV")

        told = "--missing-text 'k.A.' --missing-text 'unbekannt' --missing-text '#NV'"
        assert f"If these mean no value, pass {told}. Else mend the file;" in refused
        run(*common, *options, "--dry-run")

    def test_lines_are_those_of_the_file_where_its_first_only_names_the_delimiter(
        self, run: Command, tmp_path: Path
    ) -> None:
        path = tmp_path / "excel.csv"
        lines = [f"{n};{n % 2},5;{n * 3},5" for n in range(60)]
        path.write_bytes("\r\n".join(["sep=;", "größe;x;preis", *lines, ""]).encode("cp1252"))
        done = run("train", path, *("--target", "preis", "--model", "excel", "--epochs", 1, "--wait"))
        added = json.loads(run("datasets", "add", path, "--target", "preis", "-o", "json").stdout)
        asked = run("predict", "excel", path, "-o", "csv").stdout
        path.write_text("sep=;\ngröße;x\n1;1,5\nold;2\n")
        refused = run("predict", "excel", path, code=7).stderr
        path.write_text("sep=;\ngröße;x;preis\n" + "1;2;3\n" * 40 + "2;1;\n")
        common = (path, "--target", "preis")
        of_lines = [run("train", *common, "--model", "m", code=7), run("datasets", "add", *common, code=7)]
        other = "--delimiter: line 1: the file says that ';' parts its values. Pass --delimiter semicolon.\n"

        assert ["line 43, column 'preis'" in one.stderr for one in of_lines] == [True, True]
        for command in (("train", *common, "--model", "m"), ("datasets", "add", *common), ("predict", "excel", path)):
            assert other in run(*command, "--delimiter", "tab", code=7).stderr
        assert "lines are counted" not in done.stderr
        assert "Learns preis as a number, from größe, x (numbers)." in done.stderr
        assert [column["name"] for column in added["columns"]] == ["größe", "x", "preis"]
        assert (added["source"]["delimiter"], added["rows"]) == (";", 60)
        assert asked.startswith("\ufeffgröße;x;preis;prediction\n0;0,5;0,5;")
        assert "Line 4 ('old'): Column 'größe' takes numbers." in refused

    def test_no_value_of_a_file_is_lost_beside_its_predictions(self, run: Command, tmp_path: Path) -> None:
        path = tmp_path / "wide.csv"
        path.write_text("x;y;prediction;\n" + "".join(f"{n};{3 * n};a;\n" for n in range(40)))
        run("train", path, *("--target", "y", "--model", "wide", "--inputs", "x", "--epochs", 1, "--wait"))
        path.write_text("x;;note;note;;prediction;;\n1;a;b;c;d;e;;\n2;;;;f;;;\n")
        head, first, second = csv.reader(io.StringIO(run("predict", "wide", path, "-o", "csv").stdout), delimiter=";")
        asked = run("predict", "wide", path, "-o", "jsonl").stdout.splitlines()
        shown = run("predict", "wide", path).stdout

        assert head == ["x", "", "note", "note", "", "prediction", "prediction"]  # without empty ones at the right end
        assert (first[:-1], second[:-1]) == (["1", "a", "b", "c", "d", "e"], ["2", "", "", "", "f", ""])
        row = json.loads(asked[0])
        answer = row.pop("prediction")
        places = {"x": "1", "column 2": "a", "note": "b", "note 4": "c", "column 5": "d", "prediction 6": "e"}
        assert (row, isinstance(answer, float)) == (places, True)
        assert all(f" {cell} " in shown for cell in "abcdef")
        path.write_text("x;x\n1;2\n")
        assert run("predict", "wide", path, code=7).stderr == (
            "The file has more than one column 'x', which the version takes. Leave the others out.\n"
        )

    def test_what_predict_says_names_the_file_and_keeps_its_order(self, run: Command, tmp_path: Path) -> None:
        path = tmp_path / "neu.csv"
        rows = "".join(f"{n % 7 + 1}.{n:03d};{n % 5};{n % 9},5\n" for n in range(40))
        path.write_text(f"größe;rang;preis\n1.000;;0,5\n;3;0,5\n{rows}")
        run("train", path, *("--target", "preis", "--model", "noted", "--epochs", 1, "--wait"))
        path.write_bytes("größe;rang\n1.234;1\n2.345;\n;2\n9.999.999;3\n".encode("cp1252"))
        told = run("predict", "noted", path).stderr.splitlines()

        starts = ["neu.csv is not in UTF-8", "neu.csv has numbers with", "Line 3: ", "Line 4: ", "Line 5 ("]
        assert [line[: len(start)] for line, start in zip(told, starts, strict=False)] == starts

    @pytest.mark.usefixtures("flower_job")
    def test_a_version_of_a_classifier_shows_how_good_it_is_by_class(self, run: Command, homes: Path) -> None:
        shown = run("models", "show", "flowers/1")
        head, *rows = [
            line.split() for line in shown.stdout.splitlines() if line.split()[:1] in ([one] for one in KNOWN)
        ]
        run("train", homes, "--target", "price", "--model", "unclassed", "--epochs", 1, "--wait")

        assert head == ["class", "rows", "recall", "precision"]
        assert [(row[0], int(row[1]), 0 <= float(row[2]) <= 1) for row in rows] == [
            (name, 10, True) for name in SPECIES
        ]
        assert "Of 30 held-out rows 10 are " in shown.stderr
        assert shown.stderr.endswith(": who always says so has the accuracy 0.3333.\n")
        assert "recall" not in run("models", "show", "unclassed/1").output
        assert run("models", "show", "flowers/1", "-o", "csv").stderr == ""

    def test_a_class_that_is_never_known_is_told_and_may_be_weighed(self, run: Command, tmp_path: Path) -> None:
        path = tmp_path / "fraud.csv"
        kinds = ["fraud" if n % 25 == 3 else "ok" for n in range(400)]
        path.write_text("a,b,kind\n" + "".join(f"{n % 7},{n % 11},{kind}\n" for n, kind in enumerate(kinds)))
        common = ("train", path, "--target", "kind", "--model", "fraud", "--epochs", 2, "--wait")
        done, weighed = run(*common), run(*common, "--weigh-classes")
        objective = json.loads(run("jobs", "show", "last", "-o", "json").stdout)["spec"]["objective"]

        assert (
            "None of the 3 held-out rows of 'fraud' is known; always saying 'ok' would be right for 96.2 %. "
            "--weigh-classes lets each class count the same.\n"
        ) in done.stderr
        assert (
            "384 rows are of the class 'ok', 16 of the class 'fraud'. The rare class may hardly be learnt: "
            "--weigh-classes lets each class count the same; judge by more than accuracy.\n"
        ) in done.stderr
        assert objective == {"type": "cross_entropy", "weight": "balanced"}
        assert "--weigh-classes" not in weighed.stderr
        assert "; always saying 'ok' would be right for 96.2 %.\n" in weighed.stderr
        assert "always saying" not in run("jobs", "show", "last").stderr

    def test_what_is_told_of_classes_is_that_a_constant_answer_would_be_as_good(
        self, run: Command, flowers: Path, homes: Path
    ) -> None:
        common = ("--model", "told", "--alias", "", "--wait")
        good = run("train", flowers, "--target", "species", *common)
        bad = run("train", flowers, *("--target", "species", "--epochs", 1, "--lr", 1e-9, "--seed", 3), *common)
        numbers = run("train", homes, "--target", "price", "--epochs", 1, *common)

        assert "always saying" not in good.stderr
        assert re.search(
            r"\nNone of the [12]0 held-out rows of .* is known; always saying '.*' .* 33.3 %\.\n", bad.stderr
        )
        assert "always saying" not in numbers.stderr

    def test_only_classes_are_weighed(self, run: Command, homes: Path, tmp_path: Path) -> None:
        common = ("train", homes, "--target", "price", "--model", "weighed", "--weigh-classes")
        before = there(run)
        refused = run(*common, code=7).stderr
        (tmp_path / "request.json").write_text("{}")

        assert refused == (
            "--weigh-classes is for classes, and 'price' is learnt as a number. Leave it out, or pass --task classes "
            "if its values are classes.\n"
        )
        assert there(run) == before
        assert "--weigh-classes: for tables only." in (
            run("train", tmp_path / "request.json", "--weigh-classes", code=2).stderr
        )

    def test_figures_of_other_rows_are_told_to_say_nothing(self, run: Command, homes: Path, tmp_path: Path) -> None:
        fewer = tmp_path / "fewer.csv"
        fewer.write_text("\n".join(homes.read_text().splitlines()[:61]) + "\n")
        common = ("--target", "price", "--model", "other-rows", "--wait")
        told = (
            "These figures come from different rows: the versions had other data, or another split of it. So they do "
            "not tell which is better.\n"
        )
        run("train", homes, *common, "--epochs", 1)
        same = run("train", homes, *common, "--epochs", 30, "--if-better")
        other = run("train", fewer, *common, "--epochs", 1)
        back = run("train", homes, *common, "--epochs", 30, "--if-better")

        assert "champion moved from version 1 to 2: " in same.stderr
        assert told not in same.stderr
        assert told in other.stderr
        assert "champion moved from version 3 to 4: " in back.stderr
        assert told in back.stderr
        assert told in run("models", "compare", "other-rows", 1, 3).stderr
        assert told not in run("models", "compare", "other-rows", 1, 2).stderr
        assert run("models", "compare", "other-rows", 1, 3, "-o", "csv").stderr == ""

    def test_dates_that_are_to_be_learnt_from_are_told_what_becomes_of_them(self, run: Command, tmp_path: Path) -> None:
        path = tmp_path / "dated.csv"
        path.write_text("seit,x,y\n" + "".join(f"2024-01-{n % 28 + 1:02d},{n},{n}.5\n" for n in range(60)))
        told = run("train", path, *("--target", "y", "--model", "dated", "--include", "seit", "--dry-run")).stderr

        assert (
            "seit: its 28 different texts become a column each, and another text tells the net nothing; better make a "
            "number of the date, such as the month or an age in days.\n"
        ) in told

    def test_each_warning_of_a_job_has_a_line_and_why_an_alias_stays_is_said_once(
        self, run: Command, homes: Path
    ) -> None:
        common = ("train", homes, "--target", "price", "--model", "lines", "--wait")
        run(*common)
        done = run(*common, "--epochs", 1, "--lr", 1e-9, "--if-better")
        shown = run("jobs", "show", "last").stdout

        assert "champion stays with version 1: val_r2 is " in done.stderr
        assert "was not moved" not in done.stdout
        assert re.search(r"^(warnings|) +The alias champion was not moved: ", shown, re.MULTILINE)
        assert ".," not in shown

    def test_a_net_that_learnt_nothing_is_told(self, run: Command, homes: Path) -> None:
        done = run("train", homes, *("--target", "price", "--model", "wild", "--epochs", 2, "--lr", 5000, "--wait"))

        assert "val_r2 is not above 0: the mean of all rows would be as good an answer." in done.stderr

    def test_without_wait_the_move_of_the_alias_is_told_beforehand(self, run: Command, homes: Path) -> None:
        common = ("train", homes, "--target", "price", "--model", "later", "--epochs", 1)
        first = run(*common).stderr
        run(*common, "--wait")
        second, better = run(*common).stderr, run(*common, "--if-better").stderr

        assert "When it has succeeded, champion will point at its version.\n" in first
        assert "Then ask it with: modelyard predict later FILE.csv" in first
        assert re.search(r"later is there already: champion is version \d, with val_r2 \S+\.\nWhen this job", second)
        assert re.search(
            r"champion moves from version \d to its own, even if that is worse \(see --if-better\)", second
        )
        assert re.search(r"champion moves from version \d to its own if val_r2 > champion.val_r2\.", better)
        assert "Then ask it with: modelyard predict later@old FILE.csv" in run(*common, "--alias", "old").stderr
        assert "No alias will point at its version." in run(*common, "--alias", "").stderr

    def test_another_engine_is_asked_for(self, run: Command, homes: Path) -> None:
        common = ("train", homes, "--target", "price", "--model", "fast", "--dry-run", "--engine")

        assert json.loads(run(*common, "onnxruntime").stdout)["output"]["engine"] == {"type": "onnxruntime"}
        assert run(*common, "cobra", code=2).stderr == "--engine is one of eager, onnxruntime, aot_inductor.\n"
        assert {kind.model_fields["type"].annotation for kind in get_args(get_args(engines.Engine)[0])} == {
            Literal[name] for name in training.ENGINES
        }

    def test_an_open_quote_in_a_file_of_rows_is_told_with_its_line(
        self, run: Command, flower_job: Any, tmp_path: Path
    ) -> None:
        path = tmp_path / "open.csv"
        head, row = ",".join([*HEADS, "garden"]), "5.1,3.5,1.4,0.2,north"
        way = 'A quote that is part of a text is written twice, in quotes, as in "a 6"" pipe".\n'

        path.write_text(f'{head}\n{row}\n5.1,3.5,1.4,0.2,"north\n{row}\n{row}\n')
        assert run("predict", "flowers", path, code=7).stderr == (
            f"Line 3: a quote is opened and never closed. Close it. {way}"
        )
        run("train", path, "--target", "garden", "--model", "open", code=7)
        path.write_text(f'{head}\n5.1,3.5,1.4,0.2,"no"rth\n')
        assert run("predict", "flowers", path, code=7).stderr == (
            f"Line 2: a value goes on after its closing quote. {way}"
        )
        path.write_text(f'{head}\n{row}\n5.1,3.5,1.4,0.2,"{"x" * 200_000}"\n')
        assert run("predict", "flowers", path, code=7).stderr == (
            "Line 3: a value is longer than 131072 characters. Is a quote left open?\n"
        )

    def test_a_number_too_large_to_be_one_is_named_and_no_missing_value(
        self, run: Command, flower_job: Any, tmp_path: Path
    ) -> None:
        path = tmp_path / "large.csv"
        path.write_text(",".join([*HEADS, "garden"]) + "\n5.1,1e999,1.4,0.2,north\n5.1,3.5,-1E400,0.2,north\n")
        rows = '[[5.1, 1e999, 1.4, 0.2, "north"], [5.1, 3.5, -Infinity, 0.2, "north"]]'

        assert run("predict", "flowers", path, code=7).stderr.splitlines()[1:] == [
            "Line 2 ('1e999'): Column 'sepal_width' takes numbers. Expected a number; --missing-text TEXT is for a "
            "text that means no value.",
            "Line 3 ('-1E400'): Column 'petal_length' takes numbers. Expected a number.",
        ]
        assert run("predict", "flowers", "--inputs", rows, code=7).stderr.splitlines()[1:] == [
            "Row 1 ('1e999'): Column 'sepal_width' takes numbers. Send null where the value is missing.",
            "Row 2 ('-Infinity'): Column 'petal_length' takes numbers. Expected a number.",
        ]

    def test_rows_of_json_are_shown_under_their_names_in_whatever_order_they_have_them(
        self, run: Command, flower_job: Any
    ) -> None:
        rows = [
            {"garden": "north", "petal_width": 0.2, "petal_length": 1.4, "sepal_length": 5.1, "sepal_width": None},
            {"sepal_length": 6.1, "sepal_width": 3.25, "petal_length": 4.7, "petal_width": 1.2, "garden": "south"},
        ]
        head, _, first, second = run("predict", "flowers", "--inputs", json.dumps(rows)).stdout.splitlines()[1:5]

        assert head.split()[:5] == ["garden", "petal_width", "petal_length", "sepal_length", "sepal_width"]
        assert first.split()[:5] == ["north", "0.2", "1.4", "5.1", "setosa"]
        assert second.split()[:5] == ["south", "1.2", "4.7", "6.1", "3.25"]

    def test_rows_of_json_are_told_by_their_number(self, run: Command, flower_job: Any) -> None:
        rows = [[5.1, 3.5, 1.4, 0.2, "north"], [99, 3.5, 1.4, 0.2, "north"], [5, 3, "x", 0.2, "north"]]
        refused = run("predict", "flowers", "--inputs", json.dumps(rows), code=7).stderr
        warned = run("predict", "flowers", "--inputs", json.dumps(rows[:2])).stderr

        row = dict(zip([*HEADS, "garden"], rows[0], strict=True))
        one = json.loads(run("predict", "flowers", "--inputs", json.dumps(row), "-o", "json").stdout)
        shown = run("predict", "flowers", "--inputs", json.dumps(rows[:1])).stdout.split()
        run("predict", "flowers", "--inputs", '{"petal_length": 1}', code=7)
        run("predict", "flowers", "--inputs", "5", code=7)
        assert run("predict", "flowers", "--inputs", '"a.csv"', code=7).stderr == (
            "Inputs are rows, and 'a.csv' is a text.\n"
        )

        assert shown[:5] == [*HEADS, "garden"]
        assert one["labels"] == ["setosa"]
        assert "Row 3 ('x'): Column 'petal_length' takes numbers. Expected a number.\n" in refused
        assert warned.startswith(
            "Row 2 (99): Column 'sepal_length' lies outside what the model was trained on. Expected "
        )

    def test_cells_without_the_target_are_told_together_and_with_what_to_do(
        self, run: Command, homes: Path, tmp_path: Path
    ) -> None:
        head, *lines = homes.read_text().splitlines()
        path = tmp_path / "gaps.csv"
        gaps = [f"{line.rpartition(',')[0]}," if place % 10 == 3 else line for place, line in enumerate(lines)]
        gaps[0] = f",{gaps[0].partition(',')[2]}"  # of an input, which may be missing
        path.write_text("\n".join([head, *gaps]) + "\n")

        assert run("train", path, "--target", "price", "--model", "gaps", code=7).stderr.splitlines() == [
            "The data cannot be read as a dataset:",
            "gaps.csv: lines 5, 15, 25 and 5 more, column 'price': A value is missing (''). Fill these cells in, or "
            "pass --skip-unlabelled to leave their rows out: what is to be learnt must be known in every row.",
        ]

    def test_rows_without_a_label_are_left_out_at_a_wish(self, run: Command, homes: Path, tmp_path: Path) -> None:
        head, *lines = homes.read_text().splitlines()
        path = tmp_path / "unsold.csv"
        path.write_text("\n".join([head, *lines[:40], "70,2,n,", "80,3,s,NA", *lines[40:]]) + "\n")
        common = ("train", path, "--target", "price", "--model", "unsold", "--epochs", 1, "--skip-unlabelled")
        told = "2 of 82 rows are left out, without a value in column 'price' (line 42 is the first).\n"
        dry = run(*common, "--dry-run")
        source = json.loads(dry.stdout)["dataset"]
        done = run(*common, "--wait", "-o", "json")
        job = json.loads(done.stdout)
        options = ("datasets", "add", path, "--target", "price")
        added = run(*options, "--skip-unlabelled", "-o", "json")

        assert (source["unlabelled"], source["target"]) == ("skip", "price")
        assert f"unsold.csv: {told}" in done.stderr
        assert dry.stderr.count(told) == 1
        assert [warning["code"] for warning in job["warnings"]] == ["unlabelled-rows"]
        assert json.loads(added.stdout)["rows"] == 80
        assert added.stderr == f"unsold.csv: {told}"
        refused = run(*options, code=7).stderr
        assert "Fill it in, or pass --skip-unlabelled to leave such rows out: what is to be learnt" in refused
        (tmp_path / "request.json").write_text("{}")
        assert "--skip-unlabelled: for tables only." in (
            run("train", tmp_path / "request.json", "--skip-unlabelled", code=2).stderr
        )
        assert run("datasets", "add", tmp_path / "x.npz", "--skip-unlabelled", code=2).stderr == (
            "--skip-unlabelled is for tables: CSV, JSON lines, Parquet.\n"
        )
        assert run("datasets", "add", homes, "--skip-unlabelled", code=7).stderr.endswith(
            "--skip-unlabelled: Only rows with a target can lack its value, and none is named. Name the column that is "
            "to be learnt.\n"
        )

    def test_a_class_with_one_row_is_told_with_what_to_do(
        self, run: Command, flowers: Path, homes: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "rare.csv"
        path.write_text(f"{flowers.read_text()}5,3,1,0.2,north,tulip\n")
        common = ("--model", "rare", "--epochs", 1, "--dry-run")
        one = run("train", path, "--target", "species", *common).stderr
        path.write_text(f"{path.read_text()}5,3,1,0.2,north,rose\n")
        two = run("train", path, "--target", "species", *common).stderr
        path.write_text(f"{homes.read_text()}70,9,n,5\n")
        number = run("train", path, "--target", "rooms", *common).stderr

        assert (
            "Only one row is of the class 'tulip': no held-out row can tell whether it is learnt. Add rows of it, or "
            "leave it out of the file.\n"
        ) in one
        assert "--weigh-classes" not in one  # which helps little there
        assert "Only one row each is of the classes 'rose', 'tulip': no held-out row can tell whether they are" in two
        assert "Only one row is of the class '9': " in number
        assert "Only one row" not in run("train", path, "--target", "price", *common).stderr
        assert "Only one row" not in run("train", flowers, "--target", "species", *common).stderr

    def test_warnings_of_a_table_come_in_the_order_of_its_lines(self, run: Command, tmp_path: Path) -> None:
        path = tmp_path / "odd.csv"
        rows = "".join(f"{n},{n},{n}\n" for n in range(40))
        path.write_text(f"a,b,y\n0,odd,1\n{rows}odd,1,\n1,1,odd\n")
        told = run("datasets", "add", path, "--target", "b", "--missing").stderr.splitlines()

        assert [re.findall(r"\(line ([0-9]+): ", line) for line in told] == [["2"], ["43"], ["44"]]

    def test_mistakes_beyond_those_that_are_told_are_counted(self, run: Command, tmp_path: Path) -> None:
        path = tmp_path / "holes.csv"
        path.write_text("x,y\n" + "1,2\n" * 20 + "1,\n" * 33)
        refused = run("datasets", "add", path, "--target", "y", code=7).stderr.splitlines()
        path.write_text("x,y\n" + "1,2\n" * 20 + "1,\n" * 21)

        assert refused[-2].startswith("holes.csv: lines 22, 23, 24 and 17 more, column 'y': A value is missing ('').")
        assert refused[-1] == "And 13 more mistakes, not shown: 33 in all; each wrong cell of the file counts as one."
        assert run("train", path, "--target", "y", "--model", "holes", code=7).stderr.endswith(
            "\nAnd 1 more mistake, not shown: 21 in all; each wrong cell of the file counts as one.\n"
        )

    def test_what_is_wrong_is_said_of_the_option(self, run: Command, homes: Path) -> None:
        def refused(*options: object) -> str:
            return run("train", homes, "--target", "price", "--model", "refused", *options, code=7).stderr

        assert refused("--target", "pric") == "--target: The file has no column 'pric'. Did you mean 'price'?\n"
        assert refused("--inputs", "area") == "--inputs: The file has no column 'area'. Did you mean 'area_m2'?\n"
        assert "--lr: Input should be greater than 0." in refused("--lr", 0)
        assert refused("--target", "site", "--task", "numbers") == (
            "--task numbers: 'site' holds texts; leave out --task numbers.\n"
        )

    def test_options_and_the_table_are_told_of_together(self, run: Command, homes: Path, tmp_path: Path) -> None:
        names = ("--model", "Häuser 1", "--alias", "7")
        of_names = [
            "--model: Names are lower-case",
            "--alias: Aliases follow the rule of names and are not all digits.",
        ]
        head, *lines = homes.read_text().splitlines()
        wrong = {
            "gap.csv": [head, f"{lines[0].rpartition(',')[0]},", *lines[1:]],
            "odd.csv": [head, f"ca. {lines[0]}", *lines[1:]],
            "ragged.csv": [head, f"{lines[0]},1", *lines[1:]],
        }
        for name, rows in wrong.items():
            (tmp_path / name).write_text("\n".join(rows) + "\n")
        about = {
            "gap.csv": "gap.csv: line 2, column 'price': A value is missing ('').",
            "odd.csv": "column 'area_m2': 79 of 80 values are numbers; line 2 has 'ca. ",
            "ragged.csv": "ragged.csv: line 2: 5 values, but line 1 names 4 columns.",
        }
        for name, sentence in about.items():
            for more in ((), ("--dry-run",)):
                told = run("train", tmp_path / name, "--target", "price", *names, *more, code=7).stderr.splitlines()
                assert [line for line in told if line.startswith(sentence)], told
                assert [line.startswith(each) for line, each in zip(told[-2:], of_names, strict=True)] == [True] * 2

        (tmp_path / "all.csv").write_text(
            "\n".join([head, f"{lines[0].rpartition(',')[0]},", f"ca. {lines[1]}", f"{lines[2]},1", *lines[3:]]) + "\n"
        )
        told = run("train", tmp_path / "all.csv", "--target", "price", *names, code=7).stderr.splitlines()
        cell = f"ca. {lines[1].partition(',')[0]}"
        odd = f"(line 3: {cell!r})"
        assert told[1:4] == [
            "all.csv: line 2, column 'price': A value is missing (''). Fill these cells in, or pass --skip-unlabelled "
            "to leave their rows out: what is to be learnt must be known in every row.",
            "all.csv: line 4: 5 values, but line 1 names 4 columns.",
            f"all.csv: Column 'area_m2' is taken as texts: 1 of 79 cells is no number {odd}. Mend it in the file, or "
            f"leave the column out. Where such a cell means no value, name it: --missing-text {cell!r}.",
        ]
        assert len(told) == 6
        left = run("train", tmp_path / "all.csv", "--target", "price", *names, "--exclude", "area_m2", code=7).stderr
        assert "area_m2" not in left

        alone = run("train", homes, "--target", "price", *names, code=7).stderr.splitlines()
        assert [line.startswith(each) for line, each in zip(alone[-2:], of_names, strict=True)] == [True] * 2
        absent = run("train", tmp_path / "gap.csv", "--target", "price", "--model", "m", "--arch", "no.json", code=7)
        assert absent.stderr.endswith("--arch: There is no file 'no.json'.\n")
        both = run("train", homes, "--target", "price", "--model", "A", "--arch", "no.json", code=7).stderr.splitlines()
        assert [line.partition(":")[0] for line in both] == ["--model", "--arch"]

    @pytest.mark.parametrize("suffix", ["json", "yaml", "toml"])
    def test_a_request_may_be_a_file_that_names_other_files(
        self, run: Command, flowers: Path, tmp_path: Path, suffix: str
    ) -> None:
        (tmp_path / "net.json").write_text(
            json.dumps({**examples.SEQUENTIAL, "inputs": [{"name": "x", "shape": ["B", 1]}]}).replace(
                '"out_features": 1}', '"out_features": 3}'
            )
        )
        shutil.copy(flowers, tmp_path / "flowers.csv")
        columns = {"missing": "keep", "inputs": ["petal_width"], "target": "species"}
        request = {
            "kind": "train",
            "architecture": "net.json",
            "budget": {"epochs": 2},
            "output": {"model": "asked"},
            "objective": {"type": "cross_entropy"},
            "optimizer": {"type": "SGD", "lr": 0.1},
            "dataset": {"type": "csv", "file": "flowers.csv", **columns},
        }
        toml = "\n".join(f"{name} = {json.dumps(value).replace(': ', ' = ')}" for name, value in request.items())
        text = {"json": json.dumps(request), "yaml": yaml.safe_dump(request), "toml": toml}[suffix]
        (tmp_path / f"request.{suffix}").write_text(text)
        job = run.json("train", tmp_path / f"request.{suffix}", "--wait", operation="GET /v1/jobs/{job_id}")

        assert job["output"]["model"] == "asked"

    def test_a_dry_run_shows_a_request_to_be_kept_and_leaves_nothing_behind(
        self, run: Command, flowers: Path, tmp_path: Path
    ) -> None:
        arguments = ("train", flowers, "--target", "species", "--model", "never", "--exclude", "garden", "--dry-run")
        earlier = run.json("datasets", "add", flowers, "--missing", operation="POST /v1/datasets", status="201")
        before = there(run)
        shown = run(*arguments)
        found = run.json(*arguments, operation="POST /v1/jobs")
        kept = tmp_path / "kept.json"
        kept.write_text(shown.stdout)
        for tried in (("validate", kept), ("train", kept, "--dry-run"), ("train", kept, "--model", "a b")):
            run(*tried, code=7 if "a b" in tried else 0)
        run("doctor", kept, code=0)

        assert found["valid"]
        assert json.loads(shown.stdout)["dataset"] == {
            "type": "csv",
            "file": str(flowers),
            "target": "species",
            "inputs": list(HEADS),
            "missing": "keep",
        }
        assert "steps: " in shown.stderr
        assert there(run) == before
        assert earlier["id"] in before[0]
        run("models", "show", "never", code=4)
        assert run.json("train", kept, "--wait", operation="GET /v1/jobs/{job_id}")["output"]["model"] == "never"

    def test_a_document_is_judged(self, run: Command, tmp_path: Path) -> None:
        (tmp_path / "net.json").write_text(json.dumps(examples.NET))
        (tmp_path / "wrong.json").write_text(json.dumps(examples.NET).replace('"in_features": 10', '"in_features": 9'))
        (tmp_path / "job.json").write_text(json.dumps(examples.TRAIN))
        verdict = run.json("validate", tmp_path / "net.json", operation="POST /v1/architectures/validate")
        wrong = run("validate", tmp_path / "wrong.json", code=7)

        assert verdict["valid"]
        assert "/root/layers/1/in_features: " in wrong.stderr
        assert run("validate", tmp_path / "net.json").stdout.count("Linear") == 2
        assert "valid" in run("validate", tmp_path / "job.json").stdout

    def test_a_file_without_its_option_is_told_with_it(self, run: Command) -> None:
        assert run("export", "flowers", "net.onnx", code=2).stderr == (
            "The file is named with --to, as in: modelyard export flowers --format onnx --to net.onnx\n"
        )

    def test_a_version_leaves_as_files_and_comes_back(self, run: Command, flower_job: Any, tmp_path: Path) -> None:
        for form, suffix in (("pt", "pt"), ("safetensors", "safetensors"), ("python", "py"), ("bundle", "zip")):
            run("export", "flowers", "--format", form, "--to", tmp_path / f"flowers.{suffix}")
        job = run.json("import", tmp_path / "flowers.zip", "--model", "back", operation="GET /v1/jobs/{job_id}")

        assert "nn.Linear(6, 64)" in (tmp_path / "flowers.py").read_text()
        assert job["output"]["version"] == 1
        run("export", "flowers", "--format", "pickle", code=2)


class TestWhatIsThere:
    def test_jobs(self, run: Command, flower_job: Any) -> None:
        job_id = flower_job["id"]
        page = run.json("jobs", "list", "--state", "succeeded", "--limit", 3, operation="GET /v1/jobs")
        lines = run("jobs", "list", "-o", "jsonl", "--limit", 2).stdout.splitlines()
        events = [json.loads(line) for line in run("jobs", "watch", job_id, "-o", "jsonl").stdout.splitlines()]

        assert len(page["data"]) == 3
        assert len([json.loads(line)["id"] for line in lines]) == 2
        assert run("jobs", "list", "-o", "csv").stdout.startswith("id,kind,state,model,version,")
        assert run.json("jobs", "show", job_id, operation="GET /v1/jobs/{job_id}")["state"] == "succeeded"
        assert "succeeded" in run("jobs", "show", "last").stdout
        assert "Trained" in run("jobs", "logs", job_id).stdout
        assert (events[0]["data"]["state"], events[-1]["type"]) == ("queued", "done")
        assert "flowers" in run("jobs", "watch", job_id).stdout

    @pytest.mark.usefixtures("flower_job")
    def test_the_next_page_of_a_list_is_a_line_to_be_run(self, run: Command, flowers: Path) -> None:
        def following(*words: object, **options: Any) -> str:
            [told] = [
                line for line in run(*words, **options).stderr.splitlines() if line.startswith("There are more: ")
            ]
            return told.removeprefix("There are more: modelyard ")

        for name in ("two words", "more"):
            run("datasets", "add", flowers, "--target", "species", "--missing", "--name", name)
            run("train", flowers, "--target", "species", "--model", "paged", "--epochs", 1, "--wait")
        jobs = following("jobs", "list", "--limit", 1, "--state", "succeeded", "--kind=train")
        named = following("--url", run.url, "jobs", "list", "--limit", 1, "--api-key", "msk_secret", url="http://x")
        pages = [
            ("datasets list --limit 1", following("datasets", "list", "--limit", 1)),
            ("models list --limit 1", following("models", "list", "--limit", 1)),
            ("models versions paged --limit 1", following("models", "versions", "paged", "--limit", 1)),
        ]
        run("models", "delete", "paged", "--yes", "--force")

        assert re.fullmatch(r"jobs list --state succeeded --kind train --limit 1 --after \S+", jobs)
        assert re.fullmatch(rf"jobs list --limit 1 --after \S+ --url {run.url}", named)
        for words, line in pages:
            assert re.fullmatch(rf"{words} --after \S+", line)
        first = run("jobs", "list", "--limit", 1, "--state", "succeeded", "--kind=train", "-o", "csv").stdout
        assert run(*shlex.split(jobs), "-o", "csv").stdout.splitlines()[1] not in first
        assert "There are more" not in run("jobs", "list", "--limit", 1, "-o", "csv").stderr

    def test_a_job_is_paused_resumed_cancelled_and_tried_again(self, run: Command, tmp_path: Path) -> None:
        (tmp_path / "long.json").write_text(json.dumps({**examples.TRAIN, "budget": {"max_seconds": 600}}))
        started = run("train", tmp_path / "long.json", "-o", "json")
        job_id = json.loads(started.stdout)["id"]

        def state() -> str:
            return str(json.loads(run("jobs", "show", job_id, "-o", "json").stdout)["state"])

        run("jobs", "pause", job_id)
        wait_for(lambda: state() == "paused")
        run.json("jobs", "resume", job_id, operation="POST /v1/jobs/{job_id}/resume", status="202")
        run.json("jobs", "cancel", job_id, "--wait", operation="POST /v1/jobs/{job_id}/cancel")
        assert state() == "cancelled"
        run("jobs", "retry", job_id, "--from-start")
        run("jobs", "cancel", job_id, "--wait")
        run("jobs", "watch", job_id, code=1)
        run("jobs", "pause", job_id, code=5)

    def test_models(self, run: Command, flower_job: Any) -> None:
        run.json("models", "list", operation="GET /v1/models")
        run.json("models", "show", "flowers", operation="GET /v1/models/{name}")
        run.json("models", "versions", "flowers", operation="GET /v1/models/{name}/versions")
        version = run.json("models", "show", "flowers@champion", operation="GET /v1/models/{name}/versions/{number}")
        compared = json.loads(run("models", "compare", "flowers", "flowers/1", "-o", "json").stdout)
        verified = run.json("models", "verify", "flowers", operation="POST /v1/models/{name}/versions/{number}/verify")

        assert version["classes"] == list(SPECIES)
        assert compared["architecture"]["equal"]
        assert verified["ok"]
        listed_models = list(csv.DictReader(io.StringIO(run("models", "list", "-o", "csv", "--limit", 200).stdout)))
        [of_flowers] = [line for line in listed_models if line["model"] == "flowers"]
        assert of_flowers["aliases"] == "champion → 1"
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", of_flowers["updated"])
        ways = [("flowers/1", "1"), ("flowers", "1", "1"), ("flowers@champion", "1")]
        assert len({run("models", "compare", *way).stdout for way in ways}) == 1
        assert "numbers of its versions" in run("models", "compare", "flowers/1", "1", "1", code=2).stderr
        assert "The nets are equal." in run("models", "compare", "flowers", "flowers/1").stdout
        assert "champion" in run("models", "show", "flowers").stdout
        listed = next(csv.DictReader(io.StringIO(run("models", "versions", "flowers", "-o", "csv").stdout)))
        assert {"val_loss", "val_accuracy"} <= set(listed) & set(version["metrics"])  # under one name in both
        assert float(listed["val_loss"]) == version["metrics"]["val_loss"]

    def test_aliases_move_and_versions_go(self, run: Command, tmp_path: Path) -> None:
        request = {**examples.TRAIN, "budget": {"epochs": 1}, "output": {"model": "moved"}}
        (tmp_path / "short.json").write_text(json.dumps(request))
        for _ in range(3):
            run("train", tmp_path / "short.json", "--wait")
        path = "/v1/models/{name}/aliases/{alias}"
        made = run.json("models", "alias", "moved", "champion", 1, operation=f"PUT {path}")
        moved = run.json("models", "alias", "moved", "champion", 2, "--reason", "better", operation=f"PUT {path}")
        back = run.json("models", "rollback", "moved", operation=f"POST {path}/rollback")

        assert [found["version"] for found in (made, moved, back)] == [1, 2, 1]
        options = ("--canary", 2, "--percent", 10, "--shadow", 3, "--error-rate", 0.02, "--latency", 0.5)
        tried = run.json("models", "alias", "moved", "champion", 1, *options, operation=f"PUT {path}")
        assert (tried["canary"], tried["shadow"]) == ({"version": 2, "percent": 10.0}, [3])
        assert (tried["guard"]["error_rate"], tried["guard"]["latency_s"]) == (0.02, 0.5)
        shown = run("models", "alias", "moved", "champion", 1, "--canary", 2).stdout
        assert "version 2 answers 5 %" in shown
        run("models", "alias", "moved/1", "champion")  # the canary ends
        assert json.loads(run("models", "alias", "moved@champion", "sure", "-o", "json").stdout)["version"] == 1
        run("models", "alias", "moved/3", "sure")
        assert json.loads(run("models", "rollback", "moved@sure", "-o", "json").stdout)["version"] == 1
        assert run("models", "versions", "moved/2").stdout == run("models", "versions", "moved").stdout
        assert run("models", "alias", "moved/1", "champion", 2, code=2).stderr == (
            "moved/1 names a version already; leave out 2.\n"
        )
        assert run("models", "alias", "moved", "champion", code=2).stderr == (
            "Say which version, as in: modelyard models alias moved/2 champion\n"
        )
        assert run("models", "rollback", "moved/2", code=2).stderr == (
            "A rollback takes the version before. To choose one: modelyard models alias moved/2 champion\n"
        )
        assert run("models", "rollback", "moved@sure", "--alias", "champion", code=2).stderr == (
            "moved@sure names an alias already; leave out --alias champion.\n"
        )
        assert run("models", "show", "moved/9", code=4).stderr == (
            "Version 9 of 'moved' does not exist. Its versions are 1, 2, 3.\n"
        )
        run("models", "rollback", "moved", code=5)
        run("models", "delete", "moved/1", "--yes", code=5)
        run("models", "delete", "moved/2", stdin="n\n", code=1)
        run("models", "delete", "moved/2", stdin="y\n")
        gone = run("models", "delete", "moved", "--yes", "--force", "-o", "json")
        assert json.loads(gone.stdout) == {"model": "moved", "versions": [3, 1]}
        assert gone.stderr == "Deleted moved with all its versions.\n"
        run("models", "show", "moved", code=4)

    def test_datasets(self, run: Command, flowers: Path) -> None:
        added = run.json(
            *("datasets", "add", flowers, "--target", "species", "--missing"),
            operation="POST /v1/datasets",
            status="201",
        )
        rows = run("datasets", "preview", added["id"], "--limit", 2, "-o", "jsonl").stdout.splitlines()

        assert (added["name"], added["rows"]) == ("flowers", 150)
        assert json.loads(rows[0])["species"] == "setosa"
        run.json("datasets", "list", operation="GET /v1/datasets")
        run.json("datasets", "preview", added["id"], operation="GET /v1/datasets/{dataset_id}/preview")
        before = there(run)
        refused = run("datasets", "add", flowers, "--target", "species", code=7).stderr
        assert refused.endswith("column 'sepal_width': A value is missing (''). Pass --missing to keep these.\n")
        assert there(run) == before

    def test_the_store_is_checked_and_cleared(self, run: Command, flower_job: Any) -> None:
        checked = json.loads(run("store", "fsck", "--model", "flowers", "-o", "json").stdout)
        young = json.loads(run("store", "gc", "-o", "json").stdout)
        old = json.loads(run("store", "gc", "--older-than-days", 0, "--dry-run", "-o", "json").stdout)

        assert checked["data"] == [{"version": "flowers/1", "state": "ready", "ok": True, "wrong": []}]
        assert young["data"] == []
        assert old["data"]
        assert not any(line["removed"] for line in old["data"])

    def test_the_doctor_looks_around(self, run: Command, tmp_path: Path) -> None:
        (tmp_path / "wrong.json").write_text(json.dumps({**examples.TRAIN, "optimizer": {"type": "SGD"}}))
        looked = json.loads(run("doctor", tmp_path / "wrong.json", "-o", "json", code=1).stdout)["data"]
        verdicts = {one["what"]: one["verdict"] for one in looked}

        assert verdicts["python"] == verdicts["torch"] == verdicts["store"] == verdicts["server"] == "ok"
        assert verdicts["wrong.json"] == "bad"
        assert any(one["detail"].startswith("/optimizer/lr: ") for one in looked)

    def test_the_doctor_knows_the_server_that_has_the_port(self, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        port = run.url.rpartition(":")[2]
        monkeypatch.setenv("MODELYARD_PORT", port)

        def of_port(**options: Any) -> tuple[str, str]:
            looked = json.loads(run("doctor", "-o", "json", **options).stdout)["data"]
            [found] = [one for one in looked if one["what"] == "port"]
            return found["verdict"], found["detail"]

        assert of_port() == ("ok", f"127.0.0.1:{port} has the server that answers at {run.url}")
        verdict, detail = of_port(url="http://127.0.0.1:1")
        assert (verdict, detail.startswith(f"Port {port} of 127.0.0.1 is in use: another")) == ("note", True)

    def test_versions_are_loaded_pinned_and_unloaded(self, run: Command, shared_server: Server) -> None:
        with shared_server.client() as client:
            job = {"kind": "import", "architecture": examples.NET, "output": {"model": "resident"}}
            run_job(client, job)
        path = "/v1/models/{name}/versions/{number}"
        tried = run.json("models", "load", "resident/1", "--dry-run", operation=f"POST {path}/load")
        kept = run.json("models", "load", "resident/1", "--pin", operation=f"POST {path}/load")
        there = run.json("models", "loaded", operation="GET /v1/loaded")
        gone = run.json("models", "unload", "resident/1", operation=f"POST {path}/unload")

        assert (tried["loaded"], tried["fits"]) == (False, True)
        assert (kept["loaded"], kept["pinned"]) == (True, True)
        assert [one["pinned"] for one in there["data"] if one["model"] == "resident"] == [True]
        assert gone["drained"]
        assert "evicts nothing" in run("models", "load", "resident/1", "--dry-run").stdout
        assert "are taken" in run("models", "loaded").stderr


class TestKeysOfALesserScope:
    def test_a_key_for_predictions_asks_with_a_table_and_a_key_for_training_learns_of_its_limit(
        self, make_server: Callable[..., Server], homes: Path, tmp_path: Path
    ) -> None:
        made = {scope: keys.make(scope.word, scope, now=datetime.now(UTC)) for scope in keys.Scope}
        stored = ", ".join(one.model_dump_json() for _, one in made.values())
        run = Command(make_server(api_keys=f"[{stored}]"), {})
        predict, train, admin = (made[scope][0] for scope in (keys.Scope.PREDICT, keys.Scope.TRAIN, keys.Scope.ADMIN))
        common = ("train", homes, "--target", "price", "--model", "homes", "--epochs", 2, "--wait")
        run(*common, key=admin)
        refused = run(*common, key=train, code=6).stderr
        unpublished = run(*common, "--alias", "", key=train).stderr
        (tmp_path / "more.csv").write_text("site,rooms,area_m2,door\nn,2,70,3\ns,3,80,4\n")
        (tmp_path / "rows.json").write_text('[[70.5, 2, "n"]]')

        assert refused == (
            "A training that sets the alias champion needs the scope publish; the key 'train' has train. Use a key of "
            "the scope publish, or pass --alias '' to make a version that no alias gets.\n"
        )
        request = {**examples.TRAIN, "output": {"model": "homes", "alias_on_success": {"best": "loss < best.loss"}}}
        (tmp_path / "request.json").write_text(json.dumps(request))
        for scope in (keys.Scope.PREDICT, keys.Scope.READ):
            lesser, has = made[scope][0], f"the key '{scope.word}' has {scope.word}"
            assert run(*common, key=lesser, code=6).stderr == (
                f"A training that sets the alias champion needs the scope publish; {has}. Use a key of the scope "
                "publish; one of the scope train is enough if you pass --alias '' too, to make a version that no alias "
                "gets.\n"
            )
            assert run(*common, "--alias", "", key=lesser, code=6).stderr == (
                f"This needs the scope train; {has}. Use a key of the scope train.\n"
            )
            assert run("train", tmp_path / "request.json", key=lesser, code=6).stderr == (
                f"A training that sets the alias best needs the scope publish; {has}. Use a key of the scope publish; "
                "one of the scope train is enough if you leave `alias_on_success` out too, to make a version that no "
                "alias gets.\n"
            )
        tried = run(*common[:-1], "--dry-run", key=train, code=7).stderr
        assert tried.endswith(
            "--alias: A job that sets an alias needs the scope publish; the key 'train' has train. Use a key of the "
            "scope publish, or pass --alias '' to make a version that no alias gets.\n"
        )
        assert "modelyard predict homes/2 FILE.csv" in unpublished
        (tmp_path / "new.csv").write_text("site;rooms;area_m2\nn;2;70,5\n")
        ways = [(tmp_path / "new.csv",), (tmp_path / "rows.json",), ("--inputs", '[[70.5, 2, "n"]]')]
        by_key = [
            json.loads(run("predict", "homes", *way, "-o", "json", key=key).stdout)["outputs"]
            for way in ways
            for key in (predict, admin)
        ]
        assert all(outputs == by_key[0] for outputs in by_key)
        (tmp_path / "less.csv").write_text("site,door,area_m2\nn,2,70\n")
        (tmp_path / "grouped.csv").write_text("site;rooms;area_m2\nn;2;1.493\n")
        (tmp_path / "odd.csv").write_text("site,rooms,area_m2\nn,2,70\nn,2,k.A.\nn,2,71\nn,2,K.A.\n")
        (less, _), (grouped, _), (more, _), (odd, _) = pairs = [
            tuple(
                run("predict", "homes", tmp_path / f"{name}.csv", "-o", "csv", key=key, code=code)
                for key in (predict, admin)
            )
            for name, code in (("less", 7), ("grouped", 0), ("more", 0), ("odd", 7))
        ]
        assert all((one.stdout, one.stderr) == (other.stdout, other.stderr) for one, other in pairs)
        assert more.stdout.startswith("site,rooms,area_m2,door,prediction\nn,2,70,3,")
        assert less.stderr == "The file has no column 'rooms'.\nhomes/1 takes: area_m2, rooms, site.\n"
        assert grouped.stdout.startswith("site;rooms;area_m2;prediction\nn;2;1.493;")
        assert odd.stderr.splitlines()[1:] == [
            "Lines 3 ('k.A.'), 5 ('K.A.'): Column 'area_m2' takes numbers. Expected a number."
        ]
        assert run("jobs", "list", key=predict, code=6).stderr == (
            "This needs the scope read; the key 'predict' has predict. Use a key of the scope read.\n"
        )

    def test_the_hint_does_not_hang_on_the_words_of_the_server(self) -> None:
        refused = Forbidden("Not with this key.", scope="publish")
        refused.errors = (Entry("", "forbidden", refused.message, hint=refused.hint),)
        with pytest.raises(Forbidden) as told, training._told_scope("champion", "pass --alias ''"):
            raise refused

        assert told.value.message == "A training that sets the alias champion needs the scope publish."
        assert told.value.errors[0].hint == (
            "Use a key of the scope publish, or pass --alias '' to make a version that no alias gets."
        )


class TestKeysFile:
    def test_every_command_answers_programs_and_only_those_that_make_a_key_show_one(
        self, run: Command, tmp_path: Path
    ) -> None:
        at = ("--file", tmp_path / "keys.toml")
        made = json.loads(run("keys", "create", "--name", "ci", "--scope", "read", *at, "-o", "json").stdout)
        shop = run("keys", "create", "--name", "shop", "--scope", "predict", "--rows-per-minute", 60, *at)
        listed = run("keys", "list", *at, "-o", "json").stdout
        lines = run("keys", "list", *at, "-o", "jsonl").stdout.splitlines()
        rows = list(csv.DictReader(io.StringIO(run("keys", "list", *at, "-o", "csv").stdout)))
        successor = json.loads(run("keys", "rotate", "ci", *at, "-o", "jsonl").stdout)
        revoked = json.loads(run("keys", "revoke", "ci", *at, "-o", "json").stdout)

        assert shop.stderr.endswith(
            "A server knows the keys of this file when it is started with "
            f"MODELYARD_API_KEYS_FILE={tmp_path / 'keys.toml'}\n"
        )
        secret = made.pop("key")
        assert secret.startswith(f"msk_{made['id']}_")
        data = json.loads(listed)["data"]
        assert data[0] == made
        assert [(one["name"], one["scope"], one["state"]) for one in data] == [
            ("ci", "read", "live"),
            ("shop", "predict", "live"),
        ]
        assert [json.loads(line) for line in lines] == data
        assert [(row["id"], row["rows_per_minute"]) for row in rows] == [(made["id"], ""), (data[1]["id"], "60")]
        stored = [one["sha256"] for one in tomllib.loads((tmp_path / "keys.toml").read_text())["keys"]]
        assert not any(hidden in listed for hidden in (secret, *stored))
        assert successor["key"].startswith("msk_")
        assert [(one["id"], one["name"]) for one in revoked["revoked"]] == [(made["id"], "ci"), (successor["id"], "ci")]


class TestSettings:
    def test_each_setting_is_shown_with_its_origin(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("MODELYARD_PORT=7001\nMODELYARD_JOB_SLOTS=3\n")
        (tmp_path / "yard.toml").write_text('job_slots = 2\ndatabase_url = "postgresql+psycopg://me:secret@db/yard"\n')
        done = modelyard(
            *("config", "show", "--origin", "--changed", "-o", "json"),
            folder=tmp_path,
            port="7000",
            config=str(tmp_path / "yard.toml"),
        )
        found = {line["setting"]: (line["value"], line["origin"]) for line in json.loads(done.stdout)["data"]}

        assert found["MODELYARD_PORT"] == (7000, "environment")
        assert found["MODELYARD_JOB_SLOTS"] == (3, str(tmp_path / ".env"))
        assert found["MODELYARD_DATABASE_URL"] == (
            "postgresql+psycopg://me:********@db/yard",
            str(tmp_path / "yard.toml"),
        )
        assert "secret" not in done.stdout

    @pytest.mark.parametrize("command", ["serve", "config show", "store rebuild"])
    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            pytest.param(
                {"allowed_hosts": "example.org, b", "trusted_proxies": "[10.0.0.1]"},
                "MODELYARD_TRUSTED_PROXIES (from environment): this is no JSON list. Write it as '[\"10.0.0.1\"]'.\n"
                "MODELYARD_ALLOWED_HOSTS (from environment): this is no JSON list. "
                'Write it as \'["example.org", "b"]\'.\n',
                id="a list that is none",
            ),
            pytest.param(
                {"config": "broken.toml"},
                "MODELYARD_CONFIG: broken.toml is no TOML: invalid value (at line 1, column 8). "
                "Write a setting a line, such as port = 8000.\n",
                id="no TOML",
            ),
            pytest.param(
                {"config": "gone.toml"},
                "MODELYARD_CONFIG: there is no file gone.toml. Correct its path, or unset MODELYARD_CONFIG.\n",
                id="no file",
            ),
            pytest.param(
                {"config": "folder"},
                "MODELYARD_CONFIG: there is no file folder. Correct its path, or unset MODELYARD_CONFIG.\n",
                id="a folder",
            ),
            pytest.param(
                {"config": "latin.toml"},
                "MODELYARD_CONFIG: latin.toml cannot be read: it is no text in UTF-8. Name a TOML file in UTF-8.\n",
                id="another encoding",
            ),
            pytest.param(
                {"config": "unknown.toml"},
                "portt (from unknown.toml): there is no such setting. Did you mean 'port'?\n"
                "MODELYARD_HOST (from unknown.toml): there is no such setting. Did you mean 'host'?\n"
                "server (from unknown.toml): there is no such setting. Remove it, or correct its name: "
                "docs/reference/settings.md has them all.\n",
                id="unknown names",
            ),
            pytest.param(
                {"config": "values.toml"},
                "MODELYARD_PORT (from values.toml): Input should be less than or equal to 65535.\n"
                'MODELYARD_ALLOWED_HOSTS (from values.toml): Write it as a list: ["x"].\n'
                "MODELYARD_JOB_DEVICES (from values.toml), entry 2: String should match pattern "
                "'^cuda:[0-9]{1,2}$'.\n",
                id="wrong values",
            ),
        ],
    )
    def test_a_wrong_setting_is_one_line_with_what_would_be_right(
        self, tmp_path: Path, command: str, settings: dict[str, str], told: str
    ) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "broken.toml").write_text("port = \n")
        (tmp_path / "latin.toml").write_bytes('host = "größe"\n'.encode("latin-1"))
        (tmp_path / "unknown.toml").write_text('portt = 1\nMODELYARD_HOST = "x"\n[server]\nport = 1\n')
        (tmp_path / "values.toml").write_text('port = 70000\nallowed_hosts = "x"\njob_devices = ["cuda:0", "gpu"]\n')
        done = modelyard(*command.split(), folder=tmp_path, **settings)

        assert (done.returncode, done.stdout, done.stderr) == (2, "", told)

    def test_a_wrong_list_in_the_file_of_the_folder_is_told_with_that_file(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("MODELYARD_ALLOWED_HOSTS=example.org\n")
        done = modelyard("config", "show", folder=tmp_path)

        assert (done.returncode, done.stderr) == (
            2,
            f"MODELYARD_ALLOWED_HOSTS (from {tmp_path / '.env'}): this is no JSON list. "
            "Write it as '[\"example.org\"]'.\n",
        )


class TestExitCodes:
    def test_each_kind_of_failure_has_its_own(self, run: Command, tmp_path: Path, flower_job: Any) -> None:
        (tmp_path / "wrong.json").write_text('{"kind": "train"}')
        (tmp_path / "broken.yaml").write_text("a: [")
        (tmp_path / "table.csv").write_text("x,y\n1,2\n")

        run("train", code=2)
        run("train", tmp_path / "table.csv", code=2)
        run("jobs", "list", url="http://127.0.0.1:1", code=3)
        run("jobs", "list", url="yard:8000", code=2)
        run("jobs", "show", "job_" + "0" * 32, code=4)
        run("train", tmp_path / "wrong.json", code=7)
        run("train", tmp_path / "broken.yaml", code=7)
        run("train", tmp_path / "wrong.json", "--epochs", 3, code=2)
        run("predict", "flowers", tmp_path / "table.csv", code=7)
        run("predict", "flowers", "--inputs", "[[1, 2]]", code=7)
        run("predict", "flowers", "--inputs", "[[1, ", code=7)
        (tmp_path / "latin.csv").write_bytes("größe\n1\n".encode("latin-1"))
        run("predict", "flowers", tmp_path / "latin.csv", code=7)

    @pytest.mark.parametrize(
        "arguments",
        [
            "train absent.json",
            "train absent.csv --target y --model m",
            "train absent.parquet --target y --model m",
            "validate absent.yaml",
            "doctor absent.json",
            "datasets add absent.csv",
            "datasets add absent.npz",
            "predict flowers absent.csv",
            "predict flowers absent/rows.json",
            "import absent.pt --model m",
            "import absent.json",
            "export flowers --to absent/flowers.zip",
        ],
    )
    @pytest.mark.usefixtures("flower_job")
    def test_a_file_that_is_not_there_ends_every_command_alike(self, run: Command, arguments: str) -> None:
        [line] = run(*arguments.split(), code=7).stderr.splitlines()

        assert re.fullmatch(r"absent\S*: No such file or directory\.|There is no folder absent to write to\.", line)

    def test_the_options_of_the_server_stand_before_the_command_or_behind_it(self, run: Command) -> None:
        nobody, elsewhere = "http://127.0.0.1:1", ("--url", "http://127.0.0.1:2")
        ways = [
            ("--url", run.url, "jobs", "list"),
            ("jobs", "--url", run.url, "list"),
            ("jobs", "list", "--url", run.url),
        ]

        for way in ways:
            assert run(*way, "-o", "json", url=nobody).stdout.startswith("{")
        assert run("-o", "json", "jobs", "list").stdout.startswith("{")
        assert run("-o", "json", "jobs", "list", "-o", "csv").stdout.startswith("id,")
        run(*elsewhere, "jobs", *elsewhere, "list", "--url", run.url, url=nobody)  # the last one counts
        assert "No server answers at http://127.0.0.1:2." in run(*elsewhere, "models", "list", code=3).stderr
        assert run(*elsewhere, "keys", "list", code=2).stderr == (
            "--url: only commands that ask a server take this before their name; keys does not.\n"
        )

    def test_a_model_or_a_column_that_is_not_there_is_told_once_with_what_is_near(
        self, run: Command, tmp_path: Path, flower_job: Any
    ) -> None:
        none = "job_" + "0" * 32
        (tmp_path / "near.csv").write_text("sepal_lenght,sepal_width,petal_length,width,garden\n5,3,1,0.2,north\n")
        (tmp_path / "taken.csv").write_text("sepal_lengths,sepal_width,petal_length,garden\n5,3,1,north\n")

        assert run("models", "show", "flower", code=4).stderr == (
            "There is no model 'flower'. Did you mean 'flowers'?\n"
        )
        assert run("jobs", "show", none, code=4).stderr == (
            f"There is no job {none!r}. See what there is with: modelyard jobs list\n"
        )
        assert run("models", "show", "flowers/99", code=4).stderr == (
            "Version 99 of 'flowers' does not exist. Its version is 1.\n"
        )
        assert run("predict", "flowers", tmp_path / "near.csv", code=7).stderr.splitlines()[:2] == [
            "The file has no columns 'sepal_length' and 'petal_width'.",
            "sepal_length: Did you mean 'sepal_lenght'?",
        ]
        assert run("predict", "flowers", tmp_path / "taken.csv", code=7).stderr.splitlines()[1:] == [
            "sepal_length: Did you mean 'sepal_lengths'?",  # and not, of petal_width, one that is taken as it is
            f"flowers/1 takes: {', '.join(HEADS)}, garden.",
        ]

    def test_mistakes_in_a_file_of_rows_are_told_by_its_lines_and_together(
        self, run: Command, tmp_path: Path, flower_job: Any
    ) -> None:
        head, whole = ",".join([*HEADS, "garden"]), "5.1,3.5,1.4,0.2,north"
        gap, word = "5.1,3.5,,0.2,north", 'old,3.5,1.4,0.2,"no\nrth"'
        path = tmp_path / "gaps.csv"
        path.write_text("\n".join([head, whole, "", word, gap, *[whole, gap] * 4]) + "\n")
        lines = run("predict", "flowers", path, code=7).stderr.splitlines()
        path.write_text("\n".join([head, *[whole] * 1200, gap]) + "\n")

        assert lines == [
            "The values do not have the type that is expected.",
            "Line 4 ('old'): Column 'sepal_length' takes numbers. Expected a number.",
            "Lines 6, 8, 10 and 2 more: Column 'petal_length' has no value, and this version needs one. "
            "Send a number. Only a version that was trained with gaps in this column does without.",
        ]
        assert "Line 1202: Column 'petal_length' has no value" in run("predict", "flowers", path, code=7).stderr

    def test_every_mistake_is_one_line_with_its_place(self, run: Command, tmp_path: Path) -> None:
        (tmp_path / "wrong.json").write_text(json.dumps({**examples.TRAIN, "optimizer": {"type": "SGD"}, "sede": 1}))
        done = run("train", tmp_path / "wrong.json", code=7)
        lines = done.stderr.splitlines()

        assert done.stdout == ""
        assert any(line.startswith("/optimizer/lr: ") for line in lines)
        assert any(line.startswith("/sede: ") and "seed" in line for line in lines)

    def test_what_a_server_says_cannot_steer_the_terminal(self, run: Command) -> None:
        done = run("models", "show", "x\x1b[2Jy@champion", code=7)

        assert "\x1b[2J" not in done.output

    def test_those_that_a_single_server_without_keys_does_not_show(self) -> None:
        assert exit_code(Unauthenticated()) == exit_code(Forbidden()) == 6
        assert exit_code(Overloaded()) == exit_code(Draining()) == 8

    def test_ctrl_c_leaves_the_job_and_says_how_to_go_on(
        self, run: Command, shared_server: Server, tmp_path: Path
    ) -> None:
        request = {**examples.TRAIN, "budget": {"max_seconds": 600}, "output": {"model": "detached"}}
        (tmp_path / "long.json").write_text(json.dumps(request))
        started = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "train", "long.json", "--wait"],
            env=environment(tmp_path, url=shared_server.url),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with shared_server.client() as client:
            listed = {"model": "detached", "state": "running"}
            job = wait_for(lambda: client.get("/v1/jobs", params=listed).json()["data"], timeout=60)[0]
            started.send_signal(signal.SIGINT)
            _, told = started.communicate(timeout=60)

            assert started.returncode == 130
            assert f"modelyard jobs watch {job['id']}" in told
            assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "running"
            client.post(f"/v1/jobs/{job['id']}/cancel")
