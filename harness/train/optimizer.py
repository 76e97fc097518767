"""The optimiser and its schedule: warm-up, then constant, so that checkpoints at any budget are comparable."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from harness.config.study import TrainSection
from harness.errors import UserError


def build_optimizer(model: nn.Module, settings: TrainSection) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters, by torch or in 8 bits by bitsandbytes.

    Raises:
        UserError: bitsandbytes is asked for and not installed.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "weight_decay": settings.weight_decay,
    }
    if settings.optimizer == "adamw":
        # Fused: one pass over a parameter's numbers, one kernel for all of them on a GPU.
        fused = True if {parameter.device.type for parameter in parameters} <= {"cpu", "cuda"} else None
        return torch.optim.AdamW(parameters, fused=fused, **options)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UserError('`train.optimizer` = "adamw_8bit" needs bitsandbytes: pip install bitsandbytes') from error
    optimizer: torch.optim.Optimizer = AdamW8bit(parameters, **options)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: TrainSection, update: int) -> float:
    """Set and return the learning rate of the update-th optimiser step, counted from 0."""
    rate = settings.learning_rate * min(1.0, (update + 1) / max(1, settings.warmup_steps))
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate
