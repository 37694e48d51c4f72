"""Documents of nets: what is wrong with them, keeping them, edits, comparison, other readings of them.

Knows no job, no data and no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

from service.engine import build
from service.errors import ArchitectureInvalid, ArchitectureTooLarge, Entry, NotFound
from service.schemas import architecture as architectures
from service.schemas import catalogue, edits
from service.schemas.architecture import Architecture
from service.schemas.diff import DiffRequest, OfVersion, diff
from service.schemas.edits import EditedArchitecture, EditRequest, FromCatalogue, FromVersion
from service.schemas.jobs import Net
from service.schemas.judgement import Judgement, Limits, judge, require
from service.schemas.mermaid import mermaid
from service.schemas.python_source import python_source
from service.schemas.table import table
from service.schemas.versions import Reference, reference_of, same_rows
from service.schemas.views import Reading
from service.store.architectures import ArchitectureRecord, ArchitectureStore
from service.store.models import ModelStore


class Documents:
    """What clients can ask for about nets.

    Args:
        limits: how large a net may be.
    """

    def __init__(self, kept: ArchitectureStore, models: ModelStore, *, limits: Limits) -> None:
        self.kept = kept
        self._models = models
        self._limits = limits

    def validate(self, body: object, *, drawing: bool = False) -> dict[str, Any]:
        """What is wrong and right about a document: never an error, since a wrong document is this call's input.

        Args:
            drawing: add the net as a Mermaid flowchart, `mermaid`; left out where the document is wrong.
        """
        try:
            judgement = judge(architectures.parse(body), limits=self._limits)
        except (ArchitectureInvalid, ArchitectureTooLarge) as refused:
            return _verdict(None, refused.errors, (), None)
        if not judgement.errors:
            try:
                assert judgement.architecture is not None
                build.confirm(judgement.architecture)
            except ArchitectureInvalid as refused:
                return _verdict(None, refused.errors, judgement.warnings, None)
        verdict = _verdict(judgement.digest, judgement.errors, judgement.warnings, judgement.summary)
        if drawing and judgement.architecture is not None and judgement.summary is not None:
            verdict["mermaid"] = mermaid(judgement.architecture, judgement.summary)
        return verdict

    def add(self, body: object) -> tuple[ArchitectureRecord, bool]:
        """Keep a document; the flag says whether it is new."""
        authored = architectures.parse(body)
        judgement = self._judged(authored, prefix="")
        return self.keep(authored, judgement)

    def edit(self, request: EditRequest) -> tuple[dict[str, Any], bool | None]:
        """What edits make of a net: document, weight map and summary; kept unless it is a dry run.

        The flag says whether the document is new in the store; None after a dry run.
        """
        edited, origin = self._edited(request, at="")
        authored = architectures.parse(edited.document)
        judgement = self._judged(authored, prefix="/edits")
        created = None if request.dry_run else self.keep(authored, judgement)[1]
        left = () if request.dry_run else _left_behind(edited, origin)
        return {
            "digest": judgement.digest,
            "document": edited.document,
            "weights": edited.weights.view(),
            "freeze": list(edited.freeze),
            "frozen": list(edited.frozen),
            "source": origin,
            "summary": edited.judgement.summary,
            "warnings": [entry.to_dict() for entry in (*edited.judgement.warnings, *edited.odd, *left)],
            "stored": created is not None,
        }, created

    def read(self, digest: str, view: Reading) -> Any:
        """A kept document in another form: text, or JSON values."""
        return _reading(self.kept.get(digest), view)

    def read_version(self, name: str, number: int, view: Reading) -> Any:
        """The net of a version in another form: text, or JSON values."""
        digest = self._models.version(name, number).manifest.architecture_digest
        return _reading(self.kept.get(digest), view)

    def compare(self, request: DiffRequest) -> dict[str, Any]:
        """What differs between two nets: entries, the effect, and the same as text."""
        found = diff(self._side(request.a, at="/a"), self._side(request.b, at="/b"), limits=self._limits)
        return {**found.model_dump(mode="json"), "text": found.text()}

    def compare_versions(self, name: str, a: Reference, b: Reference) -> dict[str, Any]:
        """Two versions of a model side by side: their metrics, whether these come from the same
        rows, whether they have the same weights, and their nets.

        Raises:
            NotFound: there is no such model, alias or version.
        """
        self._models.model(name)
        found = []
        for at, reference in (("/query/a", a), ("/query/b", b)):
            try:
                found.append(self._models.version(name, self._models.resolve(reference).version))
            except NotFound as error:
                raise error.at(at) from None
        first, second = (record.manifest for record in found)
        names = dict.fromkeys([*first.metrics, *second.metrics])
        sides = {"a": {"model": name, "version": first.version}, "b": {"model": name, "version": second.version}}
        return {
            "model": name,
            "a": first.version,
            "b": second.version,
            "metrics": {each: {"a": first.metrics.get(each), "b": second.metrics.get(each)} for each in names},
            "same_rows": same_rows(first, second),
            "same_weights": first.weights_digest == second.weights_digest,
            "architecture": self.compare(DiffRequest.model_validate(sides)),
        }

    def _side(self, given: OfVersion | str | dict[str, Any], *, at: str) -> Any:
        try:
            if isinstance(given, OfVersion):
                found = self._models.resolve(reference_of(given.model, given.version, at=at))
                return self._models.document(found.model, found.version, "architecture.json")
            return self.kept.get(given).canonical if isinstance(given, str) else given
        except NotFound as error:
            raise error.at(at) from None

    def _judged(self, architecture: Architecture, *, prefix: str) -> Judgement:
        judgement = require(architecture, limits=self._limits, prefix=prefix)
        assert judgement.architecture is not None
        build.confirm(judgement.architecture)
        return judgement

    def keep(self, authored: Architecture, judgement: Judgement) -> tuple[ArchitectureRecord, bool]:
        """Keep a net that was judged to be right; the flag says whether it is new."""
        assert judgement.architecture is not None
        assert judgement.digest is not None
        assert judgement.summary is not None
        return self.kept.put(
            judgement.digest,
            authored=architectures.authored(authored),
            canonical=architectures.canonical_form(judgement.architecture),
            summary=judgement.summary,
        )

    def of_job(self, given: Net) -> tuple[Architecture, Judgement, dict[str, Any], tuple[Entry, ...]]:
        """A job's net, what its resolved spec says of the edits that made it, and what is odd about these."""
        if not isinstance(given, EditedArchitecture):
            return (*self._found(given), {}, ())
        edited, origin = self._edited(given, at="/architecture")
        authored, judgement = self._found(architectures.parse(edited.document))
        lineage: dict[str, Any] = {
            "edited": {
                "from": origin,
                "edits": [edit.model_dump(mode="json", exclude_defaults=True) for edit in given.edits],
                "weights": edited.weights.view(),
                "freeze": list(edited.freeze),
                "frozen": list(edited.frozen),
            }
        }
        if "model" in origin:
            lineage["resolved_model"] = origin
        return authored, judgement, lineage, edited.odd

    def _edited(self, request: EditedArchitecture, *, at: str) -> tuple[edits.Edited, dict[str, Any]]:
        """A net after its edits, and what was edited: a version, whose weights are meant too, or a document."""
        if isinstance(request.from_, FromVersion):
            try:
                named = reference_of(request.from_.model, request.from_.version, at=f"{at}/from")
                found = self._models.resolve(named)
            except NotFound as error:
                raise error.at(f"{at}/from/" + ("model" if request.from_.version is None else "version")) from None
            origin: dict[str, Any] = {"model": found.model, "version": found.version}
            document = architectures.parse(self._models.document(found.model, found.version, "architecture.json"))
        else:
            if isinstance(request.from_, FromCatalogue):
                given: dict[str, Any] | str = request.from_.model_dump()
                where = f"{at}/from"
            else:
                given, where = request.from_.architecture, f"{at}/from/architecture"
            parsed = given if isinstance(given, str) else architectures.parse(given, prefix=where)
            document, judged = self._found(parsed, at=where)
            origin = {"architecture": judged.digest}
        return edits.apply(document, request.edits, limits=self._limits, at=f"{at}/edits"), origin

    def _found(self, given: Architecture | str | None, *, at: str = "/architecture") -> tuple[Architecture, Judgement]:
        if isinstance(given, str):
            try:
                record = self.kept.get(given)
            except NotFound:
                hint = catalogue.hint_for(given) or "Send the document, or POST it to /v1/architectures first."
                raise NotFound(
                    "There is no architecture with this digest.",
                    errors=[Entry(at, "not-found", "There is no architecture with this digest.", hint=hint)],
                ) from None
            given = architectures.parse(record.authored, prefix=at)
        assert given is not None
        return given, self._judged(given, prefix=at)


