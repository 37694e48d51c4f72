"""Keys and the guard: who is let in, until when, how often, and what a file of keys may say."""

from __future__ import annotations

import asyncio
import hmac
import inspect
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from service import keys
from service.errors import (
    Conflict,
    DeadlinePassed,
    Forbidden,
    NotFound,
    Overloaded,
    RateLimited,
    Unauthenticated,
    ValidationFailed,
)
from service.keys import ANONYMOUS, Guard, Key, Keys, Scope

NOW = datetime(2030, 1, 1, tzinfo=UTC)
CLIENT = "192.0.2.7"


class Clock:
    """Seconds since the epoch, as told."""

    def __init__(self) -> None:
        self.now = NOW.timestamp()

    def __call__(self) -> float:
        return self.now


def bearer(text: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", b"Bearer " + text.encode())]


def inline(*stored: Key) -> str:
    return orjson.dumps([key.model_dump(mode="json") for key in stored]).decode()


def test_nobody_is_asked_for_a_key_where_there_are_none() -> None:
    guard = Guard()

    assert guard.open
    assert guard.admit([], CLIENT, Scope.ADMIN) is ANONYMOUS
    assert guard.admit(bearer("msk_wrong_key"), CLIENT, Scope.ADMIN) is ANONYMOUS


@pytest.mark.parametrize("needed", Scope)
@pytest.mark.parametrize("held", Scope)
def test_a_scope_includes_those_before_it(held: Scope, needed: Scope) -> None:
    text, key = keys.make("ci", held, now=NOW)
    guard = Guard(inline=inline(key), clock=Clock())
    if held >= needed:
        principal = guard.admit(bearer(text), CLIENT, needed)

        assert (principal.name, principal.id, principal.scope) == ("ci", key.id, held)
    else:
        with pytest.raises(Forbidden, match=f"needs the scope {needed.word}; the key 'ci' has {held.word}") as raised:
            guard.admit(bearer(text), CLIENT, needed)

        assert raised.value.scope == needed.word


def test_a_key_comes_in_either_header_and_two_that_differ_are_none() -> None:
    text, key = keys.make("ci", Scope.READ, now=NOW)
    guard = Guard(inline=inline(key), clock=Clock())
    raw = text.encode()

    assert guard.admit([(b"x-api-key", raw)], CLIENT, Scope.READ).id == key.id
    assert guard.admit([(b"x-api-key", b" \t" + raw + b" ")], CLIENT, Scope.READ).id == key.id
    assert guard.admit([(b"authorization", b"bEaReR  " + raw)], CLIENT, Scope.READ).id == key.id
    assert guard.admit([(b"x-api-key", raw), (b"authorization", b"Bearer " + raw)], CLIENT, Scope.READ).id == key.id
    with pytest.raises(Unauthenticated):
        guard.admit([(b"x-api-key", raw), (b"authorization", b"Bearer other")], CLIENT, Scope.READ)


def test_what_is_not_the_whole_key_is_told_apart_from_nothing_by_nobody() -> None:
    text, key = keys.make("ci", Scope.READ, now=NOW)
    guard = Guard(inline=inline(key), clock=Clock(), failures_per_minute=100)
    wrong = [
        *("", "msk", "msk__", f"msk_{key.id}_", text[:-1], text + "0", text.upper(), text[:-1] + "ü", "x" * 10_000),
        *(f"msk_{'0' * 12}_{text[17:]}", key.sha256, f"msk_{key.id}_{key.sha256}"),
    ]
    told = set()
    for shown in [*map(bearer, wrong), [], [(b"authorization", b"Basic " + text.encode())], [(b"x-api-key", b"\xff")]]:
        with pytest.raises(Unauthenticated) as raised:
            guard.admit(shown, CLIENT, Scope.PREDICT)
        told.add((raised.value.message, raised.value.hint, raised.value.errors))

    assert told == {("This needs a valid API key.", None, ())}


def test_digests_are_compared_in_constant_time_also_where_there_is_no_such_key() -> None:
    source = inspect.getsource(Guard._find)

    assert "hmac.compare_digest(" in source
    assert "==" not in source.replace("len(parts) == 3", "")
    assert hmac.compare_digest(bytes(32), keys._NO_KEY)


def test_a_key_ends_when_it_expires() -> None:
    clock = Clock()
    text, key = keys.make("ci", Scope.READ, now=NOW, expires=NOW + timedelta(minutes=1))
    guard = Guard(inline=inline(key), clock=clock)
    clock.now += 59
    guard.admit(bearer(text), CLIENT, Scope.READ)
    clock.now += 1

    with pytest.raises(Unauthenticated, match="expired"):
        guard.admit(bearer(text), CLIENT, Scope.READ)


def test_looking_whether_a_key_still_holds_spends_nothing_of_its_quota(tmp_path: Path) -> None:
    clock = Clock()
    file = tmp_path / "keys.toml"
    text, key = keys.make("ci", Scope.READ, now=NOW, expires=NOW + timedelta(minutes=1), requests_per_minute=1)
    keys.write(file, Keys(keys=(key,)))
    guard = Guard(file=file, clock=clock)
    guard.admit(bearer(text), CLIENT, Scope.READ)

    assert [guard.holds(bearer(text), Scope.READ) for _ in range(3)] == [True] * 3
    assert not guard.holds(bearer(text), Scope.TRAIN)
    assert not guard.holds([], Scope.READ)
    assert not guard.holds(bearer(text[:-1]), Scope.READ)
    keys.write(file, Keys())
    clock.now += 2
    assert not guard.holds(bearer(text), Scope.READ)
    keys.write(file, Keys(keys=(key,)))
    clock.now += 2
    assert guard.holds(bearer(text), Scope.READ)
    clock.now += 56
    assert not guard.holds(bearer(text), Scope.READ)
    assert Guard().holds([], Scope.ADMIN)


def test_wrong_keys_from_one_address_are_limited_and_right_ones_still_come_in() -> None:
    clock = Clock()
    text, key = keys.make("ci", Scope.READ, now=NOW)
    told: list[str] = []
    guard = Guard(inline=inline(key), clock=clock, failures_per_minute=10, on_refusal=told.append)
    for _ in range(10):
        with pytest.raises(Unauthenticated):
            guard.admit(bearer("msk_guess_1"), CLIENT, Scope.READ)
    with pytest.raises(RateLimited) as raised:
        guard.admit(bearer("msk_guess_1"), CLIENT, Scope.READ)

    assert raised.value.retry_after_s == pytest.approx(6)
    assert raised.value.limit == {"name": "key_failures_per_minute", "value": 10}
    assert guard.admit(bearer(text), CLIENT, Scope.READ).id == key.id
    with pytest.raises(Unauthenticated):
        guard.admit([], CLIENT, Scope.READ)  # no key is no guess
    with pytest.raises(Unauthenticated):
        guard.admit(bearer("msk_guess_1"), "192.0.2.8", Scope.READ)
    clock.now += 6
    with pytest.raises(Unauthenticated):
        guard.admit(bearer("msk_guess_1"), CLIENT, Scope.READ)
    assert told == ["wrong"] * 10 + ["failures", "missing", "wrong", "wrong"]


def test_an_ipv6_customer_is_one_address_and_addresses_take_bounded_memory() -> None:
    _, key = keys.make("ci", Scope.READ, now=NOW)
    guard = Guard(inline=inline(key), clock=Clock(), failures_per_minute=1)
    with pytest.raises(Unauthenticated):
        guard.admit(bearer("msk_guess_1"), "2001:db8::1", Scope.READ)
    with pytest.raises(RateLimited):
        guard.admit(bearer("msk_guess_1"), "2001:db8::ffff%eth0", Scope.READ)
    for place in range(keys._MOST_ADDRESSES + 10):
        with pytest.raises(Unauthenticated):
            guard.admit(bearer("msk_guess_1"), f"client-{place}", Scope.READ)

    assert len(guard._failures._buckets) == keys._MOST_ADDRESSES


def test_a_quota_of_requests_fills_evenly() -> None:
    clock = Clock()
    text, key = keys.make("ci", Scope.READ, now=NOW, requests_per_minute=6)
    guard = Guard(inline=inline(key), clock=clock)
    for _ in range(6):
        guard.admit(bearer(text), CLIENT, Scope.READ)
    with pytest.raises(RateLimited) as raised:
        guard.admit(bearer(text), CLIENT, Scope.READ)
    clock.now += 10
    guard.admit(bearer(text), CLIENT, Scope.READ)

    assert raised.value.retry_after_s == pytest.approx(10)
    assert raised.value.limit == {"name": "requests_per_minute", "value": 6}


def test_a_request_may_pass_the_quota_of_rows_and_the_next_one_waits_for_it() -> None:
    clock = Clock()
    text, key = keys.make("ci", Scope.PREDICT, now=NOW, rows_per_minute=60)
    guard = Guard(inline=inline(key), clock=clock)
    principal = guard.admit(bearer(text), CLIENT, Scope.PREDICT)
    guard.charge(principal, 90)
    with pytest.raises(RateLimited) as raised:
        guard.charge(principal, 1)
    clock.now += 31
    guard.charge(principal, 1)

    assert raised.value.retry_after_s == pytest.approx(31)
    guard.charge(ANONYMOUS, 10**9)


@pytest.mark.parametrize(
    ("end", "left"),
    [(NotFound(), 60), (Overloaded("So many wait."), 60), (DeadlinePassed(), 30), (asyncio.CancelledError(), 30)],
    ids=lambda one: type(one).__name__,
)
def test_the_rows_of_a_refused_request_are_given_back_but_not_of_one_that_was_worked_for(
    end: BaseException, left: int
) -> None:
    text, key = keys.make("ci", Scope.PREDICT, now=NOW, rows_per_minute=60)
    guard = Guard(inline=inline(key), clock=Clock())
    principal = guard.admit(bearer(text), CLIENT, Scope.PREDICT)

    def ask() -> None:
        with guard.charging(principal) as charge:
            charge(30)
            raise end

    with pytest.raises(type(end)):
        ask()
    for _ in range(left):
        guard.charge(principal, 1)
    with pytest.raises(RateLimited):
        guard.charge(principal, 1)


def test_what_is_given_back_makes_no_quota_larger() -> None:
    clock = Clock()
    text, key = keys.make("ci", Scope.PREDICT, now=NOW, rows_per_minute=60)
    guard = Guard(inline=inline(key), clock=clock)
    principal = guard.admit(bearer(text), CLIENT, Scope.PREDICT)
    guard.charge(principal, 30)
    clock.now += 60
    guard.charge(principal, 1)
    guard.give_back(principal, 30)
    guard.charge(principal, 60)
    with pytest.raises(RateLimited):
        guard.charge(principal, 1)


def test_a_changed_file_is_read_again_and_a_wrong_one_changes_nothing(tmp_path: Path) -> None:
    clock = Clock()
    file = tmp_path / "keys.toml"
    old, first = keys.make("ci", Scope.READ, now=NOW, requests_per_minute=2)
    new, second = keys.make("ci", Scope.READ, now=NOW)
    keys.write(file, Keys(keys=(first,)))
    guard = Guard(file=file, clock=clock)
    guard.admit(bearer(old), CLIENT, Scope.READ)

    keys.write(file, Keys(keys=(first, second)))
    clock.now += 1
    guard.admit(bearer(new), CLIENT, Scope.READ)
    guard.admit(bearer(old), CLIENT, Scope.READ)
    with pytest.raises(RateLimited):  # what was used of the quota stays used
        guard.admit(bearer(old), CLIENT, Scope.READ)

    file.write_text("[[keys]]\nid = 'broken'")
    clock.now += 1
    guard.admit(bearer(new), CLIENT, Scope.READ)

    file.unlink()
    clock.now += 1
    guard.admit(bearer(new), CLIENT, Scope.READ)

    keys.write(file, Keys())
    clock.now += 1
    for text in (old, new):
        with pytest.raises(Unauthenticated):
            guard.admit(bearer(text), CLIENT, Scope.READ)


def test_a_file_without_keys_lets_nobody_in(tmp_path: Path) -> None:
    keys.write(tmp_path / "keys.toml", Keys())
    guard = Guard(file=tmp_path / "keys.toml")

    assert not guard.open
    with pytest.raises(Unauthenticated):
        guard.admit([], CLIENT, Scope.PREDICT)


@pytest.mark.parametrize("name", ["keys.toml", "keys.json"])
def test_what_is_written_is_read_again_and_holds_no_key(tmp_path: Path, name: str) -> None:
    text, key = keys.make(
        "ci.main", Scope.TRAIN, now=NOW, expires=NOW + timedelta(days=90), requests_per_minute=5, rows_per_minute=7
    )
    _, other = keys.make("web", Scope.PREDICT, now=NOW)
    keys.write(tmp_path / name, Keys(keys=(key, other)))

    assert keys.read(tmp_path / name).keys == (key, other)
    assert text.rpartition("_")[2] not in (tmp_path / name).read_text()
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_file_that_is_written_again_keeps_the_mode_that_its_operator_gave_it(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    _, key = keys.make("ci", Scope.READ, now=NOW)
    modes = []
    keys.write(file, Keys())
    for mode in (0o600, 0o640, 0o644):
        file.chmod(mode)
        keys.write(file, Keys(keys=(key,)))
        modes.append(stat.S_IMODE(file.stat().st_mode))

    assert modes == [0o600, 0o640, 0o644]


def test_every_mistake_of_a_file_is_told_and_no_value_of_it(tmp_path: Path) -> None:
    text, key = keys.make("ci", Scope.READ, now=NOW)
    file = tmp_path / "keys.toml"
    file.write_text(
        f'[[keys]]\nid = "{key.id}"\nname = "Ci"\nscope = "write"\nsha256 = "{text}"\nexpires = 2030-01-01\nrate = 1\n'
        f'[[keys]]\nid = "{key.id}"\nname = "ci"\nscope = "read"\nsha256 = "{key.sha256}"\n'
    )
    with pytest.raises(ValidationFailed) as raised:
        keys.read(file)

    assert {entry.pointer for entry in raised.value.errors} == {
        *("/keys/0/name", "/keys/0/scope", "/keys/0/sha256", "/keys/0/expires", "/keys/0/rate"),
    }
    assert text not in repr([entry.to_dict() for entry in raised.value.errors])


@pytest.mark.parametrize("content", ["{", "[[keys]", '{"keys": 1', "\x00", "msk_0123456789ab_secret"])
def test_a_file_that_is_neither_toml_nor_json_is_refused_without_showing_it(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(ValidationFailed, match="is not well-formed TOML or JSON") as raised:
        keys.read(file)

    assert "secret" not in raised.value.message
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_an_id_stands_in_a_file_once(tmp_path: Path) -> None:
    _, key = keys.make("ci", Scope.READ, now=NOW)
    keys.write(tmp_path / "keys.json", Keys(keys=(key, key)))

    with pytest.raises(ValidationFailed) as raised:
        keys.read(tmp_path / "keys.json")
    assert [entry.code for entry in raised.value.errors] == ["duplicate"]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="cannot be read"):
        Guard(file=tmp_path / "nowhere.toml")


def test_rotation_makes_a_successor_and_ends_the_old_key_after_the_overlap() -> None:
    _, old = keys.make("ci", Scope.TRAIN, now=NOW, expires=NOW + timedelta(days=90), requests_per_minute=5)
    later = NOW + timedelta(days=80)
    text, new, after = keys.rotate(Keys(keys=(old,)), "ci", now=later, overlap=timedelta(days=7), expires=None)

    assert text.startswith(f"msk_{new.id}_")
    assert (new.scope, new.requests_per_minute) == ("train", 5)
    assert new.expires == later + timedelta(days=90)
    assert [key.expires for key in after.keys] == [later + timedelta(days=7), new.expires]
    with pytest.raises(Conflict, match="2 keys of the name 'ci' are live"):
        keys.rotate(after, "ci", now=later, overlap=timedelta(days=7), expires=None)
    with pytest.raises(NotFound):
        keys.rotate(after, "web", now=later, overlap=timedelta(days=7), expires=None)


def test_a_key_is_revoked_by_its_id_and_all_of_a_name_by_the_name() -> None:
    made = [keys.make(name, Scope.READ, now=NOW)[1] for name in ("ci", "ci", "web")]
    everything = Keys(keys=tuple(made))

    assert keys.revoke(everything, made[0].id)[0].keys == (made[1], made[2])
    assert keys.revoke(everything, "ci") == (Keys(keys=(made[2],)), (made[0], made[1]))
    with pytest.raises(NotFound):
        keys.revoke(everything, "nobody")


def test_setting_the_machines_clock_ends_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = keys.steady_clock()
    before = clock()
    monkeypatch.setattr("time.time", lambda: before + 86_400)

    assert clock() - before < 60
