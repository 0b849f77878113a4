"""The part of the gate that holds a report against its templates, the answer and the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from ai.types import Finding
from dicomnode.frames import frame_number
from dicomnode.results import codes
from dicomnode.results.content import (
    children,
    code_of,
    is_named,
    items_of,
    named,
    number_of,
    walk,
)
from dicomnode.results.proof import GateFinding, ProofContext
from dicomnode.results.regions import segment_mask

# Mandatory rows of a measurement group, TID 1501 and those that include it, with TID 4019.
_GROUP_ROWS: Final = (
    (codes.TRACKING_IDENTIFIER, "TEXT", "TID 1501"),
    (codes.TRACKING_UID, "UIDREF", "TID 1501"),
    (codes.ALGORITHM_NAME, "TEXT", "TID 4019"),
    (codes.ALGORITHM_VERSION, "TEXT", "TID 4019"),
)
# Kinds with segments; a report refers to the first of them that there is.
_SEGMENTATIONS: Final = ("seg", "labelmap", "fractional")
# An image: its SOP Instance UID and its frame, None for a single-frame object.
Place = tuple[str, int | None]

# SCOORD may be off by this much from the answer, in pixels; FL has seven digits.
_POINT_TOLERANCE: Final = 0.01


def is_measurement_report(dataset: Dataset) -> bool:
    """Whether the root of a report names TID 1500.

    Args:
        dataset: A structured report.
    """
    templates = items_of(dataset, "ContentTemplateSequence")
    return any(item.get("TemplateIdentifier") == "1500" for item in templates)


def check_template(dataset: Dataset) -> Iterator[GateFinding]:
    """Mandatory rows of TID 1500 and its groups (PS3.16 A).

    Args:
        dataset: A structured report.
    """
    if not is_measurement_report(dataset):
        yield _template("TID 1500", "the root does not name template 1500")
        return
    if not named(dataset, codes.PROCEDURE_REPORTED, "CODE"):
        yield _template("TID 1500", "no procedure is reported")
    if not named(dataset, codes.IMAGE_LIBRARY, "CONTAINER"):
        yield _template("TID 1600", "there is no image library")
    for item in named(dataset, codes.OBSERVER_TYPE):
        device = (codes.DEVICE.value, codes.DEVICE.scheme_designator)
        is_device = code_of(item, "ConceptCodeSequence") == device
        if is_device and not named(dataset, codes.DEVICE_OBSERVER_UID, "UIDREF"):
            yield _template("TID 1004", "the observing device has no UID")
    groups = _groups(dataset)
    if not groups:
        yield _template("TID 1500", "there is no measurement group")
    for group in groups:
        yield from _check_group(group)


def _template(clause: str, text: str) -> GateFinding:
    return GateFinding("template", f"PS3.16 {clause}", text)


def _groups(dataset: Dataset) -> list[Dataset]:
    return [
        group
        for container in named(dataset, codes.IMAGING_MEASUREMENTS, "CONTAINER")
        for group in named(container, codes.MEASUREMENT_GROUP, "CONTAINER")
    ]


def _check_group(group: Dataset) -> Iterator[GateFinding]:
    for name, value_type, clause in _GROUP_ROWS:
        if not named(group, name, value_type):
            yield _template(clause, f"a measurement group has no {name.meaning}")
    if not named(group, codes.FINDING, "CODE") and not named(group, codes.FINDINGS_SUMMARY):
        yield _template("TID 1501", "a measurement group names no finding")
    identifiers = [
        item.get("TemplateIdentifier") for item in items_of(group, "ContentTemplateSequence")
    ]
    regions = named(group, codes.IMAGE_REGION)
    frames = named(group, codes.REFERENCED_SEGMENTATION_FRAME)
    segments = named(group, codes.REFERENCED_SEGMENT)
    sources = (
        *named(group, codes.SOURCE_SERIES_FOR_SEGMENTATION, "UIDREF"),
        *named(group, codes.SOURCE_IMAGE_FOR_SEGMENTATION, "IMAGE"),
    )
    if "1410" in identifiers and len(regions) + len(frames) != 1:
        yield _template("TID 1410", "a planar group has not exactly one region")
    if "1411" in identifiers and not segments and not regions:
        yield _template("TID 1411", "a volumetric group refers to no segment")
    if (segments or frames) and not sources:
        yield _template("TID 1411", "a referenced segment does not name its source")
    yield from _check_certainty(group)


def _check_certainty(group: Dataset) -> Iterator[GateFinding]:
    for item in walk(group):
        if is_named(item, codes.CERTAINTY_OF_FINDING):
            number = number_of(item)
            if number is None or not 0 <= number[0] <= 100 or number[1] != codes.PERCENT.value:
                yield _template("TID 4006", "a certainty is not a percentage")


def compare_report(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    """Hold a report against the answer it should carry and the images it speaks of.

    Args:
        dataset: The report, read back.
        context: The answer, the sources, the job that gives the tracking UIDs, and the written
            segmentation where there is one.
    """
    answer, sources = context.answer, context.sources
    segmentation = next(
        (context.bundle[kind] for kind in _SEGMENTATIONS if kind in context.bundle), None
    )
    yield from _check_coordinates(dataset, sources)
    groups = _groups(dataset)
    by_uid = {context.provenance.uid(f"tracking/{each.name}"): each for each in answer.findings}
    planes = [
        (group, finding)
        for group in groups
        if (finding := by_uid.get(_tracking_uid(group))) is not None and _is_plane(group, finding)
    ]
    whole = [group for group in groups if all(group is not plane for plane, _ in planes)]
    if len(whole) != max(1, len(answer.findings)) or len({each.name for _, each in planes}) != len(
        planes
    ):
        text = f"{len(groups)} measurement groups for {len(answer.findings)} findings"
        yield GateFinding("content", "PS3.16 TID 1500", text)
    for plane, finding in planes:
        yield from _compare_plane(plane, finding, context)
    groups_by_uid = {_tracking_uid(group): group for group in whole}
    for uid, finding in by_uid.items():
        group = groups_by_uid.get(uid)
        if group is None:
            yield GateFinding("content", "PS3.16 TID 1501", "a finding has no measurement group")
            continue
        yield from _compare_group(group, finding, sources, segmentation)


def _is_plane(group: Dataset, finding: Finding) -> bool:
    """Whether a group outlines a finding that has its segment in another one."""
    return finding.segment is not None and any(named(group, codes.IMAGE_REGION, "SCOORD"))


def _tracking_uid(group: Dataset) -> str:
    return next((str(item.get("UID")) for item in named(group, codes.TRACKING_UID)), "")


def _compare_group(
    group: Dataset, finding: Finding, sources: Sequence[Dataset], segmentation: Dataset | None
) -> Iterator[GateFinding]:
    def wrong(clause: str, text: str) -> GateFinding:
        return GateFinding("content", clause, f"a finding's group {text}")

    yield from _compare_codes(group, finding)
    numbers = [
        (code_of(item, "ConceptNameCodeSequence"), number_of(item))
        for item in children(group)
        if item.get("ValueType") == "NUM"
    ]
    for measurement in finding.measurements:
        concept = (measurement.name.value, measurement.name.scheme)
        expected = (float(measurement.value), measurement.unit.value)
        if (concept, expected) not in numbers:
            yield wrong("PS3.16 TID 300", "lacks a measurement as the model gave it")
    certain = [number for number in numbers if number[0] == _pair(codes.CERTAINTY_OF_FINDING)]
    if bool(certain) != (finding.confidence.value is not None):
        yield wrong("P07", "does not carry a confidence exactly where the model defines one")
    if finding.segment is not None and segmentation is not None:
        if _segments(group, segmentation) != {finding.segment}:
            yield wrong("PS3.16 TID 1411", "refers to another segment")
    elif finding.region is not None:
        yield from _compare_region(group, finding, sources)


def _compare_codes(group: Dataset, finding: Finding) -> Iterator[GateFinding]:
    for name, code in ((codes.FINDING, finding.type), (codes.FINDING_CATEGORY, finding.category)):
        said = {code_of(item, "ConceptCodeSequence") for item in named(group, name)}
        if said != {(code.value, code.scheme)}:
            text = f"a finding's group has another {name.meaning} than the model gave"
            yield GateFinding("content", "PS3.16 TID 1501", text)


def _compare_plane(
    group: Dataset, finding: Finding, context: ProofContext
) -> Iterator[GateFinding]:
    # The outline of a segment on its largest slice: every corner touches a pixel of the segment,
    # and the area said is the one enclosed.
    yield from _compare_codes(group, finding)
    mask = segment_mask(context.answer, finding)
    places = {_place_of(source): index for index, source in enumerate(context.sources)}
    for item in named(group, codes.IMAGE_REGION, "SCOORD"):
        index = places.get(_image_of(item))
        corners = _points(item)
        if mask is None or index is None or corners.size == 0:
            yield _misplaced("an outline lies on no slice of its finding")
            continue
        columns, rows = np.clip(corners.astype(int), 0, np.array(mask.shape[:0:-1])).T
        padded = np.pad(mask[index], 1)
        touching = np.stack(
            [padded[rows + down, columns + right] for down in (0, 1) for right in (0, 1)]
        )
        if not touching.any(axis=0).all():
            yield _misplaced("an outline does not follow its finding")
        x, y = corners.T
        enclosed = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
        steps = context.volume.spacing[1:]
        if steps[0] is not None and steps[1] is not None:
            enclosed *= steps[0] * steps[1]
        said = [number_of(each) for each in named(group, codes.AREA, "NUM")]
        if len(said) != 1 or said[0] is None or abs(said[0][0] - enclosed) > 0.01 * enclosed:
            text = "the area of an outline is not the one that it encloses"
            yield GateFinding("content", "PS3.16 TID 1410", text)


def _misplaced(text: str) -> GateFinding:
    return GateFinding("coordinates", "PS3.3 C.18.6.1.2", text)


def _pair(code: Code) -> tuple[str, str]:
    return code.value, code.scheme_designator


def _segments(group: Dataset, segmentation: Dataset) -> set[int]:
    # PS3.3 C.18.4: a reference names segments, or frames that belong to one.
    frames = items_of(segmentation, "PerFrameFunctionalGroupsSequence")
    numbers = set()
    for name in (codes.REFERENCED_SEGMENT, codes.REFERENCED_SEGMENTATION_FRAME):
        for item in named(group, name, "IMAGE"):
            for reference in items_of(item, "ReferencedSOPSequence"):
                if reference.get("ReferencedSOPInstanceUID") != segmentation.SOPInstanceUID:
                    numbers.add(-1)
                elif "ReferencedSegmentNumber" in reference:
                    numbers.add(int(reference.ReferencedSegmentNumber))
                elif 1 <= int(reference.get("ReferencedFrameNumber") or 0) <= len(frames):
                    frame = frames[int(reference.ReferencedFrameNumber) - 1]
                    for each in items_of(frame, "SegmentIdentificationSequence"):
                        numbers.add(int(each.get("ReferencedSegmentNumber") or -1))
                else:
                    numbers.add(-1)
    return numbers


def _compare_region(
    group: Dataset, finding: Finding, sources: Sequence[Dataset]
) -> Iterator[GateFinding]:
    region = finding.region
    if region is None:
        return
    for item in named(group, codes.IMAGE_REGION, "SCOORD"):
        written = _points(item)
        # PS3.3 C.18.6.1.2: the centre of the first pixel is 0.5\0.5 and a closed line repeats its
        # first point.
        expected = np.vstack([region.points, region.points[:1]]) + 0.5
        if written.shape != expected.shape or np.abs(written - expected).max() > _POINT_TOLERANCE:
            yield _misplaced("a region does not lie where the model put it")
        if _image_of(item) != _place_of(sources[region.slice_index]):
            text = "a region lies on another image than the model said"
            yield GateFinding("coordinates", "PS3.3 C.18.6", text)
        return
    yield GateFinding("coordinates", "PS3.16 TID 1410", "a located finding has no region")


def _points(item: Dataset) -> NDArray[np.float64]:
    flat = np.array(item.get("GraphicData") or (), dtype=float)
    return flat.reshape(-1, 2) if flat.size % 2 == 0 else np.empty((0, 2))


def _place_of(source: Dataset) -> Place:
    return str(source.SOPInstanceUID), frame_number(source)


def _image_of(item: Dataset) -> Place:
    for child in children(item):
        for reference in items_of(child, "ReferencedSOPSequence"):
            frame = reference.get("ReferencedFrameNumber")
            number = int(frame) if isinstance(frame, int | str) else None
            return str(reference.get("ReferencedSOPInstanceUID")), number
    return "", None


def _check_coordinates(dataset: Dataset, sources: Sequence[Dataset]) -> Iterator[GateFinding]:
    sizes = {_place_of(each): (each.Columns, each.Rows) for each in sources}
    for item in walk(dataset):
        if item.get("ValueType") != "SCOORD":
            continue
        size, points = sizes.get(_image_of(item)), _points(item)
        if size is None or points.size == 0:
            text = "coordinates have no source image"
            yield GateFinding("coordinates", "PS3.3 C.18.6", text)
        elif np.any(points < 0) or np.any(points > size):
            yield _misplaced("coordinates lie outside their image")
