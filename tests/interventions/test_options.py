"""Wrong options: the error names the option, its meaning and a working example, wherever the option is given."""

import pytest
import yaml

from hf_radial import RadialArguments
from hf_radial.comparison.run_options import read_run
from hf_radial.interventions import INTERVENTIONS, intervention, interventions
from hf_radial.interventions.dropout import Dropout
from hf_radial.interventions.grokfast import GrokfastEMA
from hf_radial.interventions.options import describe, example, explain, options_of

FILE = '[{"step": 1, "weight_norm": 1.0, "logit_scale": 1.0}]'


def kinds():
    yield from INTERVENTIONS.items()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "trajectory.json"
    path.write_text(FILE)
    return str(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grokfast_ema:alpha=abc", ["alpha='abc'", "a number of at least 0 and below 1", "grokfast_ema:alpha=0.98"]),
        ("grokfast_ema:alpha=", ["alpha=''", "a number"]),
        ("grokfast_ema:alpha=nan", ["alpha=nan", "at least 0"]),
        ("grokfast_ema:lamb=inf", ["lamb=inf", "a number of at least 0"]),
        ("grokfast_ema:alpha=0.9,alpha=0.8", ["alpha is given twice"]),
        ("grokfast_ema:alpa=0.9", ["'alpa=0.9'", "its options are alpha, lamb", "Did you mean 'alpha'?"]),
        ("grokfast_ema:0.9", ["'0.9' should be option=value"]),
        ("grokfast_ma:window_size=2.5", ["window_size='2.5'", "a whole number of at least 1"]),
        ("grokfast_ma:window_size=true", ["window_size='true'", "a whole number"]),
        ("grokfast_ma:warmup=maybe", ["warmup='maybe'", "true or false", "grokfast_ma:warmup=true"]),
        ("dropout", ["the option p is missing", "Rate of every dropout", "dropout:p=0.1"]),
        ("dropout:p=high", ["p='high'", "dropout:p=0.1"]),
        ("dropout:p=true", ["p='true'", "a number"]),
        ("dropout:p=1", ["p=1.0", "below 1"]),
        ("replay:file=x", ["the option what is missing", "weight_norm, logit_scale, radius", "replay:what=weight_norm,file="]),
        ("replay:what=weight_norm", ["the option file is missing", "`record` writes"]),
        ("replay:what=norm,file=x", ["what='norm'", "one of weight_norm, logit_scale, radius"]),
        ("replay:what=weight_norm,file=/nowhere.json", ["'/nowhere.json' does not exist", "'record'"]),
        ("layer_norm:affine=2", ["affine='2'", "true or false"]),
        ("muon:nesterov=0.5", ["nesterov='0.5'", "true or false"]),
        ("muon:momentum=-0.1", ["momentum=-0.1", "at least 0"]),
        ("optim", ["the option optim is missing", "optim:optim=adagrad"]),
        ("optim:optim=adam", ["optim='adam'", "adafactor"]),
        ("projection:mode=hard", ["mode='hard'", "one of tangential, straight_through"]),
        ("projection:radius=sqrt_d", ["radius='sqrt_d'", "a number of at least 0"]),
        ("radial", ["the option strength is missing", "radial:strength=0.05"]),
        ("radial:strength=0.1,radius=big", ["'big'", "sqrt_d"]),
        ("radial:strength=0.1,side=inside", ["side='inside'", "one of both, above"]),
        ("radial:strength=0.1,warmup_steps=1.5", ["warmup_steps='1.5'", "a whole number"]),
        ("activation_norm:strength=strong", ["strength='strong'", "activation_norm:strength=0.01"]),
        ("spectral_norm:iterations=0", ["iterations=0", "at least 1"]),
        ("weight_norm:factor=0", ["factor=0.0", "a number above 0"]),
        ("weight_decay:value=0.1,biases=some", ["biases='some'", "true or false"]),
        ("logit_temperature:temperature=0", ["temperature=0.0", "above 0"]),
        ("record:every=x", ["every='x'", "a whole number of at least 1"]),
        ("stablemax:x=1", ["it has no options"]),
        ("radial_gradient:keep=2", ["keep=2.0", "at most 1"]),
    ],
)
def test_a_wrong_option_is_named_with_its_meaning_and_an_example(text, words):
    with pytest.raises(ValueError) as raised:
        intervention(text)
    message = str(raised.value)
    assert repr(text) in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("value", ["abc", None, True, float("nan"), [0.9], 1])
