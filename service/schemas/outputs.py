"""Where a job's version goes, and on which condition an alias goes with it. Knows no job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from service.errors import InvalidInput, InvalidName
from service.schemas import conditions
from service.schemas.conditions import Condition
from service.schemas.document import Document, ResourceName, disagreement
from service.schemas.engines import Engine
from service.schemas.versions import check_alias, check_name


def checked(check: Callable[..., object]) -> AfterValidator:
    """A rule for names as a validator, so that a bad name is told together with all other mistakes."""

    def validate(text: str) -> str:
        try:
            check(text, at="")
        except InvalidName as refused:
            raise disagreement(*refused.errors) from None
        return text

    return AfterValidator(validate)


def _readable(text: str) -> str:
    try:
        conditions.parse(text)
    except InvalidInput as refused:
        raise disagreement(*refused.errors) from None
    return text


AliasName = Annotated[ResourceName, checked(check_alias)]
ConditionText = Annotated[
    str,
    AfterValidator(_readable),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": conditions.PATTERN,
            "maxLength": conditions.MAX_LENGTH,
            "examples": ["val_accuracy >= champion.val_accuracy", "val_loss < 0.1"],
        }
    ),
]


class Output(Document):
    """Where a job's version goes: a model, and the alias that is set when the job succeeds.

    `{"champion": "val_accuracy >= champion.val_accuracy"}` sets the alias only if that holds; while there is no alias
    champion it does. The version is published either way.

    `engine` is what computes the net when the version answers; without it torch does.
    """

    model: Annotated[ResourceName, checked(check_name)]
    alias_on_success: (
        AliasName | Annotated[dict[AliasName, ConditionText], Field(min_length=1, max_length=1)] | None
    ) = None
    engine: Engine | None = None

    @property
    def alias(self) -> str | None:
        """The alias that is to be set."""
        asked = self.alias_on_success
        return next(iter(asked)) if isinstance(asked, dict) else asked

    @property
    def condition(self) -> Condition | None:
        """What must hold for that; None if nothing must."""
        asked = self.alias_on_success
        return conditions.parse(next(iter(asked.values()))) if isinstance(asked, dict) else None
