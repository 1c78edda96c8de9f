"""Pages that are made from the code say what the code says."""

from pathlib import Path

from coatcheck.jobs import TRANSITIONS
from tools.diagram import PAGE, render

ROOT = Path(__file__).parents[2]


def test_state_diagram_shows_the_transition_table():
    assert render() in PAGE.read_text()


def test_each_transition_word_is_explained_in_the_architecture():
    page = PAGE.read_text()
    missing = {transition.word for transition in TRANSITIONS if f"| {transition.word} |" not in page}
    assert not missing
