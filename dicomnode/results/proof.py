"""What every check of the gate takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from ai.types import Answer, Volume
from dicomnode.results.provenance import Provenance


@dataclass(frozen=True)
class GateFinding:
    """One thing wrong with a written object.

    Attributes:
        code: Short stable name, ``structure``, ``value``, ``reference``, ``template``,
            ``content``, ``geometry``, ``coordinates``, ``identity`` or ``label``.
        clause: Where the rule comes from.
        text: One sentence without values of the patient.
    """

    code: str
    clause: str
    text: str

    def __str__(self) -> str:
        return f"{self.code}: {self.text} ({self.clause})"


@dataclass(frozen=True)
class ProofContext:
    """What a written object is held against.

    Attributes:
        kind: Which kind of result the object is in its bundle.
        answer: What the model said.
        volume: The primary input, ``(slices, rows, columns)``.
        sources: Header data sets, one a slice, in the volume's order; see `dicomnode.frames`.
        provenance: What the objects were made with.
        bundle: Every object of the bundle, read back, by kind.
    """

    kind: str
    answer: Answer
    volume: Volume
    sources: Sequence[Dataset]
    provenance: Provenance
    bundle: Mapping[str, Dataset]


Check = Callable[[Dataset, ProofContext], Iterator[GateFinding]]
