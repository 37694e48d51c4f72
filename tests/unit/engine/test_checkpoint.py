"""Tensors on disk: written whole, read as data, fitted strictly into a module."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn

from service.engine import checkpoint
from service.errors import CheckpointRefused


def net(width=10):
    return nn.Sequential(nn.Linear(1, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 1))


def test_what_is_saved_is_loaded_and_size_and_digest_are_the_files(tmp_path):
    tensors = {"rng": torch.get_rng_state(), "weight": torch.randn(3)}
    state = {"step": 3, "best": {"loss": [0.5, 2, 1]}, "order": None, **tensors}

    size, sha256 = checkpoint.save(tmp_path / "state.pt", state)

    content = (tmp_path / "state.pt").read_bytes()
    assert (size, sha256) == (len(content), hashlib.sha256(content).hexdigest())
    loaded = checkpoint.load(tmp_path / "state.pt")
    assert all(torch.equal(loaded.pop(name), tensor) for name, tensor in tensors.items())
    assert loaded == {"step": 3, "best": {"loss": [0.5, 2, 1]}, "order": None}


def test_equal_tensors_make_equal_files(tmp_path):
    torch.manual_seed(0)
    state = net().state_dict()

    assert checkpoint.save(tmp_path / "a.pt", state) == checkpoint.save(tmp_path / "b.pt", state)


def test_a_save_that_fails_leaves_the_file_before_and_nothing_else(tmp_path):
    checkpoint.save(tmp_path / "state.pt", {"step": 1})

    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(tmp_path / "state.pt", {"step": lambda: 2})
    assert checkpoint.load(tmp_path / "state.pt") == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_weights_are_put_into_a_module_on_meta(tmp_path):
    trained = net()
    trained(torch.randn(8, 1))
    checkpoint.save(tmp_path / "weights.pt", trained.state_dict())
    with torch.device("meta"):
        empty = net().eval()
    empty[0].weight.requires_grad_(False)

    checkpoint.load_weights(empty, tmp_path / "weights.pt")

    x = torch.randn(5, 1)
    assert torch.equal(empty(x), trained.eval()(x))
    assert [p.requires_grad for p in empty.parameters()] == [False, True, True, True, True, True]
    assert not any(child.training for child in empty.modules())
    assert all(isinstance(p, nn.Parameter) for p in empty.parameters())


def test_a_module_with_loaded_weights_can_be_trained_without_changing_the_file(tmp_path):
    _, digest = checkpoint.save(tmp_path / "weights.pt", net().state_dict())
    module = net()
    checkpoint.load_weights(module, tmp_path / "weights.pt")
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)

    module(torch.randn(8, 1)).sum().backward()
    optimizer.step()

    assert hashlib.sha256((tmp_path / "weights.pt").read_bytes()).hexdigest() == digest


def test_all_that_does_not_fit_is_listed(tmp_path):
    state = net().state_dict()
    state["0.wieght"] = state.pop("0.weight")
    state["3.weight"] = torch.zeros(2, 10)
    state["3.bias"] = torch.zeros(1, dtype=torch.float64)
    checkpoint.save(tmp_path / "weights.pt", state)

    with pytest.raises(CheckpointRefused) as refused:
        checkpoint.load_weights(net(), tmp_path / "weights.pt")

    assert "1 missing, 1 unexpected, 1 of another shape, 1 of another dtype" in refused.value.message
    assert [(e.code, e.layer, e.expected, e.got) for e in refused.value.errors] == [
        ("missing", "0", None, None),
        ("unexpected", None, ", ".join(net().state_dict())[:200], None),
        ("shapes", "3", "float32 [1, 10]", "float32 [2, 10]"),
        ("dtype", "3", "float32 [1]", "float64 [1]"),
    ]
    assert refused.value.errors[0].hint == "Did you mean '0.wieght'?"


class Payload:
    """What a whole-module file would ask the reader to make."""

    def __reduce__(self):
        return (print, ("this must not be printed",))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"], ids=["empty", "text", "cut off"])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "weights.pt").write_bytes(content)

    for read in (checkpoint.load, lambda path: checkpoint.load_weights(net(), path)):
        with pytest.raises(CheckpointRefused):
            read(tmp_path / "weights.pt")


def test_a_file_with_code_in_it_is_refused_and_nothing_runs(tmp_path, capsys):
    torch.save({"0.weight": Payload()}, tmp_path / "weights.pt")

    with pytest.raises(CheckpointRefused):
        checkpoint.load(tmp_path / "weights.pt")
    assert capsys.readouterr().out == ""


def test_a_whole_module_is_refused(tmp_path):
    torch.save(net(), tmp_path / "weights.pt")

    with pytest.raises(CheckpointRefused):
        checkpoint.load_weights(net(), tmp_path / "weights.pt")


def test_a_missing_file_is_an_error_of_the_disk(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none.pt")


def test_the_digest_is_of_the_tensors_alone(tmp_path):
    state = net().state_dict()
    digest = checkpoint.weights_digest(state)
    checkpoint.save(tmp_path / "weights.pt", state)

    assert checkpoint.weights_digest(checkpoint.load(tmp_path / "weights.pt")) == digest
    assert checkpoint.weights_digest(dict(reversed(state.items()))) == digest
    strided = {name: value.t().contiguous().t() if value.dim() == 2 else value for name, value in state.items()}
    assert checkpoint.weights_digest(strided) == digest


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda w: {"other": w}, id="a name"),
        pytest.param(lambda w: {"w": w.double()}, id="a dtype"),
        pytest.param(lambda w: {"w": w.reshape(1, -1)}, id="a shape"),
        pytest.param(lambda w: {"w": torch.nextafter(w, torch.tensor(9.0))}, id="a bit"),
        pytest.param(lambda w: {}, id="nothing left"),
    ],
)
def test_any_change_of_a_tensor_changes_the_digest(change):
    weights = torch.ones(4)

    assert checkpoint.weights_digest(change(weights)) != checkpoint.weights_digest({"w": weights})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool], ids=str)
def test_tensors_of_every_dtype_have_a_digest(dtype):
    assert checkpoint.weights_digest({"w": torch.ones((), dtype=dtype)}).startswith("sha256:")


def test_weights_from_json_are_the_modules_own(tmp_path):
    trained = net()
    with torch.device("meta"):
        reference = net().state_dict()

    tensors = checkpoint.state_dict_from_json(
        {name: value.tolist() for name, value in trained.state_dict().items()}, reference
    )

    assert checkpoint.weights_digest(tensors) == checkpoint.weights_digest(trained.state_dict())


def test_a_kernel_of_a_tutorial_is_taken_as_it_is_written():
    reference = nn.Conv2d(1, 1, 3, bias=False).state_dict()

    tensors = checkpoint.state_dict_from_json({"weight": [[[[1, 2, 1], [0, 1, 0], [2, 1, 0]]]]}, reference)

    assert tensors["weight"].dtype == torch.float32
    assert tensors["weight"].shape == (1, 1, 3, 3)


def test_every_mistake_in_weights_from_json_is_told_with_its_place():
    reference = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1), nn.BatchNorm1d(1)).state_dict()
    good = {name: value.tolist() for name, value in reference.items()}

    with pytest.raises(CheckpointRefused) as refused:
        checkpoint.state_dict_from_json(
            {
                **{name: value for name, value in good.items() if name != "1.bias"},
                "1.bais": [0],
                "0.weight": [[1, 2], [3]],
                "0.bias": [1e300, 0],
                "1.weight": [[1, 2, 3]],
                "2.num_batches_tracked": 0.5,
            },
            reference,
        )

    assert [(entry.pointer, entry.code) for entry in refused.value.errors] == [
        ("/state_dict", "missing"),
        ("/state_dict/1.bais", "unexpected"),
        ("/state_dict/0.weight/1", "ragged"),
        ("/state_dict/0.bias/0", "not-finite"),
        ("/state_dict/1.weight", "shapes"),
        ("/state_dict/2.num_batches_tracked", "dtype-mismatch"),
    ]
