"""What the pixels of a model's inputs show, against their headers, the model and its reference."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from ai.content.expected import Said, remarks
from ai.content.fingerprint import Fingerprint, fingerprint
from ai.package import Package
from ai.reference import read_reference, unusual
from ai.types import Answer, Finding
from config.errors import ContentError, InputError, MalformedError, ModelError, SeriesError
from config.kinds import ContentCheck
from config.schema import RouteSettings
from dicomnode.series.headers import text, value
from dicomnode.series.unit import UnitExplanation
from dicomnode.series.volume import LoadedSeries, load_series
from dicomnode.work.lettering import BurnedIn

# Defined terms of Body Part Examined (PS3.16 Annex L) by what pixels can tell; those that are not
# here may be either or both.
_PARTS: Final = {
    **dict.fromkeys(("BRAIN", "HEAD", "SKULL"), "head"),
    **dict.fromkeys(
        (
            *("ABDOMEN", "ABDOMENPELVIS", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "HEART"),
            *("KIDNEY", "LIVER", "LUNG", "PANCREAS", "PELVIS", "PROSTATE", "SPLEEN"),
        ),
        "trunk",
    ),
    **dict.fromkeys(
        (
            *("ANKLE", "ARM", "CALF", "ELBOW", "EXTREMITY", "FOOT", "FOREARM", "HAND", "KNEE"),
            *("LEG", "THIGH", "WRIST"),
        ),
        "other",
    ),
}

# Ways in: by code of CID 11, and as a scanner or a person writes them.
_INTO_A_VESSEL: Final = frozenset({"47625008", "58100008", "372460008", "372463005"})
_VESSEL: Final = re.compile(r"(?i)\biv\b|\bi\.v|vein|ven[ao]us|intrav|arter")
_ELSEWHERE: Final = re.compile(r"(?i)\b(oral|p\.?o\b|mouth|rect|(intra.?)?(thecal|artic))")


@dataclass(frozen=True)
class Judgement:
    """What was found before the model ran.

    Attributes:
        shown: What the pixels of each input show, by role; empty where nobody looked.
        doubts: Why an input may not be what it is taken for, one plain sentence each.
        reason: The one that keeps the model from running, as the route asks; None where none does.
        read: Text was looked for in the pixels.
    """

    shown: Mapping[str, Fingerprint]
    doubts: tuple[str, ...] = ()
    reason: str | None = None
    read: bool = False

    @property
    def look(self) -> str | None:
        """Why a human look is asked for, in a sentence; None where it is not."""
        return f"a human look is asked for: {'; '.join(self.doubts)}" if self.doubts else None

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json`."""
        shown = {role: found.as_json() for role, found in self.shown.items()}
        return {"shown": shown, "doubts": list(self.doubts)}


def judge(
    package: Package,
    loaded: Mapping[str, LoadedSeries],
    check: ContentCheck,
    burned_in: BurnedIn | None = None,
) -> Judgement:
    """Look at the inputs of a run.

    Args:
        package: The model.
        loaded: Its inputs by role.
        check: What the route asks for; ``off`` looks at nothing but the model's own reference.
        burned_in: How to look for burned-in text, where the route asks for that.

    Raises:
        ModelError: The model's reference cannot be read, or the model that reads lettering fails.
    """
    shown = {} if check == "off" else {role: fingerprint(loaded[role].volume) for role in loaded}
    against = [
        (f"the input {role!r}: {remark}" if len(loaded) > 1 else str(remark), remark.stops)
        for role, found in shown.items()
        for remark in remarks(found, said(loaded[role]), package.manifest.role(role).content)
    ]
    reference = read_reference(package)
    volumes = {role: entry.volume for role, entry in loaded.items()}
    far = [] if reference is None else [str(entry) for entry in unusual(reference, volumes)]
    written = [] if burned_in is None else list(map(burned_in.check.look, loaded.values()))
    looked = [each for each in written if each is not None]
    read = [each for each in looked if each.doubt is not None]
    stops = [doubt for doubt, stops in against if stops and check == "skip"]
    if burned_in is not None and burned_in.strict:
        stops += [str(each.doubt) for each in read if each.named]
    doubts = (*(doubt for doubt, _ in against), *(str(each.doubt) for each in read), *far[:3])
    return Judgement(shown, doubts, stops[0] if stops else None, read=bool(looked))


