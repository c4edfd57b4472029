"""What surrounds the adapted layer in fast training: checkpointing, compilation, accumulation, no waiting."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel
from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.training.loss import CurrentClassesLoss
from avalanche_sdlora.training.optim import RestingRows
from tests.common import MLP, learn_something, mlp, needs_bfloat16, tiny_vit

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([2, 3, 2, 3])


def model_at(experiences=2):
    model = SDLoRAModel(tiny_vit(), SDLoRAConfig(rank=2))
    for k in range(experiences):
        model.begin_experience({0: [2 * k, 2 * k + 1]})
        learn_something(model)
    return model.train()


def gradients(model, images=IMAGES, labels=LABELS):
    parameters = [p for group in model.trainable_groups().values() for p in group]
    return torch.autograd.grad(F.cross_entropy(model(images), labels), parameters)


def assert_same(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_gives_the_same_gradients_and_keeps_less():
    model = model_at()
    expected, whole = gradients(model), saved(model)
    model.set_grad_checkpointing()
    parameters = [p for group in model.trainable_groups().values() for p in group]
    F.cross_entropy(model(IMAGES), LABELS).backward()
    for p, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-6, atol=1e-6)
    assert saved(model) < 0.5 * whole
    model.set_grad_checkpointing(False)
    assert saved(model) == whole
    for other in (mlp(), tiny_vit("convit_tiny", img_size=None, patch_size=16)):
        with pytest.raises(ValueError, match=r"grad_checkpointing: not for a (Sequential|ConVit)"):
            SDLoRAModel(other, MLP if isinstance(other, torch.nn.Sequential) else None).set_grad_checkpointing()


def saved(model):
    """Elements that a forward pass keeps for the backward pass, beside parameters and buffers."""
    kept = {}  # holding the tensors keeps their addresses from being reused

    def pack(t):
        kept[t.data_ptr()] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(IMAGES)
    own = {t.data_ptr() for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() for pointer, t in kept.items() if pointer not in own)


@needs_bfloat16
def test_an_autocast_of_the_caller_stays_in_force():
    model = model_at()
    exact = model.features(IMAGES)
    with torch.autocast("cpu", torch.bfloat16):
        inside = model.features(IMAGES)
    model.autocast = torch.bfloat16
    assert torch.equal(inside, model.features(IMAGES))
    assert not torch.equal(inside, exact)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    model = model_at()
    expected = gradients(model)
    halves = [gradients(model, IMAGES[i : i + 2], LABELS[i : i + 2]) for i in (0, 2)]
    assert_same([(a + b) / 2 for a, b in zip(*halves)], expected)


@pytest.mark.slow
def test_a_compiled_backbone_gives_the_same_gradients_and_compiles_once_an_experience():
    torch._dynamo.reset()
    plain, compiles = model_at(), []
    model = copy.deepcopy(plain)

    def backend(graph, inputs):
        compiles.append(graph)
        return graph

    model.backbone.compile(backend=backend)
    for experience in range(5):  # more than torch.compile would compile one function for, were it not told to forget
        torch.compiler.reset()
        compiles.clear()
        assert_same(gradients(model), gradients(plain))
        after_first = len(compiles)
        for seed in range(3):
            for m in (model, plain):
                torch.manual_seed(seed)
                learn_something(m, std=0.01)
            assert_same(gradients(model), gradients(plain))
        assert len(compiles) == after_first == 1
        for m in (model, plain):
            torch.manual_seed(experience)
            m.begin_experience({0: [4 + experience]})
    torch._dynamo.reset()


class Waiting(TorchDispatchMode):
    """Refuses the operations that make the host wait for a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "unique2", "_unique2", "masked_select"), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("task_labels", [None, torch.tensor([0, 0, 0, 0])])
def test_a_step_never_makes_the_host_wait(task_labels, monkeypatch):
    monkeypatch.setattr("avalanche_sdlora.training.loss.looking_is_free", lambda device: False)
    model = model_at()
    criterion = CurrentClassesLoss(torch.nn.CrossEntropyLoss())
    criterion.begin_experience([2, 3], model.head.classes(), torch.device("cpu"))
    parameters = [p for group in model.trainable_groups().values() for p in group]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, foreach=True)
    resting = RestingRows([model.head.weight, model.head.bias], model.head.rows({0: [2, 3]}))
    criterion(model(IMAGES), LABELS)  # the first batch is looked at
    with pytest.raises(AssertionError, match="_local_scalar_dense"), Waiting():
        torch.ones(1).item()
    with Waiting():
        criterion(model(IMAGES, task_labels), LABELS).backward()
        resting.before_step()
        optimizer.step()
        resting.after_step()


def test_activations_do_not_grow_with_the_number_of_tasks():
    one, many = model_at(1), model_at(12)
    coefficients = sum(len(p.owner) for p in projections_of(many))  # numbers, not activations
    assert saved(many) - saved(one) < 3 * coefficients < 0.03 * saved(one)
