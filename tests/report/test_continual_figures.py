"""Figures of a sequence: the matrix that is drawn is the one that the callback wrote."""

import numpy as np
import pytest

from hf_radial.geometry.reading import Reading, Table
from hf_radial.report.continual import heat_map, matrix_of, over_tasks


def test_the_matrix_is_read_back_from_the_table_and_drawn():
    pytest.importorskip("matplotlib")
    matrix = np.tril(np.random.default_rng(0).random((4, 4)))
    matrix[np.triu_indices(4, 1)] = np.nan
    table = Table()
    for i in range(4):
        table.add(10 * (i + 1), None, [Reading("task_accuracy", matrix[i, j], index=j) for j in range(i + 1)])
        table.add(10 * (i + 1), None, [Reading("radius_mean", 1.0, "hidden.0")])
    np.testing.assert_array_equal(matrix_of(table), matrix)
    drawing = heat_map({"a run": matrix, "another": matrix})
    assert drawing.render(titled=True).startswith(b"\x89PNG") and f"{matrix[-1, :-1].mean():.2f}" in drawing.alt


def test_lines_have_more_styles_than_colours():
    pytest.importorskip("matplotlib")
    lines = {f"arm {i}": ([1, 2, 3], [0.1 * i, 0.2, 0.3]) for i in range(11)}
    from hf_radial.report.canvas import LIGHT

    figure = over_tasks(lines, "x", "X", "share", "caption").draw(LIGHT)
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 11
