"""The folder of a training's checkpoints, as others read it while the worker writes: which there are, and the best.

`step-N.pt` are whole states for resuming, the newest few; `best.pt` has the best weights of a run that was stopped.
Beside each lies a .json that says what it is, written after it; every file is replaced whole, and a mapped one stays
readable when it is removed. `documents` has the net, its preprocessing and its signature, so that the weights can
answer. Knows no job and no store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from service.engine import build, checkpoint
from service.engine.predictor import Predictor
from service.errors import NotFound
from service.schemas import architecture as architectures
from service.schemas.architecture import Architecture
from service.schemas.preprocessing import Preprocessing
from service.schemas.versions import Signature

DOCUMENTS: Final = "documents"


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint: its entry, and the step and epoch of the best weights in it."""

    folder: Path
    entry: Mapping[str, Any]
    step: int
    epoch: int

    def weights(self, state: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """The best weights in what `checkpoint.load` gives; the last ones where no others were kept."""
        if self.entry["kind"] == "best":
            return state
        best: Mapping[str, Tensor] | None = state["best_weights"]
        return best if best is not None else state["module"]


def describe(architecture: Architecture, preprocessing: Preprocessing, signature: Signature) -> bytes:
    """The content of `documents`."""
    content = {
        "architecture": architectures.canonical_form(architecture),
        "preprocessing": preprocessing.model_dump(mode="json", exclude_none=True),
        "signature": signature.model_dump(mode="json"),
    }
    return json.dumps(content).encode()


def kept(folder: Path) -> Sequence[Kept]:
    """The checkpoints that there are now, the one to take first: the best weights, else the newest state."""
    found = []
    for path in [folder / "best.json", *sorted(folder.glob("step-*.json"), reverse=True)]:
        try:
            entry = json.loads(path.read_bytes())
        except FileNotFoundError:  # the worker has moved on
            continue
        of = entry.get("best", entry)
        found.append(Kept(folder, entry, of["step"], of["epoch"]))
    return found


def load(one: Kept) -> tuple[Predictor, Signature]:
    """A checkpoint ready to answer, its weights mapped.

    Raises:
        NotFound: the worker has replaced it meanwhile: look again.
        CheckpointRefused: the file is damaged.
    """
    try:
        documents = json.loads((one.folder / DOCUMENTS).read_bytes())
        state = checkpoint.load(one.folder / one.entry["file"], mmap=True)
    except FileNotFoundError:
        raise NotFound("The checkpoint is gone.") from None
    architecture = architectures.parse(documents["architecture"])
    module = build.build(architecture, device="meta")
    module.load_state_dict(one.weights(state), strict=True, assign=True)
    build.complete(module, architecture)
    preprocessing = Preprocessing.model_validate_json(json.dumps(documents["preprocessing"]))
    return Predictor(architecture, preprocessing, module), Signature.model_validate(documents["signature"])
