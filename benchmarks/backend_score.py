"""Scores graphmill (or any onnx.backend) on every CPU case of ONNX's backend test suite.

usage: python benchmarks/backend_score.py [MODULE] [--json OUT] [--markdown OUT] [--jobs 2] [--timeout 120] [--only REGEX] [--fails]
                                          [--again OLD.json] [--device CPU|CUDA|CUDA:shim] [--part 1/4]

MODULE (default: graphmill.engine.backend) has `prepare` and `supports_device`. Each worker process runs cases one by one; a crash
or a time-out fails that case alone, and the worker is started anew. Passed: every data set matches, with shape and element type.
Unsupported: the backend declined (BackendIsNotSupposedToImplementIt, SkipTest). Native: the case passed, and no node of it ran by
its reference. --again runs only what did not pass in OLD.json and merges. --part 1/4 runs every
fourth case alone, for runs that must be short: --json and then --again merge the parts.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import multiprocessing as mp
import os
import re
import sys
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from machine import made_by

KINDS = {"OnnxBackendNodeModelTest": "node", "OnnxBackendRealModelTest": "light", "OnnxBackendSimpleModelTest": "simple",
         "OnnxBackendPyTorchConvertedModelTest": "pytorch-converted",
         "OnnxBackendPyTorchOperatorModelTest": "pytorch-operator"}  # fmt: skip
CONTEXT = mp.get_context("spawn")


NOT_RUN = "not run"


@dataclass
class Case:
    """One case and what became of it. An expanded case counts for the operator whose function body it is."""

    kind: str
    name: str
    op: str
    status: str = NOT_RUN
    message: str = ""
    native: bool = False
    by_reference: str = ""
    seconds: float = 0.0


class Recorder:
    """A backend that hands everything on to another and keeps the last executable, to ask it how it ran."""

    def __init__(self, backend: Any):
        self.backend, self.last = backend, None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def prepare(self, *args: Any, **kw: Any) -> Any:
        self.last = None
        rep = self.backend.prepare(*args, **kw)
        self.last = getattr(rep, "executable", None)
        return rep

    def native(self) -> tuple[bool, str]:
        if self.last is None:
            return False, ""
        report = self.last.report
        return report.fully_native, " ".join(sorted({s.op for s in report.served if s.how != "native"}))


def suite(backend: Any) -> dict[str, dict[str, Any]]:
    """The suite's test items by kind and name."""
    import warnings

    warnings.filterwarnings("ignore")
    import numpy as np

    np.seterr(all="ignore")
    np.random.seed(0)  # many cases draw their data when they are imported
    import onnx.backend.test.runner as runner

    return {KINDS[f"OnnxBackend{k}Test"]: dict(v) for k, v in runner.Runner(backend)._test_items.items()}


class _Nothing:
    supports_device = staticmethod(lambda device: True)


def all_cases() -> list[Case]:
    import onnx.backend.test.case.node  # noqa: F401  (fills the table of cases)
    from onnx.backend.test.loader import load_model_tests

    node = {c.name: c for c in load_model_tests(kind="node")}
    cases = []
    for kind, items in suite(_Nothing).items():
        for name in sorted(items):
            if not name.endswith("_cpu"):
                continue
            base, op = name[:-4], kind
            if kind == "node":
                proto = node.get(re.sub(r"_expanded(_ver\d+|_function.*)?$", "", base), node[base]).model.graph.node[-1]
                op = f"{proto.domain}::{proto.op_type}" if proto.domain else proto.op_type
            cases.append(Case("node-expanded" if kind == "node" and "_expanded" in base else kind, base, op))
    return cases


# ---- workers ----------------------------------------------------------------------------------------------------


def worker(module: str, device: str, connection: Any) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder = tempfile.TemporaryDirectory()
    os.environ["ONNX_MODELS"] = folder.name
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (for the life of the process)
    os.dup2(sys.stderr.fileno(), 2)
    os.dup2(sys.stderr.fileno(), 1)
    recorder = Recorder(importlib.import_module(module))
    items = suite(recorder)
    connection.send("ready")
    while True:
        kind, name = connection.recv()
        connection.send(run_case(items[kind.removesuffix("-expanded")][f"{name}_cpu"].func, recorder, device))


def run_case(fn: Any, recorder: Recorder, device: str) -> tuple:
    while hasattr(fn, "__wrapped__") and fn.__wrapped__.__name__ in ("run", "run_node"):
        fn = fn.__wrapped__  # the wrapper would count "not supposed to implement" as a pass
    started = time.perf_counter()
    try:
        fn(None, device)
        status, message = "passed", ""
    except unittest.SkipTest as e:
        status, message = "unsupported", " ".join(str(e).split())[:300]
    except BaseException as e:
        status, message = "failed", f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
    native, by_reference = recorder.native()
    return status, message, native and status == "passed", by_reference, time.perf_counter() - started


