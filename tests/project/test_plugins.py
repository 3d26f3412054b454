"""Names that other packages add: found without an import, refused where two have them, explained where they fail."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

import pytest
import torch

from hf_radial import RadialArguments, measure, plugins, register_intervention, register_metric, register_task
from hf_radial.comparison.method_card import card, list_of_methods
from hf_radial.comparison.run_options import read_run
from hf_radial.geometry.groups import METRICS
from hf_radial.geometry.reading import Reading
from hf_radial.interventions import INTERVENTIONS, intervention
from hf_radial.interventions.base import Intervention
from hf_radial.models import ModularMLPConfig, ModularMLPForSequenceClassification
from hf_radial.plugins import PluginError
from hf_radial.runs.record import describe_environment
from hf_radial.tasks import TASKS, load_task, task_tokenizer
from hf_radial.tasks.show import shelf_table

pytestmark = pytest.mark.quick

METHOD = """
from dataclasses import dataclass
from typing import ClassVar
from hf_radial.interventions.base import Intervention

@dataclass(eq=False)
class Method(Intervention):
    name: ClassVar[str] = "{name}"
    factor: float = 0.5
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a package with entry points on the path: its name, the code of its module, and group -> {name: attribute}."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(package, code, **groups):
        info = tmp_path / f"{package}-3.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 3.1\n")
        lines = []
        for group, points in groups.items():
            lines += [f"[hf_radial.{group}]", *(f"{name} = {package}:{attribute}" for name, attribute in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        (tmp_path / f"{package}.py").write_text(code)
        monkeypatch.delitem(sys.modules, package, raising=False)

    plugins._points.cache_clear()
    yield put
    plugins._points.cache_clear()


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """What a test registers is gone after it."""
    for registry in (INTERVENTIONS, TASKS, METRICS):
        monkeypatch.setattr(registry, "_registered", {})


def test_a_packages_intervention_works_by_name_and_is_imported_only_then(install):
    install("theirs", METHOD.format(name="theirs"), interventions={"theirs": "Method"})
    assert "theirs" in INTERVENTIONS and "theirs" in list(INTERVENTIONS) and len(INTERVENTIONS) == len(INTERVENTIONS.ours) + 1
    assert describe_environment()["versions"]["theirs"] == "3.1"
    assert "theirs" not in sys.modules
    assert intervention("theirs:factor=2").factor == 2
    assert RadialArguments(output_dir="x", report_to="none", intervention=["theirs"]).made_interventions()[0].factor == 0.5
    assert read_run({"interventions": ["theirs:factor=3"]}).interventions
    with pytest.raises(ValueError, match=r"theirs:factr=3.*Did you mean 'factor'"):
        read_run({"interventions": ["theirs:factr=3"]})
    with pytest.raises(ValueError, match="'theis' is unknown; did you mean 'theirs'"):
        intervention("theis")
    assert "of the package theirs 3.1" in list_of_methods() and "It is of the package theirs 3.1" in card("theirs")


def test_a_package_that_fails_is_named_with_its_reason_and_hinders_nothing_else(install, caplog):
    install("broken", "import not_there_at_all", interventions={"broken": "Method"}, tasks={"broken_task": "Task"})
    install("works", METHOD.format(name="works"), interventions={"works": "Method"})
    said = (
        r"'broken' could not be imported when it was used: the entry point 'broken = broken:Method' of the package broken 3\.1 "
    )
    said += "raised ModuleNotFoundError: No module named 'not_there_at_all'"
    with pytest.raises(PluginError, match=said):
        intervention("broken")
    assert intervention("works") and intervention("dropout:p=0.1")
    assert "works" in list_of_methods() and "modular" in shelf_table()
    assert "broken" in caplog.text and caplog.records[0].levelno == logging.WARNING and "not_there_at_all" in caplog.text


def test_a_name_of_two_packages_is_an_error_that_names_both_when_it_is_used(install):
    for package in ("first", "second"):
        install(package, METHOD.format(name="same"), interventions={"same": "Method"})
    with pytest.raises(
        PluginError, match=r"'same' is the name of two: .* of the package first 3\.1 .* of the package second 3\.1"
    ):
        intervention("same")
    assert intervention("dropout:p=0.1")


def test_a_name_of_ours_in_another_package_is_an_error_that_names_both(install):
    install("theirs", METHOD.format(name="muon"), interventions={"muon": "Method"})
    with pytest.raises(
        PluginError, match=r"'muon' is the name of two: the intervention of hf_radial .* of the package theirs 3\.1"
    ):
        intervention("muon")


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("Missing", "AttributeError"),
        ("dataclass", "an intervention is a dataclass that inherits from"),
        ("Method", "its attribute `name` is 'other'; write name"),
    ],
)
def test_what_is_no_intervention_is_refused_by_name(install, attribute, said):
    install("theirs", METHOD.format(name="other"), interventions={"theirs": attribute})
    with pytest.raises(PluginError, match=rf"(?s)'theirs'.*the package theirs 3\.1.*{said}"):
        intervention("theirs")


def test_a_package_that_is_installed_meanwhile_is_found(install):
    assert "late" not in INTERVENTIONS
    install("late", METHOD.format(name="late"), interventions={"late": "Method"})
    assert intervention("late").name == "late"


@dataclass(eq=False)
class Mine(Intervention):
    """Halves."""

    name: ClassVar[str] = "mine"
    factor: float = 0.5


