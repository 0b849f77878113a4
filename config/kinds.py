"""The kinds of value that settings are made of, and the base of their tables."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

RESTART: dict[str, Any] = {"restart": True}


def _ae_title(value: str) -> str:
    # PS3.5 6.2, VR AE: 1 to 16 characters of the default repertoire, no backslash or control
    # characters, leading and trailing spaces not significant, all spaces forbidden.
    if not re.fullmatch(r"[\x20-\x5b\x5d-\x7e]{1,16}", value) or not value.strip():
        raise ValueError("not an AE title")
    return value.strip()


def _network(value: str) -> str:
    return str(ipaddress.ip_network(value, strict=False))


def _address(value: str) -> str:
    return str(ipaddress.ip_address(value))


def _fingerprint(value: str) -> str:
    digits = value.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError("not a SHA-256 fingerprint")
    return digits


def in_words(words: str, **more: Any) -> dict[str, Any]:
    """The extra of a field that says in plain English what it lets through."""
    return {"words": words, **more}


AETitle = Annotated[
    str,
    AfterValidator(_ae_title),
    Field(json_schema_extra=in_words("1 to 16 printable ASCII characters, no backslash")),
]
Network = Annotated[
    str,
    AfterValidator(_network),
    Field(json_schema_extra=in_words("an address or a network such as 10.1.2.0/24")),
]
Address = Annotated[
    str,
    AfterValidator(_address),
    Field(json_schema_extra=in_words("an IP address; 0.0.0.0 or :: for all interfaces")),
]
# RFC 1123 2.1, and the colons of an IPv6 address; the underscore is met in practice.
Host = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9:][A-Za-z0-9_.:-]{0,252}$",
        json_schema_extra=in_words("a host name or an IP address"),
    ),
]
# PS3.5 9.1: components of digits without leading zeros, 64 characters at most.
UID = Annotated[
    str,
    Field(
        pattern=r"^[0-2](\.(0|[1-9][0-9]*))+$",
        max_length=64,
        json_schema_extra=in_words("a UID, at most 64 digits and dots"),
    ),
]
Port = Annotated[int, Field(ge=0, le=65535)]
Fingerprint = Annotated[
    str,
    AfterValidator(_fingerprint),
    Field(
        json_schema_extra=in_words("a SHA-256 fingerprint, 64 hexadecimal digits, colons allowed")
    ),
]
Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$",
        json_schema_extra=in_words("1 to 64 letters, digits, spaces, dots, hyphens or underscores"),
    ),
]
Seconds = Annotated[float, Field(ge=0, le=86400)]
# In no order; what each is and what stands in for it: docs/results.md.
ResultKind = Literal[
    "sr",
    "sr-comprehensive",
    "sr-basic",
    "seg",
    "labelmap",
    "fractional",
    "saliency",
    "overlay",
    "gsps",
    "ko",
    "pdf",
]
# What is done where the pixels do not show what a model is for.
ContentCheck = Literal["skip", "warn", "off"]


class Section(BaseModel):
    """A table of the file: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")
