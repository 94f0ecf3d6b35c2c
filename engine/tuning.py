"""`compile(..., tune=True)`: ways of computing products, convolutions and attention are measured, and the fastest are taken.

A problem is a node with known sizes (kernels/cuda/ways.py); equal layers are one. Its ways run on the device itself, on random
operands in memory of their own, many launches in a captured graph, the ways in turns. What was measured is kept as a receipt in the
cache, by the device, versions, the kernels' programs and the problem, so that nothing is measured twice.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..ir.core import Graph, Module, Node
from ..ir.errors import InputError
from ..ir.rewrite import Decision
from ..kernels.cpu.cache import read_receipt, write_receipt
from ..kernels.cuda import cubins, ways
from ..kernels.cuda.driver import Driver
from ..kernels.cuda.target import products_of
from ..kernels.cuda.ways import Problem, Way
from .measuring import Bench, Kernels, Measured, said
from .options import Options

CACHED = 32 << 20  # bytes of weights that a GPU's cache may keep from one run to the next


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
            found = Measured("default", {}, {"default": said(e)})
        tuning.problems[task.problem.key] = found
