"""What a JSON Schema says, in words, and the marks of tables. Knows Markdown; what a name leads to is its caller's."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

OF_EVERY: Final = ("type", "name", "if")
"""What every layer has, and is told once."""


class Words:
    """Says schemas in words, of which some may be links.

    Args:
        refer: a name of a schema to what one is called and what many are called, as in ("a layer", "layers").
        choose: the kinds of a tagged union to the same.
    """

    def __init__(
        self,
        *,
        refer: Callable[[str], tuple[str, str]],
        choose: Callable[[Mapping[str, str]], tuple[str, str]],
    ) -> None:
        self._refer = refer
        self._choose = choose

    def say(self, field: Mapping[str, Any], *, several: bool = False) -> str:
        """What a JSON Schema says: "a whole number", or for several "whole numbers"."""
        if "anyOf" in field:
            return " or ".join(self._alternatives(field["anyOf"], several=several))
        if "$ref" in field:
            return self._refer(field["$ref"].rpartition("/")[2])[several]
        if "const" in field:
            return f"`{json.dumps(field['const'])}`"
        if "enum" in field:
            return ", ".join(f"`{json.dumps(word)}`" for word in field["enum"])
        if "discriminator" in field:
            return self._choose(field["discriminator"]["mapping"])[several]
        if isinstance(field.get("type"), list):
            kinds: Sequence[str] = field["type"]
            return " or ".join(self.say({**field, "type": kind}, several=several) for kind in kinds)
        one, many = _KINDS.get(field.get("type", ""), ("anything", "anything"))
        match field.get("type"):
            case "array":
                inner = self.say(field.get("items") or field.get("prefixItems", [{}])[0], several=True)
                return f"lists of {inner}" if several else f"a list of {inner}"
            case "object":
                values = field.get("additionalProperties")
                if not isinstance(values, Mapping):
                    return "objects" if several else "an object"
                return f"{self.say(values, several=True)} by their name"
            case "integer" | "number":
                return (many if several else one) + _bounds(field)
            case _:
                return many if several else one

    def members(self, properties: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        """A table of members with their defaults."""
        yield "| member | what it is | default |"
        yield "| --- | --- | --- |"
        for name, field in properties.items():
            default = "required" if field["required"] else shown(field.get("default", _empty(field)))
            yield f"| `{name}` | {cell(self.say(field))} | {cell(default)} |"

    def _alternatives(self, options: Sequence[Mapping[str, Any]], *, several: bool) -> list[str]:
        """What each of several alternatives says, where `3` and `[3, 3]` are said together."""
        told = [self.say(option, several=several) for option in options if option != _EXPRESSION]
        for kind in ("whole number", "number"):
            pair = [f"a {kind}", f"a list of {kind}s"]
            if all(word in told for word in pair):
                told = [f"a {kind} or a list of them", *(word for word in told if word not in pair)]
        if told == ["a whole number", "a list of whole numbers or `null`", "`null`"]:
            return ["a whole number", "`null`", "a list of these"]
        return list(dict.fromkeys(told))


_KINDS: Final = {
    "integer": ("a whole number", "whole numbers"),
    "number": ("a number", "numbers"),
    "boolean": ("true or false", "booleans"),
    "string": ("a text", "texts"),
    "null": ("`null`", "`null`"),
}
_EXPRESSION: Final = {"$ref": "#/$defs/Expression"}


def _bounds(field: Mapping[str, Any]) -> str:
    low, above, high = field.get("minimum"), field.get("exclusiveMinimum"), field.get("maximum")
    if above is not None:
        return f" above {above}"
    if low is not None and low > -64:
        return f" from {low} to {high}" if high is not None and high < 10_000 else f" from {low} on"
    return ""


def _empty(field: Mapping[str, Any]) -> Any:
    """The default of a member that is made anew for each document."""
    return {} if field.get("type") == "object" else "zeros" if "discriminator" in field else None


def members_of(schema: Mapping[str, Any], *, without: Sequence[str] = OF_EVERY) -> dict[str, dict[str, Any]]:
    """The members of an object's JSON Schema, each with whether it must be there."""
    required = schema.get("required", ())
    return {
        name: {**field, "required": name in required}
        for name, field in schema.get("properties", {}).items()
        if name not in without
    }


def shown(value: Any) -> str:
    """A default, as JSON."""
    return f"`{json.dumps(once(value))}`"


def once(value: Any) -> Any:
    """What is the same in every dimension, said once."""
    return value[0] if isinstance(value, list) and value and value == value[:1] * len(value) else value


def sentence(kind: type) -> str:
    """The first paragraph of a docstring, as one line."""
    return first_paragraph(inspect.getdoc(kind) or "")


def first_paragraph(text: str) -> str:
    """The first paragraph, as one line."""
    return " ".join(text.partition("\n\n")[0].split())


def cell(text: str) -> str:
    """The text as a cell of a table."""
    return text.replace("|", "\\|")


def listed(words: Iterable[str]) -> str:
    """`a, b and c`."""
    *most, last = [*words]
    return f"{', '.join(most)} and {last}" if most else last
