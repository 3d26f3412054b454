"""Every number that a user gives is checked where it is given: what float32 cannot hold is refused by the argument's name."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from reference import tiny_gpt2

from hf_radial import RadialArguments, RadialCallback, RadialPenalty, RadialTrainer, radial_penalty
from hf_radial.interventions import INTERVENTIONS
from hf_radial.interventions.options import _needed, _types, options_of
from hf_radial.penalty.config import RadialConfig
from hf_radial.penalty.functional import LARGEST

pytestmark = pytest.mark.quick

BAD: dict[str, Any] = {
    "above float32": 1e300,
    "above float64": 10**400,
    "nan": float("nan"),
    "infinite": float("inf"),
    "negative": -1.0,
    "negative and infinite": float("-inf"),
    "true": True,
    "text": "x",
    "list": [1.0],
    "complex": 1j,
}
DOORS: dict[str, Any] = {
    "RadialCallback": lambda folder, **options: RadialCallback(**options),
    "RadialArguments": lambda folder, **options: RadialArguments(str(folder), report_to="none", use_cpu=True, **options),
    "RadialTrainer": lambda folder, **options: RadialTrainer(
        tiny_gpt2(width=8), RadialArguments(str(folder), report_to="none", use_cpu=True), **options
    ),
}


@pytest.fixture(params=BAD)
def bad(request: Any) -> Any:
    return BAD[request.param]


@pytest.mark.parametrize("option", ["radial_lambda", "radial_radius", "radial_warmup_steps"])
@pytest.mark.parametrize("door", DOORS)
def test_a_number_of_the_penalty_is_refused_by_its_name(door: str, option: str, bad: Any, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=f"{option}=") as raised:
        DOORS[door](tmp_path, **{"radial_lambda": 0.1, option: bad})
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("option", ["radial_lambda", "radius"])
def test_so_it_is_where_there_is_no_trainer(option: str, bad: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=f"{option}="):
        RadialPenalty(tiny_gpt2(width=8), **{"radial_lambda": 0.1, option: bad})
    with pytest.raises((ValueError, TypeError), match="radius="):
        radial_penalty(tiny_gpt2(width=8).lm_head.weight, radius=bad)


def numeric_options() -> list[tuple[Any, str]]:
    kinds: list[Any] = [kind for _, kind in INTERVENTIONS.items()]
    return [(kind, option.name) for kind in kinds for option in options_of(kind) if {int, float} & {*_types(kind, option.name)}]


@pytest.mark.parametrize(("kind", "option"), numeric_options(), ids=lambda part: getattr(part, "name", part))
def test_a_number_of_an_intervention_is_refused_by_its_name(kind: Any, option: str, bad: Any, tmp_path: Path) -> None:
    file = tmp_path / "trajectory.json"
    file.write_text('[{"step": 1, "weight_norm": 1.0}]')
    needed = {one.name: one.metadata["example"] for one in options_of(kind) if _needed(one)}
    given = {**needed, **({"file": str(file)} if "file" in needed else {})}
    kind(**given)
    with pytest.raises(ValueError, match=f"{option}="):
        kind(**{**given, option: bad})


@pytest.mark.parametrize("radius", ["1e300", "1e39", "1e300*initial", "nan*sqrt_d", "inf", "-1", "0*initial"])
def test_a_radius_in_a_text_is_a_number_too(radius: str) -> None:
    with pytest.raises(ValueError, match="radial_radius="):
        RadialCallback(0.1, radial_radius=radius)


@pytest.mark.parametrize("factor", [1e300, 10**400, float("nan"), -1.0, 1e38])
def test_so_is_the_factor_of_a_schedule_and_what_it_makes_of_lambda(factor: Any) -> None:
    with pytest.raises(ValueError, match=r"radial_schedule: .*\(2\) returned .*finite in float32"):
        RadialConfig(10.0, radial_schedule=lambda step: factor).lambda_at(2, 5)


def test_what_float32_holds_is_taken() -> None:
    for given in (0, 0.0, 1, LARGEST, Fraction(1, 3)):
        assert RadialCallback(given, radial_radius=given).config.radial_lambda == float(given)
