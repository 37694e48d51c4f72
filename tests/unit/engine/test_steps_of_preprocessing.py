"""Every step of preprocessing: it fits, round-trips, and gives a prediction the very numbers that training saw."""

from __future__ import annotations

import base64
import io
import json
import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from service.engine import bundle, data, preprocessing, stages
from service.engine.preprocessing import Preprocessor, fit
from service.engine.suitability import row_shapes, step_mistakes
from service.errors import DatasetRefused, InvalidInput, NotFinite, ValidationFailed
from service.inference import codec
from service.schemas.datasets import Csv, ImageRow, Npz, Source
from service.schemas.document import canonical, entries
from service.schemas.objectives import CrossEntropy, Mse
from service.schemas.preprocessing import FITTED_KINDS, Preprocessing, TableRow
from service.schemas.transforms import STEP_KINDS, Augmenting, PreprocessingStep
from service.schemas.versions import TensorSpec

UPLOAD = "up_" + "0" * 32
MSE = Mse(type="mse")
STEPS: TypeAdapter[Any] = TypeAdapter(tuple[PreprocessingStep, ...])
LIMITS = codec.Limits(rows=1000, elements=10**7)


def steps_of(*documents):
    return STEPS.validate_python(documents)


def fitted(examples, *documents, rows=None, objective=MSE, classes=None):
    rows = torch.arange(examples.rows) if rows is None else rows
    document, warnings = fit(steps_of(*documents), examples, rows, objective=objective, classes=classes)
    again = Preprocessing.model_validate_json(document.model_dump_json(exclude_none=True))
    assert again == document
    assert canonical(document.model_dump(mode="json", exclude_none=True))
    return Preprocessor(again), warnings


@pytest.fixture
def stored(tmp_path_factory):
    def _stored(source, upload=None, **members):
        folder = tmp_path_factory.mktemp("dataset")
        if isinstance(source, str):
            path = tmp_path_factory.mktemp("upload") / "table.csv"
            path.write_text(source)
            source, upload = Csv(type="csv", upload=UPLOAD, **members), path
        return data.open_dataset(folder, data.materialize(source, folder, upload=upload))

    return _stored


@pytest.fixture
def table(stored):
    """Twenty rows of two columns of numbers, some missing, one of categories, and one of sentences."""
    generator = np.random.default_rng(0)
    words = ["Good film", "bad, BAD film!", "über-good", "a film"]
    sizes = ["" if i % 5 == 1 else f"{generator.lognormal(0, 2):.3f}" for i in range(20)]
    lines = [f'{sizes[i]},{i - 3},{"abc"[i % 3]},"{words[i % 4]}",{i}' for i in range(20)]
    text = "\n".join(["size,age,kind,said,y", *lines])
    return stored(text, target="y", missing="keep", free_text=("said",))


@pytest.fixture
def images(stored, tmp_path):
    path = tmp_path / "images.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 10, 8), dtype=np.uint8)
    np.savez(path, x=pixels, y=np.arange(12.0) ** 2)
    return stored(Npz(type="npz", upload=UPLOAD, target="y"), path)


def rows_as_json(examples) -> list[Any]:
    """The rows as a client would send them."""
    if examples.manifest.layout == "array":
        return np.asarray(examples.numbers).tolist()
    columns = []
    number = text = 0
    for column in examples.input_columns:
        if column.free:
            columns.append(list(examples.text(column.name)))
        elif column.dtype == "text":
            columns.append([column.classes[code] if code >= 0 else None for code in examples.codes[:, text].tolist()])
            text += 1
        else:
            values = examples.numbers[:, number].tolist()
            columns.append([None if math.isnan(value) else value for value in values])
            number += 1
    return [list(row) for row in zip(*columns, strict=True)]


def predicted(preprocessor: Preprocessor, rows: list[Any], dtype: str = "float32") -> torch.Tensor:
    """What the net gets for rows of a request, each asked alone."""
    row = preprocessor.document.row
    assert row is not None
    shape = (len(row.columns),) if isinstance(row, TableRow) else row.row_shape
    spec = TensorSpec(name="x", dtype=dtype, shape=("B", *shape))
    rows = json.loads(json.dumps(rows))
    parts = []
    for one in rows:
        [raw] = codec.decode([one], specs=[spec], rows=[row], limits=LIMITS)
        parts.append(preprocessor.inputs(raw.numbers, raw.codes, dtype=getattr(torch, dtype)))
    return torch.cat(parts)


