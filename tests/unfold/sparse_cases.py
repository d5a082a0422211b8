"""Algorithms of sparse coding beside one-sided ISTA and FISTA, as cases of `test_algorithms`: the fields of each, by
name.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deepnmf_cli.inference import alista, cancellation, fista, group_ista, hyperlista, ista, lista, nmf, psista, wiener
from deepnmf_cli.inference.algorithm import Parameter
from deepnmf_cli.inference.over_frequency import OverFrequency, interpolation

BINS, ATOMS, FRAMES = 12, (4, 3), 9
CONSTANTS = (0.03, 0.01, 0.1)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(columns: Tensor) -> Tensor:
    return columns / columns.norm(dim=0)


MIXTURE, SIGNED = draw(BINS, FRAMES, seed=1), 2 * draw(BINS, FRAMES, seed=7) - 1
POSITIVE_ATOMS, SIGNED_ATOMS = unit(draw(BINS, sum(ATOMS))), unit(2 * draw(BINS, sum(ATOMS), seed=6) - 1)
WIDE = unit(draw(BINS, 16, seed=8))
SKETCH = unit(draw(BINS, 5, seed=9)).mT
ORTHONORMAL = torch.linalg.qr(2 * draw(BINS, 5, seed=10) - 1).Q.mT

Infer = Callable[[Tensor, Tensor, int], Tensor]
"""Activations after so many iterations, from evidence and dictionary."""


def declared(*given: Tensor) -> Callable[[Any, int], dict[str, Parameter]]:
    return lambda algorithm, iterations: algorithm.parameters(iterations, *given)


def positive(algorithm: Any, infer: Infer, **more: Any) -> dict[str, Any]:
    """The fields of a case."""

    def classical(layers: list[dict], k: int) -> Tensor:
        models = nmf.readout(infer(MIXTURE, POSITIVE_ATOMS, k), POSITIVE_ATOMS, ATOMS)
        return wiener.masks(models.pow(algorithm.mask_power))

    return {
        "algorithm": algorithm, "declared": declared(POSITIVE_ATOMS), "evidence": MIXTURE, "classical": classical,
    } | more  # fmt: skip


def signed(algorithm: Any, infer: Infer, **more: Any) -> dict[str, Any]:
    """The same with activations of both signs."""

    def classical(layers: list[dict], k: int) -> Tensor:
        return wiener.masks(nmf.readout(infer(SIGNED, SIGNED_ATOMS, k), SIGNED_ATOMS, ATOMS).abs())

    return {
        "algorithm": algorithm, "declared": declared(SIGNED_ATOMS), "evidence": SIGNED, "classical": classical,
    } | more  # fmt: skip


def in_order() -> Tensor:
    """The wide dictionary with the atoms of each source in the order of their centres."""
    centres = (torch.arange(BINS)[:, None] * WIDE**2).sum(0) / (WIDE**2).sum(0)
    return WIDE[:, [r for source in (range(8), range(8, 16)) for r in sorted(source, key=lambda r: centres[r])]]


def group_lasso(layers: list[dict], k: int) -> Tensor:
    d = in_order()
    return wiener.masks(nmf.readout(group_ista.infer(MIXTURE, d, k, 0.02, 0.05, 4), d, (8, 8)))


def by_blocks(layers: list[dict], k: int) -> Tensor:
    """HyperLISTA with atoms in the order of their centres, block by block and frame by frame."""
    d = in_order()
    pseudo = torch.linalg.pinv(d)
    scale = 1 / (pseudo @ d).diagonal()[:, None]
    h = before = torch.zeros(16, FRAMES).double()
    whole = pseudo @ MIXTURE
    for _ in range(k):
        error = pseudo @ (d @ h - MIXTURE)
        z = h - scale * error + 0.01 * (h != 0).double().sum(0) * (h - before)
        after = torch.zeros_like(h)
        for rows in torch.arange(16).split(4):
            left = error[rows].abs().sum(0)
            share = (0.9 * torch.log(whole[rows].abs().sum(0) / left)).clamp(0, 1)
            for t in range(FRAMES):
                shrunk = (z[rows, t] - 0.03 * left[t]).clamp_min(0)
                for place in z[rows, t].argsort(descending=True)[: int(4 * share[t])].tolist():
                    if z[rows[place], t] >= 0.03 * left[t]:
                        shrunk[place] = z[rows[place], t]
                after[rows, t] = shrunk
        h, before = after, h
    return wiener.masks(nmf.readout(h, d, (8, 8)))


STORED, WANTED = torch.arange(BINS).double(), torch.tensor([0.0, 1.0, 2.5, 4.25, 8.0, 11.0]).double()


def over_frequency(layers: list[dict], k: int) -> Tensor:
    """ISTA with atoms of each frame between two stored frequencies, row by row."""
    rows = [
        POSITIVE_ATOMS[[0, 1]],
        POSITIVE_ATOMS[2:4].mean(0)[None],
        0.75 * POSITIVE_ATOMS[[4]] + 0.25 * POSITIVE_ATOMS[[5]],
    ]
    d = torch.cat([*rows, POSITIVE_ATOMS[[8, 11]]])
    x, h = MIXTURE[:6], torch.zeros(sum(ATOMS), FRAMES).double()
    for _ in range(k):
        h = ista.step(h, d.mT @ x, d.mT @ d, ista.largest_rate(POSITIVE_ATOMS), 0.02)
    return wiener.masks(nmf.readout(h, d, ATOMS))


def cancelled(algorithm: cancellation.Cancellation, x: Tensor, d: Tensor) -> Callable[[list[dict], int], Tensor]:
    """Each source explains what the model of the other one leaves, noise first, in full spectra."""
    (speech, noise), signed = d.split(list(ATOMS), 1), algorithm.signed

    def explain(h: Tensor, own: Tensor, left: Tensor) -> Tensor:
        rate = 1 / torch.linalg.svdvals(own)[0] ** 2
        z = h - rate * (own.mT @ (own @ h - left))
        return z.sign() * (z.abs() - 0.02 * rate).clamp_min(0) if signed else (z - 0.02 * rate).clamp_min(0)

    def run(layers: list[dict], k: int) -> Tensor:
        h_speech, h_noise = (torch.zeros(count, FRAMES).double() for count in ATOMS)
        for _ in range(k):
            h_noise = explain(h_noise, noise, x - speech @ h_speech)
            h_speech = explain(h_speech, speech, x - noise @ h_noise)
        models = torch.stack([speech @ h_speech, noise @ h_noise])
        return wiener.masks(models.abs() if signed else models)

    return run


def of_ista(x: Tensor, d: Tensor, k: int) -> Tensor:
    return ista.infer(x, d, k, 0.02)


def of_signed_ista(x: Tensor, d: Tensor, k: int) -> Tensor:
    return ista.infer(x, d, k, 0.02, signed=True)


CANCELLATION = cancellation.Cancellation(BINS, ATOMS)
SIGNED_CANCELLATION = cancellation.Cancellation(BINS, ATOMS, signed=True)

SEARCHED = {"flat": ("support",)}

SPARSE_CASES = {
    "ista, signed": signed(ista.Ista(BINS, ATOMS, signed=True), of_signed_ista),
    "ista, sharper masks": positive(ista.Ista(BINS, ATOMS, mask_power=3.0), of_ista),
    "ista, last 2": positive(ista.Ista(BINS, ATOMS), of_ista, last=2),
    "ista, over frequency": {
        "algorithm": OverFrequency(ista.Ista(6, ATOMS), interpolation(STORED, WANTED)), "evidence": MIXTURE[:6],
        "declared": declared(POSITIVE_ATOMS), "classical": over_frequency,
    },
    "fista, signed": signed(
        fista.Fista(BINS, ATOMS, signed=True), lambda x, d, k: fista.infer(x, d, k, 0.02, signed=True)
    ),
    "fista, last 2": positive(fista.Fista(BINS, ATOMS), lambda x, d, k: fista.infer(x, d, k, 0.02), last=2),
    "lista": positive(lista.Lista(BINS, ATOMS), of_ista),
    "lista, tied": positive(lista.Lista(BINS, ATOMS), of_ista, tied=True),
    "lista, last 2": positive(lista.Lista(BINS, ATOMS), of_ista, last=2),
    "lista, signed": signed(lista.Lista(BINS, ATOMS, signed=True), of_signed_ista),
    "alista": positive(
        alista.Alista(BINS, ATOMS, support_growth=0.2), lambda x, d, k: alista.infer(x, d, k, 0.02, 0.2)
    ),
    "alista, signed": signed(
        alista.Alista(BINS, ATOMS, signed=True, ridge=0.1),
        lambda x, d, k: alista.infer(x, d, k, 0.02, 0.012, 0.1, signed=True),
    ),
    "hyperlista": positive(
        hyperlista.Hyperlista(BINS, ATOMS), lambda x, d, k: hyperlista.infer(x, d, k, CONSTANTS), **SEARCHED
    ),
    "hyperlista, signed": signed(
        hyperlista.Hyperlista(BINS, ATOMS, signed=True, ridge=0.1),
        lambda x, d, k: hyperlista.infer(x, d, k, CONSTANTS, ridge=0.1, signed=True), **SEARCHED,
    ),
    "hyperlista-abt": {
        "algorithm": hyperlista.HyperlistaAbt(BINS, (8, 8), support=0.9, blocks=2), "declared": declared(WIDE),
        "evidence": MIXTURE, "classical": by_blocks, **SEARCHED,
    },
    "cancellation": {
        "algorithm": CANCELLATION, "declared": declared(POSITIVE_ATOMS), "evidence": MIXTURE,
        "classical": cancelled(CANCELLATION, MIXTURE, POSITIVE_ATOMS),
    },
    "cancellation, signed": {
        "algorithm": SIGNED_CANCELLATION, "declared": declared(SIGNED_ATOMS), "evidence": SIGNED,
        "classical": cancelled(SIGNED_CANCELLATION, SIGNED, SIGNED_ATOMS),
    },
    "cancellation, last 2": positive(
        CANCELLATION, lambda x, d, k: cancellation.infer(x, d, k, 0.02, ATOMS), last=2
    ),
    "group-ista": {
        "algorithm": group_ista.GroupIsta(BINS, (8, 8), blocks=2, group_sparsity=0.05), "declared": declared(WIDE),
        "evidence": MIXTURE, "classical": group_lasso,
    },
    "psista": positive(
        psista.Psista(BINS, ATOMS, period=3), lambda x, d, k: psista.infer(x, d, SKETCH, k, 3, 0.02),
        declared=declared(POSITIVE_ATOMS, SKETCH),
    ),
    "psista, tied": positive(
        psista.Psista(BINS, ATOMS, period=2), lambda x, d, k: psista.infer(x, d, SKETCH, k, 2, 0.02),
        declared=declared(POSITIVE_ATOMS, SKETCH), tied=True,
    ),
    "psista, common": positive(
        psista.Psista(BINS, ATOMS, period=3, sketch="common"),
        lambda x, d, k: psista.infer(x, d, ORTHONORMAL, k, 3, 0.02), declared=declared(POSITIVE_ATOMS, ORTHONORMAL),
    ),
    "psista, common, signed": signed(
        psista.Psista(BINS, ATOMS, period=2, sketch="common", signed=True),
        lambda x, d, k: psista.infer(x, d, ORTHONORMAL, k, 2, 0.02, signed=True),
        declared=declared(SIGNED_ATOMS, ORTHONORMAL), tied=True,
    ),
}  # fmt: skip

TO_ROUNDING = {name for name in SPARSE_CASES if name.startswith("lista")} | {
    "hyperlista-abt",
    "ista, over frequency",
    "cancellation",
    "cancellation, signed",
}
"""Whose twin is another formula."""
