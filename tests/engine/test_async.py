"""run_async and timeouts: answers, many at once, cancelling before and while a run goes on, several event loops, fork."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import graphmill as gm
import numpy as np
import pytest
from graphmill.engine import background
from graphmill.kernels.cpu.cpus import granted_cpus
from onnx import parser as onnx_parser

SOON = 20  # seconds after which a test has failed


def compiled(text: str, **options: Any) -> gm.Executable:
    return gm.compile(onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}'), **options)


@pytest.fixture(scope="module")
def negate() -> gm.Executable:
    return compiled("m (float[N] x) => (float[N] y) { y = Neg (x) }")


# Native work without end, and the same of many short steps on the host.
LONG = """m (int64 n, float[256,256] a) => (float[256,256] z) { t = Constant<value = bool {1}>() z = Loop(n, t, a)
    <body = b (int64 i, bool c, float[256,256] p) => (bool d, float[256,256] q) { d = Identity(c) q = MatMul(p, a) }> }"""


@pytest.fixture(scope="module")
def endless() -> gm.Executable:
    return compiled(LONG, threads=1, limits=gm.Limits(seconds=None, loop_iterations=None))


@pytest.fixture(scope="module")
def wide() -> gm.Executable:
    """One segment that takes a second or so: it is ended between slices of one native call."""
    steps = "".join(f" v{i + 1} = MatMul (v{i}, a)" for i in range(40))
    return compiled(f"m (float[1024,1024] v0, float[1024,1024] a) => (float[1024,1024] v40) {{{steps} }}", threads=1)


FOREVER = {"n": np.array(10**9), "a": np.eye(256, dtype=np.float32)}
WIDE = {"v0": np.ones((1024, 1024), np.float32), "a": np.eye(1024, dtype=np.float32)}
x = np.arange(5, dtype=np.float32)


def begun(run: Any) -> None:
    end = time.monotonic() + SOON
    while not run.running():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_it_is_a_future(negate: gm.Executable) -> None:
    run = negate.run_async({"x": x})
    assert isinstance(run, concurrent.futures.Future)
    assert (run.result(SOON)["y"] == -x).all() and run.done() and not run.running() and not run.cancelled() and not run.cancel()
    place = np.zeros(5, np.float32)
    assert negate.run_async({"x": x}, out={"y": place}).result(SOON)["y"] is place and (place == -x).all()
    called: list[Any] = []
    run.add_done_callback(called.append)
    assert called == [run]
    runs = [negate.run_async({"x": x + i}) for i in range(50)]
    assert {r.result()["y"][0] for r in concurrent.futures.as_completed(runs, SOON)} == {-float(i) for i in range(50)}


def test_errors_are_the_futures(negate: gm.Executable) -> None:
    run = negate.run_async({"q": x})
    assert isinstance(run.exception(SOON), gm.errors.InputError)

    async def wait() -> None:
        with pytest.raises(gm.errors.InputError, match="no input is named"):
            await negate.run_async({"q": x})
        assert ((await negate.run_async({"x": x}))["y"] == -x).all()

    asyncio.run(wait())


def test_many_at_once_on_few_threads(negate: gm.Executable) -> None:
    async def all_of_them() -> list[dict[str, Any]]:
        return await asyncio.gather(*[negate.run_async({"x": np.full(1 + i % 5, i, np.float32)}) for i in range(300)])

    for i, out in enumerate(asyncio.run(all_of_them())):
        assert out["y"].tolist() == [-i] * (1 + i % 5)
    assert sum(t.name.startswith("graphmill-run") for t in threading.enumerate()) <= granted_cpus()


def test_several_event_loops(negate: gm.Executable, endless: gm.Executable) -> None:
    wrong: list[Any] = []

    async def some(seed: int) -> None:
        for i in range(20):
            out = await negate.run_async({"x": x + seed + i})
            if not (out["y"] == -(x + seed + i)).all():
                wrong.append(seed)

    loops = [threading.Thread(target=lambda s=s: asyncio.run(some(s))) for s in range(3)]
    for t in loops:
        t.start()
    for t in loops:
        t.join(SOON)
    assert not wrong and not any(t.is_alive() for t in loops)

    shared = endless.run_async(FOREVER)  # one future, awaited in two loops

    async def wait() -> str:
        try:
            await shared
        except asyncio.CancelledError:
            return "cancelled"
        return "ended"

    told: list[str] = []
    loops = [threading.Thread(target=lambda: told.append(asyncio.run(wait()))) for _ in range(2)]
    for t in loops:
        t.start()
    begun(shared)
    assert shared.cancel()
    for t in loops:
        t.join(SOON)
    assert told == ["cancelled"] * 2


@pytest.mark.parametrize("model", ["endless", "wide"])
def test_cancelling_a_run_that_goes_on(model: str, request: pytest.FixtureRequest) -> None:
    exe, feeds = request.getfixturevalue(model), {"endless": FOREVER, "wide": WIDE}[model]
    run = exe.run_async(feeds)
    begun(run)
    assert run.cancel() and run.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        run.result(SOON)
    assert run.cancelled() and run.done() and not run.running() and not run.cancel()
    assert concurrent.futures.wait([run], SOON).done == {run}


def test_cancelling_one_that_waits(negate: gm.Executable, endless: gm.Executable) -> None:
    busy = [endless.run_async(FOREVER) for _ in range(granted_cpus())]
    for run in busy:
        begun(run)
    place = np.zeros(5, np.float32)
    waiting, late = negate.run_async({"x": x}, out={"y": place}), negate.run_async({"x": x}, timeout=0.01)
    assert not waiting.running() and waiting.cancel() and waiting.cancelled()
    time.sleep(0.02)
    for run in busy:
        run.cancel()
    assert isinstance(late.exception(SOON), gm.errors.DeadlineError)  # its time was over before it began
    assert (negate.run_async({"x": x}).result(SOON)["y"] == -x).all() and not place.any()


def test_an_await_that_is_cancelled_waits_for_the_end(endless: gm.Executable) -> None:
    async def wait() -> Any:
        run = endless.run_async(FOREVER)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(run, 0.1)
        assert run.done() and run.cancelled()  # nothing is written to the caller's arrays any more
        run = endless.run_async(FOREVER)

        async def task() -> None:
            await run

        t = asyncio.create_task(task())
        await asyncio.sleep(0.05)
        t.cancel()
        with pytest.raises(asyncio.CancelledError):
            await t
        return run

    assert asyncio.run(asyncio.wait_for(wait(), SOON)).cancelled()


def test_the_loop_goes_on_meanwhile(endless: gm.Executable) -> None:
    async def both() -> int:
        run, turns = endless.run_async(FOREVER), 0
        for _ in range(20):
            await asyncio.sleep(0.005)
            turns += not run.done()
        run.cancel()
        return turns

    assert asyncio.run(both()) == 20


@pytest.mark.parametrize("model", ["endless", "wide"])
def test_timeouts(model: str, request: pytest.FixtureRequest) -> None:
    exe, feeds = request.getfixturevalue(model), {"endless": FOREVER, "wide": WIDE}[model]
    with pytest.raises(TimeoutError, match=r"the run has not ended within its 0\.05 s") as e:
        exe.run(feeds, timeout=0.05)
    assert isinstance(e.value, gm.errors.DeadlineError) and isinstance(e.value, gm.errors.LimitError)
    with pytest.raises(gm.errors.DeadlineError):
        exe.run_async(feeds, timeout=0.05).result(SOON)
    small = feeds | ({"n": np.array(1)} if model == "endless" else {})
    assert exe.run(small, timeout=300)


def test_a_forked_child_has_threads_of_its_own(negate: gm.Executable) -> None:
    negate.run_async({"x": x}).result(SOON)
    pid = os.fork()
    if pid == 0:
        ok = (negate.run_async({"x": x}).result(SOON)["y"] == -x).all()
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_cancel_and_end_at_the_same_time() -> None:
    """Whoever wins, the future ends one way, and `cancel` said which."""
    for _ in range(300):
        run = background.submit(lambda: 1)
        told = run.cancel()
        assert concurrent.futures.wait([run], SOON).done == {run}
        assert run.cancelled() == told
        assert told or run.result() == 1


def test_a_process_ends_while_a_run_goes_on() -> None:
    code = f"""
