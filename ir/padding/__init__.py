"""What padding an axis does to a program: whether the true rows of its outputs can depend on what stands behind them."""

from .analysis import Verdict, analyse
from .site import speaks

__all__ = ["Verdict", "analyse", "speaks"]
