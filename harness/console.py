"""The terminal: the one class of console and its text, through which everything that the product prints goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import rich.console
import rich.text
from rich.console import ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.style import Style

from harness.visible import paragraph, visible

MIN_WIDTH = 40
"""In fewer columns tables would lose numbers; the terminal itself wraps the lines then."""


class Text(rich.text.Text):
    """Styled text, made visible before it is measured; rich itself would drop some characters and print others."""

    def __init__(self, text: str = "", *arguments: Any, **options: Any) -> None:
        super().__init__(visible(text), *arguments, **options)

    def append(self, text: rich.text.Text | str, style: str | Style | None = None) -> Text:
        """Add text; styled text brings its own style."""
        super().append(visible(text) if isinstance(text, str) else text, style)
        return self


class Console(rich.console.Console):
    """A console on which text is text: no markup, no emoji codes, no highlighting, no character that is not seen.

    Args:
        options: As rich's.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False} | options)

    def say(self, *parts: str | tuple[str, str], style: str = "") -> None:
        """Print a message on one line, which the terminal wraps, so that a path in it can be copied.

        Further lines are indented: no text from data passes for a message of its own.

        Args:
            parts: Text, or text and its style.
            style: The style of all parts.
        """
        styled = ((paragraph(one), "") if isinstance(one, str) else (paragraph(one[0]), one[1]) for one in parts)
        self.print(Text.assemble(*styled, style=style), soft_wrap=True)

    @property
    def animates(self) -> bool:
        """Whether progress can be redrawn in place."""
        return self.is_terminal and not self.is_dumb_terminal and super().size.width >= MIN_WIDTH

    @property
    def size(self) -> ConsoleDimensions:
        """Columns, at least :data:`MIN_WIDTH`, and lines."""
        width, height = super().size
        return ConsoleDimensions(max(width, MIN_WIDTH), height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    @property
    def file(self) -> IO[str]:
        """Where the output goes."""
        file = super().file  # while a live display runs, rich's stand-in for the stream, and behind it the stream
        return getattr(file, "rich_proxied_file", file)

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        """A string as rich text."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """The segments of anything that is printed."""
        for text, style, control in super().render(renderable, options):
            if style is not None and style.link:
                style = style.update_link(None)
            yield Segment(text if control else visible(text), style, control)
