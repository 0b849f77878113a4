"""DICOM of a volume in patient space: any plane, order, encoding, and one or many files.

Provenance: as in `tests.factories`; what the voxels hold is the caller's. A `Grid` says where the
voxels lie, `images_of` makes single-frame or enhanced multi-frame objects of them, and
`factories.write` writes those. The geometry of both is the same to the last digit. The enhanced
objects have every module and functional group that says what the pixels are and where they lie, and
leave out those of the acquisition: they are not valid by ``dciodvfy``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from dicomnode.sample import decimal, image_header, sample_uid, set_pixels, set_plane
from tests.factories import AXIAL, encoded, spin_echo

Form = Literal["single-frame", "enhanced"]
Order = Literal["along", "against", "shuffled"]

FEET_FIRST_PRONE = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, -0.8)

_SOP_CLASSES = {
    ("CT", "single-frame"): CTImageStorage,
    ("CT", "enhanced"): EnhancedCTImageStorage,
    ("MR", "single-frame"): MRImageStorage,
    ("MR", "enhanced"): EnhancedMRImageStorage,
    ("PT", "single-frame"): PositronEmissionTomographyImageStorage,
    ("PT", "enhanced"): EnhancedPETImageStorage,
}


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume lie.

    Attributes:
        shape: (slices, rows, columns).
        cosines: ImageOrientationPatient.
        spacing: mm between slices (along the normal), rows, columns.
        origin: LPS mm of the centre of voxel (0, 0, 0).
        tilt: Lean of the stack towards the rows' direction, degrees.
    """

    shape: tuple[int, int, int]
    cosines: tuple[float, ...] = AXIAL
    spacing: tuple[float, float, float] = (5.0, 1.5, 1.25)
    origin: tuple[float, float, float] = (-12.5, -20.0, 100.0)
    tilt: float = 0.0

    @property
    def affine(self) -> NDArray[np.float64]:
        """``(4, 4)``, ``(slice, row, column, 1)`` to LPS mm."""
        row, column = np.array(self.cosines[:3]), np.array(self.cosines[3:])
        along = np.cross(row, column) + np.tan(np.radians(self.tilt)) * column
        steps = (along, column, row)
        affine = np.eye(4)
        affine[:3, :3] = np.stack(steps, axis=1) * self.spacing
        affine[:3, 3] = self.origin
        return affine

    @property
    def points(self) -> NDArray[np.float64]:
        """``(slices, rows, columns, 3)``: LPS mm of every voxel's centre."""
        index = np.stack(np.indices(self.shape), axis=-1)
        return np.asarray(index @ self.affine[:3, :3].T + self.affine[:3, 3])


def images_of(
    voxels: NDArray[np.generic],
    grid: Grid,
    *,
    modality: str = "CT",
    form: Form = "single-frame",
    order: Order = "against",
    slope: float = 1.0,
    intercept: float = -1024.0,
    bits_stored: int | None = None,
    syntax: str = ExplicitVRLittleEndian,
    seed: int = 0,
) -> list[Dataset]:
    """Objects of a volume: one a slice, or one for all.

    Args:
        voxels: Stored values of the grid's shape; 8 or 16 bits; signed where its type is.
        grid: Where they lie.
        modality: ``CT``, ``MR`` or ``PT``.
        form: One object a slice, or one enhanced multi-frame object.
        order: Of files, frames and instance numbers: along the normal, against it, or neither.
        slope: RescaleSlope.
        intercept: RescaleIntercept.
        bits_stored: BitsStored; all bits where it is None.
        syntax: Transfer syntax of the result: native of either byte order, or one that pydicom's
            plugins encode (RLE, JPEG-LS, JPEG 2000; the last from 32 × 32 pixels on).
        seed: Decides UIDs and the shuffled order.
    """
    places = _places(len(voxels), order, seed)
    bits = bits_stored or voxels.dtype.itemsize * 8
    source = _Source(voxels, grid, places, modality, (slope, intercept), bits, seed)
    images = _enhanced(source) if form == "enhanced" else _single_frames(source)
    return [in_syntax(image, syntax) for image in images]


