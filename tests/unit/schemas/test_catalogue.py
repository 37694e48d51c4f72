"""The catalogue: every net is a sound document, and torchvision's are torchvision's, tensor for tensor."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from service.errors import ArchitectureInvalid, ArchitectureTooLarge, Entry, NotFound
from service.schemas import catalogue
from service.schemas.architecture import as_sent, authored, parse, state_rows
from service.schemas.judgement import judge

PARAMETERS = {
    "alexnet": 61_100_840,
    "lstm_text": 4_928_514,
    "mlp": 669_706,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "transformer_text": 8_345_602,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "vit_b_16": 86_567_656,
}

TORCHVISION = {
    "alexnet": "8119ea5294a9c8c7",
    "vgg11": "1373d2f6ee3af54d",
    "vgg11_bn": "95fe7e52ce3f0292",
    "vgg13": "7c37c33088c92533",
    "vgg13_bn": "0c100fd373b8d044",
    "vgg16": "e0f24b3678fcfb4f",
    "vgg16_bn": "11ff9ae742d7a8eb",
    "vgg19": "ba440b05e9aebbcc",
    "vgg19_bn": "8dc4cc2ec562d349",
    "resnet18": "02568eab318c210f",
    "resnet34": "bf4f10c2aed38014",
    "resnet50": "45c8e0b2d327f1cd",
    "vit_b_16": "70c0c55411291fee",
}
"""Of the names and shapes of torchvision 0.14's state_dicts in their order, one a line."""

SYSTEM_PYTHON = Path("/usr/bin/python3")


def tensors(name: str, params: Any = None) -> list[tuple[str, list[int]]]:
    rows = state_rows(parse(catalogue.document(name, params)))
    return [(key, list(row.shape)) for key, row in rows.items()]


def digest(rows: Any) -> str:
    return hashlib.sha256("".join(f"{key} {list(shape)}\n" for key, shape in rows).encode()).hexdigest()[:16]


def mistakes(reference: Any) -> list[Entry]:
    return list(judge(reference, prefix="/architecture").errors)


def test_every_net_is_listed():
    assert set(catalogue.names()) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_net_can_be_built_as_it_stands(name):
    judgement = judge(catalogue.document(name))

    assert judgement.errors == ()
    assert judgement.warnings == ()
    assert judgement.summary is not None
    assert judgement.summary["parameters"] == PARAMETERS[name]


@pytest.mark.parametrize("name", TORCHVISION)
def test_names_shapes_and_order_of_the_tensors_are_torchvisions(name):
    assert digest(tensors(name)) == TORCHVISION[name]


def _has_torchvision() -> bool:
    if not SYSTEM_PYTHON.exists():
        return False
    return subprocess.run([SYSTEM_PYTHON, "-c", "import torchvision"], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_torchvision_itself_says_the_same():
    if not _has_torchvision():
        pytest.skip("the system's Python has no torchvision")
    code = (
        "import json, sys, torchvision\n"
        "print(json.dumps({name: [[key, list(tensor.shape)] for key, tensor in getattr(torchvision.models, name)()"
        ".state_dict().items()] for name in sys.argv[1:]}))"
    )
    found = subprocess.run(
        [SYSTEM_PYTHON, "-c", code, *TORCHVISION], capture_output=True, check=True, env={"PATH": os.defpath}
    )

    assert {name: digest(rows) for name, rows in json.loads(found.stdout).items()} == TORCHVISION


def test_params_change_the_net():
    rows = dict(tensors("resnet18", {"num_classes": 10, "in_channels": 1}))

    assert rows["fc.weight"] == [10, 512]
    assert rows["conv1.weight"] == [64, 1, 7, 7]


@pytest.mark.parametrize(
    ("hidden", "keys"),
    [([], ["0"]), ([5], ["0", "2"]), ([5, 6, 7], ["0", "2", "4", "6"])],
    ids=["no hidden layer", "one", "three"],
)
def test_an_mlp_is_as_deep_as_its_hidden_layers(hidden, keys):
    assert [key for key, _ in tensors("mlp", {"hidden": hidden})] == [
        f"{place}.{kind}" for place in keys for kind in ("weight", "bias")
    ]


def test_an_unknown_net_is_told_with_the_nearest():
    with pytest.raises(NotFound) as caught:
        catalogue.document("resnet19")

    assert caught.value.errors == () or caught.value.errors[0].hint


def test_an_unknown_param_is_told_with_the_nearest():
    with pytest.raises(ArchitectureInvalid) as caught:
        catalogue.document("resnet18", {"num_clases": 10, "depths": 3})

    assert [(entry.pointer, entry.code, entry.hint) for entry in caught.value.errors] == [
        ("/params/num_clases", "unknown-param", "Did you mean 'num_classes'?"),
        ("/params/depths", "wrong-type", None),
    ]


# A net named in a request.


def test_a_net_may_be_named_where_a_document_is_taken():
    reference = {"catalogue": "resnet18", "params": {"num_classes": 10}}
    document = catalogue.document("resnet18", {"num_classes": 10})

    assert judge(reference).digest == judge(document).digest
    assert authored(parse(reference)) == document
    assert as_sent(parse(reference)) == reference


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ({"catalogue": "resnet81"}, [("/architecture/catalogue", "unknown-net")]),
        ({"catalogue": 3}, [("/architecture/catalogue", "unknown-net")]),
        ({"catalogue": "resnet18", "params": []}, [("/architecture/params", "wrong-type")]),
        ({"catalogue": "resnet18", "prams": {}}, [("/architecture/prams", "unknown-member")]),
        ({"catalogue": "mlp", "params": {"num_classes": 0}}, [("/architecture/params/num_classes", "out-of-range")]),
        ({"catalogue": "mlp", "params": {"num_classes": 1.5}}, [("/architecture/params/num_classes", "wrong-type")]),
        ({"catalogue": "vit_b_16", "params": {"heads": 7}}, [("/architecture/params/heads", "invalid")]),
        ({"catalogue": "vgg16", "params": {"widths": []}}, [("/architecture/params", "out-of-range")]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_of_the_request(reference, expected):
    found = mistakes(reference)

    assert [(entry.pointer, entry.code) for entry in found][: len(expected)] == expected
    assert all(entry.pointer.startswith("/architecture/") for entry in found)


def test_a_net_that_would_be_too_large_is_refused_at_its_params():
    with pytest.raises(ArchitectureTooLarge) as caught:
        parse({"catalogue": "vgg16", "params": {"depths": [2_000]}})

    assert [entry.pointer for entry in caught.value.errors] == ["/params"]
