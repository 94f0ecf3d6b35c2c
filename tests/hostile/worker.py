"""A process that runs hostile models, each in a fork of its own: `python worker.py`, requests and answers pickled over pipes.

A fork starts with everything imported (llvmlite too), so that what it takes in time and memory is the model's doing. A request is a
dict: verb (run, check, inspect), path, inputs, limits, cpu and seconds (of CPU and of wall time, after which the fork is
killed). The answer is a dict: status (ok, error, killed, died), type and message of an error, typed (whether it is one of
graphmill's), outputs, cpu (seconds of CPU time that the fork and its children took), megabytes (peak memory above the start of
the fork).
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import pickle
import resource
import select
import signal
import struct
import sys
import time
from typing import Any

import graphmill as gm
import numpy as np

ADDRESS_SPACE = 6 << 30  # above the start: guards the machine; what a model may use is judged by `megabytes`
MOST_OUTPUT = 64 << 20


def preload() -> None:
    """Imports what compiling and checking need, compiles a kernel, runs a model."""
    import graphmill.cli.check_cmd
    import graphmill.cli.common
    import graphmill.cli.main  # noqa: F401
    from graphmill.kernels.cpu import objects
    from graphmill.kernels.cpu.target import select
    from graphmill.kernels.spec import KernelSource
    from onnx import helper

    nodes = [helper.make_node(op, ["x"], [op]) for op in ("Exp", "Relu", "Softmax")]
    infos = [helper.make_tensor_value_info(n, 1, ["N", 3]) for n in ("x", "Exp", "Relu", "Softmax")]
    model = helper.make_model(helper.make_graph(nodes, "g", infos[:1], infos[1:]), opset_imports=[helper.make_opsetid("", 21)])
    exe = gm.compile(model)
    exe.run({"x": np.ones((2, 3), np.float32)})
    sources = [select(n) for n in exe.module.main]
    objects.compile_kernel(next(s.text for s in sources if isinstance(s, KernelSource)))  # also where the cache is warm


def cpu_time(who: int) -> float:
    """Seconds of user and system time, of this process (with its children) or of the children that ended."""
    used = [resource.getrusage(w) for w in {who, resource.RUSAGE_CHILDREN}]
    return sum(u.ru_utime + u.ru_stime for u in used)


def status(field: str) -> int:
    """A size in bytes from /proc/self/status."""
    with open("/proc/self/status", encoding="ascii") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith(field))


def serve(request: dict[str, Any]) -> dict[str, Any]:
    """What the fork does."""
    limits = gm.Limits(**request.get("limits", {}))
    if request["verb"] == "check":
        return check(request["path"])
    if request["verb"] == "inspect":
        return inspect(request["path"])
    exe = gm.compile(request["path"], threads=1, limits=limits)
    outputs = exe.run(request["inputs"])
    total = sum(x.nbytes for x in outputs.values() if isinstance(x, np.ndarray))
    return {"outputs": outputs if total <= MOST_OUTPUT else {k: np.shape(v) for k, v in outputs.items()}}


def check(path: str) -> dict[str, Any]:
    """`graphmill check`, as text and as JSON; the exit statuses and what it printed."""
    from graphmill.cli.main import main

    out = {}
    for flags in ([], ["--json"]):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                code = main.main(["check", path, *flags], standalone_mode=False) or 0
            except SystemExit as e:
                code = int(e.code or 0)
        out["json" if flags else "text"] = (code, said.getvalue())
    return {"outputs": out}


def inspect(path: str) -> dict[str, Any]:
    """The IR as text before and after all passes, whether it parses back to the same text, and all kernel texts."""
    from graphmill.engine.compiler import load, optimize
    from graphmill.engine.options import Options
    from graphmill.engine.report import CompileReport
    from graphmill.ir.parser import parse_module
    from graphmill.ir.printer import print_module
    from graphmill.kernels.cpu.target import select
    from graphmill.kernels.spec import KernelSource

    module, texts = load(path, Options()), []
    texts.append(print_module(module))
    optimize(module, Options(), CompileReport())
    texts.append(print_module(module))
    again = [print_module(parse_module(t)) for t in texts]
    sources = [select(node) for node in module.main]
    return {"outputs": {"texts": texts, "again": again, "kernels": [s.text for s in sources if isinstance(s, KernelSource)]}}


def fork(request: dict[str, Any]) -> dict[str, Any]:
    """Runs a request in a fork and waits for its end, at most `seconds`."""
    read, write = os.pipe()
    started, before = time.monotonic(), cpu_time(resource.RUSAGE_CHILDREN)
    child = os.fork()
    if child == 0:
        os.close(read)
        answer: dict[str, Any] = {}
        used = status("VmRSS")
        size = status("VmSize") + ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        most = int(request["cpu"]) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (most, most + 1))
        try:
            answer = {"status": "ok", **serve(request)}
        except BaseException as e:
            answer = {
                "status": "error",
                "type": type(e).__name__,
                "message": str(e)[:4000],
                "typed": isinstance(e, gm.errors.GraphmillError),
            }
        answer |= {"cpu": cpu_time(resource.RUSAGE_SELF), "megabytes": (status("VmHWM") - used) >> 20}
        with os.fdopen(write, "wb") as f:
            pickle.dump(answer, f)
        os._exit(0)
    os.close(write)
    data = b""
    while True:
        left = started + request["seconds"] - time.monotonic()
        if left <= 0 or not select.select([read], [], [], left)[0]:
            os.kill(child, signal.SIGKILL)
            break
        more = os.read(read, 1 << 20)
        if not more:
            break
        data += more
    os.close(read)
    _, code = os.waitpid(child, 0)
    if data and code == 0:
        return pickle.loads(data)
    killed = os.WIFSIGNALED(code) and os.WTERMSIG(code) == signal.SIGKILL
    what = signal.Signals(os.WTERMSIG(code)).name if os.WIFSIGNALED(code) else f"exit status {code}"
    cpu = cpu_time(resource.RUSAGE_CHILDREN) - before
    return {"status": "killed" if killed else "died", "message": what, "cpu": cpu, "megabytes": 0}


def main() -> None:
    faulthandler.enable()
    pipe_in, pipe_out = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a model's run prints must not mix with the answers
    preload()
    while True:
        head = pipe_in.read(8)
        if len(head) < 8:
            return
        request = pickle.loads(pipe_in.read(struct.unpack("<q", head)[0]))
        answer = pickle.dumps(fork(request))
        pipe_out.write(struct.pack("<q", len(answer)) + answer)
        pipe_out.flush()


if __name__ == "__main__":
    main()
