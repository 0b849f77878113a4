"""Whether a series that is no sound volume is several sound ones.

Two acquisitions, phases, echoes or diffusion weightings in one series lie at the same places or
between each other. That is no gap and no duplicate: nothing is wrong but that they are several.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset

from dicomnode.series.geometry import Reason, examine
from dicomnode.series.headers import texts

# What tells the volumes of one series apart, the most telling first.
_TELLING = (
    ("TemporalPositionIndex", "time points"),
    ("TemporalPositionIdentifier", "time points"),
    ("TriggerTime", "cardiac phases"),
    ("EchoTime", "echo times"),
    ("DiffusionBValue", "diffusion weightings"),
    ("StackID", "stacks"),
    ("ImageType", "kinds of image"),
    ("ConvolutionKernel", "reconstructions"),
    ("AcquisitionNumber", "acquisitions"),
    ("ImageOrientationPatient", "planes"),
)


def several_volumes(headers: Sequence[Dataset]) -> Reason | None:
    """Say which attribute parts the slices into sound volumes, or None where none does.

    Args:
        headers: One a slice.

    Raises:
        MalformedError: An attribute is broken.
    """
    for keyword, what in _TELLING:
        parts: dict[tuple[str, ...], list[Dataset]] = {}
        for header in headers:
            parts.setdefault(texts(header, keyword), []).append(header)
        if 1 < len(parts) <= len(headers) // 2 and all(
            len(part) > 1 and not examine(part).reasons for part in parts.values()
        ):
            return Reason(
                "several-volumes",
                f"{len(parts)} volumes lie in one series, each sound by itself: "
                f"they are different {what} ({keyword})",
            )
    return None
