"""`deepnmf enhance --vad`: times of speech beside the outputs, whole or not at all, and the same with other options."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli.commands import remote
from deepnmf_cli.errors import EXIT_FAILED, EXIT_SOME_FAILED, EXIT_USAGE

DEMO = Path(__file__).parents[2] / "data/demo/noisy.wav"
PAUSE_S = 3.3, 4.25
"""Of the demo, after which there is speech to the end."""


def labels(name):
    """Lines of (start, end, probability)."""
    return [tuple(map(float, line.split("\t"))) for line in Path(name).read_text().splitlines()]


@pytest.fixture
def demo(folder):
    Path("demo.wav").write_bytes(DEMO.read_bytes())
    return folder


@pytest.mark.parametrize(
    "options",
    [[], ["--max-attenuation", 6], ["--mix", 0.1], ["--loudness", -16], ["--repair"], ["--noise-out", "noise.wav"],
     ["--channels", "separate"]],
)  # fmt: skip
def test_the_pause_of_a_recording_is_found(deepnmf, demo, options):
    samples, rate_hz = soundfile.read("demo.wav")
    soundfile.write("demo.wav", np.stack([samples, 0.5 * samples], 1), rate_hz)
    result = deepnmf("enhance", "demo.wav", "--model", "tiny", "--device", "cpu", "--vad", "--json", *options)
    assert result.code == 0, result.err
    (_, end, _), (start, last, probability) = labels("demo.enhanced.vad.txt")
    assert end == pytest.approx(PAUSE_S[0], abs=0.25) and start == pytest.approx(PAUSE_S[1], abs=0.25)
    assert last == 7.5 and 0.5 < probability <= 1
    row = result.lines[0]
    assert row["vad"] == "demo.enhanced.vad.txt"
    assert [(s["start_s"], s["end_s"]) for s in row["speech"]] == [line[:2] for line in labels(row["vad"])]


def test_what_was_heard_is_what_was_repaired(deepnmf, demo):
    """A gap of zeros within speech is filled before, so that speech goes on."""
    samples, rate_hz = soundfile.read("demo.wav")
    gap = slice(2 * rate_hz, 2 * rate_hz + 320)
    samples[gap] = 0
    soundfile.write("demo.wav", samples, rate_hz)
    assert deepnmf("enhance", "demo.wav", "--model", "tiny", "--device", "cpu", "--vad", "--repair").code == 0
    assert len(labels("demo.enhanced.vad.txt")) == 2


def test_folders_keep_their_tree(deepnmf, stub, recordings):
    assert deepnmf("enhance", "recordings", "--vad", "--jobs", 1).code == 0
    found = sorted(str(path) for path in Path("recordings.enhanced").rglob("*.vad.txt"))
    assert found == [f"recordings.enhanced/{name}.vad.txt" for name in ("day/night/three", "day/two", "one")]


def test_a_dry_run_tells_where_times_would_go(deepnmf, stub, noisy):
    result = deepnmf("enhance", "noisy.wav", "-o", "out.flac", "--vad", "--dry-run")
    assert b"noisy.wav -> out.flac, out.vad.txt (1.0 s" in result.out and not Path("out.vad.txt").exists()


def test_in_place_leaves_times_beside_the_recording(deepnmf, stub, noisy):
    assert deepnmf("enhance", "noisy.wav", "--in-place", "--vad").code == 0
    assert Path("noisy.vad.txt").exists()


def test_nothing_that_exists_is_replaced(deepnmf, stub, noisy):
    Path("noisy.enhanced.vad.txt").write_text("mine")
    result = deepnmf("enhance", "noisy.wav", "--vad")
    assert result.code == EXIT_USAGE and "noisy.enhanced.vad.txt: found an existing file" in result.err
    assert Path("noisy.enhanced.vad.txt").read_text() == "mine" and not Path("noisy.enhanced.wav").exists()
    assert deepnmf("enhance", "noisy.wav", "--vad", "--overwrite").code == 0
    assert Path("noisy.enhanced.vad.txt").read_text() != "mine"


def test_outputs_without_times_are_not_complete(deepnmf, stub, noisy):
    arguments = ["enhance", "noisy.wav", "--vad", "--skip-existing"]
    assert deepnmf(*arguments).code == 0
    assert "1 file skipped." in deepnmf(*arguments).err
    Path("noisy.enhanced.vad.txt").unlink()
    result = deepnmf(*arguments)
    assert result.code == 0 and "Warning: noisy.enhanced.vad.txt is missing. Pass --overwrite beside" in result.err
    assert "1 file skipped." in result.err and not Path("noisy.enhanced.vad.txt").exists()
    assert deepnmf(*arguments, "--overwrite").code == 0 and Path("noisy.enhanced.vad.txt").exists()


@pytest.mark.parametrize(("option", "missing"), [
    (["--vad"], "out/day/two.vad.txt is missing"),
    (["--noise-out", "noise"], "out/day/two.flac was made with another --noise-out and noise/day/two.flac is missing"),
])  # fmt: skip
def test_a_batch_that_is_complete_is_kept_when_more_is_asked_for(deepnmf, stub, recordings, option, missing):
    arguments = ["enhance", "recordings", "-o", "out", "--jobs", 1]
    assert deepnmf(*arguments).code == 0
    before = Path("out/one.wav").stat().st_mtime_ns
    result = deepnmf(*arguments, *option, "--skip-existing", "--json")
    assert result.code == 0 and f"Warning: {missing}. Pass --overwrite beside --skip-existing" in result.err
    assert [(row["status"], row["vad"], row["noise"]) for row in result.lines[:-1]] == [("skipped", None, None)] * 3
    assert Path("out/one.wav").stat().st_mtime_ns == before
    result = deepnmf(*arguments, *option, "--skip-existing", "--overwrite")
    assert "Enhanced 3 files." in result.err and "Warning" not in result.err
    assert "3 files skipped." in deepnmf(*arguments, *option, "--skip-existing").err


def test_an_output_of_unknown_origin_lacks_its_times(deepnmf, stub, noisy):
    assert deepnmf("enhance", "noisy.wav").code == 0
    result = deepnmf("enhance", "noisy.wav", "--vad", "--skip-existing")
    assert result.code == EXIT_FAILED
    assert "noisy.enhanced.wav: found no noisy.enhanced.vad.txt beside it; expected what was made of" in result.err


def test_what_was_changed_in_place_without_times_is_told(deepnmf, stub, noisy):
    assert deepnmf("enhance", "noisy.wav", "--in-place", "--skip-existing").code == 0
    result = deepnmf("enhance", "noisy.wav", "--in-place", "--vad", "--skip-existing", "--json")
    assert result.code == 0 and result.lines[0]["status"] == "skipped" and result.lines[0]["vad"] is None
    assert "noisy.wav was changed before without noisy.vad.txt; its original is gone." in result.err


@pytest.mark.parametrize(("option", "beside"), [(["--vad"], "noisy.vad.txt"), (["--noise-out", "nz"], "nz/noisy.wav")])
def test_in_place_replaces_the_input_alone(deepnmf, stub, noisy, option, beside):
    Path("nz").mkdir()
    Path(beside).write_text("mine")
    before, arguments = noisy.read_bytes(), ["enhance", "noisy.wav", "--in-place", *option]
    result = deepnmf(*arguments)
    assert result.code == EXIT_USAGE and f"{beside}: found an existing file" in result.err
    result = deepnmf(*arguments, "--skip-existing")
    assert result.code == EXIT_FAILED and f"{beside}: found a file that was there before" in result.err
    assert Path(beside).read_text() == "mine" and noisy.read_bytes() == before
    assert deepnmf(*arguments, "--skip-existing", "--overwrite").code == 0
    assert Path(beside).read_bytes() != b"mine" and noisy.read_bytes() != before


def test_in_place_replaces_no_file_that_appears_meanwhile(deepnmf, stub, noisy, monkeypatch):
    process, before = stub.enhance_blocks, noisy.read_bytes()

    def enhance_blocks(*arguments, **options):
        Path("noisy.vad.txt").write_text("mine")
        return process(*arguments, **options)

    monkeypatch.setattr(stub, "enhance_blocks", enhance_blocks)
    result = deepnmf("enhance", "noisy.wav", "--in-place", "--vad")
    assert result.code == EXIT_FAILED and "a file that appeared while the output was made" in result.err
    assert Path("noisy.vad.txt").read_text() == "mine" and noisy.read_bytes() == before


def test_outputs_of_unknown_origin_are_complete_with_their_times(deepnmf, stub, noisy):
    assert deepnmf("enhance", "noisy.wav", "--vad").code == 0
    result = deepnmf("enhance", "noisy.wav", "--vad", "--skip-existing")
    assert result.code == 0 and "1 output of unknown origin taken for complete" in result.err


def test_recordings_need_not_be_made_again_without_times(deepnmf, stub, noisy):
    assert deepnmf("enhance", "noisy.wav", "--vad", "--skip-existing").code == 0
    result = deepnmf("enhance", "noisy.wav", "--skip-existing")
    assert result.code == 0 and result.err == "1 file skipped.\n"


@pytest.mark.parametrize("in_place", [[], ["--in-place"]])
def test_times_that_cannot_be_written_leave_no_output(deepnmf, stub, noisy, in_place):
    before = noisy.read_bytes()
    times = Path("noisy.vad.txt" if in_place else "noisy.enhanced.vad.txt")
    times.symlink_to("missing/folder/times.txt")
    result = deepnmf("enhance", "noisy.wav", "--vad", "--overwrite", *in_place)
    assert result.code == EXIT_FAILED and f"{times}: found an output that cannot be written" in result.err
    assert noisy.read_bytes() == before and not Path("noisy.enhanced.wav").exists()


def test_times_that_appear_meanwhile_are_kept(deepnmf, stub, noisy, monkeypatch):
    process, times = stub.enhance_blocks, Path("noisy.enhanced.vad.txt")

    def enhance_blocks(*arguments, **options):
        times.write_text("mine")
        return process(*arguments, **options)

    monkeypatch.setattr(stub, "enhance_blocks", enhance_blocks)
    result = deepnmf("enhance", "noisy.wav", "--vad")
    assert result.code == EXIT_FAILED and "a file that appeared while the output was made" in result.err
    assert times.read_text() == "mine" and not Path("noisy.enhanced.wav").exists()


def test_two_recordings_that_would_share_a_file_of_times_are_refused(deepnmf, stub, folder, hiss):
    for name in ("in/a.wav", "in/a.flac"):
        Path("in").mkdir(exist_ok=True)
        soundfile.write(name, hiss(0.1), 16000)
    result = deepnmf("enhance", "in", "--vad")
    assert result.code == EXIT_USAGE and "a.vad.txt: found two outputs of this name" in result.err
    assert "expected one. Rename an input, or use two folders." in result.err and "--noise-out" not in result.err
    assert not Path("in.enhanced").exists()


@pytest.mark.parametrize(
    ("arguments", "found"),
    [(["-o", "-"], "--vad: found standard output"), (["-o", "-", "--json"], "--vad: found standard output")],
)
def test_what_has_no_place_for_times_is_refused(deepnmf, stub, noisy, arguments, found):
    result = deepnmf("enhance", "noisy.wav", "--vad", *arguments)
    assert result.code == EXIT_USAGE and found in result.err
    assert sorted(path.name for path in Path().iterdir()) == ["noisy.wav"]


def test_standard_input_has_times_beside_the_output(deepnmf, stub, noisy):
    assert deepnmf("enhance", "-", "-o", "out.wav", "--vad", stdin=noisy.read_bytes()).code == 0
    assert Path("out.vad.txt").exists()


def test_a_recording_that_fails_has_no_times(deepnmf, stub, recordings):
    Path("recordings/one.wav").write_bytes(b"no audio")
    result = deepnmf("enhance", "recordings", "--vad", "--jobs", 1)
    assert result.code == EXIT_SOME_FAILED and not Path("recordings.enhanced/one.vad.txt").exists()


# Behind addresses


@pytest.fixture
def memory(noisy):
    """memory://times/in/a.wav."""
    fsspec = pytest.importorskip("fsspec")
    found = fsspec.filesystem("memory")
    if found.exists("times"):
        found.rm("times", recursive=True)
    found.pipe("times/in/a.wav", noisy.read_bytes())
    return found


