"""The exit codes of the command: part of its interface, for scripts."""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAILURE: Final = 1
"""It did not work; also a job that was waited for and did not succeed."""
USAGE: Final = 2
UNREACHABLE: Final = 3
NOT_FOUND: Final = 4
CONFLICT: Final = 5
NOT_ALLOWED: Final = 6
INVALID: Final = 7
OVERLOADED: Final = 8
INTERRUPTED: Final = 130
"""Ctrl-C. What the server does goes on."""

MEANINGS: Final = {
    OK: "done",
    FAILURE: "it failed; also a job that was waited for and did not succeed",
    USAGE: "the command was written wrongly",
    UNREACHABLE: "no server answers",
    NOT_FOUND: "there is no such thing",
    CONFLICT: "the state does not allow it, or the port or the store is in use",
    NOT_ALLOWED: "the API key is missing, wrong, or may not do this",
    INVALID: "the request or a file is wrong, or there is no such file; every mistake is told",
    OVERLOADED: "the server is busy, starting or stopping; try again later",
    INTERRUPTED: "Ctrl-C: the command ended, what the server does goes on",
}
