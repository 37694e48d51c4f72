"""Images changed at random while training: what comes out, and that a resumed run draws the same."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from service.engine.augmentation import augment, augmentation, generator_of
from service.engine.train import CheckpointDue, Trainer
from service.schemas.training import TrainingConfig
from service.schemas.transforms import Augmenting, RandomCrop, RandomFlip

BATCH = torch.arange(6 * 3 * 5 * 4, dtype=torch.float32).reshape(6, 3, 5, 4) + 1
FLIP, CROP = RandomFlip(type="random_flip"), RandomCrop(type="random_crop", padding=2)


def test_images_are_mirrored_or_left_alone():
    flipped = augment(BATCH, generator_of(0, 1), [RandomFlip(type="random_flip", probability=1)])
    some = augment(BATCH, generator_of(0, 1), [FLIP])
    choices = {torch.equal(new, old) for new, old in zip(some, BATCH, strict=True)}

    assert torch.equal(flipped, BATCH.flip(3))
    assert all(torch.equal(n, o) or torch.equal(n, o.flip(2)) for n, o in zip(some, BATCH, strict=True))
    assert choices == {True, False}


def test_a_crop_is_a_window_of_the_bordered_image():
    cropped = augment(BATCH, generator_of(0, 1), [CROP])
    bordered = torch.nn.functional.pad(BATCH, (2, 2, 2, 2))
    windows = [
        [bordered[i, :, top : top + 5, left : left + 4] for top in range(5) for left in range(5)] for i in range(6)
    ]

    assert cropped.shape == BATCH.shape
    assert all(any(torch.equal(new, one) for one in windows[i]) for i, new in enumerate(cropped))
    assert not torch.equal(cropped, BATCH)


@pytest.mark.parametrize("step", [FLIP, CROP], ids=["flip", "crop"])
def test_what_is_drawn_hangs_on_seed_and_step_alone(step):
    before, state = BATCH.clone(), torch.get_rng_state()
    first = augment(BATCH, generator_of(3, 7), [step])

    assert torch.equal(first, augment(BATCH, generator_of(3, 7), [step]))
    assert not torch.equal(first, augment(BATCH, generator_of(3, 8), [step]))
    assert torch.equal(BATCH, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_augmenting_step_is_tried():
    assert {type(FLIP), type(CROP)} == set(get_args(Augmenting))


def config(**members) -> TrainingConfig:
    steps = [{"type": "random_flip", "input": "b"}, {"type": "random_crop", "padding": 1}]
    document = {
        "objective": {"type": "mse"},
        "optimizer": {"type": "SGD", "lr": 0.01},
        "budget": {"steps": 9},
        "batch_size": 4,
        "preprocessing": steps,
        **members,
    }
    return TrainingConfig.model_validate(document)


def test_a_step_changes_the_input_that_it_names():
    apply = augmentation(config().preprocessing, ["a", "b"], seed=0)
    assert apply is not None
    [(a, b), (c, d)] = [apply((BATCH, BATCH), step) for step in (1, 2)]

    assert all(not torch.equal(each, BATCH) for each in (a, c))
    assert any(not torch.equal(each, BATCH) for each in (b, d))
    assert augmentation((), ["a"], seed=0) is None


def trainer(wanted=True):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(24, 1))
    documents = config(preprocessing=[{"type": "random_crop"}, {"type": "random_flip"}], checkpoint={"every_s": 0.05})
    change = augmentation(documents.preprocessing, ["x"], seed=5) if wanted else None
    images = torch.rand(10, 3, 5, 4)
    return Trainer(module, documents, [images], images.mean(dim=(1, 2, 3))[:, None], augment=change)


def weights(one: Trainer) -> torch.Tensor:
    return torch.cat([value.reshape(-1) for value in one.module.state_dict().values()])


def test_a_resumed_run_sees_the_same_images():
    whole = trainer()
    for _ in whole.run():
        pass
    first = trainer()
    ticks = iter(range(10**6))
    first._clock = lambda: next(ticks) * 0.03  # a checkpoint every other step
    for event in first.run():
        if isinstance(event, CheckpointDue) and event.step >= 4:
            break
    state = first.state()
    state = {**state, "module": {name: value.clone() for name, value in state["module"].items()}}
    resumed = trainer()
    resumed.restore(state)
    for _ in resumed.run():
        pass
    plain = trainer(wanted=False)
    for _ in plain.run():
        pass

    assert 0 < state["step"] < 9
    assert torch.equal(weights(resumed), weights(whole))
    assert not torch.equal(weights(plain), weights(whole))
