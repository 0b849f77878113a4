"""The networks that nnU-Net plans name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ai.importing.descriptions import one_line
from ai.importing.extra import need
from ai.importing.torch_export import REFUSALS, fill, load_state, parameters
from config.errors import ModelFileError

_ARCHITECTURES = "dynamic_network_architectures.architectures."
# Plans of before 2024 name the class alone, and the numbers of its stages under other keys.
_FORMER = {
    "PlainConvUNet": "unet.PlainConvUNet",
    "ResidualEncoderUNet": "unet.ResidualEncoderUNet",
}


def load_network(
    configuration: Mapping[str, Any],
    name: str,
    checkpoints: Sequence[Path],
    channels: int,
    classes: int,
) -> Any:
    """The mean of the networks of all folds.

    Args:
        configuration: Its part of the plans.
        name: Of the configuration.
        checkpoints: One a fold.
        channels: Of the input.
        classes: Of the output, background too.

    Raises:
        ModelFileError: The architecture is not of nnU-Net, or a checkpoint does not fit it.
    """
    torch = need("torch")
    folds = []
    for path in checkpoints:
        held = load_state(path, _of_numpy())
        trained = held.get("init_args", {}) if isinstance(held, dict) else {}
        if trained.get("configuration", name) != name:
            raise ModelFileError(f"{path.parent.name} was trained as {trained['configuration']!r}")
        network = _built(configuration, channels, classes)
        folds.append(fill(network, parameters(held, path), path))

    class Mean(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.folds = torch.nn.ModuleList(folds)

        def forward(self, image: Any) -> Any:
            return sum(fold(image) for fold in self.folds) / len(self.folds)

    return Mean().eval() if len(folds) > 1 else folds[0]


def _of_numpy() -> list[Any]:
    """What a checkpoint holds of numpy: numbers and their types, under old and new names."""
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    kinds = [type(np.dtype(name)) for name in ("f8", "f4", "i8", "i4", "?")]
    return [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, *kinds]


def _built(configuration: Mapping[str, Any], channels: int, classes: int) -> Any:
    path, arguments = _architecture(configuration)
    module, _, name = path.rpartition(".")
    kind = getattr(need(module), name, None) if path.startswith(_ARCHITECTURES) else None
    if not isinstance(kind, type) or not issubclass(kind, need("torch").nn.Module):
        raise ModelFileError(f"the plans name {path[:80]!r}, which is no network of nnU-Net")
    try:
        return kind(
            input_channels=channels, num_classes=classes, deep_supervision=False, **arguments
        )
    except REFUSALS as error:
        reason = one_line(error)
        raise ModelFileError(f"the plans do not fit {name}: {reason}") from error


def _architecture(configuration: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    given = configuration.get("architecture")
    if not isinstance(given, dict):
        return _former(configuration)
    arguments = dict(given.get("arch_kwargs", {}))
    for key in given.get("_kw_requires_import", ()):
        if arguments.get(key) is not None:
            arguments[key] = _of_torch(str(arguments[key]))
    return str(given.get("network_class_name")), arguments


def _of_torch(path: str) -> Any:
    """A layer of torch that plans name by its path."""
    parts = path.split(".")
    found = getattr(need("torch").nn, parts[-1], None)
    if parts[:2] != ["torch", "nn"] or not isinstance(found, type):
        raise ModelFileError(f"the plans name {path[:80]!r}, which is no layer of torch")
    return found


def _former(configuration: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    nn = need("torch").nn
    name = str(configuration.get("UNet_class_name"))
    if name not in _FORMER:
        raise ModelFileError(f"the plans name {name[:80]!r}, which is no network of nnU-Net")
    kernels = configuration["conv_kernel_sizes"]
    flat = len(configuration["patch_size"]) == 2
    most, base = configuration["unet_max_num_features"], configuration["UNet_base_num_features"]
    blocks = "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"
    return _ARCHITECTURES + _FORMER[name], {
        "n_stages": len(kernels),
        "features_per_stage": [min(base * 2**stage, most) for stage in range(len(kernels))],
        "conv_op": nn.Conv2d if flat else nn.Conv3d,
        "kernel_sizes": kernels,
        "strides": configuration["pool_op_kernel_sizes"],
        blocks: configuration["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": nn.InstanceNorm2d if flat else nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }
