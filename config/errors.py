"""Every error the node raises on purpose.

    MedAIError
    ├── SettingsError          the settings file is wrong; carries every fault found
    ├── UsageError             a command was asked for something that cannot be
    ├── InputError             a file or data set cannot be taken
    │   ├── UnreadableError    the system refused to read it; another time it may not
    │   ├── NotDicomError      it is not DICOM at all
    │   └── MalformedError     it is DICOM that breaks its own encoding rules
    ├── SeriesError            a series cannot be given to a model; carries a reason code
    │   └── ContentError       its pixels do not show what the model is for
    ├── ModelError
    │   ├── ManifestError      model.toml is wrong; carries every fault found
    │   ├── ModelFileError     a file of the package is missing or its SHA-256 differs
    │   └── InferenceError     the model ran and gave no usable answer; says whether to try again
    │       ├── OutOfMemoryError  a run asked for more memory than there is
    │       └── ProviderError     what runs the model failed, whatever it was given
    ├── GateError              a result object failed its proof; carries the findings
    ├── StorageError
    │   ├── OutOfSpaceError    below the free-space mark
    │   ├── DatabaseVersionError  the database was written by a newer release
    │   └── StaleStateError    a row was no longer in the state a change started from
    ├── PeerError              an association or request failed at the other side
    └── AuditError             the audit chain cannot be read or continued

The text of an error is a plain sentence without patient identifiers, fit for a log line or a
terminal; what a caller needs to act on is a field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class MedAIError(Exception):
    """Base of every error the node raises on purpose."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong in a settings file or a manifest.

    Attributes:
        where: File and line, ``medai_node.toml:12``; the variable's name for the environment.
        key: Dotted path of the key, ``node.port``.
        found: What stands there, as text; secrets are never quoted.
        allowed: What may stand there, and the nearest known key for an unknown one.
    """

    where: str
    key: str
    found: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: found {self.found}; {self.allowed}"


class _FaultsError(MedAIError):
    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class SettingsError(_FaultsError):
    """The settings file or an override is wrong."""


class UsageError(MedAIError):
    """A command was asked for something that cannot be."""


class InputError(MedAIError):
    """A file or data set cannot be taken."""


class UnreadableError(InputError):
    """The system refused to read a file; that says nothing about what is in it."""


class NotDicomError(InputError):
    """The bytes are not DICOM."""


class MalformedError(InputError):
    """The bytes break the encoding rules of PS3.5 or contradict themselves.

    Attributes:
        offset: Byte offset in the data set where the walk stopped, if known.
    """

    def __init__(self, message: str, offset: int | None = None) -> None:
        self.offset = offset
        super().__init__(message if offset is None else f"{message} (at byte {offset})")


class SeriesError(MedAIError):
    """A series cannot be given to a model.

    Attributes:
        reason: Short stable code such as ``gap`` or ``no-position``.
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class ContentError(SeriesError):
    """The pixels do not show what the model is for."""

    def __init__(self, message: str) -> None:
        super().__init__("content", message)


class ModelError(MedAIError):
    """A model package or its run is at fault.

    Attributes:
        by: ``name@version`` of the one at fault, where it is another than was to answer.
    """

    by: str | None = None


class ManifestError(_FaultsError, ModelError):
    """A ``model.toml`` is wrong."""


class ModelFileError(ModelError):
    """A file of a model package is missing or is not the one the manifest names."""


class InferenceError(ModelError):
    """The model ran, or was to run, and gave no usable answer.

    Attributes:
        retry: Another attempt may end otherwise.
    """

    def __init__(self, message: str, *, retry: bool = True) -> None:
        self.retry = retry
        super().__init__(message)


class OutOfMemoryError(InferenceError):
    """A run asked for more memory than there is."""


class ProviderError(InferenceError):
    """A run failed on an execution provider beside the CPU."""


class GateError(MedAIError):
    """A result object failed its proof and must not leave the node.

    Attributes:
        findings: One sentence each, with the clause it comes from.
    """

    def __init__(self, findings: Sequence[str]) -> None:
        self.findings = tuple(findings)
        super().__init__("; ".join(self.findings))


class StorageError(MedAIError):
    """Objects or the database cannot be read or written."""


class OutOfSpaceError(StorageError):
    """The file system is below the free-space mark."""


class DatabaseVersionError(StorageError):
    """The database was written by a newer release."""


class StaleStateError(StorageError):
    """A row was no longer in the state a change started from; another process moved it."""


class PeerError(MedAIError):
    """An association or a request failed at the other side.

    Attributes:
        status: The DIMSE status, where the peer answered with one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class AuditError(MedAIError):
    """The audit chain cannot be read or continued."""
