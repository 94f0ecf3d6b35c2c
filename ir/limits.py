"""Bounds on what a model may ask for, so that a hostile file ends in a typed error and not in a dead machine."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import LimitError


@dataclass(frozen=True)
class Limits:
    """What compiling and running may use. Every field can be set by the user; None lifts that bound.

    tensor_bytes: the largest single tensor. total_bytes and growth: what the values of one run may hold together, which is
    total_bytes + growth * (bytes of the inputs and of the model's constants): a small file with small inputs gets little, an honest
    model as much as it has reason to ask for. loop_iterations: trips of all Loops and Scans of a run together, but for Scans of
    no more trips than the inputs have bytes (a Scan over a long recording is honest). seconds: time of
    one run or compile. fold_bytes: the largest result that constant folding stores. nodes: nodes after functions were inlined.
    depth: nesting of regions and functions.
    """

    tensor_bytes: int | None = 4 << 30
    total_bytes: int | None = 256 << 20
    growth: int = 64
    loop_iterations: int | None = 1 << 15
    seconds: float | None = None
    fold_bytes: int = 64 << 20
    nodes: int = 1 << 16
    depth: int = 64


@dataclass
class Budget:
    """What is left of the limits during one run. `given` are the bytes of its inputs and constants, `fed` those of its inputs;
    `held` those of the values that live, and `iterations` the trips of loops so far: whoever runs nodes keeps both up."""

    limits: Limits
    given: int = 0
    fed: int = 0
    started: float = field(default_factory=time.monotonic)
    held: int = 0
    iterations: int = 0

    def __post_init__(self) -> None:
        most = self.limits.total_bytes
        self.total = None if most is None else most + self.limits.growth * self.given

    def check_time(self, what: str) -> None:
        """Raises LimitError when the time of this run is over."""
        s = self.limits.seconds
        if s is not None and time.monotonic() - self.started > s:
            raise LimitError(f"{what}: the run took more than {s} s; raise Limits.seconds to allow it")

    def fits(self, nbytes: int) -> bool:
        """Whether so many bytes more may be held."""
        most = self.limits.tensor_bytes
        return (most is None or nbytes <= most) and (self.total is None or self.held + nbytes <= self.total)

    def check_bytes(self, what: str, nbytes: int) -> None:
        """Raises LimitError for a tensor larger than is allowed, by itself or beside what is held already."""
        if self.fits(nbytes):
            return
        most = self.limits.tensor_bytes
        if most is not None and nbytes > most:
            raise LimitError(
                f"{what}: a tensor of {nbytes} bytes, more than the limit of {most}; raise Limits.tensor_bytes to allow it"
            )
        raise LimitError(
            f"{what}: {nbytes} bytes beside the {self.held} that the run holds, more than the limit of {self.total} "
            f"({self.limits.total_bytes} and {self.limits.growth} times the {self.given} of inputs and constants); "
            "raise Limits.total_bytes to allow it"
        )

    def iterate(self, what: str, count: int = 1) -> None:
        """Counts trips of a loop. Raises LimitError for more of them in this run than are allowed."""
        self.iterations += count
        most = self.limits.loop_iterations
        if most is not None and self.iterations > most:
            raise LimitError(f"{what}: more than {most} iterations in one run; raise Limits.loop_iterations to allow them")


SAMPLE = 256  # elements of a long list, or of an array of strings, that are looked at


def nbytes_of(x: Any) -> int:
    """The bytes that a run-time value holds; estimated from a sample for long lists and arrays of strings."""
    if isinstance(x, np.ndarray):
        return x.nbytes + (_sampled(x.ravel(), x.size) if x.dtype == object else 0)
    if isinstance(x, (str, bytes)):
        return 56 + len(x)
    if isinstance(x, list):
        return 8 * len(x) + _sampled(x, len(x))
    return 0


def _sampled(items: Any, count: int) -> int:
    step = -(-count // SAMPLE) or 1
    return sum(nbytes_of(items[i]) for i in range(0, count, step)) * step


DEFAULT_LIMITS = Limits()
