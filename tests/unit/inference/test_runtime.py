"""The budget of loaded versions: what goes for whom, what stays, and what is refused before it is read."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from service.dataplane import DataPlane
from service.engine import build, checkpoint
from service.engine.predictor import GOLDEN
from service.errors import MemoryFull, NotFound, ServiceError
from service.inference.codec import Limits
from service.inference.runtime import Loaded, Runtime
from service.jobs.queue import JobQueue
from service.jobs.staging import stage
from service.openinference import OpenInference
from service.schemas.engines import EngineRecord
from service.schemas.judgement import require
from service.schemas.preprocessing import NONE
from service.schemas.versions import VersionFile
from service.store.database import Database
from service.store.models import ModelStore
from service.telemetry import Metrics

Publish = Callable[..., int]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def models(tmp_path: Path) -> Iterator[ModelStore]:
    (tmp_path / "store").mkdir()
    with Database(f"sqlite:///{tmp_path}/store/modelyard.sqlite3") as opened:
        opened.own()
        store = ModelStore(tmp_path / "store", opened)
        store.recover()
        yield store


@pytest.fixture
def publish(models: ModelStore, tmp_path: Path) -> Publish:
    def publish(model: str, width: int = 50) -> int:
        layers = [{"type": "Linear", "in_features": 2, "out_features": width}]
        net = {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 2]}]}
        judged = require({**net, "root": {"type": "Sequential", "layers": layers}})
        assert judged.architecture is not None
        folder = tmp_path / f"staged-{model}"
        module = build.build(judged.architecture)
        draft = stage(
            folder, judged.architecture, NONE, module, None, {}, {"resolved_spec": {"output": {"model": model}}}, 1
        )
        return models.publish(folder, model=model, draft=draft, job_id=None).size_bytes

    return publish


def names(runtime: Runtime) -> list[str]:
    return [one.model for one in runtime.residents()]


def counted(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def test_what_was_asked_longest_ago_goes_and_the_preflight_says_so(models: ModelStore, publish: Publish) -> None:
    metrics = Metrics()
    size = max(publish(name) for name in ("a", "b", "c"))
    runtime = Runtime(models, budget_bytes=2 * size + size // 2, metrics=metrics)
    runtime.get("a", 1)
    runtime.get("b", 1)
    runtime.get("a", 1)
    told = runtime.preflight("c", 1)

    assert [one.model for one in told.evicts] == ["b"]
    assert told.fits
    assert told.sentence() == f"Loading c/1 needs {size / 1000:.1f} kB, would evict b/1."
    runtime.get("c", 1)
    assert names(runtime) == ["a", "c"]
    assert runtime.preflight("c", 1).sentence().startswith("c/1 is loaded")
    assert counted(metrics, "modelyard_version_evictions_total", reason="budget") == 1
    assert counted(metrics, "modelyard_version_loads_total", outcome="ok") == 3
    assert runtime.get("b", 1).source.version == 1  # type: ignore[union-attr]  # a version, no checkpoint


def test_what_is_pinned_stays_and_what_does_not_fit_beside_it_is_refused(models: ModelStore, publish: Publish) -> None:
    metrics = Metrics()
    size = max(publish(name) for name in ("a", "b", "c"))
    runtime = Runtime(models, budget_bytes=2 * size, metrics=metrics)
    for name in ("a", "b"):
        runtime.get(name, 1)
        models.pin(name, 1, pinned=True)
    refused = runtime.preflight("c", 1)

    assert not refused.fits
    assert not refused.evicts
    with pytest.raises(MemoryFull, match=r"does not fit into the budget .* beside the versions that are pinned"):
        runtime.get("c", 1)
    assert names(runtime) == ["a", "b"]
    assert counted(metrics, "modelyard_version_loads_total", outcome="refused") == 1

    models.pin("a", 1, pinned=False)
    runtime.get("c", 1)
    assert names(runtime) == ["b", "c"]


def test_pins_are_the_stores_and_go_with_their_version(models: ModelStore, publish: Publish) -> None:
    publish("a")
    models.pin("a", 1, pinned=True)
    models.pin("a", 1, pinned=True)

    assert models.pins() == {("a", 1)}
    with pytest.raises(NotFound):
        models.pin("a", 2, pinned=True)
    models.delete_version("a", 1, force=True)
    assert models.pins() == frozenset()


def test_unloading_a_model_ends_the_pins_of_versions_too_that_are_not_loaded(
    models: ModelStore, publish: Publish, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        publish(name)
        models.pin(name, 1, pinned=True)
    metrics = Metrics()
    runtime = Runtime(models, budget_bytes=2**30, metrics=metrics)
    queue = JobQueue(Database(f"sqlite:///{tmp_path}/other.sqlite3"))
    plane = DataPlane(models, queue, tmp_path / "store", runtime, limits=Limits(rows=10, elements=10), metrics=metrics)
    view = OpenInference(plane, models, rows=10, elements=10, phase=lambda: "")
    asyncio.run(view.unload("a"))
    plane.close()

    assert models.pins() == {("b", 1)}


def test_what_is_larger_than_the_budget_is_refused_before_it_is_read(models: ModelStore, publish: Publish) -> None:
    size = publish("a", width=400)
    runtime = Runtime(models, budget_bytes=size - 1, metrics=Metrics())

    with pytest.raises(MemoryFull, match=r"Loading a/1 needs .* does not fit into the budget") as found:
        runtime.get("a", 1)
    assert "pinned" not in found.value.message
    assert found.value.limit == {"name": "model_memory_bytes", "value": size - 1}
    with pytest.raises(MemoryFull):  # and nobody waits for a load that has ended
        runtime.get("a", 1)


class Counting(Runtime):
    """Counts the loads that are under way at the same time."""

    together = 0
    most = 0

    def _attempt(self, model: str, version: int) -> Loaded | ServiceError:
        with self._mutex:
            self.together += 1
            self.most = max(self.most, self.together)
        time.sleep(0.1)
        try:
            return super()._attempt(model, version)
        finally:
            with self._mutex:
                self.together -= 1


@pytest.mark.parametrize(
    ("budget", "most", "stay"),
    [(2.5, 1, {"pinned"}), (3.5, 2, {"pinned", "a", "b"})],
    ids=["one after the other", "both"],
)
def test_loads_at_the_same_time_share_the_budget(
    budget: float, most: int, stay: set[str], models: ModelStore, publish: Publish
) -> None:
    size = max(publish(name) for name in ("pinned", "a", "b"))
    runtime = Counting(models, budget_bytes=int(budget * size), metrics=Metrics())
    runtime.get("pinned", 1)
    models.pin("pinned", 1, pinned=True)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda name: runtime.get(name, 1).number, ("a", "b")))

    assert len(set(found)) == 2
    assert runtime.most == most
    assert stay <= set(names(runtime))
    assert sum(one.size_bytes for one in runtime.residents()) <= runtime.budget_bytes


@pytest.mark.parametrize(("budget", "most"), [(1.5, 1), (2.5, 2)], ids=["one after the other", "both"])
def test_a_version_that_is_only_checked_has_a_part_of_the_budget_meanwhile(
    budget: float, most: int, models: ModelStore, publish: Publish
) -> None:
    size = max(publish(name) for name in ("a", "b"))
    runtime = Counting(models, budget_bytes=int(budget * size), metrics=Metrics())
    with ThreadPoolExecutor(2) as threads:
        checked, loaded = threads.submit(runtime.check, "a", 1), threads.submit(runtime.get, "b", 1)
        checked.result(), loaded.result()

    assert runtime.most == most
    assert names(runtime) == ["b"]
    runtime.check("a", 1)  # for which b would go, if it were kept
    assert names(runtime) == ["b"]


def test_a_version_that_does_not_fit_is_not_read_to_be_checked(models: ModelStore, publish: Publish) -> None:
    size = publish("a")
    runtime = Counting(models, budget_bytes=size - 1, metrics=Metrics())

    with pytest.raises(MemoryFull, match=r"Loading a/1 needs .* does not fit into the budget"):
        runtime.check("a", 1)
    assert runtime.most == 0


def test_a_version_that_is_let_go_lives_until_its_last_user_has_ended(models: ModelStore, publish: Publish) -> None:
    publish("a")
    runtime = Runtime(models, budget_bytes=2**30, metrics=Metrics())
    held = runtime.get("a", 1)
    leaving = runtime.forget("a", 1)

    assert leaving is not None
    assert leaving() is held
    assert runtime.peek("a", 1) is None
    del held
    gc.collect()
    assert leaving() is None
    assert runtime.forget("a", 1) is None


def test_many_who_ask_at_once_share_one_load(models: ModelStore, publish: Publish) -> None:
    metrics = Metrics()
    publish("a")
    runtime = Runtime(models, budget_bytes=2**30, metrics=metrics)
    together = threading.Barrier(8)

    def ask(_: int) -> int:
        together.wait()
        return runtime.get("a", 1).number

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(ask, range(8)))) == 1
    assert counted(metrics, "modelyard_version_loads_total", outcome="ok") == 1


def test_every_size_of_a_batch_is_tried_when_a_version_is_loaded(models: ModelStore, publish: Publish) -> None:
    publish("a")
    predictor = Runtime(models, budget_bytes=2**30, metrics=Metrics()).get("a", 1).predictor
    golden = checkpoint.load(models.folder("a", 1) / GOLDEN)

    assert predictor.warm(golden, most=64) == (2, 4, 8, 16, 32, 64)
    assert predictor.warm(golden, most=1) == ()


def test_torch_serves_where_an_engine_cannot_be_used(models: ModelStore, tmp_path: Path) -> None:
    net = {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 2]}]}
    judged = require({**net, "root": {"type": "Linear", "in_features": 2, "out_features": 1}})
    assert judged.architecture is not None
    staged, code = tmp_path / "staged", b"for another processor"
    module = build.build(judged.architecture)
    draft = stage(staged, judged.architecture, NONE, module, None, {}, {"resolved_spec": {}}, 1)
    (staged / "engine.pt2").write_bytes(code)
    file = VersionFile(name="engine.pt2", size_bytes=len(code), sha256=hashlib.sha256(code).hexdigest())
    engine = EngineRecord(type="aot_inductor", file="engine.pt2", built_with={"machine": "another"})
    forged = draft.model_copy(update={"engine": engine, "files": (*draft.files, file)})
    models.publish(staged, model="net", draft=forged, job_id=None)
    runtime = Runtime(models, budget_bytes=1_000_000, metrics=Metrics())

    assert runtime.get("net", 1).predictor.engine == "eager"
    assert models.version("net", 1).state == "ready"
