"""The README's examples run as they stand."""

import re
from pathlib import Path

import pytest

from protocols import Adversary, MaskedSum, Requirements

README = Path(__file__).parent.parent / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_there_are_two_examples() -> None:
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_example_runs(index: int, capsys: pytest.CaptureFixture[str]) -> None:
    if "torch" in EXAMPLES[index]:
        pytest.importorskip("torch")
        pytest.importorskip("tenseal")
    exec(compile(EXAMPLES[index], f"README example {index}", "exec"), {})
    printed = capsys.readouterr().out
    assert "basel" in printed or "500" in printed


@pytest.mark.parametrize(
    ("clients", "requirements"),
    [
        (3, Requirements()),
        (50, Requirements(adversary=Adversary.MALICIOUS)),
        (1000, Requirements(adversary=Adversary.MALICIOUS)),
    ],
)
def test_the_plans_in_the_readme_are_the_planners(clients: int, requirements: Requirements) -> None:
    plan = MaskedSum(max_clients=clients, requirements=requirements).plan(clients)
    assert f"```\n{plan}\n```" in README.read_text(encoding="utf-8")
