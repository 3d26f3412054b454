"""recipes/cards.py: models are trained, saved and described, and committed cards follow from the committed data."""

import json
import re
import sys
from pathlib import Path

import pytest
from warm import run_python

ROOT = Path(__file__).parents[2]
DATA = ROOT / "recipes" / "results" / "cards"


@pytest.mark.parametrize("name", ["mlp_add_p97", "transformer_add_p97", "gpt2_addition"])
def test_a_model_is_saved_and_its_card_loads_it(name, tmp_path):
    words = ["--only", name, "--epochs", "2", "--runs", "runs", "--cards", "cards", "--data", "data"]
    done = run_python(ROOT / "recipes" / "cards.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs" / name / "model.safetensors").is_file()
    card = (tmp_path / "cards" / f"{name}.md").read_text()
    assert f'from_pretrained("ORG/{name}")' in card and "of 2," in card  # the test rows
    code = re.search(r"```python\n(.*?)```", (tmp_path / "runs" / name / "README.md").read_text(), re.S)
    used = run_python("-c", code[1], cwd=tmp_path)
    assert used.returncode == 0 and used.stdout.strip(), used.stderr[-2000:]


def test_committed_cards_are_those_of_the_committed_data():
    sys.path.insert(0, str(ROOT))
    from recipes.cards import CARDS, MODELS, card_of

    files = list(DATA.glob("*.json"))
    assert {*MODELS} <= {file.stem for file in files}
    for file in files:
        made = json.loads(file.read_text())
        assert (CARDS / f"{file.stem}.md").read_text() == str(card_of(made, f"ORG/{file.stem}"))