def in_syntax(image: Dataset, syntax: str) -> Dataset:
    """The same image in another transfer syntax; see `images_of`."""
    if syntax != ExplicitVRBigEndian:
        return image if syntax == ExplicitVRLittleEndian else encoded(image, syntax)
    # pydicom writes the header in the other order, but pixels as they are.
    if image.BitsAllocated > 8:
        words = np.frombuffer(image.PixelData, f"<u{image.BitsAllocated // 8}")
        image.PixelData = words.byteswap().tobytes()
    image.file_meta.TransferSyntaxUID = UID(syntax)
    return image


@dataclass(frozen=True)
class _Source:
    voxels: NDArray[np.generic]
    grid: Grid
    places: Sequence[int]
    modality: str
    rescale: tuple[float, float]
    bits: int
    seed: int


def _places(slices: int, order: Order, seed: int) -> list[int]:
    places = list(range(slices))
    if order == "along":
        return places
    if order == "against":
        return places[::-1]
    return [int(place) for place in np.random.default_rng(seed).permutation(slices)]


def _single_frames(source: _Source) -> list[Dataset]:
    grid = source.grid
    images = []
    name = f"{source.modality} {grid} {source.bits} {source.places} {source.seed}"
    for number, place in enumerate(source.places):
        sop_class = _SOP_CLASSES[source.modality, "single-frame"]
        image = image_header(sop_class, source.modality, f"study {source.seed}", name, number + 1)
        image.ImageType = ["ORIGINAL", "PRIMARY"]
        image.PatientPosition = "HFS"
        _CLASSIC[source.modality](image)
        set_plane(
            image,
            [float(each) for each in grid.affine[:3] @ (place, 0, 0, 1)],
            list(grid.cosines),
            grid.spacing[1:],
            grid.spacing[0],
        )
        image.RescaleSlope, image.RescaleIntercept = (decimal(entry) for entry in source.rescale)
        set_pixels(image, source.voxels[place], bits_stored=source.bits)
        images.append(image)
    return images


def _enhanced(source: _Source) -> list[Dataset]:
    grid = source.grid
    name = f"enhanced {source.modality} {grid} {source.bits} {source.places} {source.seed}"
    sop_class = _SOP_CLASSES[source.modality, "enhanced"]
    image = image_header(sop_class, source.modality, f"study {source.seed}", name, 1)
    for keyword in ("AcquisitionDate", "AcquisitionTime", "AcquisitionNumber"):
        delattr(image, keyword)
    image.AcquisitionDateTime = "20240101120000"
    image.AcquisitionDuration = 1.0
    image.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    image.PixelPresentation = "MONOCHROME"
    image.VolumetricProperties = "VOLUME"
    image.VolumeBasedCalculationTechnique = "NONE"
    image.ContentQualification = "RESEARCH"
    image.PresentationLUTShape = "IDENTITY"
    image.AcquisitionContextSequence = []
    image.FrameOfReferenceUID = sample_uid("frame of reference", image.SeriesInstanceUID)
    image.PositionReferenceIndicator = ""
    image.PatientPosition = "HFS"
    _ENHANCED[source.modality](image)
    organization = _item(DimensionOrganizationUID=sample_uid("dimensions", name))
    image.DimensionOrganizationSequence = [organization]
    image.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=organization.DimensionOrganizationUID,
            DimensionIndexPointer=pointer,
            FunctionalGroupPointer=0x00209111,
        )
        for pointer in (0x00209056, 0x00209057)
    ]
    frame_type = _item(
        FrameType=image.ImageType,
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
    )
    shared = _item(
        PixelMeasuresSequence=[
            _item(
                PixelSpacing=[decimal(entry) for entry in grid.spacing[1:]],
                SliceThickness=decimal(grid.spacing[0]),
            )
        ],
        PlaneOrientationSequence=[
            _item(ImageOrientationPatient=[decimal(entry) for entry in grid.cosines])
        ],
        PixelValueTransformationSequence=[
            _item(
                RescaleIntercept=decimal(source.rescale[1]),
                RescaleSlope=decimal(source.rescale[0]),
                RescaleType="HU" if source.modality == "CT" else "US",
            )
        ],
        FrameAnatomySequence=[
            _item(
                FrameLaterality="U",
                AnatomicRegionSequence=[
                    _item(CodeValue="51185008", CodingSchemeDesignator="SCT", CodeMeaning="Thorax")
                ],
            )
        ],
    )
    setattr(shared, _FRAME_TYPES[source.modality], [frame_type])
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = [_frame(grid, place) for place in source.places]
    set_pixels(image, source.voxels[list(source.places)], bits_stored=source.bits)
    return [image]


