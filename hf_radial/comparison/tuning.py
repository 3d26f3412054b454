"""How a method is tuned: Optuna's tree-structured Parzen estimator (TPE), the same number of trials for every method.

The draws follow from the seed of the sampler and from how the trials before went, so that a tuning that is interrupted goes on
with the same draws once it is told the outcomes that there are. In here: draws and scores. Not in here: how a trial is run.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from hf_radial.comparison.grid import bounds

STARTUP_TRIALS = 10  # that many draws at random, before TPE has something to go by


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError("tuning needs Optuna: pip install 'hf_radial[compare]'") from error
    return optuna


def sampler_name() -> str:
    """What draws, with its version."""
    return f"TPE of Optuna {_optuna().__version__}"


def search(
    ranges: Mapping[str, Any], trials: int, start: Sequence[Mapping[str, Any]] = (), seed: int = 0
) -> Generator[dict[str, Any], float, None]:
    """Yields what to try; is sent how it went, the smaller the better; ends after so many trials.

    Args:
        ranges: name -> `{log: [low, high]}`, `{linear: [low, high]}` or `{choices: [...]}`.
        start: what the first trials are, as far as it says; the rest of them is drawn.
        seed: of the draws.

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
    """How a run went, as one number: its onset in epochs; of one that did not get there, the later the less it had learned.

    >>> score({"status": "solved", "onset": 40.0}, 300), score({"status": "censored", "held_out": 0.75}, 300)
    (40.0, 375.0)
    >>> score({"status": "failed"}, 300)
    900.0
    """
    if found["status"] == "failed":
        return 3.0 * epochs
    return float(found["onset"]) if found["status"] == "solved" else epochs * (2 - float(found["held_out"]))
