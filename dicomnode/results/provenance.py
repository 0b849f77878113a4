"""Who made a result: the job, the node and the model, as the objects say it.

PS3.3 C.7.5.1 (General Equipment), C.7.5.2 (Enhanced General Equipment), C.12.1 (Contributing
Equipment Sequence), PS3.16 TID 4019; IHE AIR asks for a Device UID of the algorithm that changes
when the model changes.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from highdicom import AlgorithmIdentificationSequence
from highdicom.sr import AlgorithmIdentification
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.coding import Code

from dicomnode.results import codes
from dicomnode.results.uids import result_uid

NODE_MANUFACTURER: Final = "MedAI"
NODE_MODEL: Final = "MedAI node"
WARNING: Final = (
    "AI output: these findings were made by software and need validation by a licensed "
    "professional before any clinical use."
)

_REPLACEMENTS = str.maketrans(
    {"×": "x", "–": "-", "—": "-", "’": "'", "“": '"', "”": '"', "µ": "u"}
)


@dataclass(frozen=True)
class ModelFacts:
    """What a result says about the model.

    Attributes:
        name: Name of the package, ``ct-tissue``.
        version: Its version.
        vendor: Who made it.
        description: One plain sentence on what it does.
        digest: SHA-256 of the package, hex; a changed model has another one.
        basis: ``rules`` where thresholds and geometry decide, ``trained`` where weights do.
        intended_use: What its maker says it may be used for.
    """

    name: str
    version: str
    vendor: str
    description: str
    digest: str
    basis: Literal["rules", "trained"]
    intended_use: str


@dataclass(frozen=True)
class Provenance:
    """Where a bundle of results comes from; equal ones give equal bytes.

    Attributes:
        identity: Hex digest of the job; all UIDs derive from it.
        created: The job's time, with its zone. Where the source does not state its zone this one
            is written for the whole object, so it should be the site's.
        ae_title: AE title of the node.
        node_uid: UID of this node as a device.
        software_version: Version of the node.
        model: The model that answered.
        series_number_base: Series numbers of results start here.
        others: Header data sets of what the model was given beside its primary input, of the same
            study or of earlier ones; each image or frame once.

    Raises:
        ValueError: `created` has no zone.
    """

    identity: str
    created: datetime
    ae_title: str
    node_uid: str
    software_version: str
    model: ModelFacts
    series_number_base: int = 9000
    others: tuple[Dataset, ...] = ()

    def __post_init__(self) -> None:
        if self.created.tzinfo is None:
            raise ValueError("the time of a job needs its zone")

    def uid(self, role: str) -> str:
        """The UID of that role in this bundle."""
        return result_uid(self.identity, role)

    @property
    def device_uid(self) -> str:
        """UID of the model as a device; follows its digest."""
        return result_uid(self.model.digest, "device")


def plain(text: str, limit: int | None = None) -> str:
    """Own text in the default repertoire, which every Specific Character Set contains.

    The character set of a result is its source's (the patient's name must survive unchanged), so
    own words may use only what all of them can encode.

    Args:
        text: Any text; control characters and backslashes become spaces.
        limit: Longest result in characters, None for no limit.
    """
    ascii_text = unicodedata.normalize("NFKD", text.translate(_REPLACEMENTS))
    ascii_text = "".join(mark for mark in ascii_text if not unicodedata.combining(mark))
    ascii_text = ascii_text.encode("ascii", "replace").decode()
    ascii_text = "".join(
        mark if " " <= mark <= "~" and mark != "\\" else " " for mark in ascii_text
    )
    return ascii_text.strip()[:limit].strip()


def code_item(code: Code) -> Dataset:
    """One item of a code sequence (PS3.3 8.8); values over 16 characters go to Long Code Value."""
    item = Dataset()
    if len(code.value) > 16:
        item.LongCodeValue = code.value
    else:
        item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = plain(code.meaning, 64)
    return item


def add_equipment(target: Dataset, provenance: Provenance) -> None:
    """Write the node as the equipment and the algorithm and the node as contributing equipment.

    Args:
        target: The result; changed in place.
        provenance: What to write.
    """
    target.Manufacturer = NODE_MANUFACTURER
    target.ManufacturerModelName = NODE_MODEL
    target.DeviceSerialNumber = plain(provenance.node_uid, 64)
    target.SoftwareVersions = plain(provenance.software_version, 64)
    target.StationName = plain(provenance.ae_title, 16)
    target.ContributingEquipmentSequence = [
        _algorithm_equipment(provenance),
        _node_equipment(provenance),
    ]


def _algorithm_equipment(provenance: Provenance) -> Dataset:
    model = provenance.model
    item = Dataset()
    item.Manufacturer = plain(model.vendor, 64)
    item.ManufacturerModelName = plain(model.name, 64)
    item.SoftwareVersions = plain(model.version, 64)
    item.DeviceUID = provenance.device_uid
    item.ContributionDateTime = _date_time(provenance.created)
    item.ContributionDescription = "Algorithm that made the findings"
    item.PurposeOfReferenceCodeSequence = [code_item(codes.PROCESSING_EQUIPMENT)]
    return item


def _node_equipment(provenance: Provenance) -> Dataset:
    item = Dataset()
    item.Manufacturer = NODE_MANUFACTURER
    item.ManufacturerModelName = NODE_MODEL
    item.StationName = plain(provenance.ae_title, 16)
    item.SoftwareVersions = plain(provenance.software_version, 64)
    item.DeviceUID = provenance.node_uid
    item.ContributionDateTime = _date_time(provenance.created)
    item.ContributionDescription = "Node that ran the algorithm and encoded its results"
    item.PurposeOfReferenceCodeSequence = [code_item(codes.PROCESSING_EQUIPMENT)]
    return item


def _date_time(moment: datetime) -> str:
    return moment.strftime("%Y%m%d%H%M%S.%f%z")


def algorithm_sequence(model: ModelFacts) -> AlgorithmIdentificationSequence:
    """Segmentation Algorithm Identification Sequence of a segment (PS3.3 10.16)."""
    return AlgorithmIdentificationSequence(
        name=plain(model.name, 64),
        version=plain(model.version, 64),
        family=codes.ALGORITHM_FAMILIES[model.basis],
        source=plain(model.vendor, 64),
    )


def algorithm_template(model: ModelFacts) -> AlgorithmIdentification:
    """TID 4019, Algorithm Identification, of a measurement group."""
    return AlgorithmIdentification(
        name=plain(model.name, 64),
        version=plain(model.version, 64),
        parameters=[f"basis: {model.basis}", f"SHA-256: {plain(model.digest)}"],
        family=codes.ALGORITHM_FAMILIES[model.basis],
    )


def made_here(dataset: Dataset) -> bool:
    """Whether a node of this kind made the object, by its contributing equipment (PS3.3 C.12.1).

    Args:
        dataset: Any object, as a peer sent it.
    """
    try:
        equipment = dataset.get("ContributingEquipmentSequence")
        if not isinstance(equipment, Sequence):  # a peer may have written another VR
            return False
        return any(
            item.get("Manufacturer") == NODE_MANUFACTURER
            and item.get("ManufacturerModelName") == NODE_MODEL
            for item in equipment
        )
    except Exception:  # parsed when first asked for; what this node wrote can be read
        return False
