"""The paper's set-up: windows, rooms that are kept apart, mixtures at their SNR, (38) over many batches, tables."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch

from deepnmf_cli.networks.deep_nmf import DeepNmf, DeepNmfSettings
from deepnmf_cli.training import minibatch

RESEARCH = Path(__file__).parent.parent.parent / "docs/research"
NOISE = np.random.default_rng(0)


@pytest.fixture(scope="module")
def research():
    """Scripts can be imported from their folder."""
    largest = minibatch.LARGEST_STATE_BYTES
    sys.path.insert(0, str(RESEARCH))
    yield
    sys.path.remove(str(RESEARCH))
    minibatch.LARGEST_STATE_BYTES = largest


@pytest.fixture(scope="module")
def paper(research) -> ModuleType:
    import paper

    return paper


@pytest.fixture(scope="module")
def tables(research) -> ModuleType:
    from ladder import tables

    return tables


def test_windows_of_25_ms_every_10_ms_give_the_samples_back(paper) -> None:
    samples = torch.from_numpy(NOISE.standard_normal((2, 3, 5000)))
    spectrum = paper.Pair().analysis(samples)
    assert spectrum.shape == (2, 3, 201, 32)
    torch.testing.assert_close(paper.Pair().synthesis(spectrum[1, 2], 5000), samples[1, 2].float(), rtol=0, atol=1e-5)
    tone = torch.cos(2 * torch.pi * 1000 * torch.arange(16000) / 16000)
    assert paper.Pair().analysis(tone).abs()[25, 50] == pytest.approx(0.5, rel=1e-3)  # 1 kHz is the bin 25 of 40 Hz


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two mixtures at 3 and -6 dB, and fourteen rooms."""
    (tmp_path / "rir").mkdir()
    for i in range(14):
        response = np.zeros(400)
        response[[0, 50 + i]] = 0.9, 0.5
        soundfile.write(tmp_path / f"rir/{i:02}.wav", response, 16000)
    for kind in ("clean", "noisy"):
        (tmp_path / "test" / kind).mkdir(parents=True)
    lines = ["name,snr_db,speaker,noise"]
    for name, snr_db in (("a", 3), ("b", -6)):
        clean, noise = 0.1 * NOISE.standard_normal((2, 8000))
        soundfile.write(tmp_path / f"test/clean/{name}.flac", clean, 16000, "PCM_24")
        soundfile.write(tmp_path / f"test/noisy/{name}.flac", clean + 0.2 * noise, 16000, "PCM_24")
        lines.append(f"{name},{snr_db},someone,something")
    (tmp_path / "test/mixtures.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_rooms_of_train_dev_and_test_are_others(paper, corpus: Path) -> None:
    parts = [{path.name for path in paper.rooms(corpus, part)} for part in ("train", "dev", "test")]
    assert [len(part) for part in parts] == [10, 2, 2] and len(set.union(*parts)) == 14


def test_mixtures_hold_speech_in_a_room_at_their_snr(paper, corpus: Path) -> None:
    for (wet, noisy), snr_db, room in zip(paper.reverberant(corpus, "test"), (3, -6), (6, 13), strict=True):
        assert 10 * np.log10(np.mean(wet**2) / np.mean((noisy - wet) ** 2)) == pytest.approx(snr_db, abs=1e-3)
        name = "ab"[snr_db < 0]
        clean, _ = soundfile.read(corpus / f"test/clean/{name}.flac")
        lag = 50 + room
        expected = clean + np.concatenate([np.zeros(lag), 0.5 / 0.9 * clean[:-lag]])
        assert np.corrcoef(wet, expected)[0, 1] > 0.9999


def test_fixed_layers_are_run_once_and_scores_stay_the_same(paper, corpus: Path, monkeypatch) -> None:
    torch.manual_seed(0)
    shape = {"bins": 201, "context": 9, "atoms": 4, "iterations": 5}
    network = DeepNmf(DeepNmfSettings(**shape, trained_layers=2))
    kept = list(paper.examples(network, corpus, "test"))
    monkeypatch.setattr(DeepNmf, "fixed_layers", 0)  # every layer is run at every visit
    whole = list(paper.examples(network, corpus, "test"))
    assert [example.fixed is None for example in kept + whole] == [False, False, True, True]
    found = [paper.scores(network, mixed, ("SDR",))["SDR"] for mixed in (kept, whole)]
    np.testing.assert_allclose(*found, atol=2e-3)
    assert found[0][0] != found[0][1]


class Store:
    """Batches by number: two, each of one mixture."""

    def __init__(self, network: DeepNmf) -> None:
        draw = torch.Generator().manual_seed(1)
        spectra = torch.randn(2, 1, 2, 201, 8, 2, generator=draw)
        self.batches = []
        for pair in torch.view_as_complex(spectra):
            evidence = pair.sum(1)[0].abs()
            fixed = network.fixed_state(evidence)
            self.batches.append(minibatch.FrameBatch(evidence, pair, fixed))

    def __getitem__(self, index: int) -> minibatch.FrameBatch:
        return self.batches[index]


def test_the_printed_update_multiplies_by_sums_of_parts_over_batches(paper) -> None:
    torch.manual_seed(0)
    network = DeepNmf(DeepNmfSettings(bins=201, context=1, atoms=4, iterations=3, trained_layers=2))
    training = object.__new__(paper.Training)
    training.plan, training.distinct = {"printed": {"batches": 2}}, 2
    training.rule = paper.MultiplicativeDescent(network, paper.OBJECTIVE, "multiplicative", momentum=0.0)
    training.network, training.store = network, Store(network)
    both = [training.rule.parts(batch)[0] for batch in training.store.batches]
    before = {slot: network.unfolded.bank.value("dictionary", slot).detach() for slot in training.rule.slots}
    for update in range(2):  # the second one forgets the first
        if update:
            both = [training.rule.parts(batch)[0] for batch in training.store.batches]
            before = {slot: network.unfolded.bank.value("dictionary", slot).detach() for slot in training.rule.slots}
        training._printed(0)
        for slot, weight in before.items():
            one, two = (parts[f"dictionary_{slot}"] for parts in both)
            expected = weight * (one.negative + two.negative) / (one.positive + two.positive)
            torch.testing.assert_close(
                network.unfolded.bank.value("dictionary", slot).detach(), expected, rtol=1e-3, atol=1e-6
            )


def kept(family: str, size: int, sdr: list[float], context: int = 9) -> dict:
    return {
        "family": family, "size": size, "context": context, "layers": 2, "settings": {"training.learning_rate": 0.1},
        "parameters": size + 7, "macs_per_s": 2e6, "best_step": 1800, "level": True, "cpu_seconds": 90.0,
        "dev_si_sdr": sum(sdr) / len(sdr), "dev": {"SDR": sdr},
    }  # fmt: skip


def test_tables_compare_the_same_files_and_give_intervals_over_clusters(tables) -> None:
    files = {"snr_db": ["0", "0", "3", "3"], "speaker": list("abab"), "noise": list("xyyx")}
    results = {
        "dev": files, "test": files,
        "runs": {
            "dnn-50-t9-seed1": kept("dnn", 50, [1.0, 2.0, 3.0, 4.0]),
            "dnn-50-t1-seed1": kept("dnn", 50, [0.0, 0.0, 0.0, 0.0], 1),
            "deep-nmf-50-t9-seed1": kept("deep-nmf", 50, [2.0, 3.0, 4.0, 6.0]),
            "deep-nmf-50-t9-seed2": kept("deep-nmf", 50, [2.0, 3.0, 4.0, 4.0]),
            "dnn-50-trial1": {**kept("dnn", 50, [0.5]), "dev_si_sdr": 0.5},
            "dnn-50-trial2": {**kept("dnn", 50, [0.7]), "dev_si_sdr": 0.7, "layers": 3},
        },
    }  # fmt: skip
    leads = tables.leads_table(results, "dev").splitlines()
    assert leads[0].endswith("| 50 |") and leads[2].startswith("| 50 | +1.00 [1.00, 1.00]")
    assert tables.leads_table(results, "test") == "" == tables.same_size_table(results)
    scored = {"dev": files, "test": files, "runs": {name: dict(run) for name, run in results["runs"].items()}}
    for name, lead in (("deep-nmf-50-t9-seed1", 1.0), ("dnn-50-t9-seed1", 0.0)):  # the second seed is not scored
        scored["runs"][name]["test"] = {
            metric: [lead + x for x in (1.0, 2.0, 3.0, 5.0)] for metric in ("SDR", "SI-SDR", "PESQ", "STOI", "ESTOI")
        }
    (line,) = tables.same_size_table(scored).splitlines()[2:]
    assert line.startswith("| 50 | 9 | +1.00 [1.00, 1.00] | +1.00 [1.00, 1.00] |") and "| +1.000 [" in line
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables.sizes_table(results).splitlines()[2:5]]
    assert [row[0] for row in rows] == ["sigmoid DNN", "deep NMF", "sigmoid DNN"]
    assert rows[1][4] == "2" and rows[1][8].startswith("3.50 [") and rows[1][9] == ""
    (trials,) = tables.trials_table(results).splitlines()[2:]
    assert "| 2 | 0.50 | 0.60 | 0.70 | 3 hidden, rate 0.1 |" in trials
    noisy = {"dev": {"SDR": [0.0, 0.0, 3.0, 3.0]}}
    row = {"parameters": 9, "dev": {"SDR": [1.0, 3.0, 4.0, 6.0]}}
    rows = {"nmf-r9-c1-adam": (True, 5), "dnn-2x64": (False, 5), "nmf-r9-c0-nothing": (False, 0)}
    table = {
        name: {"name": name, "level": level, "trained_parameters": trained, **row}
        for name, (level, trained) in rows.items()
    }
    lines = tables.paper_table({"rows": table, "noisy": noisy, "dev": files}, "dev").splitlines()
    assert lines[2].startswith("| noisy |  |  | 0.00 | 3.00 | 1.50 [")
    assert lines[4].startswith("| NMF, R = 9, C = 1, by Adam | 9 | 1 | 2.00 | 5.00 | 3.50 [")
    assert [line.split(" | ")[0] for line in lines[3:]] == [  # in order of size, as they were not given
        "| NMF, R = 9, C = 0, not trained",
        "| NMF, R = 9, C = 1, by Adam",
        "| DNN, 2 x 64, no plateau",
    ]
    for name, below in (("nmf-r9-c1-printed", 0.5), ("dnn-1x64", 2.0)):
        scores = {"SDR": [value - below for value in row["dev"]["SDR"]]}
        table[name] = {"name": name, "level": True, "trained_parameters": 5, "parameters": 8, "dev": scores}
    assert tables.paper_leads_table({"rows": table, "dev": files}, "dev").splitlines() == [
        "| SDR on dev, less that of | (38) | 1 x 64 | 2 x 64 |",
        "| --- | --- | --- | --- |",
        "| NMF, R = 9, C = 0, not trained |  | +2.00 [2.00, 2.00] | +0.00 [0.00, 0.00] |",
        "| NMF, R = 9, C = 1, by Adam | +0.50 [0.50, 0.50] | +2.00 [2.00, 2.00] | +0.00 [0.00, 0.00] |",
    ]
