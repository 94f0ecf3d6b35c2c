"""Bounds on what a model may ask for, so that a hostile file ends in a typed error and not in a dead machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import DeadlineError, LimitError


@dataclass(frozen=True)
class Limits:
    """What compiling and running may use. Every field can be set by the user; None lifts that bound.

    tensor_bytes: the largest single tensor. total_bytes and growth: what the values of one run may hold together, which is
    total_bytes + growth * (bytes of the inputs and of the model's constants): a small file with small inputs gets little, an honest
    model as much as it has reason to ask for. loop_iterations: trips of all Loops and Scans of a run together, but for Scans of
    no more trips than the inputs have bytes (a Scan over a long recording is honest). seconds and seconds_per_mb: time of the
    passes of one compile, and of one run: so many seconds and as many more for each MB (2^20 bytes) of constants and inputs, in
    compiling one more for each 1000 nodes. They are over when as much CPU time of the process has passed as well, so that a busy
    machine does not end an honest run. fold_bytes: the largest result that constant folding stores; all together may hold so much
    and 4 times the model's constants. nodes: nodes after functions were inlined. depth: nesting of regions and functions.
    """

    tensor_bytes: int | None = 4 << 30
    total_bytes: int | None = 256 << 20
    growth: int = 128
    loop_iterations: int | None = 1 << 15
    seconds: float | None = 4.0
    seconds_per_mb: float = 10.0
    fold_bytes: int = 64 << 20
    nodes: int = 1 << 16
    depth: int = 64


@dataclass
class Budget:
    """What is left of the limits during one run. `given` are the bytes of its inputs and constants, `fed` those of its inputs,
    `nodes` how many there are to compile; `held` those of the values that live, and `iterations` the trips of loops so far:
    whoever runs nodes keeps both up."""

    limits: Limits
    given: int = 0
    fed: int = 0
    nodes: int = 0
    started: float = field(default_factory=time.monotonic)
    started_cpu: float = field(default_factory=time.process_time)
    held: int = 0
    iterations: int = 0

    def __post_init__(self) -> None:
        most, seconds = self.limits.total_bytes, self.limits.seconds
        self.total = None if most is None else most + self.limits.growth * self.given
        self.seconds = (
            None if seconds is None else seconds + self.limits.seconds_per_mb * self.given / (1 << 20) + self.nodes / 1000
        )
        self.ends = None if self.seconds is None else self.started + self.seconds

    def anew(self) -> Budget:
        """The budget of another run with as many bytes of inputs and constants, which begins now."""
        new = object.__new__(Budget)
        new.__dict__ |= self.__dict__
        new.started, new.started_cpu, new.held, new.iterations = time.monotonic(), time.process_time(), 0, 0
        new.ends = None if self.seconds is None else new.started + self.seconds
        return new

    def check_time(self, what: str) -> None:
        """Raises LimitError when the time of this run is over, or what `interrupted_by` was given raises."""
        look = _interrupt.get()
        if look is not None:
            look()
        if self.ends is None or time.monotonic() < self.ends:
            return
        if time.process_time() - self.started_cpu >= self.seconds:  # type: ignore[operator]
            raise LimitError(f"{what}: more than {self.seconds:.3g} s have passed; raise Limits.seconds to allow it")

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

    def trip(self, what: str) -> None:
        """`iterate` and `check_time` in one, for each trip of a loop."""
        self.iterations += 1
        most = self.limits.loop_iterations
        if most is not None and self.iterations > most:
            self.iterate(what, 0)
        if _interrupt.get() is not None or (self.ends is not None and time.monotonic() >= self.ends):
            self.check_time(what)

    @contextmanager
    def watching(self, what: str) -> Iterator[None]:
        """While it is open, `claim` and `tick` ask this budget in the name of `what`."""
        token = _watched.set((self, what))
        try:
            yield
        finally:
            _watched.reset(token)


_watched: ContextVar[tuple[Budget, str] | None] = ContextVar("watched", default=None)


_interrupt: ContextVar[Callable[[], None] | None] = ContextVar("interrupt", default=None)


@contextmanager
def interrupted_by(look: Callable[[], None]) -> Iterator[None]:
    """While it is open, runs of this thread call `look` wherever they look at the clock, which is every 20 ms or so of native work;
    what it raises ends the run. One inside of another: both are called."""
    outer = _interrupt.get()

    def both() -> None:
        outer()  # type: ignore[misc]
        look()

    token = _interrupt.set(look if outer is None else both)
    try:
        yield
    finally:
        _interrupt.reset(token)


def deadline(seconds: float) -> Callable[[], None]:
    """What raises DeadlineError when it is called more than so many seconds from now, by the clock on the wall."""
    ends = time.monotonic() + seconds

    def look() -> None:
        if time.monotonic() >= ends:
            raise DeadlineError(f"the run has not ended within its {seconds:g} s")

    return look


def claim(nbytes: int) -> None:
    """What a reference calls before it allocates intermediates that may be much larger than its operands and results together.
    Raises LimitError where the run that it is part of must not hold so much; outside of a run nothing is checked."""
    watched = _watched.get()
    if watched is not None:
        watched[0].check_bytes(watched[1], int(nbytes))


def tick() -> None:
    """What a reference with a long loop calls in each trip. Raises LimitError when the time of its run is over."""
    watched = _watched.get()
    if watched is not None:
        watched[0].check_time(watched[1])


SAMPLE = 64  # elements of a long list, or of an array of strings, that are looked at


def nbytes_of(x: Any) -> int:
    """The bytes that a run-time value holds; estimated from a sample for long lists and arrays of strings."""
    if isinstance(x, np.ndarray):
        return x.nbytes + (_sampled(x.ravel(), x.size) if x.dtype == object else 0)
    if isinstance(x, (str, bytes)):
        return 56 + len(x)
    if isinstance(x, list):
        return 8 * len(x) + _sampled(x, len(x))
    return getattr(x, "nbytes", 0)  # of an array in a device's memory


def _sampled(items: Any, count: int) -> int:
    step = -(-count // SAMPLE) or 1
    return sum(nbytes_of(items[i]) for i in range(0, count, step)) * step


DEFAULT_LIMITS = Limits()
