"""The part of the gate for printed reports: what the pages of an encapsulated PDF say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pydicom.dataset import Dataset

from dicomnode.results.assessment import confidence_said
from dicomnode.results.content import items_of
from dicomnode.results.picture_check import known_images, source_indices
from dicomnode.results.proof import GateFinding, ProofContext
from dicomnode.results.provenance import WARNING

# ISO 32000-1: 7.3.4.2 literal strings, 9.4.3 the operator that shows one, 7.7.3.3 page objects.
_SHOWN: Final = re.compile(rb"\(((?:[^()\\]|\\.)*)\) Tj")
_PAGE: Final = re.compile(rb"/Type /Page\b")
_ESCAPED: Final = re.compile(r"\\([()\\])")


def words_on_pages(document: bytes) -> tuple[str, int]:
    """What a PDF of this node says in letters of ASCII, and how many pages it has.

    Args:
        document: Its page contents are not compressed; other letters come out as something else.
    """
    shown = " ".join(each.decode("latin-1") for each in _SHOWN.findall(document))
    return " ".join(_ESCAPED.sub(r"\1", shown).split()), len(_PAGE.findall(document))


def check_pages(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    """Every page warns; model, findings and confidences stand on the pages.

    Args:
        dataset: The encapsulated PDF of the bundle, read back.
        context: Answer, sources and job.
    """
    if dataset.get("VerificationFlag") != "UNVERIFIED":
        text = "the document is not marked UNVERIFIED"
        yield GateFinding("label", "PS3.3 C.24.2", text)
    referred = items_of(dataset, "SourceInstanceSequence")
    known = known_images((*context.sources, *context.provenance.others))
    _, wrong = source_indices(referred, known)
    yield from wrong
    length = int(dataset.get("EncapsulatedDocumentLength") or 0)
    document = bytes(dataset.get("EncapsulatedDocument") or b"")
    if not document.startswith(b"%PDF-") or not document[:length].rstrip().endswith(b"%%EOF"):
        yield GateFinding("structure", "PS3.3 C.24.2", "the encapsulated document is no whole PDF")
        return
    words, pages = words_on_pages(document)
    if not 0 < words.count(WARNING) == pages:
        text = "a page does not say that it needs validation by a licensed professional"
        yield GateFinding("label", "P21", text)
    model = context.provenance.model
    wanted = [f"{model.name} {model.version}", model.digest]
    for number, finding in enumerate(context.answer.findings):
        wanted += [f"{number + 1}. {finding.name}:", confidence_said(finding.confidence)]
    said = words.replace(" ", "")
    for text in wanted:
        if text.isascii() and "".join(text.split()) not in said:
            yield GateFinding("content", "P20", "the pages leave out a model or finding")
            return
