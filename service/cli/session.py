"""What commands that talk to a server share: the client and its options, and errors as lines and exit codes.

`@talks` adds --url, --api-key and -o to a command and hands it a `Session`; `before` takes them before the command's
name too. Knows no operation.
"""

from __future__ import annotations

import csv
import functools
import inspect
import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service.cli import exits
from service.cli.output import Format, say

if TYPE_CHECKING:
    from service.client import Client
    from service.errors import Entry, ServiceError
    from service.schemas.views import EntryView

_PANEL: Final = "Server and output"
Url = Annotated[
    str | None,
    typer.Option(help="The server's address.", envvar="MODELYARD_URL", rich_help_panel=_PANEL),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        help="The API key; better by the environment than here.",
        envvar="MODELYARD_API_KEY",
        rich_help_panel=_PANEL,
    ),
]
Output = Annotated[
    Format,
    typer.Option("--output", "-o", help="For people, or for programs.", rich_help_panel=_PANEL),
]

_WRONG_PATHS: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
"""What goes wrong with a file because another one should have been named; else the disk is to blame."""
_LINES: Final = 3
"""Lines of a file that are named with one mistake; the others with the same are counted."""
_OF_A_LINE: Final = re.compile(r"line ([0-9]+)(: |, column .+?: )(.*)", re.DOTALL)
MARKS: Final = {".": "point", ",": "comma", "'": "apostrophe", " ": "space"}
"""The words of --decimal and --thousands."""


def _pass_marks(found: re.Match[str]) -> str:
    """Members that say which marks numbers have, as options."""
    members = re.findall('"([a-z]+)": "(.)"', found[2])
    options = " ".join(f"--{member} {MARKS[mark]}" for member, mark in members)
    return f"{'Pass' if found[1] == 'W' else 'pass'} {options}"


_ANY_TEXT: Final = "--missing-text TEXT"
_AS_OPTIONS: Final[tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]] = (
    (re.compile(r'Write "missing": "keep" in the source(, and fill .*)?\.'), "Pass --missing to keep these."),
    (re.compile(r'"missing": "keep", "missing_texts": \[\.\.\.\] in the source\.'), f"{_ANY_TEXT}."),
    (
        re.compile(r'"missing": "keep", "missing_texts": \[\.\.\.\], "unlabelled": "skip" in the source\.'),
        f"{_ANY_TEXT} --skip-unlabelled.",
    ),
    (re.compile(r'Write "missing": "keep" too\.'), "Pass --missing too."),
    (re.compile(r'write "unlabelled": "skip" in the source'), "pass --skip-unlabelled"),
    (re.compile(r"""([Ww])rite ((?:"(?:decimal|thousands)": "[.,' ]"(?:, )?)+)(?: in the source)?"""), _pass_marks),
    (re.compile(r"Is `(delimiter|decimal)` right\? Without `thousands`"), r"Is --\1 right? Without --thousands"),
    (re.compile(r'Write "delimiter": ";" (?:in the source|if that .*)\.'), "Pass --delimiter semicolon."),
    (re.compile(r'Write "delimiter": "\\t" in the source\.'), "Pass --delimiter tab."),
    (re.compile(r'Write "delimiter": "\|" in the source\.'), "Pass --delimiter bar."),
    (re.compile(r'Write "delimiter": "," in the source\.'), "Pass --delimiter comma."),
    (re.compile(r"or leave `alias_on_success` out\."), "or pass --alias '' to make a version that no alias gets."),
    (re.compile(r"Were the ends of its lines lost\? curl .*"), "Write each row on a line of its own below it."),
)
"""What hints say of a source's members, and the options of `train` and `datasets add` that make these."""
_NOTHING: Final = "There is no such model."
_LISTS: Final = re.compile(r"GET /v1/(models|jobs|datasets)(?:/([^/ ]+)/(versions))? lists .*")
"""Where the server says what there is; the command has a word of its own for each."""


def before(
    url: Annotated[str | None, typer.Option(help="The server's address.", hidden=True)] = None,
    api_key: Annotated[str | None, typer.Option(help="The API key.", hidden=True)] = None,
    output: Annotated[Format | None, typer.Option("--output", "-o", help="How to answer.", hidden=True)] = None,
) -> None:
    """Take the options of every command that asks a server before the command's name too: what groups call first."""


def chosen(context: typer.Context, name: str, value: Any) -> Any:
    """The value of an option: behind the command's name, else before it, else of the environment.

    Args:
        context: of the command.
        name: of the option's parameter.
        value: behind the name, or what stands for none.
    """
    source, outer = context.get_parameter_source(name), context.parent
    while outer is not None and (source is None or source.name != "COMMANDLINE"):
        if outer.params.get(name) is not None:
            return outer.params[name]
        outer = outer.parent
    return value


