from __future__ import annotations

import pytest
from pydicom.sr._concepts_dict import concepts
from pydicom.sr.codedict import codes

from ai.importing import deepbet, rapidocr
from ai.importing.codes import _STRUCTURES, plain, structure
from ai.importing.xrayvision import _FINDINGS
from ai.registry import Registry, bundled_models_path
from ai.tables import _SIDES


def listed(scheme: str, value: str) -> set[str]:
    """Meanings that PS3.16 gives a code, as pydicom holds its tables."""
    return {entries[value][0] for entries in concepts[scheme].values() if value in entries}


def test_every_code_is_one_of_the_standard_with_its_meaning() -> None:
    pairs = [
        (value, meaning) for entries in _STRUCTURES.values() for meaning, value in entries.items()
    ]
    assert len(pairs) > 90
    assert [pair for pair in pairs if pair[1] not in listed("SCT", pair[0])] == []
    assert all(meaning in listed("SCT", value) for value, _, meaning in _STRUCTURES)


def test_every_pathology_with_a_code_has_one_of_the_standard() -> None:
    for finding in _FINDINGS.values():
        value, scheme, meaning = finding["type"]
        assert meaning in listed(scheme, value)


def test_every_segment_has_a_category_that_the_standard_lists() -> None:
    """PS3.16 CID 7150, as pydicom holds it."""
    categories = [
        segment["category"]
        for made in (deepbet._KNOWN, rapidocr._KNOWN)
        for segment in made["output"].get("segment", {}).values()
    ]
    for package in Registry([bundled_models_path()]).packages():
        for each in package.manifest.output.segments():
            categories.append((each.category.value, each.category.scheme, each.category.meaning))
    allowed = {
        (code.value, code.scheme_designator, code.meaning)
        for code in (getattr(codes.cid7150, name) for name in codes.cid7150.dir())
    }
    assert len(categories) > 6
    assert {tuple(each) for each in categories} | set(_STRUCTURES) <= allowed


@pytest.mark.parametrize(
    ("name", "value", "side"),
    [
        ("spleen", "78961009", None),
        ("kidney_left", "64033007", 0),
        ("Right Kidney", "64033007", 1),
        ("lung_upper_lobe_right", "45653009", 1),
        ("lung_middle_lobe_right", "72481006", None),
        ("left atrium", "82471001", None),
        ("vertebrae_L5", "49668003", None),
        ("urinary_bladder", "89837001", None),
        ("oedema", "79654002", None),
    ],
)
def test_names_of_data_sets_find_their_code(name: str, value: str, side: int | None) -> None:
    found = structure(name)
    assert found["type"][:2] == [value, "SCT"]
    assert found.get("laterality", [None])[0] == (None if side is None else _SIDES[side])


@pytest.mark.parametrize(
    "name",
    [
        "ventricle",
        "left",
        "kidney left right",
        "lung_middle_lobe_left",
        "C8 vertebra",
        "",
        "class 1",
    ],
)
def test_what_a_name_does_not_tell_has_no_code(name: str) -> None:
    assert structure(name) == {}


def test_names_become_those_that_a_manifest_takes() -> None:
    assert plain("Pleural_Thickening") == "pleural thickening"
    assert plain("  --A/b (c)") == "a b c"
    assert len(plain("x" * 200)) == 64
