"""Is an image what it is taken for? What the header and the model say against what pixels show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ai.content.families import MODALITIES
from ai.content.fingerprint import Fingerprint
from ai.tables import Table

BodyPart = Literal["head", "trunk"]


class Content(Table):
    """``[inputs.content]``: what the pixels of an input must show; one of them at least is given.

    Attributes:
        body_part: ``head``; ``trunk`` for chest, abdomen or pelvis.
        contrast: Whether contrast medium is wanted in the large vessels of a trunk on CT.
    """

    body_part: Annotated[tuple[BodyPart, ...] | None, Field(min_length=1)] = None
    contrast: bool | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.body_part is None and self.contrast is None:
            raise ValueError("give body_part, contrast or both")
        return self


@dataclass(frozen=True)
class Said:
    """What the header says of an image.

    Attributes:
        modality: ``CT``.
        body_part: ``head``, ``trunk``, ``other`` for any part that is neither; None where it does
            not say.
        contrast: Whether it names an agent that was given into a vessel.
    """

    modality: str
    body_part: str | None = None
    contrast: bool = False


@dataclass(frozen=True)
class Remark:
    """Why an image may not be what it is taken for.

    Attributes:
        sure: The pixels contradict; where not, they only fail to show what they must.
        text: One plain sentence.
        stops: It keeps the model from running where a route is strict; else it only warns.
    """

    sure: bool
    text: str
    stops: bool = True

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
        "enhanced": "contrast medium in the large vessels",
        "unenhanced": "no contrast medium in the large vessels",
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
        None if wanted is None else _contrast(found, said, wanted),
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
    if wanted.body_part is None:
        return None
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


def _contrast(found: Fingerprint, said: Said, wanted: Content) -> Remark | None:
    """Asked only where a model says which it wants: to others either is as good."""
    shown = found.contrast
    if wanted.contrast is None or shown.value is None:
        return None
    enhanced = shown.value == "enhanced"
    seen = f"the pixels show {_NAMES[shown.value]} ({shown.confidence:.2f})"
    if enhanced != wanted.contrast:
        wish = "some" if wanted.contrast else "none"
        return Remark(shown.is_sure, f"{seen}, where the model wants {wish}", shown.is_sure)
    if enhanced != said.contrast and shown.is_sure:
        # Many a scanner names the agent of a study in its series without it, or names none at all.
        names = "an agent" if said.contrast else "no agent given into a vessel"
        return Remark(True, f"{seen}, where the header names {names}", False)
    return None