def test_a_notebook_registers_an_intervention_and_may_do_so_again():
    assert register_intervention(Mine) is Mine and register_intervention(Mine) is Mine
    assert intervention("mine:factor=1").factor == 1
    assert INTERVENTIONS.source("mine").package == f"the module {__name__}"

    @dataclass(eq=False)
    class Other(Intervention):
        name: ClassVar[str] = "mine"

    with pytest.raises(PluginError, match=rf"'mine' of .*Other is taken by register_intervention of the module {__name__}"):
        register_intervention(Other)
    Other.name = "muon"
    with pytest.raises(PluginError, match=r"'muon' of .*Other is taken by the intervention of hf_radial"):
        register_intervention(Other)
    with pytest.raises(TypeError, match=r"register_intervention\(<class 'int'>\): an intervention is a dataclass"):
        register_intervention(int)


def test_what_a_package_declares_and_also_registers_is_one_thing(install):
    code = METHOD.format(name="theirs") + "from hf_radial import register_intervention\nregister_intervention(Method)\n"
    install("theirs", code, interventions={"theirs": "Method"})
    assert intervention("theirs") and intervention("theirs:factor=3").factor == 3


DOUBLED = """
from hf_radial.tasks.modular import ModularArithmetic, ModularConfig

class Doubled(ModularArithmetic):
    BUILDER_CONFIG_CLASS = ModularConfig

    def answers(self, rows, operands):
        return 2 * super().answers(rows, operands) % self.config.p
"""


def test_a_registered_task_is_loaded_like_ours_from_a_cache_of_its_own(tmp_path, monkeypatch):
    """Its file has the name of one of ours, by which `datasets` names caches."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "modular.py").write_text(DOUBLED)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    Doubled = register_task(import_module("theirs.modular").Doubled, "doubled")
    fields = {"p": 5, "train_fraction": 0.6}
    theirs, ours = (load_task(name, cache_dir=str(tmp_path), **fields) for name in ("doubled", "modular"))
    assert theirs["train"]["input_ids"] == ours["train"]["input_ids"]
    assert [2 * label % 5 for label in ours["train"]["labels"]] == theirs["train"]["labels"]
    assert load_task("doubled", cache_dir=str(tmp_path), **fields)["test"]["labels"] == theirs["test"]["labels"]
    assert len(task_tokenizer("doubled", p=5, view="lm")) > 5
    assert read_run({"task": "doubled", "fields": {"p": 5}}).task == "doubled"
    with pytest.raises(PluginError, match=r"'modular' of theirs.modular:Doubled is taken by the task of hf_radial"):
        register_task(Doubled, "modular")


MODEL = ModularMLPForSequenceClassification(ModularMLPConfig(modulus=7, embedding_size=4, hidden_size=8))
BATCH = {"input_ids": torch.tensor([[1, 2], [3, 4], [5, 6], [0, 1]]), "labels": torch.tensor([3, 0, 4, 1])}


def test_a_registered_metric_is_measured_on_every_site():
    @register_metric
    def longest(model, batch, seen):
        assert not model.training and batch.keys() == BATCH.keys() and seen.loss > 0
        return [Reading("longest", view.vectors.norm(dim=-1).max().item(), view.site.name) for view in seen.sites]

    found = measure(MODEL, BATCH, ["longest"])
    assert not found.failures and {"geometry/hidden.0/longest", "geometry/hidden.1/longest"} <= set(found.logs())
    radii = {
        reading.site: reading.value
        for reading in measure(MODEL, BATCH, ["longest", "radial"]).readings
        if reading.metric == "longest"
    }
    assert radii == {reading.site: reading.value for reading in found.readings if reading.metric == "longest"}
    with pytest.raises(ValueError, match=r"'longst' is unknown; choose among radial, .*, longest"):
        measure(MODEL, BATCH, ["longst"])


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (lambda: [Reading("radius_mean", 1.0)], "must be a Reading whose metric is 'mine' or begins with 'mine_'"),
        (lambda: [1.0], "it gave 1.0, which must be a Reading"),
        (lambda: {}["key"], "KeyError: 'key'"),
        (lambda: [][0], "IndexError"),
    ],
)
def test_a_metric_that_fails_is_named_and_the_others_are_measured(gives, said):
    def mine(model, batch, seen):
        return gives()

    register_metric(mine)
    found = measure(MODEL, BATCH, ["mine", "radial"])
    assert said in found.failures[0] and found.failures[0].startswith("mine: ")
    assert "geometry/hidden.0/radius_mean" in found.logs()


def test_a_report_draws_a_packages_metric_with_the_words_of_its_docstring(tmp_path):
    pytest.importorskip("matplotlib")
    from fake_runs import SITES, fake_run

    from hf_radial.geometry.reading import TABLE_FILE, Table
    from hf_radial.report.catalogue import catalogue
    from hf_radial.report.figures import figures_of
    from hf_radial.runs.files import read_run as read_folder

    @register_metric
    def unequal(model, batch, seen):
        """How unequal lengths are.

        Near 0 all are
        alike.
        """

    fake_run(tmp_path, steps=300, groups=())
    table = Table()
    for step in (0, 100):
        table.add(step, 1.0, [Reading("unequal", 1.0 + step, SITES[0]), Reading("unequal_most", 3.0), Reading("unequally", 1)])
    table.write(tmp_path / TABLE_FILE)
    sections = dict(figures_of(read_folder(tmp_path)))
    drawn = sections["Metrics of other packages"]
    assert [(drawing.title, drawing.caption) for drawing in drawn] == [
        ("How unequal lengths are", "Near 0 all are alike."),
        ("How unequal lengths are: most", "Near 0 all are alike."),
    ]
    questions = catalogue([read_folder(tmp_path)], "eval_train_accuracy", "eval_validation_accuracy")
    figures = [(one["title"], one["sites"]) for one in questions[-1]["figures"]]
    assert figures == [("How unequal lengths are", True), ("How unequal lengths are: most, model", False)]
    METRICS._registered.clear()
    assert "Metrics of other packages" not in dict(figures_of(read_folder(tmp_path)))
