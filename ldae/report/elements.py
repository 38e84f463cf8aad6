# SPDX-License-Identifier: Apache-2.0
"""What a section of the page is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from matplotlib.figure import Figure

from ldae.report.figures import encode_png

PIXELS_PER_INCH = 102
MOST_ROWS = 40
"""Rows of a table that the page shows at their full height."""


@dataclass(frozen=True)
class Picture:
    """One figure of the page.

    Attributes:
        source: Data URI of the image.
        width: Width at which it is shown, pixels.
        alt: What is to be seen, for those who cannot see it.
        caption: What it means.
        command: What made it.
    """

    kind: ClassVar[str] = "picture"
    source: str
    width: int
    alt: str
    caption: str
    command: str


@dataclass(frozen=True)
class Table:
    """Numbers of an evaluation or of a record.

    Attributes:
        columns: Headings.
        numeric: Whether each column holds numbers.
        groups: Rows of texts, below a heading each; "" heads nothing.
        caption: What it means.
        command: What made it.
    """

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    numeric: Sequence[bool]
    groups: Mapping[str, Sequence[Sequence[str]]]
    caption: str
    command: str

    @property
    def long(self) -> bool:
        """Whether it has so many rows that the page shows them in a frame of their own."""
        return sum(map(len, self.groups.values())) > MOST_ROWS


@dataclass(frozen=True)
class Frame:
    """One picture of a series.

    Attributes:
        source: Data URI of the image.
        label: What it shows, in full.
        short: The same in a word or number, for the ends of the slider.
    """

    source: str
    label: str
    short: str


@dataclass(frozen=True)
class Series:
    """Pictures of one size that a slider chooses from; all of them are shown where no script runs.

    Attributes:
        frames: The pictures, in the slider's order.
        start: Place of the one that is shown first.
        name: What the slider changes.
        colours: Colours of the differences' scale, from its low to its high end.
        limit: Value at its high end; minus that at its low end.
        caption: What the pictures mean.
        command: What made them.
    """

    kind: ClassVar[str] = "series"
    frames: Sequence[Frame]
    start: int
    name: str
    colours: Sequence[str]
    limit: float
    caption: str
    command: str


@dataclass(frozen=True)
class View:
    """A document of its own within the page.

    Attributes:
        html: The document; it needs nothing else.
        title: What it shows.
        ratio: Height of its picture, as a share of the width.
        caption: What it means.
        command: What made it.
    """

    kind: ClassVar[str] = "view"
    html: str
    title: str
    ratio: float
    caption: str
    command: str


Element = Picture | Table | Series | View


@dataclass
class Section:
    """One part of the page."""

    title: str
    text: str
    elements: list[Element] = field(default_factory=list)


def make_picture(figure: Figure, *, alt: str, caption: str, command: str) -> Picture:
    """A figure as a picture of the page."""
    width = round(float(figure.get_size_inches()[0]) * PIXELS_PER_INCH)
    return Picture(encode_png(figure), width, alt=alt, caption=caption, command=command)
