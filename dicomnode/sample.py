"""The sample studies of the demo: synthetic, deterministic, of no real person.

A chest-like phantom: a body with a layer of fat, two lungs of different size with a ball in the
upper one of the left, a spine with a canal, ribs and an air-filled tube. Left and right, front and
back, head and feet all differ, so that a result that is mirrored or shifted is seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

SLICES, ROWS, COLUMNS = 48, 256, 256
PIXEL_MM, STEP_MM = 1.5, 5.0
_AIR, _LUNG, _FAT, _SOFT, _BONE = -1000, -840, -95, 45, 450
_ENTROPY = "medai-node sample study"


def thorax_phantom() -> NDArray[np.int16]:
    """The phantom in HU, ``(slices, rows, columns)``, feet first, rows to the back."""
    z, y, x = np.meshgrid(
        (np.arange(SLICES) - SLICES / 2) * STEP_MM,
        (np.arange(ROWS) - ROWS / 2) * PIXEL_MM,
        (np.arange(COLUMNS) - COLUMNS / 2) * PIXEL_MM,
        indexing="ij",
        sparse=True,
    )
    taper = 1.0 - 0.12 * (z / 120.0)
    body = (x / (165 * taper)) ** 2 + (y / (110 * taper)) ** 2
    hu = np.full((SLICES, ROWS, COLUMNS), _AIR, np.float32)
    hu[body < 1.0] = _FAT
    inner = (x / (152 * taper)) ** 2 + (y / (97 * taper)) ** 2
    hu[inner < 1.0] = _SOFT
    ribs = (inner > 0.84) & (inner < 0.97) & ((z + 0.4 * y) % 28 < 9)
    hu[ribs & np.ones_like(hu, bool)] = _BONE
    # x grows to the patient's left: the left lung is the larger one here.
    left = ((x - 76) / 60) ** 2 + ((y + 6) / 68) ** 2 + ((z - 2) / 108) ** 2 < 1
    right = ((x + 78) / 50) ** 2 + ((y + 2) / 62) ** 2 + ((z - 12) / 88) ** 2 < 1
    hu[left | right] = _LUNG
    ball = (x - 84) ** 2 + (y + 18) ** 2 + (z - 52) ** 2 < 15**2
    hu[ball] = _SOFT
    heart = ((x - 22) / 44) ** 2 + ((y + 28) / 40) ** 2 + ((z + 28) / 52) ** 2 < 1
    hu[heart] = _SOFT
    tube = (x / 9) ** 2 + ((y + 2) / 8) ** 2 + 0 * z < 1
    hu[tube & (z > -10)] = _AIR
    spine = (x / 21) ** 2 + ((y - 58) / 19) ** 2 + 0 * z < 1
    hu[spine] = _BONE
    canal = (x / 8) ** 2 + ((y - 66) / 7) ** 2 + 0 * z < 1
    hu[canal] = _SOFT
    noise = np.random.default_rng(20).normal(0.0, 12.0, hu.shape)
    clean: NDArray[np.int16] = np.clip(hu + noise, -1024, 3071).round().astype(np.int16)
    return clean


def write_sample_study(folder: Path) -> list[Path]:
    """Write the sample CT series: 48 axial images of 256 × 256, 1.5 mm, 5 mm apart.

    Args:
        folder: Made when it is not there.

    Returns:
        The files, in no order that means anything.
    """
    folder.mkdir(parents=True, exist_ok=True)
    phantom = thorax_phantom()
    paths = []
    for number in range(SLICES):
        image = _image("CT", CTImageStorage, number + 1)
        image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.BodyPartExamined = "CHEST"
        image.FrameOfReferenceUID = _uid("frame of reference")
        image.PositionReferenceIndicator = ""
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.ImagePositionPatient = [
            round((0.5 - COLUMNS / 2) * PIXEL_MM, 3),
            round((0.5 - ROWS / 2) * PIXEL_MM, 3),
            round((number - SLICES / 2) * STEP_MM, 3),
        ]
        image.SliceLocation = image.ImagePositionPatient[2]
        image.SliceThickness = STEP_MM
        image.PixelSpacing = [PIXEL_MM, PIXEL_MM]
        image.PatientPosition = "HFS"
        image.KVP = 120
        image.RescaleIntercept, image.RescaleSlope, image.RescaleType = -1024, 1, "HU"
        image.WindowCenter, image.WindowWidth = 40, 400
        _set_pixels(image, (phantom[number] + 1024).astype(np.uint16), 12)
        paths.append(_save(image, folder))
    return paths


def write_sample_radiograph(folder: Path) -> list[Path]:
    """Write one radiograph of the phantom, 512 × 400, with a collimated border.

    Args:
        folder: Made when it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    attenuation = (thorax_phantom().astype(np.float32) + 1000).sum(axis=1)[::-1]
    projection = np.repeat(np.repeat(attenuation, 10, axis=0), 2, axis=1)[:480, :512]
    bright = np.exp(-projection / 60000.0)
    values = np.full((512, 560), 40.0)
    values[16:496, 24:536] = 400 + 3200 * (1 - bright)
    noise = np.random.default_rng(21).normal(0.0, 6.0, values.shape)
    image = _image("CR", ComputedRadiographyImageStorage, 1)
    image.ImageType = ["ORIGINAL", "PRIMARY"]
    image.BodyPartExamined = "CHEST"
    image.ViewPosition = "PA"
    image.PatientOrientation = ["L", "F"]
    image.ImagerPixelSpacing = [0.7, 0.7]
    image.PixelSpacing = [0.7, 0.7]
    image.CassetteOrientation = "PORTRAIT"
    image.WindowCenter, image.WindowWidth = 2048, 4096
    _set_pixels(image, np.clip(values + noise, 0, 4095).astype(np.uint16), 12)
    return [_save(image, folder)]


def _image(modality: str, sop_class_uid: str, number: int) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SpecificCharacterSet = "ISO_IR 100"
    image.SOPClassUID = sop_class_uid
    image.SOPInstanceUID = _uid(f"{modality} image {number}")
    image.StudyInstanceUID = _uid(f"{modality} study")
    image.SeriesInstanceUID = _uid(f"{modality} series")
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = "20260105"
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = "101500"
    image.AccessionNumber = "SAMPLE0001"
    image.StudyID = "1"
    image.StudyDescription = f"{modality} chest, synthetic sample"
    image.SeriesDescription = "Synthetic phantom"
    image.Modality = modality
    image.Manufacturer = "MedAI node"
    image.InstitutionName = "Synthetic data"
    image.ReferringPhysicianName = ""
    image.PatientName = "SAMPLE^SYNTHETIC"
    image.PatientID = "SAMPLE-0001"
    image.PatientBirthDate = ""
    image.PatientSex = "O"
    image.SeriesNumber = 1
    image.InstanceNumber = number
    image.AcquisitionNumber = 1
    return image


def _set_pixels(image: Dataset, pixels: NDArray[np.uint16], bits: int) -> None:
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = pixels.shape
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, bits, bits - 1
    image.PixelRepresentation = 0
    image.PixelData = pixels.astype("<u2").tobytes()
    image["PixelData"].VR = "OW"


def _save(image: Dataset, folder: Path) -> Path:
    path = folder / f"{image.Modality}-{int(image.InstanceNumber):04}.dcm"
    image.save_as(path, enforce_file_format=True)
    return path


def _uid(what: str) -> Any:
    return generate_uid(entropy_srcs=[_ENTROPY, what])
