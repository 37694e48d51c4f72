"""Preprocessing: fitted on the training rows alone, applied the same way in training and in predict."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler

from service.engine import data
from service.engine.preprocessing import Preprocessor, fit
from service.errors import DatasetRefused, DtypeMismatch, NotFinite
from service.inference import codec
from service.schemas.datasets import Inline, StripedImages
from service.schemas.objectives import BceWithLogits, CrossEntropy, Mse
from service.schemas.preprocessing import NONE, ClassTarget, FittedStandardize, NumberTarget, Preprocessing
from service.schemas.transforms import Clip, Impute, MinMax, OneHot, Standardize
from service.schemas.versions import TensorSpec

MSE = Mse(type="mse")
CROSS_ENTROPY = CrossEntropy(type="cross_entropy")


@pytest.fixture
def stored(tmp_path_factory):
    def _stored(inputs, targets=None, **members):
        folder = tmp_path_factory.mktemp("dataset")
        source = Inline(type="inline", inputs=inputs, targets=targets, **members)
        return data.open_dataset(folder, data.materialize(source, folder))

    return _stored


def fitted(examples, *steps, rows=None, objective=MSE, classes=None):
    rows = torch.arange(examples.rows) if rows is None else torch.tensor(rows)
    document, warnings = fit(steps, examples, rows, objective=objective, classes=classes)
    assert Preprocessing.model_validate_json(document.model_dump_json()) == document
    return Preprocessor(document), warnings


def test_standardized_columns_are_those_of_scikit_learn(stored):
    bunch = load_diabetes(scaled=False)
    examples = stored(bunch.data.tolist(), bunch.target.tolist())

    preprocessor, warnings = fitted(examples, Standardize(type="standardize"))

    expected = StandardScaler().fit_transform(bunch.data)
    assert np.allclose(preprocessor.example_inputs(examples, dtype=torch.float64), expected, atol=1e-12)
    assert warnings == []


def test_statistics_are_those_of_the_training_rows(stored):
    rows = [[1.0, "a"], [2.0, "b"], [3.0, "a"]]
    steps = (Standardize(type="standardize"), OneHot(type="one_hot"))
    target = Standardize(type="standardize", of="target")

    first, _ = fitted(stored([*rows, [4.0, "b"]], [1, 2, 3, 4]), *steps, target, rows=[0, 1, 2])
    again, _ = fitted(stored([*rows, [1e6, "zebra"]], [1, 2, 3, -1e6]), *steps, target, rows=[0, 1, 2])
    other, _ = fitted(stored([*rows[:2], [3.5, "a"], [4.0, "b"]], [1, 2, 3, 4]), *steps, target, rows=[0, 1, 2])

    assert first.document == again.document
    assert first.document != other.document


def test_texts_become_zeros_and_ones_in_the_place_of_their_column(stored):
    examples = stored([[1, "b", 5], [3, "a", 6]], columns=("n", "t", "m"))
    preprocessor, _ = fitted(examples, OneHot(type="one_hot"), MinMax(type="min_max", columns=("n",)))

    assert preprocessor.row_shape == (4,)
    assert preprocessor.example_inputs(examples, dtype=torch.float32).tolist() == [[0, 0, 1, 5], [1, 1, 0, 6]]


def test_predict_encodes_rows_as_training_did_and_an_unseen_text_as_zeros(stored):
    examples = stored([[1, "b", 5], [3, "a", 6]], columns=("n", "t", "m"))
    preprocessor, _ = fitted(examples, OneHot(type="one_hot"), Standardize(type="standardize", columns=("m", "n")))

    limits = codec.Limits(rows=10, elements=100)
    spec = TensorSpec(name="x", dtype="float32", shape=("B", 3))
    rows = [[1, "b", 5], {"n": 3, "t": "zebra", "m": 6}]
    [raw] = codec.decode(rows, specs=[spec], table=preprocessor.document.row, limits=limits)

    inputs = preprocessor.inputs(raw.numbers, raw.codes)
    assert torch.equal(inputs[0], preprocessor.example_inputs(examples, dtype=torch.float32)[0])
    assert inputs[1].tolist() == [1, 0, 0, 1]


def test_steps_on_the_same_column_follow_one_another(stored):
    examples = stored([[0.0], [5.0], [10.0]])
    preprocessor, _ = fitted(examples, MinMax(type="min_max"), Standardize(type="standardize"))

    once, _ = fitted(examples, Standardize(type="standardize"))
    assert preprocessor.document.steps[1].mean == (0.5,)
    both = [p.example_inputs(examples, dtype=torch.float64) for p in (preprocessor, once)]
    assert torch.allclose(both[0], both[1])


def test_pictures_have_one_statistic_a_channel(tmp_path):
    source = StripedImages(type="striped_images", classes=2, rows_per_class=4, channels=3, size=8, std=2.0)
    examples = data.open_dataset(tmp_path, data.materialize(source, tmp_path))

    preprocessor, _ = fitted(examples, Standardize(type="standardize"), objective=CROSS_ENTROPY, classes=("0", "1"))

    inputs = preprocessor.example_inputs(examples, dtype=torch.float32)
    assert len(preprocessor.document.steps[0].mean) == 3
    assert torch.allclose(inputs.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-6)
    assert torch.allclose(inputs.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-6)


def test_a_constant_column_is_only_shifted_and_a_warning_says_so(stored):
    examples = stored([[0.1, 1], [0.1, 2], [0.1, 3]], columns=("c", "v"))

    for step in (Standardize(type="standardize"), MinMax(type="min_max")):
        preprocessor, [warning] = fitted(examples, step)

        assert preprocessor.example_inputs(examples, dtype=torch.float32)[:, 0].tolist() == [0, 0, 0]
        assert (warning.pointer, warning.code) == ("/preprocessing/0", "constant-column")


@pytest.mark.parametrize("step", [Standardize(type="standardize", of="target"), MinMax(type="min_max", of="target")])
def test_answers_come_back_in_the_targets_own_units(stored, step):
    targets = [[1000.0, 1], [3000.0, 2], [8000.0, 4]]
    examples = stored([[1], [2], [3]], targets)
    preprocessor, _ = fitted(examples, step)

    scaled = preprocessor.targets(examples, objective=MSE)

    assert preprocessor.scales_target
    assert scaled.abs().max() < 2
    assert torch.allclose(preprocessor.invert_target(scaled), torch.tensor(targets))


def test_without_steps_numbers_keep_their_bits(stored):
    values = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    examples = stored(values.tolist(), [0.5] * 50)
    preprocessor, _ = fitted(examples)

    assert np.array_equal(preprocessor.example_inputs(examples, dtype=torch.float32), values)
    assert preprocessor.targets(examples, objective=MSE).shape == (50, 1)
    assert preprocessor.document.target == NumberTarget()


def test_an_imported_version_takes_rows_as_they_are():
    preprocessor = Preprocessor(NONE)
    numbers = np.array([[[1.0, 2.0]]])

    assert preprocessor.inputs(numbers).tolist() == numbers.tolist()
    assert preprocessor.unfamiliar(numbers * 1e9) == []
    assert preprocessor.row_shape is None


def test_the_targets_of_a_classifier_are_indices_in_the_versions_order(stored):
    examples = stored([[1], [2], [3]], ["cat", "dog", "cat"])
    preprocessor, _ = fitted(examples, objective=CROSS_ENTROPY, classes=("dog", "cat"))

    assert preprocessor.document.target == ClassTarget(classes=("dog", "cat"))
    assert preprocessor.targets(examples, torch.tensor([0, 1]), objective=CROSS_ENTROPY).tolist() == [1, 0]


@pytest.mark.parametrize("classes", [None, ("no", "yes")], ids=["as numbers", "by name"])
def test_two_classes_are_a_column_of_zeros_and_ones_for_binary_cross_entropy(stored, classes):
    examples = stored([[1], [2]], ["no", "yes"])
    bce = BceWithLogits(type="bce_with_logits")
    preprocessor, _ = fitted(examples, objective=bce, classes=classes)

    assert preprocessor.targets(examples, objective=bce).tolist() == [[0.0], [1.0]]


def test_whole_numbers_go_to_an_embedding_and_fractions_do_not(stored):
    preprocessor, _ = fitted(stored([[1, 2], [3, 4]]))

    assert preprocessor.inputs(np.array([[1.0, 2.0]]), dtype=torch.int64).dtype == torch.int64
    with pytest.raises(DtypeMismatch) as refused:
        preprocessor.inputs(np.array([[1.0, 2.0], [3.0, 4.5]]), dtype=torch.int64)
    assert refused.value.errors[0].pointer == "/inputs/1/1"


def test_a_number_that_overflows_the_nets_dtype_is_refused():
    with pytest.raises(NotFinite) as refused:
        Preprocessor(NONE).inputs(np.array([[1.0], [1e300]]))

    assert refused.value.errors[0].pointer == "/inputs/1/0"


def test_numbers_outside_the_training_range_are_told_one_by_one(stored):
    preprocessor, _ = fitted(stored([[0.0, -1], [1.0, 1]], columns=("x", "y")))

    assert preprocessor.unfamiliar(np.array([[0.0, -1], [1.0, 1]])) == []
    first, second = preprocessor.unfamiliar(np.array([[1.5, 0], [0.5, -2]]))
    assert (first.pointer, first.got, first.expected) == ("/inputs/0/0", "1.5", "0 to 1")
    assert (second.pointer, second.detail) == ("/inputs/1/1", "Column 'y' lies outside what the model was trained on.")


def test_warnings_go_row_by_row_and_into_objects_by_column_name(stored):
    preprocessor, _ = fitted(
        stored([["red", 1.0], ["blue", 2.0]], columns=("colour", "weight")), OneHot(type="one_hot")
    )
    rows = [["green", 9.0], {"weight": 1.5, "colour": "rad"}, {"weight": 5, "colour": "red"}]

    found = preprocessor.unfamiliar(
        np.array([[9.0], [1.5], [5.0]]), np.array([[-1], [-1], [1]]), rows=rows, at="/inputs/x"
    )

    assert [(entry.pointer, entry.code, entry.got) for entry in found] == [
        ("/inputs/x/0/0", "unknown-category", "'green'"),
        ("/inputs/x/0/1", "outside-training-range", "9"),
        ("/inputs/x/1/colour", "unknown-category", "'rad'"),
        ("/inputs/x/2/weight", "outside-training-range", "5"),
    ]
    assert found[2].hint == "Did you mean 'red'?"


def test_many_numbers_outside_the_range_are_counted(stored):
    preprocessor, _ = fitted(stored([[0.0], [1.0]]))

    found = preprocessor.unfamiliar(np.full((100, 1), 2.0))

    assert len(found) == 20
    assert found[-1].detail.startswith("81 more")


def test_missing_numbers_are_told_once_for_each_column_with_what_was_taken(stored):
    steps = (Impute(type="impute", columns=("age", "size")), Standardize(type="standardize"))
    preprocessor, _ = fitted(stored([[1.0, 10, 5], [2.0, 30, 7]], columns=("age", "size", "door")), *steps)
    [part] = preprocessor.parts
    nan = np.nan

    assert part.familiar(np.array([[1.0, 30, 5], [2.0, 10, 7]]))
    assert not part.familiar(np.array([[1.0, 30, 5], [2.0, nan, 7]]))
    assert [
        (entry.pointer, entry.code, entry.detail)
        for entry in part.unfamiliar(np.array([[1.0, 30, 9], [nan, nan, 5], [1.0, nan, 5]]))
    ] == [
        ("/inputs/1/0", "missing-value", "Column 'age' has no value; 1.5 was taken for it."),
        (
            "/inputs/1/1",
            "missing-value",
            "Column 'size' has no value in 2 rows, of which this is the first; 20 was taken for it.",
        ),
        ("/inputs/0/2", "outside-training-range", "Column 'door' lies outside what the model was trained on."),
    ]
    last = part.unfamiliar(np.array([[nan, nan, 9]] * 100))
    assert (len(last), last[-1].detail) == (20, "83 more values lie outside what the model was trained on.")


def test_what_is_filled_in_behind_another_step_is_in_no_unit_to_be_told(stored):
    examples = stored([[1.0], [3.0]], columns=("age",))
    preprocessor, _ = fitted(examples, Clip(type="clip", low=0, high=5), Impute(type="impute"))

    [told] = preprocessor.unfamiliar(np.array([[np.nan]]))
    assert told.detail == "Column 'age' has no value; it was filled in."


def test_large_rows_share_one_range(tmp_path):
    source = StripedImages(type="striped_images", classes=2, rows_per_class=1, channels=4, size=64)
    examples = data.open_dataset(tmp_path, data.materialize(source, tmp_path))
    preprocessor, _ = fitted(examples, objective=CROSS_ENTROPY, classes=("0", "1"))
    assert len(preprocessor.document.training_range.low) == 1

    pictures = np.array(examples.numbers)
    pictures[1, 2, 3, 4] = 99
    assert [entry.pointer for entry in preprocessor.unfamiliar(pictures)] == ["/inputs/1/2/3/4"]


def test_columns_of_another_dataset_are_found_by_name(stored):
    trained, _ = fitted(stored([[1, "a", 5]], columns=("n", "t", "m")), OneHot(type="one_hot"))
    other = stored([[50, "b", 10], [60, "a", 20]], columns=("m", "t", "n"))

    assert trained.example_inputs(other, dtype=torch.float32).tolist() == [[10, 0, 50], [20, 1, 60]]


def test_a_dataset_with_other_rows_is_refused(stored):
    table, _ = fitted(stored([[1, "a"]], columns=("n", "t")), OneHot(type="one_hot"))
    array, _ = fitted(stored([[1.0, 2]]))

    for preprocessor, other, detail in [
        (table, stored([["a", 1]], columns=("n", "t")), "Column 'n' holds texts, the model was trained on numbers."),
        (table, stored([[1]], columns=("n",)), "no input column 't'"),
        (array, stored([[1.0, 2, 3]]), r"the shape \[3\], the model takes rows of the shape \[2\]"),
    ]:
        with pytest.raises(DatasetRefused, match=detail):
            preprocessor.example_inputs(other, dtype=torch.float32)


def test_a_large_array_is_scaled_in_pieces_as_in_one():
    numbers = np.random.default_rng(0).standard_normal((3, 2, 1000, 600)).astype(np.float32)
    document = Preprocessing.model_validate(
        {
            "row": {"layout": "array", "row_shape": (2, 1000, 600)},
            "steps": (FittedStandardize(mean=(1.0, 2.0), std=(3.0, 4.0)),),
        }
    )

    expected = (numbers - np.array([1.0, 2.0])[:, None, None]) / np.array([3.0, 4.0])[:, None, None]
    assert np.array_equal(Preprocessor(document).inputs(numbers), expected.astype(np.float32))
