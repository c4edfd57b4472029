"""Features of the frozen backbone are computed once, and never taken for those of something else."""

import copy
import warnings

import pytest
import torch

from experiments.arguments import Arguments
from experiments.baselines import frozen_baselines
from experiments.compare.grid import plan, read_grid
from experiments.kept_features import KeptFeatures
from experiments.run import run
from tests.common import tiny_vit

IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def counting(backbone):
    def features(x):
        features.images += len(x)
        with torch.no_grad():
            return backbone(x)

    features.images = 0
    return features


@pytest.fixture
def backbone():
    return tiny_vit(num_classes=0).eval()


def test_an_image_is_computed_once_whatever_is_beside_it(tmp_path, backbone):
    features = counting(backbone)
    store = KeptFeatures(tmp_path, backbone, "cpu", "float32")
    first = store.of(features)(IMAGES[:4])
    assert torch.equal(first, backbone(IMAGES[:4]).detach())
    again = KeptFeatures(tmp_path, copy.deepcopy(backbone), "cpu", "float32").of(features)(IMAGES[[5, 3, 2]])
    assert features.images == 5
    torch.testing.assert_close(again, backbone(IMAGES[[5, 3, 2]]).detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(again[1:], first[[3, 2]])


def test_other_weights_pixels_precision_or_structure_find_nothing(tmp_path, backbone):
    KeptFeatures(tmp_path, backbone, "cpu", "float32").of(counting(backbone))(IMAGES)
    other, activation = copy.deepcopy(backbone), copy.deepcopy(backbone)
    with torch.no_grad():
        other.blocks[0].attn.qkv.weight[0, 0] += 1e-6
    for block in activation.blocks:
        block.mlp.act = torch.nn.ReLU()
    for changed, precision, images in (
        (other, "float32", IMAGES),
        (activation, "float32", IMAGES),
        (backbone, "bfloat16", IMAGES),
        (backbone, "float32", IMAGES + 1e-6),
    ):
        features = counting(changed)
        KeptFeatures(tmp_path, changed, "cpu", precision).of(features)(images)
        assert features.images == len(images)


def test_a_full_store_takes_no_more_and_changes_nothing(tmp_path, backbone, monkeypatch):
    monkeypatch.setattr("experiments.kept_features.LIMIT_MB", 0.07)
    images, features = torch.randn(2000, 3, 8, 8), lambda x: x.flatten(1)
    found = KeptFeatures(tmp_path, backbone, "cpu", "float32").of(features)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch in images.split(20):
            assert torch.equal(found(batch), features(batch))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2**18


@pytest.mark.slow
def test_runs_with_other_orders_of_the_classes_share_them_and_find_what_they_would_compute(
    quick, tmp_path, monkeypatch
):
    passed, found = [], []

    def watch(strategy):
        """Counts the images that pass for the baselines, and presses Ctrl-C before training."""
        whole = strategy.model.features

        def features(x):
            passed[-1] += len(x)
            return whole(x)

        def stop(*args, **kwargs):
            raise KeyboardInterrupt

        strategy.model.features, strategy.train = features, stop

    def baselines(*args, **kwargs):
        found.append(frozen_baselines(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr("experiments.whole_run.frozen_baselines", baselines)
    for name, seed, keep in (("alone", 0, None), ("first", 0, "kept"), ("again", 0, "kept"), ("other", 1, "kept")):
        passed.append(0)
        keeps = {"seed": seed, "keep_features": keep and str(tmp_path / keep)}
        with pytest.raises(KeyboardInterrupt):
            run(Arguments("digits", output=str(tmp_path / name), figures="none", **keeps, **quick), watch=watch)
    assert passed == [229, 229, 0, 0]
    alone, first, again, other = ([found[name].rows() for name in sorted(found)] for found in found)
    assert alone == first == again  # the batches are the same, so that not even rounding differs
    assert other != alone


def test_a_comparison_keeps_them_in_its_folder(tmp_path):
    cells = plan(["digits"], read_grid("recipes"), [0, 1], tmp_path, {})
    assert {cell.arguments.keep_features for cell in cells} == {str(tmp_path / "features")}
