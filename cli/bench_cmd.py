"""graphmill bench: how long a model takes, alone or beside onnxruntime, and where the time goes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from .common import (
    Verb,
    clean,
    compiling_given,
    compiling_options,
    load_artifact,
    model_argument,
    parse_sizes,
    print_json,
    progress,
)
from .run_cmd import random_inputs, read_inputs

if TYPE_CHECKING:
    from ..engine.executor import Executable

PEERS = ("onnxruntime",)
MOST_ROWS = 20  # of a profile, as a table


def _numbers(ctx: click.Context, param: click.Parameter, text: str | None) -> list[int | None]:
    if text is None:
        return [None]
    if not all(t.isascii() and t.isdigit() and 0 < int(t) < 1 << 16 for t in text.split(",")):
        raise click.BadParameter(f"{text!r}: expected numbers from 1 on, as in 1,2")
    return [int(t) for t in text.split(",")]


@click.command(cls=Verb)
@model_argument
@click.option("--threads", callback=_numbers, metavar="1,2", help="Numbers of threads, each by itself.")
@click.option("--seconds", type=click.FloatRange(0, 3600), default=2.0, show_default=True, help="Of runs, for each line.")
@click.option("--shapes", multiple=True, metavar="DIM=1,8", help="Sizes of a symbolic dimension (repeatable).")
@click.option("--input", "-i", "inputs", multiple=True, metavar="NAME=FILE.npy", help="An input; others are random (repeatable).")
@click.option("--inputs", "archive", type=click.Path(exists=True, dir_okay=False), help="Inputs from an .npz archive, by name.")
@click.option("--against", type=click.Choice(PEERS), help="Time this as well, taking turns.")
@click.option("--profile", "profiled", is_flag=True, help="Time every kernel too.")
@click.option("--trust", is_flag=True, help="Run the machine code that MODEL.gmill brings along.")
@compiling_options
def bench(model: str, threads: list[int | None], seconds: float, shapes: tuple[str, ...], inputs: tuple[str, ...],
          archive: str | None, against: str | None, profiled: bool, trust: bool, how: dict[str, Any],
          as_json: bool) -> None:  # fmt: skip
    """Time runs of MODEL, or of MODEL.gmill, on given or random inputs: a line for each number of threads and sizes."""
    if against and not model.endswith(".onnx"):
        raise click.UsageError(f"{against} runs ONNX files, which {model} is none")
    from ..engine.bench import peak_memory

    fixed, every, given = how["shapes"], _every(shapes), read_inputs(inputs, archive)
    lines, profiles, peak = [], [], None
    with progress("compiling") as say:
        for count in threads:
            exe, made = _compiled(model, count, how, trust, say)
            for dims in every:
                _check_dims(exe, dims)
                say(f"running, threads {exe.threads}, {_dims(dims)}")
                feeds = random_inputs(exe.module, 0, fixed | dims) | given
                first = _first(exe, feeds)
                peak = peak or peak_memory()  # before a peer has any
                lines.append(made | {"first_run_s": first, "shapes": dims} | _timed(exe, feeds, model, against, seconds))
                if profiled:
                    from ..engine.profile import profile

                    profiles.append(profile(exe, feeds, seconds=seconds))
    if as_json:
        told = {"model": model, "target": exe.options.target, "accuracy": exe.options.accuracy, "peak_bytes": peak}
        print_json({"ok": True, **told, "lines": [x | {"profile": p.as_dict()} for x, p in zip(lines, profiles)] or lines})
        return
    click.echo("\n".join(_table(lines, against)))
    if peak is not None:
        click.echo(f"peak memory after the first run {peak / (1 << 20):.0f} MiB")
    for x, p in zip(lines, profiles):
        click.echo(clean(f"\n{' '.join(['threads', str(x['threads']), _dims(x['shapes'])]).strip()}\n{p.table(MOST_ROWS)}"))


def _compiled(model: str, threads: int | None, how: dict[str, Any], trust: bool,
              say: Callable[[str], None]) -> tuple[Executable, dict[str, Any]]:  # fmt: skip
    started = time.perf_counter()
    if model.endswith(".gmill"):
        exe = load_artifact(model, threads, trust, **compiling_given())
    else:
        from ..engine.compiler import compile

        exe = compile(model, threads=threads, tell=say, **how)
    took = time.perf_counter() - started
    return exe, {"threads": exe.threads, "compile_s": took, "compiled": exe.report.compiled}


def _first(exe: Executable, feeds: dict[str, Any]) -> float:
    """The seconds of a run that has to find sizes and memory."""
    started = time.perf_counter()
    exe.run(feeds)
    return time.perf_counter() - started


def _every(shapes: tuple[str, ...]) -> list[dict[str, int]]:
    """All combinations of the sizes that `--shapes` lists."""
    axes: dict[str, list[int]] = {}
    for item in shapes:
        name, eq, values = item.rpartition("=")
        for value in values.split(","):
            ((dim, size),) = parse_sizes((f"{name}{eq}{value}",), "--shapes").items()
            axes.setdefault(dim, []).append(size)
    return [dict(zip(axes, combination)) for combination in itertools.product(*axes.values())]


def _check_dims(exe: Executable, dims: dict[str, int]) -> None:
    from ..ir.symbols import symbols_of
    from ..ir.types import TensorType

    types = [v.type for v in exe.module.main.inputs if isinstance(v.type, TensorType)]
    known = {s.name for t in types for d in t.shape or () for s in symbols_of(d)}
    if not dims.keys() <= known:
        unknown, have = ", ".join(dims.keys() - known), ", ".join(sorted(known)) or "none"
        raise click.BadParameter(clean(f"no input has the dimension {unknown}; symbolic ones: {have}"), param_hint="--shapes")


def _timed(exe: Executable, feeds: dict[str, Any], model: str, against: str | None, seconds: float) -> dict[str, Any]:
    """The timing of one line, and what the peer says to it."""
    from ..engine.bench import measure

    ways: dict[str, Callable[[], Any]] = {"graphmill": lambda: exe.run(feeds)}
    if against:
        ways[against] = _onnxruntime(model, feeds, exe.threads)
    timings, ratios = measure(ways, seconds, exe.threads)
    line = timings["graphmill"].as_dict()
    return line | ({"against": {"name": against, "ratio": ratios[against], **timings[against].as_dict()}} if against else {})


def _onnxruntime(model: str, feeds: dict[str, Any], threads: int) -> Callable[[], Any]:
    try:
        import onnxruntime
    except ImportError:
        raise click.UsageError("onnxruntime is not installed: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)


def _dims(dims: dict[str, int]) -> str:
    return ", ".join(f"{n}={v}" for n, v in dims.items())


def _table(lines: list[dict[str, Any]], against: str | None) -> list[str]:
    from ..engine.profile import aligned_columns, human

    times = {"median": "median", "10%": "low", "90%": "high", "CPU": "cpu", "first run": "first_run_s", "compile": "compile_s"}
    rows: list[tuple[str, ...]] = [("threads", *times, "runs/s", *((against, "ratio") if against else ()), "shapes")]
    for x in lines:
        peer = (human(x["against"]["median"]), f"{x['against']['ratio']:.2f}") if against else ()
        found = (human(x[key]) for key in times.values())
        rows.append((str(x["threads"]), *found, f"{x['per_second']:.4g}", *peer, clean(_dims(x["shapes"]))))
    return [line.rstrip() for line in aligned_columns(rows)]
