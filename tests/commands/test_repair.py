"""`deepnmf repair` and `enhance --repair` as their users call them."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli.repair import autoregression

RATE_HZ = 16000
DEMO = Path(__file__).parents[2] / "data" / "demo" / "clean.wav"


DECLIP = Path(__file__).parents[2] / "models" / "declip" / "repair.safetensors"
ENHANCER = Path(__file__).parents[2] / "models" / "tiny" / "model.safetensors"


def snr_db(clean: np.ndarray, found: np.ndarray) -> float:
    return 10 * np.log10((clean**2).sum() / ((clean - found) ** 2).sum())


@pytest.fixture
def clean(loud_voice):
    return loud_voice(3.0)


@pytest.fixture
def write(tmp_path):
    def make(name: str, samples: np.ndarray, subtype: str = "PCM_16"):
        soundfile.write(tmp_path / name, samples, RATE_HZ, subtype)
        return tmp_path / name

    return make


def lost(clean: np.ndarray) -> np.ndarray:
    samples = clean.copy()
    for first in (7600, 20600, 33400):
        samples[first : first + 160] = 0
    return samples


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "DOUBLE"])
def test_lost_packets_are_filled_and_the_rest_stays_bit_for_bit(deepnmf, write, clean, tmp_path, subtype):
    damaged = lost(clean)
    # All the bits that the format has.
    damaged += np.where(damaged == 0, 0, 2.0 ** {"PCM_16": -15, "PCM_24": -23, "FLOAT": -24, "DOUBLE": -45}[subtype])
    done = deepnmf("repair", write("in.wav", damaged, subtype), "-o", tmp_path / "out.wav", "--json")
    assert done.code == 0
    before, after = (soundfile.read(tmp_path / name, dtype="float64")[0] for name in ("in.wav", "out.wav"))
    row, summary = done.lines
    assert [i["kind"] for i in row["intervals"]] == ["zeros"] * 3 and summary["exit_code"] == 0
    assert row["filled_s"] == pytest.approx(0.03, abs=1e-3) and row["status"] == "done"
    changed = np.flatnonzero(before != after)
    inside = np.zeros(len(clean), bool)
    for interval in row["intervals"]:
        inside[round(interval["start_s"] * RATE_HZ) : round(interval["end_s"] * RATE_HZ)] = True
    assert len(changed) > 400 and inside[changed].all()
    assert snr_db(clean, after) > snr_db(clean, before) + 5


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_clean_sound_is_copied(deepnmf, tmp_path, clean, suffix):
    soundfile.write(tmp_path / f"in.{suffix}", clean, RATE_HZ)
    done = deepnmf("repair", tmp_path / f"in.{suffix}")
    assert done.code == 0 and "nothing was found" in done.err
    assert (tmp_path / f"in.repaired.{suffix}").read_bytes() == (tmp_path / f"in.{suffix}").read_bytes()


def test_clean_sound_stays_untouched_in_place(deepnmf, write, clean):
    before = (source := write("in.wav", clean)).stat()
    assert deepnmf("repair", source, "--in-place").code == 0
    after = source.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_run_stands_for_its_best_model(deepnmf, write, clean, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.safetensors").write_bytes(Path(DECLIP).read_bytes())
    source = write("in.wav", np.clip(clean, -0.2, 0.2), "FLOAT")
    for name, model in {"folder": tmp_path / "run", "file": DECLIP}.items():
        assert deepnmf("repair", source, "--model", model, "-o", tmp_path / f"{name}.wav").code == 0
    assert (tmp_path / "folder.wav").read_bytes() == (tmp_path / "file.wav").read_bytes()
    refused = deepnmf("enhance", source, "--model", tmp_path / "run", "-o", tmp_path / "x.wav")
    assert refused.code == 1 and "found a model of repair; expected a model of speech enhancement" in refused.err


def test_a_file_that_was_never_finished_is_told_of_and_becomes_whole(deepnmf, write, clean, tmp_path):
    source = write("in.wav", clean)
    content = bytearray(source.read_bytes())
    content[4:8] = content[40:44] = bytes(4)
    source.write_bytes(content)
    done = deepnmf("repair", source, "-o", tmp_path / "out.wav", "--json")
    note = "its header was never finished and announces no samples: all that follow it were read"
    assert done.code == 0 and done.lines[0]["notes"] == [note] and f"Warning: {source}: {note}.\n" in done.err
    output = (tmp_path / "out.wav").read_bytes()
    assert int.from_bytes(output[4:8], "little") == len(output) - 8
    np.testing.assert_array_equal(soundfile.read(tmp_path / "out.wav")[0], clean)


def test_texts_tell_what_was_found_in_words(deepnmf, write, clean, tmp_path):
    write("a.wav", clean, "FLOAT")
    damaged = clean.copy()
    damaged[7600:7760] = np.nan
    damaged[20600:20760] = damaged[20599]
    write("b.wav", damaged, "FLOAT")
    done = deepnmf("repair", tmp_path / "a.wav")
    assert done.err.endswith("nothing was found; its sound stays as it is.\nNothing was found in 1 file.\n")
    (tmp_path / "a.repaired.wav").unlink()
    done = deepnmf("repair", tmp_path, "-o", tmp_path / "out")
    assert "found 1 interval of non-finite samples, 1 interval of held samples.\n" in done.err
    assert done.err.endswith("Repaired 1 file. Nothing was found in 1 file.\n")


def test_what_is_too_long_to_be_filled_is_told(deepnmf, stub, write, clean, tmp_path):
    damaged = clean.copy()
    damaged[8000:12000] = np.nan
    source = write("in.wav", damaged, "FLOAT")
    for command in (["repair", source], ["enhance", source, "--repair", "-o", tmp_path / "out.wav"]):
        done = deepnmf(*command)
        assert done.code == 0
        assert f"Warning: {source}: 0.25 s of gaps too long to be filled are silent.\n" in done.err


def test_clipping_is_restored_beyond_its_level(deepnmf, write, tmp_path):
    clean = soundfile.read(DEMO, frames=3 * RATE_HZ, start=RATE_HZ // 2)[0]
    level = 0.5 * np.abs(clean).max()
    done = deepnmf("repair", write("in.wav", np.clip(clean, -level, level)), "-o", tmp_path / "out.wav", "--json")
    before, after = (soundfile.read(tmp_path / name)[0] for name in ("in.wav", "out.wav"))
    found = done.lines[0]["clipping"]
    assert found[0]["kind"] == "hard" and abs(found[0]["high_db"] - 20 * np.log10(level)) < 0.2
    assert snr_db(clean, after) > snr_db(clean, before) + 4
    whole = np.abs(before) < 0.99 * level
    assert np.array_equal(before[whole], after[whole]) and (np.abs(after) >= np.abs(before) - 1e-9).all()
    again = deepnmf(
        "repair", tmp_path / "in.wav", "-o", tmp_path / "told.wav", "--clip-level", 20 * np.log10(level) - 0.1
    )
    assert again.code == 0 and snr_db(clean, soundfile.read(tmp_path / "told.wav")[0]) > snr_db(clean, before)


def test_clipping_of_one_side_has_no_level_on_the_other(deepnmf, write):
    clean = soundfile.read(DEMO, frames=3 * RATE_HZ, start=RATE_HZ // 2)[0]
    done = deepnmf("repair", write("in.wav", np.minimum(clean, 0.4 * clean.max())), "--json")
    (found,) = done.lines[0]["clipping"]
    assert list(found) == ["channel", "low_db", "high_db", "kind", "confidence"] and found["low_db"] is None
    assert abs(found["high_db"] - 20 * np.log10(0.4 * clean.max())) < 0.2


def test_marked_gaps_are_filled_in_all_channels(deepnmf, write, clean, tmp_path):
    (tmp_path / "gaps.txt").write_text("0.475\t0.485\tcough\n")
    both = np.rint(np.stack([clean, 0.5 * clean], 1) * 32768) / 32768
    done = deepnmf("repair", write("in.wav", both), "-o", tmp_path / "out.wav", "--gaps", tmp_path / "gaps.txt")
    assert done.code == 0, done.err
    after = soundfile.read(tmp_path / "out.wav")[0]
    changed = np.flatnonzero((after != both).any(1))
    assert changed.min() >= 7600 and changed.max() < 7760 and (after[7600:7760] != both[7600:7760]).mean() > 0.8


def test_what_is_not_a_number_is_a_gap(deepnmf, write, clean, tmp_path):
    damaged = clean.copy()
    damaged[7600:7760] = np.nan
    write("in.wav", damaged, "FLOAT")
    done = deepnmf("repair", tmp_path / "in.wav", "-o", tmp_path / "out.wav")
    assert done.code == 0 and snr_db(clean, soundfile.read(tmp_path / "out.wav")[0]) > 20
    (tmp_path / "gaps.txt").write_text("0.475 0.485\n")
    done = deepnmf("repair", tmp_path / "in.wav", "-o", tmp_path / "o.wav", "--gaps", tmp_path / "gaps.txt")
    assert done.code == 0 and np.isfinite(soundfile.read(tmp_path / "o.wav")[0]).all()
    (tmp_path / "gaps.txt").write_text("0.475 0.48\n")
    done = deepnmf("repair", tmp_path / "in.wav", "-o", tmp_path / "p.wav", "--gaps", tmp_path / "gaps.txt")
    assert done.code == 1 and "not finite" in done.err and not (tmp_path / "p.wav").exists()


def test_impossible_input_is_an_error_and_leaves_nothing(deepnmf, write, clean, tmp_path):
    source = write("in.wav", clean)
    (tmp_path / "all.txt").write_text("0 3\n")
    (tmp_path / "text.txt").write_text("from here to there\n")
    square = write("square.wav", 0.5 * np.sign(np.sin(np.arange(16000) / 7 + 0.1)))
    cases = [
        ([source, "--gaps", tmp_path / "all.txt"], 1, "a gap as long as channel 1"),
        ([source, "--gaps", tmp_path / "text.txt"], 1, "expected START END in seconds"),
        ([source, "--gaps", tmp_path / "none.txt"], 1, "no text that can be read"),
        ([source, "--clip-level", "3"], 1, "above the --clip-level of 3 dB"),
        ([square, "--clip-level", "-7"], 1, "damage from beginning to end"),
        ([source, "--clip-level", "loud"], 2, "neither auto nor a number"),
        ([source, "--fix", "noise"], 2, "none of gaps, clipping, clicks"),
        ([source, "--fix", "clicks", "--gaps", tmp_path / "all.txt"], 2, "--fix without gaps"),
        ([source, square, "--gaps", tmp_path / "all.txt"], 2, "several inputs"),
        ([source, "--model", source], 1, "expected a complete .safetensors file"),
        ([source, *(2 * ["--model", DECLIP])], 2, "--model: found two models for declip; expected one for each"),
        ([source, "--model", ENHANCER], 1, "found a model of speech enhancement; expected a model of repair, which"),
        ([tmp_path / "gone.wav"], 1, "no readable file"),
    ]
    for number, (arguments, code, message) in enumerate(cases):
        target = tmp_path / ("out.wav" if arguments.count(square) + arguments.count(source) < 2 else f"out{number}")
        done = deepnmf("repair", *arguments, "-o", target)
        assert (done.code, message in done.err) == (code, True), (arguments, done.code, done.err)
        assert not target.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.txt", "in.wav", "square.wav", "text.txt"]


def test_a_dry_run_tells_and_writes_nothing(deepnmf, write, clean, tmp_path):
    write("in.wav", lost(clean))
    done = deepnmf("repair", tmp_path, "--dry-run", "--json")
    assert done.code == 0 and [len(row["intervals"]) for row in done.lines[:1]] == [3]
    assert [p.name for p in tmp_path.iterdir()] == ["in.wav"]


def test_what_is_complete_is_skipped(deepnmf, write, clean, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("in/a.wav", "in/b.wav"):
        write(name, lost(clean))

    def told(*options):
        done = deepnmf("repair", tmp_path / "in", "-o", tmp_path / "out", "--json", *options)
        assert done.code == 0, done.err
        return [row["status"] for row in done.lines[:-1]], done.lines[-1]["skipped"], done.err

    assert told()[:2] == (["done", "done"], 0)
    first = (tmp_path / "out/a.wav").stat().st_mtime_ns
    (tmp_path / "out/b.wav").unlink()
    statuses, skipped, _ = told("--skip-existing")
    assert (sorted(statuses), skipped) == (["done", "skipped"], 1)
    assert (tmp_path / "out/a.wav").stat().st_mtime_ns == first and (tmp_path / "out/b.wav").is_file()
    statuses, skipped, err = told("--skip-existing", "--fix", "clicks")
    assert skipped == 2 and err.count("was made with another --fix") == 2
    assert told("--skip-existing", "--fix", "clicks", "--overwrite")[:2] == (["done", "done"], 0)


def test_what_was_done_before_an_interrupt_is_told(deepnmf, write, clean, tmp_path, monkeypatch):
    from deepnmf_cli.repair import examine

    look = examine.examine

    def interrupt(source, *rest):
        if source.endswith("b.wav"):
            raise KeyboardInterrupt
        return look(source, *rest)

    monkeypatch.setattr(examine, "examine", interrupt)
    sources = [write(f"{name}.wav", lost(clean)) for name in "abc"]
    done = deepnmf("repair", *sources, "-o", tmp_path / "out", "--json")
    row, summary = done.lines
    assert row["output"].endswith("a.wav") and (tmp_path / "out" / "a.wav").is_file()
    assert (done.code, summary["stopped"], summary["exit_code"], summary["done"]) == (130, "interrupted", 130, 1)


def test_looking_for_damage_can_be_ended(write, clean):
    from deepnmf_cli.repair.examine import RepairOptions, examine

    told = []
    examine(write("in.wav", np.tile(clean, 3)), RepairOptions(), "in.wav", told.append)
    assert told == [0.0] * 3  # blocks of 4.1 s


def test_enhance_repairs_first(deepnmf, stub, write, clean, tmp_path):
    write("in.wav", lost(clean), "FLOAT")
    assert deepnmf("enhance", tmp_path / "in.wav", "-o", tmp_path / "plain.wav").code == 0
    assert deepnmf("enhance", tmp_path / "in.wav", "-o", tmp_path / "both.wav", "--repair").code == 0
    assert deepnmf("repair", tmp_path / "in.wav", "-o", tmp_path / "whole.wav").code == 0
    plain, both, whole = (soundfile.read(tmp_path / f"{n}.wav")[0] for n in ("plain", "both", "whole"))
    np.testing.assert_array_equal(both, 0.5 * whole)
    assert not np.array_equal(both, plain)
    assert deepnmf("enhance", tmp_path / "in.wav", "-o", tmp_path / "x.wav", "--fix", "gaps").code == 2


def test_a_marked_gap_is_one_whatever_is_in_it(deepnmf, write, clean, tmp_path):
    """0.25 s cannot be filled, not even where it begins with samples that are no numbers."""
    samples = clean.copy()
    samples[16000:16800] = np.nan
    (tmp_path / "gaps.txt").write_text("1 1.25\n")
    done = deepnmf(
        "repair", write("in.wav", samples, "FLOAT"), "-o", tmp_path / "o.wav", "--gaps", tmp_path / "gaps.txt", "--json"
    )
    assert done.lines[0]["filled_s"] == 0
    assert not soundfile.read(tmp_path / "o.wav")[0][16000:20000].any()


def test_two_channels_with_nan_are_repaired_and_enhanced(deepnmf, stub, write, clean, tmp_path):
    """Whether channels are separate is found although one of them holds what only a repair takes."""
    samples = np.stack([clean, np.roll(clean, 5000)], 1)
    samples[20000:20100, 0] = np.nan
    assert deepnmf("enhance", write("in.wav", samples, "FLOAT"), "-o", tmp_path / "out.wav", "--repair").code == 0
    assert np.isfinite(soundfile.read(tmp_path / "out.wav")[0]).all()


@pytest.mark.parametrize("arguments", [["in.wav", "-o", "s3://bucket/clean/"], ["s3://bucket/a.wav", "-o", "a.wav"]])
def test_addresses_are_refused(deepnmf, write, clean, tmp_path, monkeypatch, arguments):
    """A folder called s3: would hold what the user takes for safe in the bucket."""
    monkeypatch.chdir(tmp_path)
    write("in.wav", clean)
    result = deepnmf("repair", *arguments)
    assert result.code == 2 and "found an address; expected a file or folder" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["in.wav"]


def test_gaps_close_to_each_other_at_high_rates_take_little_memory(clean):
    samples = np.repeat(clean[:16000], 6)  # 96 kHz
    missing = np.zeros(len(samples), bool)
    missing[40_000:44_800] = missing[46_000:49_800] = True
    tracemalloc.start()
    filled = autoregression.fill(samples, missing, 96_000)
    assert tracemalloc.get_traced_memory()[1] < 300e6
    tracemalloc.stop()
    assert filled[missing].any() and np.array_equal(filled[~missing], samples[~missing])


def test_chunks_of_any_size_give_the_same(clean):
    from deepnmf_cli.repair.examine import RepairOptions
    from deepnmf_cli.repair.model import TASKS
    from deepnmf_cli.repair.repairer import Repairer
    from deepnmf_cli.repair.spans import HARD, Clipping, Findings, Span

    level = 0.6 * np.abs(clean).max()
    samples = np.clip(lost(clean), -level, level)[None]
    findings = Findings([Span(f, f + 160, "zeros") for f in (7600, 20600, 33400)], [Clipping(0, level, level, HARD)])
    models = RepairOptions().load(TASKS)
    found = []
    for size in (48000, 1000, 16001):
        repairer = Repairer(findings, models, RATE_HZ, 1)
        pieces = [repairer.feed(samples[:, i : i + size]) for i in range(0, 48000, size)]
        came = np.cumsum([p.shape[1] for p in pieces])
        fed = np.minimum(size * np.arange(1, len(pieces) + 1), 48000)
        assert (fed - came <= repairer.latency_samples).all()
        found.append(np.concatenate([*pieces, repairer.flush()], -1))
    assert found[0].shape == samples.shape and all(np.array_equal(found[0], other) for other in found[1:])
