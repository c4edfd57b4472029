"""Held-out images: which are taken, what they say of classifiers, and how sure these should be."""

import pytest
import torch

from avalanche_sdlora.heads.evidence import TEMPERATURES, Evidence, Verdict, clearly_worse, judge, tells_which
from avalanche_sdlora.heads.sureness import POWERS, WIDTHS, least, plain_sure, sure
from avalanche_sdlora.metrics.calibration import expected_calibration_error
from avalanche_sdlora.training.held_out import held_out


def test_every_class_gives_its_share_and_keeps_an_image():
    targets = [0] * 40 + [1] * 10 + [2] * 2 + [3]
    held = held_out(targets, 0.1)
    assert [int(held[torch.tensor(targets) == c].sum()) for c in range(4)] == [4, 1, 1, 0]
    state = torch.random.get_rng_state()
    assert torch.equal(held_out(targets, 0.1), held)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert int(held_out([0, 0], 0.5).sum()) == 1


def verdict_of(right):
    """A verdict that says only where classifiers are right."""
    n = len(right)
    return Verdict(
        right,
        torch.zeros(right.shape),
        torch.zeros(n, 101),
        torch.zeros(n, 101),
        torch.ones_like(right),
        torch.zeros(n, right.shape[1], 2),
        torch.zeros(right.shape[1], dtype=torch.long),
    )


def scores(n=400, classes=4, seed=0, signal=1.0):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=g)
    logits = torch.randn(n, classes, generator=g, dtype=torch.float64)
    return logits + signal * torch.nn.functional.one_hot(y, classes), y


def test_images_of_a_class_are_held_out_again_whatever_comes_beside_it():
    alone = held_out([3] * 20, 0.1)
    beside = held_out([0] * 7 + [3] * 20 + [9] * 5, 0.1)
    assert int(alone.sum()) == 2
    assert torch.equal(beside[7:27], alone)


def test_hits_are_counted_and_the_first_of_equals_is_best():
    good, y = scores(signal=3.0)
    poor = scores(signal=0.5)[0]
    evidence = Evidence(3)
    assert evidence.best() == 0
    verdict = judge([poor, good, good], y)
    assert evidence.best(verdict) == 1
    evidence.add(verdict)
    assert evidence.hits.tolist() == [float((s.argmax(1) == y).sum()) for s in (poor, good, good)]


def test_images_of_classes_that_lose_too_many_to_the_holding_out_choose_nothing():
    y = torch.tensor([7] * 10 + [3] * 2 + [5] * 5 + [4] * 4)
    held = held_out(y.tolist(), 0.1)
    tells = tells_which(y, held)
    assert {c: bool(tells[y == c].all()) for c in (7, 3, 5, 4)} == {7: True, 3: False, 5: True, 4: False}
    good, targets = scores(signal=3.0)
    poor, evidence = scores(signal=0.5)[0], Evidence(2)
    few = judge([poor, good], targets, torch.zeros(len(targets), dtype=torch.bool))
    assert evidence.best(few) == 0
    evidence.add(few)
    assert evidence.best() == 0
    assert evidence.sureness(0) is not None  # how sure to be is learned from them all the same
    assert evidence.best(judge([poor, good], targets)) == 1


def test_another_than_the_first_is_chosen_where_it_is_clearly_better():
    evidence = Evidence(3)
    first = torch.tensor([True] * 50 + [False] * 50)
    little, much = first.clone(), first.clone()
    little[48:52] = ~little[48:52]
    little[60:62] = True  # won four, lost two
    much[49:56] = ~much[49:56]  # won six, lost one
    for right, best in ((little, 0), (much, 2)):
        verdict = verdict_of(torch.stack([first, little, right]))
        assert evidence.best(verdict) == best
    evidence.add(verdict)
    assert evidence.best() == 2
    assert (evidence.won[2], evidence.lost[2]) == (6, 1)


@pytest.mark.parametrize("factor", [0.05, 1.0, 20.0])
def test_the_temperature_undoes_a_factor_of_the_scores(factor):
    """Labels drawn from softmax(s) make 1 the right temperature of s, and the factor that of its multiple."""
    g = torch.Generator().manual_seed(1)
    s = 2 * torch.randn(4000, 5, generator=g, dtype=torch.float64)
    y = torch.multinomial(s.softmax(1), 1, generator=g)[:, 0]
    evidence = Evidence(1)
    evidence.add(judge([factor * s], y))
    assert evidence.temperature(0) == pytest.approx(factor, rel=0.13)


def test_few_images_that_are_all_right_do_not_make_certain():
    s, y = torch.eye(4, dtype=torch.float64)[[0, 1, 2]], torch.arange(3)
    evidence = Evidence(1)
    assert evidence.temperature(0) == 1.0
    evidence.add(judge([s], y))
    assert TEMPERATURES[0] < evidence.temperature(0)
    assert (s / evidence.temperature(0)).softmax(1).max() < 0.95
    power, width = evidence.sureness(0)
    assert sure(s / width, power, torch.zeros(1, 4).bool()).softmax(1).max() < 0.95


def test_without_images_nothing_is_said_of_how_sure_scores_are():
    assert Evidence(1).sureness(0) is None


