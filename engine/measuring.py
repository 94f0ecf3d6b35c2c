"""Ways of computing a problem (kernels/cuda/ways.py), measured on a device: see tuning.py."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.errors import GraphmillError, InputError
from ..ir.types import F64, TensorType
from ..kernels.cuda import ways
from ..kernels.cuda.driver import Command, Driver
from ..kernels.cuda.ways import Candidate, Problem, Way
from .agreement import disagreement, tolerance

ALGORITHMS = {"cublaslt": 4, "cudnn": 2}  # that are measured; cuDNN builds each anew, and its first is hardly ever beaten
ROUNDS = 5  # of which the median counts
LONGEST = 2e-3  # seconds that the launches of a graph take together, about
BETTER = 0.98  # of the default's time: else that stays
SLOW = 1.5  # times the fastest: what takes longer at first is not measured again
COPIES = 64 << 20  # bytes of copies of a weight, read in turns, of which no cache keeps one until it is read again
COMPARED = 1 << 20  # elements of a result that are compared
RANDOM = 65_521  # random numbers that fill an operand, again and again


@dataclass(frozen=True)
class Measured:
    """What was measured of a problem: the way that is taken, microseconds of each, and why others were left out. The way that is
    taken without measuring is called "default", and is `like` one of the others."""

    chosen: str
    took: dict[str, float]
    left_out: dict[str, str]
    like: str = ""

    def __str__(self) -> str:
        names = sorted(self.took, key=lambda n: (n != self.chosen, self.took[n]))
        titles = {"default": f"default ({self.like})" if self.like else "default"}
        shown = ", ".join(f"{titles.get(name, name)} {self.took[name]:.1f}" for name in names)
        return "; ".join([*([f"{shown} us"] if shown else []), *(f"{name}: {why}" for name, why in self.left_out.items())])


class Kernels:
    """Kernels of a device by their texts; of others, why they are none."""

    def __init__(self, driver: Driver):
        self._driver, self._known = driver, dict[str, int | str]()

    def add(self, texts: Sequence[str], threads: int = 1) -> None:
        """Compiles them together, or each by itself where one is refused."""
        try:
            self._driver.compile(texts, threads)
            self._known |= zip(texts, self._driver.load(texts), strict=True)
        except Exception as e:
            if len(texts) == 1:
                self._known[texts[0]] = said(e)
            else:
                for text in texts:
                    self.add([text])

    def number(self, text: str) -> int:
        """What stands for a kernel in a command. Raises InputError with the reason where there is none."""
        if text not in self._known:
            self.add([text])
        found = self._known[text]
        if isinstance(found, str):
            raise InputError(found)
        return found


class Bench:
    """One problem on a device: random operands, results and scratch memory. `cold`: weights are not read from a cache."""

    def __init__(self, driver: Driver, kernels: Kernels, problem: Problem, precision: str, cold: bool):
        self._driver, self._kernels, self._problem = driver, kernels, problem
        self._precision, self._cold, self._rng = precision, cold, np.random.default_rng(0)
        self._memory, self._packed = list[Any](), dict[tuple[int, str], list[int]]()
        node = problem.node
        self._given = {
            i: self._put(self._random(v.tensor)) for i, v in enumerate(node.operands) if v is not None and not v.is_const
        }
        self._results = [self._alloc(_nbytes(v.tensor)) for v in node.results]
        self._unset = [self._put(np.full(_nbytes(v.tensor), 0xFF, np.uint8)) for v in node.results]  # floats that are NaN
        self._scratch = (0, 0)

    def measure(self, candidates: Sequence[Candidate], rung: str) -> Measured:
        """Runs the candidates, the default first: those that compute the same are timed. Raises whatever the default raises."""
        default, *others = candidates
        left_out, want = dict[str, str](), self._computed(default)
        timers = {default.name: self._timer(default)}
        for c in [*others, *self._algorithms(candidates, rung)]:
            try:
                why = _difference(self._computed(c), want, self._tolerance())
                if not why:
                    timers[c.name] = self._timer(c)
            except Exception as e:
                why = said(e)
            if why:
                left_out[c.name] = why
        took = self._times(timers)
        best = min(took, key=lambda name: took[name])
        return Measured(best if took[best] < BETTER * took["default"] else "default", took, left_out, default.like)

    def _algorithms(self, candidates: Sequence[Candidate], rung: str) -> list[Candidate]:
        """Further algorithms of the library, where it is here."""
        first = next((c for c in candidates if ways.by_library(c)), None)
        if first is None:
            return []
        try:
            count = min(self._driver.choices(self._commands(first)[0]), ALGORITHMS[first.source.variant])
        except Exception:  # as it says when it is run
            return []
        found = [ways.candidate(self._problem, self._precision, rung, Way(n)) for n in range(1, count)]
        return [c for c in found if c is not None]

    def _timer(self, c: Candidate) -> tuple[Callable[[], float], int]:
        """What runs a candidate many times, and how often."""
        once = self._driver.timer(self._commands(c))
        once()
        copies = range(self._copies(c))
        count = max(1, min(max(self._driver.repeats, len(copies)), int(LONGEST / max(once(), 1e-7))))
        each = [self._commands(c, n) for n in copies[:count]]
        return self._driver.timer([command for n in range(count) for command in each[n % len(each)]]), count

    def _times(self, timers: Mapping[str, tuple[Callable[[], float], int]]) -> dict[str, float]:
        """Microseconds of each candidate, the medians of several rounds; of slow ones those of the first."""
        samples = dict[str, list[float]]()
        if self._driver.repeats > 1:
            [run() for run, _ in timers.values()]  # once to get warm
        for round_ in range(ROUNDS if self._driver.repeats > 1 else 1):
            fastest = min((s[0] for s in samples.values()), default=0.0)
            for name, (run, count) in timers.items():
                if not round_ or samples[name][0] <= SLOW * fastest or name == "default":
                    samples.setdefault(name, []).append(run() / count * 1e6)
        return {name: statistics.median(s) for name, s in samples.items()}

    # ---- memory

    def _alloc(self, nbytes: int) -> int:
        self._memory.append(self._driver.alloc(nbytes))
        return self._memory[-1].address

    def _put(self, a: np.ndarray) -> int:
        at = self._alloc(a.nbytes)
        if a.nbytes:
            self._driver.write(at, np.ascontiguousarray(a))
        return at

    def _random(self, t: TensorType) -> np.ndarray:
        """Numbers for a tensor, as they lie: floats around 0, else 0 and 1."""
        n = _size(t)
        some = self._rng.standard_normal(min(n, RANDOM)) if t.dtype.is_float else self._rng.integers(0, 2, min(n, RANDOM))
        return np.resize(some.astype(t.dtype.np), n)

    def _constant(self, i: int, c: Candidate) -> list[int]:
        """Where constant i lies as a candidate reads it, and its copies."""
        pack = c.source.pack.get(i)
        key = i, "" if pack is None else _packing(c.way)
        if key not in self._packed:
            v = self._problem.node.operands[i]
            a, layout = v.const.array, v.tensor.layout  # type: ignore[union-attr]
            a = np.ascontiguousarray(a if pack is None and layout is None else pack(a) if pack else a.transpose(layout.perm))  # type: ignore[union-attr]
            copies = min(-(-COPIES // max(a.nbytes, 1)), 3 * self._driver.repeats) if self._cold and self._driver.repeats > 1 else 1
            self._packed[key] = places = [self._put(a)]
            for _ in range(copies - 1):
                places.append(self._alloc(a.nbytes))
                self._driver.copy(places[-1], places[0], a.nbytes)
        return self._packed[key]

    def _copies(self, c: Candidate) -> int:
        """How many copies there are of a candidate's constants."""
        constants = [i for i, v in enumerate(self._problem.node.operands) if v is not None and v.is_const]
        return max([1, *(len(self._constant(i, c)) for i in constants)])

    def _commands(self, c: Candidate, copy: int = 0) -> list[Command]:
        """The launches of a candidate, on a copy of its constants."""
        if c.launch.scratch > self._scratch[1] or not self._scratch[0]:
            self._scratch = self._alloc(max(c.launch.scratch, 64)), c.launch.scratch
        given = []
        for i, v in enumerate(self._problem.node.operands):
            if v is not None:
                places = self._constant(i, c) if v.is_const else [self._given[i]]
                given.append(places[copy % len(places)])
        given += [*self._results, self._scratch[0], *(self._put(t) for t in (*c.source.tables, *c.launch.tables))]
        number = self._kernels.number(c.source.text)
        return [
            Command(number, np.array([*given, *map(int, ints)], np.int64), blocks, len(given)) for ints, blocks in c.launch.each()
        ]

    # ---- results

    def _computed(self, c: Candidate) -> list[np.ndarray]:
        """What a candidate computes where nothing was before; of large results some elements."""
        out = []
        for v, at, unset in zip(self._problem.node.results, self._results, self._unset, strict=True):
            self._driver.copy(at, unset, _nbytes(v.tensor))
        self._driver.run(self._commands(c))
        for v, at in zip(self._problem.node.results, self._results, strict=True):
            a = np.empty(_size(v.tensor), v.tensor.dtype.np)
            self._driver.read(a, at)
            few = a if a.size <= COMPARED else a[np.random.default_rng(0).integers(0, a.size, COMPARED)]
            out.append(few.astype(np.float64 if v.tensor.dtype is F64 else np.float32))
        return out

    def _tolerance(self) -> float:
        """How far results of equal worth may be apart, as a part of the values."""
        return tolerance(self._problem.node.results[0].tensor.dtype, self._precision)


def _packing(way: Way | None) -> str:
    """Ways of one name pack constants alike."""
    if way is None or way.algorithm is not None:
        return "default" if way is None else "library"
    return "own" if way.cut is None else "direct" if way.cut.tile.direct else "tiles"


def _size(t: TensorType) -> int:
    shape: Sequence[int] = t.shape or ()  # type: ignore[assignment]  # of a problem all sizes are known
    return math.prod(shape)


def _nbytes(t: TensorType) -> int:
    return _size(t) * t.dtype.itemsize


def _difference(got: Sequence[np.ndarray], want: Sequence[np.ndarray], within: float) -> str:
    """What is wrong with results, "" where they are as good as those wanted."""
    for a, b in zip(got, want, strict=True):
        far, about = disagreement(a, b, within)
        if far.size:
            return (
                f"WRONG: {far.size} of {a.size} elements differ by up to {far.max():.3g} from the default's, of about {about:.3g}"
            )
    return ""


def said(e: Exception) -> str:
    """The first line of an error."""
    text = str(e).split("\n")[0][:200]
    return text if isinstance(e, GraphmillError) else f"{type(e).__name__}: {text}"
