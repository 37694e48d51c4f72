"""Hostile checkpoints in the cage: refused with a reason or read inertly, in little memory and time; nothing runs."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from service.engine import cage, legacy
from service.errors import CheckpointRefused
from tests.corpus import hostile

CANARY = Path("/tmp/modelyard-canary")  # noqa: S108 # a name in bytes that are never run
CASES = list(hostile.every(str(CANARY)))

_AUDITED = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from service.engine import containers, legacy
from service.errors import CheckpointRefused
import io, json.decoder, struct, zlib

FORBIDDEN = ("import", "exec", "compile", "os.", "subprocess.", "socket.", "pickle.", "marshal.", "ctypes.", "shutil.")
seen = []
allowed = set()

def hook(event, arguments):
    if event == "open" and arguments[0] not in allowed:
        seen.append((event, str(arguments[0])))
    if event.startswith(FORBIDDEN):
        seen.append((event, str(arguments)[:100]))

sys.addaudithook(hook)
for given in sys.argv[2:]:
    allowed.add(given)
    try:
        with open(given, "rb") as file:
            if containers.recognise(file)[0] == "mar":
                containers.unpack_mar(file, io.BytesIO(), limit=2**30)
            legacy.inspect_file(file)
    except CheckpointRefused:
        pass
sys.stdout.write(repr(seen))
"""


def test_there_are_many_hostile_files_and_each_is_another() -> None:
    assert len(CASES) >= 100
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_file_is_refused_with_a_reason_or_read_inertly(case: hostile.Hostile, tmp_path: Path) -> None:
    path = tmp_path / "hostile.pt"
    path.write_bytes(case.data)
    scratch = tmp_path / "scratch"
    limits = cage.DEFAULT

    start = time.monotonic()
    if case.reasons:
        with pytest.raises(CheckpointRefused) as refused:
            cage.inspect(path, scratch=scratch, limits=limits)
        assert refused.value.reason in case.reasons, refused.value.message
        assert len(refused.value.message) < 500
        assert refused.value.failure == ("unsafe_checkpoint" if case.reasons == {"code"} else "checkpoint_refused")
    else:
        found = cage.inspect(path, scratch=scratch, limits=limits)
        assert found.memory_bytes <= 100_000_000
        assert found.inspection.weights
    taken = time.monotonic() - start

    assert limits.memory_bytes <= 100_000_000  # of address space: what is resident cannot be more
    assert limits.cpu_s <= 3
    assert taken < limits.wall_s
    assert not CANARY.exists()


def test_nothing_is_imported_opened_or_started_for_any_of_them(tmp_path: Path) -> None:
    paths = []
    for index, case in enumerate(CASES):
        path = tmp_path / f"{index}.pt"
        path.write_bytes(case.data)
        paths.append(str(path))
    root = str(Path(cage.__file__).parents[2])

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _AUDITED, root, *paths], capture_output=True, text=True, timeout=120
    )

    assert (done.stdout, done.stderr) == ("[]", "")
    assert not CANARY.exists()


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_file_cut_anywhere_is_refused(form: str, tmp_path: Path) -> None:
    data = hostile.good(form)
    path = tmp_path / "cut.pt"
    for length in [*range(0, len(data), 7), len(data) - 1]:
        path.write_bytes(data[:length])

        with pytest.raises(CheckpointRefused) as refused:
            legacy.inspect(path)
        assert refused.value.reason in ("truncated", "damaged", "unsupported-format", "not-a-checkpoint"), length


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_flipped_bit_is_refused_or_leaves_a_readable_file(form: str, tmp_path: Path) -> None:
    """Whatever the bit, nothing but a refusal is raised; in a zip archive, no tensor is changed unseen."""
    data = hostile.good(form)
    path = tmp_path / "flipped.pt"
    path.write_bytes(data)
    whole = {t.name: bytes(found) for t, found in legacy.read_tensors(path, legacy.inspect(path))}
    chance = random.Random(7)
    refused = 0
    for _ in range(1500):
        place = chance.randrange(len(data))
        changed = bytearray(data)
        changed[place] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        try:
            found = {t.name: bytes(part) for t, part in legacy.read_tensors(path, legacy.inspect(path))}
        except CheckpointRefused:
            refused += 1
            continue
        assert form == "legacy" or found == whole, place

    assert refused > 300


