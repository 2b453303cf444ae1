"""A row of the comparison: one shape, several contestants, what is asked of hax."""

from dataclasses import dataclass, field
from typing import Callable

import torch

bf16 = torch.bfloat16


@dataclass
class Contestant:
    run: Callable  # enqueues one call; None: only its results are compared
    result: Callable = None  # tensors by name, after a call; None: not compared


@dataclass
class Row:
    name: str
    make: Callable  # device -> {label: Contestant}, "hax" first; a fresh set of tensors at each call
    bars: dict = field(default_factory=dict)  # ms: at most; ratio: peer / hax at least; goal: ms
    tolerance: float = 1e-2  # norm-relative, hax against each peer
    bytes: int = 0  # at least what one call touches
    tokens: int = 0  # for time and memory per token (attention: per token and head)


def normal(device, *shape, dtype=bf16):
    return torch.randn(*shape, device=device, dtype=dtype)


def uniform(device, low, high, *shape):
    return torch.rand(*shape, device=device) * (high - low) + low


def error(got, want):
    """Norm-relative difference; infinite where one is not finite."""
    got, want = got.double(), want.double()
    gap = (got - want).norm() / want.norm().clamp_min(1e-30)
    return gap.item() if torch.isfinite(gap) else float("inf")