def again(context: typer.Context, **changed: str) -> str:
    """The line that runs a command once more with the options that it was given, but for these; without the API key."""
    names: list[str] = []
    given: dict[str, Any] = {}
    inner: Any = context  # its parents are of another class
    while inner is not None:  # what stands behind the name counts before what stands before it
        if inner.parent is not None:
            names.insert(0, inner.info_name or "")
        for name, value in inner.params.items():
            source = inner.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE" and value is not None:
                given.setdefault(name, value)
        inner = inner.parent
    given |= changed
    arguments, options = [], []
    for parameter in context.command.params:
        value = given.get(parameter.name or "")
        if value is None or parameter.name == "api_key":
            continue
        word = shlex.quote(str(getattr(value, "value", value)))
        if parameter.param_type_name == "argument":
            arguments.append(word)
        else:
            options += [next(option for option in parameter.opts if option.startswith("--")), word]
    return " ".join(["modelyard", *names, *arguments, *options])


class Session:
    """One run of a command: its client and the form of its output."""

    def __init__(self, context: typer.Context, url: str | None, api_key: str | None, format: Format) -> None:
        self.format = format
        self._context = context
        self._url = url
        self._api_key = api_key
        self._client: Client | None = None
        self.detached: str | None = None
        """What to say on Ctrl-C: how to go on with what the server does meanwhile."""
        self.places: dict[str, str] = {}
        """Options in the place of pointers, of a request that the command made; for "" what stands for all others."""

    @property
    def client(self) -> Client:
        """The client, made when it is first needed."""
        if self._client is None:
            from service.client import Client

            try:
                self._client = Client(self._url, api_key=self._api_key)
            except ValueError as error:
                say(f"{error}.")
                raise typer.Exit(exits.USAGE) from None
        return self._client

    @property
    def surplus(self) -> list[str]:
        """Arguments beyond those of the command, where it takes such to say what is to be written instead."""
        return list(self._context.args)

    def tell_next(self, after: str | None) -> None:
        """Say to people how the next page of a list is asked for, where there is one."""
        if after is not None and self.format is Format.TABLE:
            say(f"There are more: {again(self._context, after=after)}")

    def close(self) -> None:
        """Close the client."""
        if self._client is not None:
            self._client.close()


