"""Runs models for a long time, with sizes and threads that change: answers must stay the same, and memory must not grow.

usage: python benchmarks/soak.py [--minutes 20] [--callers 4] [--folder DIR] [--markdown docs/soak.md] [--json OUT] [NAME ...]

Small models of every kind of step (`soak_models.py`) and those real ones of `models/real.json` that lie in the folder already.
Python threads (1 and --callers in turns of half a minute) draw a model, sizes, and an executable for 1 or 2 threads; every answer
must have the bits of the first one for these inputs. Now and then a model is compiled anew, saved and loaded, run through
`graphmill.ort` or in a forked child. Memory (resident), threads and open files are read every few seconds: after a quarter of the
time they must not grow.
"""

from __future__ import annotations

import os

# numpy's OpenBLAS, which references use, stops its threads at a fork: a product that another thread has under way waits for ever.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import hashlib
import json
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import graphmill as gm
import machine
import numpy as np
import realset
import soak_models
import speed

SIZES = 80  # signatures of a model: more than are kept bound
REAL = ("rawi_v2", "ch_ppocr_mobile_v2.0_cls", "nmp", "opt-mnist", "lightgbm", "dtln_1", "attacut-sc", "setback_full")
TURN = 30.0  # seconds with one caller, then as many with all
GROWTH_MB, GROWTH = 24.0, 0.04  # resident memory may grow by so many MB, or by this share of what it was
RARE = {"compiled anew": 60, "artifact": 200, "ort": 60, "fork": 400}  # one run in so many


# ---- what is run ------------------------------------------------------------------------------------------------


class Subject:
    """A model, compiled for one and for two threads, and the first answer for each of its inputs."""

    def __init__(self, name: str, model: Any, feeds: Callable[[int], dict[str, np.ndarray]]):
        self.name, self.model, self.feeds = name, model, feeds
        self.one, self.two = (gm.compile(model, threads=n) for n in (1, 2))
        self._known: dict[int, str] = {}

    def run(self, seed: int, run: Callable[[dict[str, np.ndarray]], Iterable[Any]]) -> str | None:
        """Runs inputs; what is wrong with the answer, None if nothing is."""
        feeds = self.feeds(seed)
        before = {n: x.copy() for n, x in feeds.items()}
        try:
            answer = digest(run(feeds))
        except gm.errors.GraphmillError as e:
            answer = f"{type(e).__name__}: {e}"
        if any(digest([feeds[n]]) != digest([before[n]]) for n in feeds):
            return f"{self.name}, inputs {seed}: the run changed its inputs"
        first = self._known.setdefault(seed, answer)
        return None if answer == first else f"{self.name}, inputs {seed}: {answer[:200]}, at first {first[:200]}"


def digest(values: Iterable[Any]) -> str:
    """A hash of shapes, types and bits."""
    h = hashlib.sha256()
    for x in values:
        parts = x if isinstance(x, (list, tuple)) else [x]
        for p in parts:
            a = np.asarray(p)
            h.update(f"{a.dtype} {a.shape}".encode())
            h.update(repr(a.tolist()).encode() if a.dtype == object else np.ascontiguousarray(a).tobytes())
    return h.hexdigest()


def subjects(folder: Path | None, names: list[str]) -> list[Subject]:
    """Those with these names (all, if none is given)."""
    found = [Subject(m.name, m.model(), m.feeds) for m in soak_models.MODELS if not names or m.name in names]
    for entry in realset.entries(REAL) if folder else ():
        path = folder / entry["file"]  # type: ignore[operator]
        name = entry["file"].split("__")[-1][:-5]
        if path.exists() and (not names or name in names):
            found.append(Subject(name, path, _grown(entry)))
    return found


