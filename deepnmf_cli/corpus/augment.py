"""Augmentation of mixtures: the settings of a recipe, and the steps applied while one mixture is made.

The draws for each example come from a generator of their own, so that mixtures without augmentation stay the same
whatever is added here, and a mixture is still a function of seed and index.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import numpy as np

from deepnmf_cli.corpus import effects, voice
from deepnmf_cli.corpus.mixing import Samples, is_silent, rms, scale_to_snr

STREAM = 1
"""Third number of the seed of an example's augmentation; its mixture is drawn from the first two alone."""

Segment = Callable[[np.random.Generator], Samples]
"""Function that draws a segment of speech or of noise, (n,)."""

PACKAGES = {
    "librosa": ("slow",),
    "scipy": ("whisper", "colour", "equalizer", "band_limit", "rumble", "small_room"),
    "soxr": ("speed", "noise_speed", "coding"),
}
"""Package -> the effects that need it, in addition to NumPy and soundfile."""

SMALLEST_SHARE = 0.1
"""Smallest share of the speech's amplitude that a pause or a mute may leave. One that would leave less is not made,
because nothing would remain to scale errors by."""


@dataclass(frozen=True)
class AugmentationSettings:
    """The share of the mixtures to which each augmentation is applied, and its ranges; none is applied by default."""

    speed_probability: float = 0.0
    """Share of the mixtures whose speech is faster and higher, or slower and lower."""
    speed: tuple[float, float] = (0.85, 1.2)
    noise_speed_probability: float = 0.0
    """The same for noise."""
    noise_speed: tuple[float, float] = (0.7, 1.4)
    slow_probability: float = 0.0
    """Share whose speech is slower, at its own pitch."""
    slow: tuple[float, float] = (0.35, 0.9)
    """Range of its speed."""
    held_probability: float = 0.0
    """Share whose speech has a vowel that is held, as in singing, calling and hesitating."""
    held_s: tuple[float, float] = (1.0, 3.8)
    """Range of the time for which it is held."""
    held_octaves: tuple[float, float] = (0.0, 0.0)
    """Range of the shift of its pitch, in octaves; singers and callers go higher than readers."""
    whisper_probability: float = 0.0
    """Share whose speech is whispered."""
    colour_probability: float = 0.0
    """Share whose speech passes through a random filter; noise likewise, independently, through another one."""
    babble_probability: float = 0.0
    """Share whose noise is other speakers of the training material."""
    babble_speakers: tuple[int, int] = (2, 8)
    synthetic_noise_probability: float = 0.0
    """Share whose noise is stationary and synthetic."""
    noise_slope_db: tuple[float, float] = (-9.0, 3.0)
    """Range of the slope of its spectrum per octave."""
    splice_probability: float = 0.0
    """Share whose noise has the low frequencies of one recording and the high ones of another."""
    reverse_probability: float = 0.0
    """Share whose noise runs backwards."""
    reshape_probability: float = 0.0
    """Share whose noise passes through a random smooth filter, which changes it by several dB per octave."""
    swell_probability: float = 0.0
    """Share whose noise grows louder and softer."""
    hum_probability: float = 0.0
    """Share whose noise has mains hum added to it."""
    click_probability: float = 0.0
    """Share whose noise has clicks added to it."""
    added_snr_db: tuple[float, float] = (-5.0, 20.0)
    """Range of the level of the noise above that of hum, or of clicks."""
    rumble_probability: float = 0.0
    """Share whose noise has thuds below 80 Hz added to it."""
    rumble_snr_db: tuple[float, float] = (-15.0, 5.0)
    """Range of the level of the noise above that of rumble, which is louder than it sounds."""
    small_room_probability: float = 0.0
    """Share whose speech is heard in a simulated small room; responses of `--rir` are drawn for the others only."""
    pause_probability: float = 0.0
    """Share whose speech is interrupted once while the noise goes on."""
    pause_share: tuple[float, float] = (0.2, 0.8)
    """Range of the pause's share of the segment."""
    equalizer_probability: float = 0.0
    """Share whose mixture goes through a random filter, as through a microphone."""
    clip_probability: float = 0.0
    """Share whose mixture is clipped."""
    clip_db: tuple[float, float] = (1.0, 15.0)
    """Range of the clipping level below the mixture's peak."""
    band_limit_probability: float = 0.0
    """Share whose mixture has lost its high frequencies."""
    band_limits_hz: tuple[float, ...] = (3400.0, 4000.0, 8000.0)
    """Frequencies at which its band may end; half of those ending at the first begin at 300 Hz, as on the telephone."""
    coding_probability: float = 0.0
    """Share whose mixture has been through a lossy coder."""
    codecs: tuple[str, ...] = ("mp3", "vorbis", "opus")
    compression: tuple[float, float] = (0.3, 0.95)
    """Range of the compression, from 0 (best) to 1 (smallest)."""
    mute_probability: float = 0.0
    """Share with a stretch of digital silence, in speech and noise alike."""
    mute_s: tuple[float, float] = (0.05, 1.0)
    """Range of its length."""

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if not all(0 <= value <= 1 for name, value in values.items() if name.endswith("probability")):
            raise ValueError("probabilities lie between 0 and 1")
        lists = ("band_limits_hz", "codecs")
        ranges = {name: value for name, value in values.items() if isinstance(value, tuple) and name not in lists}
        if wrong := [name for name, (low, high) in ranges.items() if low > high]:
            raise ValueError(f"{', '.join(wrong)}: a range has its lower end first")
        if not all(0.25 <= end <= 4 for end in (*self.speed, *self.noise_speed)):
            raise ValueError("speeds lie between 0.25 and 4")
        if not 0.1 <= self.slow[0] <= self.slow[1] <= 1:
            raise ValueError("slow lies between 0.1 and 1")
        if self.held_s[0] < 2 * voice.CROSSFADE_S:
            raise ValueError(f"held_s is at least {2 * voice.CROSSFADE_S}")
        if not all(-1 <= end <= 2 for end in self.held_octaves):
            raise ValueError("held_octaves lie between -1 and 2")
        if self.babble_speakers[0] < 1 or self.clip_db[0] < 0 or self.mute_s[0] < 0:
            raise ValueError("babble_speakers must be at least 1, clip_db and mute_s not negative")
        if not all(0 <= end <= 1 for end in (*self.pause_share, *self.compression)):
            raise ValueError("pause_share and compression lie between 0 and 1")
        if not self.band_limits_hz or min(self.band_limits_hz) <= effects.TELEPHONE_LOW_HZ:
            raise ValueError(f"band_limits_hz needs frequencies above {effects.TELEPHONE_LOW_HZ:.0f}")
        if not self.codecs or not set(self.codecs) <= set(effects.CODECS):
            raise ValueError(f"codecs must be some of {', '.join(effects.CODECS)}")


