"""Small models and streams that the tests share."""

import platform
from pathlib import Path

import pytest
import timm
import torch
from avalanche.benchmarks import class_incremental_benchmark, nc_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.logging import BaseLogger
from torch import nn
from torch.utils.data import TensorDataset

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel, SDLoRAStrategy
from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.config import PUBLISHED_TRAINING

MLP = SDLoRAConfig(rank=2, targets="*", held_out=None, **PUBLISHED_TRAINING)


def multiplies_bfloat16():
    """Whether this CPU has instructions for bfloat16 products; others emulate them, many times slower than float32."""
    if platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and " bf16 " in cpuinfo.read_text(errors="replace")


BFLOAT16 = multiplies_bfloat16()
needs_bfloat16 = pytest.mark.skipif(not BFLOAT16, reason="this CPU does not multiply bfloat16")


def mlp(seed=0):
    """Two hidden layers of 16 on 8 inputs; its last Linear is the classifier."""
    torch.manual_seed(seed)
    layers = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5)]
    return nn.Sequential(*layers)


def tiny_vit(name="vit_tiny_patch16_224", seed=0, **kwargs):
    """A timm model of two narrow blocks; norms and layer scales are shaken so that nothing starts at zero."""
    torch.manual_seed(seed)
    size = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 3}
    model = timm.create_model(name, **{**size, **kwargs})
    return shake(model)


def shake(model, std=0.2):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(std * torch.randn_like(p))
    return model


def learn_something(model, std=0.3):
    """Gives the directions and magnitudes that train now values that a task could have taught."""
    with torch.no_grad():
        for p in [p for name in ("directions", "magnitudes") for p in model.trainable_groups()[name]]:
            p.add_(std * torch.randn_like(p))
    return model


def repeat_direction(model, direction, factor=-1.5):
    """Lets the direction that trains be a multiple of an earlier one of the same rank."""
    with torch.no_grad():
        for p in projections_of(model):
            own = (p.owner[: len(p.bank_A)] == direction).nonzero().flatten()
            p.A.copy_(2 * p.bank_A[own])
            p.B.copy_(factor / 2 * p.bank_B[:, own])
    return model


def adapted_mlp(config=MLP, experiences=3, seed=0):
    """An adapted MLP some experiences in, two classes each."""
    model = SDLoRAModel(mlp(seed), config)
    for k in range(experiences):
        model.begin_experience({0: [2 * k, 2 * k + 1]})
        learn_something(model)
    return model


class Points(TensorDataset):
    """``classes`` Gaussian clouds of 8-dimensional points, 20 of each."""

    def __init__(self, classes=10, seed=0):
        g = torch.Generator().manual_seed(seed)
        centres = 3 * torch.randn(classes, 8, generator=g)
        y = torch.arange(20 * classes) % classes
        super().__init__(centres[y] + torch.randn(len(y), 8, generator=g), y)
        self.targets = y.tolist()


def points_stream(experiences=5, **kwargs):
    """A class-incremental stream of points, of Avalanche's older kind (it has task labels, all 0)."""
    settings = {"task_labels": False, "shuffle": False, "class_ids_from_zero_in_each_exp": False, **kwargs}
    return nc_benchmark(Points(), Points(seed=0), experiences, **settings)


def strategy_for(model=None, config=MLP, **kwargs):
    settings = {"train_mb_size": 10, "eval_mb_size": 50, "evaluator": None, **kwargs}
    return SDLoRAStrategy(model=mlp() if model is None else model, config=config, **settings)


def snapshot(model):
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def optimized(strategy):
    return [p for group in strategy.optimizer.param_groups for p in group["params"]]


def bank(model):
    return [t.clone() for p in projections_of(model) for t in (p.bank_A, p.bank_B)]


def image_stream():
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    data = torch.utils.data.TensorDataset(images, torch.arange(16) % 4)
    data.targets = (torch.arange(16) % 4).tolist()
    data = as_classification_dataset(data)
    benchmark = class_incremental_benchmark({"train": data}, class_order=list(range(4)), num_experiences=2)
    benchmark.images = images
    return benchmark


class Recorder(BaseLogger):
    """Keeps every metric value in ``seen``."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def log_metrics(self, metric_values):
        self.seen += metric_values


class Watch(SupervisedPlugin):
    """At every iteration: the optimizer holds exactly the trainable parameters, each once, and they all move."""

    def __init__(self):
        super().__init__()
        self.iterations = 0

    def before_forward(self, strategy, **kwargs):
        held = optimized(strategy)
        assert len(held) == len(set(held))
        assert (
            set(held)
            == set(trainable(strategy))
            == {p for p in strategy.model.parameters() if p.requires_grad and p.numel()}
        )
        self.iterations += 1

    def after_backward(self, strategy, **kwargs):
        assert all(p.grad is not None for p in optimized(strategy))


def trainable(strategy):
    return [p for group in strategy.model.trainable_groups().values() for p in group]


def plain(**settings):
    """A config that trains and predicts as published, but for ``settings``."""
    return SDLoRAConfig(**{**PUBLISHED_TRAINING, **settings})
