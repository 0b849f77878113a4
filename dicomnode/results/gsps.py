"""Findings as graphics over the source images: a softcopy presentation state (PS3.3 A.33).

Grayscale Softcopy Presentation State for grey images, Color for those in colour. Each finding has a
graphic layer of its own, so that a reader can switch it off; the source stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Final

import numpy as np
from highdicom.color import CIELabColor
from PIL import ImageCms
from pydicom.dataset import Dataset
from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    GrayscaleSoftcopyPresentationStateStorage,
)

from ai.types import Answer, Volume
from dicomnode.results.document import (
    add_body_part,
    image_reference,
    image_references,
    new_result,
    referenced_series,
)
from dicomnode.results.drawing import color_of, strength_of
from dicomnode.results.multiframe import pixel_spacing
from dicomnode.results.provenance import Provenance, plain
from dicomnode.results.regions import Points, outlines, slices_with_findings
from dicomnode.results.voi import Table, Voi, Window, voi_of

_NOTICE_LAYER: Final = "AI NOTICE"
_AMBER: Final = (255, 190, 60)
_BRIGHTEST: Final = 0xFFFF
_MODALITY_LUT: Final = ("RescaleIntercept", "RescaleSlope", "RescaleType")


def is_possible(sources: Sequence[Dataset]) -> bool:
    """Whether one presentation state can show the sources: their modality LUT is the same.

    PS3.3 C.11.1: a presentation state has one modality LUT, for all images it refers to.
    """
    return len({_modality_lut(source) for source in sources}) == 1


def build_presentation_state(
    answer: Answer, volume: Volume, sources: Sequence[Dataset], provenance: Provenance
) -> Dataset:
    """The outlines of what was found, with window, layers and a notice.

    Args:
        answer: What the model said; without a located finding only window and notice are there.
        volume: The primary input, ``(slices, rows, columns)``.
        sources: Header data sets, one a slice, in the volume's order.
        provenance: The job, node and model.

    Returns:
        A data set without file meta information, for Explicit VR Little Endian.

    Raises:
        ValueError: Sources and volume disagree, or the sources differ in their modality LUT.
    """
    if len(sources) != volume.voxels.shape[0]:
        raise ValueError(f"{len(sources)} sources for {volume.voxels.shape[0]} slices")
    if not is_possible(sources):
        raise ValueError("the sources differ in their modality LUT")
    first, model = sources[0], provenance.model
    result = new_result(
        sources,
        provenance,
        ColorSoftcopyPresentationStateStorage
        if volume.colour
        else GrayscaleSoftcopyPresentationStateStorage,
        "gsps",
        f"{model.name} {model.version} outlines",
    )
    add_body_part(result, first)
    result.PresentationCreationDate = result.ContentDate
    result.PresentationCreationTime = result.ContentTime
    del result.ContentDate, result.ContentTime  # the creation stands for them (PS3.3 C.11.10)
    result.ContentLabel = "AI FINDINGS"
    result.ContentDescription = plain(f"AI output of {model.name}, unverified", 64)
    result.ContentCreatorName = ""
    result.ReferencedSeriesSequence = _referenced(sources)
    result.DisplayedAreaSelectionSequence = [_displayed_area(first)]
    result.GraphicAnnotationSequence = [
        _notice(provenance),
        *_annotations(answer, sources),
    ]
    result.GraphicLayerSequence = _layers(answer)
    if volume.colour:
        result.ICCProfile = _srgb()
    else:
        _add_grey_pipeline(result, volume, sources)
    return result


def _modality_lut(source: Dataset) -> Hashable:
    table = source.get("ModalityLUTSequence")
    numbers = tuple(str(source.get(keyword) or "") for keyword in _MODALITY_LUT)
    return numbers, str(table[0].to_json_dict()) if table else ""


def _add_grey_pipeline(result: Dataset, volume: Volume, sources: Sequence[Dataset]) -> None:
    # PS3.3 C.11.1, C.11.8, C.11.6. The photometric interpretation of the images does not count
    # here, so what MONOCHROME1 means is said by the presentation LUT.
    first = sources[0]
    if first.get("ModalityLUTSequence"):
        result.ModalityLUTSequence = first.ModalityLUTSequence
    elif first.get("RescaleSlope") is not None:
        result.RescaleIntercept = first.get("RescaleIntercept") or "0"
        result.RescaleSlope = first.RescaleSlope
        result.RescaleType = first.get("RescaleType") or "US"
    wanted: dict[Voi, list[Dataset]] = {}
    for source in sources:
        wanted.setdefault(voi_of(source, volume), []).append(source)
    result.SoftcopyVOILUTSequence = [
        _softcopy_voi(voi, images if len(wanted) > 1 else ()) for voi, images in wanted.items()
    ]
    result.PresentationLUTShape = "INVERSE" if volume.lowest_is_white else "IDENTITY"


def _softcopy_voi(voi: Voi, images: Sequence[Dataset]) -> Dataset:
    item = Dataset()
    if images:
        item.ReferencedImageSequence = image_references(images)
    _WRITTEN[type(voi)](item, voi)
    return item


def _write_window(item: Dataset, window: Window) -> None:
    item.WindowCenter = f"{window.centre:.10g}"
    item.WindowWidth = f"{window.width:.10g}"
    if window.function != "LINEAR":
        item.VOILUTFunction = window.function


def _write_table(item: Dataset, table: Table) -> None:
    entries = np.frombuffer(table.entries, "<u2")
    lut = Dataset()
    signed = "SS" if table.first < 0 else "US"
    lut.add_new("LUTDescriptor", signed, [len(entries) % (1 << 16), table.first, table.bits])
    if table.explanation:
        lut.LUTExplanation = plain(table.explanation, 64)
    lut.add_new("LUTData", "OW", table.entries)
    item.VOILUTSequence = [lut]


_WRITTEN: Final[dict[type, Callable[..., None]]] = {Window: _write_window, Table: _write_table}


def _referenced(sources: Sequence[Dataset]) -> list[Dataset]:
    # PS3.3 C.11.11: here images are referred to with the frames that are meant.
    items = referenced_series(sources, "ReferencedImageSequence")
    by_series: dict[str, list[Dataset]] = {}
    for source in sources:
        by_series.setdefault(str(source.SeriesInstanceUID), []).append(source)
    for item in items:
        item.ReferencedImageSequence = image_references(by_series[str(item.SeriesInstanceUID)])
    return items


def _displayed_area(source: Dataset) -> Dataset:
    # PS3.3 C.10.4: the whole image, fitted to the screen, square in millimetres.
    item = Dataset()
    item.DisplayedAreaTopLeftHandCorner = [1, 1]
    item.DisplayedAreaBottomRightHandCorner = [int(source.Columns), int(source.Rows)]
    item.PresentationSizeMode = "SCALE TO FIT"
    spacing = pixel_spacing(source, "PixelSpacing", "ImagerPixelSpacing")
    if spacing:
        item.PresentationPixelSpacing = spacing
    else:
        item.PresentationPixelAspectRatio = source.get("PixelAspectRatio") or [1, 1]
    return item


def _notice(provenance: Provenance) -> Dataset:
    # Without a reference to images it counts for all of them (PS3.3 C.10.5).
    text = Dataset()
    text.BoundingBoxAnnotationUnits = "DISPLAY"
    text.BoundingBoxTopLeftHandCorner = [0.01, 0.01]
    text.BoundingBoxBottomRightHandCorner = [0.6, 0.06]
    text.BoundingBoxTextHorizontalJustification = "LEFT"
    model = provenance.model
    text.UnformattedTextValue = plain(f"AI, unverified: {model.name} {model.version}", 1024)
    item = Dataset()
    item.GraphicLayer = _NOTICE_LAYER
    item.TextObjectSequence = [text]
    return item


def _annotations(answer: Answer, sources: Sequence[Dataset]) -> Iterator[Dataset]:
    for index in slices_with_findings(answer):
        drawn: dict[int, list[Points]] = {}
        for number, points in outlines(answer, index):
            drawn.setdefault(number, []).append(points)
        for number, polygons in drawn.items():
            item = Dataset()
            item.ReferencedImageSequence = [image_reference(sources[index])]
            item.GraphicLayer = _layer_name(number)
            item.GraphicObjectSequence = [_polyline(points) for points in polygons]
            item.TextObjectSequence = [_label(answer, number, polygons[0])]
            yield item


def _polyline(points: Points) -> Dataset:
    # PS3.3 C.10.5.1.2: 0\0 is the corner of the first pixel; a closed figure repeats its first
    # point.
    closed = np.vstack([points, points[:1]])
    item = Dataset()
    item.GraphicAnnotationUnits = "PIXEL"
    item.GraphicDimensions = 2
    item.NumberOfGraphicPoints = len(closed)
    item.GraphicData = closed.astype(np.float32).ravel().tolist()
    item.GraphicType = "POLYLINE"
    item.GraphicFilled = "N"
    return item


def _label(answer: Answer, number: int, points: Points) -> Dataset:
    finding = answer.findings[number]
    sure = finding.confidence.value
    item = Dataset()
    item.AnchorPointAnnotationUnits = "PIXEL"
    item.AnchorPoint = points[int(np.argmin(points.sum(axis=1)))].astype(np.float32).tolist()
    item.AnchorPointVisibility = "N"
    words = finding.name if sure is None else f"{finding.name} {100 * sure:.0f} %"
    item.UnformattedTextValue = plain(words, 1024) or "-"
    return item


def _layer_name(number: int) -> str:
    return f"FINDING {number + 1}"


def _layers(answer: Answer) -> list[Dataset]:
    # PS3.3 C.10.7: the higher the order the later it is drawn; the most significant lies on top.
    count = len(answer.findings)
    layers = [
        _layer(
            _layer_name(number),
            order=count - number,
            color=color_of(answer, number),
            brightness=strength_of(finding) + 0.4,
            description=finding.description,
        )
        for number, finding in enumerate(answer.findings)
    ]
    notice = _layer(
        _NOTICE_LAYER,
        order=count + 1,
        color=_AMBER,
        brightness=1.0,
        description="These graphics are the output of software and need validation",
    )
    return [*layers, notice]


def _layer(
    name: str, *, order: int, color: tuple[int, int, int], brightness: float, description: str
) -> Dataset:
    item = Dataset()
    item.GraphicLayer = name
    item.GraphicLayerOrder = order
    item.GraphicLayerRecommendedDisplayGrayscaleValue = round(_BRIGHTEST * min(1.0, brightness))
    item.GraphicLayerRecommendedDisplayCIELabValue = list(CIELabColor.from_rgb(*color).value)
    item.GraphicLayerDescription = plain(description, 64) or "-"
    return item


def _srgb() -> bytes:
    # PS3.3 C.11.15. The library writes the moment into the header (ICC.1, 7.2.8); a result must
    # be the same each time.
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)
    return bytes(profile)
