"""Which part of the body an image shows, in the two ways that results must say it."""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicomnode.results.content import items_of
from dicomnode.results.provenance import code_item

# PS3.16 Annex L, Table L-1: defined terms of Body Part Examined and their codes.
BODY_PARTS: Final = {
    "ABDOMEN": Code("818981001", "SCT", "Abdomen"),
    "ABDOMENPELVIS": Code("818982008", "SCT", "Abdomen and Pelvis"),
    "ANKLE": Code("70258002", "SCT", "Ankle joint"),
    "BRAIN": Code("12738006", "SCT", "Brain"),
    "BREAST": Code("76752008", "SCT", "Breast"),
    "CALF": Code("53840002", "SCT", "Calf of leg"),
    "CHEST": Code("816094009", "SCT", "Chest"),
    "CHESTABDOMEN": Code("416550000", "SCT", "Chest and Abdomen"),
    "CHESTABDPELVIS": Code("416775004", "SCT", "Chest, Abdomen and Pelvis"),
    "CSPINE": Code("122494005", "SCT", "Cervical spine"),
    "ELBOW": Code("16953009", "SCT", "Elbow joint"),
    "EXTREMITY": Code("66019005", "SCT", "Extremity"),
    "FOOT": Code("56459004", "SCT", "Foot"),
    "FOREARM": Code("14975008", "SCT", "Forearm"),
    "HAND": Code("85562004", "SCT", "Hand"),
    "HEAD": Code("69536005", "SCT", "Head"),
    "HEADNECK": Code("774007", "SCT", "Head and Neck"),
    "HEART": Code("80891009", "SCT", "Heart"),
    "HIP": Code("24136001", "SCT", "Hip joint"),
    "KIDNEY": Code("64033007", "SCT", "Kidney"),
    "KNEE": Code("72696002", "SCT", "Knee"),
    "LIVER": Code("10200004", "SCT", "Liver"),
    "LSPINE": Code("122496007", "SCT", "Lumbar spine"),
    "NECK": Code("45048000", "SCT", "Neck"),
    "PELVIS": Code("816092008", "SCT", "Pelvis"),
    "PROSTATE": Code("41216001", "SCT", "Prostate"),
    "SHOULDER": Code("16982005", "SCT", "Shoulder"),
    "SKULL": Code("89546000", "SCT", "Skull"),
    "SPINE": Code("421060004", "SCT", "Spine"),
    "THIGH": Code("68367000", "SCT", "Thigh"),
    "THYROID": Code("69748006", "SCT", "Thyroid"),
    "TSPINE": Code("122495006", "SCT", "Thoracic spine"),
    "WHOLEBODY": Code("38266002", "SCT", "Entire body"),
    "WRIST": Code("74670003", "SCT", "Wrist joint"),
}
_UNKNOWN: Final = "WHOLEBODY"


def body_part(source: Dataset) -> str:
    """Body Part Examined of a source where it is one of `BODY_PARTS`, else the whole body."""
    said = str(source.get("BodyPartExamined") or "").strip()
    return said if said in BODY_PARTS else _UNKNOWN


def frame_anatomy(source: Dataset) -> Dataset:
    """The item of a Frame Anatomy Sequence for results of a source (PS3.3 C.7.6.16.2.8).

    Its region is the source's own code where it has one; its side is "U", unpaired, where the
    source names none.
    """
    item = Dataset()
    side = source.get("ImageLaterality") or source.get("Laterality")
    item.FrameLaterality = side if side in ("R", "L", "B") else "U"
    regions = items_of(source, "AnatomicRegionSequence")
    own = regions[0] if regions else None
    if own is not None and own.get("CodeValue") and own.get("CodingSchemeDesignator"):
        code = Code(own.CodeValue, own.CodingSchemeDesignator, own.get("CodeMeaning") or "-")
    else:
        code = BODY_PARTS[body_part(source)]
    item.AnatomicRegionSequence = [code_item(code)]
    return item
