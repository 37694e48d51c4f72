"""The files around the code keep their promises: container, compose, store folder, scripts, pages and their links."""

from __future__ import annotations

import ast
import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from service import __version__
from service.errors import CHECKPOINT_REASONS, FAILURE_CODES, WARNINGS, CheckpointReason, ServiceError
from service.rest import problems
from service.rest.auth import ACCESS, OPEN
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SERVICES = ("modelyard", "prometheus", "grafana", "tensorboard")
PAGES = sorted(
    [*ROOT.glob("*.md"), ROOT / "examples" / "README.md", *DOCS.rglob("*.md"), ROOT / "models_store" / "README.md"]
)


@pytest.mark.parametrize("name", SERVICES)
def test_compose_publishes_on_this_machine_only(name: str) -> None:
    ports = _compose(name)["ports"]

    assert ports
    assert all(str(port).startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", SERVICES)
def test_compose_takes_every_privilege_away(name: str) -> None:
    service = _compose(name)

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "privileged" not in service


def test_compose_starts_the_server_alone_unless_a_profile_is_asked_for() -> None:
    profiles = {name: _compose(name).get("profiles") for name in SERVICES}

    assert profiles == {
        "modelyard": None,
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
        "tensorboard": ["tensorboard"],
    }


@pytest.mark.parametrize("name", SERVICES)
def test_compose_pins_the_images_of_others(name: str) -> None:
    image = _compose(name)["image"]

    assert image == "modelyard" or re.fullmatch(r"\w+/\w+:v?\d+\.\d+\.\d+", image)


@pytest.mark.parametrize("name", SERVICES)
def test_what_compose_mounts_is_there(name: str) -> None:
    sources = [str(volume).split(":")[0] for volume in _compose(name).get("volumes", ())]
    named = _yaml(ROOT / "docker-compose.yml")["volumes"]

    for source in sources:
        assert source in named or source == "./keys" or (ROOT / source).exists(), source


def test_compose_waits_longer_for_the_end_than_the_server_may_take() -> None:
    service = _compose()
    delay = float(service["environment"]["MODELYARD_DRAIN_DELAY_S"])
    timeout = Settings.model_fields["drain_timeout_s"].default

    assert float(service["stop_grace_period"].removesuffix("s")) > delay + timeout


def test_compose_sets_only_settings_that_exist() -> None:
    names = {f"MODELYARD_{name.upper()}" for name in Settings.model_fields}

    assert set(_compose()["environment"]) <= names


def test_the_image_runs_as_a_user_without_privileges() -> None:
    last_user = [words for name, words in _stages()[-1] if name == "USER"][-1]

    assert re.fullmatch(r"[1-9][0-9]+:[1-9][0-9]+", last_user)


def test_the_image_starts_the_service_itself_so_that_signals_reach_it() -> None:
    runtime = dict(_stages()[-1])

    assert json.loads(runtime["ENTRYPOINT"]) == ["modelyard"]
    assert json.loads(runtime["CMD"]) == ["serve"]
    assert runtime["STOPSIGNAL"] == "SIGTERM"


def test_the_image_holds_no_package_manager_run_and_no_compiler() -> None:
    runs = " ".join(words for name, words in _stages()[-1] if name == "RUN")

    assert not re.search(r"\b(apt|apt-get|pip|gcc|build-essential)\b", runs)


def test_the_images_base_is_pinned_by_a_tag() -> None:
    text = (ROOT / "Dockerfile").read_text()
    base = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", text, re.MULTILINE)

    assert base is not None
    assert re.fullmatch(r"python:3\.\d+(\.\d+)?-slim(-\w+)?(@sha256:[0-9a-f]{64})?", base[1])
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON_IMAGE}"}


def test_the_images_label_names_the_version_that_it_holds() -> None:
    assert f"ARG VERSION={__version__}\n" in (ROOT / "Dockerfile").read_text()


def test_torch_is_pinned_wherever_it_is_installed() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch")]
    installs = [
        line
        for name in ("Dockerfile", "Makefile")
        for line in (ROOT / name).read_text().splitlines()
        if re.search(r"(pip|\$\(PIP\)) install .*(torch|\[all\]|--group)", line)
    ]

    assert len(pins) == 1
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+", pins[0])
    assert len(installs) == 4
    assert all("constraints.txt" in line for line in installs)


def test_the_pods_wait_longer_for_their_end_than_the_server_may_take() -> None:
    pod = _pod()
    delay = float(_environment(pod)["MODELYARD_DRAIN_DELAY_S"])
    timeout = Settings.model_fields["drain_timeout_s"].default

    assert pod["terminationGracePeriodSeconds"] > delay + timeout


