"""How large the steps of a trained grid are: quantiles of its schedules g = sigmoid(V x + c) on a recording.

    python docs/research/meanfield/schedules.py RECORDING [--model base]

RECORDING is enhanced in torch, without the compiled layer, and all g of all layers, nodes and frames are counted.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from deepnmf_cli import zoo
from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.networks.grid import Grid
from deepnmf_cli.signal.audio import read

CHAINS = ("time", "frequency, upwards", "frequency, downwards", "spins of frames")
"""The chains of a layer in the order in which it computes them."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("recording")
    arguments.add_argument("--model")
    given = arguments.parse_args()
    samples, rate_hz = read(given.recording)
    network, file = zoo.load(given.model)
    assert isinstance(network, Grid)
    algorithm, found = network.unfolded.algorithm, []
    messages = algorithm.messages

    def watched(target: Tensor, schedule: Tensor, start: Tensor, reverse: bool) -> Tensor:
        found.append(torch.sigmoid(schedule).flatten())
        return messages.states(target, schedule, start, reverse)

    network.unfolded.algorithm = replace(algorithm, messages=replace(messages, states=watched), kernel=None)
    Enhancer(TorchBackend(network), file.front_end).enhance(samples, rate_hz)
    for number, name in enumerate(CHAINS):
        g = torch.cat(found[number :: len(CHAINS)]).double().numpy()
        low, middle, high = np.quantile(g, (0.1, 0.5, 0.9))
        print(f"{name}: {len(g)} values, median {middle:.3f}, 10th and 90th percentile {low:.3f}, {high:.3f}")


if __name__ == "__main__":
    main()
