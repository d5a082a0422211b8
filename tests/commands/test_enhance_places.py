"""`deepnmf enhance`: where outputs go that are not named, and how a run that was stopped goes on."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli.commands.record import RECORD
from deepnmf_cli.errors import EXIT_FAILED, EXIT_SOME_FAILED, EXIT_USAGE

RATE_HZ = 16000


def listing(folder="."):
    return sorted(
        str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file() and path.name != RECORD
    )


def read(name):
    return soundfile.read(name)[0]


def is_half(name, source):
    return np.allclose(read(name), read(source) / 2, atol=1 / 32768)


# Without -o


def test_a_file_goes_beside_its_input(deepnmf, stub, noisy):
    assert deepnmf("enhance", "noisy.wav").code == 0
    assert listing() == ["noisy.enhanced.wav", "noisy.wav"] and is_half("noisy.enhanced.wav", "noisy.wav")
    assert not Path(RECORD).exists()
    again = deepnmf("enhance", "noisy.wav")
    assert again.code == EXIT_USAGE and "noisy.enhanced.wav: found an existing file" in again.err


def test_a_format_that_cannot_be_written_becomes_wav(deepnmf, stub, folder, hiss):
    soundfile.write("old.voc", hiss(0.1), RATE_HZ)
    assert deepnmf("enhance", "old.voc").code == 0 and listing() == ["old.enhanced.wav", "old.voc"]


@pytest.mark.parametrize(("given", "where"), [
    ("recordings", "recordings.enhanced"), ("recordings/", "recordings.enhanced"), (".", "../recordings.enhanced"),
    ("day/..", "../recordings.enhanced"),
])  # fmt: skip
def test_a_folder_goes_beside_its_input(deepnmf, stub, recordings, monkeypatch, given, where):
    if not given.startswith("recordings"):
        monkeypatch.chdir("recordings")
    assert deepnmf("enhance", given).code == 0
    assert listing(where) == ["day/night/three.wav", "day/two.flac", "one.wav"]


def test_a_folder_without_a_name_needs_an_output(deepnmf, stub, folder, monkeypatch):
    Path("in").mkdir()
    monkeypatch.chdir("in")
    soundfile.write("../noisy.wav", np.zeros(9), RATE_HZ)
    monkeypatch.setattr(os.path, "abspath", lambda path: "/")
    result = deepnmf("enhance", "..")
    assert result.code == EXIT_USAGE and "..: found no folder beside it; expected -o OUTPUT" in result.err


def test_several_files_go_beside_theirs_and_the_second_time_outputs_are_left_out(deepnmf, stub, folder, hiss):
    Path("in").mkdir()
    for name in ("a.wav", "in/b.flac"):
        soundfile.write(name, hiss(0.1), RATE_HZ)
    assert deepnmf("enhance", "a.wav", "in/b.flac").code == 0
    assert listing() == ["a.enhanced.wav", "a.wav", "in/b.enhanced.flac", "in/b.flac"]
    result = deepnmf("enhance", "a.enhanced.wav", "a.wav", "in/b.enhanced.flac", "in/b.flac", "--overwrite")
    assert result.code == 0 and "Enhanced 2 files." in result.err
    assert "a.enhanced.wav: left out, as it is the output of a.wav." in result.err
    assert len(listing()) == 4


def test_standard_input_goes_to_standard_output(deepnmf, stub, noisy):
    result = deepnmf("enhance", "-", stdin=noisy.read_bytes())
    assert result.code == 0 and result.out[:4] == b"RIFF" and listing() == ["noisy.wav"]


def test_missing_folders_of_a_file_are_made(deepnmf, stub, noisy):
    assert deepnmf("enhance", "noisy.wav", "-o", "new/deep/clean.wav", "--noise-out", "other/noise.wav").code == 0
    assert listing() == ["new/deep/clean.wav", "noisy.wav", "other/noise.wav"]


# In place


def test_in_place_replaces_the_inputs(deepnmf, stub, recordings):
    before = read("recordings/one.wav")
    Path("link.wav").symlink_to("recordings/one.wav")
    result = deepnmf("enhance", "link.wav", "recordings/day/two.flac", "--in-place", "--noise-out", "noise")
    assert result.code == 0 and Path("link.wav").is_symlink()
    np.testing.assert_allclose(read("recordings/one.wav"), before / 2, atol=1 / 32768)
    np.testing.assert_allclose(read("recordings/one.wav") + read("noise/link.wav"), before, atol=0)


def test_in_place_leaves_what_it_cannot_write(deepnmf, stub, recordings):
    before = Path("recordings/day/night/three.voc").read_bytes()
    result = deepnmf("enhance", "recordings", "--in-place")
    assert result.code == EXIT_SOME_FAILED
    assert "three.voc: found a .voc file, which cannot be written" in result.err
    assert Path("recordings/day/night/three.voc").read_bytes() == before
    assert listing("recordings") == [".hidden.wav", "day/night/three.voc", "day/two.flac", "notes.txt", "one.wav"]


def test_in_place_that_fails_leaves_the_input(deepnmf, stub, noisy, monkeypatch):
    before = noisy.read_bytes()

    def fail(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    assert deepnmf("enhance", "noisy.wav", "--in-place").code == EXIT_FAILED
    assert noisy.read_bytes() == before and listing() == ["noisy.wav"]


def test_in_place_leaves_an_input_that_changes_meanwhile(deepnmf, stub, noisy, monkeypatch):
    blocks, newer = stub.enhance_blocks, b"somebody wrote this"

    def slow(*arguments, **options):
        yield from blocks(*arguments, **options)
        noisy.write_bytes(newer)

    monkeypatch.setattr(stub, "enhance_blocks", slow)
    result = deepnmf("enhance", "noisy.wav", "--in-place", "--vad")
    assert result.code == EXIT_FAILED and "noisy.wav: found a file that has changed meanwhile" in result.err
    assert noisy.read_bytes() == newer and listing() == ["noisy.wav"]


@pytest.mark.parametrize("arguments", [
    ["-o", "new/../noisy.wav"], ["-o", "a.wav", "--noise-out", "new/../noisy.wav"],
    ["-o", "room.wav", "--noise-profile", "room.wav"],
    ["-o", "gaps.wav", "--repair", "--gaps", "gaps.txt", "--noise-out", "gaps.txt"],
    ["-o", "gaps.wav", "--vad", "--repair", "--gaps", "gaps.vad.txt"],
])  # fmt: skip
def test_what_is_read_is_not_replaced(deepnmf, stub, noisy, arguments):
    for name in ("room.wav", "gaps.txt", "gaps.vad.txt"):
        Path(name).write_bytes(noisy.read_bytes())
    before = {name: Path(name).read_bytes() for name in listing()}
    assert deepnmf("enhance", "noisy.wav", "--overwrite", *arguments).code == EXIT_USAGE
    assert {name: Path(name).read_bytes() for name in listing()} == before


def test_a_name_that_is_too_long_fails_alone(deepnmf, stub, noisy):
    long = "a" * 251 + ".wav"
    Path(long).write_bytes(noisy.read_bytes())
    result = deepnmf("enhance", long, "noisy.wav")
    assert result.code == EXIT_SOME_FAILED and Path("noisy.enhanced.wav").is_file()
    assert "found a name that is too long for a file there; expected a shorter one" in result.err


@pytest.mark.parametrize(("arguments", "message"), [
    (["noisy.wav", "-o", "a.wav"], "--in-place: found -o beside it"), (["-"], "--in-place: found standard input"),
    (["noisy.wav", "--noise-out", "noisy.wav"], "Choose another --noise-out."),
    (["noisy.wav", "./noisy.wav"], "two outputs of this name, of noisy.wav and of ./noisy.wav; expected one. Name that"),
])  # fmt: skip
def test_impossible_uses_of_in_place(deepnmf, stub, noisy, arguments, message):
    before = noisy.read_bytes()
    result = deepnmf("enhance", *arguments, "--in-place", stdin=before)
    assert result.code == EXIT_USAGE and message in result.err and noisy.read_bytes() == before


# Dry runs


def test_a_dry_run_lists_and_writes_nothing(deepnmf, stub, recordings):
    before = listing()
    result = deepnmf("enhance", "recordings", "none.wav", "-o", "out", "--noise-out", "noise", "--dry-run")
    assert result.code == 0 and listing() == before
    assert "recordings/one.wav -> out/one.wav, noise/one.wav (0.1 s, 16000 Hz, 1 channel)" in result.out.decode()
    assert "none.wav -> out/none.wav" in result.out.decode()
    assert "4 files to enhance; nothing was written." in result.err


def test_a_dry_run_knows_what_is_there(deepnmf, stub, recordings):
    deepnmf("enhance", "recordings/one.wav", "-o", "recordings.enhanced/")
    result = deepnmf("enhance", "recordings", "--skip-existing", "--dry-run", "--json")
    assert [row.get("status") for row in result.lines] == ["skipped", "planned", "planned", None]
    assert result.lines[1]["seconds"] == 0.1


# Going on


def test_a_run_goes_on_where_it_stopped(deepnmf, stub, recordings):
    assert deepnmf("enhance", "recordings", "-o", "out").code == 0
    os.remove("out/day/two.flac")
    Path("out/.one-abcdefgh.deepnmf-partial.wav").write_bytes(b"RIFF")
    before = Path("out/one.wav").stat().st_mtime_ns
    result = deepnmf("enhance", "recordings", "-o", "out", "--skip-existing")
    assert result.code == 0 and "Enhanced 1 file. 2 files skipped." in result.err and "Warning" not in result.err
    assert len(listing("out")) == 3 and Path("out/one.wav").stat().st_mtime_ns == before


def change_the_input(arguments):
    soundfile.write("recordings/one.wav", np.zeros(800), RATE_HZ)
    return arguments


@pytest.mark.parametrize(("change", "said"), [
    (change_the_input, "out/one.wav was made of an earlier input"),
    (lambda arguments: [*arguments, "--model", "tiny"], "out/one.wav was made with another model"),
    (lambda arguments: [*arguments, "--mix", "0.5"], "out/one.wav was made with another --mix"),
])  # fmt: skip
def test_an_output_that_is_out_of_date_is_told_and_kept_or_made_again(deepnmf, stub, recordings, change, said):
    arguments = ["enhance", "recordings/one.wav", "-o", "out/", "--skip-existing"]
    assert deepnmf(*arguments).code == 0
    before = Path("out/one.wav").read_bytes()
    arguments = change(arguments)
    stub.gain = np.float32(0.25)
    result = deepnmf(*arguments)
    assert result.code == 0 and f"Warning: {said}. Pass --overwrite beside" in result.err
    assert "1 file skipped." in result.err and Path("out/one.wav").read_bytes() == before
    result = deepnmf(*arguments, "--overwrite")
    assert "Enhanced 1 file." in result.err
    np.testing.assert_allclose(read("out/one.wav"), read("recordings/one.wav") / 4, atol=1 / 32768)
    result = deepnmf(*arguments, "--overwrite")
    assert "1 file skipped." in result.err and "Warning" not in result.err


def test_outputs_without_a_record_count_where_they_are_as_long(deepnmf, stub, noisy):
    assert deepnmf("enhance", "noisy.wav").code == 0
    result = deepnmf("enhance", "noisy.wav", "--skip-existing")
    assert result.code == 0 and "1 output of unknown origin taken for complete" in result.err
    os.utime("noisy.wav", (2e9, 2e9))
    result = deepnmf("enhance", "noisy.wav", "--skip-existing")
    assert result.code == EXIT_FAILED and "noisy.enhanced.wav: found a file that is older than the input" in result.err


@pytest.mark.parametrize(
    ("content", "found"), [(b"text", "no audio that can be read"), (None, "500 frames, 1 channel")]
)
def test_a_file_that_is_no_output_of_the_input_is_not_replaced(deepnmf, stub, noisy, content, found):
    if content is None:
        soundfile.write("clean.wav", np.zeros(500), RATE_HZ)
    else:
        Path("clean.wav").write_bytes(content)
    before = Path("clean.wav").read_bytes()
    result = deepnmf("enhance", "noisy.wav", "-o", "clean.wav", "--skip-existing")
    assert result.code == EXIT_FAILED and f"clean.wav: found {found}" in result.err
    assert Path("clean.wav").read_bytes() == before
    assert deepnmf("enhance", "noisy.wav", "-o", "clean.wav", "--skip-existing", "--overwrite").code == 0
    assert is_half("clean.wav", "noisy.wav")


def test_another_recording_of_equal_name_size_and_time_is_another_input(deepnmf, stub, folder, hiss):
    for number, day in enumerate(("day1", "day2")):
        Path(day).mkdir()
        for name in ("0.wav", "1.wav"):
            soundfile.write(f"{day}/{name}", hiss(0.1, seed=number), RATE_HZ)
            os.utime(f"{day}/{name}", (1e9, 1e9))
    assert deepnmf("enhance", "day1", "-o", "out").code == 0
    result = deepnmf("enhance", "day2", "-o", "out", "--skip-existing")
    assert "out/0.wav was made of" in result.err and "day1/0.wav. Pass --overwrite beside" in result.err
    assert deepnmf("enhance", "day2", "-o", "out", "--skip-existing", "--overwrite").code == 0
    assert is_half("out/0.wav", "day2/0.wav")
    Path("day2").rename("moved")  # the same recordings, elsewhere
    assert deepnmf("enhance", "moved", "-o", "out", "--skip-existing").err == "2 files skipped.\n"


def test_a_file_that_was_changed_in_place_is_known_by_another_name(deepnmf, stub, recordings):
    assert deepnmf("enhance", "recordings", "--in-place").code == EXIT_SOME_FAILED
    Path("recordings/one.wav").rename("recordings/1.wav")
    shutil.copy("recordings/1.wav", "recordings/uno.wav")
    before = {name: Path(name).read_bytes() for name in ("recordings/1.wav", "recordings/uno.wav")}
    result = deepnmf("enhance", "recordings", "--in-place", "--skip-existing")
    assert result.code == EXIT_SOME_FAILED and "3 files skipped" in result.err
    assert all(Path(name).read_bytes() == content for name, content in before.items())


def test_files_that_were_changed_in_place_may_exchange_their_names(deepnmf, stub, folder, hiss):
    Path("in").mkdir()
    for name in ("1.wav", "2.wav"):
        soundfile.write(f"in/{name}", hiss(0.1, seed=int(name[0])), RATE_HZ)
    assert deepnmf("enhance", "in", "--in-place").code == 0
    Path("in/2.wav").rename("in/3.wav")
    Path("in/1.wav").rename("in/2.wav")
    assert deepnmf("enhance", "in", "--in-place", "--skip-existing").err == "2 files skipped.\n"


def test_in_place_needs_a_place_to_note_it(deepnmf, stub, recordings, monkeypatch):
    before, access = Path("recordings/one.wav").read_bytes(), os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != RECORD and access(path, mode))
    Path("recordings", RECORD).write_text("")
    result = deepnmf("enhance", "recordings/one.wav", "--in-place", "--skip-existing")
    assert result.code == EXIT_FAILED and f"recordings/{RECORD}: found no permission to write it" in result.err
    assert Path("recordings/one.wav").read_bytes() == before


def test_speech_without_its_noise_is_not_complete(deepnmf, stub, noisy):
    arguments = ["enhance", "noisy.wav", "-o", "a.wav", "--noise-out", "b.wav", "--skip-existing"]
    assert deepnmf(*arguments).code == 0
    os.remove("b.wav")
    result = deepnmf(*arguments)
    assert result.code == 0 and "Warning: b.wav is missing. Pass --overwrite beside --skip-existing" in result.err
    assert deepnmf(*arguments, "--overwrite").code == 0 and Path("b.wav").exists()
    os.remove("a.wav")
    result = deepnmf(*arguments)
    assert result.code == EXIT_FAILED and "b.wav: found no a.wav beside it; expected what was made of" in result.err


def test_in_place_is_not_done_twice(deepnmf, stub, recordings):
    os.remove("recordings/day/night/three.voc")
    arguments = ["enhance", "recordings", "--in-place", "--skip-existing"]
    assert deepnmf(*arguments).code == 0
    before = read("recordings/one.wav")
    assert "2 files skipped." in deepnmf(*arguments).err
    other = deepnmf(*arguments, "--mix", "0.5", "--overwrite")
    assert "recordings/one.wav was changed before with another --mix; its original is gone." in other.err
    np.testing.assert_array_equal(read("recordings/one.wav"), before)
    soundfile.write("recordings/one.wav", np.full(800, 0.5), RATE_HZ)
    assert "Enhanced 1 file. 1 file skipped." in deepnmf(*arguments).err


SUMMARY = {"enhance": "Enhanced {}.", "repair": "Nothing was found in {}."}


def of(command, *options):
    """Arguments that change recordings/ in place, or go on with that."""
    return [command, "recordings", "--in-place", "--skip-existing", "--jobs", 1, *options]


@pytest.mark.parametrize(("first", "second"), [("repair", "enhance"), ("enhance", "repair")])
def test_each_command_changes_a_file_in_place_once(deepnmf, stub, recordings, first, second):
    os.remove("recordings/day/night/three.voc")
    assert deepnmf(*of(first)).code == 0
    before = read("recordings/one.wav")
    done = deepnmf(*of(second))
    assert done.code == 0 and SUMMARY[second].format("2 files") in done.err and "Warning" not in done.err
    if second == "enhance":
        np.testing.assert_allclose(read("recordings/one.wav"), before / 2, atol=1 / 32768)
    for command in (first, second, first):
        assert deepnmf(*of(command)).err == "2 files skipped.\n"
    other = deepnmf(*of("enhance", "--mix", 0.5))
    assert "recordings/one.wav was changed before with another --mix; its original is gone." in other.err
    soundfile.write("recordings/one.wav", before / 4, RATE_HZ)
    for command in ("repair", "enhance"):
        assert f"{SUMMARY[command].format('1 file')} 1 file skipped." in deepnmf(*of(command)).err


@pytest.mark.parametrize("commands", [("enhance",), ("repair", "enhance"), ("enhance", "repair")])
def test_a_copy_of_what_was_changed_in_place_is_not_changed_again(deepnmf, stub, recordings, commands):
    """Copies and archives have other times."""
    os.remove("recordings/day/night/three.voc")
    assert deepnmf(*of(commands[0])).code == 0
    os.rename("recordings", "original")
    shutil.copytree("original", "recordings", copy_function=shutil.copyfile)
    for command in commands[1:]:
        assert SUMMARY[command].format("2 files") in deepnmf(*of(command)).err
    before = Path("recordings/one.wav").read_bytes()
    os.rename("recordings", "second")
    shutil.copytree("second", "recordings", copy_function=shutil.copyfile)
    for command in commands:
        assert deepnmf(*of(command)).err == "2 files skipped.\n"
    assert Path("recordings/one.wav").read_bytes() == before
    restored = np.roll(read("recordings/one.wav"), 1)  # of the same size, but not what was made
    soundfile.write("recordings/one.wav", restored, RATE_HZ)
    assert SUMMARY[commands[0]].format("1 file") in deepnmf(*of(commands[0])).err


def test_a_line_behind_one_that_was_cut_short_is_read(deepnmf, stub, recordings):
    os.remove("recordings/day/night/three.voc")
    Path("recordings", RECORD).write_text('{"output": "z.wav", "sta')
    assert deepnmf(*of("enhance")).code == 0
    assert deepnmf(*of("enhance")).err == "2 files skipped.\n"


def test_lines_of_earlier_versions_belong_to_their_command(deepnmf, stub, recordings):
    os.remove("recordings/day/night/three.voc")
    assert deepnmf(*of("repair")).code == 0
    for record in Path("recordings").rglob(RECORD):
        lines = [json.loads(line) for line in record.read_text().splitlines()]
        assert [line.pop("command") for line in lines] == ["repair"]
        record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert deepnmf(*of("repair")).err == "2 files skipped.\n"
    assert "Enhanced 2 files." in deepnmf(*of("enhance")).err
    assert deepnmf(*of("enhance")).err == deepnmf(*of("repair")).err == "2 files skipped.\n"


def test_an_output_of_another_command_is_told_and_kept(deepnmf, stub, recordings):
    assert deepnmf("repair", "recordings", "-o", "out").code == 0
    before = Path("out/one.wav").read_bytes()
    result = deepnmf("enhance", "recordings", "-o", "out", "--skip-existing")
    assert result.code == 0 and "out/one.wav was made by `deepnmf repair`. Pass --overwrite beside" in result.err
    assert Path("out/one.wav").read_bytes() == before
    assert deepnmf("enhance", "recordings", "-o", "out", "--skip-existing", "--overwrite").code == 0
    assert is_half("out/one.wav", "recordings/one.wav")


def test_an_output_that_was_repaired_in_place_is_still_complete(deepnmf, stub, recordings):
    arguments = ["enhance", "recordings", "-o", "out", "--skip-existing"]
    assert deepnmf(*arguments).code == 0
    assert deepnmf("repair", "out", "--in-place").code == 0
    assert deepnmf(*arguments).err == "3 files skipped.\n"


def test_lines_that_cannot_be_read_are_left_out(deepnmf, stub, recordings):
    arguments = ["enhance", "recordings/one.wav", "-o", "out/", "--skip-existing"]
    assert deepnmf(*arguments).code == 0
    record = Path("out", RECORD)
    line = json.loads(record.read_text())
    assert line["output"] == "one.wav" and len(line["model"]) == 64 and line["--mix"] == 1.0
    record.write_text(record.read_text() + '[1]\n{"output": "one.wav"}\n{"output": "one.wav", "stamp": [1, ')
    assert deepnmf(*arguments).err == "1 file skipped.\n"


@pytest.mark.parametrize("arguments", [["-"], ["-", "-o", "a.wav"], ["noisy.wav", "-o", "-"]])
def test_streams_are_never_there(deepnmf, stub, noisy, arguments):
    result = deepnmf("enhance", *arguments, "--skip-existing", stdin=noisy.read_bytes())
    assert result.code == EXIT_USAGE and "--skip-existing: found a stream" in result.err
