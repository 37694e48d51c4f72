"""The site of the pages: what is where in it, what a broken link does, and that it needs nothing from outside."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts import docs_site

ROOT = Path(__file__).resolve().parents[2]
INDEX = """\
# Pages

## Guides

- [One](guide/one.md): the first
    - [Within](guide/within.md)
- [Two](guide/two.md)

## Log

- [Log](log.md)
"""


def test_the_index_is_the_navigation() -> None:
    assert docs_site.nav(INDEX) == [
        {"Home": "README.md"},
        {"Guides": [{"One": [{"Overview": "guide/one.md"}, {"Within": "guide/within.md"}]}, {"Two": "guide/two.md"}]},
        {"Log": "log.md"},
    ]


def test_every_page_has_its_place_in_the_navigation() -> None:
    index = docs_site.at_home(ROOT / "docs" / "README.md", Path("README.md"), root=ROOT)
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}

    assert pages | set(docs_site.BESIDE) == set(places(docs_site.nav(index)))


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """Pages that link to each other, to a page of the root, and to a file that is no page."""
    (tmp_path / "docs" / "guide").mkdir(parents=True)
    (tmp_path / "SECURITY.md").write_text("# Security\n\nBack to [the guide](docs/guide/one.md#a-b--c).\n")
    (tmp_path / "docs" / "README.md").write_text(
        "# Pages\n\n## Guides\n\n- [One](guide/one.md)\n- [P](../SECURITY.md)\n"
    )
    (tmp_path / "docs" / "guide" / "one.md").write_text(
        "# One\n\n## A `b` – c\n\nSee [the policy](../../SECURITY.md#security) and [the code](../../service/app.py).\n"
    )
    return tmp_path


def test_a_link_holds_in_the_site_as_in_the_repository_and_nobody_else_is_asked(pages: Path) -> None:
    """No script, style, font or picture is of another host; links that somebody may click are another thing."""
    status, told = docs_site.build(pages, pages / "build")
    site = pages / "build" / "site"
    page = (site / "guide" / "one.html").read_text()

    assert status == 0, told
    assert 'href="../SECURITY.html#security"' in page
    assert 'id="a-b--c"' in page  # as GitHub names it
    assert "and the code." in page
    assert re.findall(r'<(?:script|img|iframe|link)[^>]+(?:src|href)="?(?:https?:)?//[^>]*>', page) == []
    styles = [sheet.read_text() for sheet in site.rglob("*.css")]
    assert styles
    assert [found for text in styles for found in re.findall(r"(?:@import|url\()\s*[\"']?https?:[^)]*", text)] == []


def test_links_that_lead_nowhere_are_a_failure_that_names_their_places(pages: Path) -> None:
    (pages / "docs" / "guide" / "one.md").write_text("# One\n\nSee [it](two.md).\n\nAnd [it](#nowhere).\n")

    status, told = docs_site.build(pages, pages / "build")

    assert status != 0
    assert "guide/one.md:3" in told
    assert "guide/one.md:5" in told


def test_without_the_tool_nothing_is_built(tmp_path: Path) -> None:
    """-S leaves out what was installed."""
    done = subprocess.run(
        [sys.executable, "-S", "scripts/docs_site.py"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 127
    assert "make dev" in done.stderr


def places(entries: Any) -> Iterator[str]:
    """Every page of a navigation."""
    if isinstance(entries, str):
        yield entries
    else:
        for inner in entries.values() if isinstance(entries, dict) else entries:
            yield from places(inner)
