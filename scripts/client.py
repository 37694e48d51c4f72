"""Writes service/client/synchronous.py from asynchronous.py, so that what a client does stands once.

`scripts/client.py` writes the file anew, `--check` only says whether it is out of date. scripts/fix calls it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parents[1] / "service" / "client"
_DOCSTRING: Final = '''\
"""The client without asyncio: each operation of the HTTP interface is one method.

Written by scripts/client.py from asynchronous.py. Change that one, then run scripts/fix.
"""
'''
_WORDS: Final = (
    (r"anyio\.to_thread\.run_sync\((\w[\w.]*), ", r"\1("),
    (r"\banyio\.sleep\b", "time.sleep"),
    (r"with anyio\.move_on_after\(.*shield=True\):.*\n +", ""),
    (r"^import anyio\n", ""),
    (r"\bhttpx\.ASGITransport\b", "AppTransport"),
    (r"(from service\.client import calls)", r"from service.client.apps import AppTransport\n\1"),
    (r"\bAsyncGenerator\[([\w.]+), None\]", r"Generator[\1, None, None]"),
    (r"\bAsyncGenerator\b", "Generator"),
    (r"\bAwaitable\[(\w+(?:\[\w+\])?)\]", r"\1"),
    (r"\basync (def|with|for) ", r"\1 "),
    (r"\bawait ", ""),
    (r"\basync_pieces\b", "pieces"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\ba(closing|close|read|iter_bytes|iter_sse)\b", r"\1"),
    (r"__a(enter|exit)__", r"__\1__"),
    (r"\bAsync(\w+)", r"\1"),
)
"""What each word of the one face is in the other, in this order."""


def synchronous() -> str:
    """The text of synchronous.py."""
    text = (FOLDER / "asynchronous.py").read_text().split('"""\n', 1)[1]
    for pattern, word in _WORDS:
        text = re.sub(pattern, word, text, flags=re.MULTILINE)
    text = _DOCSTRING + text
    for arguments in (
        ["check", "--fix", "--unsafe-fixes", "--quiet", "--select", "F401,I,UP028"],
        ["format", "--quiet"],
    ):
        command = [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", "service/client/synchronous.py", "-"]
        text = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    return text


def main() -> int:
    """Write the file, or with --check say whether it is out of date."""
    check = "--check" in sys.argv[1:]
    path = FOLDER / "synchronous.py"
    text = synchronous()
    if path.exists() and path.read_text() == text:
        return 0
    if not check:
        path.write_text(text)
    print("synchronous.py is out of date: run scripts/fix" if check else "synchronous.py is written")
    return 1 if check else 0


if __name__ == "__main__":
    raise SystemExit(main())
