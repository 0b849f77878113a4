"""Buffers lent to runs: what is copied into them, and what becomes of them."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from ai.pinned import Staging


class Runtime:
    """The two calls of CUDA, on memory of this process."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held: dict[int, Any] = {}

    def cudaHostAlloc(self, address: Any, size: ctypes.c_size_t, flags: int) -> int:  # noqa: N802
        if len(self.held) >= self.most:
            return 2  # cudaErrorMemoryAllocation
        memory = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(memory)
        self.held[address._obj.value] = memory
        return 0

    def cudaFreeHost(self, address: ctypes.c_void_p) -> int:  # noqa: N802
        del self.held[address.value]
        return 0


def feeds() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    turned = random.normal(size=(3, 4, 5)).astype(np.float32).transpose(2, 0, 1)
    return {"a": turned, "b": np.array([1.0, 2.0], np.float32)}


def test_a_buffer_holds_the_tensor_and_is_used_again() -> None:
    runtime = Runtime(8)
    staging = Staging(runtime)  # type: ignore[arg-type]
    for _ in range(3):
        with staging.holding(feeds()) as held:
            for name, array in feeds().items():
                assert np.array_equal(held[name], array)
                assert held[name].flags.c_contiguous
                assert held[name].ctypes.data in runtime.held
    assert len(runtime.held) == 2


@pytest.mark.parametrize("runtime", [None, Runtime(0)])
def test_without_such_memory_tensors_stay_where_they_are(runtime: Any) -> None:
    with Staging(runtime).holding(feeds()) as held:
        for name, array in feeds().items():
            assert np.array_equal(held[name], array)
            assert held[name].flags.c_contiguous


def test_few_buffers_are_kept_and_all_are_given_back_at_the_end() -> None:
    runtime = Runtime(100)
    staging = Staging(runtime)  # type: ignore[arg-type]
    many = {str(n): np.ones(100 * (n + 1), np.float32) for n in range(20)}
    with staging.holding(many):
        assert len(runtime.held) == 20
    assert len(runtime.held) == 8
    del staging
    assert not runtime.held
