"""Page-locked memory, from which a GPU fetches tensors without a copy by the driver."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LIBRARIES = ("libcudart.so.13", "libcudart.so.12")
_KEPT = 8


class Staging:
    """Buffers that are lent to runs and used again, up to eight that nobody has.

    Args:
        runtime: The CUDA runtime's library, or None to lend nothing: arrays stay where they are.
    """

    def __init__(self, runtime: ctypes.CDLL | None) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._free: list[tuple[int, int]] = []

    @contextmanager
    def holding(self, feeds: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
        """The same tensors in page-locked memory, while the block runs.

        A tensor for which there is no such memory stays where it is.
        """
        lent: list[tuple[int, int]] = []
        held = {}
        try:
            for name, array in feeds.items():
                place = self._take(array.nbytes)
                if place is None:
                    held[name] = np.ascontiguousarray(array)
                    continue
                lent.append(place)
                held[name] = _array(place[1], array)
                np.copyto(held[name], array)
            yield held
        finally:
            self._give(lent)

    def __del__(self) -> None:
        """Gives all buffers back to the system; a run that has one holds on to this too."""
        for _, address in self._free:
            self._release(address)

    def _take(self, size: int) -> tuple[int, int] | None:
        if self._runtime is None or size == 0:
            return None
        with self._lock:
            fitting = [place for place in self._free if size <= place[0] <= 2 * size]
            if fitting:
                self._free.remove(min(fitting))
                return min(fitting)
        address = ctypes.c_void_p()
        failed = self._runtime.cudaHostAlloc(ctypes.byref(address), ctypes.c_size_t(size), 0)
        return None if failed or address.value is None else (size, address.value)

    def _give(self, lent: list[tuple[int, int]]) -> None:
        with self._lock:
            self._free += lent
            surplus, self._free = self._free[:-_KEPT], self._free[-_KEPT:]
        for _, address in surplus:
            self._release(address)

    def _release(self, address: int) -> None:
        if self._runtime is not None:
            self._runtime.cudaFreeHost(ctypes.c_void_p(address))


def cuda_staging() -> Staging:
    """Buffers of the CUDA runtime that is loaded, or none where it cannot be found."""
    for name in _LIBRARIES:
        try:
            return Staging(ctypes.CDLL(name))
        except OSError:
            continue
    return Staging(None)


def _array(address: int, like: NDArray[Any]) -> NDArray[Any]:
    memory = (ctypes.c_ubyte * (math.prod(like.shape) * like.itemsize)).from_address(address)
    return np.ctypeslib.as_array(memory).view(like.dtype).reshape(like.shape)
