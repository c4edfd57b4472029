"""Images become what a backbone expects."""

import pytest
import timm
import torch
from PIL import Image

from benchmarks import InputSpec, eval_transform, train_transform
from tests.benchmarks.samples import SMALL


def test_the_input_of_a_model_is_its_own():
    model = timm.create_model("vit_tiny_patch16_224.augreg_in21k_ft_in1k", depth=1)
    assert InputSpec.of(model) == InputSpec(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
    assert InputSpec.of(torch.nn.ModuleDict({"backbone": model}), size=96).size == 96
    built_for_64 = timm.create_model("vit_tiny_patch16_224.augreg_in21k_ft_in1k", depth=1, img_size=64)
    assert InputSpec.of(built_for_64).size == 64


def test_an_unknown_model_or_specification_is_refused():
    with pytest.raises(ValueError, match="Linear carries no timm configuration"):
        InputSpec.of(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="Unknown interpolation 'cubic'"):
        InputSpec(8, (0.5,) * 3, (0.5,) * 3, "cubic")
    with pytest.raises(ValueError, match="Unknown augmentation 'papre'"):
        train_transform(SMALL, "papre")


@pytest.mark.parametrize("augment", ["paper", "flip", "none"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_any_image_becomes_a_normalised_tensor(augment, mode):
    image = Image.new(mode, (40, 30), "white")
    for transform in (train_transform(SMALL, augment), eval_transform(SMALL, crop=True)):
        out = transform(image)
        assert type(out) is torch.Tensor
        assert out.shape == (3, 16, 16)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, torch.ones_like(out))  # white is (1 - mean) / std


def test_tensors_and_pil_images_come_out_alike():
    pixels = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    for crop in (True, False):
        transform = eval_transform(SMALL, crop=crop)
        torch.testing.assert_close(transform(pixels), transform(image))
        assert torch.equal(transform(pixels), transform(pixels))


def test_augmentation_is_random_and_flips_are_only_flips():
    pixels = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = eval_transform(SMALL, crop=False)(pixels)
    assert torch.equal(train_transform(SMALL, "none")(pixels), plain)
    torch.manual_seed(0)
    flipped = [train_transform(SMALL, "flip")(pixels) for _ in range(20)]
    is_flip = [torch.equal(image, plain.flip(-1)) for image in flipped]
    assert 0 < sum(is_flip) < 20
    assert all(flip or torch.equal(image, plain) for flip, image in zip(is_flip, flipped, strict=True))
    crop = train_transform(SMALL, "paper")
    assert not torch.equal(crop(pixels), crop(pixels))
