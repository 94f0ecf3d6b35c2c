"""The command `graphmill`: one file a verb.

Exit statuses: 0 done; 1 `check` found what is not served, `cache verify` what is damaged; 2 a wrong command line, a wrong model or
wrong inputs.
"""

from __future__ import annotations

import importlib

import click

VERBS = ("compile", "run", "bench", "check", "dump", "explain", "precision", "passes", "ops", "cache")


class Verbs(click.Group):
    """Loads a verb's file when it is called, so that each starts quickly."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = importlib.import_module(f".{name}_cmd", __package__)
        return getattr(module, name if name != "compile" else "compile_")


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="graphmill")
def main() -> None:
    """Compile ONNX models, run them, and see why they run as they do."""