def _left_behind(edited: edits.Edited, origin: Mapping[str, Any]) -> list[Entry]:
    """That the digest of an edited net names the net alone, where its edits were about more."""
    lost = ["weights"] if "model" in origin and (edited.weights.kept or edited.weights.reshaped) else []
    lost += ["freezes"] if edited.frozen else []
    if not lost:
        return []
    detail = f"The digest names the net alone: it carries no {' and no '.join(lost)}."
    hint = 'Send {"from": …, "edits": …} as the job\'s architecture, instead of the digest, to train with them.'
    return [Entry("", "net-alone", detail, hint=hint)]


def _reading(record: ArchitectureRecord, view: Reading) -> Any:
    """A kept document in another form."""
    match view:
        case "authored":
            return record.authored
        case "canonical":
            return record.canonical
        case "summary":
            return record.summary
        case "table":
            return table(record.summary)
        case "python":
            return python_source(architectures.parse(record.canonical))
        case "mermaid":
            return mermaid(architectures.parse(record.canonical), record.summary)
        case _:
            assert_never(view)


def _verdict(
    found: str | None, errors: tuple[Entry, ...], warnings: tuple[Entry, ...], summary: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "valid": not errors,
        "digest": found if not errors else None,
        "errors": [entry.to_dict() for entry in errors],
        "warnings": [entry.to_dict() for entry in warnings],
        "summary": dict(summary) if summary is not None and not errors else None,
    }
