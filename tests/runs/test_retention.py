"""The numbers of a sequence are those that one computes by hand."""

import numpy as np
import pytest

from hf_radial.runs import retention

#            task 0, 1, 2 after each task
A = np.array([[0.9, 0.2, 0.1], [0.95, 0.8, 0.1], [0.5, 0.6, 0.7]])


def test_all_numbers_of_a_small_matrix_by_hand():
    found = retention.summary(A)
    assert found["current"] == pytest.approx((0.9 + 0.8 + 0.7) / 3)
    assert found["average_accuracy"] == pytest.approx((0.5 + 0.6 + 0.7) / 3)
    assert found["retention"] == pytest.approx((0.5 + 0.6) / 2)
    assert found["backward_transfer"] == pytest.approx(((0.5 - 0.9) + (0.6 - 0.8)) / 2)
    assert found["forgetting"] == pytest.approx(((0.95 - 0.5) + (0.8 - 0.6)) / 2)
    assert retention.retention_over_time(A) == pytest.approx([0.95, 0.55])


def test_forgetting_ignores_what_was_known_before_a_task_was_trained_on():
    ahead = A.copy()
    ahead[0, 1] = 1.0
    assert retention.forgetting(ahead) == retention.forgetting(A)


def test_a_random_matrix_agrees_with_loops():
    a = np.random.default_rng(0).random((7, 7))
    last = len(a) - 1
    bwt = sum(a[last][j] - a[j][j] for j in range(last)) / last
    forgotten = sum(max(a[i][j] for i in range(j, last)) - a[last][j] for j in range(last)) / last
    assert retention.backward_transfer(a) == pytest.approx(bwt) and retention.forgetting(a) == pytest.approx(forgotten)


@pytest.mark.parametrize("bad", [np.ones((2, 3)), np.ones((1, 1)), np.full((2, 2), 90.0)])
def test_what_is_no_matrix_of_accuracies_is_refused(bad):
    with pytest.raises(ValueError, match="accuracy"):
        retention.summary(bad)


def test_steps_to_a_level_is_the_first_time():
    assert retention.steps_to([5, 10, 15], [0.2, 0.9, 0.95]) == 10
    assert retention.steps_to([5, 10], [0.2, 0.8]) is None
