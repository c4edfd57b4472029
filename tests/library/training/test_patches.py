"""Training on some of the patches, of the first task and of later ones."""

import pytest

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel
from avalanche_sdlora.training.patches import PatchDropPlugin
from tests.common import image_stream, mlp, points_stream, strategy_for, tiny_vit


def lengths(plugin):
    """The numbers of tokens that each experience was trained on, and those from which features were gathered."""
    model = SDLoRAModel(tiny_vit(num_classes=0, patch_size=8), SDLoRAConfig(rank=2, expansion=20, held_out=None))
    strategy, seen = strategy_for(model, None, plugins=[plugin]), []
    model.backbone.blocks[0].register_forward_hook(
        lambda block, inputs, output: seen[-1][block.training].add(output.shape[1])
    )
    for experience in image_stream().train_stream:
        seen.append({True: set(), False: set()})
        strategy.train(experience)
    return [own[True] for own in seen], [own[False] for own in seen]


@pytest.mark.parametrize(
    ("shares", "expected"), [((0.5,), [9, 9]), ((0.0, 0.75), [17, 5]), ((0.25, 0.0), [13, 17]), ((), [17, 17])]
)
def test_later_tasks_may_lose_another_share_and_what_gathers_features_none(shares, expected):
    trained, gathered = lengths(PatchDropPlugin(*shares))
    assert trained == [{n} for n in expected]
    assert all(own == {17} for own in gathered)


@pytest.mark.parametrize(("arguments", "name"), [((1.0,), "share"), ((-0.1,), "share"), ((0.5, 1.5), "later")])
def test_a_share_out_of_range_is_refused(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}="):
        PatchDropPlugin(*arguments)


def test_a_backbone_without_patches_is_refused_before_a_step():
    model = SDLoRAModel(mlp(), SDLoRAConfig(rank=2, targets="*", held_out=None))
    strategy = strategy_for(model, None, plugins=[PatchDropPlugin(0.5)])
    with pytest.raises(ValueError, match="needs a VisionTransformer of timm, got a Sequential"):
        strategy.train(points_stream().train_stream[0])
