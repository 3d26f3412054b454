"""hf_radial.runs.results: what a row keeps of a run gives back the run's evaluations."""

from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC
from hf_radial.runs.results import accuracies_in_row, log_of_row


def test_the_log_of_a_row_has_the_evaluations_that_made_it():
    evaluations = [{"step": step, TRAIN_METRIC: 0.1 * step, HELD_OUT_METRIC: 0.05 * step} for step in (2, 4, 6)]
    training = [{"step": step, "loss": 1.0} for step in (1, 3, 5)]
    log = sorted([*evaluations, *training], key=lambda entry: entry["step"])
    assert log_of_row(accuracies_in_row(log)) == evaluations
    assert log_of_row({"radius": [], **accuracies_in_row([])}) == []
