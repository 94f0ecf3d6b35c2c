"""Hostile models as a table, and the process that runs them.

    CASES = [Case("expand to 2^60 elements", lambda: model(...), inputs={...}, want=None), ...]

A case is run end to end (`graphmill.compile`, `run`, `graphmill check`) in a fork of a worker process, and must end in a typed
error of graphmill or in the right answer, in bounded time and memory, whatever it holds.
"""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

SECONDS = 5.0  # of CPU time (user and system, one thread), compiling kernels included
ALLOWANCE = 1.0  # more of them: a core whose caches others use counts some 20% more for the same work
WALL = 120.0  # seconds until a run that waits for something is killed, on a machine that others use
MEGABYTES = 512  # of peak memory above what the process with all imports holds
ANY = (
    "ImportProblem",
    "HostileModelError",
    "LimitError",
    "InferenceError",
    "RunError",
    "UnsupportedError",
    "IRError",
    "InputError",
)

node = helper.make_node


@dataclass
class Case:
    """`build` gives a model, its bytes, or writes files into the folder it is handed and returns the path of the model.

    `want` holds the right outputs in order; None means that only an error will do, "any" that the standard leaves the values open.
    `may_fail`: an error is as good.
    """

    name: str
    build: Callable[..., Any]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    want: Sequence[Any] | str | None = None
    may_fail: bool = False
    errors: Sequence[str] = ANY
    limits: Mapping[str, Any] = field(default_factory=dict)

    def path(self, folder: Path) -> str:
        made = self.build(folder) if self.build.__code__.co_varnames[:1] == ("folder",) else self.build()
        if isinstance(made, Path):
            return str(made)
        path = folder / "model.onnx"
        path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
        return str(path)


def model(nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Any] | None = None, outputs: Sequence[str] = ("y",),
          inits: Mapping[str, Any] | None = None, opset: int = 21, functions: Sequence[Any] = (),
          domains: Sequence[str] = ()) -> onnx.ModelProto:  # fmt: skip
    """A model whose inputs are given by example arrays or (dtype, shape), whose outputs have no declared type."""
    infos = [value_info(n, x) for n, x in (inputs or {}).items()]
    outs = [onnx.ValueInfoProto(name=n) for n in outputs]
    consts = [x if isinstance(x, onnx.TensorProto) else numpy_helper.from_array(np.asarray(x), n) for n, x in (inits or {}).items()]
    graph = helper.make_graph(list(nodes), "g", infos, outs, consts)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=10)


def value_info(name: str, x: Any) -> onnx.ValueInfoProto:
    if isinstance(x, tuple) and len(x) == 2 and not isinstance(x[0], (int, float)):
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(x[0])), x[1])
    a = np.asarray(x)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)


def graph(nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Any], outputs: Sequence[str]) -> onnx.GraphProto:
    """A body for If, Loop and Scan."""
    return helper.make_graph(list(nodes), "body", [value_info(n, x) for n, x in inputs.items()],
                             [onnx.ValueInfoProto(name=n) for n in outputs])  # fmt: skip


class Worker:
    """The process; started on first use, and again after it was lost."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None

    def ask(self, **request: Any) -> dict[str, Any]:
        if self.process is None or self.process.poll() is not None:
            command = [sys.executable, str(Path(__file__).with_name("worker.py"))]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None and self.process.stdout is not None
        data = pickle.dumps({"cpu": SECONDS + ALLOWANCE, "seconds": WALL, **request})
        self.process.stdin.write(struct.pack("<q", len(data)) + data)
        self.process.stdin.flush()
        head = self.process.stdout.read(8)
        assert len(head) == 8, "the worker itself ended"
        return pickle.loads(self.process.stdout.read(struct.unpack("<q", head)[0]))

    def close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


def excess(answer: Mapping[str, Any]) -> str:
    """What was taken above the bounds."""
    if answer["megabytes"] > MEGABYTES:
        return f"took {answer['megabytes']} MB"
    return f"took {answer['cpu']:.1f} s of CPU time" if answer["cpu"] > SECONDS + ALLOWANCE else ""


def complaint(case: Case, answer: Mapping[str, Any]) -> str:
    """What is wrong with the answer of a run; empty where nothing is."""
    if answer["status"] in ("died", "killed"):
        return f"the process {answer['status']}: {answer['message']} after {answer['cpu']:.1f} s of CPU time"
    wrong = excess(answer)
    if wrong:
        return f"{wrong} ({answer.get('message', 'and answered')})"
    if answer["status"] == "error":
        said = f"{answer['type']}: {answer['message']}"
        if not answer["typed"] or answer["type"] not in case.errors:
            return f"expected one of {', '.join(case.errors)}, got {said}"
        if "MemoryError" in said or "RecursionError" in said:
            return f"memory or stack ran out before a limit was noticed: {said}"
        return "" if case.want is None or case.may_fail else f"expected an answer, got {said}"
    if case.want is None:
        return f"expected an error, got {[(k, np.shape(v), str(v)[:200]) for k, v in answer['outputs'].items()]}"
    if isinstance(case.want, str):
        return ""
    return differences(list(answer["outputs"].values()), case.want)


def differences(got: Sequence[Any], want: Sequence[Any]) -> str:
    for g, w in zip(got, want, strict=True):
        try:
            if isinstance(w, list):
                assert len(g) == len(w), f"{len(g)} elements, expected {len(w)}"
                continue
            w = np.asarray(w)
            if isinstance(g, tuple):  # too large to be sent here: its shape
                assert g == w.shape, f"the shape {g}, expected {w.shape}"
                continue
            assert g.dtype == w.dtype and g.shape == w.shape, f"{g.dtype}{g.shape}, expected {w.dtype}{w.shape}"
            if w.dtype.kind in "fc":
                np.testing.assert_allclose(g, w, 1e-5, 1e-6)
            else:
                np.testing.assert_array_equal(g, w)
        except AssertionError as e:
            return f"wrong answer: {e}"
    return ""


def try_case(worker: Worker, case: Case, folder: Path | None = None) -> str:
    """Runs and checks one case; what was wrong."""
    with tempfile.TemporaryDirectory(dir=folder) as d:
        path = case.path(Path(d))
        wrong = complaint(case, worker.ask(verb="run", path=path, inputs=dict(case.inputs), limits=dict(case.limits)))
        answer = worker.ask(verb="check", path=path)
        if answer["status"] != "ok":
            wrong += f"\ncheck: {answer['status']} {answer.get('type', '')} {answer['message']}"
        elif excess(answer):
            wrong += f"\ncheck {excess(answer)}"
        elif answer["outputs"]["text"][0] not in (0, 1, 2):
            wrong += f"\ncheck ended with {answer['outputs']['text']}"
    return wrong.strip()
