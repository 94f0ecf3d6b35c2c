"""`compile(..., tune=True)`: ways of computing products, convolutions and attention are measured, and the fastest are taken.

A problem is a node with known sizes (kernels/cuda/ways.py); equal layers are one. Its ways run on the device itself, on random
operands in memory of their own, many launches in a captured graph, the ways in turns. What was measured is kept as a receipt in the
cache, by the device, versions, the kernels' programs and the problem, so that nothing is measured twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..ir.core import Graph, Module, Node
from ..ir.errors import GraphmillError, InputError
from ..ir.rewrite import Decision
from ..ir.types import BF16, F16, F64, DType, TensorType
from ..kernels.cpu.cache import read_receipt, write_receipt
from ..kernels.cuda import cubins, ways
from ..kernels.cuda.driver import Command, Driver
from ..kernels.cuda.target import products_of
from ..kernels.cuda.ways import Candidate, Problem, Way
from .options import Options

ALGORITHMS = 4  # of a library that are measured
ROUNDS = 5  # of which the median counts
LONGEST = 2e-3  # seconds that the launches of a graph take together, about
BETTER = 0.98  # of the default's time: else that stays
SLOW = 1.5  # times the fastest: what takes longer at first is not measured again
CACHED = 32 << 20  # bytes of weights that a GPU's cache may keep from one run to the next
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


@dataclass
class Tuning:
    """What a program was tuned to: a device by its name and versions, and what was measured of each problem there."""

    about: tuple[str, str]
    problems: dict[str, Measured] = field(default_factory=dict)
    new: int = 0  # problems that were measured now
    seconds: float = 0.0

    def ways(self, about: tuple[str, str]) -> dict[str, Way]:
        """The problems that are not computed as by default on this device: on one of another name there are none, and algorithms of
        libraries hold for the same versions only."""
        found = {key: Way.parse(m.chosen) for key, m in self.problems.items() if about[0] == self.about[0]}
        same = about == self.about
        return {key: way for key, way in found.items() if way is not None and (same or way.algorithm is None)}

    def summary(self) -> list[str]:
        """Lines for the report."""
        other = sum(m.chosen != "default" for m in self.problems.values())
        now = f", {self.new} measured now in {self.seconds:.1f} s" if self.seconds else ""
        lines = [f"tuned to {self.about[0]}: {len(self.problems)} products, {other} not by default{now}"]
        lines += [f"  {name} left out: {why}" for m in self.problems.values() for name, why in m.left_out.items()]
        return list(dict.fromkeys(lines))


def tune(
    module: Module, options: Options, threads: int, tell: Callable[[str], None] | None = None
) -> tuple[Tuning, list[Decision]]:
    """Measures the ways of the problems of an optimized module on a device of its own; and what is to be said of each node.
    `tell(text)` says how far it is. Raises InputError for another target, CudaUnavailable."""
    from .cuda import open_device

    if options.target != "cuda":
        raise InputError(f"tune is offered by target = 'cuda', not by {options.target!r}")
    started, driver = time.perf_counter(), open_device(options.device).driver
    tuning, nodes = Tuning(driver.about), dict[str, list[Node]]()
    try:
        todo = list[_Task]()
        for node in _nodes(module.main):
            precision = products_of(node, options.precision, options.keep_fp32)
            problem = ways.problem_of(node, precision, options.rung)
            if problem is not None:
                nodes.setdefault(problem.key, []).append(node)
                if len(nodes[problem.key]) == 1:
                    todo.append(_Task(problem, precision, options.rung))
        todo = [task for task in todo if len(task.candidates) > 1 and not task.is_known(tuning)]
        _measure_all(todo, driver, tuning, _weights(nodes), threads, tell or (lambda text: None))
        tuning.new = len(todo)
    finally:
        driver.close()
    tuning.seconds = time.perf_counter() - started
    return tuning, _decisions(tuning, nodes)


def _nodes(graph: Graph) -> Iterator[Node]:
    """The nodes that have kernels of their own."""
    for node in graph:
        yield node
        if not node.op.has("isolated"):
            for region in node.regions:
                yield from _nodes(region)


def _weights(nodes: dict[str, list[Node]]) -> int:
    """Bytes of the constants that problems read."""
    read = {v for each in nodes.values() for n in each for v in n.operands if v is not None and v.const is not None}
    return sum(v.const.array.nbytes for v in read if v.const is not None)


def _decisions(tuning: Tuning, nodes: dict[str, list[Node]]) -> list[Decision]:
    """What was chosen for each node, and why."""
    out = []
    for key, found in tuning.problems.items():
        outcome = "kept" if found.chosen == "default" else "applied"
        out += [Decision("tune", node.name, outcome, str(found), node.locs) for node in nodes[key]]
    return out


class _Task:
    """A problem that is to be measured."""

    def __init__(self, problem: Problem, precision: str, rung: str):
        self.problem, self.precision, self.rung = problem, precision, rung
        self.candidates = ways.candidates(problem, precision, rung)

    def receipt(self, about: tuple[str, str]) -> str:
        """The key of the receipt: all that the answer depends on."""
        each = [
            [c.name, c.source.text if ways.by_library(c) else cubins.key_of(c.source.text), c.launch.ints] for c in self.candidates
        ]
        return hashlib.sha256(json.dumps(["tuned", about, self.problem.key, each]).encode()).hexdigest()

    def is_known(self, tuning: Tuning) -> bool:
        """Whether a receipt tells what was measured, which then is part of `tuning`."""
        known = _known(read_receipt(self.receipt(tuning.about)))
        if known is not None:
            tuning.problems[self.problem.key] = known
        return known is not None

    def texts(self) -> list[str]:
        """The texts that have to be compiled."""
        return [c.source.text for c in self.candidates if not ways.by_library(c)]


def _known(receipt: Any) -> Measured | None:
    """What a receipt says, None where that cannot be used."""
    try:
        took = {str(name): float(us) for name, us in receipt["took"].items()}
        left_out = {str(name): str(why) for name, why in receipt["left_out"].items()}
        chosen, like = str(receipt["chosen"]), str(receipt["like"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return Measured(chosen, took, left_out, like) if chosen == "default" or Way.parse(chosen) is not None else None


def _measure_all(todo: Sequence[_Task], driver: Driver, tuning: Tuning, weights: int, threads: int,
                 tell: Callable[[str], None]) -> None:  # fmt: skip
    texts = list(dict.fromkeys(text for task in todo for text in task.texts()))
    if texts:
        tell(f"tune: compiling {len(texts)} kernels")
    kernels = Kernels(driver)
    kernels.add(texts, threads)
    for i, task in enumerate(todo):
        tell(f"tune: measuring {i + 1} of {len(todo)}")
        try:
            found = Bench(driver, kernels, task.problem, task.precision, weights > CACHED).measure(task.candidates, task.rung)
            write_receipt(task.receipt(tuning.about), asdict(found))
        except Exception as e:  # CuPy's errors have no common type
            found = Measured("default", {}, {"default": _said(e)})
        tuning.problems[task.problem.key] = found


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
                self._known[texts[0]] = _said(e)
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
                why = _said(e)
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
            count = min(self._driver.choices(self._commands(first)[0]), ALGORITHMS)
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
        dtype: DType = self._problem.node.results[0].tensor.dtype
        if dtype is F64:
            return 1e-9
        return {F16: 2.0**-7, BF16: 2.0**-4}.get(dtype, 2.0**-7 if self._precision == "tf32" else 1e-4)


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


def _difference(got: Sequence[np.ndarray], want: Sequence[np.ndarray], tolerance: float) -> str:
    """What is wrong with results, "" where they are as good as those wanted."""
    for a, b in zip(got, want, strict=True):
        with np.errstate(all="ignore"):
            finite = np.abs(b[np.isfinite(b)])
            about = float(finite.mean()) if finite.size else 0.0
            apart = np.abs(a - b)
            good = (apart <= tolerance * (np.abs(b) + about)) | (a == b) | (np.isnan(a) & np.isnan(b))
        if not good.all():
            far = apart[~good]
            return (
                f"WRONG: {far.size} of {a.size} elements differ by up to {far.max():.3g} from the default's, of about {about:.3g}"
            )
    return ""


def _said(e: Exception) -> str:
    """The first line of an error."""
    text = str(e).split("\n")[0][:200]
    return text if isinstance(e, GraphmillError) else f"{type(e).__name__}: {text}"
