"""Pre-train the bundled micro vision transformer on images made by formula; no real image is used.

    python -m experiments.pretrain                # train (17 minutes on two busy CPU cores), save, measure
    python -m experiments.pretrain --probe-only   # measure the weights that exist

Formula-driven supervised learning (Kataoka et al., "Pre-training without Natural Images", ACCV 2020) teaches a
network to tell apart images by the formula that drew them. Contours do as well as textures (Kataoka et al.,
"Replacing Labeled Real-image Datasets with Auto-generated Contours", CVPR 2022), and sums of sinusoids are one
way of drawing them (Takashima et al., "Visual Atoms", CVPR 2023). Here a class is a glyph: one to three
strokes, each an arc of a short Fourier series or a polygonal chain. An image of it is that glyph moved, bent,
drawn with some pen in some colours and seen at some resolution.

Two measurements follow. Nearest-class-mean accuracy on glyphs of formulas never trained on is the one to
choose settings by. The probe on scikit-learn's digits is read once, at the end, beside the same probe on a
random network and on raw pixels.
"""

import argparse
import math
import os
import time
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save as to_bytes
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from avalanche_sdlora.backbones import MICRO_WEIGHTS, create_backbone
from avalanche_sdlora.files import replacing

ARCHITECTURE = "vit_micro_patch4_32"
SIZE = 32
STROKES, POINTS, HARMONICS = 3, 32, 3
HELD_OUT = 200  # formulas that only validation sees


