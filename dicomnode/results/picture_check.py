"""The part of the gate for what is made to be looked at: overlay, outlines, key images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ai.label_values import Mask
from ai.types import Answer, Finding
from dicomnode.frames import frame_number
from dicomnode.results import codes
from dicomnode.results.content import children, code_of, items_of
from dicomnode.results.drawing import draw_cut
from dicomnode.results.overlay import longest_side
from dicomnode.results.proof import GateFinding, ProofContext
from dicomnode.results.provenance import WARNING
from dicomnode.results.regions import MOST_OUTLINES, is_located, segment_mask
from dicomnode.results.rendering import layout

_Places = list[tuple[NDArray[np.float64], float]]
_NEAR: Final = 0.5  # pixels of the source that a border may be away from where the answer put it


Known = Mapping[tuple[str, str], Mapping[int | None, int]]
"""SOP instance and class UID → frame number, None for a single-frame image → slice from 0."""


def known_images(sources: Sequence[Dataset]) -> Known:
    """The images that references may lead to."""
    known: defaultdict[tuple[str, str], dict[int | None, int]] = defaultdict(dict)
    for index, each in enumerate(sources):
        instance = str(each.get("SOPInstanceUID")), str(each.get("SOPClassUID"))
        known[instance][frame_number(each)] = index
    return known


def source_indices(items: Sequence[Dataset], known: Known) -> tuple[list[int], list[GateFinding]]:
    """Which sources image references lead to, and what is wrong with the references.

    Args:
        items: Of a sequence of image references (PS3.3 Table 10-3).
        known: The sources.

    Returns:
        Slices by index, in the order of the references, and findings.
    """
    found, wrong = [], []
    for item in items:
        instance = item.get("ReferencedSOPInstanceUID"), item.get("ReferencedSOPClassUID")
        frames = known.get((str(instance[0]), str(instance[1])), {})
        numbers = item.get("ReferencedFrameNumber")
        # Without numbers the whole instance is meant.
        named = list(frames) if numbers is None else np.atleast_1d(numbers).tolist()
        if not named or not frames.keys() >= set(named):
            text = "an image reference leads to no source, or names it wrongly"
            wrong.append(GateFinding("reference", "PS3.3 10.3", text))
        else:
            found += [frames[number] for number in named]
    return found, wrong


def check_overlay(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    """Each frame shows its source, changed nowhere but where something was found.

    Args:
        dataset: The overlay of the bundle, read back.
        context: Answer, volume and sources.
    """
    if WARNING not in str(dataset.get("ImageComments") or ""):
        text = "the overlay does not say that it needs validation by a licensed professional"
        yield GateFinding("label", "P21", text)
    if list(dataset.get("ImageType") or ())[:2] != ["DERIVED", "SECONDARY"]:
        text = "the overlay is not marked as derived and secondary"
        yield GateFinding("label", "PS3.3 C.7.6.1.1.2", text)
    says_no = dataset.get("BurnedInAnnotation") == "NO"
    if says_no and any(each.get("BurnedInAnnotation") == "YES" for each in context.sources):
        text = "the overlay denies the burned-in annotation of its source"
        yield GateFinding("label", "PS3.3 C.7.6.1", text)
    known = known_images(context.sources)
    shown, wrong = source_indices(items_of(dataset, "SourceImageSequence"), known)
    yield from wrong
    if len(shown) != int(dataset.get("NumberOfFrames") or 0):
        yield GateFinding("reference", "PS3.3 C.7.6.1", "the overlay has not one source a frame")
        return
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns, 3)
    seen: set[int] = set()
    for frame, index in zip(frames, shown, strict=True):
        drawn, strays = _drawn_in(frame, index, context)
        seen |= drawn
        if strays:
            text = f"the frame of slice {index + 1} is changed where nothing was found"
            yield GateFinding("geometry", "P17", text)
    for number, finding in enumerate(context.answer.findings):
        if is_located(context.answer, finding) and number not in seen:
            yield GateFinding("geometry", "the answer", f"finding {number + 1} is not drawn")


def _drawn_in(frame: NDArray[np.uint8], index: int, context: ProofContext) -> tuple[set[int], bool]:
    # Which findings a frame shows, and whether it differs from its source elsewhere.
    volume, answer, model = context.volume, context.answer, context.provenance.model
    plain = draw_cut(volume, Answer(()), context.sources, index, longest=longest_side(volume)).plain
    rows, columns = plain.shape[:2]
    ((left, top),) = layout([(columns, rows)], answer, f"{model.name} {model.version}").corners
    changed = (frame[top : top + rows, left : left + columns] != plain).any(axis=-1)
    # Each pixel of the frame at the source's pixel under its centre.
    size = volume.voxels.shape[1:]
    down = ((np.arange(rows) + 0.5) * size[0] / rows).astype(int)
    across = ((np.arange(columns) + 0.5) * size[1] / columns).astype(int)
    reach = int(np.ceil(max(size[0] / rows, size[1] / columns, 1.0)))
    allowed = np.zeros(size, bool)
    drawn = set()
    for number, finding in enumerate(answer.findings):
        mask = _mask_on(answer, finding, index, size)
        if mask is None or not mask.any():
            continue
        mask = _grown(mask, reach)
        allowed |= mask
        if changed[mask[np.ix_(down, across)]].any():
            drawn.add(number)
    return drawn, bool((changed & ~allowed[np.ix_(down, across)]).any())


def _mask_on(answer: Answer, finding: Finding, index: int, size: tuple[int, ...]) -> Mask | None:
    # Of a polygon the box around it.
    if finding.region is not None:
        if finding.region.slice_index != index:
            return None
        mask = np.zeros(size, bool)
        left, top = np.floor(finding.region.points.min(axis=0)).astype(int).tolist()
        right, bottom = np.ceil(finding.region.points.max(axis=0)).astype(int).tolist()
        mask[max(top, 0) : bottom + 1, max(left, 0) : right + 1] = True
        return mask
    return segment_mask(answer, finding, index)


def _grown(mask: Mask, reach: int) -> Mask:
    for _ in range(reach):
        padded = np.pad(mask, 1)
        mask = np.logical_or.reduce(
            [
                padded[down : down + mask.shape[0], right : right + mask.shape[1]]
                for down in range(3)
                for right in range(3)
            ]
        )
    return mask


def check_presentation_state(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    """The graphics enclose what was found, on the images where it was found.

    Args:
        dataset: The presentation state of the bundle, read back.
        context: Answer, volume and sources.
    """
    known = known_images(context.sources)
    listed: list[int] = []
    for series in items_of(dataset, "ReferencedSeriesSequence"):
        found, wrong = source_indices(items_of(series, "ReferencedImageSequence"), known)
        listed += found
        yield from wrong
    if sorted(listed) != list(range(len(context.sources))):
        text = "the presentation state does not refer to each source once"
        yield GateFinding("reference", "PS3.3 C.11.11", text)
    drawn: defaultdict[tuple[str, int], _Places] = defaultdict(list)
    words = []
    for item in items_of(dataset, "GraphicAnnotationSequence"):
        places, wrong = source_indices(items_of(item, "ReferencedImageSequence"), known)
        yield from wrong
        words += [
            str(each.get("UnformattedTextValue")) for each in items_of(item, "TextObjectSequence")
        ]
        for graphic in items_of(item, "GraphicObjectSequence"):
            points = np.array(graphic.get("GraphicData") or (), np.float64).reshape(-1, 2)
            yield from _check_inside(points, context)
            for place in places:
                drawn[str(item.get("GraphicLayer")), place].append((points, _area(points)))
    if not any(text.startswith("AI, unverified") for text in words):
        text = "no text on the images says that the graphics are AI output"
        yield GateFinding("label", "P21", text)
    yield from _compare_graphics(drawn, context)


def _check_inside(points: NDArray[np.float64], context: ProofContext) -> Iterator[GateFinding]:
    rows, columns = context.volume.voxels.shape[1:]
    if len(points) < 2 or points.min() < 0 or (points.max(axis=0) > (columns, rows)).any():
        text = "a graphic has no points, or points outside its image"
        yield GateFinding("coordinates", "PS3.3 C.10.5.1.2", text)


def _area(points: NDArray[np.float64]) -> float:
    # Positive clockwise on the screen, so that holes count against what they lie in.
    after = np.roll(points, -1, axis=0)
    return float((points[:, 0] * after[:, 1] - points[:, 1] * after[:, 0]).sum() / 2)


def _compare_graphics(
    drawn: dict[tuple[str, int], _Places], context: ProofContext
) -> Iterator[GateFinding]:
    for number, finding in enumerate(context.answer.findings):
        for index in range(len(context.sources)):
            polygons = drawn.get((f"FINDING {number + 1}", index), [])
            if not _is_enclosed(context.answer, finding, index, polygons):
                text = f"the outline of finding {number + 1} is not where the answer put it"
                yield GateFinding("geometry", "PS3.3 C.10.5", text)
                break


def _is_enclosed(answer: Answer, finding: Finding, index: int, polygons: _Places) -> bool:
    if finding.region is not None:
        if finding.region.slice_index != index:
            return not polygons
        wanted = np.vstack([finding.region.points, finding.region.points[:1]]) + 0.5
        return len(polygons) == 1 and (
            polygons[0][0].shape == wanted.shape
            and float(np.abs(polygons[0][0] - wanted).max()) <= _NEAR
        )
    mask = segment_mask(answer, finding, index)
    if mask is None:
        return not polygons
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows) or not polygons:
        return not len(rows) and not polygons
    corners = np.vstack([points for points, _ in polygons])
    found = np.array([corners.min(axis=0), corners.max(axis=0)])
    box = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]])
    if len(polygons) >= MOST_OUTLINES:  # islands were left out: what is left must lie within
        return bool((found[0] >= box[0]).all() and (found[1] <= box[1]).all())
    area = sum(area for _, area in polygons)
    same_area = abs(area - np.count_nonzero(mask)) <= _NEAR
    return bool(same_area and np.allclose(found, box, atol=_NEAR))


def check_key_objects(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    """Every located finding is seen on a selected image, which the evidence lists.

    Args:
        dataset: The key object selection of the bundle, read back.
        context: Answer and sources.
    """
    title = (codes.OF_INTEREST.value, codes.OF_INTEREST.scheme_designator)
    if code_of(dataset, "ConceptNameCodeSequence") != title:
        yield GateFinding("template", "PS3.16 TID 2010", "the title is not Of Interest")
    items = children(dataset)
    if not any(WARNING in str(item.get("TextValue") or "") for item in items):
        text = "the selection does not say that it needs validation by a licensed professional"
        yield GateFinding("label", "P21", text)
    images = [
        reference
        for item in items
        if item.get("ValueType") == "IMAGE"
        for reference in items_of(item, "ReferencedSOPSequence")
    ]
    shown, wrong = source_indices(images, known_images(context.sources))
    yield from wrong
    listed = {
        str(reference.get("ReferencedSOPInstanceUID"))
        for study in items_of(dataset, "CurrentRequestedProcedureEvidenceSequence")
        for series in items_of(study, "ReferencedSeriesSequence")
        for reference in items_of(series, "ReferencedSOPSequence")
    }
    if {str(each.get("ReferencedSOPInstanceUID")) for each in images} != listed:
        text = "the selected images are not those of the evidence"
        yield GateFinding("reference", "PS3.3 C.17.6.2", text)
    size = context.volume.voxels.shape[1:]
    for number, finding in enumerate(context.answer.findings):
        masks = (_mask_on(context.answer, finding, index, size) for index in shown)
        seen = any(mask is not None and mask.any() for mask in masks)
        if is_located(context.answer, finding) and not seen:
            text = f"finding {number + 1} is on none of the selected images"
            yield GateFinding("content", "PS3.16 TID 2010", text)
