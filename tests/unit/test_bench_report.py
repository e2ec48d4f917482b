"""The bench's arithmetic; the bench itself is run by hand."""

from __future__ import annotations

from bench.report import figures, lines, quantile, summary


def test_quantiles_are_measured_values() -> None:
    values = [float(number) for number in range(1, 101)]
    assert quantile(values, 0.99) == 100
    assert quantile([5.0], 0.99) == 5
    assert figures([0.1, 0.2, 0.3])["p50"] == 200


def test_ratios_are_ours_over_gos() -> None:
    found = summary({"ours": [0.1, 0.1], "go": [0.2, 0.2]})
    assert (found["ratio"]["p50"], found["ratio"]["rate"]) == (0.5, 2)
    rows = lines({"scenario": {"name": found}})
    assert rows[0] == ("name", "p50 (ms)", "100.00", "200.00", "0.50")
    assert rows[2][1] == "rate (1/s)"
