"""The rules of the verdict, and the interval they rest on."""

import math

import pytest
import torch

from datadistill.evaluate.score import Score
from datadistill.evaluate.verdict import interval, judge, paired


def scored(runs):
    """A score whose accuracy per seed is `runs`, of 1,000 test examples of two classes."""
    right = torch.tensor([[1000 * r / 2, 1000 * r / 2] for r in runs], dtype=torch.double)
    return Score({"mlp": right}, torch.tensor([500.0, 500.0]), {}, {}, {})


def test_interval_is_students_t():
    runs = [0.1, 0.2, 0.3, 0.4, 0.5]
    mean, low, high = interval(runs)
    assert mean == pytest.approx(0.3)
    assert high - mean == pytest.approx(2.7764451 * math.sqrt(0.025 / 5), rel=1e-6)  # t(0.975, 4) from a table
    assert mean - low == pytest.approx(high - mean)


def test_the_interval_covers_the_mean_95_times_in_100():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2000, 5, generator=generator, dtype=torch.double)
    covered = sum(low <= 0 <= high for _, low, high in (interval(row) for row in draws.tolist()))
    assert 0.93 < covered / 2000 < 0.97


def test_pairing_removes_what_seeds_share():
    shared = [0.5, 0.7, 0.6, 0.8, 0.4]
    difference = paired([s + 0.01 for s in shared], shared)
    assert difference["ci95"][0] == pytest.approx(0.01) and difference["ci95"][1] == pytest.approx(0.01)


GOOD, MIDDLE, POOR = ([b + e for e in (-0.01, 0.0, 0.01, 0.005, -0.005)] for b in (0.8, 0.6, 0.4))


@pytest.mark.parametrize(
    ("distilled", "random", "coreset", "word"),
    [
        (GOOD, POOR, MIDDLE, "PASS"),
        (MIDDLE, POOR, GOOD, "USE-CORESET"),
        (GOOD, POOR, GOOD, "USE-CORESET"),  # a tie goes to the cheaper one
        (POOR, MIDDLE, GOOD, "USE-CORESET"),
        (POOR, MIDDLE, POOR, "FAIL"),
        (MIDDLE, MIDDLE, MIDDLE, "FAIL"),
    ],
)
def test_the_word(distilled, random, coreset, word):
    assert judge(scored(distilled), scored(random), scored(coreset), "herding").word == word


def test_a_pass_does_not_say_that_a_perfect_coreset_was_beaten():
    perfect = [1.0] * 5
    level, beaten = (judge(scored(perfect), scored(MIDDLE), scored(coreset), "herding") for coreset in (perfect, GOOD))
    assert level.word == beaten.word == "PASS" and "is level with the best coreset" in level.reason and "level" not in beaten.reason


def test_a_wide_interval_is_no_pass():
    noisy = [0.95, 0.45, 0.9, 0.4, 0.95]
    assert sum(noisy) / 5 > 0.7
    assert judge(scored(noisy), scored(MIDDLE), scored(POOR), "herding").word != "PASS"


def test_recall_and_accuracy_agree_with_counts_by_hand():
    right = torch.tensor([[8.0, 1.0], [6.0, 3.0]])
    score = Score({"a": right, "b": right + 1}, torch.tensor([10.0, 5.0]), {}, {}, {})
    assert score.accuracy("a") == pytest.approx([9 / 15, 9 / 15])
    assert score.accuracy() == pytest.approx([10 / 15, 10 / 15])
    assert score.recall() == pytest.approx([7.5 / 10, 2.5 / 5])
