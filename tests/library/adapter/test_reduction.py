"""Rank reduction and distillation: what they save, what they change, and when they do nothing."""

import dataclasses

import pytest
import torch
from torch import nn

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel
from avalanche_sdlora.adapter.linear import SDLoRALinear, projections_of
from tests.common import MLP, adapted_mlp, learn_something, mlp, repeat_direction, snapshot

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


def mlp_config(**settings):
    return dataclasses.replace(MLP, **settings)


def updates_of(model):
    """``W - W0`` of every projection, in float64."""
    updates = [u for m in model.modules() if isinstance(m, SDLoRALinear) for u in m.updates()]
    with torch.no_grad():
        return [
            (torch.cat([u.bank_B, u.B], 1).double() * u.c.double()) @ torch.cat([u.bank_A, u.A]).double()
            for u in updates
        ]


# What remembers the task for SDLoRAModel.at_task.
RECORD = ("history", "counts", "checksums")


def reduced(model, **settings):
    """Ends the experience; returns the reductions and the relative change of every layer's update."""
    model.config = dataclasses.replace(model.config, **settings)
    before = updates_of(model)
    changed = model.end_experience()
    moved = [float((a - b).norm() / b.norm()) for a, b in zip(updates_of(model), before)]
    return changed, model.reductions, moved


def test_without_a_setting_nothing_changes_and_residuals_are_reported():
    model = adapted_mlp()
    before = snapshot(model)
    changed, records, _ = reduced(model)
    assert not changed
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items() if not name.endswith(RECORD))
    assert [(r.rank_before, r.rank_after, r.error, r.parameters_saved) for r in records] == [(6, 6, 0.0, 0)] * 2
    assert all(0.5 < r.residual <= 1 for r in records)
    assert records[0].projection == "0[0:16]"


@pytest.mark.parametrize("energy", [0.6, 0.9, 0.999])
def test_energy_keeps_its_share_and_reports_the_error(energy):
    model = adapted_mlp(mlp_config(rank=6), experiences=2)
    directions = [(p.B @ p.A).detach() for p in projections_of(model)]
    changed, records, moved = reduced(model, energy=energy)
    assert changed == any(r.parameters_saved for r in records)
    for p, record, relative, D in zip(projections_of(model), records, moved, directions):
        kept = (p.B @ p.A).square().sum() / D.square().sum()
        assert kept >= energy - 1e-6
        values = torch.linalg.svdvals(D).square()
        assert values[: len(p.A) - 1].sum() < energy * values.sum()
        assert record.error == pytest.approx(relative, rel=1e-4, abs=1e-6)
        assert record.rank_before - record.rank_after == 6 - len(p.A)
        assert record.parameters_saved == (6 - len(p.A)) * (p.A.shape[1] + len(p.B))


def test_logits_move_by_no_more_than_the_reported_error():
    """One layer and a head: ``|f(x) - f'(x)| <= ||head|| * error * ||W - W0||_F * ||x||``."""
    model = SDLoRAModel(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 2)), mlp_config(rank=4))
    for k in range(6):
        model.begin_experience({0: [k]})
        learn_something(model)
    for settings in ({"energy": 0.7}, {"rank_budget": 9}, {"kd_tolerance": 1.0}):
        before, (update,) = model(X), updates_of(model)
        changed, (record,), _ = reduced(model, **settings)
        allowed = model.head.weight.norm() * record.error * update.norm() * X.norm(dim=1, keepdim=True)
        assert changed
        assert record.error > 0.01
        assert ((model(X) - before).abs() <= allowed + 1e-5).all()
        model.begin_experience({0: [0]})
        learn_something(model)


def test_the_bank_never_exceeds_its_budget_and_magnitudes_stay_bounded():
    model = SDLoRAModel(mlp(), mlp_config(rank_budget=5))
    for k in range(12):
        model.begin_experience({0: [k]})
        assert all(len(p.bank_A) <= 5 for p in projections_of(model))
        learn_something(model)
        _, records, moved = reduced(model)
        assert all(r.rank_after <= 5 for r in records)
        assert [r.error for r in records] == pytest.approx(moved, rel=1e-3, abs=1e-6)
    assert len(model.magnitudes) <= 4
    assert model.parameter_report()["kept"] <= 5 * (8 + 16 + 16 + 16) + 4 * 2 + 12 * 17


def test_recompression_is_the_best_approximation_and_keeps_the_newest_direction():
    model = adapted_mlp(experiences=4)
    (p, *_), alpha = projections_of(model), model.magnitudes.values().detach()[:, 0]
    R = len(p.bank_A)
    past = ((p.bank_B * p.coefficients(alpha)[:R]) @ p.bank_A).double()
    newest = (p.A.detach().clone(), p.B.detach().clone(), alpha[-1])
    reduced(model, rank_budget=5)
    alpha = model.magnitudes.values().detach()[:, 0]
    left = ((p.bank_B * p.coefficients(alpha)[: len(p.bank_A)]) @ p.bank_A).double()
    assert len(p.bank_A) == 3
    torch.testing.assert_close((past - left).norm(), torch.linalg.svdvals(past)[3:].norm(), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(newest, (p.A, p.B, alpha[-1])))


