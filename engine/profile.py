"""Where the time of a run goes: each kernel of the bound segments, and each step on the host, timed within whole runs.

What a loop or a branch runs has rows of its own, each with its time of all iterations together; the row of the loop itself has the
rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np

from ..ir.core import Node
from ..ir.limits import Budget, nbytes_of
from . import cost
from .bench import measure
from .binding import bind_dims, read_inputs
from .bound import Bound
from .executor import Executable
from .plan import Plan
from .steps import Frame, HostStep, Step, Watch
from .workspace import Workspace

LEAST_RUNS = 5
_COLUMNS = ("time", "share", "GFLOP/s", "GB/s", "tiles", "operator", "node", "operands -> results")


@dataclass(frozen=True)
class Row:
    """One kernel, or one step on the host. `path` tells in which region of which node it runs, as `if_node/then_branch/...`
    (empty in the main graph), and `count` how often in a run. `seconds` is the median over the runs; `flops` counts products only,
    and `nbytes` the operands and results once each (None: sizes are not known). All three are of all times together; types are
    those of the last.
    """

    path: str
    node: str
    op: str
    how: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    tiles: int
    count: int
    seconds: float
    flops: int | None
    nbytes: int | None

    @property
    def gflops(self) -> float | None:
        """GFLOP/s; None for what is no product."""
        return self.flops / self.seconds / 1e9 if self.flops and self.seconds else None

    @property
    def gbytes(self) -> float | None:
        """GB/s."""
        return self.nbytes / self.seconds / 1e9 if self.nbytes and self.seconds else None

    def cells(self, whole: float) -> tuple[str, ...]:
        """What stands in a table of rows that take `whole` seconds together."""
        speed = tuple("" if x is None else f"{x:.3g}" for x in (self.gflops, self.gbytes))
        types = f"{_listed(self.operands)} -> {_listed(self.results)}"
        tiles = str(self.tiles or self.how) + (f" x {self.count}" if self.count > 1 else "")
        node = f"{self.path}: {self.node}" if self.path else self.node
        return (human(self.seconds), f"{self.seconds / whole:.1%}", *speed, tiles, self.op, node, types)


@dataclass(frozen=True)
class Profile:
    """What `profile` found; `print` shows it as a table. `seconds` is the median of a whole `Executable.run`."""

    rows: list[Row] = field(default_factory=list)  # in the order in which they run
    seconds: float = 0.0
    threads: int = 1
    runs: int = 0

    @property
    def inside(self) -> float:
        """Seconds in the rows together; the rest of a run is checks, memory for outputs, and the way from row to row."""
        return sum(r.seconds for r in self.rows)

    def by_op(self) -> dict[str, tuple[int, float]]:
        """For each operator how many rows there are and their seconds together, the longest first."""
        found: dict[str, tuple[int, float]] = {}
        for r in self.rows:
            count, seconds = found.get(r.op, (0, 0.0))
            found[r.op] = count + 1, seconds + r.seconds
        return dict(sorted(found.items(), key=lambda item: -item[1][1]))

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON's own types."""
        return {
            "seconds": self.seconds,
            "inside": self.inside,
            "threads": self.threads,
            "runs": self.runs,
            "by_op": [{"op": op, "rows": n, "seconds": s} for op, (n, s) in self.by_op().items()],
            "rows": [{**asdict(r), "gflops": r.gflops, "gbytes": r.gbytes} for r in self.rows],
        }

    def table(self, most: int | None = None) -> str:
        """Rows with the longest first, at most so many, and the operators' sums."""
        order, whole = sorted(self.rows, key=lambda r: -r.seconds)[:most], self.inside or 1.0
        left_out = len(self.rows) - len(order)
        lines = aligned_columns([_COLUMNS, *(r.cells(whole) for r in order)]) + [f"and {left_out} more"] * bool(left_out)
        sums = [(op, str(n), human(s), f"{s / whole:.1%}") for op, (n, s) in self.by_op().items()]
        lines += ["", *aligned_columns([("operator", "rows", "time", "share"), *sums]), ""]
        lines.append(f"a run takes {human(self.seconds)}, {human(self.inside)} of it in these rows (threads: {self.threads})")
        return "\n".join(lines)

    __str__ = table


def profile(exe: Executable, inputs: Mapping[str, Any], *, seconds: float = 1.0) -> Profile:
    """Times each kernel and each step on the host in runs on `inputs`, for about so many seconds and in five runs at least.

    Kernels are timed in their place in a run, one after the other, with the caches as they are there; on CUDA each by itself, as
    the mean of launches that follow each other. Raises what `Executable.run` raises.
    """
    values = read_inputs(exe.module, inputs, exe.device)
    timings, _ = measure({"run": lambda: exe.run(values)}, seconds / 2)
    workspace, took = Workspace(exe.device), list[dict[Any, float]]()
    ends = time.monotonic() + seconds / 2
    values = exe.padded(values)
    first = _Stopwatch(described={})  # finds memory for the segments, too
    exe.plan.run(_frame(exe, values, workspace, first))
    while len(took) < LEAST_RUNS or time.monotonic() < ends:
        watch = _Stopwatch()
        exe.plan.run(_frame(exe, values, workspace, watch))
        took.append(watch.seconds)
    assert first.described is not None
    medians = {key: float(np.median([t.get(key, 0.0) for t in took])) for key in first.described}
    rows = [replace(row, seconds=medians[key]) for key, row in first.described.items()]
    return Profile(rows, timings["run"].median, exe.threads, len(took))


