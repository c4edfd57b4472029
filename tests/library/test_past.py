"""The model as it was, the model without its adapters, and the model from a file."""

import copy

import pytest
import torch

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel, create_backbone, load_model, read_adapters, save_adapters
from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.persistence.tensorfile import read_tensors, write_tensors
from tests.common import (
    MLP,
    learn_something,
    mlp,
    plain,
    points_stream,
    repeat_direction,
    snapshot,
    strategy_for,
    tiny_vit,
)

X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


def learned(config, tasks=3):
    """A model some tasks in, and what it said after each of them; only rows of new classes change."""
    model, said = SDLoRAModel(mlp(), config).eval(), []
    for k in range(tasks):
        model.begin_experience({0: [2 * k, 2 * k + 1]})
        learn_something(model)
        with torch.no_grad():
            model.head.weight[2 * k :] += torch.randn(2, 16)
        model.end_experience()
        with torch.no_grad():
            said.append(model(X))
    return model, said


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rank": 3, "magnitudes": "shared"},
        {"norm": "factors"},
        {"rescale_past": False},
        {"directions": "first"},
        {"energy": 0.7},
        {"targets": ()},
    ],
)
@pytest.mark.parametrize("preset", [plain, SDLoRAConfig.paper, SDLoRAConfig.reference])
def test_the_model_at_a_task_says_what_it_said_then(preset, settings, tmp_path):
    model, said = learned(preset(**{"rank": 2, "targets": "*", **settings}))
    before = snapshot(model)
    for task, expected in enumerate(said, start=1):
        past = model.at_task(task)
        assert int(past.experiences) == task
        assert past.head.classes() == list(range(2 * task))
        torch.testing.assert_close(past(X), expected, rtol=1e-4, atol=1e-4)
        save_adapters(past, tmp_path / "past")
        torch.testing.assert_close(load_model(tmp_path / "past", mlp())(X), expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_past_model_goes_on_from_there_and_shares_the_frozen_weights():
    model, said = learned(MLP)
    past = model.at_task(2)
    assert past.backbone[0].base.weight is model.backbone[0].base.weight
    assert sum(p.numel() for p in past.trainable_groups()["directions"])  # the second direction is open again
    past.begin_experience({0: [8, 9]})
    with torch.no_grad():
        torch.testing.assert_close(past(X)[:, :4], said[1], rtol=1e-4, atol=1e-4)
    learn_something(past).end_experience()
    assert past.head.classes() == [0, 1, 2, 3, 8, 9]
    torch.testing.assert_close(model.at_task(2)(X), said[1], rtol=1e-4, atol=1e-4)


def test_files_and_checkpoints_keep_what_the_past_needs(tmp_path):
    model, said = learned(MLP)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.2)):
        save_adapters(model, tmp_path / "f", dtype=dtype)
        past = load_model(tmp_path / "f", mlp()).at_task(1)
        torch.testing.assert_close(past(X), said[0], rtol=tolerance, atol=tolerance)
    strategy = strategy_for(train_epochs=2)
    outputs = []
    for experience in points_stream().train_stream[:3]:
        strategy.train(experience)
        outputs.append(strategy.model.eval()(X).detach())
    for task, expected in enumerate(outputs, start=1):
        torch.testing.assert_close(strategy.model.at_task(task)(X), expected, rtol=1e-4, atol=1e-4)


def test_a_task_that_goes_on_is_not_over():
    model, _ = learned(MLP, tasks=2)
    model.begin_experience({0: [2, 3]}, goes_on=True)
    with pytest.raises(ValueError, match="task=2: expected a number from 1 to 1"):
        model.at_task(2)
    learn_something(model).end_experience()
    torch.testing.assert_close(model.at_task(2)(X), model(X))


def moved_row(model):
    with torch.no_grad():
        model.head.weight[0] += 1


def unfrozen(model):
    model.backbone[0].base.requires_grad_(True)


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({}, lambda m: m.at_task(0), "task=0: expected a number from 1 to 3"),
        ({}, lambda m: m.at_task(4), "task=4: expected a number from 1 to 3"),
        ({}, lambda m: m.at_task(1, head="ridge"), "head='ridge': expected 'linear'"),
        ({}, moved_row, "rows of the trained head have been trained again"),
        ({}, unfrozen, "the backbone is trained too"),
        ({"directions": "single"}, None, "directions='single' trains one direction on and on"),
        ({"rank_budget": 4}, None, "at task 3 earlier directions were recompressed or distilled"),
        ({"head": "ncm"}, None, "the head 'ncm' is solved from all that has been seen.*head='linear'"),
    ],
)
def test_what_was_not_kept_is_a_clear_error(settings, change, message):
    model, _ = learned(plain(**{"rank": 2, "targets": "*", **settings}))
    if change is moved_row or change is unfrozen:
        change(model)
        change = None
    with pytest.raises(ValueError, match=message):
        (change or (lambda m: m.at_task(1)))(model)


