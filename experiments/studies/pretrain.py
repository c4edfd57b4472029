"""Pre-train the bundled micro vision transformer on images made by formula; no real image is used.

    python -m experiments.studies.pretrain                # train (17 minutes on two busy CPU cores), save, measure
    python -m experiments.studies.pretrain --probe-only   # measure the weights that exist

Formula-driven supervised learning (Kataoka et al., "Pre-training without Natural Images", ACCV 2020) teaches a network
to tell apart images by the formula that drew them; here a class is a glyph (:mod:`experiments.studies.glyphs`).

Two measurements follow. Settings are chosen by the nearest-class-mean accuracy on glyphs of formulas that were never
trained on. The probe on scikit-learn's digits is read once, at the end, beside probes on the features of a random
network and on raw pixels.
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
from avalanche_sdlora.training.precision import multiplies_bfloat16
from experiments.interruption import until_stopped
from experiments.studies.glyphs import SIZE, draw_formulas, render

ARCHITECTURE = "vit_micro_patch4_32"
HELD_OUT = 200  # formulas that only validation sees


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
    fast = multiplies_bfloat16("cpu")
    start = time.time()
    for step in range(1, steps + 1):
        model.train()
        labels = torch.randint(classes, (batch,), generator=g)
        strength = min(1.0, 2 * step / steps)  # from bare glyphs to full variation at half time
        images = normalise(render(formulas, labels, g, strength), model)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
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
    until_stopped(main)
