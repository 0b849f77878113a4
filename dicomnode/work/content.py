"""What the pixels of a model's inputs show, against their headers, the model and its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ai.content.expected import Said, remarks
from ai.content.fingerprint import Fingerprint, fingerprint
from ai.package import Package
from ai.reference import read_reference, unusual
from ai.types import Answer, Finding
from config.errors import ContentError, InputError, MalformedError, ModelError, SeriesError
from config.kinds import ContentCheck
from config.schema import RouteSettings
from dicomnode.series.explain import UnitExplanation
from dicomnode.series.headers import text
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


@dataclass(frozen=True)
class Judgement:
    """What was found before the model ran.

    Attributes:
        shown: What the pixels of each input show, by role; empty where nobody looked.
        doubts: Why an input may not be what it is taken for, one plain sentence each.
        reason: The one that keeps the model from running, as the route asks; None where none does.
    """

    shown: Mapping[str, Fingerprint]
    doubts: tuple[str, ...] = ()
    reason: str | None = None

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
        f"the input {role!r}: {remark}" if len(loaded) > 1 else str(remark)
        for role, found in shown.items()
        for remark in remarks(found, _said(loaded[role]), package.manifest.role(role).content)
    ]
    reference = read_reference(package)
    volumes = {role: entry.volume for role, entry in loaded.items()}
    far = [] if reference is None else [str(entry) for entry in unusual(reference, volumes)]
    written = [] if burned_in is None else list(map(burned_in.check.look, loaded.values()))
    read = [each for each in written if each is not None and each.doubt is not None]
    stops = list(against) if check == "skip" else []
    if burned_in is not None and burned_in.strict:
        stops += [str(each.doubt) for each in read if each.named]
    doubts = (*against, *(str(each.doubt) for each in read), *far[:3])
    return Judgement(shown, doubts, stops[0] if stops else None)


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
            f"modality {found.family}, body part {found.body_part}, orientation {found.orientation}"
            for found in self.judgement.shown.values()
        )
        said = self.why_not or self.judgement.look or "nothing stands against it"
        return f"Pixels for {self.model} ({self.route}): {shown or 'not looked at'}; {said}"


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


def _said(entry: LoadedSeries) -> Said:
    try:
        part = _PARTS.get(text(entry.headers[0], "BodyPartExamined").upper())
    except MalformedError:
        part = None
    return Said(entry.modality, part)
