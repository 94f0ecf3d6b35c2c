"""What several verbs share: options, progress, JSON, and text of a model that a terminal must not obey."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from ..engine.executor import Executable

MOST_VALUES = 1000  # elements of a tensor that JSON holds
LONGEST = 2000  # characters of one value, or of one name in a table

model_argument = click.argument("model", type=click.Path(exists=True, dir_okay=False))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
set_option = click.option("--set", "sizes", multiple=True, metavar="DIM=SIZE", help="Fix a symbolic dimension (repeatable).")
accuracy_option = click.option("--accuracy", type=click.Choice(["fast", "strict"]), default="fast", show_default=True,
                               help="strict: no kernel that rounds worse than an operator's formula.")  # fmt: skip
target_option = click.option("--target", type=click.Choice(["cpu", "cuda", "reference"]), default="cpu", show_default=True)
device_option = click.option("--device", type=click.Choice(["gpu", "shim", "null"]), default="gpu", show_default=True,
                             help="For cuda: shim runs kernels on the CPU, to test them; null runs nothing.")  # fmt: skip
precision_option = click.option("--precision", type=click.Choice(["fp32", "tf32", "fp16", "bf16"]), default="fp32",
                                show_default=True, help="For cuda: how floats are computed.")  # fmt: skip
keep_option = click.option("--keep-fp32", multiple=True, metavar="NODE", help="A node that stays in f32 (repeatable).")
io_option = click.option("--keep-io-types", default="true", show_default=True, metavar="true|false|NAME,...",
                         callback=lambda ctx, option, value: value == "true" or (value != "false" and tuple(value.split(","))),
                         help="With fp16 and bf16, false: inputs and outputs have 16 bits, too (but those named).")  # fmt: skip
rung_option = click.option("--rung", type=click.Choice(["libraries", "tensor", "scalar"]), default="tensor", show_default=True,
                           help="For cuda: what computes products, convolutions and attention.")  # fmt: skip
tune_option = click.option("--tune", is_flag=True, help="For cuda: measure the ways of computing products on the device, and take "
                           "the fastest.")  # fmt: skip
bucket_option = click.option("--bucket", "buckets", multiple=True, metavar="DIM=SIZE,SIZE",
                             help="Pad a symbolic dimension to the next of these sizes in runs (repeatable).")  # fmt: skip
pad_option = click.option("--pad", multiple=True, metavar="INPUT=VALUE", help="What an input is padded by, where rows depend on "
                          "each other (repeatable).")  # fmt: skip
COMPILING = ("target", "accuracy", "device", "precision", "keep_fp32", "keep_io_types", "rung", "tune")


def narrowing_options(command: Any) -> Any:
    """What verbs take that look at a compiled model: --target, --precision, --keep-fp32, --keep-io-types, --rung, --set, --bucket
    and --pad; as `options` of the engine."""

    @functools.wraps(command)
    def gathered(*args: Any, target: str, precision: str, keep_fp32: tuple[str, ...], keep_io_types: bool | tuple[str, ...],
                 rung: str, sizes: tuple[str, ...], buckets: tuple[str, ...], pad: tuple[str, ...], device: str = "gpu",
                 tune: bool = False, **kw: Any) -> Any:  # fmt: skip
        from ..engine.options import Options

        options = Options(target, shapes=parse_sizes(sizes), precision=precision, keep_fp32=keep_fp32,
                          keep_io_types=keep_io_types, rung=rung, device=device, tune=tune,
                          buckets=parse_buckets(buckets), pad=parse_pad(pad))  # fmt: skip
        return command(*args, options=options, **kw)

    for option in (pad_option, bucket_option, set_option, rung_option, io_option, keep_option, precision_option, target_option):
        gathered = option(gathered)
    return gathered


def tuning_options(command: Any) -> Any:
    """`narrowing_options`, and --tune and --device for verbs that tell what was chosen."""
    return tune_option(device_option(narrowing_options(command)))


def compiling_options(command: Any) -> Any:
    """What verbs take that compile and run: --target, --accuracy, --device, --precision, --keep-fp32, --keep-io-types, --rung,
    --tune, --set, --bucket and --pad, as the arguments `how` of `graphmill.compile`; and --json."""

    @functools.wraps(command)
    def gathered(*args: Any, sizes: tuple[str, ...], buckets: tuple[str, ...], pad: tuple[str, ...], **kw: Any) -> Any:
        how = {name: kw.pop(name) for name in COMPILING} | {"shapes": parse_sizes(sizes)}
        how |= {"buckets": parse_buckets(buckets), "pad": parse_pad(pad)}
        return command(*args, how=how, **kw)

    of_cuda = tune_option, device_option, rung_option, io_option, keep_option, precision_option
    for option in (*of_cuda, accuracy_option, target_option, pad_option, bucket_option, set_option, json_option):
        gathered = option(gathered)
    return gathered


def compiling_given() -> dict[str, bool]:
    """Which of the options stand on the command line that an artifact was compiled with."""
    given = {"set": was_given("sizes"), "bucket": was_given("buckets"), "pad": was_given("pad")}
    return {name: was_given(name) for name in COMPILING} | given


class Verb(click.Command):
    """A command whose errors are one typed line on stderr and status 2; with `--json` they are JSON on stdout as well."""

    def invoke(self, ctx: click.Context) -> Any:
        from ..ir.errors import GraphmillError

        try:
            return super().invoke(ctx)
        except (GraphmillError, OSError, MemoryError, RecursionError) as e:
            if isinstance(e, BrokenPipeError):
                raise  # click ends quietly: who reads us has read enough
            if ctx.params.get("as_json"):
                print_json({"ok": False, "error": type(e).__name__, "message": str(e)})
            click.echo(clean(f"{type(e).__name__}: {e}"), err=True)
            ctx.exit(2)


def clean(text: str, longest: int | None = None) -> str:
    """Text that may hold names of a model, as it may go to a terminal: everything unprintable but line ends is escaped, so that
    no name moves the cursor, changes colours or turns the reading direction. Longer than `longest`, it is cut."""
    if longest is not None and len(text) > longest:
        text = f"{text[:longest]}... ({len(text)} characters)"
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)


def load_artifact(path: str, threads: int | None, trust: bool, **compiling: bool) -> Executable:
    """The executable of a .gmill; `compiling` are options that only compiling has, and whether they were given."""
    given = [f"--{name.replace('_', '-')}" for name, was in compiling.items() if was]
    if given:
        raise click.UsageError(f"{path} is compiled already; give {' and '.join(given)} to `graphmill compile`")
    from ..engine.artifact import load

    return load(path, threads=threads, trust=trust)


def told_buckets(exe: Executable) -> dict[str, Any]:
    """What --json says of the buckets of a model, if it has any."""
    return {} if exe.report.buckets is None else {"buckets": exe.report.buckets.out()}


def was_given(name: str) -> bool:
    """Whether an option stands on the command line."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def parse_sizes(sizes: tuple[str, ...], option: str = "--set") -> dict[str, int]:
    """`("N=1",)` as {"N": 1}."""
    out = {}
    for item in sizes:
        name, eq, value = item.rpartition("=")
        if not (eq and name and value.isascii() and value.isdigit() and len(value) < 19):
            raise click.BadParameter(f"{item!r}: expected DIM=SIZE, a number that is not negative", param_hint=option)
        out[name.removeprefix("$")] = int(value)
    return out


