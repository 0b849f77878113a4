"""However a batch of objects comes, each of them is stored exactly once."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import audit, audit_check, index
from storage.db import open_ledger
from storage.index import Kept
from storage.jobs import JobRequest, identity_of
from storage.records import AuditEvent, Instance, Series, Study
from tests.storage_rows import arrival, associate, digest_of, index_all

# Number of an object and of its content: the same number with another content is a revision.
objects = st.tuples(st.integers(0, 7), st.integers(0, 1))
batches = st.lists(st.lists(objects, min_size=1, max_size=6), min_size=1, max_size=6)


@pytest.mark.feature("P04")
@given(associations=batches, index_between=st.booleans())
@settings(max_examples=100, deadline=None)
def test_n_objects_end_as_n_stored_whatever_the_order_the_split_or_duplicates(
    associations: list[list[tuple[int, int]]], index_between: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = open_ledger(Path(folder))
        kept: list[Kept] = []
        for members in associations:
            association = associate(ledger)
            arrivals = [
                arrival(
                    association,
                    f"1.{number}",
                    content=f"{number}-{content}",
                    series=f"2.{number % 3}",
                    study=f"3.{number % 3 % 2}",
                )
                for number, content in members
            ]
            half = len(arrivals) // 2
            kept += index.record_arrivals(ledger, arrivals[:half])
            kept += index.record_arrivals(ledger, arrivals[half:])
            if index_between:
                index_all(ledger)
            index.close_association(ledger, association, "released")
        index_all(ledger)

        sent = [member for members in associations for member in members]
        rows = list(Instance.select())
        assert {(row.sop_instance_uid, row.digest) for row in rows} == {
            (f"1.{number}", digest_of(f"{number}-{content}")) for number, content in sent
        }
        assert len(rows) == len(set(sent)) == len(kept) - kept.count(Kept.SAME)
        assert kept.count(Kept.NEW) == len({number for number, _ in sent})
        assert sorted((row.sop_instance_uid, row.revision) for row in rows) == sorted(
            (f"1.{number}", revision)
            for number in {number for number, _ in sent}
            for revision in range(len({member for member in sent if member[0] == number}))
        )
        covering = {row.covered_by for row in rows}
        events = [e for e in audit.events() if e["action"] == "instances.received"]
        assert covering == {event["seq"] for event in events}
        assert {row.state for row in rows} == {"indexed"}
        assert sum(series.instances for series in Series.select()) == len(rows)
        assert {study.study_instance_uid for study in Study.select()} == {
            row.study_instance_uid for row in rows
        }
        assert AuditEvent.select().count() == audit_check.verify(ledger.data_dir).events
        assert audit_check.verify(ledger.data_dir).intact
        ledger.close()


texts = st.text(st.characters(codec="utf-8"), max_size=6)
plain = st.none() | st.booleans() | st.integers(-100, 100) | texts
analyses = st.fixed_dictionaries(
    {
        "node_id": texts,
        "route": texts,
        "model_digest": texts,
        "inputs": st.dictionaries(
            st.sampled_from(["image", "prior"]),
            st.lists(texts.map(digest_of), min_size=1, max_size=4, unique=True),
            min_size=1,
        ),
        "settings": st.dictionaries(texts, plain, max_size=3),
        "run_number": st.integers(0, 3),
        "mode": st.sampled_from(["live", "shadow", "offline"]),
    }
)


FIELDS = sorted(["node_id", "route", "model_digest", "inputs", "settings", "run_number", "mode"])


def identity(first_id: int = 1, **fields: Any) -> str:
    series = Series(series_instance_uid="2.1")
    rest: dict[str, Any] = {"series": series, "subject": "2.1", "model": "m", "send_to": []}
    inputs = {
        role: [Instance(id=number, digest=digest) for number, digest in enumerate(each, first_id)]
        for role, each in fields["inputs"].items()
    }
    return identity_of(JobRequest(**{**rest, **fields, "inputs": inputs}))


@pytest.mark.feature("P24")
@given(analysis=analyses, data=st.data())
@settings(max_examples=100, deadline=None)
def test_the_same_analysis_has_the_same_identity_in_any_order(
    analysis: dict[str, object], data: st.DataObject
) -> None:
    digests = {
        role: data.draw(st.permutations(each))
        for role, each in reversed(analysis["inputs"].items())  # type: ignore[attr-defined]
    }
    turned = dict(reversed(analysis["settings"].items()))  # type: ignore[attr-defined]
    again = identity(**{**analysis, "inputs": digests, "settings": turned})
    assert again == identity(**analysis)
    # Where the results go and what the inputs are called is no part of the analysis.
    assert again == identity(**analysis, send_to=["pacs"], first_id=5, subject="9")


@pytest.mark.feature("P24")
@given(one=analyses, other=analyses, field=st.sampled_from(FIELDS))
@settings(max_examples=200, deadline=None)
def test_any_change_gives_another_identity(
    one: dict[str, object], other: dict[str, object], field: str
) -> None:
    changed = {**one, field: other[field]}
    same = key(changed) == key(one)
    assert (identity(**changed) == identity(**one)) == same


def key(analysis: dict[str, object]) -> str:
    settings_of = analysis["settings"]
    inputs = analysis["inputs"]
    assert isinstance(settings_of, dict)
    assert isinstance(inputs, dict)
    by_role = sorted((role, sorted(each)) for role, each in inputs.items())
    return repr({**analysis, "settings": sorted(settings_of.items()), "inputs": by_role})
