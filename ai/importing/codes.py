"""Codes for the names that data sets give to what they label.

Only what PS3.16 lists under the same meaning is here; what a name does not tell for certain is
asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Code = tuple[str, str, str]

_ANATOMY: Code = ("91723000", "SCT", "Anatomical Structure")
_TISSUE: Code = ("85756007", "SCT", "Tissue")
_SUBSTANCE: Code = ("91720002", "SCT", "Body Substance")
_ABNORMAL: Code = ("49755003", "SCT", "Morphologically Abnormal Structure")
_LEFT: Code = ("7771000", "SCT", "Left")
_RIGHT: Code = ("24028007", "SCT", "Right")
_LUNG: Code = ("39607008", "SCT", "Lung")

# Meaning of PS3.16 → its code; the name of a structure is its meaning in lower case.
_STRUCTURES: Mapping[Code, Mapping[str, str]] = {
    _ANATOMY: {
        **{"Adrenal gland": "23451007", "Aorta": "15825003", "Bladder": "89837001"},
        **{"Brain": "12738006", "Brain Stem": "119238007", "Breast": "76752008"},
        **{"Bronchus": "955009", "Caudate Nucleus": "11000004", "Cerebellum": "113305005"},
        **{"Clavicle": "51299004", "Colon": "71854001", "Common carotid artery": "32062004"},
        **{"Common iliac artery": "73634005", "Common iliac vein": "46027005"},
        **{"Costal Cartilage": "50016007", "Duodenum": "38848004", "Esophagus": "32849002"},
        **{"Eye": "81745001", "Femur": "71341001", "Gallbladder": "28231008"},
        **{"Heart": "80891009", "Hepatic vein": "8993003", "Hippocampus": "5366008"},
        **{
            "Humerus": "85050009",
            "Iliac artery": "10293006",
            "Inferior vena cava": "64131007",
            "Kidney": "64033007",
        },
        **{"Larynx": "4596009", "Left atrium": "82471001", "Left ventricle": "87878005"},
        **{"Liver": "10200004", "Lower lobe of lung": "90572001", "Lung": "39607008"},
        **{"Mandible": "91609006", "Mediastinum": "72410000", "Optic chiasm": "244453006"},
        **{"Pancreas": "15776009", "Parotid gland": "45289007", "Pharynx": "54066008"},
        **{"Portal vein": "32764006", "Prostate": "41216001", "Pulmonary artery": "81040000"},
        **{"Putamen": "89278009", "Rectum": "34402009", "Rib": "113197003"},
        **{"Right atrium": "73829009", "Right ventricle": "53085002", "Sacrum": "54735007"},
        **{"Scapula": "79601000", "Skull": "89546000", "Small intestine": "30315005"},
        **{"Spinal cord": "2748008", "Spleen": "78961009", "Sternum": "56873002"},
        **{"Stomach": "69695003", "Subclavian artery": "36765005"},
        **{"Submandibular gland": "54019009", "Superior vena cava": "48345005"},
        **{"Thyroid": "69748006", "Trachea": "44567001", "Upper lobe of lung": "45653009"},
        **{"Uterus": "35039007", "Vertebra": "51282000", "Middle lobe of right lung": "72481006"},
        **{"C1 vertebra": "14806007", "C2 vertebra": "39976000", "C3 vertebra": "113205007"},
        **{"C4 vertebra": "5329002", "C5 vertebra": "36978003", "C6 vertebra": "36054005"},
        **{"C7 vertebra": "87391001", "T1 vertebra": "64864005", "T2 vertebra": "53733008"},
        **{"T3 vertebra": "1626008", "T4 vertebra": "73071006", "T5 vertebra": "56401006"},
        **{"T6 vertebra": "45296009", "T7 vertebra": "62487009", "T8 vertebra": "11068009"},
        **{"T9 vertebra": "82687006", "T10 vertebra": "7610001", "T11 vertebra": "12989004"},
        **{"T12 vertebra": "23215003", "L1 vertebra": "66794005", "L2 vertebra": "14293000"},
        **{"L3 vertebra": "36470004", "L4 vertebra": "11994002", "L5 vertebra": "49668003"},
    },
    _TISSUE: {
        **{"Bone": "3138006", "Fat": "55603005", "Gray Matter": "389081007"},
        **{"Muscle": "91727004", "Soft tissue": "87784001", "White Matter": "389080008"},
        "Skeletal muscle": "127954009",
    },
    _SUBSTANCE: {"Cerebrospinal Fluid": "65216001"},
    _ABNORMAL: {
        **{"Cyst": "367643001", "Edema": "79654002", "Hemorrhage": "50960005"},
        **{"Lesion": "52988006", "Mass": "4147007", "Necrosis": "6574001"},
        **{"Nodule": "27925004", "Tumor": "108369006", "Pleural effusion": "60046008"},
        **{"Pneumothorax": "36118008", "Pulmonary edema": "19242006", "Fibrosis": "112674009"},
    },
}

# Names of public data sets, sides taken away, that mean one of the above.
_SYNONYMS: Mapping[str, str] = {
    "brainstem": "brain stem",
    "csf": "cerebrospinal fluid",
    "gall bladder": "gallbladder",
    "grey matter": "gray matter",
    "lung lower lobe": "lower lobe of lung",
    "lung upper lobe": "upper lobe of lung",
    "oedema": "edema",
    "postcava": "inferior vena cava",
    "prostate gland": "prostate",
    "small bowel": "small intestine",
    "thyroid gland": "thyroid",
    "tumour": "tumor",
    "urinary bladder": "bladder",
}
_SIDES: Mapping[str, Code] = {"left": _LEFT, "right": _RIGHT}


def plain(name: str) -> str:
    """A name as ``model.toml`` takes it: lower case, digits, spaces and hyphens."""
    return " ".join(re.sub(r"[^a-z0-9-]+", " ", name.lower()).split()).lstrip("- ")[:64].strip()


def structure(name: str) -> dict[str, Any]:
    """``category``, ``type`` and perhaps ``laterality`` for the name of a structure.

    Empty where the name is not known for certain.
    """
    words = plain(name).split()
    sides = [word for word in words if word in _SIDES]
    known = _found(" ".join(words))
    if known or len(sides) != 1:
        return known
    rest = " ".join(word for word in words if word not in _SIDES)
    if rest == "lung middle lobe" and sides == ["right"]:
        return _found("middle lobe of right lung")
    known = _found(rest)
    return {**known, "laterality": list(_SIDES[sides[0]])} if known else {}


def _found(name: str) -> dict[str, Any]:
    vertebra = re.fullmatch(r"vertebrae? ([ctl]\d+|s1)", name)
    wanted = f"{vertebra[1]} vertebra" if vertebra else _SYNONYMS.get(name, name)
    for category, entries in _STRUCTURES.items():
        for meaning, value in entries.items():
            if meaning.lower() == wanted:
                return {"category": list(category), "type": [value, "SCT", meaning]}
    return {}
