"""PRIVACY.md: its example runs as it stands, and its numbers are what comes out."""

import re

import pytest

from fl_integration.privacy.client import ClientLevel
from fl_integration.privacy.patient import PatientLevel
from tests.fresh import ROOT

pytest.importorskip("dp_accounting")

PAGE = (ROOT / "fl_integration" / "PRIVACY.md").read_text(encoding="utf-8")


def test_the_example_runs(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(block, "PRIVACY.md", "exec"), {})
    assert "one trusted party" in capsys.readouterr().out


def test_the_numbers_are_what_comes_out():
    unit = PatientLevel(epsilon=1.0, delta=1e-4, rounds=60, denominator=740)
    three, four = unit.plan(3, length=14), unit.plan(4, length=14)
    hundred = ClientLevel(epsilon=1.0, delta=1e-4, rounds=1).plan(100, length=14)
    text = " ".join(PAGE.split())
    assert f"{four.contributors_factor:.2f} for four hospitals" in text
    assert (
        f"{hundred.contributors_factor:.0f} for a hundred under the default requirements, where h is 2"
        in text
    )
    assert hundred.sure_honest == 2
    assert "at ε = 1 that is ε = 1.48." in text
    assert "ε = 1.48 for a patient" in three.meaning[2]
    sampled = PatientLevel(epsilon=1.0, delta=1e-4, rounds=60, denominator=740, sampling_rate=0.1)
    assert f"z = {four.noise_multiplier:.1f}, and" in text
    assert f"z = {sampled.plan(4, length=14).noise_multiplier:.2f} and" in text


def test_it_is_two_screens():
    assert len(PAGE.splitlines()) <= 80
