"""Whose studies are, by keyed digests, and the earlier ones, read when a model asks for them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path

import structlog
from pydicom.dataset import Dataset

from ai.registry import Registry
from config.errors import InputError
from config.redact import load_key
from dicomnode.results.provenance import made_here
from dicomnode.series.headers import read_header
from dicomnode.series.priors import Entries, patient_of
from dicomnode.series.unit import explain_unit, units_of
from storage import studies
from storage.objects import ObjectStore
from storage.records import Instance, Study

log = structlog.get_logger(__name__)

MOST_EARLIER = 10
"""Earlier studies that are looked through for what a model wants."""


class Patients:
    """Digests of patients, comparable within one node.

    Args:
        data_dir: The node's data folder, which holds its key.
    """

    def __init__(self, data_dir: Path) -> None:
        self._key = load_key(data_dir)

    def digest(self, header: Dataset) -> str | None:
        """Of the Patient ID and its issuer, 64 hexadecimal digits; None where there is no ID."""
        patient = patient_of(header)
        if patient is None:
            return None
        content = "\n".join(patient).encode("utf-8", "surrogatepass")
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()


class EarlierStudies:
    """The earlier studies of a patient, the newest first, each read when it is asked for.

    Attributes:
        rows: The instances of those that were read, by their files.
    """

    def __init__(self, study: Study, store: ObjectStore, registry: Registry) -> None:
        self.rows: dict[Path, Instance] = {}
        self._store = store
        self._registry = registry
        self._read: list[Entries] = []
        self._unread = iter(studies.earlier_to(study, MOST_EARLIER))

    def __iter__(self) -> Iterator[Entries]:
        yield from self._read
        for study in self._unread:
            entries = self._entries(study)
            self._read.append(entries)
            yield entries

    def _entries(self, study: Study) -> Entries:
        headers: dict[Path, Dataset] = {}
        for row in studies.answered_instances_of(study.study_instance_uid):
            path = self._store.path(row.object_key)
            try:
                headers[path] = read_header(path)
            except InputError as error:  # another study, or another series, may be whole
                log.error("instance.unreadable", instance=row.id, why=str(error))
                continue
            self.rows[path] = row
        units = units_of(list(headers), list(headers.values()))
        return [explain_unit(unit, (), self._registry, made_here) for unit in units]
