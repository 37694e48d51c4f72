"""Datasets: generated as tutorials do, stored with a digest, opened, split, and looked at."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris

from service.engine import data
from service.errors import DatasetRefused, NotFinite, NotFound
from service.schemas.datasets import (
    Csv,
    GaussianClouds,
    Inline,
    Noise,
    Npz,
    Polynomial,
    RandomSplit,
    StratifiedSplit,
    StripedImages,
)

UPLOAD = "up_" + "0" * 32


class Stored:
    """A materialized dataset and where it lies."""

    def __init__(self, folder, manifest):
        self.folder, self.manifest = folder, manifest
        self.examples = data.open_dataset(folder, manifest)


@pytest.fixture
def store(tmp_path_factory):
    def _store(source, upload=None):
        folder = tmp_path_factory.mktemp("dataset")
        return Stored(folder, data.materialize(source, folder, upload=upload))

    return _store


def inline(inputs, targets=None, **members):
    return Inline(type="inline", inputs=inputs, targets=targets, **members)


@pytest.fixture(scope="session")
def iris_csv(tmp_path_factory):
    bunch = load_iris()
    path = tmp_path_factory.mktemp("iris") / "iris.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*bunch.feature_names, "species"])
        writer.writerows([*row, bunch.target_names[kind]] for row, kind in zip(bunch.data, bunch.target, strict=True))
    return path


# -- generators --------------------------------------------------------------------------------------------------------


def test_a_polynomial_is_the_tutorials_own_data(store):
    stored = store(
        Polynomial(type="polynomial", coefficients=(-2, 3, 1), low=-2, high=2, noise=Noise(scale=0.5), seed=7)
    )

    generator = torch.Generator().manual_seed(7)
    x = torch.unsqueeze(torch.linspace(-2, 2, 100), dim=1)
    y = x.pow(2) + 3 * x - 2 + 0.5 * torch.rand(x.size(), generator=generator)
    assert np.array_equal(stored.examples.numbers, x.numpy())
    assert np.array_equal(stored.examples.targets, y.numpy())


def test_gaussian_clouds_are_the_tutorials_own_data(store):
    stored = store(GaussianClouds(type="gaussian_clouds", centers=((2, 2), (-2, -2)), seed=3))

    generator = torch.Generator().manual_seed(3)
    ones = torch.ones(100, 2)
    x = torch.cat([torch.normal(2 * ones, 1, generator=generator), torch.normal(-2 * ones, 1, generator=generator)])
    assert np.array_equal(stored.examples.numbers, x.numpy())
    assert stored.examples.targets.tolist() == [0] * 100 + [1] * 100
    assert (stored.manifest.target, stored.manifest.classes) == ("class", ("0", "1"))


def test_striped_images_have_the_shape_and_classes_that_were_asked_for(store):
    stored = store(StripedImages(type="striped_images", classes=3, rows_per_class=2, channels=3, size=8, std=0))

    assert stored.examples.numbers.shape == (6, 3, 8, 8)
    assert stored.examples.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert not np.array_equal(stored.examples.numbers[0], stored.examples.numbers[2])


def test_a_polynomial_that_overflows_is_refused(tmp_path):
    with pytest.raises(DatasetRefused, match="overflows"):
        data.materialize(Polynomial(type="polynomial", coefficients=(0,) * 15 + (1e30,), high=1e6), tmp_path)


# -- digests -----------------------------------------------------------------------------------------------------------


def test_the_same_source_gives_the_same_digest_and_another_one_another(store):
    first, again, other = (
        store(Polynomial(type="polynomial", coefficients=(0, 0, 1), noise=Noise(scale=0.2), seed=seed))
        for seed in (1, 1, 2)
    )

    assert first.manifest == again.manifest
    assert first.manifest.digest != other.manifest.digest


def test_the_names_of_columns_are_part_of_the_digest(store):
    rows = [[1, 2.5], [3, 4.5]]

    assert (
        store(inline(rows, columns=("a", "b"))).manifest.digest
        != store(inline(rows, columns=("a", "c"))).manifest.digest
    )


def test_the_manifest_tells_the_files_as_they_are(store):
    import hashlib

    stored = store(inline([[1.5], [2.5]], [0, 1]))

    assert [file.name for file in stored.manifest.files] == ["inputs.npy", "targets.npy"]
    for file in stored.manifest.files:
        content = (stored.folder / file.name).read_bytes()
        assert (file.size_bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())


# -- inline ------------------------------------------------------------------------------------------------------------


def test_whole_numbers_stay_whole(store):
    stored = store(inline([[1, 2], [3, 4]], [[5], [6]]))

    assert (stored.examples.numbers.dtype, stored.examples.targets.dtype) == (np.int64, np.int64)
    assert (stored.manifest.columns[0].dtype, stored.examples.targets.shape) == ("int", (2, 1))


def test_rows_of_numbers_and_texts_are_a_table(store):
    stored = store(inline([[3, "Bonn", 1.5], [4, "Ahlen", 2]], [1.0, 2.0], columns=("rooms", "town", "age")))

    assert (stored.manifest.layout, stored.manifest.row_shape) == ("table", (3,))
    assert stored.examples.numbers.tolist() == [[3, 1.5], [4, 2]]
    assert stored.examples.codes.tolist() == [[1], [0]]


def test_texts_as_targets_are_classes(store):
    stored = store(inline([[1], [2], [3]], ["cat", "dog", "cat"]))

    assert (stored.manifest.classes, stored.examples.targets.tolist()) == (("cat", "dog"), [0, 1, 0])


BAD_INLINE = {
    "null": ([[1], [None]], None, "/source/inputs/1/0", "wrong-type"),
    "true": ([[1], [True]], None, "/source/inputs/1/0", "wrong-type"),
    "a text among numbers": ([[1, 2], [3, "4"]], None, "/source/inputs/1/1", "wrong-type"),
    "a number among texts": ([["a"], [4]], None, "/source/inputs/1/0", "wrong-type"),
    "an object": ([[1], [{}]], None, "/source/inputs/1/0", "wrong-type"),
    "a short row": ([[1, 2], [3]], None, "/source/inputs/1", "ragged"),
    "a number instead of a row": ([[1, 2], 3], None, "/source/inputs/1", "ragged"),
    "a row instead of a number": ([1, [2]], None, "/source/inputs/1", "ragged"),
    "a short row inside": ([[[1, 2], [3, 4]], [[1, 2], [3]]], None, "/source/inputs/1/1", "ragged"),
    "no numbers": ([[], []], None, "/source/inputs", "shape-mismatch"),
    "very deep": ([[[[[[[[[1]]]]]]]]], None, "/source/inputs", "shape-mismatch"),
    "too few targets": ([[1], [2]], [1], "/source/targets", "shape-mismatch"),
    "a missing target": ([[1], [2]], [1, None], "/source/targets/1", "wrong-type"),
    "a class among numbers": ([[1], [2]], ["cat", 1], "/source/targets/1", "wrong-type"),
    "an empty class": ([[1], [2]], ["cat", ""], "/source/targets/1", "wrong-type"),
}


@pytest.mark.parametrize(("inputs", "targets", "pointer", "code"), BAD_INLINE.values(), ids=BAD_INLINE.keys())
def test_what_is_wrong_in_inline_rows_is_pointed_to(tmp_path, inputs, targets, pointer, code):
    with pytest.raises(DatasetRefused) as refused:
        data.materialize(inline(inputs, targets), tmp_path)

    assert [(entry.pointer, entry.code) for entry in refused.value.errors] == [(pointer, code)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [float("inf"), float("nan"), 1e39, 10**400], ids=str)
def test_numbers_that_are_not_finite_in_float32_are_refused_as_such(tmp_path, number):
    with pytest.raises(NotFinite) as refused:
        data.materialize(inline([[1.0, 2], [3, number]]), tmp_path, at="/dataset")

    assert refused.value.errors[0].pointer == "/dataset/inputs/1/1"


def test_mistakes_in_inputs_and_targets_are_told_at_once(tmp_path):
    with pytest.raises(DatasetRefused) as refused:
        data.materialize(inline([[None], [2]], [1, True]), tmp_path)

    assert [entry.pointer for entry in refused.value.errors] == ["/source/inputs/0/0", "/source/targets/1"]


def test_a_source_that_names_an_upload_needs_it(tmp_path):
    with pytest.raises(NotFound):
        data.materialize(Npz(type="npz", upload=UPLOAD), tmp_path)


# -- real tables -------------------------------------------------------------------------------------------------------


def test_iris_comes_out_as_it_is(store, iris_csv):
    bunch = load_iris()
    stored = store(Csv(type="csv", upload=UPLOAD, target="species"), iris_csv)

    assert np.array_equal(stored.examples.numbers, bunch.data)
    assert np.array_equal(stored.examples.targets, bunch.target)
    assert stored.manifest.classes == tuple(bunch.target_names)


def test_diabetes_has_a_number_for_a_target(store, tmp_path):
    bunch = load_diabetes()
    path = tmp_path / "diabetes.csv"
    header = ",".join([*bunch.feature_names, "progression"])
    np.savetxt(path, np.column_stack([bunch.data, bunch.target]), "%.17g", ",", header=header, comments="")

    stored = store(Csv(type="csv", upload=UPLOAD, target="progression"), path)

    assert np.array_equal(stored.examples.numbers, bunch.data)
    assert (stored.manifest.target, stored.manifest.target_flat) == ("number", True)


def test_a_preview_shows_rows_as_people_wrote_them(store, iris_csv):
    stored = store(Csv(type="csv", upload=UPLOAD, target="species"), iris_csv)

    shown = data.preview(stored.folder, stored.manifest, limit=2)

    assert [column["name"] for column in shown["columns"]][-2:] == ["petal width (cm)", "species"]
    assert shown["rows"] == [[5.1, 3.5, 1.4, 0.2, "setosa"], [4.9, 3.0, 1.4, 0.2, "setosa"]]


def test_a_preview_of_large_rows_stays_small(store):
    stored = store(StripedImages(type="striped_images", classes=2, rows_per_class=10, size=128))

    assert len(data.preview(stored.folder, stored.manifest, limit=200)["rows"]) == 4


def test_a_profile_tells_range_mean_and_distribution(store, iris_csv):
    bunch = load_iris()
    stored = store(Csv(type="csv", upload=UPLOAD, target="species"), iris_csv)

    columns = data.profile(stored.folder, stored.manifest)["columns"]

    first = columns[0]
    assert (first["min"], first["max"], first["missing"]) == (4.3, 7.9, 0)
    assert first["mean"] == pytest.approx(bunch.data[:, 0].mean())
    assert first["std"] == pytest.approx(bunch.data[:, 0].std())
    assert sum(first["histogram"]["counts"]) == 150
    assert columns[-1]["top"] == [{"value": name, "count": 50} for name in bunch.target_names]


def test_a_profile_of_pictures_is_one_summary(store):
    stored = store(StripedImages(type="striped_images", classes=2, rows_per_class=3, size=8))

    x, y = data.profile(stored.folder, stored.manifest)["columns"]
    assert x["mean"] == pytest.approx(stored.examples.numbers.mean(), abs=1e-6)
    assert y["distinct"] == 2


# -- splits ------------------------------------------------------------------------------------------------------------


def test_without_a_split_all_rows_train(store):
    rows = data.split_rows(None, store(inline([[1], [2], [3]])).examples)

    assert {name: part.tolist() for name, part in rows.items()} == {"train": [0, 1, 2]}


def test_a_random_split_shares_out_every_row_once_and_the_same_way_each_time(store):
    examples = store(Polynomial(type="polynomial", coefficients=(1,), rows=101)).examples
    split = RandomSplit(type="random", validation=0.2, test=0.1, seed=5)

    rows = data.split_rows(split, examples)

    assert {name: len(part) for name, part in rows.items()} == {"train": 71, "val": 20, "test": 10}
    assert sorted(torch.cat(list(rows.values())).tolist()) == list(range(101))
    assert all(torch.equal(part, data.split_rows(split, examples)[name]) for name, part in rows.items())
    other = data.split_rows(split.model_copy(update={"seed": 6}), examples)
    assert not torch.equal(rows["train"], other["train"])


def test_a_stratified_split_keeps_the_share_of_each_class(store, iris_csv):
    examples = store(Csv(type="csv", upload=UPLOAD, target="species"), iris_csv).examples

    rows = data.split_rows(StratifiedSplit(type="stratified", validation=0.2), examples)

    assert np.bincount(examples.targets[rows["val"].numpy()]).tolist() == [10, 10, 10]


@pytest.mark.parametrize(
    ("split", "detail"),
    [
        pytest.param(RandomSplit(type="random", validation=0.1), "no validation rows", id="no row for validation"),
        pytest.param(RandomSplit(type="random", validation=0.3, test=0.1), "no test rows", id="no row for the test"),
        pytest.param(RandomSplit(type="random", validation=0.99), "no training rows", id="no row left to train on"),
        pytest.param(StratifiedSplit(type="stratified"), "needs classes", id="stratified without classes"),
    ],
)
def test_a_split_that_breaks_its_promise_is_refused(store, split, detail):
    examples = store(inline([[1], [2], [3]], [[0.5], [1], [2]])).examples

    with pytest.raises(DatasetRefused, match=detail) as refused:
        data.split_rows(split, examples)
    assert refused.value.errors[0].pointer == "/split"


# -- classes -----------------------------------------------------------------------------------------------------------


def test_whole_numbers_of_a_csv_column_are_names_in_numeric_order(store, tmp_path):
    path = tmp_path / "digits.csv"
    path.write_text("x,y\n1,10\n2,9\n3,10\n4,-1\n")
    examples = store(Csv(type="csv", upload=UPLOAD, target="y"), path).examples

    indices, classes = data.class_indices(examples)

    assert (indices.tolist(), classes) == ([2, 1, 2, 0], ("-1", "9", "10"))


def test_whole_numbers_of_other_sources_are_indices(store):
    indices, classes = data.class_indices(store(inline([[1], [2]], [0, 3])).examples, width=5)

    assert (indices.tolist(), classes) == ([0, 3], ("0", "1", "2", "3", "4"))


def test_class_names_take_the_order_of_the_version(store):
    examples = store(inline([[1], [2], [3]], ["cat", "dog", "cat"])).examples

    indices, classes = data.class_indices(examples, classes=("dog", "horse", "cat"))

    assert (indices.tolist(), classes) == ([2, 0, 2], ("dog", "horse", "cat"))


@pytest.mark.parametrize(
    ("targets", "classes", "detail"),
    [
        pytest.param(
            ["cat", "dgo"], ("dog", "cat"), "does not know the class 'dgo'", id="a class the model does not know"
        ),
        pytest.param(
            [0, 2], ("dog", "cat"), "Class 2 is not an index into 2 classes", id="an index outside the classes"
        ),
        pytest.param([0, -1], None, "Class -1", id="a negative index"),
        pytest.param([0.5, 1], None, "not whole numbers", id="a fraction"),
        pytest.param([[0, 1], [1, 0]], None, r"the shape \[2, 2\]", id="a row of numbers"),
        pytest.param(None, None, "no targets", id="no targets"),
    ],
)
def test_targets_that_are_no_classes_are_refused(store, targets, classes, detail):
    examples = store(inline([[1], [2]], targets)).examples

    with pytest.raises(DatasetRefused, match=detail):
        data.class_indices(examples, classes=classes)