def test_recompressed_directions_have_unit_norm_and_train_apart():
    model = adapted_mlp(experiences=5)
    reduced(model, rank_budget=6)
    model.begin_experience({0: [0]})
    for p in projections_of(model):
        for k in p.owner[: len(p.bank_A)].unique():
            own = p.owner[: len(p.bank_A)] == k
            torch.testing.assert_close((p.bank_B[:, own] @ p.bank_A[own]).norm(), torch.tensor(1.0))
    model(X).sum().backward()
    assert (model.magnitudes.alpha.grad[:-1] != 0).all()


def test_a_repeated_direction_is_absorbed_and_the_function_stays():
    model = adapted_mlp(experiences=3)
    model.begin_experience({0: [0, 1]})
    repeat_direction(model, 1)
    logits, rank = model(X), model.parameter_report()["rank"]
    changed, records, _ = reduced(model, kd_tolerance=9e-4)
    assert changed
    assert all(r.absorbed and r.residual < 1e-5 and r.error < 1e-5 for r in records)
    assert model.parameter_report()["rank"] == rank - 4
    assert len(model.magnitudes) == 3
    torch.testing.assert_close(model(X), logits, rtol=0, atol=1e-5)
    model.begin_experience({0: [8]})
    torch.testing.assert_close(model(X)[:, :6], logits, rtol=0, atol=1e-5)


def test_an_unrelated_direction_is_not_absorbed_and_nothing_changes():
    model = adapted_mlp(experiences=4)
    before = snapshot(model)
    changed, records, _ = reduced(model, kd_tolerance=0.1)
    assert not changed
    assert not any(r.absorbed for r in records)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items() if not name.endswith(RECORD))


def test_projections_are_absorbed_each_on_its_own():
    model = adapted_mlp(experiences=3)
    repeat_one, other = projections_of(model)
    model.begin_experience({0: [0]})
    repeat_direction(model, 0)
    with torch.no_grad():
        other.A.normal_()
    logits = model(X)
    _, records, _ = reduced(model, kd_tolerance=9e-4)
    assert [r.absorbed for r in records] == [True, False]
    assert [len(repeat_one.A), len(other.A), len(model.magnitudes)] == [0, 2, 4]
    torch.testing.assert_close(model(X), logits, rtol=0, atol=1e-5)
    for k in range(3):  # and the stream goes on
        model.begin_experience({0: [k]})
        learn_something(model)
        reduced(model)
    assert torch.isfinite(model(X)).all()


def test_the_paper_folds_the_bare_coefficients():
    model = adapted_mlp(SDLoRAConfig.paper(rank=2, targets="*"), experiences=2)
    model.begin_experience({0: [0]})
    repeat_direction(model, 1)
    _, records, _ = reduced(model, kd_tolerance=9e-4)
    for p in projections_of(model):
        torch.testing.assert_close(p.offset, torch.tensor([0.0, 0.0, -1.0, -1.0]))  # D_t = -D_1
    assert all(r.absorbed and r.error > 0.01 for r in records)


@pytest.mark.parametrize("magnitudes", ["shared", "per_projection"])
@pytest.mark.parametrize("settings", [{"energy": 0.9}, {"kd_tolerance": 0.5}, {"rank_budget": 3}, {}])
def test_what_teaches_nothing_or_too_much_stays_finite(settings, magnitudes):
    """Zero, tiny, huge, duplicate and self-cancelling directions, in turn; at the end all at once."""
    model = SDLoRAModel(mlp(), mlp_config(magnitudes=magnitudes, **settings))
    for k, size in enumerate([0, 0, 1e-30, 1e12, 1e-12, 1, 1, 0]):
        model.begin_experience({0: [k]})
        with torch.no_grad():
            for p in projections_of(model):
                p.B.copy_(size * torch.randn(len(p.B), 1, generator=torch.Generator().manual_seed(k // 2)))
                if k == 6:
                    p.A[1], p.B[:, 1] = p.A[0], -p.B[:, 0] * (1 + 1e-5)
        _, records, _ = reduced(model)
        assert torch.isfinite(model(X)).all()
        assert all(torch.isfinite(t.double()).all() for t in model.state_dict().values())
        assert all(0 <= r.error < 1.5 for r in records)


def test_state_after_reduction_loads_into_a_fresh_model():
    config = mlp_config(energy=0.8, kd_tolerance=0.95, rank_budget=4)
    model = SDLoRAModel(mlp(), config)
    for k in range(5):
        model.begin_experience({0: [k]})
        learn_something(model)
        model.end_experience()
    twin = SDLoRAModel(mlp(), config)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(X), model(X))
    for m in (model, twin):
        torch.manual_seed(3)
        m.begin_experience({0: [9]})
    assert torch.equal(twin(X), model(X))
