"""The bench of noise: a row without, and one for each deviation, over rings that hold the noised sums."""

import pytest

from bench import privacy


@pytest.mark.slow
def test_each_deviation_has_a_row_beside_the_round_without_noise(monkeypatch):
    monkeypatch.setattr(privacy, "REPEATS", 1)
    plain, *noised = privacy.measure(parameters=500)
    assert (plain.sigma, plain.clip, plain.noise) == (0.0, 0.0, 0.0)
    assert [each.sigma for each in noised] == list(privacy.DEVIATIONS)
    assert [each.bits for each in noised] == sorted(each.bits for each in noised)
    assert noised[-1].bits >= 21  # eleven deviations of three clients' noise, both ways
    assert all(each.machine > 0 for each in (plain, *noised))
    table = privacy.table_of([plain, *noised])
    assert table.row_count == 4
    assert next(table.columns[-1].cells) == "1.0"
