"""How a method is tuned: with Optuna's tree-structured Parzen estimator (TPE), and the same number of trials for every method.

The draws depend only on the sampler's seed and the outcomes of earlier trials. An interrupted tuning therefore continues with
the same draws when it is given the known outcomes. In here: draws and scores. Not in here: how a trial is run.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from hf_radial.comparison.grid_checks import bounds

STARTUP_TRIALS = 10  # random draws before TPE has enough outcomes


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError("tuning needs Optuna: pip install 'hf_radial[compare]'") from error
    return optuna


def sampler_name() -> str:
    """The sampler and its version."""
    return f"TPE of Optuna {_optuna().__version__}"


def search(
    ranges: Mapping[str, Any], trials: int, start: Sequence[Mapping[str, Any]] = (), seed: int = 0
) -> Generator[dict[str, Any], float, None]:
    """Yield the settings to try. Each must be answered with its score by `send`; smaller is better. Ends after `trials`.

    Args:
        ranges: name -> `{log: [low, high]}`, `{linear: [low, high]}` or `{choices: [...]}`.
        start: values for the first trials. Numbers that they leave out are drawn.
        seed: seeds the draws.

    >>> asked = search({"x": {"linear": [0, 1]}}, 30)
    >>> drawn, tried = next(asked), []
    >>> try:
    ...     while True:
    ...         tried.append(drawn["x"])
    ...         drawn = asked.send((drawn["x"] - 0.3) ** 2)
    ... except StopIteration:
    ...     print(len(tried), round(min(tried, key=lambda x: abs(x - 0.3)), 1))
    30 0.3
    """
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(STARTUP_TRIALS, trials // 2))
    study = optuna.create_study(sampler=sampler)
    for given in start:
        study.enqueue_trial(dict(given))
    space: dict[str, Any] = {}
    for name, choice in ranges.items():
        kind, values = bounds(choice, name)
        if kind == "choices":
            space[name] = optuna.distributions.CategoricalDistribution(values)
        else:
            space[name] = optuna.distributions.FloatDistribution(values[0], values[1], log=kind == "log")
    for _ in range(trials):
        trial = study.ask(space)
        drawn = {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in trial.params.items()}
        study.tell(trial, (yield drawn))


def score(found: Mapping[str, Any], epochs: int) -> float:
    """The score of a run: its onset in epochs. Without an onset, the score is above `epochs`, and larger for lower accuracy.

    >>> score({"status": "solved", "onset": 40.0}, 300), score({"status": "censored", "held_out": 0.75}, 300)
    (40.0, 375.0)
    >>> score({"status": "failed"}, 300)
    900.0
    """
    if found["status"] == "failed":
        return 3.0 * epochs
    return float(found["onset"]) if found["status"] == "solved" else epochs * (2 - float(found["held_out"]))
