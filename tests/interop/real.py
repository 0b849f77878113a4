"""Studies for tests with programs of other makers: the node's samples, and images of real people.

The real ones come out of public packages when a test runs and are not part of this repository:

- the head CT of Debian's ``invesalius-examples`` (108 × 256², HU; GPL-2),
- the T1 head of Debian's ``mricron-data`` (181 × 217 × 181, 1 mm; BSD),
- radiographs and an ultrasound image of ``pydicom-data``.
"""

from __future__ import annotations

import gzip
import plistlib
import shutil
import tarfile
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

CRANIUM = Path("/usr/share/doc/invesalius-examples/examples/Cranium.inv3")
T1_HEAD = Path("/usr/share/mricron/templates/ch2.nii.gz")
T1_BRAIN = Path("/usr/share/mricron/templates/ch2bet.nii.gz")


def head_ct(folder: Path) -> list[Path]:
    """A real head CT as a DICOM series, 108 axial images."""
    with tarfile.open(CRANIUM) as project:
        members = {Path(member.name).name: member for member in project.getmembers()}
        main = project.extractfile(members["main.plist"])
        matrix = project.extractfile(members["matrix.dat"])
        assert main is not None
        assert matrix is not None
        facts = plistlib.loads(main.read())
        hu = np.frombuffer(matrix.read(), "<i2").reshape(facts["matrix"]["shape"])
    # InVesalius keeps images with their last row first.
    across, down, step = facts["spacing"]
    return _write_series(
        folder, "CT", CTImageStorage, hu[:, ::-1, :], (step, down, across), add_facts=_ct_facts
    )


def head_mr(folder: Path) -> list[Path]:
    """A real T1 head as a DICOM series, 181 axial images."""
    voxels = _nifti(T1_HEAD)
    return _write_series(
        folder,
        "MR",
        MRImageStorage,
        voxels.astype("<i2"),
        (1, 1, 1),
        add_facts=_mr_facts,
    )


def brain_mask() -> NDArray[np.bool_]:
    """Which voxels of `head_mr` its publishers hold for brain, ``(181, 217, 181)``."""
    return _nifti(T1_BRAIN) > 0


def _nifti(path: Path) -> NDArray[np.uint8]:
    with gzip.open(path) as file:
        nifti = file.read()
    columns, rows, slices = np.frombuffer(nifti[42:48], "<i2")
    voxels = np.frombuffer(nifti[352:], np.uint8).reshape(slices, rows, columns)
    # NIfTI counts to the right and to the front.
    return voxels[:, ::-1, ::-1]


def of_pydicom_data(folder: Path, *names: str) -> list[Path]:
    """Copies of files of ``pydicom-data``."""
    folder.mkdir(parents=True, exist_ok=True)
    data = resources.files("data_store") / "data"
    paths = []
    for name in names:
        with resources.as_file(data / name) as source:
            paths.append(Path(shutil.copy(source, folder / name)))
    return paths


def split(paths: Sequence[Path], folder: Path, parts: int) -> list[Path]:
    """Deal files out to as many folders, every so many-th to the same one."""
    folders = [folder / f"part{number}" for number in range(parts)]
    for number, part in enumerate(folders):
        part.mkdir(parents=True)
        for path in paths[number::parts]:
            shutil.copy(path, part / path.name)
    return folders


def _write_series(
    folder: Path,
    modality: str,
    sop_class_uid: str,
    voxels: NDArray[np.int16],
    spacing: tuple[float, float, float],
    *,
    add_facts: Callable[[Dataset], None],
) -> list[Path]:
    # Slices from the feet, rows to the back, columns to the left (LPS).
    folder.mkdir(parents=True, exist_ok=True)
    slices, rows, columns = voxels.shape
    step, down, across = spacing
    paths = []
    for number in range(slices):
        image = _image(modality, sop_class_uid, number + 1)
        image.Rows, image.Columns = rows, columns
        image.PixelSpacing = [f"{down:.7g}", f"{across:.7g}"]
        image.SliceThickness = f"{step:.7g}"
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.ImagePositionPatient = [
            f"{each:.7g}" for each in (-across * columns / 2, -down * rows / 2, step * number)
        ]
        add_facts(image)
        image.PixelData = np.ascontiguousarray(voxels[number], "<i2").tobytes()
        image["PixelData"].VR = "OW"
        path = folder / f"{modality}{number:03}.dcm"
        image.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _image(modality: str, sop_class_uid: str, number: int) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = sop_class_uid
    image.SOPInstanceUID = _uid(modality, "image", str(number))
    image.StudyInstanceUID = _uid(modality, "study")
    image.SeriesInstanceUID = _uid(modality, "series")
    image.FrameOfReferenceUID = _uid(modality, "frame of reference")
    image.PositionReferenceIndicator = ""
    image.Modality = modality
    image.PatientName, image.PatientID = f"Real^Head{modality}", f"HEAD-{modality}"
    image.PatientBirthDate, image.PatientSex = "", "O"
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = "20260106"
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = "090000"
    image.AccessionNumber, image.StudyID, image.ReferringPhysicianName = "", "1", ""
    image.Manufacturer = ""
    image.BodyPartExamined, image.PatientPosition = "HEAD", "HFS"
    image.SeriesNumber, image.AcquisitionNumber, image.InstanceNumber = 1, 1, number
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.PixelRepresentation = 1
    return image


def _ct_facts(image: Dataset) -> None:
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = 0, 1, "HU"
    image.KVP = ""
    image.WindowCenter, image.WindowWidth = 40, 400


def _mr_facts(image: Dataset) -> None:
    image.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    image.ScanningSequence, image.SequenceVariant = "GR", "NONE"
    image.ScanOptions, image.MRAcquisitionType = "", "3D"
    image.EchoTime, image.EchoTrainLength, image.RepetitionTime = "", "", ""
    image.WindowCenter, image.WindowWidth = 80, 160


def _uid(*parts: str) -> str:
    return generate_uid(entropy_srcs=["real head", *parts])
