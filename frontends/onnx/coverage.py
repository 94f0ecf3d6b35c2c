"""What of a model is served, and how, found before anything runs.

    >>> report = check("model.onnx")
    >>> report.ok, [str(row) for row in report.rows]

An operator is served *native* (by a generated kernel), by its numpy *reference*, or not at all (*unsupported*). Which of the first
two it is depends on the target, so the engine injects the answer; without it the operator's record alone decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ...ir.core import Node
from ...ir.limits import DEFAULT_LIMITS, Limits
from .problems import Problem, shown
from .protobuf import load
from .reader import ModelSource, Reader

State = Literal["native", "reference", "unsupported"]
Serves = Callable[[Node], "tuple[State, str]"]  # the state of a node and, where it is not native, why

MOST_NODES = 5  # nodes that a row names


@dataclass(slots=True)
class Row:
    """All nodes of one operator that share one state and one reason: how many, and the names of the first few."""

    op: str
    state: State
    reason: str
    count: int = 0
    nodes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{shown(self.op)}: {self.count} {self.state}{f' ({self.reason})' if self.reason else ''}"


@dataclass(frozen=True, slots=True)
class Report:
    """The coverage of one model: a row for each operator, state and reason, and every problem of reading it."""

    source: str
    opsets: dict[str, int]
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether the model was read without a problem and every node is served."""
        return not self.problems and all(r.state != "unsupported" for r in self.rows)

    def counts(self) -> dict[State, int]:
        """How many nodes there are of each state."""
        out: dict[State, int] = {"native": 0, "reference": 0, "unsupported": 0}
        for r in self.rows:
            out[r.state] += r.count
        return out

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return {
            "source": self.source, "ok": self.ok, "opsets": dict(self.opsets), "counts": dict(self.counts()),
            "ops": [asdict(r) for r in self.rows], "problems": [p.as_dict() for p in self.problems],
        }  # fmt: skip


def by_record(node: Node) -> tuple[State, str]:
    """What the operator's record alone says: elementwise operators and reductions have kernels generated from it."""
    op = node.op
    if op.reference is None:
        return "unsupported", "the operator has no reference"
    if op.has("opaque"):
        return "reference", "runs through onnx.reference"
    if op.is_elementwise or op.has("reduction"):
        return "native", ""
    return "reference", "runs through its numpy reference"


def check(source: ModelSource, serves: Serves = by_record, limits: Limits = DEFAULT_LIMITS) -> Report:
    """Reads the model and lists how each operator is served, worst first; problems are reported and not raised.

    Raises HostileModelError and LimitError for a file that cannot be read at all.
    """
    reader = Reader(load(source), limits)
    rows: dict[tuple[str, str, str], Row] = {}

    def add(op: str, state: State, reason: str, name: str) -> None:
        row = rows.setdefault((op, state, reason), Row(op, state, reason))
        row.count += 1
        if len(row.nodes) < MOST_NODES:
            row.nodes.append(name)

    for node in reader.module.walk():
        add(node.op.name, *serves(node), node.locs[0] if node.locs else f"%{node.name}")
    for p in reader.problems:
        if p.op:
            add(f"{p.domain}.{p.op}" if p.domain else p.op, "unsupported", p.message, p.node)
    order = ["unsupported", "reference", "native"]
    sorted_rows = sorted(rows.values(), key=lambda r: (order.index(r.state), r.op, r.reason))
    return Report(reader.source.name, dict(reader.module.opsets), tuple(sorted_rows), tuple(reader.problems))
