"""The merged weight of evaluation is never stale, whoever has written to its sources, in whichever way."""

import threading

import pytest
import torch

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel
from avalanche_sdlora.adapter.linear import SDLoRALinear, projections_of
from tests.common import adapted_mlp, learn_something, tiny_vit

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


def merged(model):
    with torch.no_grad():
        return model.features(X)


def assert_fresh(model):
    torch.testing.assert_close(merged(model), model.features(X).detach())


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_fused_optimizer_leaves_no_stale_weight(optimizer):
    model = adapted_mlp().eval()
    before = merged(model)
    step = optimizer([p for group in model.trainable_groups().values() for p in group], lr=0.1, fused=True)
    loss = sum((p.square().sum() for p in model.parameters() if p.requires_grad), torch.zeros(()))
    loss.backward()  # no forward pass that records gradients, which would drop the weight
    step.step()
    assert not torch.allclose(merged(model), before, atol=1e-2)
    assert_fresh(model)


def test_an_average_of_weights_can_be_swapped_in_and_out_through_data():
    model, other = adapted_mlp().eval(), learn_something(adapted_mlp())
    before = merged(model)
    trained = [p.data.clone() for p in model.parameters() if p.requires_grad]
    for p, q in zip(*([p for p in m.parameters() if p.requires_grad] for m in (model, other))):
        p.data.copy_(q)
    assert not torch.allclose(merged(model), before, atol=1e-2)
    assert_fresh(model)
    for p, value in zip([p for p in model.parameters() if p.requires_grad], trained):
        p.data.copy_(value)
    assert torch.equal(merged(model), before)


@pytest.mark.parametrize("name", ["alpha", "A", "B", "bank_A", "bank_B", "owner", "scale", "offset"])
def test_whatever_was_learned_may_be_written_through_data(name):
    model = adapted_mlp().eval()
    before = merged(model)
    projection = projections_of(model)[0]
    holder = model.magnitudes if name == "alpha" else projection
    t = getattr(holder, name).data
    if name == "owner":
        t.copy_(t.flip(0))
    elif name == "alpha":
        t[0] = 0  # switches a direction off
    else:
        t.add_(0.5)
    assert not torch.allclose(merged(model), before, atol=1e-3)
    assert_fresh(model)


@pytest.mark.parametrize("mode", [True, False])
def test_train_and_eval_make_a_write_to_the_frozen_weight_seen(mode):
    model = adapted_mlp().train(mode)
    merged(model)
    for module in model.modules():
        if isinstance(module, SDLoRALinear):
            module.base.weight.data.mul_(2)
    model.train(mode)
    assert_fresh(model)


def test_weights_of_inference_mode_can_be_merged():
    model = adapted_mlp()
    expected = model.features(X).detach()
    with torch.inference_mode():
        copy = adapted_mlp().eval()
        torch.testing.assert_close(copy.features(X), expected)
        torch.testing.assert_close(copy.features(X), expected)


def test_threads_share_a_model_in_evaluation():
    torch.manual_seed(0)
    model = SDLoRAModel(tiny_vit(), SDLoRAConfig(rank=2))
    model.begin_experience({0: [0, 1]})
    learn_something(model).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
    wrong = []

    def serve():
        for _ in range(15):
            try:
                with torch.no_grad():
                    torch.testing.assert_close(model(images), expected)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
