"""The part of the gate that judges functional groups (PS3.3 C.7.6.16)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ParametricMapStorage, SegmentationStorage

from dicomnode.results.content import items_of
from dicomnode.results.labelmap import LABEL_MAP_SEGMENTATION_STORAGE
from dicomnode.results.proof import GateFinding

_SHARED: Final = "SharedFunctionalGroupsSequence"
_FRAMES: Final = "PerFrameFunctionalGroupsSequence"


@dataclass(frozen=True)
class Macro:
    """A functional group macro (PS3.3 C.7.6.16.2).

    Attributes:
        sequence: Its keyword.
        attributes: Of type 1 inside it.
        clause: Where PS3.3 says so.
        condition: Of the whole object; every frame needs the macro where it holds.
        shared: It may stand in the shared functional groups.
    """

    sequence: str
    attributes: tuple[str, ...]
    clause: str
    condition: Callable[[Dataset], bool]
    shared: bool = True


def _always(dataset: Dataset) -> bool:
    return True


def _in_space(dataset: Dataset) -> bool:
    return "FrameOfReferenceUID" in dataset


def _placed(dataset: Dataset) -> bool:
    # A parametric map of images without a place has a frame of reference of its own.
    groups = (*items_of(dataset, _SHARED), *items_of(dataset, _FRAMES)[:1])
    return any("PlanePositionSequence" in each for each in groups)


def _segmented(dataset: Dataset) -> bool:
    return str(dataset.get("SegmentationType")) != "LABELMAP"


def _indexed(dataset: Dataset) -> bool:
    return "DimensionIndexSequence" in dataset


def _plane(condition: Callable[[Dataset], bool]) -> tuple[Macro, ...]:
    return (
        Macro("PixelMeasuresSequence", ("PixelSpacing",), "PS3.3 C.7.6.16.2.1", condition),
        Macro("PlanePositionSequence", ("ImagePositionPatient",), "PS3.3 C.7.6.16.2.3", condition),
        Macro(
            "PlaneOrientationSequence",
            ("ImageOrientationPatient",),
            "PS3.3 C.7.6.16.2.4",
            condition,
        ),
    )


_CONTENT: Final = Macro(
    "FrameContentSequence",
    ("DimensionIndexValues",),
    "PS3.3 C.7.6.16.2.2",
    _indexed,
    shared=False,
)
_DERIVATION: Final = Macro(
    "DerivationImageSequence", ("DerivationCodeSequence",), "PS3.3 C.7.6.16.2.6", _always
)
_SEGMENTATION: Final = (
    *_plane(_in_space),
    _CONTENT,
    _DERIVATION,
    Macro(
        "SegmentIdentificationSequence",
        ("ReferencedSegmentNumber",),
        "PS3.3 C.8.20.3.1",
        _segmented,
    ),
)

# PS3.3 A.51.5 and A.75.4: the macros of the multi-frame objects that the node writes.
MACROS: Final[Mapping[str, tuple[Macro, ...]]] = {
    SegmentationStorage: _SEGMENTATION,
    LABEL_MAP_SEGMENTATION_STORAGE: _SEGMENTATION,
    ParametricMapStorage: (
        *_plane(_placed)[1:],
        _CONTENT,
        _DERIVATION,
        Macro("PixelMeasuresSequence", (), "PS3.3 C.7.6.16.2.1", _always),
        Macro(
            "PixelValueTransformationSequence",
            ("RescaleIntercept", "RescaleSlope", "RescaleType"),
            "PS3.3 C.7.6.16.2.9b",
            _always,
        ),
        Macro("FrameVOILUTSequence", (), "PS3.3 C.7.6.16.2.10b", _always),
        Macro(
            "RealWorldValueMappingSequence",
            ("LUTExplanation", "LUTLabel", "MeasurementUnitsCodeSequence"),
            "PS3.3 C.7.6.16.2.11",
            _always,
        ),
        Macro("ParametricMapFrameTypeSequence", ("FrameType",), "PS3.3 C.8.32.3.1", _always),
    ),
}


def check_functional_groups(dataset: Dataset) -> Iterator[GateFinding]:
    """Every frame has the macros it needs, shared or its own, and no macro stands in both places.

    Args:
        dataset: Any object; one without functional groups is not judged.
    """
    frames = items_of(dataset, _FRAMES)
    if not frames and _SHARED not in dataset:
        return
    if len(frames) != dataset.get("NumberOfFrames"):
        text = "NumberOfFrames is not the number of per-frame groups"
        yield GateFinding("structure", "PS3.3 C.7.6.16", text)
    if len(items_of(dataset, _SHARED)) != 1:
        text = "there is not exactly one item of shared functional groups"
        yield GateFinding("structure", "PS3.3 C.7.6.16", text)
        return
    shared = items_of(dataset, _SHARED)[0]
    for macro in MACROS.get(str(dataset.get("SOPClassUID")), ()):
        for text in _wrong_with(macro, dataset, shared, frames):
            yield GateFinding("structure", macro.clause, text)


def _wrong_with(
    macro: Macro, dataset: Dataset, shared: Dataset, frames: list[Dataset]
) -> Iterator[str]:
    holders = [frame for frame in frames if macro.sequence in frame]
    if macro.sequence in shared:
        if not macro.shared:
            yield f"{macro.sequence} is shared, which it must not be"
        if holders:
            yield f"{macro.sequence} is both shared and of single frames"
        holders = [shared]
    elif macro.condition(dataset) and len(holders) != len(frames):
        yield f"a frame has no {macro.sequence}"
    # Equal ones are one object, see `dicomnode.results.sharing`.
    sequences = {id(value): value for each in holders for value in [each[macro.sequence].value]}
    for value in sequences.values():
        items = value if isinstance(value, Sequence) else ()
        if not items:
            yield f"{macro.sequence} has no item"
        for keyword in macro.attributes:
            if any(item.get(keyword) in (None, "", []) for item in items):
                yield f"{macro.sequence}/{keyword} is missing or empty, type 1"
