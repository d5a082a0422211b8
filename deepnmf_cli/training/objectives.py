"""The training objective: weighted terms on masked magnitudes and on the synthesised waveform.

Each term is divided by the energy of its target, so that loud and quiet mixtures count alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from deepnmf_cli.inference.divergence import divergence
from deepnmf_cli.networks.base import NOISE, SPEECH
from deepnmf_cli.signal.level import mixture_of, modulus
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training.hearing import intelligibility_lost, points_lost, power_spectra

TINY = 1e-8
"""Keeps divisions finite for silent targets: 80 dB below the mixture, to which everything is scaled first."""

COMPRESSION_FLOOR = 1e-4
"""Added to magnitudes before a power below one, whose slope at zero is infinite: 80 dB below the mixture."""


PAUSE_BELOW_MEAN_DB = 45.0
PAUSE_BELOW_MIXTURE_DB = 15.0
"""A frame holds no speech if clean speech lies this far below its mean over all frames, and this far below the mixture
in the frame."""

PAUSE_MARGIN = 3
"""Frames on either side of speech that do not count as pauses: quiet ends of words and the tails of windows."""

PAUSE_FLOOR = 3e-4
"""Share of the mixture's power, -35 dB, below which no more attenuation is asked for: residues below are masked in
hearing, and deeper attenuation cost quiet ends of words."""

WAVEFORM_TERMS = ("snr", "si_sdr", "pesq", "estoi")
TERMS = ("magnitude", "compressed_half", "compressed_third", "pauses", *WAVEFORM_TERMS)
"""Names of the weights that each switch on a term."""


@dataclass(frozen=True)
class ObjectiveSettings:
    """Weights of the terms; a term of weight zero is not computed."""

    magnitude: float = 0.0
    """Masked magnitude, equation (37)."""
    magnitude_beta: float = 2.0
    """Divergence of `magnitude` (beta2): 2 squared error, 1 Kullback-Leibler, 0 Itakura-Saito."""
    noise_weight: float = 0.0
    """Weight gamma of the noise estimate in (37); that of speech is 1."""
    phase_sensitive: bool = False
    """In `magnitude`, use the target |S| max(0, cos(angle(S) - angle(M))) in place of |S|."""
    compressed_half: float = 1.0
    """Squared error of magnitudes to the power 0.5."""
    compressed_third: float = 0.5
    """Squared error of magnitudes to the power 0.3, which weighs quiet bins more."""
    pauses: float = 0.0
    """Weight per dB of the power that is left in frames without speech, see `residue_db`."""
    snr: float = 0.02
    """Weight per dB of the signal-to-noise ratio of the synthesised waveform."""
    si_sdr: float = 0.0
    """Weight per dB of its scale-invariant version, which leaves the gain free."""
    pesq: float = 0.0
    """Weight per point of PESQ that the waveform loses, see `hearing.points_lost`."""
    estoi: float = 0.0
    """Weight of 1 - ESTOI of the waveform, see `hearing.intelligibility_lost`."""

    def __post_init__(self) -> None:
        weights = [getattr(self, name) for name in TERMS]
        if min(*weights, self.noise_weight) < 0 or not any(weights):
            raise ValueError("weights must not be negative, and one besides noise_weight must be positive")
        if not -1 <= self.magnitude_beta <= 3:
            raise ValueError("magnitude_beta must lie in [-1, 3]")

    @property
    def needs_waveforms(self) -> bool:
        """Return whether there is a term on synthesised waveforms."""
        return any(getattr(self, name) for name in WAVEFORM_TERMS)


@dataclass(frozen=True)
class Truth:
    """What a batch of mixtures is made of, and what follows from it: computed once, whatever is compared with it.

    Mixtures are scaled to a mean square of one over bins and frames, and their sources with them.
    """

    spectra: Tensor
    """(B, 2, F, T) complex, of the true speech and noise, which sum to the mixture's."""
    waveforms: Tensor | None = None
    """(B, 2, N) of the same; None if no term needs them."""
    _compressed: dict[float, Tensor] = field(init=False, default_factory=dict, repr=False, compare=False)

    @cached_property
    def _as_given(self) -> tuple[Tensor, Tensor]:
        mixture = mixture_of(self.spectra)
        return mixture, modulus(mixture)

    @cached_property
    def gain(self) -> Tensor:
        """The gain (B, 1, 1) that scales mixtures."""
        return gain_to_unit_level(self._as_given[1])

    @cached_property
    def mixture(self) -> Tensor:
        """Complex spectrum (B, F, T) of the scaled mixture."""
        return self._as_given[0] * self.gain

    @cached_property
    def magnitude(self) -> Tensor:
        """Its magnitude (B, F, T)."""
        return self._as_given[1] * self.gain

    @cached_property
    def speech(self) -> Tensor:
        """Magnitude (B, F, T) of the scaled speech."""
        return modulus(self.spectra[:, SPEECH] * self.gain)

    def target(self, source: int, phase_sensitive: bool) -> Tensor:
        """Return what (37) compares the masked magnitude of a source with, (B, F, T)."""
        if phase_sensitive:
            return phase_sensitive_target(self.spectra[:, source] * self.gain, self.mixture)
        return self.speech if source == SPEECH else modulus(self.spectra[:, source] * self.gain)

    def compressed_speech(self, power: float) -> Tensor:
        """Return `compressed` of the scaled speech, (B, F, T)."""
        if power not in self._compressed:
            self._compressed[power] = compressed(self.speech, power)
        return self._compressed[power]


