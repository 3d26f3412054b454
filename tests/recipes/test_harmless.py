"""recipes/harmless.py: every arm and seed is compared with no penalty on the same seed; a file that is not text is refused."""

import json

import pytest

from recipes import harmless
from recipes.harmless import ARMS, RESULTS, main, markdown


def test_each_arm_is_trained_on_each_seed_and_compared_with_no_penalty(tmp_path):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    table = main(["--file", str(tmp_path / "text.txt"), "--steps", "2", "--seeds", "0", "5", "--results", str(tmp_path)])
    data = json.loads((tmp_path / "harmless.json").read_text())
    assert list(data["arms"]) == list(ARMS)
    assert data["command"] == "python recipes/harmless.py --file text.txt --seeds 0 5 --steps 2"
    assert all([run["seed"] for run in runs] == [0, 5] for runs in data["arms"].values())
    assert len({run["held_out_loss"] for runs in data["arms"].values() for run in runs}) > 2
    assert "| no penalty |" in table.read_text() and "+0.000, +0.000" in table.read_text()


def test_a_corpus_needs_no_file_and_has_results_of_its_own(tmp_path, capsys):
    words = ["--steps", "1", "--seeds", "0", "--arms", "no penalty", "--results", str(tmp_path)]
    table = main(["--corpus", "generated", *words])
    assert table == tmp_path / "harmless_generated.md" and "(1,000,000 characters" in table.read_text()
    assert "`python recipes/harmless.py --corpus generated --seeds 0 --steps 1 --arms 'no penalty'`" in table.read_text()
    with pytest.raises(SystemExit):
        main(["--corpus", "generated", "--file", "text.txt", *words])
    assert "not allowed with argument" in capsys.readouterr().err


def test_another_size_has_files_of_its_own_and_goes_on(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    monkeypatch.setitem(harmless.SIZES, "10.6M", {"n_embd": 16, "n_layer": 1, "n_head": 2})
    made, train = [], harmless.run

    def run(text, size, arm, seed, *rest):
        made.append((size, arm["radial_lambda"], seed))
        if len(made) == 2:
            raise KeyboardInterrupt
        return train(text, size, arm, seed, *rest)

    monkeypatch.setattr(harmless, "run", run)
    words = ["--file", str(tmp_path / "text.txt"), "--steps", "2", "--size", "10.6M", "--bf16", "--results", str(tmp_path)]
    words += ["--go-on", "--arms", "penalty 0.01 (paper)", "--seeds"]
    with pytest.raises(KeyboardInterrupt):
        main([*words, "3"])
    assert "| no penalty |" in (tmp_path / "harmless_10.6M.md").read_text()
    table = main([*words, "3"])
    assert made == [("10.6M", 0.0, 3), ("10.6M", 0.01, 3), ("10.6M", 0.01, 3)]
    assert table == tmp_path / "harmless_10.6M.md" and "| penalty 0.01 (paper) |" in table.read_text()
    assert "--size 10.6M --seeds 3" in table.read_text() and "bfloat16. One seed" in table.read_text()
    with pytest.raises(ValueError, match="another steps"):
        main([*words, "3", "--steps", "3"])


@pytest.mark.parametrize(("text", "message"), [(None, "does not exist"), ("short", "characters")])
def test_a_text_that_cannot_be_used_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "text.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        main(["--file", str(tmp_path / "text.txt")])


@pytest.mark.parametrize("file", sorted(RESULTS.glob("harmless*.json")), ids=lambda file: file.stem)
def test_the_committed_tables_are_made_from_the_committed_data(file):
    data = json.loads(file.read_text())
    assert harmless.table_of(file).read_text() == markdown(data)
    seeds = [run["seed"] for run in data["arms"][harmless.NO_PENALTY]]
    assert all([run["seed"] for run in runs] == seeds for runs in data["arms"].values())
    assert file.stem != "harmless" or (seeds == [0, 1, 2] and list(data["arms"]) == list(ARMS))
