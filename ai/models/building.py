"""What the scripts that build the bundled models share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ai.golden import Case, write_case
from ai.seal import renew


def expected(
    name: str,
    measurements: Sequence[float] = (),
    evaluations: Sequence[str] = (),
    region: Sequence[Sequence[float]] | None = None,
) -> dict[str, Any]:
    """A finding that a golden case expects; fixed rules give no confidence.

    Args:
        name: Of the finding.
        measurements: Their values, in the manifest's order.
        evaluations: Code values of the answers, in the manifest's order.
        region: Corners as columns and rows, or None.
    """
    return {
        "name": name,
        "confidence": None,
        "measurements": list(measurements),
        "evaluations": list(evaluations),
        "region": region,
    }


def write_model(folder: Path, source: Path, graph: bytes, cases: Sequence[Case]) -> None:
    """Write a model's graph and golden cases, and its manifest with ``[files]`` renewed.

    Args:
        folder: Where to.
        source: The package that holds the manifest.
        graph: ``model.onnx``.
        cases: The golden cases.
    """
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(graph)
    for case in cases:
        write_case(folder / "golden", case)
    renew(folder, source)
