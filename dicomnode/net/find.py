"""C-FIND as SCU (PS3.4 C.4.1): how many instances a study has, and each of its series."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pynetdicom.presentation import build_context

from config.errors import PeerError
from dicomnode.net.calling import Bounds
from dicomnode.net.scu import Link, Peer, open_association_to
from dicomnode.net.walk import is_uid

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
BOUNDS = Bounds(seconds=10.0, answer_bytes=1 << 20)
MAX_MATCHES = 1000

_NUMBER = re.compile(r"\+?[0-9]{1,9}")  # an IS that counts (PS3.5 6.2)


@dataclass(frozen=True)
class Counts:
    """What a source says of a study.

    Attributes:
        instances: Number of Study Related Instances (0020,1208); None where it does not say.
        by_series: Number of Series Related Instances (0020,1209) by Series Instance UID, of the
            series of which it says one number.
    """

    instances: int | None
    by_series: Mapping[str, int]


def ask_counts(peer: Peer, study_instance_uid: str, bounds: Bounds = BOUNDS) -> Counts:
    """Ask a source about a study, at the levels STUDY and SERIES, over one association.

    Args:
        peer: The source.
        study_instance_uid: The study.
        bounds: What that may cost.

    Raises:
        PeerError: It cannot be reached, refuses, or answers too long or too much.
        SettingsError: The certificates to call it with cannot be used.
    """
    with open_association_to(peer, [build_context(STUDY_ROOT_FIND)], bounds) as link:
        studies = _asked(link, "STUDY", study_instance_uid)
        series = _asked(link, "SERIES", study_instance_uid, SeriesInstanceUID="")
    of_study = {count for _, count in studies}
    by_series: dict[str, set[int | None]] = {}
    for uid, count in series:
        by_series.setdefault(uid, set()).add(count)
    return Counts(
        next(iter(of_study)) if len(of_study) == 1 else None,
        {
            uid: count
            for uid, said in by_series.items()
            if len(said) == 1 and is_uid(uid) and (count := next(iter(said))) is not None
        },
    )


# The attribute that names a match at each level, and the one that counts its instances.
_KEYS = {
    "STUDY": ("StudyInstanceUID", "NumberOfStudyRelatedInstances"),
    "SERIES": ("SeriesInstanceUID", "NumberOfSeriesRelatedInstances"),
}


def _asked(
    link: Link, level: str, study_instance_uid: str, **keys: str
) -> list[tuple[str, int | None]]:
    named, counted = _KEYS[level]
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    identifier.StudyInstanceUID = study_instance_uid
    for keyword, value in {**keys, counted: ""}.items():
        setattr(identifier, keyword, value)
    found = [
        (_text(match, named), _count(match, counted))
        for match in _bounded(link.find(identifier, STUDY_ROOT_FIND))
        # A source that knows the study answers of no other; whatever else it sends says nothing.
        if _text(match, "StudyInstanceUID") in ("", study_instance_uid)
    ]
    return [(uid, count) for uid, count in found if level == "SERIES" or uid == study_instance_uid]


def _bounded(matches: Iterator[Dataset]) -> Iterator[Dataset]:
    for number, match in enumerate(matches):
        if number >= MAX_MATCHES:
            raise PeerError("the source answered with too many matches")
        yield match


def _text(match: Dataset, keyword: str) -> str:
    try:
        value = match[keyword].value if keyword in match else None
    except Exception:  # a peer's bytes, parsed when first asked for
        return ""
    return "" if value is None else str(value).strip()


def _count(match: Dataset, keyword: str) -> int | None:
    said = _text(match, keyword)
    return int(said) if _NUMBER.fullmatch(said) else None
