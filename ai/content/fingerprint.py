"""What an image shows, judged from its pixels by rules that would rather say nothing than guess.

A confidence is the lowest membership of a rule (`ai.content.families`), no probability. Not judged,
since pixels alone do not tell: left from right, a contrast agent but in the vessels of a trunk on
CT and then not its phase, the pulse sequence, any part of the body but head and trunk, and the
modality of MR without a skull, NM, PET and everything else.
"""

from __future__ import annotations

from dataclasses import dataclass

from ai.content.body import Body, body_of
from ai.content.families import HU, families_of, membership
from ai.content.head import find_head
from ai.content.statistics import is_measurable
from ai.content.vessels import find_contrast
from ai.types import Volume

SURE = 0.85  # below it a person is asked
_ABSTAIN = 0.5


@dataclass(frozen=True)
class Verdict:
    """One answer.

    Attributes:
        value: The answer; None where the pixels do not tell.
        confidence: In [0, 1]; 0 without an answer.
    """

    value: str | None
    confidence: float

    @property
    def is_sure(self) -> bool:
        """Sure enough to act on without a person."""
        return self.value is not None and self.confidence >= SURE

    def __str__(self) -> str:
        if self.value is None:
            return "not told by the pixels"
        return f"{self.value} ({self.confidence:.2f})"


_NOTHING = Verdict(None, 0.0)


@dataclass(frozen=True)
class Fingerprint:
    """What the pixels say.

    Attributes:
        family: A key of `ai.content.families.MODALITIES`.
        body_part: ``head``, or ``trunk`` for a cross-section too large for a head or a limb.
        orientation: ``upright`` where a head's vertex lies towards the head as the affine has it,
            ``inverted`` where it lies towards the feet.
        contrast: ``enhanced`` where contrast medium is in the large vessels of a trunk on CT,
            ``unenhanced`` where none is.
    """

    family: Verdict
    body_part: Verdict
    orientation: Verdict
    contrast: Verdict = _NOTHING

    def as_json(self) -> dict[str, dict[str, object]]:
        """Plain values for `json`."""
        return {
            name: {"value": verdict.value, "confidence": round(verdict.confidence, 3)}
            for name, verdict in vars(self).items()
        }


def fingerprint(volume: Volume) -> Fingerprint:
    """Judge what an image shows; neither modality nor body part of the header is asked."""
    if not is_measurable(volume.voxels):
        return Fingerprint(_NOTHING, _NOTHING, _NOTHING)
    families, parts, upright = families_of(volume), {"head": 0.0, "trunk": 0.0}, 0.0
    body = body_of(volume)
    if body is not None:
        head = find_head(body, volume.units)
        families["MR"] = min(head.dark, 1.0 - families["CT"])
        parts["head"] = max(min(head.bright, families["CT"]), families["MR"])
        parts["trunk"] = _trunk(body)
        upright = head.upright
    leaning = {"upright": max(upright, 0.0), "inverted": max(-upright, 0.0)}
    family, part = _strongest(families), _strongest(parts)
    return Fingerprint(family, part, _strongest(leaning), _contrast(volume, body, family, part))


def _contrast(volume: Volume, body: Body | None, family: Verdict, part: Verdict) -> Verdict:
    # Only a trunk that is surely one, on what surely is CT, has the vessels that are looked for.
    trunk_on_ct = (family.value, part.value) == ("CT", "trunk") and family.is_sure and part.is_sure
    if body is None or not trunk_on_ct or volume.units != HU:
        return _NOTHING
    return _strongest(vars(find_contrast(volume, body)))


def _trunk(body: Body) -> float:
    """Wider and larger across than a head or a limb; what is cut by the border is larger still."""
    if body.plane not in (None, "axial"):
        return 0.0
    return min(
        membership(float(body.extent(2).max()), 220, 265),
        membership(float(body.areas.max()), 330, 420),
    )


def _strongest(memberships: dict[str, float]) -> Verdict:
    """The best, as far as the second best leaves it standing."""
    name = max(memberships, key=lambda key: memberships[key])
    rest = max((value for key, value in memberships.items() if key != name), default=0.0)
    sure = min(memberships[name], 1.0 - rest)
    return Verdict(name, sure) if sure >= _ABSTAIN else _NOTHING
