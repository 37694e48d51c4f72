"""The condition under which an alias moves: `metric (>=|>|<=|<) number | alias.metric`, parsed, never evaluated.

    val_accuracy >= 0.9                      a number to reach
    val_loss < champion.val_loss             another version of the same model to beat

Knows the words and their meaning; which version an alias points at is the caller's to say.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.errors import Entry, InvalidName, ValidationFailed, shorten
from service.schemas.versions import check_alias

MAX_LENGTH: Final = 200
_METRIC: Final = r"[A-Za-z][A-Za-z0-9_]{0,62}"
_NUMBER: Final = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?"
_ALIAS: Final = r"[a-z0-9][a-z0-9._-]{0,62}"
PATTERN: Final = rf"^ *{_METRIC} *(?:>=|>|<=|<) *(?:{_NUMBER}|{_ALIAS}\.{_METRIC}) *$"
_FORM: Final = "metric >= number, or metric >= alias.metric, with one of >= > <= <"
_SIGNS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition in its parts: `metric` is compared with `number`, or with `other` of the version behind `alias`."""

    metric: str
    sign: str
    number: float | None = None
    alias: str | None = None
    other: str | None = None

    def __str__(self) -> str:
        wanted = f"{self.number:g}" if self.number is not None else f"{self.alias}.{self.other}"
        return f"{self.metric} {self.sign} {wanted}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a condition holds, what was compared, and in a sentence why.

    `by` is how far `value` lies from `against`, never below 0: `holds` says on which side. Both are None where there
    was nothing to compare.
    """

    holds: bool
    value: float | None
    against: float | None
    by: float | None
    detail: str

    def view(self) -> dict[str, Any]:
        """The verdict as a job's output shows it."""
        return {
            "promoted": self.holds,
            "value": self.value,
            "against": self.against,
            "by": self.by,
            "detail": self.detail,
        }


def parse(text: str, *, at: str = "") -> Condition:
    """Read a condition.

    Raises:
        ValidationFailed: the text is not of the one form.
    """
    match = re.fullmatch(
        rf" *({_METRIC}) *(>=|>|<=|<) *(?:({_NUMBER})|({_ALIAS})\.({_METRIC})) *", text[: MAX_LENGTH + 1], re.ASCII
    )
    found: Entry | None = None
    if match is None or len(text) > MAX_LENGTH:
        detail = "This is no condition that can be read."
        hint = "Write for example val_accuracy >= champion.val_accuracy."
        found = Entry(at, "invalid", detail, hint=hint, expected=_FORM, got=shorten(text))
    else:
        metric, sign, number, alias, other = match.groups()
        if number is not None and not math.isfinite(float(number)):
            found = Entry(at, "not-finite", "The number is too large.", expected=_FORM, got=shorten(number))
        elif alias is not None:
            try:
                check_alias(alias, at=at)
            except InvalidName as refused:
                found = refused.errors[0]
        if found is None:
            return Condition(metric, sign, None if number is None else float(number), alias, other)
    raise ValidationFailed("The condition cannot be read.", errors=[found])


def judge(
    condition: Condition, metrics: Mapping[str, float | None], than: Mapping[str, float | None] | None
) -> Verdict:
    """Whether a condition holds.

    Args:
        condition: what is asked.
        metrics: of the version that may get the alias.
        than: metrics of the version that the condition's alias points at; None while there is no such alias, and then
            the condition holds.
    """
    value = metrics.get(condition.metric)
    against = condition.number
    if condition.alias is not None:
        if than is None:
            return Verdict(True, value, None, None, f"There was no alias {condition.alias} to compare with.")
        against = than.get(condition.other or "")
        if against is None:
            return Verdict(False, value, None, None, f"The version of {condition.alias} has no {condition.other}.")
    if value is None:
        return Verdict(False, None, against, None, f"The version has no {condition.metric}.")
    assert against is not None
    holds = _SIGNS[condition.sign](value, against)
    by = abs(value - against)
    place = "as much as" if not by else f"{by:.6g} {'above' if value > against else 'below'}"
    return Verdict(holds, value, against, by, f"{condition.metric} is {value:.6g}, {place} {against:.6g}.")
