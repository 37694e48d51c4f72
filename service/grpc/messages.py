"""The messages of the protocol files beside this module, in a descriptor pool of their own.

Every package that ships these messages puts them into protobuf's one global pool, where two of them cannot live beside
each other. Ours are read from the files when the server starts and are known to this process alone, so a client of the
protocol may run in it too. Knows the part of the proto3 language that the files use; knows no server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_KINDS: Final[Mapping[str, int]] = {
    name: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "string", "bytes")
}
_TOKEN: Final = re.compile(r'"[^"]*"|[\w.]+|[{}<>=;,()]')
_MANY: Final = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
_ONE: Final = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL


@dataclass(frozen=True, slots=True)
class Method:
    """An operation of a service: the classes of what it takes and answers, and which of them are streams."""

    name: str
    takes: Any
    answers: Any
    takes_stream: bool
    answers_stream: bool


@dataclass(frozen=True, slots=True)
class Protocol:
    """A file: its service's full name and operations, and the class of each message by its name."""

    service: str
    methods: tuple[Method, ...]
    messages: Mapping[str, Any]


def load(name: str) -> Protocol:
    """The protocol of the file `name`, with classes that no other pool knows."""
    text = files(__package__).joinpath(name).read_text()
    document = _Reader(text, name).read()
    pool = descriptor_pool.DescriptorPool()
    pool.Add(document)
    found = pool.FindFileByName(name)
    classes = {
        name: message_factory.GetMessageClass(descriptor) for name, descriptor in found.message_types_by_name.items()
    }
    [service] = found.services_by_name.values()
    methods = tuple(
        Method(
            method.name,
            classes[method.input_type.name],
            classes[method.output_type.name],
            method.client_streaming,
            method.server_streaming,
        )
        for method in service.methods
    )
    return Protocol(service.full_name, methods, classes)


class _Reader:
    """Reads the proto3 language as far as our own files use it."""

    def __init__(self, text: str, name: str) -> None:
        self._tokens = _TOKEN.findall(re.sub(r"//[^\n]*", "", text))
        self._file = descriptor_pb2.FileDescriptorProto(name=name, syntax="proto3")
        self._kinds: dict[str, int] = {}

    def read(self) -> descriptor_pb2.FileDescriptorProto:
        tokens = iter(self._tokens)
        for word in tokens:
            match word:
                case "syntax":
                    _skip(tokens, 3)
                case "package":
                    self._file.package = next(tokens)
                    _skip(tokens, 1)
                case "service":
                    self._service(tokens)
                case "message":
                    self._message(tokens, self._file.message_type.add())
                case "enum":
                    self._enum(tokens, self._file.enum_type.add())
                case unknown:
                    raise ValueError(f"{self._file.name}: {unknown!r} is not understood")
        enums = {each.name for each in self._file.enum_type}
        for message in self._file.message_type:
            self._resolve(message, f".{self._file.package}", enums)
        return self._file

    def _service(self, tokens: Iterator[str]) -> None:
        service = self._file.service.add(name=next(tokens))
        _skip(tokens, 1)
        while next(tokens) == "rpc":
            method = service.method.add(name=next(tokens))
            for side in ("input", "output"):
                _skip(tokens, 1)  # (
                kind = next(tokens)
                if kind == "stream":
                    setattr(method, "client_streaming" if side == "input" else "server_streaming", True)
                    kind = next(tokens)
                setattr(method, f"{side}_type", f".{self._file.package}.{kind}")
                _skip(tokens, 2)  # ) and then `returns` or ;

    def _enum(self, tokens: Iterator[str], enum: descriptor_pb2.EnumDescriptorProto) -> None:
        enum.name = next(tokens)
        _skip(tokens, 1)
        while (name := next(tokens)) != "}":
            _skip(tokens, 1)
            enum.value.add(name=name, number=int(next(tokens)))
            _skip(tokens, 1)

    def _message(self, tokens: Iterator[str], message: descriptor_pb2.DescriptorProto) -> None:
        message.name = next(tokens)
        _skip(tokens, 1)
        choice = None
        while True:
            word = next(tokens)
            match word:
                case "}" if choice is None:
                    return
                case "}":
                    choice = None
                case "message":
                    self._message(tokens, message.nested_type.add())
                case "enum":
                    self._enum(tokens, message.enum_type.add())
                case "oneof":
                    choice = len(message.oneof_decl)
                    message.oneof_decl.add(name=next(tokens))
                    _skip(tokens, 1)
                case "map":
                    self._map(tokens, message)
                case _:
                    label = _MANY if word == "repeated" else _ONE
                    kind = next(tokens) if word == "repeated" else word
                    field = _field(message, kind, next(tokens), _number(tokens), label)
                    if choice is not None:
                        field.oneof_index = choice

    def _map(self, tokens: Iterator[str], message: descriptor_pb2.DescriptorProto) -> None:
        """A map is a repeated entry with a key and a value."""
        _skip(tokens, 1)
        key = next(tokens)
        _skip(tokens, 1)
        value = next(tokens)
        _skip(tokens, 1)
        name = next(tokens)
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _field(entry, key, "key", 1, _ONE)
        _field(entry, value, "value", 2, _ONE)
        _field(message, entry.name, name, _number(tokens), _MANY)

    def _resolve(self, message: descriptor_pb2.DescriptorProto, scope: str, enums: set[str]) -> None:
        """Give every field that holds a message or an enum its full name."""
        here = f"{scope}.{message.name}"
        inner = {each.name for each in message.nested_type}
        inner_enums = {each.name for each in message.enum_type}
        for field in message.field:
            if not field.type_name:
                continue
            name = field.type_name
            local = name in inner or name in inner_enums
            is_enum = name in inner_enums or (name not in inner and name in enums)
            field.type = field.TYPE_ENUM if is_enum else field.TYPE_MESSAGE
            field.type_name = f"{here}.{name}" if local else f".{self._file.package}.{name}"
        for each in message.nested_type:
            self._resolve(each, here, enums)


def _field(
    message: descriptor_pb2.DescriptorProto, kind: str, name: str, number: int, label: Any
) -> descriptor_pb2.FieldDescriptorProto:
    field = message.field.add(name=name, number=number, label=label)
    if kind in _KINDS:
        field.type = _KINDS[kind]
    else:
        field.type_name = kind
    return field


def _number(tokens: Iterator[str]) -> int:
    """The number behind a field's name: `= 3 ;`."""
    _skip(tokens, 1)
    number = int(next(tokens))
    _skip(tokens, 1)
    return number


def _skip(tokens: Iterator[str], count: int) -> None:
    for _ in range(count):
        next(tokens)
