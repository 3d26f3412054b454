"""The documentation: its code runs, its tables are those of the committed data, its links and names exist."""

from __future__ import annotations

import ast
import configparser
import json
import re
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import pytest
from pages import PAGES, ROOT, code_of, shown
from warm import run_python

from recipes.tables import COMPARED, TABLES, filled, intervention_classes

RUN = {name: code_of(text) for name, text in PAGES.items() if code_of(text)}
# The blocks of this page are files, each complete by itself.
FILES = "docs/extend.md"


@pytest.mark.parametrize("name", sorted(set(RUN) - {FILES}))
def test_the_code_of_a_page_runs_as_printed(name, tmp_path):
    code = "\n".join(RUN[name])
    for package in re.findall(r"^# needs: pip install (\w+)$", code, re.M):
        if not find_spec(package):
            pytest.skip(f"{package} is not installed")
    run = run_python("-c", code, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    if name == "docs/start/your_trainer.md":
        assert run.stdout.count("'radial_penalty'") == 4 and "transformer.h.1.mlp.c_proj" in run.stdout
    if name == "docs/onset.md":  # it knows its rows first, and the others later
        assert "'memorised_first': True" in run.stdout and "'onset_90_censored': False" in run.stdout


@pytest.mark.parametrize("number", range(len(RUN[FILES])))
def test_each_file_of_the_page_on_extending_runs(number, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(RUN[FILES][number])
    run = run_python(file, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]


def test_the_grid_of_the_page_on_extending_can_be_read(tmp_path):
    from hf_radial.comparison.grid import read_grid

    (tmp_path / "grid.yaml").write_text(re.search(r"^```yaml\n(.*?)^```$", PAGES[FILES], re.S | re.M)[1])
    grid = read_grid(tmp_path / "grid.yaml")
    assert (len(grid.settings), len(grid.arms), len(grid.seeds)) == (2, 2, 3)


def test_the_three_doors_are_shown():
    code = "\n".join(RUN["docs/start/your_trainer.md"])
    assert all(door in code for door in ("RadialTrainer(", "RadialCallback(", "RadialPenalty("))


@pytest.mark.parametrize("name", sorted(PAGES))
def test_every_file_that_is_linked_exists(name):
    page = ROOT / name
    text = re.sub(r"^```.*?^```$", "", PAGES[name], flags=re.S | re.M)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    made = {"docs/errors.md"}
    missing = [link for link in links if not (page.parent / link).exists()]
    assert [link for link in missing if (page.parent / link).resolve().relative_to(ROOT).as_posix() not in made] == []


# What a reader of the page makes.
THEIR_FILES = {"hf_radial/interventions/scaled_gradient.py"}


def test_every_python_file_that_a_page_names_exists():
    files = [
        file.relative_to(ROOT).as_posix() for top in ("hf_radial", "recipes", "tests") for file in (ROOT / top).rglob("*.py")
    ]
    files += [file.relative_to(ROOT).as_posix() for top in ("benchmarks", "docs") for file in (ROOT / top).rglob("*.py")]
    pages = {**PAGES, **{name: (ROOT / name).read_text() for name in ("ARCHITECTURE.md", "CONTRIBUTING.md")}}
    for name, text in pages.items():
        named = set(re.findall(r"`([\w/]+\.py)`", re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M))) - THEIR_FILES
        assert [one for one in named if not any(f"/{file}".endswith(f"/{one}") for file in files)] == [], name


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_tables_of_a_page_are_those_of_the_data(name):
    assert filled(PAGES[name]) == PAGES[name], "run: make tables"


def extension(name):
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    try:
        return import_module(name)
    finally:
        sys.path.pop(0)


def test_a_docstring_becomes_restructured_text():
    lines = ["Gives `a * b`.", "", "    trainer = make(", "        x)", "", "Args:", "    x: of shape `(n,)`, *args too.", ""]
    made = extension("docstrings").converted(lines)
    assert made[:5] == ["Gives ``a * b``.", "", ".. code-block:: python", "", "    trainer = make("]
    assert made[-2] == r"    x: of shape ``(n,)``, \*args too."


def test_a_link_to_a_page_elsewhere_in_the_repository_becomes_one_to_its_copy():
    page = ROOT / "docs" / "evidence" / "decay.md"
    text = "[data](../../recipes/results/harmless.md#x) and [site](../sites.md) and [web](https://example.org/a.md)"
    wanted = "[data](../repository/recipes/results/harmless.md#x) and [site](../sites.md) and [web](https://example.org/a.md)"
    assert extension("repository").relinked(text, page, page) == wanted


def test_every_table_is_on_a_page():
    assert [name for name in TABLES if not shown(name)] == []
    assert {f"compare_{name}" for name in COMPARED} < set(TABLES)


def test_a_misspelt_mark_is_an_error():
    with pytest.raises(ValueError, match="there is no table 'harmles'"):
        filled("<!-- harmles -->\nold\n<!-- end -->\n")


def test_the_readme_is_two_screens():
    lines = PAGES["README.md"].splitlines()
    prose = "\n".join(line for line in lines if not line.startswith(("|", "    ", "<!--", "![")))
    prose = re.sub(r"```.*?```", "", prose, flags=re.S)
    assert len(lines) <= 150 and len(prose.encode()) <= 8000


def test_every_public_name_is_in_the_reference():
    reference = "\n".join(text for name, text in PAGES.items() if name.startswith("docs/reference/"))
    for package in (
        "hf_radial",
        "hf_radial.tasks",
        "hf_radial.metrics",
        "hf_radial.models",
        "hf_radial.report",
        "hf_radial.sites",
    ):
        for name in import_module(package).__all__:
            if not name.isupper():
                assert f"{package}.{name}" in reference or f"hf_radial.{name}" in reference, f"{package}.{name}"
    assert "hf_radial.tasks.TASKS" in reference


def test_every_page_is_in_the_contents_of_another():
    index = PAGES["docs/index.md"] + PAGES["docs/evidence/index.md"] + PAGES["docs/reference/index.md"]
    for name in PAGES:
        if name.startswith("docs/") and name != "docs/index.md":
            parts = name.removeprefix("docs/").removesuffix(".md")
            assert re.search(rf"^({parts}|{parts.split('/')[-1]})$", index, re.M), name


@cache
def templates() -> list[str]:
    """Every message that the code raises or warns of, with … for what is put in."""
    text_of = extension("errors").text_of
    found = []
    for file in (ROOT / "hf_radial").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.JoinedStr, ast.BinOp)) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                found.append(" ".join(text_of(node).split()))
    return found