REST = [{"type": "impute"}, {"type": "one_hot"}, {"type": "tokens", "max_length": 3}]
"""What makes numbers of everything else in the table."""

OF_TABLES = {
    "standardize": [*REST, {"type": "standardize"}],
    "min_max": [*REST, {"type": "min_max", "columns": ["age"]}],
    "log": [*REST, {"type": "log", "columns": ["size"], "offset": 0.5}],
    "clip": [*REST, {"type": "clip", "columns": ["size"], "low": 0.5}, {"type": "clip", "quantiles": [0.1, 0.9]}],
    "impute": [{"type": "impute", "columns": ["size"], "strategy": "median"}, *REST[1:]],
    "one_hot": REST,
    "vocabulary": [{"type": "vocabulary"}, {"type": "impute", "strategy": "most_frequent"}, REST[2]],
    "tokens": [{"type": "tokens", "max_length": 4, "min_count": 6}, *REST[:2]],
}
OF_IMAGES = {
    "resize": [{"type": "resize", "size": [7, 5]}],
    "center_crop": [{"type": "center_crop", "size": [5, 6]}],
    "normalize": [{"type": "normalize", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}],
    "random_flip": [{"type": "random_flip"}],
    "random_crop": [{"type": "random_crop", "padding": 2}],
    "several": [
        {"type": "resize", "size": [20, 16]},
        {"type": "center_crop", "size": [11, 9]},
        {"type": "normalize"},
        {"type": "clip", "low": -1, "high": 1},
        {"type": "standardize"},
        {"type": "log", "offset": 10},
        {"type": "min_max"},
    ],
}


def test_every_kind_of_step_is_tried():
    kinds = {get_args(kind.model_fields["type"].annotation)[0] for kind in STEP_KINDS}

    assert kinds == set(OF_TABLES) | set(OF_IMAGES) - {"several"}


def test_every_fitted_step_comes_from_a_step():
    fitted_kinds = {kind.model_fields["type"].default for kind in FITTED_KINDS}
    augmenting = {get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(Augmenting)}
    kinds = {get_args(kind.model_fields["type"].annotation)[0] for kind in STEP_KINDS}

    assert fitted_kinds == kinds - augmenting


@pytest.mark.parametrize("documents", OF_TABLES.values(), ids=OF_TABLES)
def test_a_prediction_gets_the_numbers_of_training_from_a_table(table, documents):
    preprocessor, _ = fitted(table, *documents)
    trained = preprocessor.example_inputs(table, dtype=torch.float32)

    assert step_mistakes(table, steps_of(*documents), MSE) == []
    assert row_shapes(table, steps_of(*documents), np.arange(20)) == [(None, tuple(trained.shape[1:]))]
    assert preprocessor.row_shape == trained.shape[1:]
    assert torch.equal(predicted(preprocessor, rows_as_json(table)), trained)


@pytest.mark.parametrize("documents", OF_IMAGES.values(), ids=OF_IMAGES)
def test_a_prediction_gets_the_numbers_of_training_from_images(images, documents):
    preprocessor, _ = fitted(images, *documents)
    trained = preprocessor.example_inputs(images, dtype=torch.float32)

    assert step_mistakes(images, steps_of(*documents), MSE) == []
    assert row_shapes(images, steps_of(*documents), np.arange(12)) == [(None, tuple(trained.shape[1:]))]
    assert preprocessor.row_shape == trained.shape[1:]
    assert torch.equal(predicted(preprocessor, rows_as_json(images)), trained)