def test_distillation_is_noticed_and_tasks_after_it_are_known():
    model = SDLoRAModel(mlp(), plain(rank=2, targets="*", kd_tolerance=1e-4)).eval()
    said = []
    for k in range(3):
        model.begin_experience({0: [k]})
        repeat_direction(learn_something(model), 0) if k == 1 else learn_something(model)
        model.end_experience()
        said.append(model(X).detach())
    assert int(model.rewritten) == 2
    torch.testing.assert_close(model.at_task(2)(X), said[1], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="at task 2 earlier directions were recompressed or distilled"):
        model.at_task(1)


def test_a_solved_head_is_known_of_the_last_task_and_the_trained_one_of_all(monkeypatch):
    monkeypatch.setattr("avalanche_sdlora.heads.second_look.helped", lambda *features: True)
    strategy = strategy_for(config=SDLoRAConfig(rank=2, targets="*", head="ridge", drift="linear"))
    for experience in points_stream().train_stream[:2]:
        strategy.train(experience)
    model = strategy.model.eval()
    assert torch.equal(model.at_task(2)(X), model(X))
    past = model.at_task(1, head="linear")
    assert past.closed_form is None
    assert past(X).shape == (5, 2)


# -- switched off ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
def test_disabled_adapters_give_the_backbones_features_and_come_back(name):
    backbone, images = tiny_vit(name, num_classes=0).eval(), torch.randn(2, 3, 32, 32)
    model = SDLoRAModel(copy.deepcopy(backbone), SDLoRAConfig(rank=2)).eval()
    for k in range(2):
        model.begin_experience({0: [k]})
        learn_something(model)
    with torch.no_grad():
        adapted = model.features(images)
        for _ in range(2):  # whatever was kept of merged weights
            with model.disabled_adapters() as same:
                assert same is model
                assert torch.equal(model.features(images), backbone(images))
                with pytest.raises(RuntimeError, match="switched off"):
                    model.begin_experience({0: [5]})
            assert torch.equal(model.features(images), adapted)
    with pytest.raises(KeyError), model.disabled_adapters():
        raise KeyError
    torch.testing.assert_close(model.features(images), adapted)  # with gradient
    with model.disabled_adapters():
        torch.testing.assert_close(model.features(images), backbone(images))


@pytest.mark.parametrize("head", ["linear", "ncm"])
def test_the_head_stays_as_it_is_while_the_adapters_are_off(head):
    strategy = strategy_for(config=SDLoRAConfig(rank=2, targets="*", head=head))
    strategy.train(points_stream().train_stream[0])
    model = strategy.model.eval()
    with model.disabled_adapters(), torch.no_grad():
        features = model.features(X)
        scores = model.head(features)
        if model.closed_form is not None:
            scores = model.head.lay_out(model.closed_form(features), model.head.row_table())
            scores = model.closed_form.sure(scores, torch.zeros_like(scores, dtype=torch.bool))
        assert torch.equal(model(X), scores)


def test_trainable_parameters_are_printed_as_they_are(capsys):
    model = SDLoRAModel(mlp(), MLP)
    model.print_trainable_parameters()
    assert capsys.readouterr().out.startswith("trainable params: 0 || all params:")
    model.begin_experience({0: [0, 1]})
    model.print_trainable_parameters()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    said = capsys.readouterr().out
    assert said.startswith(f"trainable params: {trained:,} || all params: {everything:,} || trainable%: ")
    assert "magnitudes 2, head 34" in said


# -- from a file -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_gives_the_whole_model_in_one_call(tmp_path):
    path, images = tmp_path / "f", torch.rand(2, 3, 48, 48)
    model = SDLoRAModel(create_backbone("vit_micro_patch4_32.formula", img_size=48), SDLoRAConfig(rank=2)).eval()
    model.begin_experience({0: [0, 1]})
    save_adapters(learn_something(model), path)
    assert read_adapters(path).backbone == "vit_micro_patch4_32.formula"
    assert torch.equal(load_model(path)(images), model(images))
    assert torch.equal(load_model(path, "vit_micro_patch4_32.formula")(images), model(images))
    given = create_backbone("vit_micro_patch4_32.formula", img_size=48)
    assert load_model(path, given).backbone is given
    with pytest.raises(ValueError, match=r"weights='w': the backbone is a module"):
        load_model(path, given, weights="w")


