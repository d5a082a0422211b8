"""`deepnmf stream --live`, with a sound card made of a thread."""

import signal
import sys
import threading
import time
from types import ModuleType

import numpy as np
import pytest

from deepnmf_cli import load_enhancer
from deepnmf_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USAGE
from deepnmf_cli.signal import sound_card

RATE_HZ, HOP = 16000, 256
DELAY_BLOCKS = 3


def wait_until(true) -> None:
    deadline = time.monotonic() + 60
    while not true() and time.monotonic() < deadline:
        time.sleep(0.001)


class FakeCard(ModuleType):
    """The package sounddevice as far as it is used: records `sound` (N, channels), keeps what was `played`.

    In step with the computation, or all `at_once`, before anything can be computed. Then comes Ctrl-C, unless it
    `vanishes`.
    """

    class PortAudioError(Exception):
        pass

    def __init__(self, sound: np.ndarray) -> None:
        super().__init__("sounddevice")
        self.sound, self.played, self.opened = sound, [], None
        self.at_once = self.vanishes = self.closed = False

    def query_devices(self, device=None, kind=None):
        return "> 0 Microphone\n< 1 Loudspeaker" if kind is None else {"default_samplerate": float(RATE_HZ)}

    def Stream(self, **settings):
        if settings["device"][0] == "nonesuch":
            raise ValueError("No input device matching 'nonesuch'")
        self.opened = settings
        return self

    number = signal.SIGINT
    """The signal that ends it."""

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run)
        if self.at_once:
            self._record(wait=False)
        self._thread.start()

    def close(self) -> None:
        self.closed = True
        self._thread.join()

    def _run(self) -> None:
        if not self.at_once:
            self._record(wait=True)
        card = self.opened["callback"].__self__
        wait_until(lambda: card._heard.empty() and card.lost == self.expected_losses)
        if not self.vanishes:
            signal.pthread_kill(threading.main_thread().ident, self.number)

    def _record(self, wait: bool) -> None:
        move, size = self.opened["callback"], self.opened["blocksize"]
        card = move.__self__
        for start in range(0, len(self.sound) - size + 1, size):
            if wait and start:
                wait_until(lambda: card._playing.qsize() == DELAY_BLOCKS - 1)
            played = np.full((size, self.opened["channels"]), np.nan, np.float32)
            move(self.sound[start : start + size], played, size, None, False)
            self.played.append(played)

    @property
    def expected_losses(self) -> int:
        """As many as silence was played for, when 10 came at once: the delay stays as it was."""
        return 10 - DELAY_BLOCKS if self.at_once else 0


@pytest.fixture
def card(monkeypatch, voice, hiss):
    """A FakeCard in the place of sounddevice, with a second of sound; Ctrl-C works even if the tests run detached."""
    sound = np.stack([voice() + hiss(seed=channel) for channel in range(2)], axis=1)
    monkeypatch.setitem(sys.modules, "sounddevice", fake := FakeCard(sound))
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield fake
    signal.signal(signal.SIGINT, previous)


def test_the_loudspeaker_plays_what_enhance_makes_of_the_microphone(deepnmf, card, tiny_model):
    result = deepnmf("stream", "--live", "--model", tiny_model, "--channels", 2, "--input-device", 3)
    assert result.code == EXIT_INTERRUPTED and card.closed
    assert result.err == (
        "Live at 16000 Hz, 2 channels: 48 ms behind, of which the model's 32 ms, plus what the devices add."
        " Ctrl-C ends.\n"
    )
    assert (card.opened["samplerate"], card.opened["device"]) == (RATE_HZ, (3, None))
    played = np.concatenate(card.played).T
    delay = DELAY_BLOCKS * HOP
    assert not played[:, :delay].any()
    expected = load_enhancer(tiny_model).enhance(np.ascontiguousarray(card.sound.T), RATE_HZ)
    np.testing.assert_allclose(played[:, delay:], expected[:, : played.shape[1] - delay], atol=1e-6)


def test_repair_delays_what_is_played(deepnmf, card, tiny_model):
    card.sound = card.sound[:HOP, :1]
    result = deepnmf("stream", "--live", "--model", tiny_model, "--repair")
    assert "208 ms behind, of which the model's 32 ms and the repair's 149 ms, plus what the devices add" in result.err
    assert result.err.endswith("There was nothing to repair.\n") and result.code == EXIT_INTERRUPTED


def test_sigterm_ends_it_as_control_c_does(deepnmf, card, tiny_model):
    card.number, card.sound = signal.SIGTERM, card.sound[: 10 * HOP]
    result = deepnmf("stream", "--live", "--model", tiny_model, "--channels", 2)
    assert result.code == EXIT_TERMINATED and card.closed and len(result.err.splitlines()) == 1


