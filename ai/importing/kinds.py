"""The kinds of sources, one module each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai.importing import onnx_graph
from ai.importing.draft import Draft, Options


@dataclass(frozen=True)
class Kind:
    """A kind of source.

    Attributes:
        read: Reads a source with the options and the answers of its import.
        options: The options it knows.
        about: What it is, in a few words.
    """

    read: Callable[[Path, Any, Mapping[str, Any]], Draft]
    options: type[Options]
    about: str


KINDS: Mapping[str, Kind] = {
    "onnx": Kind(onnx_graph.read, Options, "an ONNX file"),
}
