"""Inpainting by GLOW-Prox with and without descent constraints, reduced from the second experiment of arXiv:2312.15788.

    python docs/research/descent/glow.py run OUT     # trains the flow and the networks that have no rows in OUT yet
    python docs/research/descent/glow.py draw OUT    # the figures

Images are grey patches of 16 x 16 pixels of the two photographs that scikit-learn ships; see index.md.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from descent import append, read
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepnmf_cli.checkpoint import atomic_path
from deepnmf_cli.inference.glow import Glow
from deepnmf_cli.inference.glow_prox import GlowProx, Masked
from deepnmf_cli.training.primal_dual import Multipliers, slack
from deepnmf_cli.unfold.network import Bank, Unfolded

SIDE, HOLE, LAYERS, GREYS = 16, 6, 4, 32
FLOW = GlowProx(Glow(channels=1, levels=2, steps=4, width=32))
NOISES = (0.0, 0.3, 1.0, 3.0)
"""Norms of the noise that is added to what layers get from each other at test time; images have a norm of about 4."""
DUAL_RATE = 0.01
MAP_STEPS, MAP_RATE = 300, 0.02


@dataclass(frozen=True)
class Plan:
    """How the layers of a network are trained, from those of the flow that was fitted to whole images."""

    constrained: bool = False
    epsilon: float = 0.05
    noise: bool = False
    deep: bool = False
    """The mean of the losses of all layers."""


PLANS = {
    "plain": Plan(),
    "constraints": Plan(constrained=True),
    "noise": Plan(noise=True),
    "constraints and noise": Plan(constrained=True, noise=True),
    "deep supervision": Plan(deep=True),
}


def images(draw: torch.Generator) -> dict[str, Tensor]:
    """Patches (N, 1, 16, 16) in [-0.5, 0.5) of 32 greys with noise of one step; training and test come from stripes of
    the photographs with a gap between them."""
    from sklearn.datasets import load_sample_images

    found: dict[str, list[Tensor]] = {"train": [], "test": []}
    for image in load_sample_images().images:
        grey = torch.from_numpy(image @ np.array([0.299, 0.587, 0.114]) / 256).float()
        for part, (first, last), count in (("train", (0, 480), 8192), ("test", (496, 640), 500)):
            stripe = grey[:, first:last].unfold(0, SIDE, 1).unfold(1, SIDE, 1).flatten(0, 1)
            found[part].append(stripe[torch.randperm(len(stripe), generator=draw)[:count]])
    stacked = {part: torch.cat(x)[:, None] for part, x in found.items()}
    return {
        part: ((x * GREYS).floor() + torch.rand(x.shape, generator=draw)) / GREYS - 0.5 for part, x in stacked.items()
    }


def with_hole(x: Tensor) -> Masked:
    known, first = torch.ones(1, 1, SIDE, SIDE), (SIDE - HOLE) // 2
    known[..., first : first + HOLE, first : first + HOLE] = 0
    return known * x, known.expand(len(x), -1, -1, -1)


def fitted_flow(x: Tensor, steps: int, draw: torch.Generator) -> dict[str, Tensor]:
    """A flow of maximum likelihood."""
    glow = FLOW.glow
    weights = {k: v.requires_grad_() for k, v in glow.from_data(glow.initial(draw), x[:512]).items()}
    optimiser = torch.optim.Adam(weights.values())
    for step in range(steps):
        rate(optimiser, 1e-3, step, steps)
        loss = glow.negative_log_likelihood(x[torch.randint(len(x), (64,), generator=draw)], weights).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 50.0)
        optimiser.step()
        if step % 200 == 0:
            print(f"flow, step {step}: {loss.item() / x[0].numel():.3f} nats a pixel", flush=True)
    return {k: v.detach() for k, v in weights.items()}


def rate(optimiser: torch.optim.Optimizer, highest: float, step: int, steps: int) -> None:
    for group in optimiser.param_groups:
        group["lr"] = highest * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * step / steps)))


Disturb = Callable[[int, Tensor], Tensor] | None


def noisy(norm: float, draw: torch.Generator, falling: bool) -> Disturb:
    """What adds noise of a norm to all that a layer gets from the one before, with 1/(k + 1) of it behind layer k."""
    if not norm:
        return None

    def disturb(k: int, x: Tensor) -> Tensor:
        if k == LAYERS:
            return x
        noise = torch.randn(x.shape, generator=draw)
        size = norm / (k + 1) if falling else norm
        return x + size * noise / noise.flatten(1).norm(dim=1)[:, None, None, None]

    return disturb


def walk(made: Unfolded, evidence: Masked, disturb: Disturb = None) -> list[Tensor]:
    """[x_0, ..., x_K], each before any noise on it."""
    with made.remembered(disturb) as trace:
        state = made.start(evidence)
        for _ in made.states(evidence, state):
            pass
    return [state, *(trace.states[k] for k in range(1, LAYERS + 1))]


def train(plan: Plan, x: Tensor, flow: dict[str, Tensor], steps: int, seed: int) -> tuple[Unfolded, list[dict]]:
    """The network after the last step, and its multipliers on the way."""
    draw = torch.Generator().manual_seed(seed)
    made = Unfolded(FLOW, LAYERS, Bank.declared(FLOW.parameters(LAYERS, flow), LAYERS))
    optimiser, rows = torch.optim.Adam(made.parameters()), []
    multipliers = [Multipliers(LAYERS - 1, DUAL_RATE) for _ in range(2)]
    disturb = noisy(float(plan.noise), draw, falling=True)
    for step in range(steps):
        rate(optimiser, 1e-4, step, steps)
        given = x[torch.randint(len(x), (32,), generator=draw)]
        evidence = with_hole(given)
        states = walk(made, evidence, disturb)
        losses = torch.stack([(state - given).square().flatten(1).sum(1).mean() for state in states[1:]])
        loss = losses.mean() if plan.deep else losses[-1]
        if plan.constrained:
            lengths = zip(*(FLOW.gradients(evidence, state, flow) for state in states[1:]), strict=True)
            for name, own, by_layer in zip(("image", "code"), multipliers, lengths, strict=True):
                found = slack(torch.stack([length.mean() for length in by_layer]), plan.epsilon)
                loss = own.lagrangian(loss, found)
                own.ascend(found)
                if step % (steps // 50 or 1) == 0 or step == steps - 1:
                    rows += [
                        {"step": step, "gradient": name, "layer": k, "multiplier": m, "slack": c}
                        for k, m, c in zip(range(2, LAYERS + 1), own.values.tolist(), found.tolist(), strict=True)
                    ]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimiser.step()
    return made, rows


def psnr_db(x: Tensor, truth: Tensor) -> float:
    """Of the hole, for images that span 1: from the mean squared error of all images, as one picture."""
    missing = with_hole(torch.ones_like(truth))[1] == 0
    return float(-10 * (x - truth)[missing].square().mean().log10())


def by_diffusion(evidence: Masked) -> Tensor:
    """The hole filled by the harmonic function that its border determines."""
    observed, known = evidence
    x = observed.clone()
    for _ in range(300):
        around = sum(torch.roll(x, shift, dims) for dims in (2, 3) for shift in (1, -1)) / 4
        x = known * observed + (1 - known) * around
    return x


def by_descent(evidence: Masked, flow: dict[str, Tensor], begin: Tensor) -> Tensor:
    """The most likely image by the flow: f minimised in x by Adam."""
    x = begin.clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=MAP_RATE)
    for _ in range(MAP_STEPS):
        optimiser.zero_grad()
        FLOW.objective(evidence, x, flow).sum().backward()
        optimiser.step()
    return x.detach()


def judge(name: str, made: Unfolded, truth: Tensor, flow: dict[str, Tensor], seed: int) -> dict[str, list[dict]]:
    evidence, draw = with_hole(truth), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        states = walk(made, evidence)
        cost = torch.stack([FLOW.objective(evidence, state, flow) for state in states])
    lengths = [[x.detach() for x in FLOW.gradients(evidence, state, flow)] for state in states]
    falls = cost[1:] <= cost[:-1]
    layers = [
        {
            "network": name, "layer": k, "psnr_db": psnr_db(state, truth), "objective": float(cost[k].median()),
            "image_gradient": float(lengths[k][0].median()), "code_gradient": float(lengths[k][1].median()),
            "descend": float(falls[k - 1].float().mean()) if k else "",
            "descend_so_far": float(falls[:k].all(0).float().mean()) if k else "",
        }
        for k, state in enumerate(states)
    ]  # fmt: skip
    with torch.no_grad():
        noise = [
            {"network": name, "noise": n, "psnr_db": psnr_db(walk(made, evidence, noisy(n, draw, False))[-1], truth)}
            for n in NOISES
        ]
    return {"layers": layers, "noise": noise}


def run(folder: Path, flow_steps: int, steps: int, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found = images(torch.Generator().manual_seed(seed))
    done, path = {row["network"] for row in read(folder / "layers.csv")}, folder / "flow.safetensors"
    if not path.is_file():
        flow = fitted_flow(found["train"], flow_steps, torch.Generator().manual_seed(seed))
        with atomic_path(path) as partial:
            save_file(flow, partial)
    flow, truth = load_file(path), found["test"]
    likelihood = FLOW.glow.negative_log_likelihood(truth, flow).mean().item() / truth[0].numel()
    print(f"flow: {likelihood:.3f} nats a pixel of the test images", flush=True)
    if not read(folder / "fixed.csv"):
        evidence = with_hole(truth)
        filled = by_diffusion(evidence)
        mean = evidence[0] + (1 - evidence[1]) * found["train"].mean()
        likely = by_descent(evidence, flow, filled)
        rows = {"mean grey": mean, "diffusion": filled, f"most likely, {MAP_STEPS} steps from diffusion": likely}
        append(folder / "fixed.csv", [{"method": name, "psnr_db": psnr_db(x, truth)} for name, x in rows.items()])
    for name, plan in {"untrained": Plan(), **PLANS}.items():
        if name in done:
            continue
        begin = time.process_time()
        made, rows = train(plan, found["train"], flow, 0 if name == "untrained" else steps, seed)
        tables = judge(name, made, truth, flow, seed)
        append(folder / "multipliers.csv", [{"network": name, **row} for row in rows])
        for table, its in tables.items():
            append(folder / f"{table}.csv", its)
        last = tables["layers"][-1]
        print(
            f"{name}: {last['psnr_db']:.2f} dB, {last['descend_so_far']:.1%} descend in all layers,"
            f" {time.process_time() - begin:.0f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "draw"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--flow-steps", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "draw":
        from figures import draw_inpainting

        draw_inpainting(given.folder)
    else:
        run(given.folder, given.flow_steps, given.steps, given.seed)


if __name__ == "__main__":
    main()
