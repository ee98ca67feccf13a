"""Augmentation: what each change does, and that a seed repeats it."""

import pytest
import torch

from robot_rl.networks.vision.augmentation import (
    AugmentationConfig,
    augmented,
    coloured,
    convolved,
    crop_boxes,
    cropped,
    shifted,
    strongly_augmented,
)

EVERYTHING = AugmentationConfig(
    shift=2, crop=0.7, crop_ratio=1.1, brightness=0.1, contrast=0.2, saturation=0.3, hue=0.05
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=generator(seed), dtype=torch.uint8)


def test_a_shift_is_a_crop_of_the_image_with_its_edge_repeated() -> None:
    images, most = pictures(50, 7, 9, 3), 3
    offset = torch.randint(0, 2 * most + 1, (50, 2), generator=generator())
    planes = torch.nn.functional.pad(images.permute(0, 3, 1, 2).float(), (most,) * 4, "replicate")
    for image, plane, (row, column) in zip(shifted(images, offset, most), planes, offset.tolist(), strict=True):
        wanted = plane[:, row : row + 7, column : column + 9].permute(1, 2, 0).to(torch.uint8)
        assert torch.equal(image, wanted)


def test_an_offset_of_the_middle_moves_nothing() -> None:
    images = pictures(4, 3, 8, 8, 3)
    assert torch.equal(shifted(images, torch.full((4, 2), 4), 4), images)


@pytest.mark.parametrize("config", [AugmentationConfig(), EVERYTHING])
def test_a_seed_repeats_the_changes_and_another_does_not(config: AugmentationConfig) -> None:
    images = pictures(8, 16, 16, 3)
    first = augmented(images, config, generator(1))
    assert torch.equal(first, augmented(images, config, generator(1)))
    assert not torch.equal(first, augmented(images, config, generator(2)))
    assert first.dtype == torch.uint8
    assert first.shape == images.shape
    rows = [augmented(images[:1].expand(8, -1, -1, -1).contiguous(), config, generator(1))]
    assert len({bytes(each.numpy().tobytes()) for each in rows[0]}) > 4  # each row has draws of its own


@pytest.mark.parametrize("config", [AugmentationConfig(), EVERYTHING])
def test_the_frames_of_a_row_change_alike(config: AugmentationConfig) -> None:
    image = pictures(4, 1, 16, 16, 3)
    frames = augmented(image.expand(4, 3, 16, 16, 3).contiguous(), config, generator())
    assert torch.equal(frames[:, 0], frames[:, 1])
    assert torch.equal(frames[:, 0], frames[:, 2])
    alone = augmented(image[:, 0].contiguous(), config, generator())
    assert (frames[:, 0].int() - alone.int()).abs().max() <= 1  # contrast takes the mean over frames: rounding


def test_nothing_is_drawn_where_nothing_changes() -> None:
    images, g = pictures(2, 8, 8, 3), generator()
    before = g.get_state()
    assert augmented(images, AugmentationConfig(shift=0), g) is images
    assert torch.equal(g.get_state(), before)


def test_a_crop_of_everything_is_the_image() -> None:
    images = pictures(3, 10, 12, 3)
    assert torch.equal(cropped(images, torch.tensor([[1.0, 1.0, 0.0, 0.0]]).repeat(3, 1)), images)


def test_a_crop_of_the_left_half_is_that_half_at_twice_the_width() -> None:
    image = torch.zeros(1, 4, 8, 3, dtype=torch.uint8)
    image[:, :, :4] = 200
    half = cropped(image, torch.tensor([[0.5, 1.0, -0.5, 0.0]]))
    assert half[0, :, :7].eq(200).all()


def test_boxes_lie_in_the_image_and_have_the_area_asked_for() -> None:
    draw = torch.rand((1000, 4), generator=generator())
    width, height, column, row = crop_boxes(draw, 0.8, 1.1).unbind(1)
    assert (column.abs() + width <= 1 + 1e-6).all()
    assert (row.abs() + height <= 1 + 1e-6).all()
    assert (width * height).min() > 0.78
    assert (width / height).max() < 1.1 + 1e-6


def test_the_colours_worked_out() -> None:
    image = torch.tensor([[[[100, 100, 100], [200, 50, 50]]]], dtype=torch.uint8)  # grey, and a red

    def change(draw: list[float], **settings: float) -> list[list[int]]:
        changed: list[list[int]] = coloured(image, torch.tensor([draw]), AugmentationConfig(**settings))[0, 0].tolist()
        return changed

    assert change([1.0, 0, 0, 0], brightness=0.2) == [[151, 151, 151], [251, 101, 101]]  # + 0.2 * 255
    assert change([0, -1.0, 0, 0], contrast=1.0) == [[100] * 3, [100] * 3]  # all at the mean, (300 + 300) / 6
    grey = round(0.299 * 200 + 0.701 * 50)
    assert change([0, 0, -1.0, 0], saturation=1.0) == [[100] * 3, [grey] * 3]
    turned = change([0, 0, 0, 1.0], hue=1 / 3)
    assert turned[0] == [100] * 3  # grey has no hue
    assert turned[1] != image[0, 0, 1].tolist()
    assert change([1.0, 1.0, 1.0, 1.0], saturation=0.0, brightness=1e-9) == image[0, 0].tolist()


def test_a_random_convolution_worked_out() -> None:
    """A kernel that takes the middle of green only, times 2, gives sigmoid(2 * green) in its channel."""
    image = pictures(2, 5, 5, 3)
    kernel = torch.zeros(2, 3, 3, 3, 3)
    kernel[0, 0, 1, 1, 1] = 2.0
    changed = convolved(image, kernel)
    wanted = (torch.sigmoid(2.0 * image[0, :, :, 1] / 255.0) * 255).round()
    assert (changed[0, :, :, 0].float() - wanted).abs().max() <= 1
    assert changed[1].sub(128).abs().max() <= 1 or changed[1].float().sub(127.5).abs().max() <= 1  # sigmoid(0)


def test_the_strong_change_is_of_each_image_and_repeatable() -> None:
    images = pictures(1, 2, 8, 8, 3).expand(3, 2, 8, 8, 3).contiguous()
    changed = strongly_augmented(images, generator())
    assert torch.equal(changed, strongly_augmented(images, generator()))
    assert not torch.equal(changed[0], changed[1])
    assert changed.shape == images.shape
