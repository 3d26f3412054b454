"""A row of the table of targets, and the table for the terminal and as Markdown. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.pairs import quartiles

HEAD = ("what", "target", "measured", "spread", "met?")


@dataclass
class Row:
    """One measured value with its target, or the command that measures it.

    Attributes:
        what: its description.
        at_most: the target that the value must not exceed.
        at_least: the target that the value must reach. With neither, the row is for comparison.
        values: one per pair (a ratio) or repetition; empty if it was not measured.
        unit: unit of the values; empty for a ratio.
        samples: arm -> the samples behind the values.
        sample_unit: unit of the samples.
        configuration: the exact configuration.
        missing: why it was not measured, and the command that measures it.
        bound: values equal to this are lower bounds (a run that was stopped).
        spread: text instead of quartiles, for a value that is no sample ("exact", or a standard error).
        note: a remark for the reader.
    """

    what: str
    at_most: float | None = None
    at_least: float | None = None
    values: list[float] = field(default_factory=list)
    unit: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)
    sample_unit: str = "s/step"
    configuration: dict[str, Any] = field(default_factory=dict)
    missing: str = ""
    bound: float | None = None
    spread: str = ""
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """All of it, with median, quartiles and verdict."""
        lower, middle, upper = quartiles(self.values) if self.values else (None, None, None)
        return {**asdict(self), "median": middle, "quartiles": [lower, upper], "met": self.met}

    @property
    def met(self) -> bool | None:
        """Whether the median meets the target; `None` without one, or without a measurement."""
        if not self.values or (self.at_most is None and self.at_least is None):
            return None
        middle = quartiles(self.values)[1]
        return (self.at_most is None or middle <= self.at_most) and (self.at_least is None or middle >= self.at_least)

    def cells(self) -> tuple[str, ...]:
        """The columns of `HEAD`."""
        target = "–"
        if self.at_most is not None:
            target = f"at most {self.at_most:g}{self.unit}"
        if self.at_least is not None:
            target = f"at least {self.at_least:g}{self.unit}"
        if not self.values:
            return self.what, target, self.missing, "–", "–"
        lower, middle, upper = quartiles(self.values)
        more = "> " if self.bound is not None and middle >= self.bound else ""
        spread = self.spread or f"{number(lower)} to {number(upper)} ({len(self.values)})"
        verdict = {None: "–", True: "yes", False: "**no**"}[self.met]
        return self.what, target, f"{more}{number(middle)}{self.unit}", spread, verdict


def row_from_json(data: Mapping[str, Any]) -> Row:
    """The row that `to_json` wrote."""
    return Row(**{name: value for name, value in data.items() if name not in ("median", "quartiles", "met")})


def number(value: float) -> str:
    """Four digits that count, and no more than a ratio near 1 needs.

    >>> number(1.00312), number(45.678), number(0.000123456), number(123456.0)
    ('1.003', '45.68', '0.0001235', '123,456')
    """
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def terminal(rows: Sequence[Row]) -> str:
    """The table in columns.

    >>> print(terminal([Row("a row", at_most=1.5, values=[1.25], spread="exact")]))
    what   target       measured  spread  met?
    a row  at most 1.5  1.25      exact   yes
    """
    lines = [HEAD, *(tuple(cell.replace("**", "") for cell in row.cells()) for row in rows)]
    # A long command must not widen a column.
    widths = [max(len(line[i]) for line, row in zip(lines, [None, *rows], strict=True) if i != 2 or not row or row.values)
              for i in range(len(HEAD))]  # fmt: skip
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown, without a heading.

    >>> print(markdown([Row("a row", at_least=3, values=[2.0, 2.5])]))
    | what | target | measured | spread | met? |
    |---|---|---|---|---|
    | a row | at least 3 | 2.25 | 2.125 to 2.375 (2) | **no** |
    """
    cells = [[cell.replace("|", "\\|") for cell in row.cells()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" if line else "|---|---|---|---|---|" for line in [list(HEAD), [], *cells])
