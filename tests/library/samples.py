"""Features of a few classes, and their statistics."""

import torch

from avalanche_sdlora.heads.statistics import FeatureStatistics


def data(n=60, d=7, classes=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    return torch.randn(classes, d, generator=g)[y] + torch.randn(n, d, generator=g) + 3, 10 * y


def of(x, y, *batches):
    statistics = FeatureStatistics(x.shape[1])
    for batch in batches or [torch.arange(len(x))]:
        statistics.update(x[batch], y[batch])
    return statistics
