"""A row of the comparison: one shape, several contestants, what is asked of hax."""

from dataclasses import dataclass, field
from typing import Callable

import timing
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


_generators = {}


def _generator(device):
    """One of our own: a capture that failed leaves torch's default one unusable."""
    if device not in _generators:
        _generators[device] = torch.Generator(device).manual_seed(1)
    return _generators[device]


def normal(device, *shape, dtype=bf16):
    return torch.randn(*shape, device=device, dtype=dtype, generator=_generator(device))


def uniform(device, low, high, *shape):
    return torch.rand(*shape, device=device, generator=_generator(device)) * (high - low) + low


def backward_of(forward, inputs, gradient):
    """A call of autograd's backward alone. Forward runs on the stream of captures, where its backward then runs too."""
    synchronize = torch.cuda.synchronize if gradient.is_cuda else lambda: None
    synchronize()
    with timing.capture_stream():
        out = forward()
    synchronize()
    return lambda: torch.autograd.grad(out, inputs, gradient, retain_graph=True)


def error(got, want):
    """Norm-relative difference; infinite where one is not finite."""
    got, want = got.double(), want.double()
    gap = (got - want).norm() / want.norm().clamp_min(1e-30)
    return gap.item() if torch.isfinite(gap) else float("inf")
