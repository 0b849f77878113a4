"""Lettering in the pixels of an image, found by one network and read by another.

What is read stays in memory: it may name the patient, so callers keep at most how much it is and
which attributes of the header it repeats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ai.engine import Engine
from ai.masks import bounds, parts
from ai.package import Package
from ai.preprocess import resample
from ai.types import Volume
from config.errors import ModelFileError

READER = "reader.onnx"
_CHARACTERS = "character"  # of the graph's own facts: one a line, in the order of its scores
_MOST_FRAMES = 3
_MOST_PIECES = 200  # a frame; beyond them it is a page of text, and that is known by then
_HEIGHT = 48  # pixels that the reader sees
_WIDEST = 1600
_LEAST_PIXELS = 24
_MARGIN = 0.4  # of a piece's height: what is found is the middle of its letters
SURE = 0.8

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Piece:
    """One piece of lettering.

    Attributes:
        text: As it was read.
        confidence: Mean over its characters, in [0, 1].
    """

    text: str
    confidence: float

    @property
    def is_lettering(self) -> bool:
        """Three letters or digits at least, surely read; less is often a mark or a vessel."""
        return self.confidence >= SURE and sum(map(str.isalnum, self.text)) >= 3


class Reader:
    """Reads pieces of lettering.

    Args:
        package: Holds `READER` beside the graph that finds them.

    Raises:
        ModelFileError: It does not, or that is no such graph.
    """

    def __init__(self, package: Package) -> None:
        reference = package.manifest.reference
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            content = package.read(READER)
            self._session = ort.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
            facts = self._session.get_modelmeta().custom_metadata_map
            # CTC: the first score is that of no character, the last that of a space.
            self._characters = ["", *facts[_CHARACTERS].splitlines(), " "]
        except ModelFileError:
            raise
        except Exception as error:  # the runtime's errors have no base class but this
            raise ModelFileError(f"{READER} of {reference} reads no lettering") from error

    def read(self, piece: Plane) -> Piece:
        """One piece of lettering, ``(rows, columns)`` from 0, black, to 1."""
        width = min(_WIDEST, max(_HEIGHT, round(_HEIGHT * piece.shape[1] / piece.shape[0])))
        scale = (1.0, piece.shape[0] / _HEIGHT, piece.shape[1] / width)
        scaled = resample(piece[None], scale, (1, _HEIGHT, width)) * 2.0 - 1.0
        image = np.repeat(scaled[None], 3, axis=1)
        (scores,) = self._session.run(None, {self._session.get_inputs()[0].name: image})
        best = scores[0].argmax(axis=1)
        fresh = np.concatenate([[True], best[1:] != best[:-1]]) & (best > 0)
        if not fresh.any():
            return Piece("", 0.0)
        text = "".join(self._characters[index] for index in best[fresh])
        return Piece(text, float(scores[0].max(axis=1)[fresh].mean()))


def read_lettering(
    package: Package, engine: Engine, reader: Reader, volume: Volume
) -> Iterator[Piece]:
    """What is written in an image: in all of a few slices, or in the first, middle and last.

    Args:
        package: Finds lettering: its segment 1.
        engine: Runs it.
        reader: Reads what is found.
        volume: The image.

    Raises:
        ModelError: The package's files are wrong, or it gave no usable answer.
    """
    count = len(volume.voxels)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _MOST_FRAMES)).round().astype(int))
    frames = replace(volume, voxels=volume.voxels[chosen], rgb=None)
    labels = engine.run(package, {package.manifest.input.role: frames}).labels
    if labels is None:
        raise ModelFileError(f"{package.manifest.reference} gives no labels to read")
    for plane, found in zip(frames.voxels, labels, strict=True):
        yield from _pieces(_shown(plane.astype(np.float32)), found == 1, reader)


def _pieces(plane: Plane, found: NDArray[np.bool_], reader: Reader) -> Iterator[Piece]:
    pieces = parts(found[None], "corners")
    large = [number for number, size in enumerate(pieces.sizes, 1) if size >= _LEAST_PIXELS]
    for number in large[:_MOST_PIECES]:
        box = bounds(pieces.numbers == number)
        assert box is not None  # noqa: S101 - each part holds a voxel
        rows, columns = box[1], box[2]
        margin = round(_MARGIN * (rows.stop - rows.start)) + 1
        piece = plane[
            max(0, rows.start - margin) : rows.stop + margin,
            max(0, columns.start - margin) : columns.stop + margin,
        ]
        yield reader.read(piece)


def _shown(plane: Plane) -> Plane:
    low, high = float(plane.min()), float(plane.max())
    scaled: Plane = (plane - low) / (high - low if high > low else 1.0)
    return scaled
