"""Adapters as files: the same model back, and damage or a mismatch noticed before anything changes."""

import os
import resource

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel, load_adapters, read_adapters, save_adapters
from avalanche_sdlora.learned import learned_state
from avalanche_sdlora.persistence.tensorfile import read_tensors, write_tensors
from avalanche_sdlora.ranks import RankSchedule
from tests.common import MLP, adapted_mlp, learn_something, mlp, plain, snapshot, tiny_vit

KIND = "sdlora-adapters"
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model, path = adapted_mlp(), tmp_path_factory.mktemp("adapters") / "adapters.safetensors"
    save_adapters(model, path, class_names=list("abcdef"), notes={"crop": True})
    return model.eval(), path


def fresh(config=MLP):
    return SDLoRAModel(mlp(), config).eval()


def refused(path, message, error=ValueError, model=None):
    """Loading ``path`` raises ``message`` and leaves the model as it was."""
    model = adapted_mlp(experiences=1) if model is None else model
    before, tensors = snapshot(model), list(model.parameters())
    with pytest.raises(error, match=message):
        load_adapters(model, path)
    assert all(a is b for a, b in zip(tensors, model.parameters(), strict=True))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_the_same_model_comes_back(saved):
    model, path = saved
    x, other = torch.randn(5, 8), fresh()
    info = load_adapters(other, path)
    assert torch.equal(other(x), model(x))
    assert (info.class_names, info.notes, info.config) == (list("abcdef"), {"crop": True}, MLP)
    assert info == read_adapters(path)
    assert info.backbone == "Sequential"


def test_equal_content_makes_equal_files(saved, tmp_path):
    for name in "ab":
        save_adapters(saved[0], tmp_path / name, notes={10: "a", 9: "b"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_adapters(tmp_path / "a").notes == {"10": "a", "9": "b"}


def test_a_later_stage_gives_way_to_the_file_and_goes_on(saved):
    model, path = saved
    other = adapted_mlp(experiences=5).eval()
    load_adapters(other, path)
    assert torch.equal(other(torch.ones(1, 8)), model(torch.ones(1, 8)))
    other.begin_experience({0: [6, 7]})
    assert len(other.magnitudes) == 4


def test_only_what_was_learned_is_in_the_file_and_bfloat16_halves_it(tmp_path):
    model = SDLoRAModel(tiny_vit(embed_dim=192), plain())
    for k in range(3):
        model.begin_experience({0: [k]})
        learn_something(model)
    sizes = {}
    for dtype in (torch.float32, torch.bfloat16):
        save_adapters(model, tmp_path / "f", dtype=dtype)
        sizes[dtype] = (tmp_path / "f").stat().st_size
    # 3 tasks of rank 10, query and value of two blocks of width 192.
    factors = 4 * 3 * 10 * (192 + 192) * 4
    assert factors < sizes[torch.float32] < factors + 16_000
    assert sizes[torch.bfloat16] < factors / 2 + 16_000
    x, y = torch.randn(4, 3, 32, 32), model.eval()(torch.zeros(1, 3, 32, 32))
    other = SDLoRAModel(tiny_vit(embed_dim=192), plain()).eval()
    load_adapters(other, tmp_path / "f")
    assert torch.nn.functional.cosine_similarity(other.features(x), model.features(x)).min() > 0.999
    assert y.shape == (1, 3)


CONFIGS = st.builds(
    SDLoRAConfig,
    rank=st.integers(1, 4)
    | st.lists(st.integers(1, 4), min_size=1, max_size=3).map(
        lambda ranks: RankSchedule(tuple(enumerate(sorted(ranks, reverse=True), 1)), depth=(0.5, 1))
    ),
    targets=st.sampled_from(["*", ("0", "2"), "2"]),
    norm=st.sampled_from(["product", "factors"]),
    boundary=st.sampled_from(["continuous", "reset"]),
    magnitudes=st.sampled_from(["per_projection", "shared"]),
    magnitude_init=st.floats(0.1, 2),
    directions=st.sampled_from(["every", "single"]),
    rescale_past=st.booleans(),
    expansion=st.integers(1, 40),
)


@pytest.mark.slow
@QUICK
@given(config=CONFIGS, experiences=st.integers(1, 4), multi_head=st.booleans())
def test_every_config_survives_a_file(saved, config, experiences, multi_head):
    model, path = SDLoRAModel(mlp(), config).eval(), saved[1].with_name("any")
    model.head.multi_head = multi_head
    for k in range(experiences):
        model.begin_experience({k: [0, 1]} if multi_head else {0: [2 * k, 2 * k + 1]})
        learn_something(model)
    save_adapters(model, path)
    other, x = fresh(config), torch.randn(3, 8)
    assert load_adapters(other, path).config == config
    labels = torch.zeros(3, dtype=torch.long)
    assert torch.equal(other(x, labels), model(x, labels))


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenth", range(10))
def test_a_cut_file_is_refused(saved, tenth, tmp_path):
    data = saved[1].read_bytes()
    (tmp_path / "f").write_bytes(data[: len(data) * tenth // 10])
    refused(tmp_path / "f", "is damaged")


@QUICK
@given(data=st.data())
def test_flipped_bytes_are_refused(saved, data):
    whole = bytearray(saved[1].read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4, unique=True)):
        whole[place] ^= data.draw(st.integers(1, 255))
    path = saved[1].with_name("flipped")
    path.write_bytes(whole)
    refused(path, "is damaged|is not a file of|has version")


def rewritten(saved, path, change=lambda tensors, about: None, kind=KIND, version=8):
    tensors, about = read_tensors(saved[1], KIND, 8)
    change(tensors, about)
    write_tensors(path, kind, version, tensors, about)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, a: t.pop("head.weight"), r"1 missing tensors, the first 'head\.weight'"),
        (lambda t, a: t.update(more=torch.zeros(1)), "1 unknown tensors, the first 'more'"),
        (lambda t, a: t.update({"head.weight": t["head.weight"][:, :3]}), "'head' cannot hold it.*size mismatch"),
        (lambda t, a: t.update({"head.weight": t["head.weight"][:3]}), "tensors of 'head' do not fit together"),
        (lambda t, a: t.update({"experiences": torch.zeros(2).long()}), r"'experiences' has shape \(2,\)"),
        (lambda t, a: t.update({"head.row_of": t["head.row_of"] + 0.5}), "'head.row_of' holds torch.float32"),
        (
            lambda t, a: t.update({n: x[1:] for n, x in t.items() if n.endswith("bank_A")}),
            r"tensors of 'backbone\.0\.projections\.0' do not fit",
        ),
        (
            lambda t, a: t.update({n: x + 9 for n, x in t.items() if n.endswith("owner")}),
            r"tensors of 'backbone\.0\.projections\.0' do not fit",
        ),
        (lambda t, a: a["config"].update(rank=7), "was made with SDLoRAConfig.rank=7"),
        (lambda t, a: a["config"].update(shape="round"), "unknown settings"),
        (lambda t, a: a.pop("backbone"), "describes itself in a way"),
        (lambda t, a: a.update(fingerprint="0" * 64), "belongs to the backbone Sequential with weights 000000000000"),
    ],
)
def test_content_that_does_not_fit_is_refused(saved, change, message, tmp_path):
    refused(rewritten(saved, tmp_path / "f", change), f"(?s){message}")


