"""Dictionary learning: the update that never raises the cost, its mini-batch form, and what both keep."""

import weakref

import numpy as np
import pytest
import torch

from deepnmf_cli.inference import dictionary, nmf
from deepnmf_cli.inference.dictionary import Majorant, exemplars, learn_dictionary, powers, unit_columns, update
from tests.reference import nmf_loops

BETAS = [-1, 0, 0.5, 1, 1.5, 2, 3]


def problem(bins=12, frames=40, atoms=6, seed=0, dtype=torch.float64):
    """Frames made of a few true atoms, a starting dictionary and activations."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.rand(bins, atoms, generator=generator, dtype=dtype) ** 4
    m = true @ torch.rand(atoms, frames, generator=generator, dtype=dtype) ** 6 + 1e-3
    w = unit_columns(torch.rand(bins, atoms, generator=generator, dtype=dtype))
    return m, w, nmf.start(m, w)


def norms(w):
    return w.norm(dim=0)


@pytest.mark.parametrize("mu", [0, 0.1, 1])
@pytest.mark.parametrize("beta", BETAS)
def test_penalised_cost_never_increases(beta, mu):
    for seed in range(2):
        m, w, h = problem(seed=seed)
        cost = first = nmf.objective(h, m, w, beta, mu)
        for _ in range(50):
            h = nmf.step(h, m, w, beta, mu)
            w, h = update(h, m, w, beta, mu)
            previous, cost = cost, nmf.objective(h, m, w, beta, mu)
            assert cost <= previous + 1e-12 * previous.abs()
        assert cost < first


@pytest.mark.parametrize("mu", [0, 0.1, 5])
@pytest.mark.parametrize("beta", BETAS)
def test_dictionary_step_never_raises_the_cost_whatever_the_activations(beta, mu):
    for seed in range(10):
        m, w, h = problem(5, 7, 3, seed)
        h = h * 10 ** (2 * torch.randn(h.shape, generator=torch.Generator().manual_seed(seed), dtype=h.dtype))
        before = nmf.objective(h, m, w, beta, mu)
        w, h = update(h, m, w, beta, mu)
        assert nmf.objective(h, m, w, beta, mu) <= before + 1e-12 * before.abs()


def test_update_of_tr2015_raises_the_cost_where_ours_does_not():
    """Two bins, one frame, one atom, beta = 1.5: w o (descending / ascending) at fixed activations goes too far."""
    m, w, h = np.array([[0.01], [0.0437]]), np.array([[0.0007], [1.0]]), np.array([[0.0021]])
    w /= np.linalg.norm(w)
    theirs = nmf_loops.tr2015_dictionary_update(h, m, w, 1.5)
    before, after = (nmf_loops.objective(h, m, w, 1.5, 1.0) for w in (w, theirs))
    assert after > 1.07 * before
    m, w, h = (torch.from_numpy(x) for x in (m, w, h))
    w, h = update(h, m, w, 1.5, 1.0)
    assert nmf.objective(h, m, w, 1.5, 1.0) < before


def test_normalising_afterwards_only_would_raise_the_cost():
    """Guards the tests above: the update that leaves the activations as they were fails them."""
    m, w, h = problem()
    rises = 0
    for _ in range(50):
        h = nmf.step(h, m, w, 1.0, 1.0)
        before = nmf.objective(h, m, w, 1.0, 1.0)
        w = unit_columns(w * ((m / (w @ h)) @ h.T / h.sum(-1)))
        rises += bool(nmf.objective(h, m, w, 1.0, 1.0) > before * (1 + 1e-9))
    assert rises > 0


@pytest.mark.parametrize("mu", [0, 0.1, 5])
@pytest.mark.parametrize("beta", BETAS)
def test_update_equals_its_loop_written_twin(beta, mu):
    m, w, h = problem(6, 8, 3)
    twin_w, twin_h = nmf_loops.dictionary_update(h.numpy(), m.numpy(), w.numpy(), beta, mu)
    ours_w, ours_h = update(h, m, w, beta, mu)
    np.testing.assert_allclose(ours_w.numpy(), twin_w, rtol=1e-9)
    np.testing.assert_allclose(ours_h.numpy(), twin_h, rtol=1e-9)


def slope(bound, w):
    i, j = powers(bound.beta)
    return -bound.attract * w**i + bound.repel * w**j + bound.penalty * w


@pytest.mark.parametrize("mu", [0, 0.1])
@pytest.mark.parametrize("beta", BETAS)
def test_bound_has_the_slope_of_the_cost_where_they_touch(beta, mu):
    m, w, h = problem()
    h = nmf.step(h, m, w, beta, 0.1)
    w.requires_grad_()
    cost = nmf.objective(h, m, w, beta) + mu * (norms(w) * h.sum(-1)).sum()
    (gradient,) = torch.autograd.grad(cost, w)
    bound = Majorant.of(h, m, w.detach(), beta, mu)
    torch.testing.assert_close(slope(bound, w.detach()), gradient, rtol=1e-8, atol=1e-9 * float(gradient.abs().max()))


@pytest.mark.parametrize("mu", [0, 1e-6, 0.1, 5, 1e6])
@pytest.mark.parametrize("beta", BETAS)
def test_minimiser_is_where_the_slope_of_the_bound_vanishes(beta, mu):
    m, w, h = problem()
    bound = Majorant.of(h, m, w, beta, mu)
    at = bound.minimiser()
    assert (slope(bound, at).abs() <= 1e-12 * bound.attract * at ** powers(beta)[0]).all()


@pytest.mark.parametrize("beta", BETAS)
def test_bounds_add_up_over_blocks_of_frames(beta):
    m, w, h = problem()
    whole = Majorant.of(h, m, w, beta, 0.3)
    first, second = (Majorant.of(h[:, part], m[:, part], w, beta, 0.3) for part in (slice(0, 15), slice(15, None)))
    torch.testing.assert_close(slope(first + second, w), slope(whole, w), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close((first + second).minimiser(), whole.minimiser(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_mini_batch_that_holds_everything_equals_the_full_batch(beta):
    m, w, _ = problem()
    learned = learn_dictionary(lambda index: m, 8, 6, beta, 0.1, activation_steps=5, memory=0, initial=w)
    for _ in range(8):
        w, _ = update(nmf.infer(m, w, 5, beta, 0.1), m, w, beta, 0.1)
    torch.testing.assert_close(learned, w, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_earlier_blocks_count_for_less(beta):
    first, second = (problem(seed=seed)[0] for seed in (0, 1))
    _, w, _ = problem()
    learned = learn_dictionary([first, second].__getitem__, 2, 6, beta, 0.1, activation_steps=5, memory=0.3, initial=w)
    bound = Majorant.of(nmf.infer(first, w, 5, beta, 0.1), first, w, beta, 0.1)
    w = unit_columns(bound.minimiser())
    bound = bound.faded(0.3) + Majorant.of(nmf.infer(second, w, 5, beta, 0.1), second, w, beta, 0.1)
    torch.testing.assert_close(learned, unit_columns(bound.minimiser()), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("memory", [0, 0.5, 0.8])
@pytest.mark.parametrize("beta", [0, 1, 1.5, 2])
def test_learning_from_mini_batches_lowers_the_cost_of_unseen_frames(beta, memory):
    m, _, _ = problem(frames=1200)
    seen, unseen = m[:, :1000], m[:, 1000:]
    blocks = seen.split(100, -1)

    def cost(w):
        return nmf.objective(nmf.infer(unseen, w, 50, beta), unseen, w, beta)

    drawn = exemplars(seen, 6, torch.Generator().manual_seed(0))
    learned = learn_dictionary(lambda index: blocks[index % 10], 60, 6, beta, 0, memory=memory)
    assert cost(learned) < 0.7 * cost(drawn)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_learned_columns_have_unit_norm_positive_entries_and_the_dtype(beta, dtype):
    m, _, _ = problem(dtype=dtype)
    m[3], m[:, 5] = 0, 0
    w = learn_dictionary(lambda index: m, 6, 5, beta, 0.1)
    assert w.shape == (12, 5) and w.dtype == dtype
    torch.testing.assert_close(norms(w), torch.ones(5, dtype=dtype))
    assert w.isfinite().all() and (w > 0).all() and w.log().isfinite().all()


def test_equal_seeds_give_equal_dictionaries_and_others_differ():
    m, _, _ = problem(frames=300)

    def learn(seed):
        return learn_dictionary(lambda index: m.roll(50 * index, 1)[:, :50], 6, 5, seed=seed)

    assert torch.equal(learn(1), learn(1))
    assert torch.equal(learn(0), learn_dictionary(lambda index: m.roll(50 * index, 1)[:, :50], 6, 5))
    assert not torch.allclose(learn(1), learn(2), atol=1e-3)


def test_keeps_no_block_but_the_present_one():
    alive = []

    def block(index):
        assert sum(reference() is not None for reference in alive) <= 1
        m = problem(seed=index)[0]
        alive.append(weakref.ref(m))
        return m

    learn_dictionary(block, 5, 6)
    assert len(alive) == 5


def test_unused_atom_is_drawn_anew():
    m, w, _ = problem()
    m[:3] = 1e-6
    w[:, 2] = 0
    w[:3, 2] = 1  # explains bins in which next to nothing happens
    learned = learn_dictionary(lambda index: m, 10, 6, initial=w)
    assert learned[3:, 2].norm() > 0.9


def test_atom_that_falls_out_of_use_is_drawn_anew():
    early, w, _ = problem()
    late = early.clone()
    early[3:], late[:3] = 1e-6, 1e-6
    w[:, 2] = 0
    w[:3, 2] = 1  # explains the first block, and nothing after it
    w = unit_columns(w)
    learned = learn_dictionary(lambda index: late if index else early, 40, 6, initial=w)
    assert learned[3:].norm(dim=0).min() > 0.9


def test_atoms_are_drawn_anew_up_to_four_fifths_of_the_blocks_and_no_later(monkeypatch):
    m, w, _ = problem()
    m[:3], w[:, 2], at, drawn = 1e-6, 0, [], []
    w[:3, 2] = 1
    # What is drawn is of no use either, so that an atom is drawn as often as it may be.
    monkeypatch.setattr(dictionary, "_fresh_atoms", lambda m, atoms, _: drawn.append(at[-1]) or unit_columns(w[:, 2:3]))
    learn_dictionary(lambda index: at.append(index) or m, 10, 6, initial=w, memory=0.0)
    assert drawn == list(range(8))


def test_a_block_of_few_audible_frames_draws_nothing_anew():
    """Three of four atoms fall out of use in a block with two audible frames, and are drawn from the next one."""
    w = unit_columns(torch.eye(8)[:, :4] + 1e-9)
    first, few, last = torch.rand(8, 40), torch.zeros(8, 40), torch.zeros(8, 40)
    first[4:] = 0
    few[0, :2] = 1
    last[4:] = torch.rand(4, 40)
    blocks = [first, few, last, last]
    learned = learn_dictionary(lambda index: blocks[min(index, 3)], 10, 4, initial=w, memory=0.0)
    assert learned[4:].norm(dim=0).min() > 0.9


def test_the_divergence_is_kullback_leiblers_where_none_is_named():
    m, w, _ = problem()
    found, named = (learn_dictionary(lambda index: m, 3, 6, initial=w, **beta) for beta in ({}, {"beta": 1.0}))
    assert torch.equal(found, named)


def test_does_not_change_the_dictionary_it_starts_from():
    m, w, _ = problem()
    before = w.clone()
    learn_dictionary(lambda index: m, 3, 6, initial=w)
    assert torch.equal(w, before)


def test_progress_gets_the_cost_per_frame():
    m, w, _ = problem()
    rows = []
    learn_dictionary(lambda index: m, 3, 6, 1.0, 0.1, initial=w, progress=lambda *row: rows.append(row))
    expected = nmf.objective(nmf.infer(m, w, 15, 1.0, 0.1), m, w, 1.0, 0.1).item() / 40
    assert [index for index, _ in rows] == [0, 1, 2]
    assert rows[0][1] == pytest.approx(expected) and rows[2][1] < rows[0][1]


def test_exemplars_are_distinct_audible_frames():
    m, _, _ = problem(frames=50)
    m[:, :20] = 1e-9
    w = exemplars(m, 30, torch.Generator().manual_seed(0))
    frames = unit_columns(m[:, 20:])
    matches = (w.T @ frames) > 1 - 1e-12
    assert (matches.sum(0) == 1).all() and (matches.sum(1) == 1).all()


def test_drawn_atoms_have_a_hundredth_of_the_mean_frame_in_every_bin():
    atoms = dictionary._fresh_atoms(2 * torch.eye(3, dtype=torch.float64), 3, torch.Generator().manual_seed(0))
    expected = unit_columns(torch.eye(3, dtype=torch.float64) + 0.01 / 3**0.5)
    torch.testing.assert_close(atoms[:, atoms.argmax(0).argsort()], expected)


def test_too_few_audible_frames_is_said():
    m, _, _ = problem(frames=50)
    m[:, 10:] = 0
    with pytest.raises(ValueError, match="found 10 audible frames.*expected at least 11"):
        learn_dictionary(lambda index: m, 3, 11)
