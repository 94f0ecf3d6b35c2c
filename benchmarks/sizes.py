"""What a run takes at sizes that are new, that came once, and that are known: milliseconds on the wall, medians over the sizes.

usage: python benchmarks/sizes.py MODEL.onnx --dim seq=100:140 [--dim batch=2] [--target cuda --device gpu --precision fp16]
                                  [--bucket seq=128,256 --pad attention_mask=0 ...] [--json OUT]

Every size between the two bounds, in any order, is met four times in a row, with inputs and outputs in numpy's arrays; each other
symbolic dim is 1, or what --dim says. At the first sizes the segment's walk is recorded (docs/architecture.md, section 7), so that
the table begins behind a quarter of them. On the device "null" nothing is computed, and what is left is the work of the host, the
account of memory in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import made_by

MEETINGS = ("new", "second", "third", "fourth")


def feeds(exe: Any, dims: dict[str, int]) -> dict[str, np.ndarray]:
    """Inputs of the sizes that `dims` say, 1 for others: ones where they are integers, else normal numbers."""
    from graphmill.ir.symbols import evaluate

    rng, out = np.random.default_rng(0), {}
    for v in exe.module.main.inputs:
        shape = [evaluate(d, dims) for d in v.type.shape]
        dtype = v.type.dtype.np
        out[v.name] = np.ones(shape, dtype) if dtype.kind in "iub" else rng.standard_normal(shape).astype(dtype)
    return out


def measure(exe: Any, name: str, sizes: range, others: dict[str, int]) -> list[list[float]]:
    """Seconds of each meeting with each size, but for the first quarter of the sizes."""
    from graphmill.ir.symbols import symbols_of

    unset = {s.name: 1 for v in exe.module.main.inputs for d in v.type.shape for s in symbols_of(d)}
    took = []
    for n in np.random.default_rng(0).permutation(sizes).tolist():
        given = feeds(exe, unset | others | {name: n})
        took.append([])
        for _ in MEETINGS:
            started = time.perf_counter()
            exe.run(given)
            took[-1].append(time.perf_counter() - started)
    return took[len(took) // 4 :]


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("model")
    ap.add_argument("--dim", action="append", required=True, help="NAME=SIZE, and one NAME=FIRST:LAST")
    ap.add_argument("--target", default="cpu")
    ap.add_argument("--device", default="gpu")
    ap.add_argument("--precision", default="fp32")
    ap.add_argument("--threads", type=int)
    ap.add_argument("--bucket", action="append", default=[], help="NAME=SIZE,SIZE,...: what sizes are padded to (docs/api.md)")
    ap.add_argument("--pad", action="append", default=[], help="INPUT=VALUE")
    ap.add_argument("--json")
    a = ap.parse_args()
    given = dict(d.split("=") for d in a.dim)
    ranges = {k: v for k, v in given.items() if ":" in v}
    if len(ranges) != 1:
        ap.error("expected one --dim NAME=FIRST:LAST")
    ((name, bounds),) = ranges.items()
    first, last = map(int, bounds.split(":"))

    import graphmill as gm

    buckets = {name: tuple(map(int, sizes.split(","))) for name, sizes in (b.split("=") for b in a.bucket)}
    pad = {name: float(x) for name, x in (p.split("=") for p in a.pad)}
    exe = gm.compile(a.model, a.target, device=a.device, precision=a.precision, threads=a.threads, buckets=buckets, pad=pad)
    took = measure(exe, name, range(first, last + 1), {k: int(v) for k, v in given.items() if k not in ranges})
    told = {m: 1e3 * statistics.median(t[i] for t in took) for i, m in enumerate(MEETINGS)}
    told["most, new"] = 1e3 * max(t[0] for t in took)
    print(made_by("python benchmarks/sizes.py"))
    print(f"\n| model | target | {name} | " + " | ".join(f"{m}, ms" for m in told) + " |\n" + "|---" * (len(told) + 3) + "|")
    print(f"| {Path(a.model).stem} | {a.target} {a.device if a.target == 'cuda' else ''} | {first} to {last} | "
          + " | ".join(f"{x:.2f}" for x in told.values()) + " |")  # fmt: skip
    if a.json:
        Path(a.json).write_text(json.dumps({"model": a.model, "dim": name, "sizes": [first, last], **told}, indent=1))


if __name__ == "__main__":
    main()
