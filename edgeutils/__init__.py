"""Measure, predict and score the energy of deep learning on edge devices.

One small module behind the book: power traces and inference stamps become joules
(`hardware`), networks become kernels (`networks`), measurements become predictors
(`regression`) and rankings (`scores`). Everything meets in one table (`table`). SI units
inside; the unit is in every numeric name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__version__ = "0.1.0"

#: Top of the checkout: the book's sources, `data/` and `notebooks/` lie here.
ROOT = Path(__file__).resolve().parents[1]


class EdgeError(ValueError):
    """A mistake that the user can mend; its one sentence names what was expected and what came."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to, whose file takes the place of `path` once the block is done.

    If the block fails nothing is left behind, and what `path` held stays.
    """
    partial = path.with_name(f"part-{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
