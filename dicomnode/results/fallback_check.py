"""The part of the gate for reports in their fall-back forms."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from dicomnode.results import codes
from dicomnode.results.content import items_of, named, walk
from dicomnode.results.proof import GateFinding, ProofContext
from dicomnode.results.provenance import plain


def check_stands_in(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    """A fall-back form says that it is one.

    Args:
        dataset: A report, read back.
        context: Its bundle.
    """
    texts = [str(item.get("TextValue", "")) for item in walk(dataset)]
    if not any("fall-back form" in text for text in texts):
        yield GateFinding("label", "its form", "the report does not say that it is a fall-back")


def compare_basic(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    """A Basic Text SR holds every finding, in the answer's order, with its numbers.

    Args:
        dataset: The report, read back.
        context: With the answer.
    """
    templates = [
        item.get("TemplateIdentifier") for item in items_of(dataset, "ContentTemplateSequence")
    ]
    if "2000" not in templates:
        yield GateFinding("template", "PS3.16 TID 2000", "the root does not name template 2000")
    texts = [
        str(item.get("TextValue", ""))
        for section in named(dataset, codes.FINDINGS, "CONTAINER")
        for item in named(section, codes.FINDING, "TEXT")
    ]
    findings = context.answer.findings
    if len(texts) != max(1, len(findings)):
        text = f"{len(texts)} sentences for {len(findings)} findings"
        yield GateFinding("content", "PS3.16 TID 2000", text)
        return
    for finding, text in zip(findings, texts, strict=False):
        wanted = [finding.name, finding.type.meaning, finding.category.meaning]
        wanted += [f"{each.value:.6g} {each.unit.value}" for each in finding.measurements]
        wanted += [each.value.meaning for each in finding.evaluations]
        if not all(plain(part) in text for part in wanted):
            said = "the words for a finding lack something that the model said of it"
            yield GateFinding("content", "PS3.16 TID 2000", said)
    for section in (codes.IMPRESSIONS, codes.RECOMMENDATIONS):
        if not named(dataset, section, "CONTAINER"):
            said = f"the report has no section {section.meaning}"
            yield GateFinding("template", "PS3.16 TID 2000", said)
