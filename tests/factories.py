"""Synthetic DICOM of every kind the tests need.

Provenance: every pixel and attribute is computed here or in `dicomnode.sample`, from a seed; no
patient was ever imaged and no file of another project is copied. Images are small (16 to 64
pixels) but for `ct_series_200`, and valid by ``dciodvfy -new`` unless a docstring says otherwise.
Each function gives data sets with file meta information (explicit VR little endian); `write` makes
files of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    KeyObjectSelectionDocumentStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from dicomnode.sample import (
    image_header,
    sample_uid,
    set_pixels,
    set_plane,
    thorax_phantom,
    write_images,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
SLICE_SPACING = 5.0


def ct_series(
    slices: int = 6,
    *,
    rows: int = 16,
    columns: int = 20,
    cosines: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-12.5, -20.0, 100.0),
    pixel_spacing: tuple[float, float] = (1.5, 1.25),
    step: float = SLICE_SPACING,
    drop: Sequence[int] = (),
    duplicate: Sequence[int] = (),
    tilt: float = 0.0,
    signed: bool = False,
    slope: float = 1.0,
    intercept: float = -1024.0,
    seed: int = 0,
) -> list[Dataset]:
    """A CT series, its slices in order along the normal and instance numbers in reverse.

    Args:
        slices: How many places there are.
        rows: Rows of each.
        columns: Columns of each.
        cosines: ImageOrientationPatient.
        origin: ImagePositionPatient of the first, LPS mm.
        pixel_spacing: Between rows, between columns, mm.
        step: Distance of slices, mm.
        drop: Places that stay empty.
        duplicate: Places that hold a second image.
        tilt: Lean of the stack towards the rows' direction, degrees.
        signed: Store signed 16-bit instead of unsigned 12-bit values.
        slope: RescaleSlope.
        intercept: RescaleIntercept.
        seed: Decides pixels and UIDs.

    Each place has its own pixels, so that a swap is seen.
    """
    pixels = _pixels(seed, slices, rows, columns)
    places = [place for place in range(slices) if place not in drop]
    images = []
    for number, place in enumerate([*places, *duplicate]):
        image = image_header(CTImageStorage, "CT", f"study {seed}", f"ct/{seed}", number + 1)
        image.InstanceNumber = slices + len(duplicate) - number
        image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.SeriesDescription = "Synthetic CT"
        image.KVP = "120"
        image.PatientPosition = "HFS"
        _place(image, cosines, origin, place * step, (pixel_spacing, step), tilt=tilt)
        image.RescaleSlope = f"{slope:g}"
        image.RescaleIntercept = f"{intercept:g}"
        image.RescaleType = "HU"
        stored = pixels[place].astype(np.int16) - 1000 if signed else pixels[place]
        set_pixels(image, stored, bits_stored=16 if signed else 12)
        images.append(image)
    return images


def ct_series_200(folder: Path, *, seed: int = 0) -> list[Path]:
    """Write a CT of 200 × 512 × 512, 0.7 mm × 0.7 mm × 1 mm, the noisy sample thorax: 105 MB."""
    voxels = thorax_phantom(200, 512, noise=12.0)
    images = []
    for index, plane in enumerate(voxels):
        image = image_header(CTImageStorage, "CT", f"study 200/{seed}", f"ct 200/{seed}", index + 1)
        image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.SeriesDescription = "Synthetic thorax"
        image.KVP = "120"
        image.PatientPosition = "HFS"
        _place(image, AXIAL, (-179.0, -179.0, 0.0), float(index), ((0.7, 0.7), 1.0))
        image.RescaleSlope = "1"
        image.RescaleIntercept = "-1024"
        image.RescaleType = "HU"
        set_pixels(image, (plane + 1024).astype(np.uint16), bits_stored=12)
        images.append(image)
    return write(images, folder)


def spin_echo(image: Dataset) -> None:
    """The attributes that an MR image must have (PS3.3 C.8.3.1)."""
    image.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    image.ScanningSequence = "SE"
    image.SequenceVariant = "NONE"
    image.ScanOptions = ""
    image.MRAcquisitionType = "2D"
    image.EchoTime = "10"
    image.EchoTrainLength = 1
    image.RepetitionTime = "500"


def mr_series(
    slices: int = 5,
    *,
    rows: int = 16,
    columns: int = 20,
    cosines: Sequence[float] = CORONAL,
    step: float = 4.0,
    seed: int = 0,
) -> list[Dataset]:
    """An MR series without rescale attributes, coronal unless told otherwise."""
    pixels = _pixels(seed, slices, rows, columns)
    images = []
    for index in range(slices):
        image = image_header(MRImageStorage, "MR", f"study {seed}", f"mr/{seed}", index + 1)
        spin_echo(image)
        image.SeriesDescription = "Synthetic MR"
        image.PatientPosition = "HFS"
        _place(image, cosines, (-10.0, -20.0, 30.0), index * step, ((1.0, 1.0), step))
        set_pixels(image, pixels[index], bits_stored=12)
        images.append(image)
    return images


def localizer(*, seed: int = 0) -> Dataset:
    """A sagittal CT scout."""
    image = ct_series(1, cosines=SAGITTAL, seed=seed)[0]
    image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    image.SOPInstanceUID = sample_uid("localizer", seed)
    return image


def cr_image(*, photometric: str = "MONOCHROME2", bits_stored: int = 12, seed: int = 0) -> Dataset:
    """A computed radiograph of a chest."""
    image = image_header(
        ComputedRadiographyImageStorage, "CR", f"study {seed}", f"cr/{seed}", seed + 1
    )
    image.ImageType = ["ORIGINAL", "PRIMARY"]
    image.ViewPosition = "PA"
    image.PatientOrientation = ["L", "F"]
    image.KVP = "110"
    image.PlateID = ""
    image.ImagerPixelSpacing = ["0.2", "0.15"]
    pixels = _pixels(seed, 1, 32, 24)[0]
    set_pixels(image, pixels, bits_stored=bits_stored, photometric=photometric)
    return image


def dx_image(*, seed: int = 0) -> Dataset:
    """A digital radiograph of a chest, for presentation."""
    image = image_header(
        DigitalXRayImageStorageForPresentation, "DX", f"study {seed}", f"dx/{seed}", seed + 1
    )
    _digital_x_ray(image)
    image.BodyPartExamined = "CHEST"
    image.AnatomicRegionSequence = [_code("51185008", "SCT", "Chest")]
    image.ViewCodeSequence = [_code("399348003", "SCT", "antero-posterior")]
    image.PatientOrientation = ["L", "F"]
    image.ImageLaterality = "U"
    image.PositionerType = ""
    set_pixels(image, _pixels(seed, 1, 32, 24)[0], bits_stored=12)
    return image


def mg_image(*, laterality: str = "R", seed: int = 0) -> Dataset:
    """A mammogram, MLO, for presentation."""
    image = image_header(
        DigitalMammographyXRayImageStorageForPresentation,
        "MG",
        f"study {seed}",
        f"mg/{laterality}/{seed}",
        seed + 1,
    )
    _digital_x_ray(image)
    image.BodyPartExamined = "BREAST"
    image.AnatomicRegionSequence = [_code("76752008", "SCT", "Breast")]
    image.ViewCodeSequence = [_code("399368009", "SCT", "medio-lateral oblique")]
    image.ViewCodeSequence[0].ViewModifierCodeSequence = []
    image.PatientOrientation = ["P", "F"] if laterality == "R" else ["A", "F"]
    image.ImageLaterality = laterality
    image.OrganExposed = "BREAST"
    image.PositionerType = "MAMMOGRAPHIC"
    image.BreastImplantPresent = "NO"
    image.PartialView = "NO"
    set_pixels(image, _pixels(seed, 1, 48, 32)[0], bits_stored=12)
    return image


def us_image(*, frames: int = 1, colour: bool = False, seed: int = 0) -> Dataset:
    """An ultrasound still, or a loop where there is more than one frame."""
    loop = frames > 1
    image = image_header(
        UltrasoundMultiFrameImageStorage if loop else UltrasoundImageStorage,
        "US",
        f"study {seed}",
        f"us/{frames}/{colour}/{seed}",
        seed + 1,
    )
    image.ImageType = ["ORIGINAL", "PRIMARY", "ABDOMINAL", "0001"]
    image.BodyPartExamined = "ABDOMEN"
    image.PatientOrientation = ""
    pixels = (_pixels(seed, frames, 24, 32) >> 4).astype(np.uint8)
    if loop:
        image.FrameTime = "40"
        image.FrameIncrementPointer = 0x00181063
    if colour:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    if not loop:
        pixels = pixels[0]
    set_pixels(image, pixels, bits_stored=8, photometric="RGB" if colour else "MONOCHROME2")
    return image


def enhanced_ct(frames: int = 4, *, seed: int = 0) -> Dataset:
    """An enhanced CT by SOP class and frames alone, without functional groups: not valid."""
    image = image_header(EnhancedCTImageStorage, "CT", f"study {seed}", f"ect/{seed}", 1)
    image.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    set_pixels(image, _pixels(seed, frames, 16, 20), bits_stored=12)
    return image


def secondary_capture(*, seed: int = 0) -> Dataset:
    """A screenshot in colour."""
    image = image_header(
        SecondaryCaptureImageStorage, "OT", f"study {seed}", f"sc/{seed}", seed + 1
    )
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.ConversionType = "WSD"
    image.PatientOrientation = ""
    pixels = (_pixels(seed, 1, 20, 24)[0] >> 4).astype(np.uint8)
    set_pixels(image, np.repeat(pixels[..., None], 3, axis=-1), bits_stored=8, photometric="RGB")
    return image


def structured_report(*, seed: int = 0) -> Dataset:
    """A basic text report of one sentence."""
    report = image_header(BasicTextSRStorage, "SR", f"study {seed}", f"sr/{seed}", seed + 1)
    for keyword in ("BurnedInAnnotation", "LossyImageCompression", "BodyPartExamined"):
        delattr(report, keyword)
    for keyword in ("AcquisitionNumber", "AcquisitionDate", "AcquisitionTime"):
        delattr(report, keyword)
    report.ReferencedPerformedProcedureStepSequence = []
    report.PerformedProcedureCodeSequence = []
    report.CompletionFlag = "COMPLETE"
    report.VerificationFlag = "UNVERIFIED"
    report.ValueType = "CONTAINER"
    report.ContinuityOfContent = "SEPARATE"
    report.ConceptNameCodeSequence = [_code("18748-4", "LN", "Diagnostic imaging report")]
    sentence = Dataset()
    sentence.RelationshipType = "CONTAINS"
    sentence.ValueType = "TEXT"
    sentence.ConceptNameCodeSequence = [_code("121071", "DCM", "Finding")]
    sentence.TextValue = "Synthetic."
    report.ContentSequence = [sentence]
    return report


def rejection_note(images: Sequence[Dataset], code: str = "113001") -> Dataset:
    """A rejection note on images of one series, as a PACS sends it (IHE RAD TF-3 4.66)."""
    note = structured_report(seed=99)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID"):
        setattr(note, keyword, getattr(images[0], keyword))
    note.SOPClassUID = note.file_meta.MediaStorageSOPClassUID = KeyObjectSelectionDocumentStorage
    note.Modality = "KO"
    title, study, series = Dataset(), Dataset(), Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = code, "DCM", "Rejected"
    note.ConceptNameCodeSequence = [title]
    study.StudyInstanceUID = images[0].StudyInstanceUID
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    series.ReferencedSOPSequence = []
    for image in images:
        item = Dataset()
        item.ReferencedSOPClassUID = image.SOPClassUID
        item.ReferencedSOPInstanceUID = image.SOPInstanceUID
        series.ReferencedSOPSequence.append(item)
    study.ReferencedSeriesSequence = [series]
    note.CurrentRequestedProcedureEvidenceSequence = [study]
    return note


def segmentation(*, seed: int = 0) -> Dataset:
    """What tells a segmentation from an image, its SOP class, without its modules: not valid."""
    image = image_header(SegmentationStorage, "SEG", f"study {seed}", f"seg/{seed}", seed + 1)
    image.ImageType = ["DERIVED", "PRIMARY"]
    image.SegmentationType = "FRACTIONAL"
    pixels = (_pixels(seed, 2, 16, 20) >> 4).astype(np.uint8)
    set_pixels(image, pixels, bits_stored=8)
    return image


def encoded(image: Dataset, transfer_syntax_uid: str) -> Dataset:
    """The same image in another transfer syntax, little endian or losslessly compressed."""
    other = deepcopy(image)
    if UID(transfer_syntax_uid).is_compressed and not UID(transfer_syntax_uid).is_deflated:
        other.compress(transfer_syntax_uid, generate_instance_uid=False)
    else:
        other.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    return other


def shuffled(images: Sequence[Dataset], seed: int) -> list[Dataset]:
    """The same data sets in another order."""
    order = np.random.default_rng(seed).permutation(len(images))
    return [images[index] for index in order]


def write(images: Sequence[Dataset] | Dataset, folder: Path) -> list[Path]:
    """Write data sets as DICOM files, in their order."""
    return write_images([images] if isinstance(images, Dataset) else list(images), folder)


def _pixels(seed: int, slices: int, rows: int, columns: int) -> NDArray[np.uint16]:
    """``(slices, rows, columns)``, 0 to 4095; noise on a ramp that differs by slice and axis."""
    noise = np.random.default_rng(seed).integers(0, 200, (slices, rows, columns))
    ramp = np.arange(slices)[:, None, None] * 30 + np.arange(rows)[:, None] * 20
    return np.clip(noise + ramp + np.arange(columns) * 3 + 100, 0, 4095).astype(np.uint16)


def _place(
    image: Dataset,
    cosines: Sequence[float],
    origin: Sequence[float],
    depth: float,
    spacings: tuple[tuple[float, float], float],
    *,
    tilt: float = 0.0,
) -> None:
    """Put an image `depth` mm along the normal from `origin`, in a stack that leans by `tilt`."""
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    along = np.cross(row, column) + np.tan(np.radians(tilt)) * column
    position = np.array(origin) + depth * along
    set_plane(image, position.tolist(), list(cosines), *spacings)


def _digital_x_ray(image: Dataset) -> None:
    image.ImageType = ["ORIGINAL", "PRIMARY"]
    image.PresentationIntentType = "FOR PRESENTATION"
    image.PixelIntensityRelationship = "LOG"
    image.PixelIntensityRelationshipSign = -1
    image.RescaleIntercept = "0"
    image.RescaleSlope = "1"
    image.RescaleType = "US"
    image.PresentationLUTShape = "IDENTITY"
    image.WindowCenter = "2048"
    image.WindowWidth = "4096"
    image.AcquisitionContextSequence = []
    image.DetectorType = "DIRECT"
    image.DetectorID = "1"
    image.ImagerPixelSpacing = ["0.1", "0.1"]
    image.KVP = "70"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item
