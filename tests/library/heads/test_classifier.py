"""Backbones that return objects, as those of Hugging Face do."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel, merge


class Fake(nn.Module):
    def __init__(self, **tensors):
        super().__init__()
        self.config = SimpleNamespace(hidden_size=8)
        self.dense, self.give = nn.Linear(8, 8), tensors

    def forward(self, x):
        x = self.dense(x)  # (n, tokens, 8)
        given = {"pooler_output": x.mean(1), "last_hidden_state": x, "logits": x[:, 0]}
        return SimpleNamespace(**{k: given[k] if wanted else None for k, wanted in self.give.items()})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"pooler_output": True, "last_hidden_state": True}, lambda x: x.mean(1)),
        ({"pooler_output": False, "last_hidden_state": True}, lambda x: x[:, 0]),
        ({"logits": True}, lambda x: x[:, 0]),
    ],
)
def test_outputs_of_hugging_face_give_their_features(given, expected):
    torch.manual_seed(0)
    model, x = SDLoRAModel(Fake(**given), SDLoRAConfig(rank=2, targets="dense")), torch.randn(3, 4, 8)
    torch.testing.assert_close(model.features(x), expected(model.backbone.dense(x)))
    assert model.head.in_features == 8
    model.begin_experience({0: [0]})
    with pytest.raises(ValueError, match="returns an object in place of a tensor"):
        merge(model)
