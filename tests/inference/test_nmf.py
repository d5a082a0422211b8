"""Sparse-NMF inference: the step against its loop-written twin and scikit-learn, and the properties it promises."""

import numpy as np
import pytest
import torch

from deepnmf_cli.inference import nmf
from tests.reference import nmf_loops

BETAS = [-1, 0, 0.5, 1, 1.5, 2, 3]


def problem(bins=12, frames=9, atoms=7, batch=(), seed=0, dtype=torch.float64):
    """A mixture with a wide dynamic range and a unit-norm dictionary."""
    generator = torch.Generator().manual_seed(seed)
    m = torch.rand(*batch, bins, frames, generator=generator, dtype=dtype) ** 3 + 1e-3
    w = torch.rand(bins, atoms, generator=generator, dtype=dtype)
    return m, w / w.norm(dim=0)


@pytest.mark.parametrize("mu", [0, 0.3, 5])
@pytest.mark.parametrize("beta", BETAS)
def test_objective_never_increases(beta, mu):
    for seed in range(3):
        m, w = problem(20, 15, 30, seed=seed)
        h = nmf.start(m, w)
        cost = nmf.objective(h, m, w, beta, mu)
        first = cost
        for _ in range(60):
            h = nmf.step(h, m, w, beta, mu)
            previous, cost = cost, nmf.objective(h, m, w, beta, mu)
            assert cost <= previous + 1e-12 * previous.abs()
        assert cost < first


def test_exponent_is_that_of_the_majorising_step():
    betas = {-1: 1 / 3, 0: 1 / 2, 0.5: 2 / 3, 1: 1, 1.5: 1, 2: 1, 2.5: 2 / 3, 3: 1 / 2}
    assert {beta: nmf.exponent(beta) for beta in betas} == pytest.approx(betas)


@pytest.mark.parametrize("mu", [0, 0.7])
@pytest.mark.parametrize("beta", BETAS)
def test_step_and_objective_equal_their_loop_written_twins(beta, mu):
    m, w = problem(6, 5, 4)
    h, twin = nmf.start(m, w), nmf_loops.start(m.numpy(), w.numpy())
    for _ in range(4):
        h, twin = nmf.step(h, m, w, beta, mu), nmf_loops.step(twin, m.numpy(), w.numpy(), beta, mu)
        np.testing.assert_allclose(h.numpy(), twin, rtol=1e-10)
    expected = nmf_loops.objective(twin, m.numpy(), w.numpy(), beta, mu)
    assert nmf.objective(h, m, w, beta, mu).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("mu", [0, 0.7])
@pytest.mark.parametrize("beta", [0, 0.5, 1, 1.5, 2, 3])
def test_agrees_with_scikit_learn(beta, mu):
    """Its solver is private, hence the import inside; h^T plays the part of its W and w^T of its H."""
    from sklearn.decomposition import _nmf

    m, w = problem()
    h = nmf.infer(m, w, 3, beta, mu)
    new = nmf.step(h, m, w, beta, mu)
    arguments = (m.numpy().T.copy(), h.numpy().T.copy(), w.numpy().T.copy())
    theirs = _nmf._multiplicative_update_w(*arguments, beta, mu, 0, nmf.exponent(beta))[0]
    np.testing.assert_allclose(new.numpy(), theirs.T, rtol=1e-10)


@pytest.mark.parametrize("beta", BETAS)
def test_inference_is_start_and_steps_bit_for_bit(beta):
    m, w = problem(batch=(2, 3), frames=400, dtype=torch.float32)
    m.requires_grad_(), w.requires_grad_()
    h = nmf.start(m, w)
    for _ in range(5):
        h = nmf.step(h, m, w, beta, 0.2)
    assert torch.equal(h, nmf.infer(m, w, 5, beta, 0.2))


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_batch_entries_and_blocks_of_frames_do_not_matter(beta):
    m, w = problem(batch=(3,), frames=2 * nmf.BLOCK_FRAMES + 7)
    together = nmf.infer(m, w, 3, beta, 0.2)
    alone = torch.stack([nmf.infer(entry, w, 3, beta, 0.2) for entry in m])
    pieces = torch.cat([nmf.infer(piece, w, 3, beta, 0.2) for piece in m.split(300, -1)], -1)
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(together, pieces, rtol=1e-12, atol=1e-14)


def test_batch_dimensions_broadcast():
    m, w = problem(batch=(3,))
    h = nmf.start(m[0], w)
    torch.testing.assert_close(nmf.step(h, m, w)[1], nmf.step(h, m[1], w))


