"""The one place where what goes to logs and metrics loses its identifiers.

Every log event of the node and of the libraries it uses passes `Redactor` before it is written:
UIDs and identifiers become short keyed digests, control characters are escaped, long values are
cut, and exceptions are shown without source lines and local values.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import math
import numbers
import os
import re
import secrets
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, MutableMapping
from enum import Enum
from pathlib import Path
from typing import Any, TextIO

import structlog

from config.errors import MedAIError, StorageError

KEY_BYTES = 32
LONGEST_VALUE = 2000
OUR_PACKAGES = ("ai", "config", "dicomnode", "storage")

_DEEPEST = 6
_MOST_FRAMES = 12

# Keys whose values name a patient, a visit, a person or an instance, whatever they look like.
_IDENTIFYING = re.compile(
    r"(^|_)(uids?|mrn|names?_of_.*|issuer.*)$"
    r"|^(patient|accession|other_patient|referring|requesting|performing|reading|operators?"
    r"|physicians?|admission|institution|responsible)(_|$)"
    r"|^(study|request|requested_procedure|scheduled_procedure_step|filler_.*|placer_.*)_id$"
    r"|birth",
)
_NUMBERS = re.compile(r"(?<!\d)\d+(?:\.\d+){2,}")
# UIDs of the standard itself (PS3.6 Annex A) name kinds of things, never things.
_STANDARD = re.compile(r"1\.2\.840\.10008(?:\.\d{1,3}){1,9}")
# What may hold a person's name, whose components PS3.5 6.2 parts by ^.
_WORD = re.compile(r"[^\s'\"=,;()]+")
_QUOTED = re.compile(r"'([^'\n]+)'|\"([^\"\n]+)\"")
# Controls, line and paragraph separators, changes of writing direction, lone surrogates.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Redactor:
    """Turns values into what may be logged. A structlog processor.

    Args:
        key: Secret of the node; digests of different nodes cannot be compared.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def token(self, value: str) -> str:
        """A short keyed digest: 10 hexadecimal digits, the same for the same value and key."""
        digest = hmac.new(self._key, value.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return digest.hexdigest()[:10]

    def text(self, value: str, *, foreign: bool = False) -> str:
        """A text without UIDs, names of persons and control characters, on one line.

        Args:
            value: Any text.
            foreign: It was written by a library, which quotes values of data sets: what stands in
                quotes is replaced too.
        """
        cut = len(value) - LONGEST_VALUE
        value = value[:LONGEST_VALUE]
        if foreign:
            value = _QUOTED.sub(lambda match: f"'{self._marked(match[1] or match[2])}'", value)
        value = _NUMBERS.sub(lambda match: self._uid(match[0]), value)
        value = _WORD.sub(lambda match: self._word(match[0]), value)
        value = _CONTROL.sub(_escaped, value)
        return f"{value}… ({cut} more)" if cut > 0 else value

    def value(self, key: str, value: Any, depth: int = 0) -> Any:
        """What may be logged of a value under a key.

        Args:
            key: Name of the value, in snake_case or as a DICOM keyword.
            value: Anything; of kinds that are not plain data only the type is shown.
            depth: How deep in lists and tables it lies.
        """
        if isinstance(value, Mapping) and depth < _DEEPEST:
            return {
                self.text(str(name)): self.value(
                    key if identifying(key) else str(name), entry, depth + 1
                )
                for name, entry in value.items()
            }
        if isinstance(value, (list, tuple, set, frozenset)) and depth < _DEEPEST:
            return [self.value(key, entry, depth + 1) for entry in value]
        if value is None or isinstance(value, bool):
            return value
        if identifying(key):
            known = isinstance(value, str) and _STANDARD.fullmatch(value)
            return value if known else self._marked(str(value))
        return self._plain(value)

    def _plain(self, value: Any) -> Any:
        if isinstance(value, Enum):
            value = value.value
        if isinstance(value, numbers.Integral):
            return int(value)
        if isinstance(value, numbers.Real):
            return float(value) if math.isfinite(value) else str(float(value))
        if isinstance(value, (str, Path)):
            # A caret parts the components of a person's name, which may hold spaces too.
            return self._marked(str(value)) if "^" in str(value) else self.text(str(value))
        if isinstance(value, BaseException):
            return self.exception(value)
        return f"<{type(value).__name__}>"

    def exception(self, error: BaseException) -> str:
        """An exception with its causes and places, innermost place last, on one line."""
        parts: list[str] = []
        seen: set[int] = set()
        current: BaseException | None = error
        while current is not None and id(current) not in seen:
            seen.add(id(current))
            message = self.text(str(current), foreign=not isinstance(current, MedAIError))
            frames = traceback.extract_tb(current.__traceback__)[-_MOST_FRAMES:]
            at = " > ".join(f"{_short(frame.filename)}:{frame.lineno}" for frame in frames)
            parts.append(f"{type(current).__name__}: {message}" + (f" [{at}]" if at else ""))
            hidden = current.__suppress_context__
            current = current.__cause__ or (None if hidden else current.__context__)
        return "; caused by ".join(parts)

    def __call__(
        self, logger: Any, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Redact a whole event; structlog calls it."""
        own = event.pop("_from_structlog", True)
        record = event.pop("_record", None)
        if record is not None:
            event.setdefault("logger", record.name)
        event.pop("stack_info", None)
        error = _error(event.pop("exc_info", None))
        clean: dict[str, Any] = {"event": self.text(str(event.pop("event", "")), foreign=not own)}
        for key, value in event.items():
            clean[_CONTROL.sub(_escaped, key)] = self.value(key, value)
        if error is not None:
            clean["error"] = self.exception(error)
        return clean

    def _uid(self, number: str) -> str:
        """A dotted number; versions and addresses stay, what may name an instance does not."""
        parts = number.split(".")
        if _STANDARD.fullmatch(number) or (len(parts) < 5 and max(map(len, parts)) < 6):
            return number
        return self._marked(number)

    def _word(self, word: str) -> str:
        return self._marked(word) if "^" in word and word.strip("^") else word

    def _marked(self, value: str) -> str:
        return f"#{self.token(value)}"


def identifying(key: str) -> bool:
    """Whether values under a key are identifiers, whatever they look like.

    Args:
        key: In snake_case or as a DICOM keyword, ``PatientID``.
    """
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", key).lower()
    return _IDENTIFYING.search(snake) is not None


def configure_logging(
    level: str, json: bool, redactor: Redactor, stream: TextIO | None = None
) -> None:
    """Send every event of this process, ours and the libraries', through the redactor.

    One line an event. Ours from `level` on, those of libraries and Python's warnings from WARNING
    on. Exceptions that nobody caught, in threads too, become events as well.

    Args:
        level: ``debug``, ``info``, ``warning``, ``error`` or ``critical``.
        json: JSON lines; otherwise ``key=value`` pairs.
        redactor: With the key of this node.
        stream: Where lines go; standard error when None.
    """
    stamp: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    order = ["time", "level", "logger", "event"]
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if json
        else structlog.processors.LogfmtRenderer(key_order=order, drop_missing=True)
    )
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[redactor, renderer], foreign_pre_chain=stamp
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for package in OUR_PACKAGES:
        logging.getLogger(package).setLevel(level.upper())
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            *stamp,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    sys.excepthook = lambda kind, error, trace: _uncaught(error)
    threading.excepthook = lambda args: _uncaught(args.exc_value)


def load_key(data_dir: Path) -> bytes:
    """The redaction key of a node, made on first use.

    Several processes may ask at once; all get the same key.

    Args:
        data_dir: The node's folder; the key is ``keys/redaction.key`` in it, mode 0600.

    Raises:
        StorageError: The file cannot be read or made, or is no key.
    """
    path = data_dir / "keys" / "redaction.key"
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create(path, secrets.token_bytes(KEY_BYTES))
        key = path.read_bytes()
    except OSError as error:
        raise StorageError(f"the redaction key {path}: {error.strerror}") from error
    if len(key) != KEY_BYTES:
        raise StorageError(f"the redaction key {path} has {len(key)} bytes instead of {KEY_BYTES}")
    return key


def _create(path: Path, content: bytes) -> None:
    """Make a file whole or not at all; the first of several processes wins."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # mode 0600
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, path)  # unlike a rename, never replaces
        except FileExistsError:
            return
    finally:
        os.unlink(name)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines; a record it cannot render is named without its contents."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        # The standard library prints the message and its arguments here, unredacted.
        kind = sys.exc_info()[0]
        name = kind.__name__ if kind else "an error"
        with contextlib.suppress(OSError, ValueError):  # the stream itself is gone or closed
            self.stream.write(f'level=error event="a log event was lost: {name}"{self.terminator}')
            self.flush()


def _uncaught(error: BaseException | None) -> None:
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return
    structlog.get_logger("dicomnode").critical("nobody caught an exception", exc_info=error)


def _error(info: Any) -> BaseException | None:
    if isinstance(info, BaseException):
        return info
    if isinstance(info, tuple):
        return info[1] if isinstance(info[1], BaseException) else None
    return sys.exc_info()[1] if info else None


def _short(filename: str) -> str:
    return "/".join(Path(filename).parts[-2:])


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