def test_a_value_of_the_wrong_type_is_named_from_python_too(value):
    with pytest.raises(ValueError, match=r"alpha=.* must be a number of at least 0 and below 1"):
        GrokfastEMA(alpha=value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("stablemax", r"must be a list, such as \['stablemax'\]"),
        (3, r"=3 must be a list, such as \['dropout:p=0.1'\]"),
        (None, r"=None must be a list, such as \['dropout:p=0.1'\]"),
        (b"stablemax", "must be a list"),
        ({"dropout:p=0.1": True}, "must be a list"),
    ],
)
def test_a_list_is_asked_for(given, words):
    with pytest.raises(ValueError, match=words):
        interventions(given)


@pytest.mark.parametrize("given", [3, None, {"dropout": 0.1}, ["dropout:p=0.1"]])
def test_each_entry_is_a_text(given):
    with pytest.raises(ValueError, match="must be a text such as"):
        interventions([given])


@pytest.mark.parametrize("what", ["weight_norm", "radius"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value"),
        ("[]", "it holds no list of rows"),
        ('{"step": 1, "weight_norm": 1.0}', "it holds no list of rows"),
        ('["step"]', "it holds no list of rows"),
        ('[{"step": 1}]', r"row 1 has (weight_norm|radius/...)=None, which is no number"),
        ('[{"step": "1", "weight_norm": 1.0, "radius/a": 1.0}]', "row 1 has step='1', which is no number"),
        ('[{"step": 1, "weight_norm": NaN, "radius/a": NaN}]', "=nan, which is no number"),
        ('[{"step": 1, "weight_norm": 1.0, "radius/a": 1.0}, {"step": 2}]', "row 2 has .*=None"),
        ('[{"step": 2, "weight_norm": 1, "radius/a": 1}, {"step": 2, "weight_norm": 1, "radius/a": 1}]', "row 2 has step=2"),
    ],
)
def test_a_record_that_would_fail_in_the_middle_of_training_is_refused(what, content, message, tmp_path):
    path = tmp_path / "trajectory.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"trajectory.json' is not a trajectory.json of 'record' with {what}: .*{message}"):
        intervention(f"replay:what={what},file={path}")


def test_text_is_read_as_the_type_that_the_option_has(file):
    assert intervention("grokfast_ema:alpha=0,lamb=1e-3").lamb == 1e-3
    assert type(intervention("grokfast_ma:window_size=5,warmup=no").window_size) is int
    assert intervention("grokfast_ma:warmup=Off").warmup is False
    assert intervention("radial:strength=1,radius=4").radius == 4.0
    assert intervention("radial:strength=1,radius=initial").radius == "initial"
    assert intervention(f"replay:what=weight_norm,file={file}").file == file
    assert intervention(" dropout:p = 0.1, ").p == 0.1


def test_every_option_is_explained_and_every_example_works(file):
    for name, kind in kinds():
        assert kind.name == name
        for option in options_of(kind):
            assert option.metadata["help"].endswith("."), f"{name}: {option.name}"
            text = example(kind, option.name).replace("runs/first/trajectory.json", file)
            made = intervention(text)
            assert option.metadata["help"].rstrip(".") in explain(kind, option)
            again = intervention(describe(made))
            assert [getattr(again, o.name) for o in options_of(kind)] == [getattr(made, o.name) for o in options_of(kind)]


def test_every_method_says_its_source_its_use_and_what_is_saved():
    for name, kind in kinds():
        text = __import__(kind.__module__, fromlist=["x"]).__doc__
        for part in ("Method: ", "Source: ", "Use: ", "Saved model: "):
            assert f"\n\n{part}" in text, f"{name}: {part}"


@pytest.mark.parametrize("text", ["grokfast_ema:alpha=abc", "dropout"])
def test_grid_files_and_arguments_say_the_same(text, tmp_path):
    with pytest.raises(ValueError) as expected:
        intervention(text)
    with pytest.raises(ValueError) as found:
        RadialArguments(str(tmp_path), intervention=[text], report_to="none")
    assert str(found.value) == str(expected.value)
    with pytest.raises(ValueError) as found:
        read_run(yaml.safe_load(f"{{interventions: ['{text}']}}"))
    assert str(found.value) == str(expected.value)


def test_options_of_a_run_that_is_followed_are_checked_before_that_run_is_made():
    read_run({"interventions": ["replay:what=weight_norm,file={followed}/trajectory.json"]})
    with pytest.raises(ValueError, match="one of weight_norm, logit_scale, radius"):
        read_run({"interventions": ["replay:what=norm,file={followed}/trajectory.json"]})


def test_a_rate_that_was_drawn_is_read_as_it_was_written():
    assert intervention(f"dropout:p={0.1 + 0.2}") is not None
    assert intervention(f"dropout:p={0.1 + 0.2}").p == Dropout(p=0.1 + 0.2).p
