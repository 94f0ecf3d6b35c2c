"""Where the time of a run goes: each kernel of the bound segments, and each step on the host, timed within whole runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from ..ir.core import Node
from ..ir.limits import Budget, nbytes_of
from . import cost
from .bench import measure
from .binding import bind_dims, read_inputs
from .executor import Executable
from .memory import Workspace
from .steps import Frame, HostStep, Step

LEAST_RUNS = 5
_COLUMNS = ("time", "share", "GFLOP/s", "GB/s", "tiles", "operator", "node", "operands -> results")


@dataclass(frozen=True)
class Row:
    """One kernel, or one step on the host. `seconds` is the median over the runs; `flops` counts products only, and `nbytes` the
    operands and results once each (None: sizes are not known)."""

    node: str
    op: str
    how: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    tiles: int
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
        return (human(self.seconds), f"{self.seconds / whole:.1%}", *speed, str(self.tiles or self.how), self.op, self.node, types)


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

    Kernels are timed in their place in a run, one after the other, with the caches as they are there; what a loop or a branch runs
    counts as one row. Raises what `Executable.run` raises.
    """
    values = read_inputs(exe.module, inputs)
    timings, _ = measure({"run": lambda: exe.run(values)}, seconds / 2)
    workspace, took = Workspace(), list[list[float]]()
    ends = time.monotonic() + seconds / 2
    while len(took) <= LEAST_RUNS or time.monotonic() < ends:
        frame = _frame(exe, values, workspace)
        found = list(_one_run(exe, frame))
        took.append([s for _, _, s in found])
    medians = np.median(np.array(took[1:]), axis=0)  # the first one found memory for the segments
    rows = [_row(step, tiles, float(s), frame.symbols) for (step, tiles, _), s in zip(found, medians)]
    return Profile(rows, timings["run"].median, exe.threads, len(took) - 1)


def _frame(exe: Executable, values: Mapping[str, Any], workspace: Workspace) -> Frame:
    env, symbols = bind_dims(exe.module, values)
    fed = sum(nbytes_of(x) for x in env.values())
    return Frame(dict(env), dict(symbols), Budget(exe.options.limits, exe.given + fed, fed), exe.threads, workspace)


def _one_run(exe: Executable, frame: Frame) -> Iterator[tuple[Step, int, float]]:
    """Each step that takes time, its tiles (0: on the host) and its seconds, in a run of the main graph."""
    plan, at = exe.plan, 0
    while at < len(plan.steps):
        frame.budget.check_time(plan.steps[at].name)
        bound = plan.segments.at(at, frame)
        if bound is None:
            started = time.perf_counter()
            plan.run_step(at, frame)
            yield plan.steps[at], 0, time.perf_counter() - started
            at += 1
            continue
        schedule = frame.workspace.resolve(bound).schedule
        times = schedule.time_rows()
        bound.run(frame)
        for step, tiles, nanoseconds in zip(bound.kernels, schedule.table[:, 2].tolist(), np.diff(times).tolist(), strict=True):
            yield step, tiles, nanoseconds / 1e9
        at = bound.stop


def _row(step: Step, tiles: int, seconds: float, symbols: Mapping[str, int]) -> Row:
    node = step.node
    how = step.how if isinstance(step, HostStep) else "native"
    operands = tuple(_type(v, symbols) for v in node.operands if v is not None)
    results = tuple(_type(v, symbols) for v in node.results)
    return Row(
        node.name, operator(node), how, operands, results, tiles, seconds, cost.flops(node, symbols), cost.nbytes(node, symbols)
    )


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
