"""The head that grows: which rows exist, who competes, what is copied."""

import pytest
import torch

from avalanche_sdlora.heads.growing_head import MASKED, GrowingHead

X = torch.randn(4, 3)


def test_growth_copies_rows_exactly_and_adds_only_new_classes():
    head = GrowingHead(3)
    head.grow({0: [7, 2]})
    weight, bias = head.weight.detach().clone(), head.bias.detach().clone()
    (_, grown), _ = head.grow({0: [2, 4]})
    assert grown is head.weight
    assert head.weight.shape == (3, 3)
    assert torch.equal(head.weight[:2], weight)
    assert torch.equal(head.bias[:2], bias)
    assert head.classes() == [2, 4, 7]
    assert head.grow({0: [2, 7]}) == []


def test_logits_are_laid_out_by_label_and_unseen_classes_are_masked():
    head = GrowingHead(3)
    head.grow({0: [4, 1]})
    head.reserve(7)
    logits = head(X)
    assert logits.shape == (4, 7)
    assert set(logits.argmax(1).tolist()) <= {1, 4}
    torch.testing.assert_close(logits[:, [1, 4]], X @ head.weight.T + head.bias)
    assert (logits[:, [0, 2, 3, 5, 6]] == MASKED).all()


def test_no_class_seen_yet_gives_finite_logits():
    assert torch.isfinite(GrowingHead(3)(X)).all()


def test_task_labels_select_the_classes_and_share_rows():
    head = GrowingHead(3)
    head.grow({0: [0, 1]})
    head.grow({5: [1, 2]})
    assert len(head.weight) == 3
    logits = head(X, torch.tensor([0, 5, 0, 9]))
    allowed = [[0, 1], [1, 2], [0, 1], [0, 1, 2]]  # a label never seen: every class
    for row, classes in zip(logits, allowed):
        assert (row > MASKED).nonzero().flatten().tolist() == classes
    torch.testing.assert_close(logits[3], head(X)[3])


def test_labels_that_restart_mean_other_classes():
    head = GrowingHead(3, multi_head=True)
    head.grow({0: [0, 1]})
    head.grow({1: [0, 1]})
    assert len(head.weight) == 4
    logits = head(X, torch.tensor([0, 1, 0, 1]))
    torch.testing.assert_close(logits[::2], X[::2] @ head.weight[:2].T)
    torch.testing.assert_close(logits[1::2], X[1::2] @ head.weight[2:].T)
    with pytest.raises(ValueError, match="task_labels=None"):
        head(X)


def test_old_rows_get_no_gradient_from_masked_logits():
    head = GrowingHead(3)
    head.grow({0: [0, 1]})
    head(X, None)[:, :1].sum().backward()
    assert head.weight.grad[0].abs().sum() > 0
    assert not head.weight.grad[1].any()


def test_state_dict_restores_the_head():
    head, fresh = GrowingHead(3, multi_head=True), GrowingHead(3)
    head.grow({3: [0, 1], 4: [0]})
    fresh.load_state_dict(head.state_dict())
    assert fresh.multi_head
    labels = torch.tensor([3, 4, 3, 4])
    assert torch.equal(fresh(X, labels), head(X, labels))