FOLDER = ["enhance", "memory://times/in", "-o", "memory://times/out"]
FILE = ["enhance", "memory://times/in/a.wav", "-o", "memory://times/out/a.wav"]


def test_times_go_beside_outputs_before_these(deepnmf, stub, memory, monkeypatch):
    delivered, deliver = [], remote.deliver
    monkeypatch.setattr(remote, "deliver", lambda file, place: delivered.append(place) or deliver(file, place))
    result = deepnmf(*FOLDER, "--vad", "--json", "--jobs", 1)
    assert result.code == 0 and result.lines[0]["vad"] == "memory://times/out/a.vad.txt"
    assert delivered[:2] == ["memory://times/out/a.vad.txt", "memory://times/out/a.wav"]
    assert memory.exists("times/out/a.vad.txt") and memory.exists("times/out/a.wav")


@pytest.mark.parametrize("arguments", [FOLDER, FILE])
def test_what_is_complete_there_is_skipped(deepnmf, stub, memory, arguments):
    arguments = [*arguments, "--vad", "--skip-existing", "--jobs", 1]
    assert deepnmf(*arguments).code == 0
    assert "1 file skipped." in deepnmf(*arguments).err
    memory.rm("times/out/a.vad.txt")
    result = deepnmf(*arguments, "--json")
    assert result.code == 0 and "memory://times/out/a.vad.txt is missing. Pass --overwrite" in result.err
    assert result.lines[0]["status"] == "skipped" and result.lines[0]["vad"] is None
    assert deepnmf(*arguments, "--overwrite").code == 0 and memory.exists("times/out/a.vad.txt")


