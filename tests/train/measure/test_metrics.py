import math

import pytest
import torch
from torch import Tensor

from train.measure.metrics import (
    code_use,
    event_f1,
    first_event,
    flicker,
    high_band_power,
    looks_drawn,
    masked_mean,
    median_colours,
    nearest_is_own,
    psnr,
    share_shown,
    ssim,
    static_cells,
    surroundings,
    typical_colours,
)

RED, GREEN, FLOOR = (200, 30, 30), (30, 160, 50), (150, 146, 138)


def flat(colour: tuple[int, int, int] | int, size: int = 16) -> Tensor:
    return torch.zeros(size, size, 3, dtype=torch.uint8) + torch.tensor(colour, dtype=torch.uint8)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def test_psnr_of_a_known_error_is_known() -> None:
    assert psnr(flat(51)[None], flat(0)[None]).item() == pytest.approx(13.979, abs=1e-3)  # a fifth
    assert psnr(flat(0).float() + 25.5, flat(0)).item() == pytest.approx(20.0, abs=1e-4)
    assert psnr(flat(7), flat(7)).item() == pytest.approx(100.0)


def test_ssim_of_flat_pictures_is_its_luminance_term() -> None:
    a, b = 60 / 255, 150 / 255
    assert ssim(flat(60), flat(150)).item() == pytest.approx((2 * a * b + 1e-4) / (a * a + b * b + 1e-4), abs=1e-4)
    picture = noise(2, 16, 16, 3)
    assert ssim(picture, picture).tolist() == pytest.approx([1.0, 1.0])


def test_ssim_is_the_formula_of_the_paper() -> None:
    x, y = noise(11, 11, 3, seed=1), noise(11, 11, 3, seed=2)  # the window fits once
    weights = {(i, j): math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for i in range(11) for j in range(11)}
    total, expected = sum(weights.values()), 0.0
    for c in range(3):
        a = {at: x[(*at, c)].item() / 255 for at in weights}
        b = {at: y[(*at, c)].item() / 255 for at in weights}
        mean_a, mean_b = (sum(w * p[at] for at, w in weights.items()) / total for p in (a, b))
        var_a, var_b, both = (
            sum(w * (p[at] - m) * (q[at] - n) for at, w in weights.items()) / total
            for p, m, q, n in ((a, mean_a, a, mean_a), (b, mean_b, b, mean_b), (a, mean_a, b, mean_b))
        )
        top = (2 * mean_a * mean_b + 0.01**2) * (2 * both + 0.03**2)
        expected += top / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2))
    assert ssim(x, y).item() == pytest.approx(expected / 3, abs=1e-5)


def scene(body: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """A square body on the floor: picture (1, 16, 16, 3), mask (1, 1, 16, 16)."""
    picture, mask = flat(FLOOR)[None].clone(), torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., 4:9, 4:9] = True
    picture[mask[:, 0]] = torch.tensor(body, dtype=torch.uint8)
    return picture, mask


def test_a_body_drawn_as_floor_or_in_anothers_colour_is_not_recalled() -> None:
    truth, mask = scene(RED)
    own = median_colours(truth, mask)[:, 0]
    around = median_colours(truth, surroundings(mask, mask.any(1)))[:, 0]
    assert around[0].tolist() == list(FLOOR)
    rivals = torch.stack([around[0], torch.tensor(GREEN).float(), torch.full((3,), float("nan"))])[None]
    for drawn, recalled in ((RED, True), ((180, 60, 60), True), (FLOOR, False), (GREEN, False)):
        seen = median_colours(scene(drawn)[0], mask)[:, 0]
        assert nearest_is_own(seen, own, rivals).item() is recalled


def test_a_body_of_a_few_pixels_has_no_median_colour() -> None:
    picture, mask = scene(RED)
    assert median_colours(picture, mask, least=26).isnan().all()
    assert median_colours(picture, mask, least=25)[0, 0].tolist() == list(RED)


def test_typical_colours_are_medians_by_kind() -> None:
    colours = torch.tensor([[1.0, 0, 0], [3, 0, 0], [9, 0, 0], [5, 5, 5]])
    typical = typical_colours(colours, torch.tensor([2, 2, 2, 0]), 3)
    assert typical[2].tolist() == [3, 0, 0]
    assert typical[0].tolist() == [5, 5, 5]
    assert typical[1].isnan().all()


def test_the_share_shown_counts_pixels_that_look_like_the_truth() -> None:
    truth, mask = scene(RED)
    half = truth[0].clone()
    half[:, :6] = torch.tensor(FLOOR, dtype=torch.uint8)  # two of the body's five columns are gone
    assert share_shown(half, truth[0], mask[0, 0], torch.tensor([FLOOR, GREEN])) == pytest.approx(3 / 5)
    assert math.isnan(share_shown(half, truth[0], torch.zeros(16, 16, dtype=torch.bool), torch.tensor([FLOOR])))