def _grown(entry: dict[str, Any]) -> Callable[[int], dict[str, np.ndarray]]:
    """The usual inputs with every symbolic dim at a size that the seed chooses."""
    base, axes = realset.feeds(entry), realset.symbolic_axes(entry)

    def feeds(seed: int) -> dict[str, np.ndarray]:
        r, out = random.Random(seed), base
        for places in axes.values():
            usual = base[places[0][0]].shape[places[0][1]]
            out = realset.grown(out, places, r.randint(1, max(2, usual + usual // 2)))
        return {n: x.copy() for n, x in out.items()}

    return feeds


def once(s: Subject, r: random.Random) -> tuple[str, str | None]:
    """One run drawn at random: its kind, and what is wrong."""
    seed, kind = r.randrange(SIZES), next((k for k, n in RARE.items() if r.random() < 1 / n), "run")
    exe = r.choice((s.one, s.two))
    if kind == "compiled anew":
        exe = gm.compile(s.model, threads=r.choice((1, 2)))
    elif kind == "artifact":
        with tempfile.TemporaryDirectory() as at:
            s.one.save(os.path.join(at, "m.gmill"))
            exe = gm.load(os.path.join(at, "m.gmill"))
    elif kind == "ort":
        from graphmill import ort

        model = str(s.model) if isinstance(s.model, Path) else s.model.SerializeToString()
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        return kind, s.run(seed, lambda feeds: session.run(None, feeds))
    elif kind == "fork":
        return kind, s.run(seed, lambda feeds: _in_child(exe, feeds))
    return kind, s.run(seed, lambda feeds: exe.run(feeds).values())


def _in_child(exe: gm.Executable, feeds: dict[str, np.ndarray]) -> list[Any]:
    """The outputs that a forked child computes."""
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        try:
            theirs.send(list(exe.run(feeds).values()))
        except gm.errors.GraphmillError as e:
            theirs.send(e)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    if not ours.poll(120):
        child.kill()
        raise TimeoutError("a forked child did not answer")
    out = ours.recv()
    child.join()
    ours.close()
    theirs.close()
    if isinstance(out, Exception):
        raise out
    return out


# ---- for how long -----------------------------------------------------------------------------------------------


@dataclass
class Sample:
    """The process at a time (seconds since the start)."""

    at: float
    mb: float
    threads: int
    files: int


@dataclass
class Report:
    runs: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def problems(self) -> list[str]:
        """What is wrong: answers, and what grew after a quarter of the time."""
        end = self.samples[-1].at
        first = [s for s in self.samples if end / 4 <= s.at < end / 2]
        last = [s for s in self.samples if s.at >= end * 3 / 4]
        out = list(self.wrong)
        before, after = (float(np.median([s.mb for s in part])) for part in (first, last))
        allowed = GROWTH_MB if end >= 300 else 3 * GROWTH_MB  # sizes that are met for the first time
        if after > before + max(allowed, GROWTH * before):
            out.append(f"memory grew from {before:.0f} to {after:.0f} MB")
        for what in ("threads", "files"):
            before, after = (min(getattr(s, what) for s in part) for part in (first, last))
            if after > before:
                out.append(f"{what}: at least {before:g} at first, at least {after:g} at the end")
        return out


def sample(started: float) -> Sample:
    with open("/proc/self/statm", encoding="ascii") as f:
        resident = int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Sample(time.monotonic() - started, resident / 1e6, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")))


def settled(started: float) -> Sample:
    """A sample between turns. For a moment after Python's threads were joined the system may still count them."""
    seen = []
    for _ in range(10):
        seen.append(sample(started))
        time.sleep(0.01)
    return min(seen, key=lambda s: s.threads)


def soak(found: list[Subject], seconds: float, callers: int, tell: Callable[[str], None] = print) -> Report:
    """Runs subjects for so long, in turns with one caller and with `callers`."""
    report, lock, started = Report(), threading.Lock(), time.monotonic()
    turn, interval = min(TURN, seconds / 16), min(5.0, seconds / 64)
    number = 0

    def work(r: random.Random, until: float) -> None:
        while time.monotonic() < until:
            s = r.choice(found)
            try:
                kind, wrong = once(s, r)
            except Exception as e:  # anything but graphmill's own errors
                kind, wrong = "error", f"{s.name}: {type(e).__name__}: {e}"
            with lock:
                report.runs[kind] += 1
                if wrong is not None:
                    report.wrong.append(wrong)
                    tell(wrong)

    while time.monotonic() - started < seconds:
        many = callers if number % 2 else 1
        until = min(time.monotonic() + turn, started + seconds)
        threads = [threading.Thread(target=work, args=(random.Random(1000 * number + i), until)) for i in range(many)]
        for t in threads:
            t.start()
        while any(t.is_alive() for t in threads):
            report.samples.append(sample(started))
            threads[0].join(interval)
            for t in threads[1:]:
                if not threads[0].is_alive():
                    t.join()
        s = settled(started)
        report.samples.append(s)
        number += 1
        tell(f"{s.at:6.0f} s  {sum(report.runs.values())} runs  {s.mb:.0f} MB  {s.threads} threads  {s.files} files")
    return report


def page(report: Report, problems: list[str], names: list[str], command: str) -> str:
    """What was run, and the process at ten times."""
    paragraphs = [" ".join(p.split()) for p in (__doc__ or "").split("\n\n") if not p.startswith("usage")]
    kinds = "; ".join(f"{n} {kind}" for kind, n in report.runs.most_common())
    found = "\n".join(f"- {p}" for p in problems) or "Every answer was as at first; memory, threads and files did not grow."
    shown = [report.samples[round(i * (len(report.samples) - 1) / 9)] for i in range(10)]
    rows = [(f"{s.at:.0f}", f"{s.mb:.0f}", s.threads, s.files) for s in shown]
    table = speed.markdown_table(("seconds", "MB resident", "threads", "open files"), rows)
    run = f"{sum(report.runs.values())} runs ({kinds}) of {len(names)} models: {', '.join(names)}."
    return "\n\n".join(["# Soak", machine.made_by(command).strip(), *paragraphs, run, found, table])


def main(arguments: list[str] | None = None) -> int:
    """The number of problems."""
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("names", nargs="*", help="models (default: all)")
    ap.add_argument("--minutes", type=float, default=20)
    ap.add_argument("--callers", type=int, default=4)
    ap.add_argument("--folder", type=Path, default=realset.folder(), help="where real models lie")
    ap.add_argument("--markdown", type=Path)
    ap.add_argument("--json", type=Path)
    a = ap.parse_args(arguments)
    found = subjects(a.folder, a.names)
    print(f"{len(found)} models: {', '.join(s.name for s in found)}", flush=True)
    report = soak(found, 60 * a.minutes, a.callers, lambda s: print(s, flush=True))
    problems = report.problems()
    print(dict(report.runs))
    print(
        "\n".join(problems)
        or f"{sum(report.runs.values())} runs, every answer as at first; memory, threads and files did not grow."
    )
    if a.json:
        a.json.write_text(json.dumps({"problems": problems, **vars(report), "samples": [vars(s) for s in report.samples]}))
    if a.markdown:
        command = f"python benchmarks/soak.py --minutes {a.minutes:g} --callers {a.callers} --markdown {a.markdown}"
        a.markdown.write_text(page(report, problems, [s.name for s in found], command))
    return len(problems)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
