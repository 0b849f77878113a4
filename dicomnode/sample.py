"""A synthetic study to try the node with: a thorax-like CT and a radiograph of it.

Both are computed here from ellipsoids; no patient was ever imaged. They are the same on every
machine, bit by bit and UID by UID. Right and left, front and back, head and feet all differ, so
that a flipped result is seen.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
)

SLICES = 48
SIZE = 256
SPACING_MM = 1.4
STEP_MM = 5.0
NOISE_HU = 8.0
_NAMESPACE = uuid.UUID("6f2a1f6e-6b0c-5d63-9d0e-6d6564616921")

_AIR, _LUNG, _FAT, _SOFT, _LIVER, _BLOOD, _BONE, _MARROW = -1000, -850, -100, 40, 60, 45, 900, 250


def write_sample_study(folder: Path) -> list[Path]:
    """Write the CT: 48 axial slices of 256 × 256, 1.4 mm × 1.4 mm × 5 mm, HU from a 12-bit range.

    Args:
        folder: Made if it is not there.

    Returns:
        The files, from the feet to the head.
    """
    voxels = thorax_phantom()
    origin = -SPACING_MM * (SIZE - 1) / 2
    images = []
    for index, plane in enumerate(voxels):
        image = image_header(CTImageStorage, "CT", "sample", "sample-ct", index + 1)
        image.SeriesDescription = "Synthetic thorax"
        image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.KVP = "120"
        image.ScanOptions = "HELICAL"
        image.PatientPosition = "HFS"
        position = [origin, origin, STEP_MM * index]
        set_plane(image, position, [1, 0, 0, 0, 1, 0], (SPACING_MM, SPACING_MM), STEP_MM)
        image.RescaleIntercept = "-1024"
        image.RescaleSlope = "1"
        image.RescaleType = "HU"
        image.WindowCenter = "40"
        image.WindowWidth = "400"
        set_pixels(image, (plane + 1024).astype(np.uint16), bits_stored=12)
        images.append(image)
    return write_images(images, folder)


def write_sample_radiograph(folder: Path) -> list[Path]:
    """Write the radiograph: a frontal view computed from the CT, 480 × 512, 12 bits, MONOCHROME1.

    Args:
        folder: Made if it is not there.
    """
    attenuation = np.maximum(thorax_phantom(noise=0.0) + 1000.0, 0.0).sum(axis=1)
    projection = np.repeat(np.repeat(attenuation[::-1], 10, axis=0), 2, axis=1)
    for _ in range(2):
        for axis in (0, 1):
            projection = _smooth(projection, axis)
    # The exposed detector is bright in the raw image; film shows it black, hence MONOCHROME1.
    exposure = np.exp(-projection / projection.max() * 3.0)
    stored = np.round(exposure * 4000).astype(np.uint16)
    image = image_header(ComputedRadiographyImageStorage, "CR", "sample radiograph", "sample-cr", 1)
    image.SeriesDescription = "Synthetic chest"
    image.ImageType = ["ORIGINAL", "PRIMARY"]
    image.ViewPosition = "AP"
    image.PatientOrientation = ["L", "F"]
    image.KVP = "110"
    image.PlateID = ""
    image.ImagerPixelSpacing = [f"{STEP_MM / 10:g}", f"{SPACING_MM / 2:g}"]
    set_pixels(image, stored, bits_stored=12, photometric="MONOCHROME1")
    return write_images([image], folder)


def thorax_phantom(
    slices: int = SLICES, size: int = SIZE, noise: float = NOISE_HU
) -> NDArray[np.int16]:
    """A thorax of ellipsoids in Hounsfield units.

    Args:
        slices: From the feet to the head.
        size: Rows and columns; rows run from front to back, columns from the patient's right to
            the left.
        noise: Standard deviation in HU.

    Returns:
        ``(slices, size, size)``, -1024 to 3071.
    """
    # Unit coordinates: z from feet 0 to head 1, y from front -1 to back 1, x from right -1 to
    # left 1.
    z, y, x = np.meshgrid(
        np.linspace(0, 1, slices, dtype=np.float32),
        np.linspace(-1, 1, size, dtype=np.float32),
        np.linspace(-1, 1, size, dtype=np.float32),
        indexing="ij",
        sparse=True,
    )
    narrow = 1.0 - 0.3 * np.clip(z - 0.75, 0, 1) / 0.25  # towards the neck

    def ellipse(cx: float, cy: float, rx: float, ry: float) -> NDArray[np.float64]:
        return np.asarray(((x - cx) / (rx * narrow)) ** 2 + ((y - cy) / (ry * narrow)) ** 2)

    def ball(
        centre: tuple[float, float, float], radii: tuple[float, float, float]
    ) -> NDArray[np.bool_]:
        terms = zip((z, y, x), centre, radii, strict=True)
        return np.asarray(sum(((axis - c) / r) ** 2 for axis, c, r in terms) < 1)

    voxels = np.full((slices, size, size), _AIR, np.float32)
    wall = ellipse(0, 0, 0.80, 0.58)
    voxels[np.broadcast_to(wall < 1, voxels.shape)] = _FAT
    voxels[np.broadcast_to(ellipse(0, 0, 0.74, 0.52) < 1, voxels.shape)] = _SOFT
    inner, outer = ellipse(0, 0, 0.66, 0.44), ellipse(0, 0, 0.70, 0.48)
    ribs = (outer < 1) & (inner >= 1) & (((z * 12 + 0.4 * y) % 1.0) < 0.45)
    voxels[ribs] = _BONE
    # The right lung is the larger one.
    voxels[ball((0.58, 0.02, -0.36), (0.37, 0.38, 0.26))] = _LUNG
    voxels[ball((0.58, 0.04, 0.38), (0.33, 0.34, 0.23))] = _LUNG
    voxels[ball((0.45, -0.12, 0.14), (0.20, 0.22, 0.25))] = _BLOOD  # heart
    voxels[ball((0.10, -0.05, -0.30), (0.24, 0.36, 0.36))] = _LIVER
    voxels[ball((0.08, -0.20, 0.36), (0.10, 0.10, 0.14))] = _AIR  # gas in the stomach
    voxels[ball((0.70, 0.10, -0.40), (0.05, 0.05, 0.04))] = _SOFT  # a nodule
    voxels[np.broadcast_to((ellipse(0, 0.0, 0.045, 0.05) < 1) & (z > 0.6), voxels.shape)] = _AIR
    spine = ellipse(0, 0.36, 0.11, 0.10)
    voxels[np.broadcast_to(spine < 1, voxels.shape)] = _MARROW
    voxels[np.broadcast_to((spine < 1) & (spine > 0.7), voxels.shape)] = _BONE
    voxels[np.broadcast_to(ellipse(0, 0.43, 0.035, 0.035) < 1, voxels.shape)] = _SOFT  # its canal
    if noise:
        draw = np.random.default_rng(20240101)
        voxels += draw.standard_normal(voxels.shape, dtype=np.float32) * np.float32(noise)
    return np.clip(np.round(voxels), -1024, 3071).astype(np.int16)


def sample_uid(*parts: object) -> str:
    """The UID that stands for these parts, the same on every call (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, parts))).int}"


