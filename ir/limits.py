"""Bounds on what a model may ask for, so that a hostile file ends in a typed error and not in a dead machine."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .errors import LimitError


@dataclass(frozen=True)
class Limits:
    """What compiling and running may use. Every field can be set by the user; None lifts that bound.

    tensor_bytes: the largest single tensor. loop_iterations: trips of one Loop or Scan. seconds: time of one run or compile.
    fold_bytes: the largest result that constant folding stores. nodes: nodes after functions were inlined. depth: nesting of
    regions and functions.
    """

    tensor_bytes: int | None = 4 << 30
    loop_iterations: int | None = 1_000_000
    seconds: float | None = None
    fold_bytes: int = 64 << 20
    nodes: int = 1_000_000
    depth: int = 64


@dataclass
class Budget:
    """What is left of the limits during one run."""

    limits: Limits
    started: float = field(default_factory=time.monotonic)

    def check_time(self, what: str) -> None:
        """Raises LimitError when the time of this run is over."""
        s = self.limits.seconds
        if s is not None and time.monotonic() - self.started > s:
            raise LimitError(f"{what}: the run took more than {s} s; raise Limits.seconds to allow it")

    def check_bytes(self, what: str, nbytes: int) -> None:
        """Raises LimitError for a tensor larger than is allowed."""
        most = self.limits.tensor_bytes
        if most is not None and nbytes > most:
            raise LimitError(
                f"{what}: a tensor of {nbytes} bytes, more than the limit of {most}; raise Limits.tensor_bytes to allow it"
            )

    def check_iterations(self, what: str, count: int) -> None:
        """Raises LimitError for more trips of a loop than are allowed."""
        most = self.limits.loop_iterations
        if most is not None and count > most:
            raise LimitError(f"{what}: more than {most} iterations; raise Limits.loop_iterations to allow them")


DEFAULT_LIMITS = Limits()
