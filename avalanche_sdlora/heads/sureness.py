"""Scores as probabilities whose largest says how often it is right.

The softmax of scores ``s`` falls with the exponential of the gap to the highest one. A power of the gap falls slower,

    p_c  proportional to  (1 + (max s - s_c) / w) ** -k,

which is Tsallis' q-exponential (*Possible Generalization of Boltzmann-Gibbs Statistics*, 1988) with ``q = 1 + 1 / k``,
and the softmax of ``s k / w`` for large ``k``; Amid et al. (NeurIPS 2019, arXiv 1906.03361) train with such tails. A
network among many classes makes small probabilities too small and large ones too large, which no temperature corrects,
since it moves both to one side. The order of the classes stays.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from avalanche_sdlora.heads.growing_head import MASKED

#: The powers ``k`` that are compared.
POWERS = (1, 2, 4, 8, 16)

#: The widths ``w`` that are compared, ten in every decade from 0.001 to 1000.
WIDTHS = torch.logspace(-3, 3, 61, dtype=torch.float64)


def sure(scores: Tensor, power: float, masked: Tensor) -> Tensor:
    """Logits ``-k log(1 + gap)``, whose softmax are the probabilities.

    Args:
        scores: ``(n, classes)``, divided by ``w``.
        power: ``k``.
        masked: ``(n or 1, classes)``, which classes do not compete: these get -1000.
    """
    top = scores.masked_fill(masked, float("-inf")).amax(1, keepdim=True)
    return torch.log1p(top - scores).mul(-power).masked_fill(masked, MASKED)


def surprise(scores: Tensor, targets: Tensor) -> Tensor:
    """What the largest probability costs as a forecast of being right: its summed log loss, in nats.

    Args:
        scores: ``(n, k)`` of the classes that compete.
        targets: ``(n,)``, the index of the true class among them.

    Returns:
        ``(2, powers, widths)``, for the true classes and for classes drawn evenly.
    """
    gap, right = scores.amax(1, keepdim=True) - scores, (scores.argmax(1) == targets).double()
    chance, found = 1 / scores.shape[1], []
    for widths in at_once(WIDTHS.to(scores), scores.numel()):
        shares, done, of_powers = (1 + gap / widths[:, None, None]).reciprocal(), 1, []
        for power in POWERS:
            while done < power:
                shares, done = shares * shares, 2 * done
            p = shares.sum(2).reciprocal().clamp(1e-6, 1 - 1e-6)  # (widths, n)
            hit, miss = -p.log(), -torch.log1p(-p)
            losses = (right * hit + (1 - right) * miss, chance * hit + (1 - chance) * miss)
            of_powers.append(torch.stack(losses).sum(2))
        found.append(torch.stack(of_powers, dim=1))  # (2, powers, widths)
    return torch.cat(found, dim=2)


def least(losses: Tensor) -> tuple[int, float]:
    """The power and the width under which losses ``(powers, widths)`` are least.

    Between two widths, by the parabola through the three losses: a step from width to width moves confidences by
    several points.
    """
    best = int(losses.argmin())
    power, i = best // len(WIDTHS), best % len(WIDTHS)
    if not 0 < i < len(WIDTHS) - 1:
        return POWERS[power], float(WIDTHS[i])
    left, middle, right = losses[power, i - 1 : i + 2].tolist()
    bend = left - 2 * middle + right
    steps = (left - right) / (2 * bend) if bend > 0 else 0.0
    return POWERS[power], float(WIDTHS[i]) * float(WIDTHS[1] / WIDTHS[0]) ** steps


def at_once(values: Tensor, numbers: int) -> tuple[Tensor, ...]:
    """Values ``(m,)`` in parts, so that ``numbers`` for each of a part are at most two million, or a part is one."""
    return values.split(max(1, 2_000_000 // max(1, numbers)))


class _Sure(nn.Module):
    """:func:`sure` as a module."""

    masked: Tensor

    def __init__(self, power: float, masked: Tensor) -> None:
        super().__init__()
        self.power = power
        self.register_buffer("masked", masked)

    def forward(self, scores: Tensor) -> Tensor:
        return sure(scores, self.power, self.masked)


def plain_sure(power: float, masked: Tensor) -> nn.Module:
    """:func:`sure` as a module of torch, with nothing of this package.

    Args:
        power: ``k``.
        masked: ``(classes,)``, which classes do not compete.
    """
    return fx.symbolic_trace(_Sure(power, masked[None]))