def test_blocks_that_come_late_are_counted_and_do_not_add_to_the_delay(deepnmf, card, tiny_model):
    card.at_once, card.sound = True, card.sound[: 10 * HOP]
    result = deepnmf("stream", "--live", "--model", tiny_model, "--channels", 2)
    assert result.code == EXIT_INTERRUPTED
    assert "Warning: a block came too late; silence was played instead.\n" in result.err
    assert "Warning: of 10 blocks, 7 came too late and 7 were lost. Choose a larger --block than 16" in result.err
    assert not np.concatenate(card.played).any()


def test_a_late_block_is_dropped_and_a_lost_one_is_not_waited_for(card):
    """Otherwise all that follows would come a block later for good, or every second block would be dropped."""
    card.vanishes, card.sound = True, card.sound[:0]
    with sound_card.SoundCard(RATE_HZ, 1, HOP, 2 * HOP) as used:

        def move(value):
            played = np.empty((HOP, 1), np.float32)
            used._move(np.full((HOP, 1), value, np.float32), played, HOP, None, False)
            return float(played[0, 0])

        for _ in range(used.delay_blocks):
            assert move(0) == 0
        assert move(0) == 0 and used.late == 1
        used.play(np.full((1, HOP), 1.0))  # came too late
        used.play(np.full((1, HOP), 2.0))
        assert (move(0), used.late, used.lost) == (2.0, 1, 1)
        used._owe(-1)  # a block of the microphone was lost
        assert move(0) == 0 and used.late == 2
        used.play(np.full((1, HOP), 3.0))
        assert (move(0), used.lost) == (3.0, 1)


def test_blocks_may_last_longer_than_a_device_may_be_silent(card):
    card.vanishes, card.sound = True, card.sound[:0]
    with sound_card.SoundCard(RATE_HZ, 1, 3 * RATE_HZ, HOP) as used:
        assert used._silent_s == 8.0


def test_a_device_that_cannot_start_is_told_and_closed(deepnmf, card, tiny_model, monkeypatch):
    def busy():
        raise card.PortAudioError("Device unavailable")

    monkeypatch.setattr(card, "start", busy)
    monkeypatch.setattr(card, "close", lambda: setattr(card, "closed", True))
    result = deepnmf("stream", "--live", "--model", tiny_model)
    assert result.code == EXIT_FAILED and "--live: found devices that cannot be used (Device unavailable)" in result.err
    assert card.closed


def test_levels_are_shown_on_a_terminal(deepnmf, card, tiny_model, terminal):
    screen = terminal("stderr")
    card.sound = np.full((20 * HOP, 1), 0.1, np.float32)
    deepnmf("stream", "--live", "--model", tiny_model)
    assert "\rin [#############.......] -20 dB  out [" in screen.getvalue()
    assert screen.getvalue().endswith("dB\n")


@pytest.mark.parametrize(("level", "expected"), [(1.0, 0.0), (0.1, -20.0), (0.0, -99.0)])
def test_level_is_the_root_mean_square_below_full_scale(level, expected):
    assert sound_card.level_dbfs(np.full((2, 50), level, np.float32)) == pytest.approx(expected, abs=1e-5)


def test_a_device_that_vanishes_is_told(deepnmf, card, tiny_model, monkeypatch):
    monkeypatch.setattr(sound_card, "SILENT_S", 0.05)
    card.vanishes, card.sound = True, card.sound[:0]
    result = deepnmf("stream", "--live", "--model", tiny_model)
    assert result.code == EXIT_FAILED and "Error: microphone: found no sound" in result.err
    assert card.closed


def test_a_device_that_cannot_be_used_is_told(deepnmf, card, tiny_model):
    result = deepnmf("stream", "--live", "--model", tiny_model, "--input-device", "nonesuch")
    assert result.code == EXIT_FAILED and "No input device matching 'nonesuch'" in result.err
    assert "--list-devices" in result.err


def test_devices_are_listed(deepnmf, card):
    result = deepnmf("stream", "--list-devices")
    assert (result.code, result.out.decode()) == (0, "> 0 Microphone\n< 1 Loudspeaker\n")


def test_a_format_is_refused_as_devices_have_their_own(deepnmf, card):
    result = deepnmf("stream", "--live", "--format", "s16le")
    assert result.code == EXIT_USAGE and "Error: --format" in result.err


@pytest.mark.parametrize("arguments", [["--live"], ["--list-devices"]])
def test_missing_sounddevice_is_told_with_its_remedy(deepnmf, tiny_model, monkeypatch, arguments):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    result = deepnmf("stream", "--model", tiny_model, *arguments)
    assert result.code == EXIT_FAILED and 'pip install "deepnmf[live]"' in result.err