def _frame(exe: Executable, values: Mapping[str, Any], workspace: Workspace, watch: Watch) -> Frame:
    env, symbols = bind_dims(exe.module, values)
    fed = sum(nbytes_of(x) for x in env.values())
    budget = Budget(exe.options.limits, exe.given + fed, fed)
    return Frame(dict(env), dict(symbols), budget, exe.threads, workspace, watch=watch)


class _Stopwatch:
    """Times what runs: `seconds` of each step that takes time, by its path and the step. With `described` it makes their rows,
    which takes time of its own."""

    def __init__(self, described: dict[tuple[str, Step], Row] | None = None):
        self.seconds: dict[tuple[str, Step], float] = {}
        self.described = described
        self._path: list[str] = []  # of the regions under way
        self._within = 0.0  # seconds that regions of the operator under way took
        self._own = 0.0  # seconds that the last control operator took without its regions

    def leg(self, plan: Plan, at: int, bound: Bound | None, frame: Frame) -> None:
        if bound is None:
            step, started = plan.steps[at], time.perf_counter()
            plan.run_step(at, frame)
            control = isinstance(step, HostStep) and step.plans
            self._add(step, 0, self._own if control else time.perf_counter() - started, frame)
            return
        rows = frame.workspace.resolve(bound).timed(lambda: bound.run(frame))
        took: dict[Step, tuple[int, float]] = {}  # a kernel in passes has several rows
        for step, (tiles, more) in zip(bound.kernels, rows, strict=True):
            most, seconds = took.get(step, (0, 0.0))
            took[step] = max(most, tiles), seconds + more
        for step, (tiles, seconds) in took.items():
            self._add(step, tiles, seconds, frame)

    def control(self, run: Callable[[], Any]) -> Any:
        outside, self._within, started = self._within, 0.0, time.perf_counter()
        results = run()
        self._own, self._within = time.perf_counter() - started - self._within, outside
        return results

    def call(self, plan: Plan, run: Callable[[], tuple]) -> tuple:
        started, node = time.perf_counter(), plan.graph.parent
        assert node is not None
        self._path.append(f"{node.name}/{node.op.regions[node.regions.index(plan.graph)]}")
        results = run()
        self._path.pop()
        self._within += time.perf_counter() - started
        return results

    def _add(self, step: Step, tiles: int, seconds: float, frame: Frame) -> None:
        key = "/".join(self._path), step
        self.seconds[key] = self.seconds.get(key, 0.0) + seconds
        if self.described is not None:
            self.described[key] = _row(key[0], step, tiles, frame.symbols, self.described.get(key))


def _row(path: str, step: Step, tiles: int, symbols: Mapping[str, int], before: Row | None) -> Row:
    """The row of a step that has run once more than in the row `before`."""
    node = step.node
    how = step.how if isinstance(step, HostStep) else "native"
    operands = tuple(_type(v, symbols) for v in node.operands if v is not None)
    results = tuple(_type(v, symbols) for v in node.results)
    flops, nbytes, count = cost.flops(node, symbols), cost.nbytes(node, symbols), 1
    if before is not None:
        flops, nbytes, count = _sum(flops, before.flops), _sum(nbytes, before.nbytes), before.count + 1
    return Row(path, node.name, operator(node), how, operands, results, tiles, count, 0.0, flops, nbytes)


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


def _type(v: Any, symbols: Mapping[str, int]) -> str:
    return str(cost.concrete(v, symbols) or v.type)


def operator(node: Node) -> str:
    """The operator's name; of what fusion put together, the names inside."""
    return "+".join(n.op.name for n in node.regions[0]) if node.op.has("isolated") else node.op.name


def human(seconds: float) -> str:
    """A time with three digits and its unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _listed(types: tuple[str, ...]) -> str:
    """Types, of equal ones beside each other how many: `3 x f32[1,64], i64[2]`."""
    groups = [(t, len(list(same))) for t, same in groupby(types)]
    return ", ".join(t if n == 1 else f"{n} x {t}" for t, n in groups)


def aligned_columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines with the cells of a column below each other; all but the last are padded."""
    widths = [max(len(c) for c in column) for column in zip(*rows)]
    return ["  ".join(c.ljust(w) for c, w in zip(r[:-1], widths)) + f"  {r[-1]}" for r in rows]