def objective(settings: ObjectiveSettings, masks: Tensor, truth: Truth, front_end: FrontEnd) -> Tensor:
    """Return the mean loss of masks (B, 2 or 3, F, T), see `signal.masks.complex_masks`, of a batch.

    The default weights were chosen by the dev score. Raises ValueError for terms on waveforms that `truth` lacks.
    """
    planes = masks.unbind(1)
    estimate = mask_size(planes) * truth.magnitude
    loss = estimate.new_zeros(())
    if settings.magnitude:
        beta, phase_sensitive = settings.magnitude_beta, settings.phase_sensitive
        error = magnitude_error(estimate, truth.target(SPEECH, phase_sensitive), beta)
        if settings.noise_weight:
            noise = magnitude_error(
                mask_size(planes, NOISE) * truth.magnitude, truth.target(NOISE, phase_sensitive), beta
            )
            error = error + settings.noise_weight * noise
        loss = loss + settings.magnitude * error
    for weight, power in ((settings.compressed_half, 0.5), (settings.compressed_third, 0.3)):
        if weight:
            loss = loss + weight * relative_error(compressed(estimate, power), truth.compressed_speech(power))
    if settings.pauses:
        loss = loss + settings.pauses * residue_db(estimate, truth.speech, truth.magnitude)
    if settings.needs_waveforms:
        if truth.waveforms is None:
            raise ValueError("terms on waveforms, of a batch without them")
        target = truth.waveforms[:, SPEECH] * truth.gain[:, 0]
        mask = planes[SPEECH] if len(planes) == IMAGINARY else torch.complex(planes[SPEECH], planes[IMAGINARY])
        synthesised = front_end.pair(front_end.rate_hz).synthesis(mask * truth.mixture, truth.waveforms.shape[-1])
        loss = loss + _waveform_terms(settings, synthesised, target, front_end.rate_hz)
    return loss


def _waveform_terms(settings: ObjectiveSettings, estimate: Tensor, target: Tensor, rate_hz: int) -> Tensor:
    """Return the weighted sum of the terms on waveforms (B, N) at the level of the mixtures."""
    loss = estimate.new_zeros(())
    for weight, term in ((-settings.snr, snr_db), (-settings.si_sdr, si_sdr_db)):
        if weight:
            loss = loss + weight * term(estimate, target).mean()
    if settings.pesq or settings.estoi:
        estimated, true = power_spectra(estimate, rate_hz), power_spectra(target, rate_hz)
        for weight, term in ((settings.pesq, points_lost), (settings.estoi, intelligibility_lost)):
            if weight:
                loss = loss + weight * term(estimated, true, rate_hz).mean()
    return loss


def gain_to_unit_level(magnitude: Tensor) -> Tensor:
    """Return the gain (B, 1, 1) that brings mixtures of magnitude (B, F, T) to a mean square of one."""
    return 1 / magnitude.square().mean((-1, -2)).sqrt().clamp_min(TINY)[:, None, None]


