"""Drawing: a figure keeps its room whatever stands in its legend."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from reports.page.figures import add_legend, new_axes, save_figure


@pytest.mark.parametrize("methods", [1, 12])
def test_a_long_legend_leaves_the_axes_their_room(tmp_path: Path, methods: int) -> None:
    figure, axes = new_axes(2.0)
    for number in range(methods):
        axes.plot([0, 1], [0, number], label=f"GRPO (train.learning_rate=0.0000{number}), a variant of it")
    add_legend(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns when the axes collapse
        save_figure(figure, tmp_path, "curves", "Curves.")
    figure.draw_without_rendering()
    assert axes.get_position().height * figure.get_figheight() > 1.2