def test_the_pods_set_only_settings_that_exist() -> None:
    names = {f"MODELYARD_{name.upper()}" for name in Settings.model_fields}
    [runtime] = _manifests("serving-runtime.yaml")

    assert set(_environment(_pod())) | set(_environment(runtime["spec"])) <= names
    assert _pod()["enableServiceLinks"] is False  # else Kubernetes sets MODELYARD_PORT


def test_the_pods_probes_ask_what_needs_no_key() -> None:
    [runtime] = _manifests("serving-runtime.yaml")
    for pod in (_pod(), runtime["spec"]):
        [container] = pod["containers"]
        paths = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}

        assert all(ACCESS[f"GET {path}"] == OPEN for path in paths)


def test_the_serving_runtime_is_a_pod_that_kserve_can_start() -> None:
    [runtime] = _manifests("serving-runtime.yaml")
    [container] = runtime["spec"]["containers"]
    spec = {name: runtime["spec"][name] for name in ("containers", "volumes")}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}

    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    assert container["name"] == "kserve-container"
    assert container["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "/mnt/models" in container["args"]


def test_the_development_container_installs_what_the_judgement_needs() -> None:
    told = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    needed = re.findall(r"^need \S+ (\S+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)

    assert needed
    assert set(needed) <= set(told["onCreateCommand"].split())
    assert told["updateContentCommand"].startswith("make dev ")
    assert Settings.model_fields["port"].default in told["forwardPorts"]


def test_the_notebooks_of_the_examples_are_those_of_their_scripts() -> None:
    command = [sys.executable, "scripts/notebooks.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr


def test_git_keeps_nothing_that_a_server_writes_into_the_default_store() -> None:
    lines = (ROOT / "models_store" / ".gitignore").read_text().splitlines()

    assert [line for line in lines if not line.startswith("#")] == ["*", "!.gitignore", "!README.md"]


@pytest.mark.parametrize("name", ["check", "fix", "acceptance", "bench", "../.ci/run"])
def test_a_script_can_be_run_and_stops_at_the_first_error(name: str) -> None:
    script = ROOT / "scripts" / name
    text = script.read_text()

    assert os.access(script, os.X_OK)
    assert text.startswith("#!")
    assert re.search(r"^set -eu", text, re.MULTILINE)


def test_hooks_call_scripts_that_exist() -> None:
    hooks = [hook for repo in _yaml(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]

    assert hooks
    assert all(os.access(ROOT / hook["entry"], os.X_OK) for hook in hooks)


def test_every_page_is_reached_from_the_index() -> None:
    reached = set()
    pending = [DOCS / "README.md"]
    while pending:
        page = pending.pop()
        if page not in reached and page.is_file():
            reached.add(page)
            pending += [target for target, _ in _links(page) if target.suffix == ".md" and target.is_relative_to(DOCS)]

    assert reached == set(DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_of_a_page_is_broken(page: Path) -> None:
    broken = [
        f"{target.relative_to(ROOT)}#{anchor}"
        for target, anchor in _links(page)
        if not target.exists() or (anchor and anchor not in _anchors(target))
    ]

    assert broken == []


def test_every_problem_is_documented_with_its_status() -> None:
    raised = {kind.code: _status(kind) for kind in _error_classes() if kind is not ServiceError}
    answered = {code: status for status, (code, _) in problems.FRAMEWORK.items()}
    documented = {row[0]: int(row[1]) for row in _table("reference/errors.md", "Problem codes")}

    assert documented == answered | raised


def test_every_problem_is_documented_with_the_remedy_that_answers_name() -> None:
    documented = {row[0]: row[3] for row in _table("reference/errors.md", "Problem codes")}

    assert documented == {code: remedy.strip("`") for code, remedy in problems.REMEDIES.items()}


@pytest.mark.parametrize("code", sorted(problems.REMEDIES))
def test_what_a_problem_links_to_says_what_the_reference_says(code: str) -> None:
    [row] = [row for row in _table("reference/errors.md", "Problem codes") if row[0] == code]
    page = problems.page(code)

    assert page is not None
    told = html.unescape(bytes(page.body).decode()).replace("`", "")
    assert [words for words in row[2:4] if f">{words.replace('`', '')}<" not in told] == []


def test_every_failure_of_a_job_is_documented() -> None:
    assert [row[0] for row in _table("reference/errors.md", "Failure codes")] == list(FAILURE_CODES)


def test_every_reason_of_a_refused_checkpoint_is_documented() -> None:
    documented = [row[0] for row in _table("reference/errors.md", "Reasons of a refused checkpoint")]

    assert documented == list(get_args(CheckpointReason)) == list(CHECKPOINT_REASONS)


def test_every_warning_is_documented() -> None:
    """`-missing` and `-twice` have the name of an activation before them."""
    made = {code for path in sorted((ROOT / "service").rglob("*.py")) for code in _warnings_made(path)}

    assert [row[0] for row in _table("reference/errors.md", "Warnings")] == list(WARNINGS)
    assert made - {"-missing", "-twice"} <= set(WARNINGS)


def test_no_warning_is_documented_that_nothing_makes() -> None:
    sources = [path.read_text() for path in (ROOT / "service").rglob("*.py") if path.name != "errors.py"]
    gone = {code for code in WARNINGS if not any(f'"{code}"' in source for source in sources)}

    assert gone == {"logsoftmax-missing", "sigmoid-missing"}  # which the source puts together


def test_every_setting_is_documented() -> None:
    names = {f"MODELYARD_{name.upper()}" for name in Settings.model_fields}

    assert {row[0] for row in _table("reference/settings.md", "Variables")} == names


def test_every_alert_is_documented() -> None:
    groups = _yaml(ROOT / "deploy" / "monitoring" / "rules.yml")["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]

    assert [row[0] for row in _table("guide/operate.md", "Prometheus and Grafana")] == alerts


def test_the_readme_names_only_settings_that_exist() -> None:
    named = set(re.findall(r"MODELYARD_[A-Z_]+", (ROOT / "README.md").read_text()))

    of_the_command = set(re.findall(r'envvar="(MODELYARD_[A-Z_]+)"', (ROOT / "service/cli/session.py").read_text()))

    assert named - {"MODELYARD_CONFIG"} - of_the_command <= {
        f"MODELYARD_{name.upper()}" for name in Settings.model_fields
    }


def _yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def _compose(name: str = "modelyard") -> Any:
    return _yaml(ROOT / "docker-compose.yml")["services"][name]


def _manifests(name: str) -> list[Any]:
    return list(YAML(typ="safe").load_all(ROOT / "deploy" / "kubernetes" / name))


def _pod() -> Any:
    [deployment] = [one for one in _manifests("modelyard.yaml") if one["kind"] == "Deployment"]
    return deployment["spec"]["template"]["spec"]


def _environment(pod: Any) -> dict[str, str]:
    return {pair["name"]: pair["value"] for container in pod["containers"] for pair in container["env"]}


def _stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile, as (name, the rest)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    stages: list[list[tuple[str, str]]] = []
    for line in text.splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            stages.append([])
        if name and stages:
            stages[-1].append((name, rest.strip()))
    return stages


def _links(page: Path) -> Iterator[tuple[Path, str]]:
    """The relative links of a page, as (file, anchor)."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", link):
            name, _, anchor = link.partition("#")
            yield ((page.parent / name).resolve() if name else page), anchor


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _table(page: str, heading: str) -> list[list[str]]:
    """The rows of the table under a heading, without marks."""
    text = (DOCS / page).read_text()
    section = re.split(r"^#+ ", text.split(f"\n## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in row] for row in rows]


def _warnings_made(path: Path) -> Iterator[str]:
    """The codes of entries that are added to `warnings`, or made by a function that says that it warns."""
    for node in ast.walk(ast.parse(path.read_text())):
        warns = isinstance(node, ast.FunctionDef) and "warning" in node.name
        adds = isinstance(node, ast.Call) and re.fullmatch(r"(.*\.)?warnings\.append", ast.unparse(node.func))
        for inner in ast.walk(node) if warns or adds else ():
            if isinstance(inner, ast.Call) and ast.unparse(inner.func) == "Entry" and len(inner.args) > 1:
                code = inner.args[1]  # what is no literal here is a failure's code
                parts = code.values if isinstance(code, ast.JoinedStr) else [code]
                yield from (str(part.value) for part in parts if isinstance(part, ast.Constant))


def _status(kind: type[ServiceError]) -> int:
    return next(problems.STATUS[parent] for parent in kind.__mro__ if parent in problems.STATUS)


def _error_classes() -> Iterator[type[ServiceError]]:
    pending: list[type[ServiceError]] = [ServiceError]
    while pending:
        kind = pending.pop()
        pending += [child for child in kind.__subclasses__() if child.__module__ == ServiceError.__module__]
        yield kind