def _frame(grid: Grid, place: int) -> Dataset:
    position = grid.affine[:3] @ (place, 0, 0, 1)
    content = _item(
        StackID="1",
        InStackPositionNumber=place + 1,
        DimensionIndexValues=[1, place + 1],
        FrameAcquisitionDateTime="20240101120000",
        FrameReferenceDateTime="20240101120000",
        FrameAcquisitionDuration=1000.0,
    )
    return _item(
        FrameContentSequence=[content],
        PlanePositionSequence=[
            _item(ImagePositionPatient=[decimal(float(each)) for each in position])
        ],
    )


_FRAME_TYPES = {
    "CT": "CTImageFrameTypeSequence",
    "MR": "MRImageFrameTypeSequence",
    "PT": "PETFrameTypeSequence",
}


def _classic_ct(image: Dataset) -> None:
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.KVP = "120"
    image.RescaleType = "HU"


def _classic_mr(image: Dataset) -> None:
    spin_echo(image)


def _classic_pt(image: Dataset) -> None:
    """FDG, 370 MBq an hour before the scan, 70 kg: PS3.3 C.8.9.1 to C.8.9.4."""
    image.PatientWeight = "70"
    image.Units = "BQML"
    image.CountsSource = "EMISSION"
    image.SeriesType = ["STATIC", "IMAGE"]
    image.CorrectedImage = ["ATTN", "DECY"]
    image.DecayCorrection = "START"
    image.NumberOfSlices = 1
    image.CollimatorType = "NONE"
    image.ImageIndex = image.InstanceNumber
    image.DecayFactor = "1"
    image.PatientOrientationCodeSequence = []
    image.PatientGantryRelationshipCodeSequence = []
    image.FrameReferenceTime = "0"
    image.ActualFrameDuration = "60000"
    image.RadiopharmaceuticalInformationSequence = [
        _item(
            RadiopharmaceuticalStartTime="110000",
            RadionuclideTotalDose="370000000",
            RadionuclideHalfLife="6586.2",
            RadionuclideCodeSequence=[
                _item(
                    CodeValue="77004003", CodingSchemeDesignator="SCT", CodeMeaning="^18^Fluorine"
                )
            ],
        )
    ]


def _enhanced_ct(image: Dataset) -> None:
    image.MultienergyCTAcquisition = "NO"


def _enhanced_mr(image: Dataset) -> None:
    image.ComplexImageComponent = "MAGNITUDE"
    image.AcquisitionContrast = "T1"
    image.ResonantNucleus = "1H"
    image.MagneticFieldStrength = 1.5
    image.KSpaceFiltering = "NONE"
    image.ApplicableSafetyStandardAgency = "IEC"


def _enhanced_pt(image: Dataset) -> None:
    image.DecayCorrected = "YES"
    image.DecayCorrectionDateTime = "20240101120000"
    image.PatientWeight = "70"
    image.RadiopharmaceuticalInformationSequence = [
        _item(
            RadiopharmaceuticalStartDateTime="20240101110000",
            RadionuclideTotalDose="370",  # MBq here (PS3.3 C.8.22.4)
            RadionuclideHalfLife="6586.2",
        )
    ]


_CLASSIC = {"CT": _classic_ct, "MR": _classic_mr, "PT": _classic_pt}
_ENHANCED = {"CT": _enhanced_ct, "MR": _enhanced_mr, "PT": _enhanced_pt}


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item
