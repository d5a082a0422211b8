"""`deepnmf enhance`: media that cannot be read, headers that lie, files that appear or vanish, and kills."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli.commands.record import RECORD
from deepnmf_cli.errors import EXIT_FAILED, EXIT_SOME_FAILED, EXIT_USAGE
from deepnmf_cli.signal import audio_writer

RATE_HZ = 16000
ROOT = Path(__file__).parents[2]


def listing(folder="."):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


# Media that cannot be read


def test_media_that_cannot_be_read_are_named_and_counted(deepnmf, stub, recordings, without_media):
    for name in ("day/my talk.M4A", "film.mp4", ".hidden.m4a", "cover.jpg", "table.csv"):
        Path("recordings", name).write_text("of another program")
    result = deepnmf("enhance", "recordings", "-o", "out")
    assert result.code == EXIT_SOME_FAILED and "Enhanced 3 files. 2 of 5 files failed." in result.err
    assert "Error: recordings/day/my talk.M4A: found a .M4A file, which cannot be read; expected WAV" in result.err
    assert "`ffmpeg -i 'my talk.M4A' 'my talk.wav'`" in result.err and "film.mp4" in result.err
    assert 'Run `pip install "deepnmf[media]"`, or convert' in result.err
    assert not any(name in result.err for name in (".hidden", "cover", "table", "notes"))
    *rows, summary = deepnmf("enhance", "recordings", "-o", "again", "--json").lines
    assert summary["failed"] == 2 and len(rows) == 5


def test_a_folder_of_media_that_cannot_be_read_fails(deepnmf, stub, folder, without_media):
    Path("in").mkdir()
    Path("in/talk.m4a").touch()
    result = deepnmf("enhance", "in", "-o", "out")
    assert result.code == EXIT_FAILED and "in/talk.m4a: found a .m4a file" in result.err
    assert not Path("out").exists()


# Encoders and headers


def test_an_encoder_that_cannot_take_a_file_does_not_stop_the_rest(deepnmf, stub, recordings, hiss):
    soundfile.write("recordings/six.mp3", np.zeros((100, 6)), RATE_HZ, "PCM_16", format="WAV")  # named wrongly
    result = deepnmf("enhance", "recordings", "-o", "out")
    assert result.code == EXIT_SOME_FAILED and "Enhanced 3 files." in result.err
    assert "out/six.mp3: found 6 channel(s) at 16000 Hz; expected at most 2" in result.err


def test_a_header_that_promises_too_much_fails_its_file_alone(deepnmf, stub, recordings, monkeypatch):
    content = bytearray(Path("recordings/day/two.flac").read_bytes())
    content[21] |= 0x0F  # the number of samples: 36 bits, the upper four here
    Path("recordings/lies.wav").write_bytes(content)
    usage = namedtuple("usage", "total used free")(1 << 40, 0, 1 << 30)
    monkeypatch.setattr(audio_writer.shutil, "disk_usage", lambda folder: usage)
    result = deepnmf("enhance", "recordings", "-o", "out", "--jobs", "1")
    assert result.code == EXIT_SOME_FAILED and "Enhanced 3 files. 1 of 4 files failed." in result.err
    assert "lies.wav: found 1600 frames" in result.err
    assert [name for name in listing("out") if RECORD not in name] == ["day/night/three.wav", "day/two.flac", "one.wav"]


@pytest.mark.parametrize(
    ("suffix", "least"), [(".wav", 320_000), (".flac", 40_000), (".ogg", 20_000), (".mp3", 20_000)]
)
def test_room_is_estimated_for_the_codec(deepnmf, stub, folder, monkeypatch, suffix, least):
    soundfile.write("noisy.wav", np.zeros(10 * RATE_HZ), RATE_HZ)
    usage = namedtuple("usage", "total used free")
    for free, code in ((least - 1, EXIT_FAILED), (least, 0)):
        monkeypatch.setattr(audio_writer.shutil, "disk_usage", lambda folder, free=free: usage(1 << 40, 0, free))
        assert deepnmf("enhance", "noisy.wav", "-o", f"x{suffix}").code == code


# Files that appear, folders that vanish


def meanwhile(stub, monkeypatch, happens):
    """Let something happen while a recording is enhanced."""
    enhance_blocks = stub.enhance_blocks

    def slowly(*arguments, **more):
        happens()
        yield from enhance_blocks(*arguments, **more)

    monkeypatch.setattr(stub, "enhance_blocks", slowly)


def test_a_file_that_appears_at_the_target_is_not_replaced(deepnmf, stub, noisy, monkeypatch):
    meanwhile(stub, monkeypatch, lambda: Path("clean.wav").write_bytes(b"precious"))
    result = deepnmf("enhance", "noisy.wav", "-o", "clean.wav")
    assert result.code == EXIT_FAILED
    assert "Error: clean.wav: found a file that appeared while the output was made" in result.err
    assert Path("clean.wav").read_bytes() == b"precious" and listing() == ["clean.wav", "noisy.wav"]
    assert deepnmf("enhance", "noisy.wav", "-o", "clean.wav", "--overwrite").code == 0
    assert soundfile.info("clean.wav").frames == RATE_HZ


def test_a_link_in_a_circle_exists(deepnmf, stub, noisy):
    os.symlink("loop.wav", "loop.wav")
    result = deepnmf("enhance", "noisy.wav", "-o", "loop.wav")
    assert result.code == EXIT_USAGE and "loop.wav: found an existing file" in result.err
    assert deepnmf("enhance", "noisy.wav", "-o", "loop.wav", "--overwrite").code == 0


def test_an_output_folder_that_is_removed_is_not_a_full_disk(deepnmf, stub, noisy, monkeypatch):
    meanwhile(stub, monkeypatch, lambda: shutil.rmtree("out"))
    result = deepnmf("enhance", "noisy.wav", "-o", "out/")
    assert result.code == EXIT_FAILED and "full disk" not in result.err
    assert "out/noisy.wav: found an output that cannot be written (its folder is gone)" in result.err


# Kills

KILLED = """
import sys, time, types
def enhance_blocks(blocks, *_, **__):
    yield next(blocks)[:, :100]
    print("at work", file=sys.stderr, flush=True)
    time.sleep(60)