@pytest.mark.parametrize("message", re.findall(r"^### `(.+)`$", PAGES["docs/faq.md"], re.M))
def test_an_explained_error_message_is_one_of_the_code(message):
    parts = [re.escape(part) for part in message.split("…")]
    assert any(re.search("….*".join(parts) if len(parts) > 1 else parts[0], text) for text in templates())


def test_what_the_pages_call_a_default_is_one():
    from hf_radial.geometry.measure import DEFAULT_GROUPS, EXPENSIVE_GROUPS, GROUPS
    from hf_radial.penalty.config import RadialConfig

    config = RadialConfig(radial_lambda=0.05)
    assert f"- `{config.radial_radius}`, the default" in PAGES["docs/choose.md"]
    assert config.radial_where == "increment" and "The default, the paper's" in PAGES["docs/sites.md"]
    said = re.findall(r"^\| `(\w+)` \| .+ \| (yes|no, expensive) \|$", PAGES["docs/geometry.md"], re.M)
    assert [group for group, _ in said] == list(GROUPS)
    assert [group for group, answer in said if answer == "yes"] == list(DEFAULT_GROUPS)
    assert [group for group, answer in said if answer != "yes"] == list(EXPENSIVE_GROUPS)


def test_the_page_of_errors_misses_no_error_that_is_raised():
    errors = extension("errors")
    missing = []
    for file in sorted((ROOT / "hf_radial").rglob("*.py")):
        tree = ast.parse(file.read_text())
        made = {id(text) for _, text, _ in errors.statements(tree)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                text = node.exc.args[0]
                if id(text) not in made and not isinstance(text, ast.Name):  # a name stands for a text, which is there
                    missing.append(f"{file.name}:{node.lineno}")
    assert missing == []
    listed = {(one.file, one.text) for one in errors.messages()}
    page = errors.page()
    assert all(text.replace("`", "'") in page for file, text in listed if file != "__init__.py")


def test_the_page_of_errors_has_the_kinds_of_statements_that_make_one():
    tree = ast.parse(
        'NAMED = "a constant"\n'
        "def made():\n    return ValueError('returned')\n"
        "def f(x):\n    raise ValueError(NAMED)\n    raise TypeError(f'x={x!r} is wrong')\n"
        "    raise type(x)('of the same kind') from x\n    logger.warning('step %d: %s', 1, x)\n"
    )
    errors = extension("errors")
    found = [(kind, errors.text_of(node), function) for kind, node, function in errors.statements(tree)]
    assert found == [
        ("ValueError", "returned", "made"),
        ("ValueError", "a constant", "f"),
        ("TypeError", "x=… is wrong", "f"),
        ("error", "of the same kind", "f"),
        ("warning", "step %d: %s", "f"),
    ]


def test_every_explained_message_is_linked_from_the_page_of_errors():
    errors = extension("errors")
    page = errors.page()
    assert len(errors.cures()) == len(re.findall(r"^### `", PAGES["docs/faq.md"], re.M)) > 20
    assert [anchor for _, anchor in errors.cures() if f"(faq.md#{anchor})" not in page] == []


def test_the_versions_agree():
    from hf_radial import __version__

    assert f"version = {__version__}" in (ROOT / "setup.cfg").read_text()
    assert f"version: {__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_extra_is_explained_and_the_one_of_trainers_has_what_their_tests_skip_without():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    install = (ROOT / "docs" / "start" / "install.md").read_text()
    assert [name for name in extras if name != "all" and f"| `{name}` |" not in install] == []
    named = {re.split(r"[^\w-]", line)[0] for line in extras["trainers"].strip().splitlines()}
    measured = json.loads((ROOT / "recipes" / "results" / "trainers.json").read_text())["package"].values()
    tests = "".join((ROOT / "tests" / "training" / name).read_text() for name in ("test_quantised.py", "test_trainers.py"))
    needed = {*(package.split(".")[0] for package in measured), *re.findall(r'importorskip\("(\w+)"\)', tests)}
    assert {package.replace("_", "-") for package in needed - {"transformers"}} == named


def test_every_intervention_has_what_its_card_is_made_from():
    for name, kind in intervention_classes().items():
        document = sys.modules[kind.__module__].__doc__
        for part in ("Method: ", "Source: ", "Use: ", "Saved model: "):
            assert f"\n{part}" in document, (name, part)
