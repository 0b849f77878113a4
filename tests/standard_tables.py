"""Builds ``dicomnode/results/iods.json``, the tables of the standard that the gate works by.

Source: the module tables of PS3.3 as highdicom carries them (MIT licence), for the SOP classes that
the node writes. Run ``python -m tests.standard_tables`` after an upgrade of highdicom; a test
builds the tables again and compares. Codes, content items and functional groups are left out, since
they have tables of their own beside their checks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[1] / "dicomnode" / "results" / "iods.json"

# SOP class → name of its IOD, clause of its module table.
SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.88.34": ("Comprehensive 3D SR", "A.35.13"),
    "1.2.840.10008.5.1.4.1.1.88.33": ("Comprehensive SR", "A.35.3"),
    "1.2.840.10008.5.1.4.1.1.88.11": ("Basic Text SR", "A.35.1"),
    "1.2.840.10008.5.1.4.1.1.88.59": ("Key Object Selection Document", "A.35.4"),
    "1.2.840.10008.5.1.4.1.1.66.4": ("Segmentation", "A.51"),
    "1.2.840.10008.5.1.4.1.1.66.7": ("Label Map Segmentation", "A.51"),
    "1.2.840.10008.5.1.4.1.1.30": ("Parametric Map", "A.75"),
    "1.2.840.10008.5.1.4.1.1.7": ("Secondary Capture Image", "A.8.1"),
    "1.2.840.10008.5.1.4.1.1.7.4": ("Multi-frame True Color Secondary Capture Image", "A.8.5"),
    "1.2.840.10008.5.1.4.1.1.11.1": ("Grayscale Softcopy Presentation State", "A.33.1"),
    "1.2.840.10008.5.1.4.1.1.11.2": ("Color Softcopy Presentation State", "A.33.2"),
    "1.2.840.10008.5.1.4.1.1.104.1": ("Encapsulated PDF", "A.45.1"),
}
# Where PS3.3 has the table of a module.
CLAUSES = {
    "acquisition-context": "C.7.6.14",
    "bitmap-display-shutter": "C.7.6.15",
    "bulk-motion-synchronization": "C.7.6.18.3",
    "cardiac-synchronization": "C.7.6.18.1",
    "cine": "C.7.6.5",
    "clinical-trial-series": "C.7.3.2",
    "clinical-trial-study": "C.7.2.3",
    "clinical-trial-subject": "C.7.1.3",
    "common-instance-reference": "C.12.2",
    "device": "C.7.6.12",
    "display-shutter": "C.7.6.11",
    "displayed-area": "C.10.4",
    "double-floating-point-image-pixel": "C.7.6.25",
    "encapsulated-document": "C.24.2",
    "encapsulated-document-series": "C.24.1",
    "enhanced-general-equipment": "C.7.5.2",
    "enhanced-patient-orientation": "C.7.6.30",
    "floating-point-image-pixel": "C.7.6.24",
    "frame-extraction": "C.12.3",
    "frame-of-reference": "C.7.4.1",
    "frame-pointers": "C.7.6.9",
    "general-acquisition": "C.7.10.1",
    "general-equipment": "C.7.5.1",
    "general-image": "C.7.6.1",
    "general-reference": "C.12.4",
    "general-series": "C.7.3.1",
    "general-study": "C.7.2.1",
    "graphic-annotation": "C.10.5",
    "graphic-group": "C.10.11",
    "graphic-layer": "C.10.7",
    "icc-profile": "C.11.15",
    "image-pixel": "C.7.6.3",
    "image-plane": "C.7.6.2",
    "key-object-document": "C.17.6.2",
    "key-object-document-series": "C.17.6.1",
    "mask": "C.7.6.10",
    "microscope-slide-layer-tile-organization": "C.8.12.14",
    "modality-lut": "C.11.1",
    "multi-frame": "C.7.6.6",
    "multi-frame-dimension": "C.7.6.17",
    "multi-resolution-pyramid": "C.7.11.1",
    "overlay-activation": "C.11.7",
    "overlay-plane": "C.9.2",
    "palette-color-lookup-table": "C.7.9",
    "parametric-map-image": "C.8.32.2",
    "parametric-map-series": "C.8.32.1",
    "patient": "C.7.1.1",
    "patient-study": "C.7.2.2",
    "presentation-series": "C.11.9",
    "presentation-state-identification": "C.11.10",
    "presentation-state-mask": "C.11.13",
    "presentation-state-relationship": "C.11.11",
    "presentation-state-shutter": "C.11.12",
    "respiratory-synchronization": "C.7.6.18.2",
    "sc-equipment": "C.8.6.1",
    "sc-image": "C.8.6.2",
    "sc-multi-frame-image": "C.8.6.3",
    "sc-multi-frame-vector": "C.8.6.4",
    "segmentation-image": "C.8.20.2",
    "segmentation-series": "C.8.20.1",
    "softcopy-presentation-lut": "C.11.6",
    "softcopy-voi-lut": "C.11.8",
    "sop-common": "C.12.1",
    "spatial-transformation": "C.10.6",
    "specimen": "C.7.6.22",
    "sr-document-general": "C.17.2",
    "sr-document-series": "C.17.1",
    "synchronization": "C.7.4.2",
    "voi-lut": "C.11.2",
}
# Functional groups may be shared or not, and which attributes a content item has depends on its
# value type: the flat tables of the source cannot say either.
_ELSEWHERE = ("multi-frame-functional-groups", "sr-document-content")
_DEEPEST = 4
# C.8.6.3 asks for it where there are several frames, so that of one frame it may be left out.
_CONDITIONAL = ("FrameIncrementPointer",)


def build() -> dict[str, Any]:
    """The tables: the modules of each SOP class with their usage, and their attributes by type."""
    iods = _load("sop_class_iod_map")
    modules_of = _load("iod_module_map")
    attributes_of = _load("module_attribute_map")
    classes: dict[str, Any] = {}
    modules: dict[str, Any] = {}
    for uid, (name, clause) in SOP_CLASSES.items():
        usages = {}
        for entry in modules_of[iods[uid]]:
            key = entry["key"]
            if key.endswith(_ELSEWHERE):
                continue
            usages[key] = entry["usage"]
            modules[key] = {"clause": f"PS3.3 {CLAUSES[key]}", **_attributes(attributes_of[key])}
        classes[uid] = {"name": name, "clause": f"PS3.3 {clause}", "modules": usages}
    return {"sop classes": classes, "modules": dict(sorted(modules.items()))}


def _load(name: str) -> Any:
    source = resources.files("highdicom") / "_standard" / f"{name}.json"
    return json.loads(source.read_text(encoding="utf-8"))


def _attributes(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    found = {type_: sorted(_paths(rows, type_)) for type_ in ("1", "2")}
    return {type_: paths for type_, paths in found.items() if paths}


def _paths(rows: list[dict[str, Any]], type_: str) -> Iterator[str]:
    for row in rows:
        path = row["path"]
        hidden = any(each.endswith(("CodeSequence", "ContentSequence")) for each in path)
        hidden = hidden or row["keyword"] in _CONDITIONAL
        if row["type"] == type_ and not hidden and len(path) < _DEEPEST:
            yield "/".join((*path, row["keyword"]))


if __name__ == "__main__":
    TABLE.write_text(json.dumps(build(), indent=1) + "\n", encoding="utf-8")
