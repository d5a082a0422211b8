"""`deepnmf enhance`: inputs whose headers do not tell the truth about their length."""

from pathlib import Path

import numpy as np
import soundfile

from deepnmf_cli.errors import EXIT_FAILED, EXIT_SOME_FAILED

RATE_HZ = 16000
NOTE = "its header was never finished and announces no samples: all that follow it were read"


def record(path, frames=4000):
    samples = 0.1 * np.random.default_rng(0).standard_normal(frames)
    soundfile.write(path, samples, RATE_HZ)
    return Path(path).read_bytes()


def test_a_repaired_header_is_reported_in_one_line_and_in_json(deepnmf, stub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = record("whole.wav")
    Path("crashed.wav").write_bytes(content[:4] + bytes(4) + content[8:40] + bytes(4) + content[44:])
    result = deepnmf("enhance", "crashed.wav", "whole.wav", "-o", "out/", "--json")
    assert result.code == 0 and result.err == f"Warning: crashed.wav: {NOTE}.\n"
    assert [row["notes"] for row in result.lines[:-1]] == [[NOTE], []]
    for name in ("crashed", "whole"):
        assert soundfile.info(f"out/{name}.wav").frames == 4000
    np.testing.assert_array_equal(soundfile.read("out/crashed.wav")[0], soundfile.read("out/whole.wav")[0])


def test_a_header_that_claims_too_much_fails_its_own_file_only(deepnmf, stub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    record("in/good.wav")
    content = bytearray(record("x.flac"))
    content[21] |= 0x0F  # 2^36 - 1 frames
    content[22:26] = b"\xff" * 4
    for name in ("in/lie.wav", "in/lie2.flac", "in/lie3.aiff"):
        Path(name).write_bytes(content)
    result = deepnmf("enhance", "in", "-o", "out")
    assert result.code == EXIT_SOME_FAILED and [path.name for path in Path("out").glob("[!.]*")] == ["good.wav"]
    assert result.err.count("found 4000 frames; expected 68719476735 frames as the header says") == 3
    assert deepnmf("enhance", "in/lie.wav", "-o", "lie.wav").code == EXIT_FAILED


def test_a_chain_of_recordings_is_enhanced_to_its_end(deepnmf, stub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("link.ogg", 0.1 * np.random.default_rng(0).standard_normal(4000), RATE_HZ)
    Path("chain.ogg").write_bytes(2 * Path("link.ogg").read_bytes())
    result = deepnmf("enhance", "chain.ogg", "-o", "chain.wav", "--noise-out", "noise.wav")
    assert result.code == 0 and "Warning" not in result.err
    assert soundfile.info("chain.wav").frames == soundfile.info("noise.wav").frames == 8000