@pytest.mark.parametrize("documents", [*OF_TABLES.values(), *OF_IMAGES.values()], ids=[*OF_TABLES, *OF_IMAGES])
def test_the_bundles_own_rows_are_the_same(request, documents, tmp_path):
    """What a bundle does with plain PyTorch is what the service does."""
    name = next((kind for kind, steps in OF_TABLES.items() if steps is documents), None)
    examples = request.getfixturevalue("table" if name else "images")
    preprocessor, _ = fitted(examples, *documents)
    (tmp_path / "architecture.json").write_text(json.dumps({"inputs": [{"name": "x"}]}))
    (tmp_path / "preprocessing.json").write_text(preprocessor.document.model_dump_json(exclude_none=True))
    namespace: dict[str, Any] = {"__file__": str(tmp_path / "rows.py")}
    exec(bundle._ROWS, namespace)  # noqa: S102 # our own text, as the bundle would run it
    [(numbers, codes)] = preprocessor.raw(examples, np.arange(examples.rows))
    sent = torch.from_numpy(np.array(numbers)), None if codes is None else torch.from_numpy(codes)

    expected = preprocessor.example_inputs(examples, dtype=torch.float32)
    torch.testing.assert_close(namespace["prepare"]([sent])[0], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("documents", [*OF_TABLES.values(), *OF_IMAGES.values()], ids=[*OF_TABLES, *OF_IMAGES])
def test_a_dataset_larger_than_memory_is_fitted_and_prepared_alike(request, documents, tmp_path, monkeypatch):
    name = next((kind for kind, steps in OF_TABLES.items() if steps is documents), None)
    examples = request.getfixturevalue("table" if name else "images")
    rows = torch.arange(1, examples.rows, 2)
    whole, _ = fitted(examples, *documents, rows=rows)
    inputs = whole.example_inputs(examples, rows, dtype=torch.float32)
    for module in (stages, preprocessing):
        monkeypatch.setattr(module, "WHOLE", 0)
        monkeypatch.setattr(module, "PIECE", 20)
    in_pieces, _ = fitted(examples, *documents, rows=rows)
    mapped = in_pieces.example_inputs(examples, rows, dtype=torch.float32, scratch=tmp_path)

    assert torch.equal(whole.example_inputs(examples, rows, dtype=torch.float32, scratch=tmp_path), inputs)
    torch.testing.assert_close(mapped, inputs)
    assert list(tmp_path.glob(".rows-*")) == []


def test_what_the_net_takes_as_it_lies_is_not_copied(images, monkeypatch):
    monkeypatch.setattr(preprocessing, "WHOLE", 0)
    preprocessor, _ = fitted(images)
    inputs = preprocessor.example_inputs(images, dtype=torch.uint8)

    assert inputs.data_ptr() == images.numbers.ctypes.data


# Numbers


def test_missing_numbers_become_what_the_training_rows_say(stored):
    examples = stored("a,b\n1,\n,4\n3,4\n3,7\n", missing="keep")
    rows = torch.tensor([0, 1, 2])
    filled = {
        strategy: fitted(examples, {"type": "impute", "strategy": strategy}, rows=rows)[0].document.steps[0].value
        for strategy in ("mean", "median", "most_frequent")
    }
    constant, _ = fitted(examples, {"type": "impute", "strategy": "constant", "value": -1})

    assert filled == {"mean": (2.0, 4.0), "median": (2.0, 4.0), "most_frequent": (1.0, 4.0)}
    assert predicted(constant, [[None, 5], [1, None]]).tolist() == [[-1, 5], [1, -1]]


def test_a_column_that_nothing_fills_may_not_be_missing(stored):
    examples = stored("a,b\n1,\n2,4\n", missing="keep")
    preprocessor, _ = fitted(examples, {"type": "impute", "columns": ["b"]})

    assert [(e.code, e.pointer) for e in step_mistakes(examples, (), MSE)] == [("missing-value", "/preprocessing")]
    assert predicted(preprocessor, [[1, None]]).tolist() == [[1, 4]]
    with pytest.raises(InvalidInput) as caught:
        predicted(preprocessor, [[None, 1]])
    assert caught.value.errors[0].pointer == "/inputs/0/0"
    with pytest.raises(DatasetRefused, match="missing values"):
        fitted(examples, {"type": "standardize"}, {"type": "impute"})
    empty = stored("a,b\n1,\n2,\n", missing="keep")
    with pytest.raises(DatasetRefused, match="no value"):
        fitted(empty, {"type": "impute"})


def test_the_logarithm_of_what_is_not_positive_is_refused(stored):
    examples = stored("a,y\n-3,1\n5,2\n", target="y")
    with pytest.raises(DatasetRefused) as caught:
        fitted(examples, {"type": "log"})
    preprocessor, _ = fitted(examples, {"type": "log", "offset": 4})

    assert [entry.pointer for entry in caught.value.errors] == ["/preprocessing/0/offset"]
    assert "above 3" in (caught.value.errors[0].hint or "")
    with pytest.raises(NotFinite):
        predicted(preprocessor, [[-4.0]])


def test_a_target_in_logarithms_comes_back(stored):
    examples = stored("a,y\n1,10\n2,1000\n3,100000\n", target="y")
    preprocessor, _ = fitted(examples, {"type": "log", "of": "target"}, {"type": "standardize", "of": "target"})
    targets = preprocessor.targets(examples, objective=MSE)

    assert float(targets.std(correction=0)) == pytest.approx(1)
    assert torch.allclose(preprocessor.invert_target(targets)[:, 0], torch.tensor([10.0, 1000.0, 100000.0]), rtol=1e-5)


def test_quantiles_are_those_of_the_training_rows(stored):
    examples = stored("a\n" + "\n".join(map(str, range(101))))
    preprocessor, _ = fitted(examples, {"type": "clip", "quantiles": [0.05, 0.9]})

    assert predicted(preprocessor, [[-5], [50], [999]]).tolist() == [[5], [50], [90]]


# Texts


def test_an_unknown_text_gets_the_number_after_the_last_or_is_refused(stored):
    examples = stored("t,n\nb,1\na,2\nc,3\n")
    lenient, _ = fitted(examples, {"type": "vocabulary"}, rows=torch.tensor([0, 1]))
    strict, _ = fitted(examples, {"type": "vocabulary", "unknown": "error"}, rows=torch.tensor([0, 1]))

    assert predicted(lenient, [["a", 1], ["b", 1], ["z", 1]]).tolist() == [[0, 1], [1, 1], [2, 1]]
    with pytest.raises(ValidationFailed) as caught:
        predicted(strict, [["z", 1]])
    assert [(entry.pointer, entry.code) for entry in caught.value.errors] == [("/inputs/0/0", "unknown-category")]
    assert lenient.example_inputs(examples, dtype=torch.int64)[:, 0].tolist() == [1, 0, 2]


def test_words_are_numbered_by_how_often_training_has_them(stored):
    examples = stored('t\n"The cat, the DOG"\n"the dog2dog"\n"Ünder cat_cat"\nnever\n', free_text=("t",))
    preprocessor, _ = fitted(
        examples, {"type": "tokens", "max_length": 5, "max_words": 3}, rows=torch.tensor([0, 1, 2])
    )
    [column] = preprocessor.document.row.columns

    assert column.words == ("cat", "dog", "the")
    assert predicted(preprocessor, [["the CAT sat on the dog"], ["1 2"]], dtype="int64").tolist() == [
        [4, 2, 1, 1, 4],
        [0, 0, 0, 0, 0],
    ]
    assert preprocessor.unfamiliar(np.zeros((1, 0)), np.zeros((1, 5), dtype=np.int64)) == []


def test_a_sentence_may_be_a_category_too(stored):
    examples = stored("t\ngood film\nbad film\n")
    preprocessor, _ = fitted(examples, {"type": "tokens", "max_length": 2})

    assert predicted(preprocessor, [["film good"]], dtype="int64").tolist() == [[2, 4]]


MISTAKES = {
    "two steps for one text": (
        [{"type": "one_hot", "columns": ["kind"]}, {"type": "vocabulary", "columns": ["kind"]}],
        1,
    ),
    "free text as categories": ([{"type": "one_hot", "columns": ["said"]}], 0),
    "an image step": ([{"type": "resize", "size": [4, 4]}], 0),
    "an input that is not there": ([{"type": "standardize", "input": "x"}], 0),
    "a number for a text": ([{"type": "tokens", "columns": ["age"]}], 0),
}


@pytest.mark.parametrize(("documents", "place"), MISTAKES.values(), ids=MISTAKES)
def test_steps_that_do_not_suit_the_columns_are_told(table, documents, place):
    found = step_mistakes(table, steps_of(*documents), MSE)

    assert found[0].pointer.startswith(f"/preprocessing/{place}/")


def test_what_no_step_takes_care_of_is_told(table):
    found = step_mistakes(table, (), MSE)

    assert [entry.code for entry in found] == ["missing-value", "text-column", "text-column"]
    assert '"type": "tokens"' in (found[-1].hint or "")


WRONG_BY_THEMSELVES = {
    "clip without limits": ({"type": "clip"}, ""),
    "clip with both": ({"type": "clip", "low": 1, "quantiles": [0, 1]}, ""),
    "limits the wrong way": ({"type": "clip", "low": 1, "high": 0}, "/high"),
    "quantiles the wrong way": ({"type": "clip", "quantiles": [0.9, 0.1]}, "/quantiles"),
    "a constant without value": ({"type": "impute", "strategy": "constant"}, "/value"),
    "a value without constant": ({"type": "impute", "value": 1}, "/value"),
    "a mean without std": ({"type": "normalize", "mean": [1]}, "/std"),
    "unequal statistics": ({"type": "normalize", "mean": [1], "std": [1, 2]}, "/mean"),
}


@pytest.mark.parametrize(("document", "pointer"), WRONG_BY_THEMSELVES.values(), ids=WRONG_BY_THEMSELVES)
def test_a_step_that_contradicts_itself_is_refused(document, pointer):
    adapter: TypeAdapter[Any] = TypeAdapter(PreprocessingStep)
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(document)

    found, _ = entries(caught.value, document, schema=adapter.core_schema)
    assert [entry.pointer for entry in found] == [pointer]


# Images


def test_resizing_is_torchs(images):
    preprocessor, _ = fitted(images, {"type": "resize", "size": [7, 5]})
    pixels = torch.from_numpy(np.array(images.numbers)).double()
    expected = torch.nn.functional.interpolate(pixels, size=(7, 5), mode="bilinear", antialias=True)

    assert torch.equal(preprocessor.example_inputs(images, dtype=torch.float64), expected)


def test_normalizing_by_fitted_statistics_leaves_mean_0_and_std_1(images):
    preprocessor, _ = fitted(images, {"type": "normalize"})
    inputs = preprocessor.example_inputs(images, dtype=torch.float64)
    [step] = preprocessor.document.steps

    assert inputs.mean(dim=(0, 2, 3)).abs().max() < 1e-12
    assert (inputs.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-12
    assert np.allclose(np.array(step.mean) * 255, np.asarray(images.numbers).mean(axis=(0, 2, 3)))


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ({"type": "center_crop", "size": [11, 4]}, "/preprocessing/0/size"),
        ({"type": "normalize", "mean": [0.5], "std": [1]}, "/preprocessing/0/mean"),
    ],
)
def test_image_steps_that_do_not_fit_the_images_are_refused(images, document, pointer):
    with pytest.raises(DatasetRefused) as caught:
        fitted(images, document)

    assert [entry.pointer for entry in caught.value.errors] == [pointer]


