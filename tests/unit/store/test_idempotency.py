"""Idempotency: the first answer again, for the same request only, and only if its effect was committed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from service.errors import IdempotencyMismatch
from service.store.database import Database
from service.store.idempotency import IdempotencyKey, IdempotencyStore, StoredAnswer

KEY = IdempotencyKey("key", "POST /v1/jobs", "ann", "0" * 64)


@pytest.fixture
def answers(database: Database) -> IdempotencyStore:
    return IdempotencyStore(database)


def test_the_first_answer_is_given_again(answers: IdempotencyStore):
    before = answers.find(KEY)
    answers.keep(KEY, 201, {"id": "up_1"})

    assert before is None
    assert answers.find(KEY) == StoredAnswer(201, {"id": "up_1"})


def test_the_same_key_with_another_body_is_refused(answers: IdempotencyStore):
    answers.keep(KEY, 201, {})

    with pytest.raises(IdempotencyMismatch):
        answers.find(replace(KEY, body_sha256="1" * 64))


def test_a_key_belongs_to_a_caller_and_a_route(answers: IdempotencyStore):
    answers.keep(KEY, 201, {})

    assert answers.find(replace(KEY, caller="bob")) is None
    assert answers.find(replace(KEY, route="POST /v1/datasets")) is None


def test_an_answer_whose_effect_was_taken_back_is_not_kept(answers: IdempotencyStore, database: Database):
    with pytest.raises(RuntimeError), database.write():  # noqa: PT012
        answers.keep(KEY, 201, {})
        assert answers.find(KEY) is not None
        raise RuntimeError

    assert answers.find(KEY) is None


def test_answers_are_forgotten_after_a_day(answers: IdempotencyStore):
    answers.keep(KEY, 201, {})
    now = datetime.now(UTC)

    assert answers.sweep(now=now + timedelta(hours=23)) == 0
    assert answers.sweep(now=now + timedelta(hours=25)) == 1
    assert answers.find(KEY) is None


def test_a_key_is_free_again_after_a_day_though_nobody_swept(answers: IdempotencyStore, database: Database):
    answers.keep(KEY, 201, {"id": "ds_1"})
    now = datetime.now(UTC)
    later = replace(KEY, body_sha256="1" * 64)

    assert answers.find(KEY, now=now + timedelta(hours=23)) is not None
    assert answers.find(later, now=now + timedelta(hours=25)) is None
    answers.keep(later, 201, {"id": "ds_2"})
    assert answers.find(later) == StoredAnswer(201, {"id": "ds_2"})


def test_an_answer_is_forgotten_by_what_it_tells_of(answers: IdempotencyStore):
    other = replace(KEY, key="other")
    answers.keep(KEY, 201, {"id": "ds_1"})
    answers.keep(other, 201, {"id": "ds_2"})
    answers.forget(201, {"id": "ds_1"})

    assert (answers.find(KEY), answers.find(other)) == (None, StoredAnswer(201, {"id": "ds_2"}))
