"""Properties that every network has, and what is particular to each."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from deepnmf_cli.inference import nmf, wiener
from deepnmf_cli.networks import NETWORKS, build
from deepnmf_cli.networks.deep_nmf import DeepNmf, DeepNmfSettings, Dnmf, DnmfSettings, SparseNmf, SparseNmfSettings
from deepnmf_cli.networks.dnn import Dnn, DnnSettings
from deepnmf_cli.networks.frame_network import COMPRESSIONS, CompressedFeatures
from deepnmf_cli.signal.level import normalise_level, stack_context

SMALL = {
    "deep-nmf": {"bins": 33, "context": 3, "atoms": 5, "iterations": 4},
    "dnmf": {"bins": 33, "context": 3, "atoms": 5, "iterations": 4},
    "sparse-nmf": {"bins": 33, "context": 3, "atoms": 5, "iterations": 4},
    "dnn": {"bins": 33, "context": 3, "hidden": (16, 16)},
    "grid": {
        "bins": 33,
        "single_bands": 9,
        "wide_bands": 6,
        "channels": 6,
        "iterations": 2,
        "bands_per_node": 3,
        "local_fields": True,
        "frame_spins": 4,
        "frame_channels": 2,
    },
    "recurrent-ista": {"bins": 33, "single_bands": 8, "wide_bands": 8, "context": 2, "atoms": 5, "iterations": 2},
    "recurrent-nmf": {"bins": 33, "single_bands": 8, "wide_bands": 8, "context": 2, "atoms": 5, "iterations": 2},
    "sparse-coding": {"bins": 33, "single_bands": 8, "wide_bands": 8, "context": 2, "atoms": 5, "iterations": 4},
    "rnn": {"bins": 33, "single_bands": 8, "wide_bands": 8, "cell": "lstm", "hidden": 6},
    "grid-rnn": {"bins": 33, "single_bands": 8, "wide_bands": 8, "channels": 6, "iterations": 2},
    "mean-field": {"bins": 33, "context": 3, "hidden": (16, 16)},
    "belief-propagation": {"bins": 33, "context": 3, "hidden": (16, 16)},
    "power-mean": {"bins": 33, "context": 3, "hidden": (16, 16), "schedule": "unit"},
}


SMALL["grid-field"] = SMALL["grid-rnn"] | {"single_bands": 9, "wide_bands": 9}
SMALL["grid-field, outside the theory"] = SMALL["grid-field"] | {
    "tied": False,
    "symmetric": False,
    "accumulating": True,
}
SMALL["grid-fixed"] = SMALL["grid"]
for algorithm in ("fista", "lista", "alista", "hyperlista"):
    SMALL[f"sparse-coding, {algorithm}"] = SMALL["sparse-coding"] | {"algorithm": algorithm, "mask_power": 2.0}
SMALL["sparse-coding, hyperlista-abt"] = SMALL["sparse-coding"] | {"algorithm": "hyperlista-abt", "blocks": 5}
SMALL["sparse-coding, group-ista"] = SMALL["sparse-coding"] | {"algorithm": "group-ista", "blocks": 5}
SMALL["sparse-coding, psista"] = SMALL["sparse-coding"] | {"algorithm": "psista", "period": 3, "sketch_bands": 4}
SMALL |= {
    f"grid, {messages}": SMALL["grid"] | {"messages": messages} for messages in ("geometric", "belief-propagation")
}


def made(name: str):
    kind = name.partition(",")[0]
    return build(kind, NETWORKS[kind][1](**SMALL[name]))


def small(name: str):
    torch.manual_seed(5)
    return made(name).eval().requires_grad_(False)


def magnitude(frames: int = 40, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 33, frames, generator=torch.Generator().manual_seed(1)) ** 3


def test_every_network_is_tested_here() -> None:
    assert {name.partition(",")[0] for name in SMALL} == NETWORKS.keys()
    assert all(NETWORKS[name][0].name == name for name in NETWORKS)


@pytest.mark.parametrize("name", SMALL)
def test_masks_are_nonnegative_and_sum_to_one(name: str) -> None:
    masks, _ = small(name)(magnitude())
    assert masks.shape == (2, 2, 33, 40)
    assert (masks >= 0).all()
    torch.testing.assert_close(masks.sum(1), torch.ones(2, 33, 40), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("cut", [1, 17, 39])
def test_blocks_with_carried_state_equal_the_whole(name: str, cut: int) -> None:
    network, whole = small(name), magnitude()
    first, state = network(whole[..., :cut])
    second, _ = network(whole[..., cut:], state)
    torch.testing.assert_close(torch.cat([first, second], -1), network(whole)[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", SMALL)
def test_masks_are_causal(name: str) -> None:
    network, inputs = small(name), magnitude()
    changed = inputs.clone()
    changed[..., 25:] = 1.0
    torch.testing.assert_close(network(changed)[0][..., :25], network(inputs)[0][..., :25], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("gain_db", [-40, 20])
def test_masks_do_not_depend_on_the_level(name: str, gain_db: float) -> None:
    network, inputs = small(name), magnitude()
    louder = network(inputs * 10 ** (gain_db / 20))[0]
    torch.testing.assert_close(louder, network(inputs)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_silence_gives_finite_masks_before_and_after_sound(name: str) -> None:
    inputs = magnitude()
    inputs[..., :10] = 0
    inputs[..., 20:30] = 0
    masks, _ = small(name)(inputs)
    assert torch.isfinite(masks).all()


@pytest.mark.parametrize("name", SMALL)
def test_weights_rebuild_the_network_exactly(name: str) -> None:
    network = small(name)
    other = made(name)
    other.load_weights(network.weights())
    other.eval().requires_grad_(False)  # PyTorch computes some layers in another order for weights that are trained
    assert torch.equal(other(magnitude())[0], network(magnitude())[0])


@pytest.mark.parametrize("name", [name for name in SMALL if name != "sparse-nmf"])
def test_every_trained_parameter_gets_a_finite_gradient(name: str) -> None:
    network = made(name)
    network(magnitude())[0][:, 0].square().sum().backward()
    flat = "unfolded.bank.support_0."  # of HyperLISTA: training searches it
    trained = [p for n, p in network.named_parameters() if p.requires_grad and not n.startswith(flat)]
    assert trained and all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)


@pytest.mark.parametrize("name", [name for name in SMALL if NETWORKS[name.partition(",")[0]][0].mixed_precision])
def test_networks_of_mixed_precision_learn_in_it(name: str) -> None:
    """Products of a GPU are in bfloat16 then, and every operation on them must take that beside float32."""
    network = made(name)
    with torch.autocast("cpu", torch.bfloat16):
        masks, _ = network(magnitude())
    masks.float().square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_features_of_frames_have_mean_zero_and_variance_one_once_fitted(compression: str) -> None:
    features = CompressedFeatures(5, compression)
    evidence = torch.rand(5, 400, generator=torch.Generator().manual_seed(0)) ** 3
    evidence *= torch.tensor([[0.01], [0.1], [1.0], [5.0], [20.0]])
    features.fit(evidence)
    found = features(torch.cat([evidence, evidence]))  # two frames of context
    torch.testing.assert_close(found.mean(1), torch.zeros(10), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.std(1), torch.ones(10), rtol=0, atol=1e-5)


def test_features_are_logarithms_or_cube_roots() -> None:
    evidence = torch.tensor([[0.0, 0.008, 8.0]])
    for compression, expected in (("log", (evidence + 0.01).log()), ("cube-root", torch.tensor([[0.0, 0.2, 2.0]]))):
        features = CompressedFeatures(1, compression)
        found = features(evidence) * features.deviation + features.mean
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_bins_in_which_nothing_happens_get_a_deviation_that_is_not_tiny() -> None:
    for compression, smallest in (("log", 0.1), ("cube-root", 0.02)):
        features = CompressedFeatures(1, compression)
        features.fit(torch.ones(1, 50))
        assert float(features.deviation) == pytest.approx(smallest)


def test_dropout_silences_hidden_units_in_training_alone_and_keeps_their_mean() -> None:
    network = Dnn(DnnSettings(bins=9, context=2, hidden=(400, 9), dropout=0.25))
    heard: list[torch.Tensor] = []
    for layer in network.layers:
        layer.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    torch.manual_seed(0)
    evidence = torch.rand(18, 50)
    network.frame_masks(evidence)
    network.eval().frame_masks(evidence)
    inputs, first, _, same_inputs, whole, _ = heard
    assert torch.equal(inputs, same_inputs)
    silent = first == 0
    assert 0.23 < silent.float().mean() < 0.27 and not (whole == 0).any()
    torch.testing.assert_close(first[~silent], whole[~silent] / 0.75)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"compression": "sine"}, "log, cube-root"),
        ({"hidden": (4, 0)}, "positive size"),
        ({"hidden": ()}, "positive size"),
    ],
)
def test_settings_of_a_dnn_that_make_no_sense_are_refused(changed: dict, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        DnnSettings(**changed)


def test_features_that_hardly_vary_are_not_blown_up() -> None:
    features, draw = CompressedFeatures(3, "log"), torch.Generator().manual_seed(0)
    features.fit((torch.tensor([[0.0], [0.05], [0.15]]) * torch.randn(3, 9999, generator=draw)).exp())
    torch.testing.assert_close(features.deviation, torch.tensor([[0.1], [0.1], [0.15]]), rtol=0.03, atol=0)


def test_untrained_sigmoid_layers_keep_the_spread_of_signals() -> None:
    """Glorot's variance of 2/(inputs + outputs), times 4 squared behind a sigmoid, whose slope is a quarter."""
    network = Dnn(DnnSettings(bins=300, context=1, hidden=(300, 300)))
    deviations = [layer.weight.std().item() for layer in network.layers]
    torch.testing.assert_close(deviations, [600**-0.5 * 2**0.5, *[4 * 600**-0.5 * 2**0.5] * 2], rtol=0.02, atol=0)
    assert not any(layer.bias.any() for layer in network.layers)


