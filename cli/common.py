"""What several verbs share: options, progress, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import numpy as np

model_argument = click.argument("model", type=click.Path(exists=True, dir_okay=False))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
set_option = click.option("--set", "sizes", multiple=True, metavar="DIM=SIZE", help="Fix a symbolic dimension (repeatable).")


def parse_sizes(sizes: tuple[str, ...]) -> dict[str, int]:
    """`("N=1",)` as {"N": 1}."""
    out = {}
    for item in sizes:
        name, eq, value = item.partition("=")
        if not eq or not value.lstrip("-").isdigit():
            raise click.BadParameter(f"{item!r}: expected DIM=SIZE", param_hint="--set")
        out[name.lstrip("$")] = int(value)
    return out


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, default=_plain))


def _plain(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return x.tolist() if x.dtype.kind in "biufO" else x.astype(str).tolist()
    if isinstance(x, np.generic):
        return x.item()
    return str(x)


@contextmanager
def progress(title: str) -> Iterator[Callable[[str], None]]:
    """A status line on a terminal, nothing in a pipe. The yielded function says what is being done."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status(title) as status:
        yield lambda text: status.update(f"{title}: {text}")