@pytest.mark.parametrize("beta", BETAS)
def test_column_depends_on_its_own_frame_only(beta):
    m, w = problem()
    changed = m.clone()
    changed[:, 5] *= 3
    difference = (nmf.infer(m, w, 4, beta, 0.2) - nmf.infer(changed, w, 4, beta, 0.2)).abs().sum(0)
    assert difference[5] > 0.01
    assert (torch.cat([difference[:5], difference[6:]]) < 1e-13).all()


@pytest.mark.parametrize("gain_db", [-40, 20])
@pytest.mark.parametrize("beta", BETAS)
def test_activations_scale_with_the_mixture(beta, gain_db):
    """mu is in units of m^(beta-1), so it is free of scale for KL only."""
    m, w = problem(dtype=torch.float32)
    gain = 10 ** (gain_db / 20)
    scaled = nmf.infer(gain * m, w, 10, beta, 0.2 * gain ** (beta - 1))
    torch.testing.assert_close(scaled / gain, nmf.infer(m, w, 10, beta, 0.2), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_the_dtype(beta, dtype):
    m, w = problem(dtype=dtype)
    h = nmf.infer(m, w, 2, beta, 0.2)
    assert h.dtype == nmf.objective(h, m, w, beta).dtype == nmf.readout(h, w, [3, 4]).dtype == dtype


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_silent_frames_get_zero_activations_and_finite_gradients(beta, dtype):
    m, w = problem(dtype=dtype)
    m[:, 2], m[:, 3], m[3, 4] = 0, 1e-42, 0
    m.requires_grad_(), w.requires_grad_()
    h = nmf.start(m, w)
    for _ in range(10):
        h = nmf.step(h, m, w, beta, 1e-3)
    h.sum().backward()
    assert h.isfinite().all() and (h >= 0).all()
    assert (h[:, 2] == 0).all() and (h[:, 3] < 1e-9).all() and (h[:, 4] > 0).any()
    assert m.grad.isfinite().all() and w.grad.isfinite().all()


@pytest.mark.parametrize("beta", BETAS)
def test_denormal_activations_are_flushed_to_zero(beta):
    m, w = problem(dtype=torch.float32)
    h = nmf.start(m, w)
    h[2], h[3] = 1e-40, 0
    h = nmf.step(h, m, w, beta)
    assert (h[2:4] == 0).all() and (h[:2] > 0).all()


@pytest.mark.parametrize("beta", BETAS)
def test_unused_atom_and_silent_bin_stay_finite(beta):
    m, w = problem()
    w[:, 1], m[4], w[4] = 0, 0, 0
    assert nmf.infer(m, w, 5, beta).isfinite().all()


@pytest.mark.parametrize("beta", BETAS)
def test_step_is_differentiable_in_everything(beta):
    m, w = problem(4, 2, 3)
    mu = torch.full((3, 1), 0.2, dtype=torch.float64)

    def two_steps(m, w, mu):
        return nmf.step(nmf.step(nmf.start(m, w), m, w, beta, mu), m, w, beta, mu)

    assert torch.autograd.gradcheck(two_steps, [x.requires_grad_() for x in (m, w, mu)])


def test_given_column_sums_change_nothing():
    m, w = problem()
    h = nmf.start(m, w)
    assert torch.equal(nmf.step(h, m, w), nmf.step(h, m, w, column_sums=w.sum(0).unsqueeze(-1)))


def test_larger_penalty_gives_smaller_activations():
    m, w = problem(20, 15, 30)
    norms = [nmf.infer(m, w, 100, 1.0, mu).sum().item() for mu in (0, 0.5, 2, 8)]
    assert norms[0] > norms[1] > norms[2] > norms[3] > 0


def test_start_has_the_level_of_each_frame():
    m, w = problem(batch=(2,))
    torch.testing.assert_close((w @ nmf.start(m, w)).sum(-2), m.sum(-2))


def test_source_models_sum_to_the_mixture_model():
    m, w = problem(batch=(2,))
    h = nmf.infer(m, w, 3)
    parts = nmf.readout(h, w, [3, 4])
    assert parts.shape == (2, 2, 12, 9)
    torch.testing.assert_close(parts.sum(-3), w @ h)
    torch.testing.assert_close(parts[:, 1], w[:, 3:] @ h[:, 3:])


def test_joining_frames_is_undone_by_splitting():
    x = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    joined = nmf.join_frames(x)
    assert joined.shape == (4, 30)
    assert torch.equal(joined[:, :5], x[0, 0]) and torch.equal(nmf.split_frames(joined, (2, 3)), x)


def test_frames_are_updated_in_blocks():
    frames = 2 * nmf.BLOCK_FRAMES + 1
    parts = nmf._in_blocks(torch.zeros(3, frames))
    assert [part.shape for part in parts] == [(3, nmf.BLOCK_FRAMES), (3, nmf.BLOCK_FRAMES), (3, 1)]
