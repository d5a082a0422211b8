"""One file into another: parts that sum to the whole, in bounded memory."""

import os
import tracemalloc

import numpy as np
import pytest
import soundfile

from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal import audio, audio_writer
from deepnmf_cli.signal.rewrite import rewrite

RATE_HZ = 16000


def halve(blocks, rate_hz, channels):
    for block in blocks:
        yield np.float32(0.5) * block


def noise(frames, channels=1):
    return 0.2 * np.random.default_rng(0).standard_normal((channels, frames))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"])
def test_speech_and_noise_sum_to_the_input_exactly(tmp_path, subtype, stub):
    names = [tmp_path / name for name in ("in.wav", "speech.wav", "noise.wav")]
    audio_writer.write(names[0], noise(150_000, 2), RATE_HZ, subtype)
    done = rewrite(names[0], names[1], stub.enhance_blocks, names[2])
    source, speech, rest = (audio.read(name, "float64")[0] for name in names)
    np.testing.assert_array_equal(speech + rest, source)
    assert np.abs(rest).max() > 0.1 and not any(done.clipped.values())


@pytest.mark.parametrize(("subtype", "tolerance"), [("FLOAT", 2e-7), ("DOUBLE", 1e-15)])
def test_float_speech_and_noise_sum_to_the_input_within_rounding(tmp_path, subtype, tolerance):
    names = [tmp_path / name for name in ("in.wav", "speech.wav", "noise.wav")]
    audio_writer.write(names[0], 3 * noise(10_000), RATE_HZ, subtype)
    rewrite(names[0], names[1], halve, names[2])
    source, speech, rest = (audio.read(name, "float64")[0] for name in names)
    np.testing.assert_allclose(speech + rest, source, rtol=0, atol=tolerance)


def test_progress_adds_up_to_the_length(tmp_path):
    audio_writer.write(tmp_path / "in.wav", noise(150_000, 2), RATE_HZ)
    done = []
    rewrite(tmp_path / "in.wav", tmp_path / "out.wav", halve, progress=done.append)
    assert len(done) > 1 and sum(done) == pytest.approx(150_000 / RATE_HZ)


def test_memory_does_not_grow_with_the_length(tmp_path):
    def peak(frames):
        audio_writer.write(tmp_path / "in.wav", np.zeros((2, frames), np.float32), RATE_HZ)
        tracemalloc.start()
        rewrite(tmp_path / "in.wav", tmp_path / "out.wav", halve, tmp_path / "rest.wav")
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(2_000_000) < 1.1 * peak(400_000)


def test_an_output_that_cannot_get_its_name_takes_the_other_with_it(tmp_path):
    soundfile.write(tmp_path / "in.wav", np.zeros(1000), 16000)

    def process(blocks, rate_hz, channels):
        yield from blocks
        (tmp_path / "out.wav").write_text("appeared meanwhile")

    with pytest.raises(AudioError, match="out.wav"):
        rewrite(tmp_path / "in.wav", tmp_path / "out.wav", process, tmp_path / "noise.wav", overwrite=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.wav", "out.wav"]


def test_a_process_that_loses_samples_is_noticed(tmp_path):
    audio_writer.write(tmp_path / "in.wav", noise(1000), RATE_HZ)
    with pytest.raises(ValueError, match="999 frames for 1000"):
        rewrite(tmp_path / "in.wav", tmp_path / "out.wav", lambda blocks, *_: (block[:, 1:] for block in blocks))
    assert os.listdir(tmp_path) == ["in.wav"]


def test_files_wait_for_the_disk_once(tmp_path, monkeypatch):
    """soundfile would also wait at every closing, after reading too."""
    audio_writer.write(tmp_path / "in.wav", noise(1000), RATE_HZ)
    waited = []
    monkeypatch.setattr(os, "fsync", waited.append)
    monkeypatch.setattr(soundfile.SoundFile, "flush", lambda file: waited.append(file.name))
    rewrite(tmp_path / "in.wav", tmp_path / "out.wav", halve)
    assert len(waited) == 1 and isinstance(waited[0], int)
