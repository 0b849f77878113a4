"""Part 10 bytes of a result, the same for the same data set."""

from __future__ import annotations

from io import BytesIO

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicomnode.results.uids import result_uid

# PS3.7 D.3.3.2: names this implementation, not an instance of it.
IMPLEMENTATION_CLASS_UID = result_uid("medai-node", "implementation")
IMPLEMENTATION_VERSION_NAME = "MEDAI_NODE_0"


def to_bytes(dataset: Dataset) -> bytes:
    """A data set as a Part 10 file in Explicit VR Little Endian (PS3.10 7.1).

    The data set itself is left as it is; its own file meta information, if any, is not used.

    Args:
        dataset: With SOPClassUID and SOPInstanceUID; native pixel data, if any, little endian.

    Returns:
        Preamble, file meta information and data set; equal for equal data sets.

    Raises:
        AttributeError: The data set has no SOP class or instance UID.
    """
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    # A shallow copy, since pydicom writes the file meta that hangs on the data set.
    written = Dataset(dataset)
    written.file_meta = meta
    written.preamble = b"\0" * 128
    buffer = BytesIO()
    dcmwrite(buffer, written, enforce_file_format=True, little_endian=True, implicit_vr=False)
    return buffer.getvalue()
