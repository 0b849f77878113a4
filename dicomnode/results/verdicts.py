"""What a document that came back says of results: an assessment, or a report that was verified.

Documents of others refer to ours by UID and say what they think of a finding with a code
(PS3.16 TID 1500 and whatever is built on it). Which codes mean that a finding is right the site
says, for vocabularies differ; a document that leaves it open is not guessed at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from dicomnode.results import codes
from dicomnode.results.content import children, code_of, items_of, named, number_of
from dicomnode.results.provenance import made_here

_DOCUMENTS: Final = "1.2.840.10008.5.1.4.1.1.88."  # SR storage, PS3.4 B.5
_KEY_OBJECTS: Final = "1.2.840.10008.5.1.4.1.1.88.59"
_EVIDENCE: Final = (
    "CurrentRequestedProcedureEvidenceSequence",
    "PertinentOtherEvidenceSequence",
    "PredecessorDocumentsSequence",
)
_DEEPEST: Final = 64
MOST_WORDS: Final = 1000

VerdictCodes = Mapping[tuple[str, str], str]
"""Code value and scheme → verdict."""


@dataclass(frozen=True)
class Word:
    """One coded verdict.

    Attributes:
        verdict: ``accept``, ``reject`` or ``correct``.
        tracking_uid: Of the finding it is about; empty for the document as a whole.
    """

    verdict: str
    tracking_uid: str


@dataclass(frozen=True)
class Assessment:
    """What a document says of objects it refers to.

    Attributes:
        study_instance_uid: The document's.
        document_uid: Its SOP Instance UID.
        refers_to: SOP Instance UIDs.
        words: Its verdicts, one a finding, and one for the whole at most.
        verified: Somebody answers for its content (PS3.3 C.17.2, Verification Flag).
        predecessors: SOP Instance UIDs of the documents that it takes the place of.
    """

    study_instance_uid: str
    document_uid: str
    refers_to: frozenset[str]
    words: tuple[Word, ...]
    verified: bool
    predecessors: frozenset[str]


def assessment_of(header: Dataset, verdicts: VerdictCodes) -> Assessment | None:
    """What a received object says of results.

    Args:
        header: Of any object, as a peer sent it.
        verdicts: The codes that say something.

    Returns:
        None where it is no structured report of somebody else, or says nothing. Where it says
        two things of one finding, it says nothing of it.
    """
    kind = str(header.get("SOPClassUID", ""))
    if not kind.startswith(_DOCUMENTS) or kind == _KEY_OBJECTS:
        return None
    verified = header.get("VerificationFlag") == "VERIFIED"
    if made_here(header) and not verified:
        return None  # ours never are
    said: dict[str, set[str]] = {}
    for number, (uid, verdict) in enumerate(_words(header, "", verdicts, 0)):
        if number >= MOST_WORDS:
            return None
        said.setdefault(uid, set()).add(verdict)
    words = tuple(Word(next(iter(each)), uid) for uid, each in said.items() if len(each) == 1)
    predecessors = frozenset(_named_in(header, "PredecessorDocumentsSequence"))
    if not words and not (verified and predecessors):
        return None
    return Assessment(
        study_instance_uid=str(header.get("StudyInstanceUID", "")),
        document_uid=str(header.get("SOPInstanceUID", "")),
        refers_to=frozenset(uid for keyword in _EVIDENCE for uid in _named_in(header, keyword)),
        words=words,
        verified=verified,
        predecessors=predecessors,
    )


def _words(
    item: Dataset, tracking_uid: str, verdicts: VerdictCodes, depth: int
) -> Iterator[tuple[str, str]]:
    uids = [str(each.get("UID", "")) for each in named(item, codes.TRACKING_UID)]
    within = uids[0] if len(uids) == 1 else tracking_uid
    for child in children(item):
        if child.get("ValueType") == "CODE":
            verdict = verdicts.get(code_of(child, "ConceptCodeSequence") or ("", ""))
            if verdict is not None:
                yield within, verdict
        if depth < _DEEPEST:
            yield from _words(child, within, verdicts, depth + 1)


def _named_in(header: Dataset, keyword: str) -> Iterator[str]:
    for study in items_of(header, keyword):
        for series in items_of(study, "ReferencedSeriesSequence"):
            for entry in items_of(series, "ReferencedSOPSequence"):
                yield str(entry.get("ReferencedSOPInstanceUID", ""))


def statements(document: Dataset) -> frozenset[tuple[str, ...]]:
    """What a report says in codes and numbers, finding by finding; the order does not matter.

    Args:
        document: Ours, or one that a reader made of it.
    """
    return frozenset(_statements(document, "", 0))


def _statements(item: Dataset, tracking_uid: str, depth: int) -> Iterator[tuple[str, ...]]:
    uids = [str(each.get("UID", "")) for each in named(item, codes.TRACKING_UID)]
    within = uids[0] if uids else tracking_uid
    for child in children(item):
        name = "/".join(code_of(child, "ConceptNameCodeSequence") or ("",))
        value_type = str(child.get("ValueType", ""))
        if within and value_type == "CODE":
            value = "/".join(code_of(child, "ConceptCodeSequence") or ("",))
            yield within, name, value
        elif within and value_type == "NUM":
            number = number_of(child)
            yield within, name, "" if number is None else f"{number[0]:.6g} {number[1]}"
        elif within and value_type in ("SCOORD", "SCOORD3D"):
            points = child.get("GraphicData") or ()
            yield within, name, *(f"{float(value):.2f}" for value in points)
        if depth < _DEEPEST:
            yield from _statements(child, within, depth + 1)
