"""The results of a golden case, made and proved as those of a job are, of images that stand in.

A golden case holds arrays and no DICOM. Each of its slices is given the header that an image of the
model's modality would have there: whose it is and where it lies are made up, the pixels left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    MRImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)

from ai.golden import Case
from ai.inputs import Input
from ai.package import Package
from ai.types import Answer, Volume
from config.errors import GateError, SeriesError
from config.schema import Settings
from dicomnode.frames import frame_headers
from dicomnode.results.bundle import Sources, chain
from dicomnode.results.provenance import Provenance
from dicomnode.results.uids import result_uid
from dicomnode.sample import decimal, image_header, set_plane
from dicomnode.series.quality import assess
from dicomnode.work.pipeline import encode, model_facts, require_proof, software_version

# Of slices of a volume, of images by themselves, and of objects of many frames.
_SLICES: Final = {
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "PT": PositronEmissionTomographyImageStorage,
}
_IMAGES: Final = {
    "CR": ComputedRadiographyImageStorage,
    "DX": DigitalXRayImageStorageForPresentation,
    "MG": DigitalMammographyXRayImageStorageForPresentation,
    "US": UltrasoundImageStorage,
}
_FRAMES: Final = {
    "NM": NuclearMedicineImageStorage,
    "RF": XRayRadiofluoroscopicImageStorage,
    "US": UltrasoundMultiFrameImageStorage,
    "XA": XRayAngiographicImageStorage,
}
# What the builders raise where they cannot go on.
_NOT_MADE: Final = (AttributeError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class Rehearsal:
    """What became of the results of one golden case.

    Attributes:
        case: Its name.
        kinds: The kinds of result that passed the gate.
        problems: What the gate found, or why they cannot be made, one sentence each.
        not_shown: Why nothing is shown by the case, in a sentence; None where something is.
    """

    case: str
    kinds: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    not_shown: str | None = None


def rehearse(package: Package, case: Case, answer: Answer, settings: Settings) -> Rehearsal:
    """Make the results of a golden case and pass them through the gate.

    The kinds are those that a job may make: of the manifest, and of what the destinations ask for.

    Args:
        package: The model.
        case: What it was given.
        answer: What it said.
        settings: Name the destinations and the node.
    """
    try:
        headers = stand_ins(package.manifest.input, case.volume, "primary")
    except SeriesError as error:
        return Rehearsal(case.name, not_shown=str(error))
    identity = hashlib.sha256(f"{package.digest}\n{case.name}".encode()).hexdigest()
    provenance = Provenance(
        identity=identity,
        created=datetime.now(UTC),
        ae_title=settings.node.ae_title,
        node_uid=result_uid(identity, "offline"),
        software_version=software_version(),
        model=model_facts(package),
        others=_beside(package, case),
    )
    asked = [kind for entry in settings.destinations for kind in entry.results]
    kinds = {*package.manifest.results, *(form for kind in asked for form in chain(kind))}
    return _rehearsed(case.name, kinds, Sources(answer, case.volume, headers, provenance))


def _rehearsed(name: str, kinds: Collection[str], sources: Sources) -> Rehearsal:
    try:
        results = encode(kinds, sources)
    except _NOT_MADE as error:
        return Rehearsal(name, problems=(f"its results cannot be made: {error}",))
    try:
        require_proof(results, sources)
    except GateError as error:
        told = tuple(f"its results fail the gate: {finding}" for finding in error.findings)
        return Rehearsal(name, problems=told)
    return Rehearsal(name, kinds=tuple(result.kind for result in results))


def _beside(package: Package, case: Case) -> tuple[Dataset, ...]:
    """Headers for the inputs beside the primary one; where one lies is not asked of them."""
    return tuple(
        header
        for role, volume in case.others.items()
        for header in _headers(
            package.manifest.role(role), package.manifest.role(role).modality[0], volume, role
        )
    )


def stand_ins(spec: Input, volume: Volume, name: str) -> tuple[Dataset, ...]:
    """Headers of the images that an input may have been, one a slice.

    Args:
        spec: The input; of its modalities the first whose images may lie so is taken.
        volume: What it was given.
        name: Tells its UIDs from those of other inputs.

    Raises:
        SeriesError: Images of none of the modalities lie as the volume does.
    """
    whys = []
    for modality in spec.modality:
        headers = _headers(spec, modality, volume, name)
        quality = assess(headers)
        if quality.ok and (quality.geometry is None) == (volume.affine is None):
            return headers
        why = "; ".join(reason.text for reason in quality.reasons)
        whys.append(why or f"images of {modality} have no place in patient space, and it has one")
    raise SeriesError("no-stand-in", "; ".join(dict.fromkeys(whys)))


def _headers(spec: Input, modality: str, volume: Volume, name: str) -> tuple[Dataset, ...]:
    slices = len(volume.voxels)
    if modality in _SLICES:
        uid = _SLICES[modality]
        return tuple(_image(uid, modality, spec, volume, name=name, at=at) for at in range(slices))
    if slices == 1:
        uid = _IMAGES.get(modality) or _FRAMES.get(modality, SecondaryCaptureImageStorage)
        return (_image(uid, modality, spec, volume, name=name, at=0),)
    uid = _FRAMES.get(modality, MultiFrameGrayscaleWordSecondaryCaptureImageStorage)
    loop = _image(uid, modality, spec, volume, name=name, at=0)
    loop.NumberOfFrames = slices
    return frame_headers(loop)


def _image(uid: str, modality: str, spec: Input, volume: Volume, *, name: str, at: int) -> Dataset:
    study = f"rehearsal/{name}" if spec.prior else "rehearsal"
    image = image_header(uid, modality, study, f"rehearsal/{name}", at + 1)
    image.ImageType = ["ORIGINAL", "PRIMARY"]
    image.Rows, image.Columns = volume.voxels.shape[1:]
    image.SamplesPerPixel = 3 if volume.colour else 1
    grey = "MONOCHROME1" if volume.lowest_is_white else "MONOCHROME2"
    image.PhotometricInterpretation = "RGB" if volume.colour else grey
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 0
    if modality == "CT":
        image.RescaleIntercept, image.RescaleSlope, image.RescaleType = "-1024", "1", "HU"
    if volume.affine is not None:
        _place(image, volume.affine, volume, at)
    elif volume.spacing[1] is not None and volume.spacing[2] is not None:
        image.PixelSpacing = [decimal(step) for step in (volume.spacing[1], volume.spacing[2])]
    return image


def _place(image: Dataset, affine: NDArray[np.float64], volume: Volume, at: int) -> None:
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    # PS3.3 C.7.6.2.1.1: first along a row, where the column index grows.
    cosines = [*(affine[:3, 2] / steps[2]), *(affine[:3, 1] / steps[1])]
    position = affine[:3, 3] + at * affine[:3, 0]
    thickness = volume.spacing[0]
    set_plane(image, [*position], cosines, (steps[1], steps[2]), thickness or steps[0])
    if thickness is None:
        image.SliceThickness = None
