"""Builds the site of docs/ into build/site, strictly: a link or an anchor that leads nowhere is a failure.

The pages are copied to build/pages with the pages of the repository's root that they link to, so a link works here and
where the repository is read. What is where in the site is what stands in docs/README.md. Knows no content.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
BESIDE: Final = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
"""Pages of the root that become pages of the site."""

MARK: Final = ROOT / "service" / "dashboard" / "static" / "mark.svg"
"""The dashboard's sign is the site's."""

_LOOKS: Final = ("site.css", "iframe-worker.js")
_LINK: Final = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<path>(?![a-z]+:)[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
_FENCED: Final = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")


def main() -> int:
    """Build the site; the status is zensical's, or 127 where it is not installed."""
    if find_spec("zensical") is None:
        print("docs_site: FAILED: 'zensical' is not installed; run 'make dev' first", file=sys.stderr)
        return 127
    status, told = build(ROOT, ROOT / "build")
    print(told, file=sys.stderr if status else sys.stdout)
    return status


def build(root: Path, out: Path) -> tuple[int, str]:
    """Build the pages under `root` into `out`/site.

    Returns:
        Zensical's exit status, and what is wrong or where the site begins.
    """
    docs, pages = root / "docs", out / "pages"
    for folder in (pages, out / "site"):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(docs, pages)
    (pages / "images").mkdir(exist_ok=True)
    shutil.copy(MARK, pages / "images")
    for name in _LOOKS:
        shutil.copy(ROOT / "docs" / name, pages)
    for page in [*docs.rglob("*.md"), *filter(Path.exists, (root / name for name in BESIDE))]:
        place = page.relative_to(docs) if page.is_relative_to(docs) else Path(page.name)
        (pages / place).write_text(at_home(page, place, root=root))
    parts = {"docs_dir": "pages", "site_dir": "site", "nav": nav((pages / "README.md").read_text())}
    told = "".join(f"{name}: {json.dumps(value)}\n" for name, value in parts.items())
    config = out / "mkdocs.yml"
    config.write_text((ROOT / "mkdocs.yml").read_text() + told)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.returncode, _COLOURS.sub("", done.stdout + done.stderr.partition("Traceback")[0])
    return 0, f"site: {out / 'site' / 'index.html'}"


def at_home(page: Path, place: Path, *, root: Path) -> str:
    """The text of a page with its links as they are at its place in the site; what is no page there loses its link."""
    docs = root / "docs"

    def moved(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(page.parent / link["path"]))
        if target.is_relative_to(docs):
            goal = target.relative_to(docs)
        elif target.parent == root and target.name in BESIDE:
            goal = Path(target.name)
        else:
            return link["text"].strip("[]")
        return f"{link['text']}({os.path.relpath(goal, place.parent)}{link['anchor'] or ''})"

    return "".join(
        part if part.startswith("```") else _LINK.sub(moved, part) for part in _FENCED.split(page.read_text())
    )


def nav(index: str) -> list[Any]:
    """What is where, from the headings and lists of the index; a list within a list is the section of its page."""
    found: list[Any] = [{"Home": "README.md"}]
    for heading, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", index, re.DOTALL | re.MULTILINE):
        entries: list[Any] = []
        for indent, title, path in _entries(text):
            if indent:
                [(above, inner)] = entries[-1].items()
                entries[-1] = {above: [*([{"Overview": inner}] if isinstance(inner, str) else inner), {title: path}]}
            else:
                entries.append({title: path})
        [*_, last] = entries
        found.append({heading: last[heading] if len(entries) == 1 and heading in last else entries})
    return found


def _entries(text: str) -> Iterator[tuple[str, str, str]]:
    return iter(re.findall(r"^( *)- \[(.+?)\]\((\S+?\.md)\)", text, re.MULTILINE))


if __name__ == "__main__":
    sys.exit(main())
