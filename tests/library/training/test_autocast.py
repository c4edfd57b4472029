"""Which precision the forward pass has."""

import logging

import pytest
import torch

from avalanche_sdlora import SDLoRAPlugin
from avalanche_sdlora.training import precision
from tests.common import MLP, mlp, strategy_for


def test_auto_takes_bfloat16_where_it_is_multiplied_natively(monkeypatch, caplog):
    cpu = torch.device("cpu")
    for native, expected in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device, native=native: native)
        precision._warn_of_emulation.cache_clear()
        assert precision.autocast_dtype("auto", cpu) is expected
        assert precision.autocast_dtype("float32", cpu) is None
        with caplog.at_level(logging.WARNING, logger="avalanche_sdlora"):
            for _ in range(2):
                assert precision.autocast_dtype("bfloat16", cpu) is torch.bfloat16
        assert len(caplog.records) == (not native)
    assert "about 5 times slower" in caplog.text
    strategy = strategy_for(precision="auto")
    assert strategy.model.autocast is None
    assert strategy_for(precision="bfloat16").model.autocast is torch.bfloat16


def test_a_script_that_says_nothing_computes_in_float32(monkeypatch):
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: True)
    assert strategy_for(mlp(), MLP).model.autocast is None
    with pytest.raises(ValueError, match="precision='float16': expected one of 'auto', 'float32', 'bfloat16'"):
        SDLoRAPlugin(precision="float16")
