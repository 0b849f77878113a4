"""The part of the gate that asks whose an object is and whether it says that AI made it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from dicomnode.lossy import is_lossy
from dicomnode.results import codes
from dicomnode.results.content import code_of, items_of, walk
from dicomnode.results.document import INHERITED, LOSS
from dicomnode.results.proof import GateFinding, ProofContext
from dicomnode.results.provenance import WARNING, made_here
from dicomnode.results.structure import is_report, is_segmentation

_DEVICE_UID: Final = "IHE RAD TF-2 AIR, Contributing Equipment"


def check_identity(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    """Patient, study and frame of reference are the source's, the UIDs are the job's.

    Args:
        dataset: An object of the bundle, read back.
        context: Sources and job.
    """
    source = context.sources[0]
    for keyword in INHERITED:
        if _comparable(dataset, keyword) != _comparable(source, keyword):
            clause = "PS3.3 C.7.1.1 and C.7.2.1"
            yield GateFinding("identity", clause, f"{keyword} is not the source's")
    # A heat map must have one, also where its source has none (PS3.3 A.75.3).
    own = context.provenance.uid(f"{context.kind}/frame of reference")
    if "FrameOfReferenceUID" in dataset and (
        dataset.FrameOfReferenceUID != (source.get("FrameOfReferenceUID") or own)
    ):
        text = "FrameOfReferenceUID is not the source's"
        yield GateFinding("identity", "PS3.3 C.7.4.1", text)
    for keyword, role in (("SOPInstanceUID", "instance"), ("SeriesInstanceUID", "series")):
        if dataset.get(keyword) != context.provenance.uid(f"{context.kind}/{role}"):
            text = f"{keyword} is not the one this job gives"
            yield GateFinding("identity", "PS3.5 B.2", text)
    yield from _check_time(dataset, context)
    if "Rows" in dataset:
        yield from _check_loss(dataset, context)


def _check_loss(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    # PS3.3 C.8.20.2: what the source images state of their loss is passed on.
    inputs = (*context.sources, *context.provenance.others)
    lossy = [each for each in inputs if is_lossy(each)]
    if lossy and str(dataset.get("LossyImageCompression")) != "01":
        text = "LossyImageCompression does not say what was done to the source"
        yield GateFinding("identity", "PS3.3 C.7.6.1.1.5", text)
    for keyword in LOSS:
        stated = {_comparable(each, keyword) for each in lossy if each.get(keyword)}
        if stated and _comparable(dataset, keyword) not in stated:
            yield GateFinding("identity", "PS3.3 C.8.20.2", f"{keyword} is not a source's")


def _check_time(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    parts = [dataset.get(each) for each in ("ContentDate", "ContentTime", "TimezoneOffsetFromUTC")]
    if not all(parts):
        return  # named as missing by its module
    date, time, zone = (str(part) for part in parts)
    try:
        moment = datetime.strptime(f"{date}{time.partition('.')[0]}{zone}", "%Y%m%d%H%M%S%z")
    except ValueError:
        moment = None
    if moment != context.provenance.created.replace(microsecond=0):
        text = "content date and time are not those of the job"
        yield GateFinding("identity", "PS3.3 C.12.1.1.8", text)


def _comparable(dataset: Dataset, keyword: str) -> object:
    # An absent value and an empty one say the same (type 2).
    value = dataset.get(keyword)
    if isinstance(value, Items):
        return [item.to_json_dict() for item in value] or ""
    return "" if value is None else str(value)


def check_label(dataset: Dataset) -> Iterator[GateFinding]:
    """An object says that an algorithm made it, and a report that nobody has verified it.

    Args:
        dataset: A result of any kind.
    """
    equipment = items_of(dataset, "ContributingEquipmentSequence")
    wanted = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceUID")
    processing = (codes.PROCESSING_EQUIPMENT.value, codes.PROCESSING_EQUIPMENT.scheme_designator)
    if not any(
        code_of(item, "PurposeOfReferenceCodeSequence") == processing
        and all(item.get(keyword) for keyword in wanted)
        for item in equipment
    ):
        text = "no contributing equipment names the algorithm with version and device UID"
        yield GateFinding("label", _DEVICE_UID, text)
    if is_segmentation(dataset):
        types = [item.get("SegmentAlgorithmType") for item in items_of(dataset, "SegmentSequence")]
        if any(each not in ("AUTOMATIC", "SEMIAUTOMATIC") for each in types):
            text = "a segment is not marked as made by an algorithm"
            yield GateFinding("label", "PS3.3 C.8.20.4", text)
    if is_report(dataset):
        if dataset.get("VerificationFlag") != "UNVERIFIED":
            text = "the report is not marked UNVERIFIED"
            yield GateFinding("label", "PS3.3 C.17.2", text)
        texts = (str(item.get("TextValue", "")) for item in walk(dataset))
        if not any(WARNING in text for text in texts):
            text = "the report does not say that it needs validation by a licensed professional"
            yield GateFinding("label", "P21", text)


def check_algorithm(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    """The contributing equipment is this node and this very model.

    Args:
        dataset: An object of the bundle, read back.
        context: The job.
    """
    if not made_here(dataset):
        yield GateFinding("label", "PS3.3 C.12.1", "this node is no contributing equipment")
    devices = {
        str(item.get("DeviceUID")) for item in items_of(dataset, "ContributingEquipmentSequence")
    }
    if context.provenance.device_uid not in devices:
        yield GateFinding("label", _DEVICE_UID, "the device UID is not that of the model")