def packages(settings: AugmentationSettings) -> Iterator[tuple[str, str]]:
    """Yield (package, setting that needs it) for each augmentation that the settings ask for."""
    for package, effects_of_it in PACKAGES.items():
        for name in effects_of_it:
            if getattr(settings, f"{name}_probability"):
                yield package, f"augmentation.{name}_probability"


class Augmentation:
    """The augmentation of one example: each method is one step, called in the order of `MixtureDataset`."""

    def __init__(self, settings: AugmentationSettings, seed: int, index: int, rate_hz: int) -> None:
        self.settings, self.rate_hz = settings, rate_hz
        self.draw = np.random.default_rng([seed, index, STREAM])

    def _happens(self, what: str) -> bool:
        probability = getattr(self.settings, f"{what}_probability")
        return probability > 0 and self.draw.random() < probability

    def speech_speed(self) -> float:
        """Return the factor by which to speed up speech."""
        return self.draw.uniform(*self.settings.speed) if self._happens("speed") else 1.0

    def noise_speed(self) -> float:
        """Return the factor by which to speed up noise."""
        return self.draw.uniform(*self.settings.noise_speed) if self._happens("noise_speed") else 1.0

    def speech(self, speech: Samples) -> Samples:
        """Return dry speech (n,), possibly slowed, with a sustained vowel, whispered or coloured."""
        if self._happens("slow"):
            slowed = voice.slowed(speech, self.draw.uniform(*self.settings.slow))
            speech = speech if is_silent(slowed) else slowed  # it is the first part, which may be a pause
        if self._happens("held"):
            speech = voice.held(speech, self.draw, self.rate_hz, self.settings.held_s, self.settings.held_octaves)
        if self._happens("whisper"):
            speech = voice.whispered(speech, self.draw, self.rate_hz)
        return self._coloured(speech)

    def response(self) -> Samples | None:
        """Return a simulated room response, or None if none is to be used."""
        return effects.small_room(self.draw, self.rate_hz) if self._happens("small_room") else None

    def noise(self, noise: Samples, other_speech: Segment, other_noise: Segment) -> Samples:
        """Return noise (n,), or babble or synthetic noise in its place.

        It is possibly modified, and possibly has hum, clicks or rumble added.
        """
        s = self.settings
        if self._happens("babble"):
            speakers = self.draw.integers(s.babble_speakers[0], s.babble_speakers[1] + 1)
            voices = [other_speech(self.draw) for _ in range(speakers)]
            gains = 10 ** (self.draw.uniform(-5, 5, speakers) / 20)
            scaled = [voice * np.float32(gain / rms(voice)) for voice, gain in zip(voices, gains, strict=True)]
            noise = np.sum(scaled, axis=0)
        elif self._happens("synthetic_noise"):
            noise = effects.coloured_noise(len(noise), self.draw, self.draw.uniform(*s.noise_slope_db))
        noise = self._coloured(self._varied(noise, other_noise))
        for what, make, snr_db in (
            ("hum", effects.hum, s.added_snr_db),
            ("click", effects.clicks, s.added_snr_db),
            ("rumble", effects.rumble, s.rumble_snr_db),
        ):
            if self._happens(what):
                added = make(len(noise), self.draw, self.rate_hz)
                noise = noise + scale_to_snr(noise, added, self.draw.uniform(*snr_db))
        return noise

    def _varied(self, noise: Samples, other: Segment) -> Samples:
        """Return a noise (n,) made from recorded ones, possibly one that was never recorded."""
        if self._happens("splice"):
            noise = effects.spliced(noise, other(self.draw), self.draw, self.rate_hz)
        if self._happens("reverse"):
            noise = noise[::-1].copy()
        if self._happens("reshape"):
            noise = effects.reshaped(noise, self.draw, self.rate_hz)
        return effects.swelling(noise, self.draw, self.rate_hz) if self._happens("swell") else noise

    def _coloured(self, samples: Samples) -> Samples:
        return effects.filtered(samples, effects.colour(self.draw)) if self._happens("colour") else samples

    def pause(self, wet: Samples, target: Samples) -> tuple[Samples, Samples]:
        """Return speech as heard (n,) and the part of it that is the target, possibly with a pause in both."""
        if not self._happens("pause"):
            return wet, target
        open_ = self._gap(len(wet), self.draw.uniform(*self.settings.pause_share) * len(wet), fade_s=0.01)
        paused = target * open_
        return (wet * open_, paused) if rms(paused) > SMALLEST_SHARE * rms(target) else (wet, target)

    def channel(self, target: Samples, noise: Samples) -> tuple[Samples, Samples]:
        """Return target and noise (n,) of one mixture after a microphone, a converter, a line and a file.

        The sum of the results is the mixture after the same steps. Filters act on both alike. What clipping and coding
        do to each is explained in `effects.clip`, and below.
        """
        s, both = self.settings, np.stack([target, noise])
        if self._happens("equalizer"):
            both = effects.filtered(both, effects.colour(self.draw))
        if self._happens("clip"):
            both = np.stack(effects.clip(both[0], both[1], self.draw.uniform(*s.clip_db)))
        if self._happens("band_limit"):
            highest = self.draw.choice(s.band_limits_hz)
            telephone = highest == s.band_limits_hz[0] and self.draw.random() < 0.5
            both = effects.limit_band(both, highest, effects.TELEPHONE_LOW_HZ if telephone else 0.0, self.rate_hz)
        target, noise = both
        if self._happens("coding"):
            codec, compression = str(self.draw.choice(s.codecs)), self.draw.uniform(*s.compression)
            # The target is speech that went through the coder alone: the coder's band and blur are not to be undone.
            coded = effects.code(target + noise, self.rate_hz, codec, compression)
            target = effects.code(target, self.rate_hz, codec, compression)
            noise = coded - target
        if self._happens("mute"):
            open_ = self._gap(len(target), self.draw.uniform(*s.mute_s) * self.rate_hz, fade_s=0.0)
            if rms(target * open_) > SMALLEST_SHARE * rms(target):
                target, noise = target * open_, noise * open_
        return target, noise

    def _gap(self, length: int, silent: float, fade_s: float) -> Samples:
        """Return a gain (length,) of 1, and of 0 for `silent` samples at a random place, faded in and out."""
        first = self.draw.uniform(0, max(0.0, length - silent))
        fade = max(1.0, fade_s * self.rate_hz)
        outside = np.maximum(first - np.arange(length), np.arange(length) - (first + silent))
        return np.clip(outside / fade, 0, 1).astype(np.float32)
