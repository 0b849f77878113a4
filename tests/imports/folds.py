"""Networks of nnU-Net with random weights, saved as training saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet


def put_folds(model: Path, folds: int, channels: int = 1, classes: int = 3) -> list[Any]:
    """Checkpoints as nnU-Net writes them: parameters, settings, and figures of numpy.

    Returns:
        The networks, ready to be run.
    """
    made = []
    for fold in range(folds):
        torch.manual_seed(fold)
        network = PlainConvUNet(
            **{"input_channels": channels, "n_stages": 2, "features_per_stage": [4, 8]},
            **{"conv_op": torch.nn.Conv3d, "kernel_sizes": [[3, 3, 3], [3, 3, 3]]},
            **{"strides": [[1, 1, 1], [2, 2, 2]], "n_conv_per_stage": [1, 1]},
            **{"num_classes": classes, "n_conv_per_stage_decoder": [1], "conv_bias": True},
            **{"norm_op": torch.nn.InstanceNorm3d, "norm_op_kwargs": {"eps": 1e-5, "affine": True}},
            **{"nonlin": torch.nn.LeakyReLU, "nonlin_kwargs": {"inplace": True}},
            deep_supervision=True,
        )
        held = {
            "network_weights": network.state_dict(),
            "optimizer_state": torch.optim.SGD(network.parameters(), 0.01).state_dict(),
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float64(0.5)], "lrs": [np.float32(0.1)]},
            "_best_ema": np.float64(0.7),
            "current_epoch": 1000,
            "init_args": {"configuration": "3d_fullres", "fold": fold},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        place = model / f"fold_{fold}"
        place.mkdir(exist_ok=True)
        torch.save(held, place / "checkpoint_final.pth")
        network.decoder.deep_supervision = False
        made.append(network.eval())
    return made