def png(pixels: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_a_picture_in_base64_is_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    row = ImageRow(channels=3, height=6, width=4)
    spec = TensorSpec(name="x", dtype="float32", shape=("B", 3, 6, 4))
    nested = pixels.transpose(2, 0, 1).tolist()
    forms = [png(pixels), {"image": png(pixels)}, f"data:image/png;base64,{png(pixels)}", nested]
    prepared = Preprocessing.model_validate({"row": {"layout": "array", "row_shape": (3, 6, 4), "image": row}})
    [raw] = codec.decode(forms, specs=[spec], rows=prepared.rows, limits=LIMITS)

    assert all(np.array_equal(each, nested) for each in raw.numbers)


PICTURES = {
    "no base64": ("!!!", "bad-image"),
    "no picture": (base64.b64encode(b"hello").decode(), "bad-image"),
    "another size": (png(np.zeros((2, 2), np.uint8)), "shape-mismatch"),
    "no text": ({"image": 3}, "dtype-mismatch"),
    "numbers of another shape": ([[1]], "shape-mismatch"),
}


@pytest.mark.parametrize(("row", "code"), PICTURES.values(), ids=PICTURES)
def test_a_picture_that_cannot_be_read_is_told_with_its_place(row, code):
    image = ImageRow(channels=3, height=6, width=4)
    spec = TensorSpec(name="x", dtype="float32", shape=("B", 3, 6, 4))
    prepared = Preprocessing.model_validate({"row": {"layout": "array", "row_shape": (3, 6, 4), "image": image}})
    whole = png(np.zeros((6, 4), np.uint8))
    with pytest.raises(InvalidInput) as caught:
        codec.decode([whole, row], specs=[spec], rows=prepared.rows, limits=LIMITS)

    assert caught.value.errors[0].pointer.startswith("/inputs/1")
    assert caught.value.errors[0].code == code


def test_pictures_of_other_versions_are_no_texts():
    spec = TensorSpec(name="x", dtype="float32", shape=("B", 3, 6, 4))
    with pytest.raises(InvalidInput):
        codec.decode([png(np.zeros((6, 4), np.uint8))], specs=[spec], rows=[None], limits=LIMITS)


# Several inputs


@pytest.fixture
def two_inputs(stored, tmp_path):
    path = tmp_path / "two.npz"
    generator = np.random.default_rng(0)
    np.savez(
        path, image=generator.integers(0, 9, (10, 1, 4, 4)), meta=generator.normal(size=(10, 3)), y=np.arange(10) % 2
    )
    source: Any = TypeAdapter(Source).validate_python(
        {"type": "npz", "upload": UPLOAD, "inputs": {"picture": "image", "about": "meta"}, "target": "y"}
    )
    return stored(source, path)


def test_two_tables_are_two_inputs(stored):
    text = "a,t,b,said,y\n1,u,2,good film,0\n3,v,4,bad film,1\n"
    examples = stored(text, inputs={"left": ("t", "a"), "right": ("said", "b")}, target="y", free_text=("said",))
    documents = [
        {"type": "vocabulary", "input": "left"},
        {"type": "tokens", "max_length": 2, "input": "right"},
        {"type": "min_max", "input": "right"},
    ]
    document, _ = fit(steps_of(*documents), examples, torch.arange(2), objective=MSE, inputs=["right", "left"])
    preprocessor = Preprocessor(document)
    dtypes = {"right": torch.float32, "left": torch.float32}
    right, left = preprocessor.all_inputs(examples, dtypes=dtypes)
    specs = [TensorSpec(name=name, dtype="float32", shape=("B", 2)) for name in dtypes]
    sent = {"left": [["v", 3], {"a": 1, "t": "u"}], "right": [["bad film", 4], ["good film", 2]]}
    decoded = codec.decode(sent, specs=specs, rows=document.rows, limits=LIMITS)

    assert left.tolist() == [[0, 1], [1, 3]]
    assert right.tolist() == [[4, 2, 0], [3, 2, 1]]
    for place, expected in enumerate((right, left)):
        again = preprocessor.part(place).inputs(decoded[place].numbers, decoded[place].codes)
        assert torch.equal(again, expected.flip(0))


def test_each_of_several_inputs_has_its_own_steps(two_inputs):
    documents = [
        {"type": "normalize", "scale": 9, "input": "picture"},
        {"type": "standardize", "input": "about"},
    ]
    objective = CrossEntropy(type="cross_entropy")
    preprocessor, _ = fitted(two_inputs, *documents, objective=objective, classes=("0", "1"))
    dtypes = {"picture": torch.float32, "about": torch.float32}
    picture, about = preprocessor.all_inputs(two_inputs, torch.tensor([1, 2]), dtypes=dtypes)
    raw = preprocessor.raw(two_inputs, np.array([1, 2]))
    again = [preprocessor.part(i).inputs(*rows, dtype=torch.float32) for i, rows in enumerate(raw)]

    assert step_mistakes(two_inputs, steps_of(*documents), objective) == []
    assert [name for name, _ in row_shapes(two_inputs, steps_of(*documents), np.arange(10))] == ["picture", "about"]
    assert picture.shape == (2, 1, 4, 4)
    assert about.shape == (2, 3)
    assert torch.equal(picture, again[0])
    assert torch.equal(about, again[1])
    assert [e.pointer for e in step_mistakes(two_inputs, steps_of({"type": "standardize"}), objective)] == [
        "/preprocessing/0/input"
    ]
