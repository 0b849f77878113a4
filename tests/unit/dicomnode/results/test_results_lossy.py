"""What results say of a loss of their sources, by the gate and by a look at the file alone."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from dicomnode.results.bundle import Sources, build_bundle
from dicomnode.results.document import LOSS
from dicomnode.results.gate import inspect, prove
from dicomnode.results.write import to_bytes
from tests.unit.dicomnode.results.cases import (
    Case,
    ct_case,
    with_others,
    with_probabilities,
    with_saliency,
)

IMAGES = ("seg", "labelmap", "fractional", "saliency", "overlay")
RATIO, METHOD = LOSS


def stating(ratio: str | None, method: str | None) -> Case:
    """A CT one image of which was compressed with loss, and says so much of it."""
    case = with_saliency(with_probabilities(ct_case()))
    source = case.sources[2]
    source.LossyImageCompression = "01"
    for keyword, value in ((RATIO, ratio), (METHOD, method)):
        if value is not None:
            setattr(source, keyword, value)
    return case


def compressed() -> Case:
    """A CT of files in JPEG baseline that say nothing of it."""
    case = with_saliency(with_probabilities(ct_case()))
    for source in case.sources:
        source.file_meta = FileMetaDataset()
        source.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return case


def beside() -> Case:
    """A CT without loss, beside a series that lost something."""
    case = with_others(with_saliency(with_probabilities(ct_case())))
    first, *rest = case.provenance.others
    first.LossyImageCompression = "01"
    first.LossyImageCompressionMethod = "ISO_15444_1"
    return replace(case, provenance=replace(case.provenance, others=(first, *rest)))


CASES = {
    "ratio and method": (lambda: stating("12.5", "ISO_10918_1"), "12.5", "ISO_10918_1"),
    "ratio alone": (lambda: stating("12.5", None), "12.5", None),
    "nothing but the flag": (lambda: stating(None, None), None, None),
    "transfer syntax": (compressed, None, "ISO_10918_1"),
    "another input": (beside, None, "ISO_15444_1"),
}


def made(case: Case) -> dict[str, Dataset]:
    sources = Sources(case.answer, case.volume, case.sources, case.provenance)
    return build_bundle(IMAGES, sources)  # type: ignore[return-value]


def proved(case: Case, files: dict[str, bytes]) -> set[str]:
    found = prove(files, case.answer, case.volume, case.sources, case.provenance)
    return {each.text for each in found}


@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_passed_on_as_far_as_it_is_known(name, tmp_path):
    make, ratio, method = CASES[name]
    case = make()
    files = {kind: to_bytes(each) for kind, each in made(case).items()}
    assert set(files) == set(IMAGES)
    for kind, data in files.items():
        written = dcmread(BytesIO(data))
        assert written.LossyImageCompression == "01"
        assert (str(written.get(RATIO, "")) or None) == ratio
        assert written.get(METHOD) == method
        (tmp_path / kind).write_bytes(data)
        assert [str(each) for each in inspect(tmp_path / kind).findings] == []
    assert proved(case, files) == set()


@pytest.mark.parametrize("keyword", LOSS)
@pytest.mark.parametrize("kind", IMAGES)
def test_what_the_source_states_must_be_there(kind, keyword):
    case = stating("12.5", "ISO_10918_1")
    results = made(case)
    for value in (None, "8" if keyword == RATIO else "ISO_14495_1"):
        results[kind].pop(keyword, None)
        if value is not None:
            setattr(results[kind], keyword, value)
        files = {kind: to_bytes(results[kind])}
        assert f"{kind}: {keyword} is not a source's" in proved(case, files)


def test_a_flag_denied_is_named_where_the_transfer_syntax_tells_of_the_loss():
    case = compressed()
    result = made(case)["seg"]
    result.LossyImageCompression = "00"
    text = "seg: LossyImageCompression does not say what was done to the source"
    assert text in proved(case, {"seg": to_bytes(result)})


@pytest.mark.parametrize("keyword", ["LossyImageCompression", *LOSS])
def test_a_segmentation_that_was_itself_compressed_must_say_how(keyword, tmp_path):
    result = made(stating("12.5", "ISO_10918_1"))["fractional"]
    path = tmp_path / "seg.dcm"
    dataset = dcmread(BytesIO(to_bytes(result)))
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    if keyword == "LossyImageCompression":
        dataset.LossyImageCompression = "00"
    else:
        delattr(dataset, keyword)
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    assert any(keyword in each.text for each in inspect(path).findings)
