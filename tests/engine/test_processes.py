"""Executables in forked and spawned children, in many threads, at exit and under Ctrl-C.

What must not be shared with other tests (signals, exits, the number of threads) runs in a process of its own: `script` runs code there and
returns what it prints.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import graphmill as gm
import numpy as np
import pytest

ROOT = Path(gm.__file__).parents[1]
# Several tiles a row, so that two threads work, in about a millisecond; symbolic sizes, so that a child has something to bind.
MODEL = '''
import multiprocessing, os, signal, sys, threading, time
import graphmill as gm
import numpy as np
import onnx.parser

def compiled(**options):
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        m (float[n,256] x) => (float[n,256] y) { a = MatMul(x, w) b = Tanh(a) c = MatMul(b, w) y = Softmax(c) }""")
    w = np.random.default_rng(0).standard_normal((256, 256)).astype("f4") / 16
    model.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    return gm.compile(model, **options)

def feed(n):
    return {"x": np.random.default_rng(n).standard_normal((n, 256)).astype("f4")}
'''


def script(code: str, timeout: float = 120, **popen: object) -> str:
    """What the code prints after MODEL. It must exit with 0, without a word on stderr, before the timeout."""
    text = MODEL + textwrap.dedent(code)
    popen = {"env": environment()} | popen
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=timeout, **popen)  # type: ignore[call-overload]
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def test_forked_children_at_once() -> None:
    """As gunicorn's workers: the parent compiles and runs on two threads, then forks; parent and children run at once."""
    out = script("""
        exe = compiled(threads=2)
        want = {n: exe.run(feed(n))["y"] for n in (64, 65)}  # 65 was met, 66 to 69 will be bound in the children
        one = compiled(threads=1)
        want |= {n: one.run(feed(n))["y"] for n in range(66, 70)}

        def same():
            return all(np.array_equal(exe.run(feed(n))["y"], want[n]) for _ in range(20) for n in want)

        children = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                ok = same()
                time.sleep(0.01)  # its own worker sleeps now
                ok = ok and same()
                sys.stdout.flush()
                sys.exit(0 if ok and threading.active_count() == 2 else 1)  # through Python's own end of the process
            children.append(pid)
        assert same()
        codes = [os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in children]
        assert same()
        print(codes)
    """)
    assert out == "[0, 0, 0]"


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(method: str, tmp_path: Path) -> None:
    """A pool of processes; where nothing is inherited each compiles for itself, out of the cache."""
    code = textwrap.dedent(f"""
        if __name__ == "__main__":
            exe = compiled(threads=2)
            want = [exe.run(feed(n))["y"] for n in range(60, 70)]
        elif {method == "fork"}:
            exe = None
        else:
            exe = compiled(threads=2)

        def work(n):
            return exe.run(feed(n))["y"]

        if __name__ == "__main__":
            with multiprocessing.get_context("{method}").Pool(2) as pool:
                got = pool.map(work, list(range(60, 70)) * 3)
            assert all(np.array_equal(a, b) for a, b in zip(got, want * 3, strict=True))
            assert np.array_equal(work(60), want[0])
            print("same")
    """)
    (tmp_path / "main.py").write_text(MODEL + code)
    done = subprocess.run([sys.executable, tmp_path / "main.py"], capture_output=True, text=True, timeout=240, env=environment())
    assert (done.returncode, done.stdout.strip()) == (0, "same"), done.stderr


def test_a_fork_while_other_threads_run() -> None:
    """The child has none of the threads that held locks, or were half way through a run, in the parent."""
    out = script("""
        exe, stop = compiled(threads=2), False
        want = {n: compiled(threads=1).run(feed(n))["y"] for n in range(30, 36)}

        def work(start):
            n = start
            while not stop:
                exe.run(feed(n % 300 + 1))  # more signatures than are kept: most are bound anew, under a lock
                n += 1

        threads = [threading.Thread(target=work, args=(70 * i,)) for i in range(3)]
        for t in threads:
            t.start()
        failed = 0
        for _ in range(40):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                os._exit(0 if all(np.array_equal(exe.run(feed(n))["y"], y) for n, y in want.items()) else 1)
            failed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
        stop = True
        for t in threads:
            t.join()
        print(failed)
    """)
    assert out == "0"


def test_forks_while_a_thread_compiles(tmp_path: Path) -> None:
    """A child compiles, too, and finds LLVM and its locks as nobody's; and no fork waits for more than the kernel under way."""
    out = script("""
        from graphmill.kernels.cpu.objects import kernel_address

        def text(n):
            return "def kernel(p, tile, ntiles):\\n" + "".join(f"    st_i64(param(p, {i}), 0, {n + i})\\n" for i in range(40))

        stop, made = False, 0

        def work():
            global made
            while not stop:
                kernel_address(text(100 * made))
                made += 1

        kernel_address(text(-100))  # LLVM is there
        thread = threading.Thread(target=work)
        thread.start()
        failed, before = 0, made
        for i in range(30):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                kernel_address(text(-1000 - 100 * i))
                os._exit(0)
            failed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
        stop = True
        thread.join()
        print(failed, made > before)
    """, env=environment() | {"GRAPHMILL_CACHE": str(tmp_path)})  # fmt: skip
    assert out == "0 True"


def test_children_of_children() -> None:
    out = script("""
        exe = compiled(threads=2)
        want = exe.run(feed(64))["y"]
        code = 0
        if os.fork() == 0:
            exe.run(feed(64))
            if os.fork() == 0:
                sys.exit(0 if np.array_equal(exe.run(feed(64))["y"], want) else 1)
            code = os.waitstatus_to_exitcode(os.wait()[1])
            sys.exit(code)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
    """)
    assert out == "0"


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "raise SystemExit", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_the_end_of_the_process_while_daemons_run(end: str) -> None:
    """Workers and callers are in the middle of native code when the interpreter goes."""
    code = """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        exe = compiled(threads=2)
        exe.run(feed(64))

        def work(n):
            while True:
                exe.run(feed(n))

        for n in (300, 301, 302):
            threading.Thread(target=work, args=(n,), daemon=True).start()
        time.sleep(0.2)
        print("end", flush=True)
    """
    started = time.monotonic()
    assert script(textwrap.dedent(code) + end) == "end"
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_ends_a_long_run(threads: int) -> None:
    """A run of seconds ends with KeyboardInterrupt about when SIGINT comes (within 0.1 s on a quiet machine), and the
    executable runs on."""
    out = script(f"threads = {threads}" + textwrap.dedent("""
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs behind it with SIGINT ignored
        products = " ".join(f"a{i + 1} = MatMul(a{i}, w)" for i in range(20))
        exe = gm.compile(onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> '
            f"m (float[n,1024] a0, float[1024,1024] w) => (float[n,1024] y) {{ {products} y = Identity(a20) }}"), threads=threads)
        x, w = np.ones((4000, 1024), "f4"), np.eye(1024, dtype="f4")
        exe.run({"a0": x[:8], "w": w})

        def press():
            time.sleep(0.5)
            pressed.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        for _ in range(3):
            pressed = []
            threading.Thread(target=press).start()
            try:
                exe.run({"a0": x, "w": w})
                print("not interrupted")
            except KeyboardInterrupt:
                print(time.monotonic() - pressed[0])
        assert np.array_equal(exe.run({"a0": x[:8], "w": w})["y"], x[:8])
    """))  # fmt: skip
    assert [float(line) < 2 for line in out.splitlines()] == [True] * 3, out


def test_many_threads_on_one_executable() -> None:
    """Bits are those of one thread, and neither workers nor files are left over."""
    out = script("""
        exe, one = compiled(threads=2), compiled(threads=1)
        want = {n: one.run(feed(n))["y"] for n in range(1, 70, 3)}
        wrong = []

        def work(i):
            for n in [*want][i:] + [*want][:i]:
                if not np.array_equal(exe.run(feed(n))["y"], want[n]):
                    wrong.append(n)

        def states():
            return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

        for turn in range(3):
            threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            time.sleep(0.2)  # threads that were joined take a moment to go
            if turn == 0:
                before = states()
        print(wrong, states() <= before, threading.active_count())
    """)
    assert out == "[] True 2"


def test_threads_that_compile_at_once() -> None:
    results: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        from onnx import parser

        text = f"m (float[4,{i % 3 + 2}] x) => (float[4,{i % 3 + 2}] y) {{ a = Exp(x) y = Add(a, x) }}"
        exe = gm.compile(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'))
        results[i] = exe.run({"x": np.ones((4, i % 3 + 2), "f4")})["y"]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(9)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(results) == list(range(9))
    assert all(np.allclose(y, np.e + 1, rtol=1e-6) for y in results.values())