def parse_buckets(buckets: tuple[str, ...]) -> dict[str, list[int]]:
    """`("N=1,2",)` as {"N": [1, 2]}."""
    out: dict[str, list[int]] = {}
    for item in buckets:
        name, eq, sizes = item.rpartition("=")
        found = sizes.split(",")
        if not (eq and name and all(n.isascii() and n.isdigit() and len(n) < 19 for n in found)):
            raise click.BadParameter(f"{item!r}: expected DIM=SIZE,SIZE, numbers above 0", param_hint="--bucket")
        out[name.removeprefix("$")] = [int(n) for n in found]
    return out


def parse_pad(pad: tuple[str, ...]) -> dict[str, float]:
    """`("mask=0",)` as {"mask": 0}."""
    out: dict[str, float] = {}
    for item in pad:
        name, eq, value = item.rpartition("=")
        try:
            out[name] = int(value) if value.lstrip("-").isdigit() else float(value)
        except ValueError:
            eq = ""
        if not (eq and name):
            raise click.BadParameter(f"{item!r}: expected INPUT=VALUE, a number", param_hint="--pad")
    return out


def print_json(value: Any) -> None:
    """Prints strict JSON in ASCII: floats that JSON has no number for are the strings "nan", "inf" and "-inf"."""
    click.echo(json.dumps(plain(value), indent=1, allow_nan=False))


def plain(x: Any) -> Any:
    """`x` as JSON's own types. A tensor is its shape, element type and values, of which the first `MOST_VALUES` are kept."""
    if isinstance(x, Mapping):
        return {str(k): plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple, set, frozenset)):
        return [plain(v) for v in x]
    if isinstance(x, float) and not math.isfinite(x):
        return str(x)
    if x is None or isinstance(x, (str, int, float)):
        return x
    if hasattr(x, "dtype"):
        return _tensor(x)
    return str(x)


def _tensor(x: Any) -> Any:
    import numpy as np

    from ..ir.types import dtype_of

    a = np.asarray(x)
    t = dtype_of(a)
    if a.size > MOST_VALUES:
        return {
            "dtype": t.name,
            "shape": list(a.shape),
            "first": _values(a.ravel()[:MOST_VALUES], t),
            "left_out": a.size - MOST_VALUES,
        }
    return {"dtype": t.name, "shape": list(a.shape), "values": _values(a, t)}


def _values(a: Any, t: Any) -> Any:
    import numpy as np

    if t.kind == "complex":
        return plain(np.stack([a.real, a.imag], -1).tolist())
    if t.kind == "string":
        return _cut(a.tolist())
    return plain(a.astype("float64" if t.is_float else "int64" if t.is_integer and a.dtype.kind == "V" else a.dtype).tolist())


def _cut(x: Any) -> Any:
    return [_cut(v) for v in x] if isinstance(x, Sequence) and not isinstance(x, (str, bytes)) else clean(str(x), LONGEST)


@contextmanager
def progress(title: str) -> Iterator[Callable[[str], None]]:
    """A status line on a terminal, nothing in a pipe. The yielded function says what is being done."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status(title) as status:
        yield lambda text: status.update(f"{title}: {escape(clean(text))}")
