"""What a browser loads at /ui/: one page, its modules and stylesheet, and plotly.js out of the installed wheel.

Serves bytes; knows no job and no model. Everything that the page shows it asks of /v1 like any other client, so there
is no route here that answers data, and nothing here needs a key.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import re
import threading
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, files
from importlib.resources import files as resources
from pathlib import Path
from typing import Annotated, Final

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from service import __version__

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='",
        "style-src-attr 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""What the page may load: its own files, and pictures that it makes itself. No inline script, no other host.

What is looser than that is for plotly.js: it makes an empty style element, whose digest stands here, and writes its
rules into its sheet; and it gives parts of pictures a `style` attribute.
"""

_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_IMPORT: Final = re.compile(rb'^(?:import|\}) .*?from "\./([\w.]+)";$', re.MULTILINE)
_STYLE_MARK: Final = re.compile(rb'getElementById\("([0-9a-f]{64})"\)')
_FOREVER: Final = "public, max-age=31536000, immutable"
AcceptEncoding = Annotated[str | None, Header(max_length=1000)]


@dataclass(frozen=True)
class _Asset:
    """Bytes with their media type; compressed once, when they are first asked for."""

    content: bytes
    media_type: str

    @cached_property
    def compressed(self) -> bytes:
        return gzip.compress(self.content, mtime=0, compresslevel=6)

    def response(self, accepted: str | None, cache: str) -> Response:
        headers = {
            "Cache-Control": cache,
            "Content-Security-Policy": POLICY,
            "Referrer-Policy": "no-referrer",
            "Vary": "Accept-Encoding",
        }
        if "gzip" not in (accepted or ""):
            return Response(self.content, media_type=self.media_type, headers=headers)
        headers["Content-Encoding"] = "gzip"
        return Response(self.compressed, media_type=self.media_type, headers=headers)


class _Plotly:
    """plotly.js as the installed distribution brings it: found by the list of its files, never imported.

    Read and compressed when a browser first asks for it; `url` is None where there is no such file.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._asset: _Asset | None = None
        self._path = _plotly_path()
        self.url: str | None = None
        self.marks: list[str] = []
        """Ids of elements for which it looks before it makes inline styles for maps, which the policy would block."""
        if self._path is not None:
            content = self._path.read_bytes()
            self.url = f"/ui/plotly-{hashlib.sha256(content).hexdigest()[:16]}.js"
            self.marks = sorted({found.decode() for found in _STYLE_MARK.findall(content)})

    def load(self) -> _Asset:
        with self._mutex:  # one compression, however many ask
            if self._asset is None:
                assert self._path is not None
                self._asset = _Asset(self._path.read_bytes(), "text/javascript")
                _ = self._asset.compressed
            return self._asset


def _plotly_path() -> Path | None:
    try:
        found = files("plotly") or []
    except PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in found if file.match("package_data/plotly.min.js"))
    return next((path for path in paths if path.is_file()), None)


def _read() -> dict[str, bytes]:
    folder = resources("service").joinpath("dashboard", "static")
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}


def _needed(name: str, sources: dict[str, bytes]) -> set[str]:
    """A module and all that it imports from its first line on; what it imports as it goes is not among them."""
    found = {name}
    waiting = [name]
    while waiting:
        names = {each.decode() for each in _IMPORT.findall(sources[waiting.pop()])}
        waiting += names - found
        found |= names
    return found


def router() -> APIRouter:
    """`/ui/` and what it loads.

    Modules and stylesheet lie under the digest of them all, so a browser keeps them until one of them changes, and
    processes of the same version serve the same addresses.
    """
    routes = APIRouter(include_in_schema=False)
    plotly = _Plotly()
    sources = _read()
    page = sources.pop("index.html").decode()
    combined = hashlib.sha256()
    for name in sorted(sources):
        combined.update(name.encode() + b"\0" + sources[name] + b"\0")
    digest = combined.hexdigest()[:16]
    assets = {name: _Asset(content, _TYPES[Path(name).suffix]) for name, content in sources.items()}
    preloads = "\n".join(
        f'<link rel="modulepreload" href="/ui/{digest}/{name}">' for name in sorted(_needed("app.js", sources))
    )
    for mark, value in {
        "{{modulepreload}}": preloads,
        "{{assets}}": f"/ui/{digest}",
        "{{plotly}}": plotly.url or "",
        "{{marks}}": "".join(f'<div hidden id="{mark}"></div>' for mark in plotly.marks),
        "{{version}}": html.escape(__version__),
    }.items():
        page = page.replace(mark, value)
    start = _Asset(page.encode(), "text/html")

    @routes.get("/ui")
    def without_slash() -> Response:
        return RedirectResponse("/ui/", 307)

    @routes.get("/ui/")
    def index(accept_encoding: AcceptEncoding = None) -> Response:
        return start.response(accept_encoding, "no-cache")

    @routes.get("/ui/{folder}/{name}")
    def asset(folder: str, name: str, accept_encoding: AcceptEncoding = None) -> Response:
        if folder != digest or name not in assets:
            raise HTTPException(404)
        return assets[name].response(accept_encoding, _FOREVER)

    @routes.get("/ui/{name}")
    async def charts(request: Request, name: str, accept_encoding: AcceptEncoding = None) -> Response:
        if plotly.url is None or request.url.path != plotly.url:
            raise HTTPException(404)
        found = await run_sync(plotly.load)
        return found.response(accept_encoding, _FOREVER)

    return routes