def draw_formulas(classes: int, seed: int) -> Tensor:
    """Draw the formulas of glyph classes and trace their strokes.

    Args:
        classes: Number of classes.
        seed: Same seed, same glyphs.

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
        formulas: What ``draw_formulas`` returns, ``(C, S, P, 2)``.
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


def normalise(images: Tensor, model: VisionTransformer) -> Tensor:
    """Shift and scale images in [0, 1] as the model's pre-trained configuration says."""
    mean, std = (torch.tensor(model.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    return (images - mean) / std


@torch.no_grad()
def features(model: VisionTransformer, images: Tensor) -> np.ndarray:
    """Features of the frozen model, ``(N, width)``, in float32."""
    model.eval()
    return torch.cat([model(normalise(chunk, model)) for chunk in images.split(256)]).numpy()


def held_out_accuracy(model: VisionTransformer, seed: int) -> float:
    """Nearest-class-mean accuracy (10 images a mean) on ``HELD_OUT`` formulas that training never sees."""
    g = torch.Generator().manual_seed(seed + 3)
    formulas = draw_formulas(HELD_OUT, seed + 2)
    labels = torch.arange(HELD_OUT).repeat(15)
    x = features(model, torch.cat([render(formulas, part, g) for part in labels.split(500)]))
    cut = 10 * HELD_OUT
    return float(NearestCentroid().fit(x[:cut], labels[:cut]).score(x[cut:], labels[cut:]))


def initialise(model: VisionTransformer) -> None:
    """Initialise for a narrow network and few steps.

    timm's standard deviation of 0.02 is meant for wide networks: here it leaves the blocks nearly silent and
    positions invisible beside the patches, and a short training never gets going.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    nn.init.normal_(model.pos_embed, std=0.5)


def train(steps: int, batch: int, classes: int, lr: float, seed: int) -> VisionTransformer:
    """Train the network to name the formula of each generated image.

    Args:
        steps: Optimiser steps, warm-up of a twentieth of them included.
        batch: Images a step, all of them new.
        classes: Number of formulas.
        lr: Highest learning rate of AdamW.
        seed: Seed of the initial weights, of the formulas and of the images.

    Returns:
        The network without its classifier.
    """
    torch.manual_seed(seed)
    model: VisionTransformer = create_backbone(ARCHITECTURE, pretrained=False)
    initialise(model)
    # Centred features and cosine logits gather a class around one direction, so that class means tell them apart.
    norm = nn.BatchNorm1d(model.num_features, affine=False)
    head = nn.Linear(model.num_features, classes, bias=False)
    scale = 16.0
    formulas, g = draw_formulas(classes, seed), torch.Generator().manual_seed(seed + 1)
    parameters = [*model.parameters(), *head.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    warm_up = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / warm_up, (1 + math.cos(math.pi * i / steps)) / 2)
    )
    start = time.time()
    for step in range(1, steps + 1):
        model.train()
        labels = torch.randint(classes, (batch,), generator=g)
        strength = min(1.0, 2 * step / steps)  # from bare glyphs to full variation at half time
        images = normalise(render(formulas, labels, g, strength), model)
        with torch.autocast("cpu", torch.bfloat16):
            x = model(images)
        logits = scale * F.normalize(norm(x.float())) @ F.normalize(head.weight).T
        loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 20) == 0:
            right = (logits.argmax(1) == labels).float().mean()
            spent = (time.time() - start) / 60
            print(f"step {step:5d} loss {loss:.3f} batch accuracy {right:.3f} {spent:.1f} min", flush=True)
    with torch.no_grad():  # the centring becomes part of the network's last normalisation
        mean, deviation = norm.get_buffer("running_mean"), (norm.get_buffer("running_var") + norm.eps).sqrt()
        model.fc_norm.weight.div_(deviation)
        model.fc_norm.bias.sub_(mean).div_(deviation)
    return model


def save(model: VisionTransformer, path: Path) -> None:
    """Write the weights as float16 safetensors, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(to_bytes({k: v.half().contiguous() for k, v in model.state_dict().items()}))


def digits() -> tuple[Tensor, np.ndarray]:
    """scikit-learn's 8 x 8 digits as images in [0, 1], ``(1797, 3, SIZE, SIZE)``, and their labels."""
    x, y = load_digits(return_X_y=True)
    images = torch.as_tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    images = F.interpolate(images, size=SIZE, mode="bilinear", align_corners=False)
    return images.expand(-1, 3, -1, -1), y


def probe(x: np.ndarray, y: np.ndarray, splits: int = 5) -> tuple[list[float], list[float]]:
    """Held-out accuracy of a linear probe and of nearest class mean, for several stratified 80/20 splits."""
    linear, nearest = [], []
    for seed in range(splits):
        a, b, ya, yb = train_test_split(x, y, test_size=0.2, stratify=y, random_state=seed)
        linear.append(make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(a, ya).score(b, yb))
        nearest.append(make_pipeline(StandardScaler(), NearestCentroid()).fit(a, ya).score(b, yb))
    return linear, nearest


def report(path: Path, seed: int) -> None:
    """Print the probes of the weights at ``path``, of a random network and of the pixels."""
    model = create_backbone(ARCHITECTURE, weights=path)
    torch.manual_seed(seed)
    untrained = create_backbone(ARCHITECTURE, pretrained=False)
    print(f"nearest class mean on {HELD_OUT} unseen formulas: {held_out_accuracy(model, seed):.4f}")
    images, y = digits()
    rows = {"pre-trained": features(model, images), "random network": features(untrained, images)}
    rows["raw pixels"] = load_digits().data / 16
    print("digits, held out, mean (min) of 5 splits    linear probe       nearest class mean")
    for name, x in rows.items():
        linear, nearest = probe(x, y)
        cells = [f"{np.mean(a):.4f} ({min(a):.4f})" for a in (linear, nearest)]
        print(f"{name:<43} {cells[0]}    {cells[1]}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Pre-train the micro vision transformer on generated strokes.")
    parser.add_argument("--output", type=Path, default=MICRO_WEIGHTS, help="weights file to write or to probe")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--classes", type=int, default=500)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--probe-only", action="store_true", help="measure existing weights, train nothing")
    args = parser.parse_args()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    if not args.probe_only:
        timm.layers.set_fused_attn(False)  # for short sequences on a CPU, twice as fast as the fused kernel
        model = train(args.steps, args.batch, args.classes, args.lr, args.seed)
        save(model, args.output)
    report(args.output, args.seed)


if __name__ == "__main__":
    main()
