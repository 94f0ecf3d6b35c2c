"""The errors of graphmill. Every one names what was being looked at, what was expected and what to try.

They live in `ir` because every layer raises them; users import them as `graphmill.errors`.
"""

from __future__ import annotations

from typing import Any


class GraphmillError(Exception):
    """The base of all errors that graphmill raises on purpose."""


class IRError(GraphmillError):
    """A graph breaks a rule of the IR (the verifier's and the parser's error)."""


class InferenceError(GraphmillError):
    """The types or shapes of a node's operands do not fit its operator. `node` is that node, where it is part of a program."""

    node: Any = None


class ImportProblem(GraphmillError):
    """One or more problems found while a model was read; `problems` lists them all."""

    def __init__(self, message: str, problems: tuple = ()):
        super().__init__(message)
        self.problems = problems


class UnsupportedError(GraphmillError):
    """The model is well formed but asks for something that graphmill does not offer."""


class ExportProblem(GraphmillError):
    """One or more nodes have no form in the format that a program is written to; `problems` lists them all."""

    def __init__(self, message: str, problems: tuple = ()):
        super().__init__(message)
        self.problems = problems


class HostileModelError(GraphmillError):
    """The file is broken or asks for something that no honest model asks for (path traversal, cycles, lying lengths)."""


class ArtifactError(GraphmillError):
    """A compiled artifact (`.gmill`) is truncated, edited, hostile or of another version; the message names its member."""


class LimitError(GraphmillError):
    """A limit of `graphmill.Limits` on memory, time or loop iterations would be passed."""


class DeadlineError(LimitError, TimeoutError):
    """A run took longer than the `timeout` that it was given."""


class RunError(GraphmillError):
    """A node failed while the model ran; the message carries the node's path and its operands' types."""


class InputError(RunError):
    """An input handed to `run` is missing, unknown, or of another dtype or shape than the model declares."""


class PaddingError(RunError):
    """A run that was padded to a bucket gave other outputs than without padding; the message names the output and how far off it
    is."""