GRAM = 10 * 10 * 32
"""Of ten atoms with 32 numbers each, once for all frames."""
UNCOUNTED = {
    **dict.fromkeys(("deep-nmf", "dnmf", "sparse-nmf", "dnn", "grid", "recurrent-nmf", "grid-rnn", "mean-field"), 0),
    "recurrent-ista": 2 * GRAM,
    # And the start multiplies the evidence as the first step does.
    **dict.fromkeys(("sparse-coding", "sparse-coding, fista"), 4 * GRAM + 80 * 10 * 32),
}


@pytest.mark.parametrize("name", UNCOUNTED)
def test_multiply_adds_of_a_frame_are_those_that_torch_counts(name: str) -> None:
    """But for what a graph computes once; of recurrent cells torch counts none."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        small(name)(magnitude(frames=40, batch=2))
    assert 80 * small(name).macs_per_frame() == counter.get_total_flops() / 2 - UNCOUNTED[name]


def test_grid_observes_the_cube_root_of_bands_or_nearly() -> None:
    """The power of 0.3 is part of the trained models: others would hear another loudness."""
    network = small("grid")
    observed = []
    network._observe = lambda stacked, observe=network._observe: observed.append(stacked) or observe(stacked)
    evidence = magnitude()
    network.masks(evidence, None)
    torch.testing.assert_close(observed[0][:, -network.pool(evidence).shape[1] :], network.pool(evidence) ** 0.3)


def test_no_trained_layer_is_sparse_nmf_bit_for_bit() -> None:
    settings = SparseNmfSettings(**SMALL["sparse-nmf"])
    dictionary = torch.rand(99, 10)
    dictionary = dictionary / dictionary.norm(dim=0)
    evidence, _ = normalise_level(magnitude())
    stacked, _ = stack_context(evidence, 3)
    activations = nmf.infer(stacked, dictionary, 4, settings.beta, settings.sparsity)
    expected = wiener.masks(nmf.readout(activations, dictionary[-33:], (5, 5)))
    for network in (SparseNmf(settings, dictionary), Dnmf(DnmfSettings(**SMALL["dnmf"]), dictionary)):
        assert torch.equal(network(magnitude())[0], expected)
    assert not any(p.requires_grad for p in SparseNmf(settings, dictionary).parameters())


@pytest.mark.parametrize("layers,trained", [(1, 33 * 10), (2, 33 * 10 + 990), (5, 33 * 10 + 4 * 990)])
def test_number_of_trained_parameters_follows_the_trained_layers(layers: int, trained: int) -> None:
    settings = DeepNmfSettings(**SMALL["deep-nmf"], trained_layers=layers)
    assert DeepNmf(settings).parameter_counts()[1] == trained


def test_one_of_each_is_enough() -> None:
    network = DeepNmf(DeepNmfSettings(bins=1, context=1, atoms=1, iterations=1, trained_layers=2))
    assert network(torch.rand(1, 1, 5))[0].shape == (1, 2, 1, 5)


def test_one_tied_dictionary_is_trained_once() -> None:
    assert DeepNmf(DeepNmfSettings(**SMALL["deep-nmf"], tied=True)).parameter_counts() == (990, 990)


@pytest.mark.parametrize(
    "wrong", [{"trained_layers": 99}, {"atoms": 0}, {"beta": 3.01}, {"beta": -1.01}, {"sparsity": -1.0}]
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        dataclasses.replace(DeepNmfSettings(), **wrong)


@pytest.mark.parametrize("beta", [-1.0, -0.5, 3.0])
def test_divergences_from_minus_one_to_three_are_taken(beta: float) -> None:
    assert DeepNmfSettings(beta=beta, sparsity=0.0).beta == beta


def test_matrices_of_a_dnn_are_trained_in_half_precision_and_dictionaries_are_not() -> None:
    """It has no room for the floor below divisions."""
    half = {name for name, (network, _) in NETWORKS.items() if network.mixed_precision}
    assert "dnn" in half and not half & {"deep-nmf", "dnmf", "sparse-nmf"}


def test_a_fixed_schedule_is_one_whose_couplings_to_the_data_are_zero() -> None:
    fixed, gated = small("grid-fixed"), small("grid")
    weights = fixed.weights()
    for name, value in weights.items():
        if name.startswith(("time_weight", "frame_weight")):
            weights[name] = torch.cat([value, torch.zeros_like(value)])
        if name.startswith("frequency_weight"):
            up, down = value.chunk(2)
            weights[name] = torch.cat([up, torch.zeros_like(up), down, torch.zeros_like(down)])
    gated.load_weights(weights)
    assert torch.equal(fixed(magnitude())[0], gated(magnitude())[0])


def test_a_grid_with_fixed_schedules_takes_what_fits_of_one_without() -> None:
    fixed, gated = small("grid-fixed"), small("grid")
    taken = fixed.fitting(gated.weights()).keys()
    assert gated.weights().keys() - taken == {
        f"{chain}_weight_{layer}" for chain in ("time", "frequency", "frame") for layer in range(2)
    }


def test_grid_without_schedule_or_couplings_in_time_forgets_the_past() -> None:
    network = small("grid")
    for name, value in network.weights().items():
        if name.startswith(("time_weight", "frame_weight")):
            value[value.shape[0] // 2 :] = 0
        if name.startswith(("time_bias", "frame_bias")):
            value[..., value.shape[-1] // 2 :] = 100.0  # logit of a schedule of one: synchronous updates
        network.load_weights(network.weights() | {name: value})
    inputs = magnitude()
    late = network(inputs)[0][..., -1]
    evidence, _ = normalise_level(inputs)
    alone = network.masks(evidence[..., -network.settings.context :], None)[0][..., -1]
    torch.testing.assert_close(alone, late, rtol=0, atol=1e-5)
