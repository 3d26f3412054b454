"""`hf-radial run`: what accelerate is told, and completion in a shell. That the recipes train is in test_installed.py."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import torch

from hf_radial.cli.main import main
from hf_radial.runs.shipped import RECIPES, recipes_folder

FOLDER = recipes_folder()


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """What accelerate would launch, on a machine without a GPU where nobody called `accelerate config`."""
    launch = pytest.importorskip("accelerate.commands.launch")
    told = []
    monkeypatch.setattr(launch, "launch_command", told.append)
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(tmp_path / "none.yaml"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    return told


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_gets_its_options_and_the_cpu_where_there_is_nothing_else(launched, recipe):
    assert main(["run", recipe, "--p", "13", "--help"]) == 0
    (told,) = launched
    assert told.training_script == str(FOLDER / f"{recipe}.py") and told.training_script_args == ["--p", "13", "--help"]
    assert told.config_file == str(FOLDER / "accelerate" / "cpu.yaml") and told.num_cpu_threads_per_process == 3


@pytest.mark.parametrize(
    "words",
    [
        ["--config_file", "cpu_2proc", "modular", "--p", "13"],
        ["modular", "--config_file", "cpu_2proc", "--p", "13"],
        ["modular", "--p", "13", f"--config_file={FOLDER / 'accelerate' / 'cpu_2proc.yaml'}"],
    ],
)
def test_the_config_file_is_passed_on_from_either_side_and_by_name_or_path(launched, words):
    assert main(["run", *words]) == 0
    (told,) = launched
    assert told.config_file == str(FOLDER / "accelerate" / "cpu_2proc.yaml") and told.training_script_args == ["--p", "13"]


def test_the_users_own_configuration_of_accelerate_is_left_to_it(launched, tmp_path):
    (tmp_path / "none.yaml").touch()
    assert main(["run", "addition"]) == 0
    assert launched[0].config_file is None and launched[0].num_processes is None


def test_gpus_are_left_to_accelerate_and_a_recipe_of_one_process_gets_one(launched, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert main(["run", "modular"]) == main(["run", "compare", "rivals"]) == 0
    assert [(told.config_file, told.num_processes) for told in launched] == [(None, None), (None, 1)]


def test_a_configuration_that_is_not_there_is_an_error_that_lists_the_names(launched, capsys):
    assert main(["run", "--config_file", "cpu_2pro", "modular"]) == 2
    assert "--config_file 'cpu_2pro' is neither a file nor a name; did you mean 'cpu_2proc'?" in capsys.readouterr().err
    assert not launched


def completion(shell, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--print-completion", shell])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (["hf-radial", "me"], {"methods"}),
        (["hf-radial", "run", "mo"], {"modular"}),
        (["hf-radial", "sites", "--ver"], {"--verify"}),
        (["hf-radial", "run", "--con"], {"--config_file"}),
    ],
)
def test_bash_completes_verbs_recipes_and_options(tmp_path, capsys, typed, wanted):
    script = tmp_path / "completion"
    script.write_text(completion("bash", capsys))
    words = " ".join(f"'{word}'" for word in typed)
    code = f"source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}\n"
    code += r'f=$(complete -p hf-radial | sed "s/.*-F \([^ ]*\).*/\1/"); '
    code += '$f hf-radial "${COMP_WORDS[COMP_CWORD]}"; echo ${COMPREPLY[@]}'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert set(done.stdout.split()) == wanted, done.stderr


def test_the_completion_for_zsh_has_every_verb_and_is_right_where_zsh_is_there(tmp_path, capsys):
    text = completion("zsh", capsys)
    assert text.startswith("#compdef hf-radial") and all(f"{verb}:'" in text for verb in ("run", "methods", "tasks", "publish"))
    if shutil.which("zsh"):
        (tmp_path / "_hf-radial").write_text(text)
        subprocess.run(["zsh", "-n", tmp_path / "_hf-radial"], check=True)
