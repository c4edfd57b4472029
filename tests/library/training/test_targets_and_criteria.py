"""Which class labels a stream may have, and which criteria may judge a part of its classes."""

import pytest
import torch
import torch.nn.functional as F
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn
from torch.utils.data import TensorDataset

from avalanche_sdlora import SDLoRAConfig
from avalanche_sdlora.training.loss import CurrentClassesLoss
from tests.common import strategy_for


def data(targets):
    points = TensorDataset(torch.randn(len(targets), 8), torch.tensor(targets, dtype=torch.long))
    points.targets = targets
    return as_classification_dataset(points)


@pytest.mark.parametrize("labels", [[-1, 0], [-100, 3], [0, 3_000_000_000]])
def test_labels_that_logits_have_no_column_for_are_refused_before_anything_is_learned(labels):
    strategy = strategy_for()
    with pytest.raises(ValueError, match=rf"reach from {labels[0]} to {labels[1]}; expected whole numbers from 0"):
        strategy.train(benchmark_from_datasets(train=[data(labels * 5)]).train_stream)
    assert int(strategy.model.experiences) == 0


def test_labels_with_gaps_are_learned():
    strategy = strategy_for()
    strategy.train(benchmark_from_datasets(train=[data([70_000, 3] * 5), data([11, 70_000] * 5)]).train_stream)
    assert strategy.model.head.classes() == [3, 11, 70_000]
    assert len(strategy.model.head.weight) == 3


def test_an_experience_without_samples_can_be_evaluated():
    benchmark = benchmark_from_datasets(train=[data([0, 1] * 5)], test=[data([]), data([0, 1])])
    strategy = strategy_for()
    strategy.train(benchmark.train_stream)
    strategy.eval(benchmark.test_stream)


LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([2, 3, 3, 2, 2, 3])


def loss_of(criterion):
    loss = CurrentClassesLoss(criterion).train()
    loss.begin_experience((2, 3), (0, 1, 2, 3), torch.device("cpu"))
    return loss


class Focal(nn.CrossEntropyLoss):
    """A loss of its own, with the arguments of cross-entropy."""

    def forward(self, logits, targets):
        log_p = torch.log_softmax(logits, 1).gather(1, targets[:, None])
        return -((1 - log_p.exp()) ** 2 * log_p).mean()


@pytest.mark.parametrize("criterion", [Focal(), Focal(label_smoothing=0.1), lambda x, y: F.cross_entropy(x, y)])
def test_a_criterion_of_ones_own_is_computed_on_the_competing_columns(criterion):
    torch.testing.assert_close(loss_of(criterion)(LOGITS, TARGETS), criterion(LOGITS[:, 2:], TARGETS - 2))


def test_soft_targets_of_a_criterion_of_ones_own():
    soft = F.one_hot(TARGETS, 4) * 0.7 + F.one_hot(5 - TARGETS, 4) * 0.3
    loss = SoftTargetCrossEntropy()
    torch.testing.assert_close(loss_of(loss)(LOGITS, soft), loss(LOGITS[:, 2:], soft[:, 2:]))


@pytest.mark.parametrize(
    "criterion", [LabelSmoothingCrossEntropy(0.1), lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1)]
)
def test_a_criterion_that_counts_classes_which_do_not_compete_is_refused(criterion):
    with pytest.raises(ValueError, match="depends on classes that do not compete"):
        loss_of(criterion)(LOGITS, TARGETS)


@pytest.mark.parametrize("head", ["linear", "ridge"])
@pytest.mark.parametrize("targets", [torch.eye(2)[[0, 1] * 4], ["cat", "dog"] * 4], ids=["one-hot", "names"])
def test_targets_that_are_no_labels_are_refused_by_a_sentence(targets, head):
    points = TensorDataset(torch.randn(8, 8), torch.tensor([0, 1] * 4))
    points.targets = targets
    stream = benchmark_from_datasets(train=[as_classification_dataset(points)]).train_stream
    with pytest.raises(ValueError, match="experience 1 of stream 'train': its targets are no class labels"):
        strategy_for(config=SDLoRAConfig(rank=2, targets="*", head=head)).train(stream[0])
