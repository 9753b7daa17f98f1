from __future__ import annotations

import numpy as np
import pytest

from asd_cli.raster.ramp import COLOURS, ScoreRamp

RAMPS = [ScoreRamp("unit", 0.5), ScoreRamp("unit", 0.9), ScoreRamp("distance", 5.9), ScoreRamp("far", 0.001)]


@pytest.mark.parametrize("ramp", RAMPS, ids=str)
def test_every_stop_has_its_own_colour(ramp: ScoreRamp) -> None:
    stops = ramp.stops()
    values = np.array([[value for value, _ in stops]], np.float32)
    values[0, 0] = np.float32(ramp.threshold)
    np.testing.assert_array_equal(ramp.rgba(values, below=False)[:3, 0].T, COLOURS)
    assert np.all(np.diff(values) < 0 if ramp.lower_is_anomalous else np.diff(values) > 0)


@pytest.mark.parametrize("ramp", RAMPS, ids=str)
def test_what_is_below_the_threshold_is_clear_or_grey_and_no_data_always_clear(ramp: ScoreRamp) -> None:
    limit = np.float32(ramp.threshold)
    ordinary = np.nextafter(limit, np.float32(np.inf if ramp.lower_is_anomalous else 0))
    scores = np.array([[limit, ordinary, np.nan]], np.float32)
    assert ramp.rgba(scores, below=False)[3].tolist() == [[255, 0, 0]]
    grey = ramp.rgba(scores, below=True)
    assert grey[3].tolist() == [[255, 255, 0]]
    assert np.ptp(grey[:3, 0, 1].astype(int)) < 10
    assert ramp.anomalous(scores).tolist() == [[True, False, False]]


def test_beyond_the_last_stop_the_colour_stays() -> None:
    far = ScoreRamp("far", 0.001).rgba(np.array([[0.0, 1e-20]], np.float32), below=False)
    away = ScoreRamp("distance", 2.0).rgba(np.array([[1e9, np.inf]], np.float32), below=False)
    for picture in (far, away):
        assert picture[:3, 0].T.tolist() == [list(COLOURS[-1])] * 2