def image_header(
    sop_class_uid: str, modality: str, study: str, series: str, number: int
) -> Dataset:
    """What every synthetic image has: patient, study, series, equipment, identity.

    Args:
        sop_class_uid: Its SOP class.
        modality: Its modality.
        study: Name the study UID derives from.
        series: Name the UIDs of series and instance derive from.
        number: InstanceNumber, from 1.
    """
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID = sop_class_uid
    image.SOPInstanceUID = sample_uid(series, number)
    image.StudyInstanceUID = sample_uid("study", study)
    image.SeriesInstanceUID = sample_uid("series", series)
    image.PatientName = "SAMPLE^SYNTHETIC"
    image.PatientID = "SAMPLE-0001"
    image.PatientBirthDate = "19700101"
    image.PatientSex = "O"
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = "20240101"
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = "120000"
    image.TimezoneOffsetFromUTC = "+0000"
    image.AccessionNumber = "SAMPLE01"
    image.StudyID = "1"
    image.StudyDescription = "Synthetic sample"
    image.ReferringPhysicianName = ""
    image.Modality = modality
    image.SeriesNumber = 1
    image.InstanceNumber = number
    image.AcquisitionNumber = 1
    image.Manufacturer = "MedAI node"
    image.ManufacturerModelName = "Synthetic phantom"
    image.DeviceSerialNumber = "1"
    image.SoftwareVersions = "1"
    image.BodyPartExamined = "CHEST"
    image.BurnedInAnnotation = "NO"
    image.LossyImageCompression = "00"
    return image


