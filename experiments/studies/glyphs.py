"""Images made by formula: glyphs of one to three strokes, drawn in many ways.

Contours teach as well as textures (Kataoka et al., "Replacing Labeled Real-image Datasets with Auto-generated
Contours", CVPR 2022), and sums of sinusoids are one way of drawing them (Takashima et al., "Visual Atoms", CVPR 2023).
A stroke is an arc of a short Fourier series or a polygonal chain. An image of a glyph is that glyph moved, bent, drawn
with some pen in some colours and seen at some resolution.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SIZE = 32
STROKES, POINTS, HARMONICS = 3, 32, 3


def draw_formulas(classes: int, seed: int) -> Tensor:
    """Draw the formulas of glyph classes and trace their strokes.

    Args:
        classes: Number of classes.
        seed: Equal seeds give equal glyphs.

    Returns:
        Points of the strokes, ``(classes, STROKES, POINTS, 2)``, in a box of half side 1. A glyph of fewer strokes
        repeats its first one.
    """
    g = torch.Generator().manual_seed(seed)
    shape = (classes, STROKES)
    u = torch.linspace(0, 1, POINTS)

    # Arc: sum over n of (a_n cos nt + b_n sin nt), amplitudes falling with n, over part of the period or all of it.
    n = torch.arange(1, HARMONICS + 1)
    ab = torch.randn(*shape, 2, 2, HARMONICS, generator=g) / n**1.5
    span = math.pi * (0.4 + 1.2 * torch.rand(*shape, 1, 1, generator=g))
    span = torch.where(torch.rand(*shape, 1, 1, generator=g) < 0.3, 2 * math.pi, span)
    t = (span * u[:, None] + 2 * math.pi * torch.rand(*shape, 1, 1, generator=g)) * n  # (C, S, P, H)
    arc = torch.einsum("csdh,csph->cspd", ab[:, :, :, 0], t.cos())
    arc = arc + torch.einsum("csdh,csph->cspd", ab[:, :, :, 1], t.sin())

    # Polygonal chain: one to three segments between random vertices, traced at equal steps in the parameter.
    vertices = 2 * torch.rand(*shape, 4, 2, generator=g) - 1
    segments = torch.randint(1, 4, (*shape, 1), generator=g)
    at = u * segments
    k = at.floor().long().clamp(max=2)  # (C, S, P)
    start, end = (vertices.gather(2, i[..., None].expand(-1, -1, -1, 2)) for i in (k, k + 1))
    chain = start + (at - k)[..., None] * (end - start)

    place = 1.2 * torch.rand(*shape, 1, 2, generator=g) - 0.6
    arc = 0.7 * arc / (arc - arc.mean(2, keepdim=True)).abs().amax((2, 3), keepdim=True).clamp(min=1e-3) + place
    strokes = torch.where(torch.rand(*shape, 1, 1, generator=g) < 0.6, arc, chain)
    used = torch.randint(1, STROKES + 1, (classes, 1), generator=g) > torch.arange(STROKES)
    strokes = torch.where(used[:, :, None, None], strokes, strokes[:, :1])

    low, high = strokes.amin((1, 2), keepdim=True), strokes.amax((1, 2), keepdim=True)
    return (strokes - (low + high) / 2) / ((high - low).amax(-1, keepdim=True) / 2).clamp(min=1e-3)


def render(formulas: Tensor, labels: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Draw one varied image of each label.

    Args:
        formulas: The result of ``draw_formulas``, ``(C, S, P, 2)``.
        labels: Class of each image, ``(B,)``.
        generator: Source of all variation: pose, bend, pen, colours, resolution, noise.
        strength: How far pose and bend vary and how often there are colours, 0 to 1.

    Returns:
        Images in [0, 1], ``(B, 3, SIZE, SIZE)``.
    """
    batch = len(labels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(batch, *shape, generator=generator)

    def normal(scale: float, *shape: int) -> Tensor:
        return scale * torch.randn(batch, *shape, generator=generator)

    # Shape: each stroke shifts a little, the plane bends by three slow waves, then an affine map.
    points = formulas[labels] + normal(0.06 * strength, STROKES, 1, 2)  # (B, S, P, 2)
    points = points.flatten(1, 2)
    wave = torch.sin(points @ normal(1.6, 2, 3) + uniform(0, 2 * math.pi, 1, 3))  # (B, S*P, 3)
    points = points + wave @ normal(0.08 * strength, 3, 2)
    turn = normal(0.15 * strength)
    c, s, zero = turn.cos(), turn.sin(), torch.zeros(batch)
    rotation = torch.stack([c, -s, s, c], -1).view(-1, 2, 2)
    width, height = (0.8 + strength * uniform(-0.2, 0.15) for _ in range(2))
    stretch = torch.stack([width, normal(0.12 * strength), zero, height], -1).view(-1, 2, 2)
    points = points @ (stretch @ rotation) + normal(0.06 * strength, 1, 2)
    points = (points + 1) * (SIZE / 2)

    # Ink: soft distance of every pixel to the nearest point; a sum of Gaussians is a product over the two axes.
    blur = 0.8
    axis = torch.arange(SIZE) + 0.5
    bump = torch.exp(-((points[..., None] - axis) ** 2) / (2 * blur**2))  # (B, S*P, 2, SIZE)
    total = bump[:, :, 1].transpose(1, 2) @ bump[:, :, 0]  # (B, SIZE, SIZE)
    distance = (-2 * blur**2 * total.clamp(min=1e-30).log()).clamp(min=0).sqrt()
    ink = torch.sigmoid((uniform(0.6, 2.4, 1, 1) - distance) / uniform(0.15, 0.6, 1, 1))

    # Resolution: some images are seen coarsely and enlarged again.
    coarse = torch.randint(0, 4, (batch,), generator=generator)
    for divisor in (2, 4):
        chosen = coarse == divisor - 1
        small = F.avg_pool2d(ink[chosen][:, None], divisor)
        ink[chosen] = F.interpolate(small, size=SIZE, mode="bilinear", align_corners=False)[:, 0]

    # Colour: half or more are white on black, the others take any two colours that differ enough to be seen.
    paper, pen = uniform(0, 1, 3), uniform(0, 1, 3)
    pen = torch.where((pen - paper).abs().amax(1, keepdim=True) < 0.4, (paper + 0.5) % 1.0, pen)
    plain = uniform(0, 1, 1) < 1 - 0.5 * strength
    paper, pen = torch.where(plain, 0.0, paper), torch.where(plain, uniform(0.7, 1, 1), pen)
    image = paper[:, :, None, None] + (pen - paper)[:, :, None, None] * ink[:, None]
    image = image + uniform(0, 0.08, 1, 1, 1) * normal(1.0, 3, SIZE, SIZE)
    return image.clamp(0, 1)
