"""Draws the job's state diagram from `coatcheck.jobs.TRANSITIONS` into docs/architecture.md.

`python -m tools.diagram` writes it; tests/unit/test_docs.py holds that the page has what the table says.
"""

from __future__ import annotations

import re
from pathlib import Path

from coatcheck.jobs import TERMINAL, TRANSITIONS

PAGE = Path(__file__).parent.parent / "docs" / "architecture.md"
BLOCK = re.compile(r"```mermaid\nstateDiagram-v2\n.*?```", re.DOTALL)


def render() -> str:
    """The diagram as a Mermaid block: one arrow a pair of statuses, labelled with its words."""
    words: dict[tuple[str, str], list[str]] = {}
    for transition in TRANSITIONS:
        source = transition.source.value if transition.source else "[*]"
        labels = words.setdefault((source, transition.target.value), [])
        if transition.word not in labels:
            labels.append(transition.word)
    lines = [f"    {source} --> {target}: {', '.join(labels)}" for (source, target), labels in words.items()]
    lines += [f"    {status} --> [*]" for status in sorted(TERMINAL)]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


if __name__ == "__main__":
    PAGE.write_text(BLOCK.sub(lambda _: render(), PAGE.read_text()))
