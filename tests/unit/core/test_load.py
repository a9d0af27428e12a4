"""Rates of operations and processor time, smoothed over some seconds."""

from __future__ import annotations

import pytest

from swarm.core.load import SAMPLE_S, LoadMeter


def test_rates_follow_what_is_counted() -> None:
    meter = LoadMeter()
    for second in range(31):
        meter.sample(float(second), {0: 100 * second, 1: 0}, 0.5 * second)
    assert meter.rates == pytest.approx({0: 100.0, 1: 0.0})
    assert meter.cpu == pytest.approx(0.5)
    for second in range(31, 61):
        meter.sample(float(second), {0: 3000, 1: 10 * (second - 30)}, 15.0)
    assert meter.rates[0] < 1.0
    assert meter.rates[1] == pytest.approx(10.0, rel=0.01)
    assert meter.cpu < 0.01


def test_one_busy_second_is_not_the_load() -> None:
    meter = LoadMeter()
    for second in range(11):
        meter.sample(float(second), {0: 0}, 0.0)
    meter.sample(11.0, {0: 1000}, 1.0)
    assert 100 < meter.rates[0] < 300
    assert 0.1 < meter.cpu < 0.3


def test_a_shard_that_has_come_begins_anew() -> None:
    meter = LoadMeter()
    meter.sample(0.0, {0: 10}, 0.0)
    meter.sample(1.0, {0: 20, 1: 5000}, 0.0)
    assert meter.rates == {0: 10.0}
    # Shard 0 has been elsewhere: its count begins again.
    meter.sample(2.0, {0: 3, 1: 5100}, 0.0)
    assert meter.rates == {1: 100.0}
    meter.sample(3.0, {0: 5, 1: 5200}, 0.0)
    assert meter.rates == {0: 2.0, 1: 100.0}
    meter.sample(4.0, {}, 0.0)
    assert meter.rates == {}


def test_samples_are_taken_once_in_a_while() -> None:
    meter = LoadMeter()
    assert meter.is_due(0.0)
    meter.sample(0.0, {}, 0.0)
    assert not meter.is_due(SAMPLE_S / 2)
    assert meter.is_due(SAMPLE_S)
