"""How long runs take: several ways to run in one process, taking turns, so that a change of the machine's speed meets all alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

TURN = 0.05  # seconds of one way's runs before it is another's turn
SAMPLE = 5e-4  # seconds that one sample takes at least: shorter runs are timed in groups
CALM = 0.02  # seconds before a turn, in which threads that spin go to sleep
LEAST_TURNS = 3


@dataclass(frozen=True)
class Timing:
    """Seconds of a run, of which a tenth, half and nine tenths of the samples are below; the median of the process's CPU time; runs
    a second of one caller."""

    low: float
    median: float
    high: float
    cpu: float
    per_second: float
    runs: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(ways: Mapping[str, Callable[[], Any]], seconds: float, threads: int = 1) -> tuple[dict[str, Timing], dict[str, float]]:
    """The timing of each way, for about so many seconds each, and how many times as long as the first each other way takes (the
    median over the rounds of turns)."""
    groups = {name: _group(run) for name, run in ways.items()}
    turns: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in ways}
    ends = time.perf_counter() + seconds * len(ways)
    first = next(iter(ways))
    while time.perf_counter() < ends or len(turns[first]) < LEAST_TURNS:
        for name, run in ways.items():
            if threads > 1 and len(ways) > 1:
                time.sleep(CALM)
            turns[name].append(_turn(run, groups[name]))
    timings = {name: _timing([s for t in turns[name] for s in t], groups[name]) for name in ways}
    middles = {name: np.array([np.median([wall for wall, _ in turn]) for turn in turns[name]]) for name in ways}
    return timings, {name: float(np.median(middles[name] / middles[first])) for name in ways if name != first}


def _group(run: Callable[[], Any]) -> int:
    """How many runs make a sample."""
    run()
    started = time.perf_counter()
    run()
    return max(1, round(SAMPLE / max(time.perf_counter() - started, 1e-9)))


def _turn(run: Callable[[], Any], group: int) -> list[tuple[float, float]]:
    """Wall and CPU seconds of a run, for each sample of a turn."""
    samples: list[tuple[float, float]] = []
    started = time.perf_counter()
    while not samples or time.perf_counter() - started < TURN:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(group):
            run()
        samples.append(((time.perf_counter() - wall) / group, (time.process_time() - cpu) / group))
    return samples


def _timing(samples: list[tuple[float, float]], group: int) -> Timing:
    wall, cpu = np.array(samples).T
    low, middle, high = np.quantile(wall, (0.1, 0.5, 0.9)).tolist()
    return Timing(low, middle, high, float(np.median(cpu)), 1 / float(wall.mean()), len(samples) * group)


def peak_memory() -> int | None:
    """The most bytes of memory that this process ever had; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
