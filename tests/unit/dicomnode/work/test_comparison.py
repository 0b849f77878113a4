"""Answers of two versions on the same inputs are held against each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.work.comparison import agreement, compare
from storage.db import open_ledger
from storage.figures import Said
from storage.objects import ObjectStore
from tests.storage_rows import a_series
from tests.unit.storage.test_versus import A, B, answered


@pytest.mark.feature("F15")
def test_what_both_say_and_one_alone_is_counted(tmp_path: Path) -> None:
    ledger, store = open_ledger(tmp_path), ObjectStore(tmp_path)
    one, other = a_series(ledger, "2.1"), a_series(ledger, "2.2")
    nodule, rib = {"nodule/V": 10.0}, {"rib/V": 0.0}
    answered(
        *(ledger, one, A, Said("nodule", 0.5, measurements=nodule)),
        *(Said("nodule", 0.4), Said("rib")),
        subject="s1",
    )
    answered(ledger, one, B, Said("nodule", 0.7, measurements={"nodule/V": 8.0}), subject="s1")
    answered(ledger, other, A, Said("rib", measurements=rib), subject="s2")
    answered(ledger, other, B, Said("rib", measurements=rib), mode="shadow", subject="s2")
    found = compare(A, B, store, since=0.0, most_pairs=10)
    assert [side["runs"] for side in found["sides"]] == [2, 2]
    agreed = found["agreement"]
    assert (agreed["pairs"], agreed["same_findings"], agreed["segmentations"]) == (2, 0.5, 0)
    assert agreed["findings"]["nodule"] == {
        **{"both": 1, "one": 0, "other": 0},
        "mean_difference": pytest.approx(0.2),
    }
    rib_counts = {"both": 1, "one": 1, "other": 0, "mean_difference": None}
    assert agreed["findings"]["rib"] == rib_counts
    assert agreed["measurements"]["nodule/V"]["mean_difference"] == pytest.approx(0.2)
    assert agreed["measurements"]["rib/V"]["mean_difference"] == 0.0


def test_without_a_pair_nothing_is_claimed(tmp_path: Path) -> None:
    none = agreement([], ObjectStore(tmp_path))
    assert (none["pairs"], none["same_findings"], none["findings"]) == (0, None, {})
