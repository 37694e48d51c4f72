"""A pickle read as data: its opcodes become plain records, and nothing that it names is looked up or called.

What a pickle would import stays a `Name`, what it would call stays a `Made` with its arguments, what it refers to
outside of itself stays a `Persistent`. So the worst that a file can do is to be long, and length is limited here.
Knows no tensor and no archive, and uses the standard library only, since it runs where nothing else is installed.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from service.errors import CheckpointReason, CheckpointRefused, shorten

MAX_OPCODES: Final = 1_000_000
MAX_BYTES: Final = 16 * 2**20
"""A pickle is at most so long; tensors lie outside of it."""
MAX_TEXT: Final = 2**20
MAX_TEXTS: Final = 8 * 2**20
"""All texts and byte strings of a pickle together."""
MAX_INTEGER_BYTES: Final = 255
MAX_MARKS: Final = 1_000
MAX_NAME: Final = 512
HIGHEST_PROTOCOL: Final = 5

Value = Any
"""None, bool, int, float, str, bytes, list, tuple, or one of the records below."""


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the file refers to; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}" if self.module else self.name


@dataclass(slots=True, eq=False)
class Table:
    """A dictionary as the pairs that were put into it, in order; a later pair of the same key wins.

    Pairs, since keys may be records, and since a table that is never hashed cannot be slowed by chosen keys.
    """

    pairs: list[tuple[Value, Value]] = field(default_factory=list)

    def texts(self) -> dict[str, Value]:
        """The members whose keys are texts."""
        return {key: value for key, value in self.pairs if type(key) is str}


@dataclass(slots=True, eq=False)
class Made:
    """What a call or a construction would have made.

    Args:
        of: what would have been called, as a rule a `Name`.
        arguments: with what, as a rule a tuple.
        called: a function call (REDUCE), not the making of an empty object (NEWOBJ), which runs no constructor.
        state: what BUILD gave to it.
        appended: what APPEND and APPENDS put into it.
        entries: what SETITEM and SETITEMS put into it.
    """

    of: Value
    arguments: Value
    called: bool
    state: Value = None
    appended: list[Value] | None = None
    entries: list[tuple[Value, Value]] | None = None


@dataclass(slots=True, eq=False)
class Bag:
    """A set, as the list of what was put into it."""

    items: list[Value]


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """A reference to something outside of the pickle, such as a storage."""

    id: Value


@dataclass(frozen=True, slots=True)
class Reading:
    """A pickle that was read.

    Args:
        value: what it holds.
        end: where it ended in the buffer.
        names: every name that it refers to, in the order met.
        called: those that it would have called as functions.
        outside: every reference to something outside of the pickle.
    """

    value: Value
    end: int
    names: tuple[Name, ...]
    called: tuple[Name, ...]
    outside: tuple[Persistent, ...]


def read(data: bytes, start: int = 0) -> Reading:
    """Interpret the pickle that begins at `start`; whatever stands behind its end is left alone.

    Raises:
        CheckpointRefused: the pickle is malformed, cut off, too long, or asks for code.
    """
    return _Machine(data, start).run()


def refuse(reason: CheckpointReason, message: str, *, hint: str | None = None) -> NoReturn:
    """Refuse the file.

    Raises:
        CheckpointRefused: always.
    """
    raise CheckpointRefused(message, reason=reason, hint=hint)


def check_names(reading: Reading) -> None:
    """Refuse a pickle that would run something; classes of unknown packages are no code, only unknown.

    A name of the standard library is allowed when it only holds data. A name of torch or numpy may be referred to (an
    activation, a hook), but be called only when the call rebuilds data. A class of another package may be called: that
    is how enumerations and the like are stored; here it stays a record, and the report tells of it.

    Raises:
        CheckpointRefused: `code`, with the name.
    """
    for name in reading.names:
        if _top(name) in _STANDARD and not _is_data(name):
            _refuse_code(f"The file refers to {shorten(str(name))}, which holds no data.")
    for name in reading.called:
        if _top(name) in _KNOWN_PACKAGES and not _rebuilds(name):
            _refuse_code(f"The file asks to call {shorten(str(name))}.")


_STANDARD: Final = sys.stdlib_module_names - {"test"}  # many a net lives in a file test.py
_KNOWN_PACKAGES: Final = frozenset({"torch", "torchvision", "torchaudio", "numpy"})

_DATA: Final = {
    "builtins": frozenset(
        (
            *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "getattr", "int", "list"),
            *("object", "range", "set", "slice", "str", "tuple", "type", "NoneType"),
        )
    ),
    "collections": frozenset(["Counter", "OrderedDict", "defaultdict", "deque"]),
    "_codecs": frozenset({"encode"}),
    "copyreg": frozenset({"_reconstructor", "__newobj__"}),
    "argparse": frozenset({"Namespace"}),
    "types": frozenset({"SimpleNamespace"}),
    "pathlib": frozenset(["Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath", "PureWindowsPath"]),
    "datetime": frozenset(["date", "datetime", "time", "timedelta", "timezone"]),
    "decimal": frozenset({"Decimal"}),
    "fractions": frozenset({"Fraction"}),
    "uuid": frozenset({"UUID", "SafeUUID"}),
    "functools": frozenset({"partial"}),
}
"""What a checkpoint may name of the standard library. None of it is ever called here."""

_FUNCTIONS: Final = frozenset(
    {
        "torch.Size",
        "torch.device",
        "torch.Generator",
        "torch.nn.parameter.Parameter",
        "torch.nn.parameter.Buffer",
        "torch._tensor._rebuild_from_type",
        "torch._tensor._rebuild_from_type_v2",
        "torch.serialization._get_layout",
        "numpy.dtype",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy.core.numeric._frombuffer",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.numeric._frombuffer",
    }
)
"""What torch and numpy call to rebuild data, beside torch._utils._rebuild_*."""


def _top(name: Name) -> str:
    return name.module.partition(".")[0]


def _is_data(name: Name) -> bool:
    return name.name in _DATA.get(name.module, ())


def _rebuilds(name: Name) -> bool:
    return str(name) in _FUNCTIONS or (name.module == "torch._utils" and name.name.startswith("_rebuild_"))


def _refuse_code(detail: str) -> NoReturn:
    refuse(
        "code",
        f"{detail} Nothing of it ran.",
        hint="Load the model where it was trained, and save the state_dict alone: "
        "torch.save(net.state_dict(), 'weights.pt').",
    )


class _Stop(Exception):
    """The pickle's end; carries the value."""