def test_spliced_files_raise_nothing_but_refusals(tmp_path: Path) -> None:
    """Pieces of good and hostile files put together at random."""
    chance = random.Random(11)
    pool = [hostile.good("zip"), hostile.good("legacy"), *(case.data for case in CASES if len(case.data) < 5000)]
    path = tmp_path / "spliced.pt"
    for _ in range(1500):
        first, second = chance.choice(pool), chance.choice(pool)
        cut = chance.randrange(len(first) + 1)
        spliced = bytearray(first[:cut] + second[min(cut, len(second)) - chance.randrange(3) :])
        path.write_bytes(spliced)
        try:
            list(legacy.read_tensors(path, legacy.inspect(path)))
        except CheckpointRefused:
            pass


def test_a_child_that_takes_too_long_is_ended_and_the_file_refused(tmp_path: Path) -> None:
    path = tmp_path / "good.pt"
    path.write_bytes(hostile.good())

    with pytest.raises(CheckpointRefused, match="longer than") as refused:
        cage.inspect(path, scratch=tmp_path / "scratch", limits=replace(cage.DEFAULT, wall_s=0.001))
    assert refused.value.reason == "too-large"


def test_a_child_without_memory_is_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "long.pt"
    path.write_bytes(hostile.archive(hostile.memo_bomb(100_000)))

    with pytest.raises(CheckpointRefused) as refused:
        cage.inspect(path, scratch=tmp_path / "scratch", limits=replace(cage.DEFAULT, memory_bytes=30_000_000))
    assert refused.value.reason in ("too-large", "damaged")


def test_an_answer_that_is_too_long_is_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "good.pt"
    path.write_bytes(hostile.good())

    with pytest.raises(CheckpointRefused) as refused:
        cage.inspect(path, scratch=tmp_path / "scratch", limits=replace(cage.DEFAULT, answer_bytes=10))
    assert refused.value.reason == "too-large"


@pytest.mark.parametrize("stored", [False, True], ids=["deflated", "stored"])
def test_the_weights_of_a_torchserve_archive_are_taken_and_its_code_is_named(tmp_path: Path, stored: bool) -> None:
    path = tmp_path / "net.mar"
    model = {"serializedFile": "w.pt", "handler": "handler.py", "modelFile": "model.py", "modelVersion": "2.0"}
    code = {"handler.py": b"raise SystemExit", "model.py": b"raise SystemExit", "index_to_name.json": b"{}"}
    path.write_bytes(hostile.mar(model, {"w.pt": hostile.good(), **code}))
    if stored:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            path.write_bytes(hostile.zipped({name: archive.read(name) for name in archive.namelist()}))

    found = cage.inspect(path, scratch=tmp_path / "weights.pt")

    assert found.path == tmp_path / "weights.pt"
    assert found.path.read_bytes() == hostile.good()
    assert found.inspection.weights == ("w", "b")
    archive_found = found.inspection.archive
    assert archive_found is not None
    assert archive_found.refused == ("handler.py", "model.py")
    assert (archive_found.name, archive_found.version, archive_found.handler) == ("m", "2.0", "handler.py")
    assert [len(data) for _, data in legacy.read_tensors(found.path, found.inspection)] == [160, 24]


def test_a_refused_archive_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "net.mar"
    path.write_bytes(hostile.mar({"serializedFile": "w.pt"}, {}))

    with pytest.raises(CheckpointRefused):
        cage.inspect(path, scratch=tmp_path / "weights.pt")
    assert not (tmp_path / "weights.pt").exists()


def test_a_part_is_asked_for_through_the_cage(tmp_path: Path) -> None:
    path = tmp_path / "two.pt"
    path.write_bytes(hostile.archive(hostile.table(**{k: hostile.table(w=hostile.tensor())[2:-1] for k in "ab"})))

    assert cage.inspect(path, scratch=tmp_path / "scratch", part="b").inspection.part == "b"
