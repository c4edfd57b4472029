"""Models of which nothing is adapted: a linear probe, and full fine-tuning."""

import pytest
import torch

from avalanche_sdlora import SDLoRAModel, SDLoRAStrategy
from tests.common import Watch, image_stream, mlp, plain, points_stream, snapshot, strategy_for, tiny_vit

NOTHING = plain(targets=())


@pytest.mark.parametrize("unfrozen", [False, True])
def test_the_head_trains_alone_or_with_the_whole_backbone(unfrozen):
    watch = Watch()
    model = SDLoRAModel(mlp(), NOTHING)
    model.backbone.requires_grad_(unfrozen)
    before = snapshot(model.backbone)
    strategy = SDLoRAStrategy(model=model, plugins=[watch], train_mb_size=10, evaluator=None)
    strategy.train(points_stream().train_stream[:3])
    assert watch.iterations == 12
    after = snapshot(model.backbone)
    assert all(torch.equal(before[name], after[name]) != unfrozen for name in before)
    head, backbone = 6 * 17, 8 * 16 + 16 + 16 * 16 + 16
    trained = head + unfrozen * backbone
    assert model.parameter_report() == {"trained": trained, "new": 0, "kept": trained, "rank": 0}
    assert model.magnitude_report() == []


def test_a_probe_gives_the_features_of_the_plain_backbone():
    benchmark = image_stream()
    vit = tiny_vit()
    expected = vit.forward_head(vit.forward_features(benchmark.images), pre_logits=True)
    strategy = strategy_for(vit, NOTHING)
    strategy.train(benchmark.train_stream)
    torch.testing.assert_close(strategy.model.features(benchmark.images), expected)


def test_a_fine_tuned_model_comes_back_from_its_state_dict():
    trained, fresh = SDLoRAModel(mlp(), NOTHING), SDLoRAModel(mlp(seed=1), NOTHING)
    trained.backbone.requires_grad_(True)
    SDLoRAStrategy(model=trained, evaluator=None).train(points_stream().train_stream[:2])
    fresh.load_state_dict(trained.state_dict())
    x = torch.randn(4, 8)
    assert torch.equal(fresh(x), trained(x))