def set_plane(
    image: Dataset,
    position: list[float],
    cosines: list[float],
    spacing: tuple[float, float],
    thickness: float,
) -> None:
    """Put an image in patient space (PS3.3 C.7.6.2).

    Args:
        image: Changed in place.
        position: ImagePositionPatient, LPS mm.
        cosines: ImageOrientationPatient.
        spacing: Distance between rows, between columns, mm.
        thickness: SliceThickness, mm.
    """
    image.FrameOfReferenceUID = sample_uid("frame of reference", image.SeriesInstanceUID)
    image.PositionReferenceIndicator = ""
    image.ImagePositionPatient = [decimal(entry) for entry in position]
    image.ImageOrientationPatient = [decimal(entry) for entry in cosines]
    image.PixelSpacing = [decimal(entry) for entry in spacing]
    image.SliceThickness = decimal(thickness)


def set_pixels(
    image: Dataset,
    stored: NDArray[np.generic],
    *,
    bits_stored: int,
    photometric: str = "MONOCHROME2",
) -> None:
    """Set the pixel data and what describes it (PS3.3 C.7.6.3).

    Args:
        image: Changed in place.
        stored: ``(rows, columns)``, ``(frames, rows, columns)``, or either with a last axis of 3
            colours, which `photometric` then names; 8 or 16 bits; signed where its type is.
        bits_stored: BitsStored.
        photometric: PhotometricInterpretation.
    """
    colour = photometric in ("RGB", "YBR_FULL")
    rows_at = stored.ndim - (3 if colour else 2)
    if rows_at:
        image.NumberOfFrames = stored.shape[0]
    image.SamplesPerPixel = 3 if colour else 1
    if colour:
        image.PlanarConfiguration = 0
    image.PhotometricInterpretation = photometric
    image.Rows, image.Columns = stored.shape[rows_at : rows_at + 2]
    image.BitsAllocated = stored.dtype.itemsize * 8
    image.BitsStored = bits_stored
    image.HighBit = bits_stored - 1
    image.PixelRepresentation = int(stored.dtype.kind == "i")
    pixels = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    image.add_new(
        "PixelData", "OB" if image.BitsAllocated == 8 else "OW", pixels + b"\0" * (len(pixels) % 2)
    )


def decimal(number: float) -> str:
    """A number as DS, at most 16 characters (PS3.5 6.2)."""
    for digits in range(16, 0, -1):
        written = f"{number:.{digits}g}"
        if len(written) <= 16:
            return written
    raise ValueError("the number has no decimal string of 16 characters")


def write_images(images: list[Dataset], folder: Path) -> list[Path]:
    """Write each data set to a file of its own, named by its place in the list.

    Args:
        images: With their file meta information.
        folder: Made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, image in enumerate(images):
        path = folder / f"{image.Modality.lower()}-{index + 1:04d}.dcm"
        image.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _smooth(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    kernel = np.hanning(13)[1:-1]
    padded = np.apply_along_axis(
        lambda line: np.convolve(np.pad(line, 5, mode="edge"), kernel / kernel.sum(), "valid"),
        axis,
        values,
    )
    return np.asarray(padded, np.float64)
