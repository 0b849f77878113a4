"""Nothing that names a patient or an instance reaches a log."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import re
import stat
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pydicom.config
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from config.errors import SeriesError, StorageError
from config.redact import Redactor, configure_logging, identifying, load_key

KEY = bytes(range(32))
UID = "1.2.826.0.1.3680043.8.498.11057545"
NAME = "Surname^Given Middle"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, sys.excepthook, threading.excepthook)
    libraries = {name: logging.getLogger(name).level for name in ("pydicom", "pynetdicom")}
    for name in libraries:
        logging.getLogger(name).setLevel(logging.NOTSET)
    yield io.StringIO()
    for name, level in libraries.items():
        logging.getLogger(name).setLevel(level)
    root.handlers[:], root.level = before[0], before[1]
    sys.excepthook, threading.excepthook = before[2], before[3]
    logging.captureWarnings(False)
    structlog.reset_defaults()
    for package in ("ai", "config", "dicomnode", "storage"):
        logging.getLogger(package).setLevel(logging.NOTSET)


@pytest.fixture
def events(stream: io.StringIO) -> Any:
    configure_logging("info", True, Redactor(KEY), stream)

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    return read


def test_a_token_is_short_stable_and_keyed() -> None:
    assert re.fullmatch("[0-9a-f]{10}", Redactor(KEY).token(UID))
    assert Redactor(KEY).token(UID) == Redactor(KEY).token(UID)
    assert Redactor(KEY).token(UID) != Redactor(bytes(32)).token(UID)
    assert Redactor(KEY).token(UID) != Redactor(KEY).token(UID + "1")


@pytest.mark.parametrize(
    "key",
    [
        *("sop_instance_uid", "StudyInstanceUID", "uid", "series_uids", "patient", "patient_id"),
        *("PatientName", "PatientBirthDate", "OtherPatientIDs", "IssuerOfPatientID", "mrn"),
        *("AccessionNumber", "accession", "StudyID", "ReferringPhysicianName", "OperatorsName"),
        *("InstitutionName", "requesting_physician"),
    ],
)
def test_keys_of_identifiers_are_known(key: str) -> None:
    assert identifying(key)


@pytest.mark.parametrize(
    "key", ["route", "model", "seconds", "ae_title", "job_id", "fluid", "count"]
)
def test_other_keys_are_left(key: str) -> None:
    assert not identifying(key)


@pytest.mark.parametrize(
    "text",
    ["1.2.840.10008.5.1.4.1.1.2", "onnxruntime 1.31.1", "from 192.168.10.20:104", "took 12.25 s"],
)
def test_what_names_no_instance_stays_readable(text: str) -> None:
    assert Redactor(KEY).text(text) == text


@pytest.mark.feature("P40")
@pytest.mark.parametrize(
    "text",
    [
        UID,
        f"stored {UID}.",
        f"CT.{UID}.dcm",
        "2.25.329800735698586629295641978511506172918",
        "x1.2.3.4.5",
    ],
)
def test_a_uid_anywhere_in_a_text_becomes_its_token(text: str) -> None:
    (uid,) = re.findall(r"\d+(?:\.\d+){2,}", text)
    assert Redactor(KEY).text(text) == text.replace(uid, f"#{Redactor(KEY).token(uid)}")


UIDS = st.lists(st.integers(0, 10**12), min_size=4, max_size=9).map(
    lambda parts: ".".join(str(part) for part in [1, *parts])
)
AROUND = st.text(st.characters(exclude_categories=["Nd"], exclude_characters=".^"), max_size=12)


@pytest.mark.feature("P40")
@settings(max_examples=200, deadline=None)
@given(before=AROUND, uid=UIDS, after=AROUND, foreign=st.booleans())
def test_no_uid_survives_in_any_text(before: str, uid: str, after: str, foreign: bool) -> None:
    clean = Redactor(KEY).text(f"{before}{uid}{after}", foreign=foreign)
    assert uid not in clean
    assert clean.isprintable() or all(not re.match(r"[\x00-\x1f\x7f-\x9f]", c) for c in clean)


@pytest.mark.feature("P40")
@settings(max_examples=200, deadline=None)
@given(
    value=st.recursive(
        st.one_of(st.text(), st.none(), st.booleans(), st.integers(), st.floats(), st.binary()),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
        max_leaves=8,
    )
)
def test_any_value_becomes_one_line_of_json(value: object) -> None:
    line = json.dumps(Redactor(KEY).value("detail", value), ensure_ascii=False, allow_nan=False)
    assert len(line.splitlines()) == 1


@pytest.mark.feature("P40")
def test_an_event_keeps_its_meaning_and_loses_its_identifiers(events: Any) -> None:
    log = structlog.get_logger("dicomnode.net")
    log.info(
        "stored",
        sop_instance_uid=UID,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        patient={"id": 4711, "names": [NAME]},
        detail={"StudyInstanceUID": UID, "note": f"see {UID}", "who": NAME},
        calling_ae="CT1\nlevel=critical",
        seconds=0.25,
        slices=32,
        dataset=Dataset(),
        path=Path("/data") / UID,
        long="x" * 5000,
    )
    (event,) = events()
    token = f"#{Redactor(KEY).token(UID)}"
    assert event["sop_instance_uid"] == token
    assert event["sop_class_uid"] == "1.2.840.10008.5.1.4.1.1.2"
    assert event["detail"]["StudyInstanceUID"] == token
    assert event["detail"]["note"] == f"see {token}"
    assert event["calling_ae"] == "CT1\\nlevel=critical"
    assert (event["seconds"], event["slices"]) == (0.25, 32)
    assert event["dataset"] == "<Dataset>"
    assert event["path"] == f"/data/{token}"
    assert event["long"].endswith("… (3000 more)")
    assert (event["level"], event["logger"]) == ("info", "dicomnode.net")
    moment = datetime.fromisoformat(event["time"])
    assert event["time"].endswith("Z")
    assert moment.utcoffset() is not None
    text = json.dumps(event)
    assert all(secret not in text for secret in (UID, "Surname", "Given", "Middle", "4711"))


@pytest.mark.feature("P40")
def test_an_exception_is_shown_without_locals_source_or_quoted_values(events: Any) -> None:
    def fail(secret: str) -> None:
        try:
            raise ValueError(f"Invalid value for VR LO: {secret!r}")
        except ValueError as error:
            raise SeriesError("gap", f"slices of {UID} have a gap") from error

    try:
        fail("4711-0815")
    except SeriesError:
        structlog.get_logger("dicomnode.work").exception("job failed")
    (event,) = events()
    assert event["event"] == "job failed"
    assert event["error"].startswith(
        f"SeriesError: slices of #{Redactor(KEY).token(UID)} have a gap"
    )
    assert "caused by ValueError: Invalid value for VR LO: '#" in event["error"]
    assert "test_redact.py:" in event["error"]
    assert all(secret not in json.dumps(event) for secret in (UID, "4711", "secret"))


@pytest.mark.feature("P40")
def test_libraries_and_warnings_pass_the_same_way(
    events: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.WARN)
    logging.getLogger("pynetdicom.assoc").info("below the level")
    logging.getLogger("pynetdicom.assoc").warning("peer sent '%s' for %s", "4711", UID)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        Dataset().StudyInstanceUID = "Surname_4711"
    refused, logged, warned = events()
    token = Redactor(KEY).token
    assert refused["event"] == f"peer sent '#{token('4711')}' for #{token(UID)}"
    assert (refused["logger"], refused["level"]) == ("pynetdicom.assoc", "warning")
    assert (logged["logger"], warned["logger"]) == ("pydicom", "py.warnings")
    for event in (logged, warned):
        assert "Invalid value for VR UI: '#" in event["event"]
        assert "4711" not in json.dumps(event)


@pytest.mark.feature("P40")
def test_what_nobody_caught_in_a_thread_is_an_event(events: Any) -> None:
    def fail() -> None:
        raise RuntimeError(f"lost {UID}")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    (event,) = events()
    assert event["level"] == "critical"
    assert event["error"].startswith(f"RuntimeError: lost #{Redactor(KEY).token(UID)}")


def test_a_record_that_cannot_be_written_out_is_named_without_its_contents(
    stream: io.StringIO,
) -> None:
    configure_logging("info", False, Redactor(KEY), stream)
    logging.getLogger("pydicom").warning("%d slices of %s", "4711", NAME)
    assert stream.getvalue() == 'level=error event="a log event was lost: TypeError"\n'


def test_the_plain_form_is_one_line_of_pairs(stream: io.StringIO) -> None:
    configure_logging("warning", False, Redactor(KEY), stream)
    log = structlog.get_logger("storage.objects")
    log.info("too quiet")
    log.error("no\nroom", free=5)
    assert re.fullmatch(
        r'time=\S+Z level=error logger=storage.objects event="?no\\n?room"? free=5\n',
        stream.getvalue().replace("\\\\n", "\\n"),
    )


def keys_of(folder: str, count: int) -> list[bytes]:
    context = multiprocessing.get_context("spawn")
    with context.Pool(count) as pool:
        return pool.map(load_key, [Path(folder)] * count, chunksize=1)


def test_processes_that_start_together_share_one_private_key(tmp_path: Path) -> None:
    keys = keys_of(str(tmp_path), 4)
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32
    path = tmp_path / "keys" / "redaction.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["redaction.key"]


def test_threads_that_race_for_the_first_key_get_one(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    keys: list[bytes] = []

    def ask() -> None:
        barrier.wait()
        keys.append(load_key(tmp_path))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "redaction.key").write_bytes(b"short")
    with pytest.raises(StorageError, match="5 bytes instead of 32"):
        load_key(tmp_path)


@pytest.mark.feature("P40")
@pytest.mark.parametrize(
    "name", [NAME.partition(" ")[0], "Yamada^Tarou=山田^太郎", "O'Neil^Ann", "^^^Dr^"]
)
def test_a_persons_name_in_a_text_becomes_a_token(name: str) -> None:
    clean = Redactor(KEY).text(f"no match for {name}, twice")
    assert clean.startswith("no match for ")
    assert not set(re.split(r"[\^=']", name)) & set(re.split(r"\W+", clean)) - {"", "O"}
