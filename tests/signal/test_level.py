"""The level and the context."""

import pytest
import torch

from deepnmf_cli.signal.level import normalise_level, stack_context


def noise(*shape: int) -> torch.Tensor:
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_level_scales_with_the_input_and_is_causal() -> None:
    magnitude = noise(1, 10, 50).abs()
    normal, _ = normalise_level(magnitude)
    quiet, _ = normalise_level(magnitude * 1e-4)
    torch.testing.assert_close(quiet, normal, rtol=1e-5, atol=0)
    louder_later = torch.cat([magnitude[..., :25], 100 * magnitude[..., 25:]], -1)
    assert torch.equal(normalise_level(louder_later)[0][..., :25], normal[..., :25])


def test_first_frame_has_level_one_and_digital_silence_is_skipped() -> None:
    magnitude = noise(1, 10, 6).abs()
    silence = torch.zeros(1, 10, 4)
    normal, _ = normalise_level(torch.cat([silence, magnitude], -1))
    assert float(normal[..., 4].square().mean()) == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(normal[..., 4:], normalise_level(magnitude)[0])
    assert torch.equal(normal[..., :4], silence)


def test_context_is_oldest_first_with_the_present_frame_last() -> None:
    frames = torch.arange(1.0, 9.0).reshape(1, 2, 4)
    stacked, past = stack_context(frames, 3)
    assert stacked[0, :, 0].tolist() == [0, 0, 0, 0, 1, 5]
    assert stacked[0, :, 3].tolist() == [2, 6, 3, 7, 4, 8]
    assert torch.equal(past, frames[..., 2:])


@pytest.mark.parametrize("context", [1, 4])
def test_context_in_blocks_equals_context_of_the_whole(context: int) -> None:
    frames = noise(2, 3, 11)
    first, past = stack_context(frames[..., :2], context)
    second, _ = stack_context(frames[..., 2:], context, past)
    assert torch.equal(torch.cat([first, second], -1), stack_context(frames, context)[0])
