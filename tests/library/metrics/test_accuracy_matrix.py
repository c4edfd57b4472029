"""Stream metrics against numbers worked out by hand."""

import json

import numpy as np
import pytest

from avalanche_sdlora.metrics import AccuracyMatrix

ROWS = [[90.0], [60.0, 80.0], [70.0, 40.0, 100.0]]


def test_hand_computed_stream():
    matrix = AccuracyMatrix.from_rows(ROWS, [10, 10, 20])
    assert matrix.average_accuracy() == 70  # (70 + 40 + 100) / 3
    assert matrix.average_anytime_accuracy() == pytest.approx((90 + 70 + 70) / 3)
    assert matrix.pooled_accuracy() == 77.5  # (7 + 4 + 20) / 40
    assert matrix.forgetting() == pytest.approx(((90 - 70) + (80 - 40)) / 2)
    assert matrix.backward_transfer() == pytest.approx(((70 - 90) + (40 - 80)) / 2)


def test_forgetting_is_the_distance_to_the_best_moment():
    assert AccuracyMatrix.from_rows([[50], [90, 50], [40, 50, 50]], [1, 1, 1]).forgetting() == 25  # (50 + 0) / 2
    assert AccuracyMatrix.from_rows([[50], [70, 50]], [1, 1]).forgetting() == 0


def test_nothing_above_the_diagonal_is_used():
    full = np.array([[90, 1, 2], [60, 80, 3], [70, 40, 100]])
    filled = AccuracyMatrix(full, np.array([10, 10, 20]))
    with_nan = AccuracyMatrix(np.where(np.tri(3) > 0, full, np.nan), np.array([10, 10, 20]))
    expected = AccuracyMatrix.from_rows(ROWS, [10, 10, 20]).summary()
    assert filled.summary() == with_nan.summary() == expected
    assert filled.rows() == ROWS


def test_equal_experiences_pool_to_the_average():
    matrix = AccuracyMatrix.from_rows(ROWS, [7, 7, 7])
    assert matrix.pooled_accuracy() == pytest.approx(matrix.average_accuracy())


def test_one_experience_forgets_nothing_and_is_valid_json():
    summary = AccuracyMatrix.from_rows([[42.0]], [5]).summary()
    assert summary == {"acc": 42, "aaa": 42, "pooled_acc": 42, "forgetting": 0, "bwt": 0}
    json.dumps(summary, allow_nan=False)


def test_an_unfinished_stream_is_reported_as_far_as_it_went():
    assert AccuracyMatrix.from_rows(ROWS[:2], [10, 10, 20]).average_accuracy() == 70


def test_the_given_arrays_are_neither_changed_nor_shared():
    values = np.full((2, 2), 50.0)
    matrix = AccuracyMatrix(values, np.array([1, 1]))
    assert values[0, 1] == 50
    values[1, 1] = 0
    assert matrix.average_accuracy() == 50
    with pytest.raises(ValueError, match="read-only"):
        matrix.values[0, 0] = 0


@pytest.mark.parametrize(
    ("values", "samples", "message"),
    [
        (np.zeros((2, 3)), [1, 1], "square"),
        (np.zeros((0, 0)), [], "not empty"),
        ([[101.0]], [1], "within 0 and 100"),
        ([[50.0, 0.0], [np.nan, 50.0]], [1, 1], "within 0 and 100"),
        ([[50.0]], [0], "sample counts"),
        ([[50.0]], [1.5], "sample counts"),
        ([[50.0]], [1, 2], "sample counts"),
    ],
)
def test_what_is_no_accuracy_matrix_is_refused(values, samples, message):
    with pytest.raises(ValueError, match=message):
        AccuracyMatrix(values, samples)


def test_a_short_row_is_refused():
    with pytest.raises(ValueError, match="Row 1 needs 2"):
        AccuracyMatrix.from_rows([[50.0], [50.0]], [1, 1])