def test_a_random_network_does_not_claim_pretrained_weights(tmp_path):
    model = SDLoRAModel(create_backbone("vit_micro_patch4_32.formula", pretrained=False), SDLoRAConfig(rank=2))
    model.begin_experience({0: [0]})
    save_adapters(model, tmp_path / "f")
    info = read_adapters(tmp_path / "f")
    assert (info.backbone, info.timm_name) == ("vit_micro_patch4_32", "vit_micro_patch4_32.formula")
    with pytest.raises(ValueError, match="belongs to the backbone vit_micro_patch4_32 with weights"):
        load_model(tmp_path / "f")


def test_a_module_that_does_not_fit_is_left_as_it_was(tmp_path):
    model, _ = learned(MLP)
    save_adapters(model, tmp_path / "f")
    with pytest.raises(ValueError, match=r"belongs to a Sequential, which is no timm model; give the module"):
        load_model(tmp_path / "f")
    other = mlp(seed=1)
    layers = list(other)
    with pytest.raises(ValueError, match="belongs to the backbone Sequential"):
        load_model(tmp_path / "f", other)
    assert list(other) == layers
    assert other[0].weight.requires_grad


def test_files_of_version_1_are_read_and_know_nothing_of_the_past(tmp_path):
    model, said = learned(MLP)
    save_adapters(model, tmp_path / "new")
    tensors, about = read_tensors(tmp_path / "new", "sdlora-adapters", 8)
    later = ("born", "checksums", "history", "counts", "rewritten", "norm")
    tensors = {name: t for name, t in tensors.items() if not name.endswith(later)}
    about = {name: value for name, value in about.items() if name not in ("classifier", "timm_name")}
    write_tensors(tmp_path / "old", "sdlora-adapters", 1, tensors, about)
    old = load_model(tmp_path / "old", mlp())
    assert torch.equal(old(X), said[-1])
    with pytest.raises(ValueError, match="task=2: expected a number from 1 to 0"):
        old.at_task(2)
    old.begin_experience({0: [6, 7]})
    learn_something(old).end_experience()
    with pytest.raises(ValueError, match="task=2: its magnitudes were not kept"):
        old.at_task(2)
    torch.testing.assert_close(old.at_task(4)(X), old(X))
    assert all(len(p.norm) == len(p.owner) for p in projections_of(old))


def test_files_of_version_7_keep_the_way_back(tmp_path):
    strategy = strategy_for(config=SDLoRAConfig(rank=2, targets="*", drift="linear", expansion=50, first_epochs=1))
    strategy.train(points_stream().train_stream[0])
    look = strategy.model.closed_form.second_look
    assert look.doubts
    save_adapters(strategy.model, tmp_path / "new")
    tensors, about = read_tensors(tmp_path / "new", "sdlora-adapters", 8)
    looked = tensors.pop("closed_form.evidence.looked")
    state = tensors.pop("closed_form.second_look._extra_state")
    tensors["closed_form._extra_state"] = torch.cat([tensors["closed_form._extra_state"], state[None]])
    tensors = {name.replace(".second_look.spare.", ".spare."): t for name, t in tensors.items()}
    write_tensors(tmp_path / "old", "sdlora-adapters", 7, tensors, about)
    old = load_model(tmp_path / "old", mlp()).closed_form
    assert (old.evidence.looked, old.second_look.found) == (looked, None)
    for space, spare in look.spare.items():
        assert torch.equal(old.second_look.spare[space].second, spare.second)


def test_files_of_version_2_are_read_and_their_scores_are_the_logits(tmp_path):
    strategy = strategy_for(config=SDLoRAConfig(rank=2, targets="*", head="ncm"))
    strategy.train(points_stream().train_stream[0])
    model = strategy.model.eval()
    save_adapters(model, tmp_path / "new")
    tensors, about = read_tensors(tmp_path / "new", "sdlora-adapters", 8)
    for name in ("surprise", "looked", "harm", "moved"):
        del tensors[f"closed_form.evidence.{name}"]
    for name in ("values", "samples"):
        del tensors[f"closed_form.penalties.{name}"]
    tensors = {name: t for name, t in tensors.items() if ".second_look." not in name}
    tensors["closed_form.evidence.kept"] = tensors["closed_form.evidence.harmed"] = torch.ones(())
    tensors["closed_form._extra_state"] = tensors["closed_form._extra_state"][:2]
    write_tensors(tmp_path / "old", "sdlora-adapters", 2, tensors, about)
    old = load_model(tmp_path / "old", mlp())
    with torch.no_grad():
        assert model.closed_form.power is not None
        scores = model.closed_form(model.features(X))
        assert torch.equal(old(X), model.head.lay_out(scores, model.head.row_table()))