def talks(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function whose first parameter is a `Session`."""
    signature = inspect.signature(command, eval_str=True)
    own = list(signature.parameters.values())[1:]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, default, annotation in (
            ("context", inspect.Parameter.empty, typer.Context),
            ("url", None, Url),
            ("api_key", None, ApiKey),
            ("output", Format.TABLE, Output),
        )
    ]

    @functools.wraps(command)
    def run(
        *arguments: Any, context: typer.Context, url: str | None, api_key: str | None, output: Format, **options: Any
    ) -> None:
        form = Format(chosen(context, "output", output))
        session = Session(context, chosen(context, "url", url), chosen(context, "api_key", api_key), form)
        try:
            command(session, *arguments, **options)
        except KeyboardInterrupt:
            if session.detached:
                say(session.detached)
            raise typer.Exit(exits.INTERRUPTED) from None
        except (typer.Exit, typer.Abort):
            raise
        except OSError as error:
            if error.filename is None:
                raise
            say(f"{error.filename}: {error.strerror}.")
            raise typer.Exit(exits.INVALID if isinstance(error, _WRONG_PATHS) else exits.FAILURE) from None
        except UnicodeDecodeError as error:
            from service.schemas.datasets import utf8_hint

            way = utf8_hint(error.object) if error.encoding == "utf-8" else "Name what it is in with --encoding."
            say(f"The file is no text in {error.encoding.upper()}: byte {error.start} is not. {way}")
            raise typer.Exit(exits.INVALID) from None
        except csv.Error as error:
            say(f"The rows are no CSV: {error}.")
            raise typer.Exit(exits.INVALID) from None
        except Exception as error:
            raise typer.Exit(told(error, session.places)) from None
        finally:
            session.close()

    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    run.__signature__ = signature.replace(parameters=[*keyword, *added])  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*keyword, *added)}
    return run


def told(error: Exception, places: Mapping[str, str] | None = None) -> int:
    """Say what went wrong, one mistake a line, and with which exit code that ends; what is no such error is raised.

    Args:
        error: what was raised.
        places: options in the place of pointers.
    """
    from service.errors import Forbidden, NotFound, ServiceError, Unauthenticated

    if not isinstance(error, ServiceError):
        raise error
    entries, only = error.errors, error.errors[0] if len(error.errors) == 1 else None
    if isinstance(error, (Forbidden, Unauthenticated)) and only is not None:
        say(error.message + (f" {only.hint}" if only.hint and isinstance(error, Forbidden) else ""))
    elif isinstance(error, NotFound) and only is not None and only.detail in (error.message, _NOTHING):
        lists = _LISTS.fullmatch(only.hint or "")
        words = "" if lists is None else f"{lists[1]} {f'{lists[3]} {lists[2]}' if lists[3] else 'list'}"
        hint = f"See what there is with: modelyard {words}" if words else only.hint
        say(error.message + (f" {hint}" if hint else ""))
    else:
        first = entries[0].detail if entries else ""
        head = error.message.removesuffix(first).rstrip()  # the first mistake often ends the message too
        if head and (only is None or head == error.message):
            say(head + (f" {error.hint}" if error.hint and not entries else ""))
        for line in sentences(entries, places or {}):
            say(line)
    if error.more:
        of_file = any(entry.pointer.startswith("/source/upload") for entry in entries)
        say(more_told(error.more, told=len(entries), of_file=of_file))
    if isinstance(error, Unauthenticated):
        say("The command takes the key from MODELYARD_API_KEY.")
    return exit_code(error)


def more_told(count: int, *, told: int, of_file: bool) -> str:
    """That there are mistakes beside those that were `told`, how many in all, and what is counted of a file."""
    what = "; each wrong cell of the file counts as one" if of_file else ""
    return f"And {count} more mistake{'' if count == 1 else 's'}, not shown: {count + told} in all{what}."


def sentences(entries: Iterable[Entry | EntryView], places: Mapping[str, str]) -> list[str]:
    """Mistakes or warnings as lines, each with its place; what is the same in many lines of a file, once."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        expected = f" Expected {entry.expected}." if entry.expected and not entry.hint else ""
        place = place_of(entry.pointer, places)
        start = f"{place}: " if place else ""
        detail = f"{entry.detail}{expected}{f' {_optional(entry, places)}' if entry.hint else ''}"
        of_a_line = _OF_A_LINE.fullmatch(detail)
        if of_a_line is None:
            found[start, detail] = []
        else:
            found.setdefault((start, f"{of_a_line[2]}{of_a_line[3]}"), []).append(of_a_line[1])
    return [f"{start}{lines(numbers).lower() if numbers else ''}{rest}" for (start, rest), numbers in found.items()]


def lines(numbers: Sequence[str], *, word: str = "Line") -> str:
    """The lines that have the same mistake: the first few, and how many more."""
    more = f" and {len(numbers) - _LINES} more" if len(numbers) > _LINES else ""
    return f"{word}{'' if len(numbers) == 1 else 's'} {', '.join(numbers[:_LINES])}{more}"


def _optional(entry: Entry | EntryView, places: Mapping[str, str]) -> str:
    """The hint with options in the place of members of a source, where options made that."""
    hint = entry.hint or ""
    if "/source/upload" not in places:
        return hint
    hint = as_options(hint)
    if _ANY_TEXT not in hint or not entry.expected:
        return hint
    spellings: dict[str, str] = {}
    for text in json.loads(entry.expected).get("missing_texts", ()):  # in any case they are the same
        spellings.setdefault(text.lower(), text)
    return hint.replace(_ANY_TEXT, missing_options(spellings.values()))


def missing_options(texts: Iterable[str]) -> str:
    """Texts that mean a missing value as options that a shell takes."""
    quoted = (f"'{text}'" if shlex.quote(text) == text else shlex.quote(text) for text in texts)
    return " ".join(f"--missing-text {text}" for text in quoted)


def as_options(hint: str) -> str:
    """A hint on members of a source that options made, with these options."""
    for member, option in _AS_OPTIONS:
        hint = member.sub(option, hint)
    return hint


def place_of(pointer: str, places: Mapping[str, str]) -> str:
    """The option that a pointer stands for, else the pointer; nothing for what the command made of its arguments."""
    if pointer.startswith(("/path/", "/header/")):
        return ""
    if pointer.startswith("/query/"):
        return f"--{pointer.removeprefix('/query/')}"
    return next((option for start, option in places.items() if f"{pointer}/".startswith(f"{start}/")), pointer)


def exit_code(error: ServiceError) -> int:
    """The exit code that stands for an error."""
    from service import errors
    from service.client import RequestRefused, Unreachable

    codes: tuple[tuple[tuple[type[Exception], ...], int], ...] = (
        ((Unreachable,), exits.UNREACHABLE),
        ((errors.Unauthenticated, errors.Forbidden), exits.NOT_ALLOWED),
        ((errors.NotFound,), exits.NOT_FOUND),
        ((errors.Conflict, errors.PreconditionFailed, errors.PreconditionRequired), exits.CONFLICT),
        ((errors.Busy,), exits.OVERLOADED),
        ((errors.MalformedBody, errors.UnsupportedMediaType, errors.TooLarge, errors.InvalidInput), exits.INVALID),
        ((RequestRefused,), exits.INVALID),
    )
    return next((code for kinds, code in codes if isinstance(error, kinds)), exits.FAILURE)