@pytest.mark.parametrize("arguments", [FOLDER, FILE])
def test_times_alone_are_not_replaced_there(deepnmf, stub, memory, arguments):
    memory.pipe("times/out/a.vad.txt", b"mine")
    result = deepnmf(*arguments, "--vad", "--skip-existing", "--jobs", 1)
    assert result.code == EXIT_FAILED and "a.vad.txt: found no memory://times/out/a.wav beside it" in result.err
    assert memory.cat("times/out/a.vad.txt") == b"mine" and not memory.exists("times/out/a.wav")


@pytest.mark.parametrize("arguments", [FOLDER, FILE])
def test_times_that_are_there_are_not_replaced(deepnmf, stub, memory, arguments):
    memory.pipe("times/out/a.vad.txt", b"mine")
    result = deepnmf(*arguments, "--vad")
    assert result.code == EXIT_USAGE and "memory://times/out/a.vad.txt: found an existing file" in result.err
    assert memory.cat("times/out/a.vad.txt") == b"mine" and not memory.exists("times/out/a.wav")


def test_recordings_that_would_share_times_there_are_refused(deepnmf, stub, memory):
    memory.pipe("times/in/a.flac", b"")
    result = deepnmf(*FOLDER, "--vad")
    assert result.code == EXIT_USAGE and "a.vad.txt: found two outputs of this name" in result.err


@pytest.mark.parametrize("options", [["--depth", 2], ["--model", "deep-nmf"]])
def test_masks_that_leave_much_noise_are_refused(deepnmf, demo, options):
    result = deepnmf("enhance", "demo.wav", "--vad", *options)
    assert result.code == EXIT_USAGE and "--vad: found" in result.err
    assert not Path("demo.enhanced.wav").exists()


def test_a_model_of_ones_own_is_taken_with_a_warning(deepnmf, demo):
    model = Path(__file__).parents[2] / "models/tiny/model.onnx"
    result = deepnmf("enhance", "demo.wav", "--vad", "--model", str(model))
    assert result.code == 0 and "may be taken for speech" in result.err
    for options in ([], ["--model", "tiny"]):
        assert (
            "taken for speech" not in deepnmf("enhance", "demo.wav", "-o", "2.wav", "--vad", "--dry-run", *options).err
        )