def test_probabilities_that_no_temperature_mends_say_how_often_they_are_right():
    """Of half of the images the scores know nothing, as of images that a network has misunderstood."""
    g = torch.Generator().manual_seed(0)
    s, y = scores(n=4000, classes=40, signal=9.0)
    y = torch.where(torch.rand(len(y), generator=g) < 0.5, y, torch.randint(40, (len(y),), generator=g))
    evidence = Evidence(1)
    evidence.add(judge([s[:2000]], y[:2000]))
    power, width = evidence.sureness(0)
    new = sure(s[2000:] / width, power, torch.zeros(1, 40).bool()).softmax(1)
    cooled = (s[2000:] / evidence.temperature(0)).softmax(1)
    assert expected_calibration_error(new, y[2000:]) < 0.03 < expected_calibration_error(cooled, y[2000:])


def test_a_look_ahead_says_how_sure_to_be_and_nothing_of_which_is_best():
    good, y = scores(signal=3.0)
    poor, other = scores(signal=0.5, seed=1)
    alone, both = Evidence(1), Evidence(1)
    verdict = judge([good], y)
    alone.add(verdict)
    both.add(verdict, judge([poor], other))
    assert (both.hits, both.recent, both.looked) == (alone.hits, alone.recent, 2 * alone.looked)
    assert both.temperature(0) == alone.temperature(0)
    none = torch.zeros(1, 4).bool()
    widths = [each.sureness(0) for each in (alone, both)]
    confident = [sure(poor / width, power, none).softmax(1).amax(1).mean() for power, width in widths]
    right = (poor.argmax(1) == other).double().mean()
    assert confident[0] > confident[1] > right  # half of the images are of the other kind


def test_the_least_loss_is_found_between_two_widths():
    for true in (0.031, 0.5, 77.0):
        losses = torch.full((len(POWERS), len(WIDTHS)), 9.0, dtype=torch.float64)
        losses[2] = (WIDTHS.log() - torch.tensor(true).log()).square()
        assert least(losses) == (POWERS[2], pytest.approx(true, rel=1e-6))
    losses[2] = WIDTHS
    assert least(losses) == (POWERS[2], WIDTHS[0])
    assert least(torch.zeros_like(losses)) == (POWERS[0], WIDTHS[0])


def test_sure_logits_keep_the_order_and_leave_masked_classes_out():
    s = torch.tensor([[3.0, 1.0, 2.0, 9.0], [-4000.0, -1000.0, -1003.0, 0.0]])
    masked = torch.tensor([[False, False, False, True]])
    logits = sure(s, 2.0, masked)
    assert logits[:, 3].tolist() == [-1000.0, -1000.0]
    assert torch.equal(logits[:, :3].argsort(1), s[:, :3].argsort(1))
    torch.testing.assert_close(logits.softmax(1)[0, :3], torch.tensor([36.0, 4.0, 9.0]) / 49)
    torch.testing.assert_close(plain_sure(2.0, masked[0])(s), logits)


def test_worse_means_by_more_than_the_standard_error_of_the_difference():
    g = torch.Generator().manual_seed(0)
    before, noise = torch.rand(400, generator=g), torch.randn(400, generator=g)
    noise -= noise.mean()  # its sum has a standard error of 20
    assert not clearly_worse(before + noise + 0.8 * 20 / 400, before)
    assert clearly_worse(before + noise + 1.2 * 20 / 400, before)
    assert not clearly_worse(before, before)


def test_a_falling_probability_tells_of_harm_before_images_are_wrong():
    s, y = scores(n=50, signal=6.0)
    before, after = (
        judge([s], y),
        judge([s + 2.0 * torch.randn(s.shape, generator=torch.Generator().manual_seed(0))], y),
    )
    assert before.right.sum() - after.right.sum() < 5  # of 50
    evidence = moved()
    assert evidence.worth_keeping(before, before)
    assert not evidence.worth_keeping(before, after)
    assert evidence.harm.tolist() == [0.0, 0.0]  # of experiences that were kept


def moved():
    evidence = Evidence(1)
    evidence.moved.fill_(1)
    return evidence


def test_small_harm_adds_up_over_the_experiences_that_are_kept():
    before = verdict_of(torch.ones(1, 20, dtype=torch.bool))
    after = before._replace(surprisal=torch.tensor([[-0.6, 0.7] * 10]))
    evidence = moved()
    found = [evidence.worth_keeping(before, after) for _ in range(20)]
    assert all(found[:8])
    assert not any(found[9:])


def test_features_that_nothing_has_moved_stay_until_experiences_together_clearly_help():
    before = verdict_of(torch.ones(1, 20, dtype=torch.bool))
    better = before._replace(surprisal=torch.tensor([[0.6, -0.7] * 10]))
    evidence = Evidence(1)
    assert not evidence.worth_keeping(before, None)
    assert not any(evidence.worth_keeping(before, before) for _ in range(20))
    found = [evidence.worth_keeping(before, better) for _ in range(20)]
    assert not any(found[:8])
    assert all(found[9:])
    assert moved().worth_keeping(before, None)
