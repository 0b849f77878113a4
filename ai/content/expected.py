"""Is an image what it is taken for? What the header and the model say against what pixels show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field

from ai.content.families import MODALITIES
from ai.content.fingerprint import Fingerprint
from ai.tables import Table

BodyPart = Literal["head", "trunk"]


class Content(Table):
    """``[inputs.content]``: what the pixels of an input must show.

    Attributes:
        body_part: ``head``; ``trunk`` for chest, abdomen or pelvis.
    """

    body_part: Annotated[tuple[BodyPart, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Said:
    """What the header says of an image.

    Attributes:
        modality: ``CT``.
        body_part: ``head``, ``trunk``, ``other`` for any part that is neither; None where it does
            not say.
    """

    modality: str
    body_part: str | None = None


@dataclass(frozen=True)
class Remark:
    """Why an image may not be what it is taken for.

    Attributes:
        sure: The pixels contradict; where not, they only fail to show what they must.
        text: One plain sentence.
    """

    sure: bool
    text: str

    def __str__(self) -> str:
        return self.text


_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "CT": "CT",
        "MR": "MR",
        "radiograph": "a radiograph",
        "screen": "a picture of a screen, as ultrasound and secondary captures are",
        "head": "a head",
        "trunk": "a trunk",
    }
)


def remarks(found: Fingerprint, said: Said, wanted: Content | None) -> tuple[Remark, ...]:
    """What stands against taking an image for what its header and the model say.

    Args:
        found: What its pixels show.
        said: What its header says.
        wanted: What the model's manifest asks for, if it does.
    """
    given = [
        _family(found, said),
        _said_part(found, said),
        None if wanted is None else _wanted_part(found, wanted),
        _orientation(found),
    ]
    return tuple(remark for remark in given if remark is not None)


def _family(found: Fingerprint, said: Said) -> Remark | None:
    family = found.family
    if family.value is None or not family.is_sure or said.modality in MODALITIES[family.value]:
        return None
    seen = f"{_NAMES[family.value]} ({family.confidence:.2f})"
    return Remark(True, f"the pixels look like {seen}, where the header says {said.modality}")


def _said_part(found: Fingerprint, said: Said) -> Remark | None:
    part = found.body_part
    if part.value is None or not part.is_sure or said.body_part in (None, part.value):
        return None
    seen = f"{_NAMES[part.value]} ({part.confidence:.2f})"
    return Remark(True, f"the pixels show {seen}, where the header names another body part")


def _wanted_part(found: Fingerprint, wanted: Content) -> Remark | None:
    part, names = found.body_part, " or ".join(_NAMES[each] for each in wanted.body_part)
    if part.value in wanted.body_part and part.is_sure:
        return None
    if part.value is None:
        return Remark(
            False, f"the pixels do not tell whether this is {names}, which the model wants"
        )
    seen = f"{_NAMES[part.value]} ({part.confidence:.2f})"
    if part.value in wanted.body_part:
        return Remark(False, f"the pixels look like {seen}, not sure enough for the model")
    return Remark(part.is_sure, f"the pixels show {seen}, where the model wants {names}")


def _orientation(found: Fingerprint) -> Remark | None:
    if found.orientation.value != "inverted" or not found.orientation.is_sure:
        return None
    return Remark(True, "the vertex of the head lies towards the feet as the header has it")