class Worker:
    """A process that runs cases, started again after a crash or a time-out."""

    def __init__(self, module: str, device: str, timeout: float):
        self.module, self.device, self.timeout, self.process = module, device, timeout, None

    def _start(self) -> None:
        self.here, there = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=worker, args=(self.module, self.device, there), daemon=True)
        self.process.start()
        there.close()
        try:
            ready = self.here.poll(300) and self.here.recv() == "ready"
        except EOFError:
            ready = False
        if not ready:
            raise RuntimeError(f"a worker did not start (exit code {self.process.exitcode}); does {self.module} import?")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    def run(self, case: Case) -> None:
        if self.process is None:
            self._start()
        try:
            self.here.send((case.kind, case.name))
            if self.here.poll(self.timeout):
                case.status, case.message, case.native, case.by_reference, case.seconds = self.here.recv()
                return
            case.status, case.message = "failed", f"TIMEOUT after {self.timeout} s"
        except (EOFError, OSError):
            self.process.join(5)
            case.status, case.message = "failed", f"CRASH, exit code {self.process.exitcode}"
        self.stop()


def run_all(cases: list[Case], module: str, device: str, jobs: int, timeout: float) -> None:
    queue, lock = collections.deque(cases), threading.Lock()

    def go() -> None:
        w = Worker(module, device, timeout)
        try:
            while True:
                with lock:
                    if not queue:
                        return
                    case = queue.popleft()
                w.run(case)
        finally:
            w.stop()

    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(go) for _ in range(jobs)]:
            future.result()  # a worker that cannot start ends the run


# ---- tables -----------------------------------------------------------------------------------------------------


def table(cases: list[Case]) -> str:
    """The markdown table of passes and native shares by kind, and what did not pass."""
    lines = ["| cases | passed | of | failed | unsupported | every node native |", "|---|---|---|---|---|---|"]
    for kind in ("node", "node-expanded", "simple", "light", "pytorch-converted", "pytorch-operator", "all"):
        c = [x for x in cases if kind in (x.kind, "all")]
        if not c:
            continue
        n, native = collections.Counter(x.status for x in c), sum(x.native for x in c)
        share = f"{native} ({native / len(c):.0%})"
        lines.append(f"| {kind} | {n['passed']} | {len(c)} | {n['failed']} | {n['unsupported']} | {share} |")
    return "\n".join(lines)


def details(cases: list[Case]) -> str:
    """Every case that did not pass, with its reason."""
    return "\n".join(f"- {c.kind}/{c.name}: {c.status}: {c.message}" for c in cases if c.status != "passed")


def main() -> None:
    ap = argparse.ArgumentParser(description="Scores an onnx.backend on ONNX's backend test suite.")
    ap.add_argument("module", nargs="?", default="graphmill.engine.backend")
    ap.add_argument("--json")
    ap.add_argument("--markdown")
    ap.add_argument("--jobs", type=int, default=2)
    ap.add_argument("--timeout", type=float, default=120)
    ap.add_argument("--only")
    ap.add_argument("--fails", action="store_true")
    ap.add_argument("--again")
    ap.add_argument("--device", default="CPU")
    ap.add_argument("--part", default="1/1")
    a = ap.parse_args()
    cases = [c for c in all_cases() if not a.only or re.search(a.only, c.name)]
    part, parts = map(int, a.part.split("/"))
    todo = {id(c) for c in cases[part - 1 :: parts]}
    if a.again and Path(a.again).exists():
        old = {(c["kind"], c["name"]): c for c in json.loads(Path(a.again).read_text()) if c["status"] == "passed"}
        cases = [Case(**old[c.kind, c.name]) if (c.kind, c.name) in old else c for c in cases]
        todo = {id(c) for c in cases[part - 1 :: parts]}
    run_all([c for c in cases if c.status != "passed" and id(c) in todo], a.module, a.device, a.jobs, a.timeout)
    ran = [c for c in cases if c.status != NOT_RUN]
    print(table(ran))
    if a.fails:
        print(details(ran))
    if a.json:
        Path(a.json).write_text(json.dumps([asdict(c) for c in cases], indent=0))
    if a.markdown:
        device = "" if a.device == "CPU" else f" --device {a.device}"
        head = f"# ONNX's backend suite\n\n{made_by(f'python benchmarks/backend_score.py{device} --markdown {a.markdown}')}"
        Path(a.markdown).write_text(f"{head}\n{table(ran)}\n\nCases that do not pass:\n\n{details(ran)}\n")
    crashed = [c.name for c in cases if c.message.startswith(("CRASH", "TIMEOUT"))]
    if crashed:
        print("crashed or timed out:", *crashed)


if __name__ == "__main__":
    main()
