"""From PyTorch to ONNX, and whether both say the same."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from ai.importing.descriptions import one_line
from ai.importing.extra import need
from config.errors import ModelFileError

OPSET = 18
# What a network raises whose arguments do not fit, or ask for more memory than there is.
REFUSALS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError),
    *(TypeError, ValueError),
)
# What a checkpoint calls the parameters it holds beside other things.
_STATES = ("model", "state_dict", "model_state_dict", "network_weights", "network")


@dataclass(frozen=True)
class Shape:
    """What a network takes.

    Attributes:
        channels: Of each of its inputs; more than one input are joined along the channels.
        sizes: Of the spatial axes, as an example.
        fixed: The graph takes these sizes only.
    """

    channels: tuple[int, ...]
    sizes: tuple[int, ...]
    fixed: bool


def load_state(path: Path, classes: Sequence[Any] = ()) -> Any:
    """What a checkpoint holds, read without running anything in it.

    Args:
        path: A file of ``torch.save``.
        classes: Classes it may hold beside tensors and plain containers.

    Raises:
        ModelFileError: It holds other Python objects, or is no such file.
    """
    torch = need("torch")
    try:
        with torch.serialization.safe_globals(list(classes)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's errors, zip's and the unpickler's own have no common base
        raise ModelFileError(
            f"{path.name} is no plain checkpoint: it is damaged, or holds Python objects, which "
            "are not loaded because that would run what they say; save its state_dict() instead"
        ) from error


def parameters(held: Any, path: Path) -> dict[str, Any]:
    """The parameters in what `load_state` gave.

    Raises:
        ModelFileError: There are none.
    """
    torch = need("torch")
    if isinstance(held, torch.nn.Module):
        held = held.state_dict()
    for name in _STATES:
        if isinstance(held, dict) and isinstance(held.get(name), dict):
            held = held[name]
    if not isinstance(held, dict) or not held or not all(map(torch.is_tensor, held.values())):
        raise ModelFileError(f"{path.name} holds no parameters of a network")
    return held


def fill(network: Any, state: dict[str, Any], path: Path) -> Any:
    """Gives a network its parameters, every one of them and no other.

    Raises:
        ModelFileError: Names or shapes differ.
    """
    bare = {
        name.removeprefix("module.").removeprefix("_orig_mod."): each
        for name, each in state.items()
    }
    try:
        network.load_state_dict(bare)
    except RuntimeError as error:
        reason = one_line(error, 300)
        raise ModelFileError(f"{path.name} does not fit the network: {reason}") from error
    return network.eval()


def load_script(path: Path) -> Any:
    """A TorchScript network.

    Raises:
        ModelFileError: It is none.
    """
    torch = need("torch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own loader is deprecated and the only one
            return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise ModelFileError(f"{path.name} is no TorchScript") from error


def export(network: Any, tensors: Sequence[str], shape: Shape, path: Path, tolerance: float) -> str:
    """Writes a network as ONNX and compares both on random input.

    Inputs are called `tensors`, the output ``scores``; the first axis of each is any number, and
    the spatial axes too unless they are fixed.

    Returns:
        A sentence with the largest difference.

    Raises:
        ModelFileError: It cannot be exported, or the graph says something else.
    """
    torch = need("torch")
    # A script of one input is written as it is: the tracer does not follow one into another module.
    as_is = isinstance(network, torch.jit.ScriptModule) and len(tensors) == 1
    joined = network if as_is else _joined(network)
    example = _random(shape, shape.sizes, 0)
    stream = io.BytesIO()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tracing; what it may break is compared below
            torch.onnx.export(
                *(joined, tuple(map(torch.from_numpy, example)), stream),
                input_names=list(tensors),
                output_names=["scores"],
                dynamic_axes=_axes(tensors, shape),
                opset_version=OPSET,
                dynamo=False,
            )
    except Exception as error:  # the exporter's errors have no common base
        reason = one_line(error, 300)
        raise ModelFileError(f"the network cannot be written as ONNX: {reason}") from error
    path.write_bytes(stream.getvalue())
    images = [_random(shape, sizes, seed) for seed, sizes in enumerate(_trials(shape), 1)]
    return compared(joined, path, tensors, images, tolerance)


def compared(
    network: Any, path: Path, tensors: Sequence[str], trials: Sequence[list[Any]], tolerance: float
) -> str:
    """Says by how much a graph differs from a network, at the worst of some inputs.

    Raises:
        ModelFileError: By more than the tolerance.
    """
    largest = max(_difference(network, path, tensors, images) for images in trials)
    if largest > tolerance:
        raise ModelFileError(
            f"the ONNX graph differs from the network by {largest:.1e} of the largest score, "
            f"more than {tolerance:.1e}"
        )
    return (
        f"the ONNX graph differs from the network by {largest:.1e} of the largest score on random "
        f"input; {tolerance:.1e} is allowed"
    )


def _joined(network: Any) -> Any:
    """A module of one output, whose inputs are the channels of the network."""
    torch = need("torch")

    class Joined(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *images: Any) -> Any:
            scores = self.network(torch.cat(images, 1) if len(images) > 1 else images[0])
            # Deep supervision gives a list, the full resolution first.
            return scores[0] if isinstance(scores, list | tuple) else scores

    return Joined().eval()


def _axes(tensors: Sequence[str], shape: Shape) -> dict[str, dict[int, str]]:
    letters = ("D", "H", "W")[3 - len(shape.sizes) :]
    spatial = {} if shape.fixed else {at: f"{axis}" for at, axis in enumerate(letters, 2)}
    return {name: {0: "N", **spatial} for name in tensors} | {"scores": {0: "N"}}


def _trials(shape: Shape) -> list[tuple[int, ...]]:
    """Sizes to compare at: where they are free, other ones too."""
    longer = (2 * shape.sizes[0], *shape.sizes[1:])
    return [shape.sizes] if shape.fixed else [shape.sizes, longer]


def _random(shape: Shape, sizes: tuple[int, ...], seed: int) -> list[Any]:
    random = np.random.default_rng(seed)
    return [
        random.standard_normal((1 + seed, channels, *sizes)).astype(np.float32)
        for channels in shape.channels
    ]


def _difference(network: Any, path: Path, tensors: Sequence[str], images: list[Any]) -> float:
    torch = need("torch")
    with torch.no_grad():
        wanted = network(*map(torch.from_numpy, copy.deepcopy(images))).numpy()
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    try:
        (given,) = session.run(None, dict(zip(tensors, images, strict=True)))
    except Exception as error:  # the runtime's errors have no base class but this
        raise ModelFileError("the ONNX graph does not run at other sizes") from error
    if given.shape != wanted.shape:
        raise ModelFileError(f"the ONNX graph gives {given.shape}, the network {wanted.shape}")
    return relative(given, wanted)


def relative(given: Any, wanted: Any) -> float:
    """Largest difference as a share of the largest number of either."""
    largest = max(float(np.abs(given).max()), float(np.abs(wanted).max()))
    return float(np.abs(given - wanted).max()) / largest if largest else 0.0
