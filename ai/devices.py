"""Execution providers: what was asked for, what can be had on this machine, and why not the rest.

The runtime's own lists name CUDA and TensorRT wherever it was built with them, driver or not, and
it falls back to the CPU in silence. Here each provider is tried by loading what it links to.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from ai.variants import Provider

Asked = Literal["auto"] | Sequence[Provider]

NAMES: dict[Provider, str] = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
SHORT: dict[str, Provider] = {name: provider for provider, name in NAMES.items()}
_LIBRARIES: dict[Provider, tuple[str, ...]] = {
    "tensorrt": ("libnvinfer.so.10", "libonnxruntime_providers_tensorrt.so"),
    "cuda": ("libonnxruntime_providers_cuda.so",),
    "cpu": (),
}
QUIET, WARNING = 4, 2


def order(asked: Asked) -> tuple[Provider, ...]:
    """Providers to try, best first; the CPU is always the last.

    Args:
        asked: As the settings say it; ``auto`` is CUDA before the CPU.
    """
    listed: Sequence[Provider] = ("cuda",) if asked == "auto" else asked
    return tuple(dict.fromkeys((*listed, "cpu")))


def spelt(asked: Asked) -> str:
    """What was asked for, in words: ``auto``, ``tensorrt, cuda``."""
    return "auto" if asked == "auto" else ", ".join(asked)


@cache
def why_not(provider: Provider) -> str | None:
    """Why a provider cannot be used on this machine, or None when all it links to loads."""
    if provider == "cpu":
        return None
    if NAMES[provider] not in ort.get_available_providers():
        return f"this runtime was built without {provider}"
    folder = Path(ort_state.__file__).parent
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1)"
    try:
        if hasattr(ort, "preload_dlls"):
            with quiet():
                ort.preload_dlls()
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), ctypes.RTLD_GLOBAL)
        for name in _LIBRARIES[provider]:
            own = folder / name
            ctypes.CDLL(str(own) if own.exists() else name)
    except OSError as error:
        # The loader's text begins with the library that is missing; what follows may be a path.
        missing = Path(str(error).split(":", maxsplit=1)[0]).name
        return f"a library of {provider} cannot be loaded ({missing})"
    return None


def cuda_loads() -> bool:
    """Whether the CUDA provider and all it links to can be loaded on this machine."""
    return why_not("cuda") is None


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the runtime from writing to the standard error while sessions are made."""
    ort.set_default_logger_severity(QUIET)
    try:
        yield
    finally:
        ort.set_default_logger_severity(WARNING)


@cache
def processor() -> str:
    """Names the instruction set that compiled graphs are made for, as a digest of its flags."""
    told = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("ascii", errors="replace").splitlines()
        told += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        told += platform.processor()
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def free_memory() -> int | None:
    """Bytes that this process may still take: of the machine, its container and its own limit.

    None where the system does not say.
    """
    known = [entry for entry in (_machine(), _container(), _own_limit()) if entry is not None]
    return max(0, min(known)) if known else None


def _machine() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text("ascii")
    except OSError:
        return None
    line = next((each for each in text.splitlines() if each.startswith("MemAvailable:")), None)
    return None if line is None else int(line.split()[1]) * 1024


def _container() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text("ascii").strip()
        used = int((folder / "memory.current").read_text("ascii"))
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) - used


def _own_limit() -> int | None:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    except OSError:
        return limit
    return limit - pages * os.sysconf("SC_PAGE_SIZE")