@dataclass(frozen=True)
class Look:
    """What the pixels of one unit come to for one route: the part of a dry run that reads them.

    Attributes:
        route: The route's name.
        model: ``name@version``.
        judgement: What they show.
        why_not: Why the model does not run on them; None where it does.
    """

    route: str
    model: str
    judgement: Judgement
    why_not: str | None

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json`."""
        return {
            "route": self.route,
            "model": self.model,
            **self.judgement.as_json(),
            "why_not": self.why_not,
        }

    def sentence(self) -> str:
        """The same for a reader."""
        shown = "; ".join(
            f"modality {found.family}, body part {found.body_part}, orientation "
            f"{found.orientation}, contrast {found.contrast}"
            for found in self.judgement.shown.values()
        )
        what = self.why_not or self.judgement.look or "nothing stands against it"
        return f"Pixels for {self.model} ({self.route}): {shown or 'not looked at'}; {what}"


def looks_at(entry: UnitExplanation) -> list[Look]:
    """What the pixels of a unit come to, for each route of series that would run a model."""
    return [_look(entry.unit.files, route, package) for route, package in entry.runs]


def _look(files: Sequence[Path], route: RouteSettings, package: Package) -> Look:
    reference = package.manifest.reference
    try:
        loaded = {package.manifest.input.role: load_series(files)}
        judgement = judge(package, loaded, route.content)
        require(judgement, package)
    except ContentError as error:
        return Look(route.name, reference, judgement, str(error))
    except (InputError, SeriesError, ModelError) as error:
        return Look(route.name, reference, Judgement({}), str(error))
    return Look(route.name, reference, judgement, None)


def require(judgement: Judgement, package: Package) -> None:
    """Keep a model from what it is not for.

    Raises:
        ContentError: With the reason.
    """
    if judgement.reason is not None:
        raise ContentError(f"not given to {package.manifest.reference}: {judgement.reason}")


def with_doubts(answer: Answer, judgement: Judgement) -> Answer:
    """The answer with every finding marked for a human look, where there is a doubt."""
    if not judgement.doubts:
        return answer
    marked = tuple(_marked(finding, judgement.doubts) for finding in answer.findings)
    return replace(answer, findings=marked)


def _marked(finding: Finding, doubts: tuple[str, ...]) -> Finding:
    own = (finding.review_reason,) if finding.needs_review else ()
    return replace(finding, needs_review=True, review_reason="; ".join((*own, *doubts)))


def said(entry: LoadedSeries) -> Said:
    """What the first header of an input says it shows."""
    header = entry.headers[0]
    return Said(entry.modality, _part(header), _is_enhanced(header))


def _part(header: Dataset) -> str | None:
    try:
        return _PARTS.get(text(header, "BodyPartExamined").upper())
    except MalformedError:
        return None


def _is_enhanced(header: Dataset) -> bool:
    """Whether an agent is named that went into a vessel, as far as its route is named too.

    The attributes are those of PS3.3 C.7.6.4 and C.7.6.4b.
    """
    try:
        agents = _items(header, "ContrastBolusAgentSequence")
        coded = [
            text(route, "CodeValue")
            for item in (header, *agents)
            for route in _items(item, "ContrastBolusAdministrationRouteSequence")
        ]
        named = bool(agents) or text(header, "ContrastBolusAgent") != ""
        written = text(header, "ContrastBolusRoute")
    except MalformedError:
        return False
    if coded:
        return named and not _INTO_A_VESSEL.isdisjoint(coded)
    return named and (not _ELSEWHERE.search(written) or bool(_VESSEL.search(written)))


def _items(header: Dataset, keyword: str) -> tuple[Dataset, ...]:
    found = value(header, keyword)
    return tuple(found) if isinstance(found, DicomSequence) else ()