IMAGINARY = 2
"""Number of the plane that complex masks have beside real ones, see `signal.masks.complex_masks`."""


def mask_size(planes: Sequence[Tensor], source: int = SPEECH) -> Tensor:
    """Return |M| (B, F, T) of a source, given the 2 or 3 planes of masks, each (B, F, T).

    TINY^2 keeps the slope of a complex mask finite at zero. Planes are squared as they are, as complex numbers take
    several times as long.
    """
    if len(planes) == IMAGINARY:
        return planes[source]
    return (planes[source].square() + planes[IMAGINARY].square()).add(TINY**2).sqrt()


def phase_sensitive_target(spectrum: Tensor, mixture: Tensor) -> Tensor:
    """|S| cos(angle(S) - angle(M)), clipped at zero: the best that a non-negative mask can recover, (..., F, T)."""
    return ((spectrum * mixture.conj()).real / mixture.abs().clamp_min(TINY)).clamp_min(0)


def magnitude_error(estimate: Tensor, target: Tensor, beta: float) -> Tensor:
    """D_beta(target | estimate) of magnitudes (B, F, T) over sum target^beta, mean over the batch; (37) per source.

    Both are raised by COMPRESSION_FLOOR where beta < 2, since the divergence of an estimate of zero is then unbounded.
    """
    if beta == 2:
        return relative_error(estimate, target)
    estimate, target = estimate + COMPRESSION_FLOOR, target + COMPRESSION_FLOOR
    error = divergence(target, estimate, beta, elementwise=True).sum((-1, -2))
    return (error / (target.pow(beta).sum((-1, -2)) + TINY)).mean()


def relative_error(estimate: Tensor, target: Tensor) -> Tensor:
    """Squared error (B, F, T) over the energy of the target, mean over the batch."""
    energy = target.square().sum((-1, -2))
    return ((estimate - target).square().sum((-1, -2)) / (energy + TINY)).mean()


def compressed(magnitude: Tensor, power: float) -> Tensor:
    """Return magnitudes raised to `power`; the floor keeps the slope at zero finite."""
    return (magnitude + COMPRESSION_FLOOR).pow(power)


def residue_db(estimate: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
    """Power in pauses in dB of the mixture's: mean over all frames of [pause] 10 log10(P_estimate / P_mixture + floor).

    Magnitudes (B, F, T) of the estimate, the clean speech and the mixture. Source: own, see
    docs/research/flagship/quiet.md.
    """
    left, clean, noisy = (magnitude.square().sum(-2) + TINY for magnitude in (estimate, target, mixture))
    decibels = 10 * torch.log10(left / noisy + PAUSE_FLOOR)
    return (decibels * pauses(clean, noisy)).mean()


def pauses(clean: Tensor, noisy: Tensor) -> Tensor:
    """Return which frames hold no speech, (B, T) of 0 and 1, given the powers (B, T) of clean speech and mixture."""
    below_mean = clean < 10 ** (-PAUSE_BELOW_MEAN_DB / 10) * clean.mean(-1, keepdim=True)
    speech = ~(below_mean & (clean < 10 ** (-PAUSE_BELOW_MIXTURE_DB / 10) * noisy))
    near = max_pool1d(speech.to(clean.dtype)[:, None], 2 * PAUSE_MARGIN + 1, 1, PAUSE_MARGIN)[:, 0]
    return 1 - near


def snr_db(estimate: Tensor, target: Tensor) -> Tensor:
    """10 log10(|s|^2 / |s - s^|^2) of waveforms (B, N), (B,), bounded to about +-60 dB."""
    energy = target.square().sum(-1)
    error = (estimate - target).square().sum(-1)
    return 10 * torch.log10((energy + TINY) / (error + 1e-6 * energy + TINY))


def si_sdr_db(estimate: Tensor, target: Tensor) -> Tensor:
    """`snr_db` for the target's best gain, (B,), of waveforms made zero-mean. Le Roux et al., ICASSP 2019."""
    estimate, target = (x - x.mean(-1, keepdim=True) for x in (estimate, target))
    gain = (estimate * target).sum(-1, keepdim=True) / (target.square().sum(-1, keepdim=True) + TINY)
    return snr_db(estimate, gain * target)
