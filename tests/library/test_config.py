"""Settings outside their range are refused by name; the presets are the published ones."""

import pytest

from avalanche_sdlora import SDLoRAConfig, SDLoRAPlugin


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank=0: expected an integer of at least 1"),
        ({"rank": 2.5}, "rank=2.5"),
        ({"rank": True}, "rank=True"),
        ({"targets": ("",)}, r"targets=\('',\)"),
        ({"targets": ""}, "targets=''"),
        ({"norm": "frobenius"}, "norm='frobenius': expected one of 'product', 'factors'"),
        ({"boundary": "jump"}, "boundary='jump'"),
        ({"magnitudes": "both"}, "magnitudes='both'"),
        ({"magnitude_init": float("nan")}, "magnitude_init=nan"),
        ({"magnitude_init": 0.0}, "magnitude_init=0.0"),
        ({"reset_magnitudes": True}, "reset_magnitudes=True with boundary='continuous'"),
    ],
)
def test_refused_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SDLoRAConfig(**settings)


def test_presets():
    paper, reference = SDLoRAConfig.paper(), SDLoRAConfig.reference(rank=4)
    assert (paper.rank, paper.norm, paper.magnitude_init, paper.boundary) == (10, "product", 1.0, "reset")
    assert (reference.rank, reference.norm, reference.magnitude_init) == (4, "factors", 0.8)
    assert paper.magnitudes == reference.magnitudes == "shared"
    assert paper.reset_magnitudes
    assert reference.reset_magnitudes


def test_plugin_arguments():
    with pytest.raises(TypeError, match="config=3"):
        SDLoRAPlugin(3)
    with pytest.raises(ValueError, match="precision='float16': expected one of 'auto', 'float32', 'bfloat16'"):
        SDLoRAPlugin(precision="float16")
