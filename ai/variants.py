"""``[[variants]]`` of ``model.toml``: the same network in another precision, for some providers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ai.tables import FileName, Number, Probability, Table

Provider = Literal["tensorrt", "cuda", "cpu"]


class Variant(Table):
    """A graph that is run in place of the model's own where one of its providers runs.

    Its inputs and outputs have the same names, shapes and types. `models verify` runs the golden
    cases with it too.

    Attributes:
        graph: The ONNX file, one of `Manifest.files`.
        precision: What its weights and sums are held in.
        providers: Where it is run.
        voxels: Share of voxels whose label may differ from the expected one, where that is more
            than a golden case allows by itself.
        relative: The same for numbers, as a share of the expected one.
    """

    graph: FileName
    precision: Literal["fp16", "int8"]
    providers: Annotated[tuple[Provider, ...], Field(min_length=1)]
    voxels: Probability = 0.0
    relative: Annotated[Number, Field(ge=0, le=1)] = 0.0