stub = types.SimpleNamespace(enhance_blocks=enhance_blocks)
sys.modules["deepnmf_cli.zoo"] = types.SimpleNamespace(load_enhancer=lambda *_: stub, DEFAULT_MODEL="stub")
from deepnmf_cli.main import run
run(["enhance", *sys.argv[1:]])
"""


@pytest.mark.skipif(os.name == "nt", reason="no locks, and so no cleaning, on Windows")
@pytest.mark.parametrize("arguments", [("noisy.wav", "-o", "out/"), ("-", "-o", "-"), ("-", "-o", "out/clean.wav")])
def test_a_kill_leaves_nothing_for_long(deepnmf, stub, noisy, monkeypatch, arguments):
    Path("temp").mkdir()
    Path("out").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(Path("temp").absolute()))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": tempfile.tempdir}
    pipes = {"stdin": noisy.open("rb"), "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with (
        pipes["stdin"],
        subprocess.Popen([sys.executable, "-c", KILLED, *arguments], env=environment, **pipes) as process,
    ):
        assert process.stderr.readline() == b"at work\n"
        process.kill()
    left = [path.name for path in Path().rglob("*") if path.name != "noisy.wav"]
    assert left and not [name for name in listing("out") if not name.startswith(".")]
    begin = time.monotonic()
    assert deepnmf("enhance", *arguments, stdin=noisy.read_bytes()).code == 0
    assert time.monotonic() - begin < 10
    assert os.listdir("temp") == [] and not list(Path("out").glob(".*"))
