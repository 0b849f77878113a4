"""A printed report of an answer, and the DICOM object around it (PS3.3 A.45.1).

The pages are the same bytes for the same input. Fonts are embedded; what they have no letter for
is written in Latin letters, and the page says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

import reportlab
from anyascii import anyascii
from PIL import Image as Pictures
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Image, KeepTogether, Paragraph, SimpleDocTemplate, Spacer, Table

from ai.types import Answer, Finding, Volume
from dicomnode.results import codes
from dicomnode.results.assessment import confidence_said, extent_of, severity_of, summarize
from dicomnode.results.document import new_result, reference
from dicomnode.results.drawing import color_of
from dicomnode.results.provenance import WARNING, Provenance, code_item, plain
from dicomnode.results.rendering import annotated_picture
from dicomnode.results.subject import date_of, patient_names, stated

_FONTS: Final = {"Vera": "Vera.ttf", "VeraBd": "VeraBd.ttf"}
for _name, _file in _FONTS.items():
    _path = Path(reportlab.__file__).parent / "fonts" / _file
    pdfmetrics.registerFont(TTFont(_name, str(_path), asciiReadable=1))
pdfmetrics.registerFontFamily("Vera", normal="Vera", bold="VeraBd", italic="Vera")
_LETTERS: Final = frozenset(pdfmetrics.getFont("Vera").face.charToGlyph)

_BODY: Final = ParagraphStyle("body", fontName="Vera", fontSize=8.5, leading=11.5)
_HEAD: Final = ParagraphStyle("head", _BODY, fontName="VeraBd", fontSize=10, spaceBefore=8)
_TITLE: Final = ParagraphStyle("title", _BODY, fontName="VeraBd", fontSize=14, leading=20)
_FOOT: Final = ParagraphStyle("foot", _BODY, fontSize=7.5, leading=9.5, textColor=colors.darkred)
_MARGIN: Final = 18 * mm
_WIDTH: Final = A4[0] - 2 * _MARGIN
_TALLEST: Final = 150 * mm
_NOT_LATIN: Final = (
    "What these pages have no letters for is written in Latin letters; as it was received it "
    "stands in the attributes of the DICOM object."
)
# Of a finding without an extent, by whether it is one of the whole images.
_NOWHERE: Final = {True: "the images as a whole", False: "none: its segment is empty"}
_LONGEST: Final = 1500  # characters of one entry, which must fit on a page


def build_encapsulated_pdf(
    answer: Answer, volume: Volume, sources: Sequence[Dataset], provenance: Provenance
) -> Dataset:
    """The printed report as an encapsulated document (PS3.3 C.24).

    Args:
        answer: What the model said.
        volume: The primary input, ``(slices, rows, columns)``.
        sources: Header data sets, one a slice, in the volume's order.
        provenance: The job, node and model.

    Returns:
        A data set without file meta information, for Explicit VR Little Endian.
    """
    model = provenance.model
    result = new_result(
        sources, provenance, EncapsulatedPDFStorage, "pdf", f"{model.name} {model.version} report"
    )
    document = build_pdf(answer, volume, sources, provenance)
    result.ConversionType = "WSD"
    result.AcquisitionDateTime = ""
    result.BurnedInAnnotation = "YES"  # the pages name the patient
    result.RecognizableVisualFeatures = "NO"
    result.DocumentTitle = plain(f"AI findings of {model.name}, unverified", 64)
    result.ConceptNameCodeSequence = [code_item(codes.IMAGING_REPORT)]
    result.VerificationFlag = "UNVERIFIED"
    result.SourceInstanceSequence = [
        reference(each)
        for each in {
            str(each.SOPInstanceUID): each for each in (*sources, *provenance.others)
        }.values()
    ]
    result.MIMETypeOfEncapsulatedDocument = "application/pdf"
    result.EncapsulatedDocumentLength = len(document)
    result.add_new("EncapsulatedDocument", "OB", document + b"\0" * (len(document) % 2))
    return result


def build_pdf(
    answer: Answer, volume: Volume, sources: Sequence[Dataset], provenance: Provenance
) -> bytes:
    """The pages; arguments as `build_encapsulated_pdf`.

    Returns:
        A PDF whose every page ends with the warning that AI output needs validation.
    """
    buffer = BytesIO()
    writer = _Writer()
    flowables = list(_pages(writer, answer, volume, sources, provenance))
    document = SimpleDocTemplate(
        buffer,
        pagesize=A4,
        leftMargin=_MARGIN,
        rightMargin=_MARGIN,
        topMargin=_MARGIN,
        bottomMargin=_MARGIN + 10 * mm,
        title="AI findings, unverified",
        author=plain(f"{provenance.model.name} {provenance.model.version}"),
        invariant=1,
        pageCompression=0,  # so that the warning can be found on the pages by whoever checks them
    )
    document.build(flowables, onFirstPage=_foot, onLaterPages=_foot)
    return buffer.getvalue()


def _foot(canvas: Canvas, document: Any) -> None:
    canvas.saveState()
    canvas.setFont(_FOOT.fontName, _FOOT.fontSize)
    canvas.setFillColor(_FOOT.textColor)
    canvas.drawString(_MARGIN, _MARGIN, WARNING)
    canvas.drawRightString(A4[0] - _MARGIN, _MARGIN - 10, f"page {document.page}")
    canvas.restoreState()


class _Writer:
    """Text as the fonts can show it; remembers whether anything had to be changed."""

    def __init__(self) -> None:
        self.changed = False

    def text(self, words: str) -> str:
        kept = words[:_LONGEST]
        if not all(ord(mark) in _LETTERS for mark in kept):
            self.changed = True
            kept = "".join(mark if ord(mark) in _LETTERS else anyascii(mark) for mark in kept)
        return escape("".join(mark if mark.isprintable() else " " for mark in kept))

    def line(self, words: str, style: ParagraphStyle = _BODY) -> Paragraph:
        return Paragraph(self.text(words) or "-", style)

    def table(self, rows: Sequence[tuple[str, str]]) -> Table:
        cells = [[self.line(name), self.line(value)] for name, value in rows]
        return Table(
            cells,
            colWidths=(40 * mm, _WIDTH - 40 * mm),
            style=[
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 1),
                ("TOPPADDING", (0, 0), (-1, -1), 1),
            ],
        )


def _pages(
    writer: _Writer,
    answer: Answer,
    volume: Volume,
    sources: Sequence[Dataset],
    provenance: Provenance,
) -> list[Any]:
    summary = summarize(answer, provenance)
    write = writer.line
    flowables = [
        write("AI findings, unverified", _TITLE),
        writer.table(_about(sources[0], len(sources), provenance)),
        write("Overall assessment", _HEAD),
        write(summary.overall),
        write("Recommendations", _HEAD),
        *(write(f"- {each}") for each in summary.recommendations),
        write("Findings", _HEAD),
    ]
    for number, finding in enumerate(answer.findings):
        flowables += [
            _finding_head(writer, answer, number),
            writer.table(list(_finding_rows(answer, finding))),
        ]
    if not answer.findings:
        flowables.append(write("None."))
    picture = _picture(answer, volume, sources, provenance)
    flowables.append(KeepTogether([write("Images", _HEAD), Spacer(1, 2 * mm), picture]))
    if writer.changed:
        flowables += [Spacer(1, 3 * mm), write(_NOT_LATIN)]
    return flowables


def _about(source: Dataset, images: int, provenance: Provenance) -> list[tuple[str, str]]:
    model, said = provenance.model, partial(stated, source)
    names = [name.replace("^", " ").strip() for name in patient_names(source)]
    return [
        ("Patient", " = ".join(names)),
        ("Patient ID", said("PatientID")),
        ("Born, sex", f"{date_of(source, 'PatientBirthDate') or '-'}, {said('PatientSex') or '-'}"),
        ("Study", f"{date_of(source, 'StudyDate')} {said('StudyDescription')}".strip()),
        ("Accession number", said("AccessionNumber")),
        ("Modality", f"{said('Modality')}, {images} image{'s' if images > 1 else ''}"),
        ("Model", f"{model.name} {model.version} by {model.vendor}"),
        ("What it is", f"{model.description} Basis: {model.basis}."),
        ("Intended use", model.intended_use),
        ("SHA-256 of the model", model.digest),
        ("Made", f"{provenance.created:%Y-%m-%d %H:%M %z} by node {provenance.ae_title}"),
    ]


def _finding_head(writer: _Writer, answer: Answer, number: int) -> Paragraph:
    finding = answer.findings[number]
    red, green, blue = color_of(answer, number)
    square = f'<font color="#{red:02x}{green:02x}{blue:02x}" name="VeraBd">&#8226;</font>'
    name = writer.text(f"{number + 1}. {finding.name}: {finding.type.meaning}")
    return Paragraph(f"{square} <b>{name}</b>", _BODY)


def _finding_rows(answer: Answer, finding: Finding) -> list[tuple[str, str]]:
    extent = extent_of(answer, finding)
    coded = f"{finding.type.value} ({finding.type.scheme}), category {finding.category.meaning}"
    rows = [
        ("Said", finding.description),
        ("Code", coded),
        ("Confidence", confidence_said(finding.confidence)),
        ("Severity", severity_of(finding)),
        ("Region", _NOWHERE[finding.segment is None] if extent is None else str(extent)),
    ]
    if finding.site is not None:
        side = "" if finding.laterality is None else f", {finding.laterality.meaning}"
        rows.append(("Site", f"{finding.site.meaning}{side}"))
    for each in finding.measurements:
        derived = "" if each.derivation is None else f", {each.derivation.meaning}"
        rows.append((f"{each.name.meaning}{derived}", f"{each.value:.6g} {each.unit.value}"))
    for entry in finding.evaluations:
        said = f"{entry.value.meaning} (confidence: {confidence_said(entry.confidence)})"
        rows.append((entry.name.meaning, said))
    if finding.needs_review:
        rows.append(("Review", finding.review_reason))
    return rows


def _picture(
    answer: Answer, volume: Volume, sources: Sequence[Dataset], provenance: Provenance
) -> Image:
    model = provenance.model
    data = annotated_picture(volume, answer, sources, f"{model.name} {model.version}", "JPEG")
    with Pictures.open(BytesIO(data)) as picture:
        width, height = picture.size
    scale = min(_WIDTH / width, _TALLEST / height)
    return Image(BytesIO(data), width * scale, height * scale)
