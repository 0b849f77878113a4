"""What is tried when a run fails for want of memory or because its provider is gone.

Short of memory, a run is cut into halves until it fits; what is too large for a GPU by itself is
run on the CPU. A provider that fails gets one new session; when that fails too, the next provider
takes over, at last the CPU. What fails on the CPU has failed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai.loaded import LoadedModel, Tensors
from ai.session import SessionCache
from config.errors import InferenceError, OutOfMemoryError, ProviderError


@dataclass(frozen=True)
class Ran:
    """What a run gave, and the session that ran it at last."""

    tensors: Tensors
    model: LoadedModel


def run(
    sessions: SessionCache,
    model: LoadedModel,
    feeds: Mapping[str, NDArray[Any]],
    ends: float | None,
    *,
    alone: bool = False,
) -> Ran:
    """Runs a graph, and does what can be done where that fails.

    Args:
        sessions: Where other sessions of the model come from.
        model: What is to run.
        feeds: Tensors by name.
        ends: When its time is up, on the monotonic clock; None for no limit.
        alone: No other run goes on beside it.

    Raises:
        OutOfMemoryError: One item alone is too large for the CPU's memory.
        InferenceError: The time was up, or the model failed on the CPU too.
    """
    while True:
        try:
            return Ran(_in_parts(sessions, model, feeds, ends, alone), model)
        except OutOfMemoryError:
            if model.on_cpu:
                raise
            model = sessions.on_cpu(model)
        except ProviderError as error:
            # Every second failure of a provider ends its turn, so the CPU is reached.
            model = sessions.renewed(model, str(error))


def _in_parts(
    sessions: SessionCache,
    model: LoadedModel,
    feeds: Mapping[str, NDArray[Any]],
    ends: float | None,
    alone: bool,
) -> Tensors:
    items, at = model.items(feeds), 0
    parts: list[Tensors] = []
    while at < items:
        limit = model.usage.limit if model.cuttable else None
        size = min(items - at, limit or items)
        try:
            left = None if ends is None else ends - time.monotonic()
            parts.append(model.run(cut(model, feeds, at, at + size), left, alone=alone))
        except OutOfMemoryError:
            if size == 1 or not model.cuttable:
                raise
            sessions.halved(model, size)
            continue
        at += size
    return parts[0] if len(parts) == 1 else together(model, parts)


def cut(
    model: LoadedModel, feeds: Mapping[str, NDArray[Any]], start: int, stop: int
) -> Mapping[str, NDArray[Any]]:
    """Items `start` to `stop` (exclusive) of some tensors."""
    if start == 0 and stop >= model.items(feeds):
        return feeds
    return {
        name: array[start:stop] if name in model.stacked else array for name, array in feeds.items()
    }


def together(model: LoadedModel, parts: Sequence[Tensors]) -> Tensors:
    """The results of several runs, one after another.

    Raises:
        InferenceError: They do not fit together.
    """
    try:
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    except ValueError as error:
        text = f"{model.reference} gave runs of one input other shapes, which do not fit together"
        raise InferenceError(text) from error