def test_another_kind_or_a_newer_version_is_refused(saved, tmp_path):
    refused(rewritten(saved, tmp_path / "f", kind="other"), "is not a file of sdlora-adapters; it says it is 'other'")
    refused(rewritten(saved, tmp_path / "f", version=9), "has version 9 of the format.*versions up to 8")
    refused(tmp_path / "none", "there is no such file", FileNotFoundError)
    refused(tmp_path, "cannot be read", OSError)


def test_another_backbone_is_refused(saved):
    refused(saved[1], "belongs to the backbone Sequential", model=SDLoRAModel(mlp(seed=1), MLP))


# -- what cannot be written --------------------------------------------------------------------------------------------


def test_a_full_disk_or_a_missing_permission_leaves_the_old_file(saved, tmp_path, monkeypatch):
    def no_permission(*args):
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "f"
    path.write_bytes(old := saved[1].read_bytes())
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))  # the kernel refuses to write on, as on a full disk
    try:
        with pytest.raises(OSError, match="File too large"):
            save_adapters(saved[0], path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_permission)
        with pytest.raises(PermissionError):
            save_adapters(saved[0], path)
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        save_adapters(saved[0], path / "below")
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"class_names": ["a"]}, "1 names for class labels up to 5"), ({"dtype": torch.float16}, "dtype=torch.float16")],
)
def test_bad_arguments_write_nothing(saved, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_adapters(saved[0], tmp_path / "f", **arguments)
    assert not list(tmp_path.iterdir())


def test_the_state_has_no_backbone(saved):
    assert not [name for name in learned_state(saved[0]) if ".base." in name]
