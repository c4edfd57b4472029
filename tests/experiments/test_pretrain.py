"""The bundled weights, and the images made by formula that they were learned from."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from avalanche_sdlora.backbones import create_backbone
from experiments.studies import glyphs, pretrain


@pytest.mark.slow
def test_frozen_features_separate_digits():
    images, labels = (part[::2] for part in pretrain.digits())  # half of them, for time
    x = pretrain.features(create_backbone("vit_micro_patch4_32.formula"), images)
    a, b, ya, yb = train_test_split(x, labels, test_size=0.2, stratify=labels, random_state=0)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(a, ya)
    assert linear.score(b, yb) >= 0.95


def test_generated_images_follow_from_seed_and_class():
    def draw(seed, labels):
        formulas = glyphs.draw_formulas(20, seed)
        return glyphs.render(formulas, torch.tensor(labels), torch.Generator().manual_seed(seed))

    images = draw(0, [3, 4, 5])
    assert images.shape == (3, 3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(images, draw(0, [3, 4, 5]))
    assert not torch.equal(images, draw(1, [3, 4, 5]))
    same_variation = draw(0, [4, 4, 5])
    assert not torch.equal(images[0], same_variation[0])
    assert torch.equal(images[2], same_variation[2])
    strokes = glyphs.draw_formulas(20, 0).flatten(1)
    assert torch.cdist(strokes, strokes).fill_diagonal_(1.0).min() > 0.1
    assert strokes.abs().max() <= 1 + 1e-5


def test_saving_is_whole_or_nothing(tmp_path, monkeypatch):
    model = create_backbone("vit_micro_patch4_32", pretrained=False)
    path = tmp_path / "w.safetensors"
    pretrain.save(model, path)
    before = path.read_bytes()

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain.os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        pretrain.save(create_backbone("vit_micro_patch4_32", pretrained=False), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
