"""When a series is complete: a verdict and its evidence.

Nothing in DICOM says that a series has ended, so it is judged from what is known, the surest
first. A gap in the geometry holds a silence back until the patience ends; an even geometry proves
nothing, for the first fifty of two hundred slices are even too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from config.errors import MalformedError
from dicomnode.series.headers import count, text


@dataclass(frozen=True)
class Announced:
    """How many instances a series has, as one source says.

    Attributes:
        source: Who says it, ``C-FIND (0020,1209)``.
        instances: How many.
        provisional: What the source has now, which may grow as what is here does; a gap speaks
            against it.
    """

    source: str
    instances: int
    provisional: bool = False


@dataclass(frozen=True)
class Evidence:
    """What is known about the arrival of one series.

    Attributes:
        received: Different instances stored.
        last_object: When the last one came, seconds since the epoch.
        open_associations: Associations that carried one of them and are not released.
        announced: What sources say of their number, the surest first.
        single_image: It is complete by its kind: CR, DX, MG or an ultrasound still.
        gap: Slices are missing between others.
        forced: Someone asked that it be taken as it is.
    """

    received: int
    last_object: float
    open_associations: int
    announced: tuple[Announced, ...] = ()
    single_image: bool = False
    gap: bool = False
    forced: bool = False

    @property
    def said(self) -> Announced | None:
        """What counts of it: who says less than what is here does not know the series."""
        return next((each for each in self.announced if each.instances >= self.received), None)


@dataclass(frozen=True)
class Complete:
    """The series is complete.

    Attributes:
        reason: ``single-image``, ``count``, ``quiet``, ``timeout`` or ``forced``.
        evidence: One plain sentence.
    """

    reason: str
    evidence: str


@dataclass(frozen=True)
class Waiting:
    """The series is not complete.

    Attributes:
        until: When to judge again if nothing happens before, seconds since the epoch; always
            later than the moment of judging.
        why: One plain sentence.
    """

    until: float
    why: str


Verdict = Complete | Waiting


def completeness(
    evidence: Evidence, now: float, quiet_seconds: float, give_up_seconds: float
) -> Verdict:
    """Judge whether a series is complete.

    Args:
        evidence: What is known.
        now: Seconds since the epoch, of the same clock as `evidence.last_object`.
        quiet_seconds: Silence after the last object, associations released.
        give_up_seconds: Silence after which it is taken as it is.
    """
    received, said = evidence.received, evidence.said
    counted = said is not None and said.instances == received
    if said is not None and counted and received > 0 and not (evidence.gap and said.provisional):
        return Complete("count", f"{received} came, as {said.source} announced")
    short = "" if counted else _contradiction(evidence)
    if received > 0 and evidence.single_image:
        return Complete("single-image", "each object of this kind is complete by itself")
    # The sum, as in `Waiting.until`: of times this large the difference rounds differently.
    quiet, give_up = evidence.last_object + quiet_seconds, evidence.last_object + give_up_seconds
    calm = evidence.open_associations == 0 and not evidence.gap
    if calm and now >= quiet:
        return Complete(
            "quiet",
            f"{received} came, every association is released and "
            f"nothing came for {quiet_seconds:g} s{short}",
        )
    if now >= give_up:
        gap = ", slices are missing" if evidence.gap else ""
        return Complete(
            "timeout",
            f"{received} came, {evidence.open_associations} associations are open{gap} and "
            f"nothing came for {give_up_seconds:g} s{short}",
        )
    if evidence.forced:
        return Complete("forced", f"taken by hand with {received}{short}")
    patience = min(quiet_seconds, give_up_seconds) if calm else give_up_seconds
    return Waiting(evidence.last_object + patience, _why(evidence, patience) + short)


def _contradiction(evidence: Evidence) -> str:
    """What the surest source that could be right says, or the surest of all."""
    said = evidence.said or next(iter(evidence.announced), None)
    if said is None:
        return ""
    missing = said.instances - evidence.received
    return f"; {said.source} announced {said.instances}" + (
        f", {missing} not here" if missing > 0 else ""
    )


def _why(evidence: Evidence, patience: float) -> str:
    if evidence.open_associations:
        return (
            f"{evidence.open_associations} associations that carried it are open; "
            f"taken as it is after {patience:g} s of silence"
        )
    if evidence.gap:
        return f"slices are missing; taken as it is after {patience:g} s of silence"
    return f"complete after {patience:g} s of silence"


def announced_images(header: Dataset) -> tuple[str, int] | None:
    """How many images there are, as one of them says.

    Number of Series Related Instances, (0020,1209), where a source writes it into its objects, or
    Images in Acquisition, (0020,1002) (PS3.3 C.7.6.1). Sources differ in what they mean by the
    latter, so a site says whose counts it trusts.

    Returns:
        "" for the series or the number of the acquisition, and the count; None where the header
        does not say.
    """
    try:
        of_series = count(header, "NumberOfSeriesRelatedInstances")
        if of_series:
            return "", of_series
        of_acquisition = count(header, "ImagesInAcquisition")
        return (
            (text(header, "AcquisitionNumber") or "1", of_acquisition) if of_acquisition else None
        )
    except MalformedError:
        return None


def announced_by(headers: Sequence[Dataset]) -> Announced | None:
    """What the headers of a series announce together; None where one does not say."""
    by_acquisition: dict[str, int] = {}
    for header in headers:
        found = announced_images(header)
        if found is None:
            return None
        of, images = found
        by_acquisition[of] = max(images, by_acquisition.get(of, 0))
    images = by_acquisition.get("") or sum(by_acquisition.values())
    return Announced("its headers", images) if images else None