import graphmill as gm, numpy as np, time
from onnx import parser
exe = gm.compile(parser.parse_model('''<ir_version: 10, opset_import: ["" : 21]> {LONG}'''), limits=gm.Limits(seconds=None, loop_iterations=None))
run = exe.run_async({{"n": np.array(10**9), "a": np.eye(256, dtype=np.float32)}})
while not run.running(): time.sleep(0.001)
time.sleep(0.05)
print("end")
"""
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0 and done.stdout == "end\n" and not done.stderr


def test_a_run_that_is_over_holds_no_inputs(negate: gm.Executable, endless: gm.Executable) -> None:
    class Array(np.ndarray):
        pass

    given = np.ones(3, np.float32).view(Array)
    alive = weakref.ref(given)
    busy = [endless.run_async(FOREVER) for _ in range(granted_cpus())]
    for run in busy:
        begun(run)
    waiting = negate.run_async({"x": given})
    waiting.cancel()
    for run in busy:
        run.cancel()
    done = negate.run_async({"x": given})
    done.result(SOON)
    del given
    end = time.monotonic() + SOON
    while alive() is not None and time.monotonic() < end:  # the thread lets go of it just after
        gc.collect()
        time.sleep(0.01)
    assert alive() is None and waiting.cancelled() and done.done()