_PYTHON_2: Final = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}
_OLD: Final = "The pickle was written with protocol 0 or 1."
_AGAIN: Final = "Save it again with torch.save(net.state_dict(), 'weights.pt')."

_Step = Callable[["_Machine"], None]


class _Machine:
    """The stack machine. Reads only `data`, and makes only what this module defines."""

    __slots__ = ("_called", "_data", "_marks", "_memo", "_names", "_outside", "_place", "_stack", "_texts")

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self._place = start
        self._stack: list[Value] = []
        self._marks: list[int] = []
        self._memo: dict[int, Value] = {}
        self._names: dict[Name, Name] = {}
        self._called: dict[Name, None] = {}
        self._outside: list[Persistent] = []
        self._texts = 0

    def run(self) -> Reading:
        data, steps, size = self._data, _STEPS, len(self._data)
        try:
            for _ in range(MAX_OPCODES):
                place = self._place
                if place >= size:
                    self._cut()
                self._place = place + 1
                step = steps.get(data[place])
                if step is None:
                    refuse("damaged", f"The pickle has the unknown opcode {data[place]:#04x}.", hint=_AGAIN)
                step(self)
        except _Stop as stop:
            return Reading(stop.args[0], self._place, tuple(self._names), tuple(self._called), tuple(self._outside))
        refuse("too-large", f"The pickle has more than {MAX_OPCODES:,} operations.", hint=_AGAIN)

    # Bytes

    def _cut(self) -> NoReturn:
        refuse("truncated", "The file ends within its pickle.", hint="Copy it again, and compare the sizes.")

    def _take(self, count: int) -> bytes:
        place = self._place
        end = place + count
        if end > len(self._data):
            self._cut()
        self._place = end
        return self._data[place:end]

    def _byte(self) -> int:
        place = self._place
        if place >= len(self._data):
            self._cut()
        self._place = place + 1
        return self._data[place]

    def _number(self, form: struct.Struct) -> int:
        return int(form.unpack(self._take(form.size))[0])

    def _line(self) -> str:
        end = self._data.find(b"\n", self._place, self._place + MAX_NAME + 1)
        if end < 0:
            if len(self._data) - self._place <= MAX_NAME:
                self._cut()
            refuse("damaged", f"The pickle has a name of more than {MAX_NAME} bytes.")
        line = self._data[self._place : end]
        self._place = end + 1
        return _decoded(line)

    def _chunk(self, size: int) -> bytes:
        if size < 0:
            refuse("damaged", "The pickle has a text of negative length.")
        if size > len(self._data) - self._place:
            self._cut()
        self._texts += size
        if size > MAX_TEXT or self._texts > MAX_TEXTS:
            refuse("too-large", f"The pickle holds texts of more than {MAX_TEXT:,} bytes, or {MAX_TEXTS:,} in all.")
        return self._take(size)

    # Stack

    def _push(self, value: Value) -> None:
        self._stack.append(value)

    def _pop(self) -> Value:
        stack = self._stack
        marks = self._marks
        if not stack or (marks and marks[-1] >= len(stack)):
            self._malformed("it takes more from its stack than is there")
        return stack.pop()

    def _top_value(self) -> Value:
        value = self._pop()
        self._stack.append(value)
        return value

    def _to_mark(self) -> list[Value]:
        if not self._marks:
            self._malformed("it lacks a mark")
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _malformed(self, why: str) -> NoReturn:
        refuse("damaged", f"The pickle is malformed: {why}.")

    # Steps, in the order of the table below

    def protocol(self) -> None:
        version = self._take(1)[0]
        if not 2 <= version <= HIGHEST_PROTOCOL:
            refuse("unsupported-format", f"The pickle is of protocol {version}; 2 to 5 are read.", hint=_AGAIN)

    def frame(self) -> None:
        if self._number(_U64) > len(self._data) - self._place:
            self._cut()

    def stop(self) -> None:
        value = self._pop()
        if self._stack or self._marks:
            self._malformed("it ends with more than one value")
        raise _Stop(value)

    def mark(self) -> None:
        if len(self._marks) >= MAX_MARKS:
            refuse("too-large", f"The pickle nests more than {MAX_MARKS:,} deep.")
        self._marks.append(len(self._stack))

    def pop(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()  # as Python's own reader: POP of a mark
        else:
            self._pop()

    def pop_mark(self) -> None:
        self._to_mark()

    def duplicate(self) -> None:
        self._push(self._top_value())

    def long(self, size: int) -> None:
        if not 0 <= size <= MAX_INTEGER_BYTES:
            refuse("too-large", f"The pickle has an integer of {size:,} bytes; at most {MAX_INTEGER_BYTES} are read.")
        self._push(int.from_bytes(self._take(size), "little", signed=True))

    def text(self, size: int) -> None:
        self._push(_decoded(self._chunk(size)))

    def old_text(self, size: int) -> None:
        """Python 2's str: text or bytes, which nobody can tell; latin-1 keeps every byte."""
        self._push(self._chunk(size).decode("latin-1"))

    def octets(self, size: int) -> None:
        self._push(self._chunk(size))

    def tuple_of(self, count: int) -> None:
        stack = self._stack
        if len(stack) - count < (self._marks[-1] if self._marks else 0):
            self._malformed("it takes more from its stack than is there")
        stack[-count:] = [tuple(stack[-count:])]

    def tuple_to_mark(self) -> None:
        self._push(tuple(self._to_mark()))

    def frozen_set(self) -> None:
        self._push(Bag(self._to_mark()))

    def append(self, items: list[Value]) -> None:
        target = self._top_value()
        if type(target) is list:
            target.extend(items)
        elif type(target) is Bag:
            target.items.extend(items)
        elif type(target) is Made:
            if target.appended is None:
                target.appended = []
            target.appended.extend(items)
        else:
            self._malformed("it appends to what is no list")

    def append_one(self) -> None:
        item = self._pop()
        self.append([item])

    def append_many(self) -> None:
        self.append(self._to_mark())

    def set_items(self, items: list[Value]) -> None:
        if len(items) % 2:
            self._malformed("a key has no value")
        pairs = list(zip(items[::2], items[1::2], strict=True))
        target = self._top_value()
        if type(target) is Table:
            target.pairs.extend(pairs)
        elif type(target) is Made:
            if target.entries is None:
                target.entries = pairs
            else:
                target.entries.extend(pairs)
        else:
            self._malformed("it sets items of what is no dictionary")

    def set_one(self) -> None:
        value = self._pop()
        key = self._pop()
        self.set_items([key, value])

    def set_many(self) -> None:
        self.set_items(self._to_mark())

    def remember(self, index: int) -> None:
        if not self._stack:
            self._malformed("it remembers what is not there")
        self._memo[index] = self._stack[-1]

    def remember_next(self) -> None:
        self._memo[len(self._memo)] = self._top_value()

    def recall(self, index: int) -> None:
        try:
            self._stack.append(self._memo[index])
        except KeyError:
            self._malformed("it recalls what was never there")

    def name(self) -> None:
        module = self._line()
        self._name(module, self._line())

    def stack_name(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str or max(len(name), len(module)) > MAX_NAME:
            self._malformed("it names a class by what is no name")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        found = Name(_PYTHON_2.get(module, module), name)
        self._push(self._names.setdefault(found, found))

    def persistent(self) -> None:
        """A reference; torch's older format refers to classes too, as ("module", class, file, source text)."""
        reference = Persistent(self._pop())
        self._outside.append(reference)
        found = reference.id
        is_class = type(found) is tuple and len(found) == 4 and found[0] == "module" and type(found[1]) is Name
        self._push(found[1] if is_class else reference)

    def reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if type(arguments) is not tuple:
            self._malformed("it calls with what is no list of arguments")
        if type(function) is Name:
            self._called[function] = None
            if function.module == "builtins" and function.name in ("set", "frozenset") and _is_list_of_one(arguments):
                self._push(Bag(arguments[0]))
                return
            if function.module == "copyreg" and arguments and type(arguments[0]) is Name:
                # how protocols below 2 make an empty object: no constructor runs
                self._push(Made(arguments[0], (), called=False))
                return
        elif type(function) is Made and not function.called:
            self._malformed("it calls an object")
        else:
            _refuse_code("The file asks to call what another call would give.")
        self._push(Made(function, arguments, called=True))

    def new(self) -> None:
        arguments, kind = self._pop(), self._pop()
        if type(kind) is not Name or type(arguments) is not tuple:
            self._malformed("it makes an object of what is no class")
        self._push(Made(kind, arguments, called=False))

    def new_with_keywords(self) -> None:
        keywords, arguments, kind = self._pop(), self._pop(), self._pop()
        if type(kind) is not Name or type(arguments) is not tuple or type(keywords) is not Table:
            self._malformed("it makes an object of what is no class")
        self._push(Made(kind, (*arguments, keywords), called=False))

    def build(self) -> None:
        state = self._pop()
        target = self._top_value()
        if type(target) is not Made:
            self._malformed("it gives a state to what is no object")
        target.state = state

    def extension(self) -> None:
        _refuse_code("The file refers to a table of extensions of the program that wrote it.")

    def old(self) -> None:
        refuse("unsupported-format", _OLD, hint=_AGAIN)

    def buffer(self) -> None:
        refuse("unsupported-format", "The pickle refers to buffers that are not in it.", hint=_AGAIN)


def _is_list_of_one(arguments: tuple[Value, ...]) -> bool:
    return len(arguments) == 1 and type(arguments[0]) is list


def legible(text: str) -> str:
    """The text with its escape in place of half a pair of surrogates, which nobody could write down as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _decoded(data: bytes) -> str:
    try:
        return legible(data.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError as error:
        raise CheckpointRefused("The pickle has a text that is no UTF-8.", reason="damaged") from error


_U16: Final = struct.Struct("<H")
_I32: Final = struct.Struct("<i")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_F64: Final = struct.Struct(">d")


def _steps() -> Iterator[tuple[bytes, _Step]]:
    """Every opcode of protocols 2 to 5, as PEPs 307, 3154 and 574 define them, and those that are refused by name."""
    number = _Machine._number
    yield b"\x80", _Machine.protocol
    yield b"\x95", _Machine.frame
    yield b".", _Machine.stop
    yield b"(", _Machine.mark
    yield b"0", _Machine.pop
    yield b"1", _Machine.pop_mark
    yield b"2", _Machine.duplicate
    yield b"N", lambda m: m._stack.append(None)
    yield b"\x88", lambda m: m._stack.append(True)
    yield b"\x89", lambda m: m._stack.append(False)
    yield b"K", lambda m: m._stack.append(m._byte())
    yield b"M", lambda m: m._push(number(m, _U16))
    yield b"J", lambda m: m._push(number(m, _I32))
    yield b"\x8a", lambda m: m.long(m._byte())
    yield b"\x8b", lambda m: m.long(number(m, _I32))
    yield b"G", lambda m: m._push(_F64.unpack(m._take(8))[0])
    yield b"X", lambda m: m.text(number(m, _U32))
    yield b"\x8c", lambda m: m.text(m._byte())
    yield b"\x8d", lambda m: m.text(number(m, _U64))
    yield b"U", lambda m: m.old_text(m._byte())
    yield b"T", lambda m: m.old_text(number(m, _I32))
    yield b"C", lambda m: m.octets(m._byte())
    yield b"B", lambda m: m.octets(number(m, _U32))
    yield b"\x8e", lambda m: m.octets(number(m, _U64))
    yield b"\x96", lambda m: m.octets(number(m, _U64))
    yield b")", lambda m: m._stack.append(())
    yield b"\x85", lambda m: m.tuple_of(1)
    yield b"\x86", lambda m: m.tuple_of(2)
    yield b"\x87", lambda m: m.tuple_of(3)
    yield b"t", _Machine.tuple_to_mark
    yield b"]", lambda m: m._stack.append([])
    yield b"a", _Machine.append_one
    yield b"e", _Machine.append_many
    yield b"}", lambda m: m._stack.append(Table())
    yield b"s", _Machine.set_one
    yield b"u", _Machine.set_many
    yield b"\x8f", lambda m: m._stack.append(Bag([]))
    yield b"\x90", _Machine.append_many
    yield b"\x91", _Machine.frozen_set
    yield b"q", lambda m: m.remember(m._byte())
    yield b"r", lambda m: m.remember(number(m, _U32))
    yield b"\x94", _Machine.remember_next
    yield b"h", lambda m: m.recall(m._byte())
    yield b"j", lambda m: m.recall(number(m, _U32))
    yield b"c", _Machine.name
    yield b"\x93", _Machine.stack_name
    yield b"Q", _Machine.persistent
    yield b"R", _Machine.reduce
    yield b"\x81", _Machine.new
    yield b"\x92", _Machine.new_with_keywords
    yield b"b", _Machine.build
    for code in (b"\x82", b"\x83", b"\x84"):
        yield code, _Machine.extension
    for code in (b"I", b"L", b"F", b"S", b"V", b"P", b"i", b"o", b"d", b"l", b"p", b"g"):
        yield code, _Machine.old
    for code in (b"\x97", b"\x98"):
        yield code, _Machine.buffer


_STEPS: Final[dict[int, _Step]] = {code[0]: step for code, step in _steps()}