def test_a_cell_is_static_until_a_pixel_in_it_moves_by_three_levels() -> None:
    frames = flat(100)[None].repeat(1 + 4 * 3, 1, 1, 1)  # 3 pairs, 2x2 cells of 8 pixels
    frames[2:, 0, 0, 1] += 2
    assert static_cells(frames, (2, 2), 4).all()
    frames[6, 12, 3, 2] += 3  # in the third latent frame, lower left
    still = static_cells(frames, (2, 2), 4)
    assert still[:, 1, 0].tolist() == [True, False, False]
    still[1:, 1, 0] = True
    assert still.all()


def test_slow_change_adds_up_over_both_latent_frames() -> None:
    frames = flat(100)[None].repeat(9, 1, 1, 1) + torch.arange(9, dtype=torch.uint8)[:, None, None, None]
    assert not static_cells(frames, (2, 2), 4).any()


def test_code_use_counts_codes_and_their_evenness() -> None:
    use = code_use(torch.tensor([0, 1, 2, 3] * 5), 16)
    assert use.used == 0.25
    assert use.perplexity == pytest.approx(4.0)
    assert code_use(torch.zeros(9, dtype=torch.long), 4).perplexity == pytest.approx(1.0)


def test_f1_of_events_allows_two_steps_and_counts_false_alarms() -> None:
    assert event_f1([5, None, 9, None], [7, None, None, 3]) == pytest.approx(0.5)  # one found, one wrong, one missed
    assert event_f1([5], [8]) == 0.0
    assert event_f1([None, 2], [None, None]) is None
    assert first_event(torch.tensor([False, False, True, True])) == 2
    assert first_event(torch.zeros(3, dtype=torch.bool)) is None


def test_a_masked_mean_is_over_the_rows_still_running() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [3.0, float("nan"), 5.0]])
    mean = masked_mean(values, torch.tensor([[True, True, False], [True, False, False]]))
    assert mean[:2].tolist() == [2.0, 2.0]
    assert mean[2].isnan()


def test_a_body_is_drawn_where_it_is_and_not_around() -> None:
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[0, 0, 4:8, 4:8] = True
    ring = surroundings(mask, mask.any(1))
    red, floor = (torch.tensor(c, dtype=torch.float32)[None, None] for c in (RED, FLOOR))

    def judged(rows: slice, columns: slice) -> tuple[bool, bool]:
        picture = flat(FLOOR)
        picture[rows, columns] = torch.tensor(RED, dtype=torch.uint8)
        drawn, alone = looks_drawn(picture[None], mask, ring, red, floor)
        return bool(drawn), bool(alone)

    assert judged(slice(4, 8), slice(4, 8)) == (True, True)
    assert judged(slice(0, 0), slice(0, 0)) == (False, False)  # gone
    assert judged(slice(2, 10), slice(2, 10)) == (True, False)  # swollen
    assert judged(slice(4, 8), slice(8, 11)) == (False, False)  # beside
    assert judged(slice(4, 6), slice(4, 8)) == (True, True)  # half of it


def test_high_band_power_is_that_of_fine_stripes_and_lost_by_blur() -> None:
    stripes = flat(100).clone()
    stripes[:, ::2] = 140  # at Nyquist's frequency, amplitude 20
    assert high_band_power(flat(100)).item() == pytest.approx(0, abs=1e-9)
    assert high_band_power(stripes).item() == pytest.approx(16 * 16 * (20 / 255) ** 2, rel=1e-4)
    assert high_band_power(stripes.transpose(0, 1)).item() == pytest.approx(high_band_power(stripes).item(), rel=1e-4)
    wide = flat(100).clone()
    wide[:, [0, 1, 2, 3, 8, 9, 10, 11]] = 140
    assert high_band_power(wide).item() < 0.2 * high_band_power(stripes).item()


def test_flicker_counts_changes_only_where_the_true_video_stands() -> None:
    truth = torch.stack([flat(50), flat(50), flat(50)])
    truth[1:, :8] = 200  # the upper half changes once
    video = truth.clone()
    assert flicker(video, truth).item() == pytest.approx(0)
    video[1, :8] = 90  # where it moves, nothing is counted between frames 0 and 1
    video[1:, 8:] = 101  # a fifth, once of two times; and the upper half returns to 200 between frames 1 and 2
    expected = ((0.2**2 + (110 / 255) ** 2) * 128 / (128 + 256)) ** 0.5
    assert flicker(video, truth).item() == pytest.approx(expected, rel=1e-4)
