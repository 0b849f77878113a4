"""Whom and what a result is about, as plain text from the headers of its sources."""

from __future__ import annotations

import re
from datetime import date
from typing import Final

from pydicom.dataset import Dataset

_DATE: Final = re.compile(r"(\d{4})(\d{2})(\d{2})")


def stated(source: Dataset, keyword: str) -> str:
    """An attribute as text without control characters, empty where it is absent or unreadable."""
    try:
        value = source.get(keyword)
    except Exception:  # a peer's bytes, parsed when first asked for, raise what they like
        return ""
    text = "" if value is None else str(value)
    return "".join(mark if mark.isprintable() else " " for mark in text).strip()


def patient_names(source: Dataset) -> tuple[str, ...]:
    """The groups of PatientName that hold anything, in the order written (PS3.5 6.2.1.1).

    Returns:
        Alphabetic, ideographic, phonetic; family name first, components parted by ``^``.
    """
    groups = stated(source, "PatientName").split("=")
    return tuple(group.strip(" ^") for group in groups if group.strip(" ^"))


def date_of(source: Dataset, keyword: str) -> str:
    """A DA as ``YYYY-MM-DD``, empty where it is none."""
    match = _DATE.fullmatch(stated(source, keyword))
    try:
        return date(*map(int, match.groups())).isoformat() if match else ""
    except ValueError:
        return ""
