"""Clips, spans and frames: what is drawn, how often, and that a seed repeats it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from painted import Painted

from robot_rl.errors import InputError
from robot_rl.replay.clips import ClipShape, Tuples, draw_tuples
from robot_rl.replay.footage import Footage, Track, strided
from robot_rl.replay.goals import GoalMixture
from robot_rl.replay.spans import draw_frames, draw_spans

MakeFootage = Callable[..., Footage]
PUBLISHED = GoalMixture()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def many(footage: Footage, shape: ClipShape, mixture: GoalMixture, pools: int) -> dict[str, torch.Tensor]:
    """Track and frame of every part of the tuples of many pools, one behind the other."""
    generator = seeded()
    found: dict[str, list[torch.Tensor]] = {}
    for _ in range(pools):
        tuples = draw_tuples(footage, shape, mixture, generator)
        for name in ("observation", "next_observation", "goal", "intent"):
            number = getattr(tuples, name)
            found.setdefault(name, []).append(torch.stack([tuples.track[number], tuples.frame[number]]))
        found.setdefault("at_goal", []).append(tuples.at_goal)
        found.setdefault("at_intent", []).append(tuples.at_intent)
    return {name: torch.cat(parts, -1) for name, parts in found.items()}


# Footage --------------------------------------------------------------------------------------------------------------
def test_images_come_as_bytes_in_the_order_that_was_asked_for(make_footage: MakeFootage) -> None:
    footage = make_footage([300, 40])
    images = footage.gather(torch.tensor([1, 0, 1]), torch.tensor([39, 299, 0]))
    assert images.dtype == torch.uint8
    assert images[:, 0, 0].tolist() == [[0, 1, 83], [0, 1, 43], [0, 1, 44]]  # rows 339, 299, 300


def test_videos_of_several_columns_are_gathered_with_one_call_each() -> None:
    first, second = Painted(10), Painted(10, seed=1)
    footage = Footage(
        [
            Track(column=first, rows=np.arange(10), source="a"),
            Track(column=second, rows=np.arange(10)[::-1], source="b"),
        ]
    )
    images = footage.gather(torch.tensor([1, 0, 1]), torch.tensor([0, 3, 1]))
    assert [first.asked, second.asked] == [[1], [2]]
    assert np.array_equal(images.numpy(), np.stack([second.images[9], first.images[3], second.images[8]]))


def test_videos_of_two_sizes_are_refused() -> None:
    tracks = [Track(column=Painted(4, side), rows=np.arange(4), source="a") for side in (16, 24)]
    with pytest.raises(InputError, match="image_size"):
        Footage(tracks).gather(torch.tensor([0, 1]), torch.tensor([0, 0]))


def test_shares_decide_how_often_a_source_is_drawn(make_footage: MakeFootage) -> None:
    footage = make_footage([101, 11, 11], ["robot", "hand", "hand"], shares={"robot": 1.0, "hand": 3.0})
    for by in ("frames", "runs", "videos"):
        drawn = footage.draw(20_000, seeded(), by=by)
        assert float((drawn == 0).double().mean()) == pytest.approx(0.25, abs=0.015)
    plain = make_footage([101, 11, 11])
    # 100 of 120 runs of two frames, one of three videos
    assert float((plain.draw(20_000, seeded(), by="runs") == 0).double().mean()) == pytest.approx(100 / 120, abs=0.015)
    assert float((plain.draw(20_000, seeded(), by="videos") == 0).double().mean()) == pytest.approx(1 / 3, abs=0.015)


def test_what_cannot_be_drawn_is_refused(make_footage: MakeFootage) -> None:
    with pytest.raises(InputError, match="no videos"):
        Footage([])
    with pytest.raises(InputError, match="needs 2"):
        make_footage([5, 1])
    with pytest.raises(InputError, match="no share: did you mean 'hand'"):
        make_footage([5], ["hans"], shares={"hand": 1.0})


def test_a_slower_rate_keeps_every_frame_in_one_track() -> None:
    track = Track(column=Painted(10), rows=np.arange(10), source="a", instruction=3)
    parts = strided(track, 4)
    assert [part.rows.tolist() for part in parts] == [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]
    assert {part.instruction for part in parts} == {3}
    assert [part.rows.tolist() for part in strided(track, 9)] == [[0, 9]]  # single frames are no video


# Clips ----------------------------------------------------------------------------------------------------------------
def test_a_step_goes_from_a_frame_to_the_next_of_the_same_video(make_footage: MakeFootage) -> None:
    drawn = many(make_footage([3, 2, 40]), ClipShape(clips=6, run=5, goals=2, tuples=50), PUBLISHED, 60)
    now, following = drawn["observation"], drawn["next_observation"]
    assert torch.equal(following[0], now[0])
    assert torch.equal(following[1], now[1] + 1)
    lengths = torch.tensor([3, 2, 40])
    assert bool((following[1] < lengths[now[0]]).all())
    assert bool((now[1] >= 0).all())


def test_steps_are_drawn_alike_also_at_the_ends(make_footage: MakeFootage) -> None:
    drawn = many(make_footage([9, 9, 9]), ClipShape(clips=32, run=5, goals=1, tuples=256), PUBLISHED, 400)
    counts = torch.bincount(drawn["observation"][0] * 9 + drawn["observation"][1], minlength=27).reshape(3, 9)
    assert counts[:, 8].tolist() == [0, 0, 0]  # no step begins in a last frame
    share = counts[:, :8].double() / counts.sum()
    assert float((share - 1 / 24).abs().max()) < 0.1 / 24


def test_the_mixture_of_goals_is_the_published_one(make_footage: MakeFootage) -> None:
    drawn = many(make_footage([400] * 12), ClipShape(clips=12, run=4, goals=4, tuples=400), PUBLISHED, 250)
    now, goal, intent = drawn["observation"], drawn["goal"], drawn["intent"]
    # 0.2 present, 0.5 behind in the same video, 0.3 from another clip, which is of another video in 11 of 12
    for other in (goal, intent):
        present = (other == now).all(0)
        behind = (other[0] == now[0]) & (other[1] > now[1])
        assert float(present.double().mean()) == pytest.approx(0.2, abs=0.01)
        assert float((other[0] != now[0]).double().mean()) == pytest.approx(0.3 * 11 / 12, abs=0.01)
        assert float(behind.double().mean()) == pytest.approx(0.5 + 0.3 / 24, abs=0.015)
    assert torch.equal(drawn["at_goal"], (goal == now).all(0))
    assert torch.equal(drawn["at_intent"], (intent == now).all(0))
    # a half of the goals are the intents; of the others 0.2^2 and a little are the same by chance
    assert float((goal == intent).all(0).double().mean()) == pytest.approx(0.5 + 0.5 * 0.08, abs=0.03)


def test_a_future_goal_lies_uniformly_behind_the_present(make_footage: MakeFootage) -> None:
    only = GoalMixture(future=1.0, current=0.0, same=0.0)
    drawn = many(make_footage([41, 41]), ClipShape(clips=16, run=3, goals=3, tuples=64), only, 1500)
    now, goal = drawn["observation"], drawn["goal"]
    assert torch.equal(goal[0], now[0])
    for step in (0, 10, 20, 30):
        distance = (goal[1] - now[1])[now[1] == step]
        assert distance.min() == 1
        assert distance.max() == 40 - step
        expected = (41 - step) / 2  # mean of 1 ... 40 - step
        assert float(distance.double().mean()) == pytest.approx(expected, rel=0.07)


def test_future_goals_keep_a_maximum_distance(make_footage: MakeFootage) -> None:
    near = GoalMixture(future=1.0, current=0.0, maximum_distance=5)
    drawn = many(make_footage([100]), ClipShape(clips=8, run=4, goals=3, tuples=64), near, 200)
    distance = drawn["goal"][1] - drawn["observation"][1]
    assert (int(distance.min()), int(distance.max())) == (1, 5)
    assert float((distance.double()).mean()) == pytest.approx(3.0, abs=0.35)


def test_the_same_frame_is_at_its_goal_in_whatever_clip_it_was_drawn(make_footage: MakeFootage) -> None:
    # One video of three frames: goals of another clip are often the present frame itself.
    anywhere = GoalMixture(future=0.0, current=0.0, same=0.0)
    drawn = many(make_footage([3]), ClipShape(clips=8, run=3, goals=1, tuples=64), anywhere, 50)
    assert torch.equal(drawn["at_goal"], (drawn["goal"] == drawn["observation"]).all(0))
    assert 0.2 < float(drawn["at_goal"].double().mean()) < 0.5


def test_a_pool_has_each_frame_once_however_many_tuples_it_serves(make_footage: MakeFootage) -> None:
    footage = make_footage([50] * 4)
    tuples = draw_tuples(footage, ClipShape(clips=4, run=5, goals=3, tuples=1000), PUBLISHED, seeded())
    assert len(tuples.track) == len(tuples.frame) == 4 * 8
    assert all(len(getattr(tuples, name)) == 1000 for name in ("observation", "goal", "intent", "at_goal"))
    assert int(torch.stack([tuples.goal, tuples.intent, tuples.next_observation]).max()) < 32


def equal(one: Any, other: Any) -> bool:
    names = [name for name in type(one).__slots__ if name != "clips"]
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def test_a_seed_repeats_what_is_drawn(make_footage: MakeFootage) -> None:
    footage = make_footage([30, 20])
    draws: list[Callable[[torch.Generator], Any]] = [
        lambda generator: draw_tuples(footage, ClipShape(), PUBLISHED, generator),
        lambda generator: draw_spans(footage, 16, generator, ending=0.95),
        lambda generator: draw_frames(footage, 16, generator),
    ]
    for draw in draws:
        assert equal(draw(seeded(3)), draw(seeded(3)))
        assert not equal(draw(seeded(3)), draw(seeded(4)))
    assert isinstance(draws[0](seeded()).to(torch.device("cpu")), Tuples)


@pytest.mark.parametrize("setting", [{"clips": 1}, {"run": 1}, {"goals": 0}, {"tuples": 0}])
def test_pools_that_cannot_be_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        ClipShape(**setting)


# Spans ----------------------------------------------------------------------------------------------------------------
def test_spans_are_in_order_and_of_one_video(make_footage: MakeFootage) -> None:
    footage = make_footage([2, 3, 50], instructions=[-1, 4, 7])
    spans = draw_spans(footage, 3000, seeded(), ending=0.9)
    frame, track = spans.frame, spans.track
    first, now, following, goal = (frame[each] for each in (spans.first, spans.now, spans.following, spans.goal))
    assert bool(((first <= now) & (now < goal) & (following == now + 1) & (following <= goal)).all())
    for each in (spans.now, spans.following, spans.goal, spans.shown):
        assert torch.equal(track[each], track[spans.first])
    length = footage.lengths[track[spans.first]]
    assert bool((goal < length).all())
    assert bool((frame[spans.shown] >= (0.9 * length).long() - 1).all())
    assert torch.equal(spans.instruction, footage.instruction[track[spans.first]])
    assert set(spans.instruction.tolist()) == {-1, 4, 7}
    assert len(draw_spans(footage, 10, seeded()).frame) == 40
    assert len(spans.frame) == 15_000


def test_the_frames_of_a_clip_lie_together(make_footage: MakeFootage) -> None:
    footage = make_footage([20] * 30)
    for rows in (
        draw_tuples(footage, ClipShape(clips=8), PUBLISHED, seeded()),
        draw_spans(footage, 8, seeded(), ending=0.9),
        draw_frames(footage, 8, seeded()),
    ):
        assert rows.clips == 8
        parts = rows.track.unflatten(0, (8, -1))
        assert bool((parts == parts[:, :1]).all())


def test_videos_are_drawn_alike_however_long(make_footage: MakeFootage) -> None:
    spans = draw_spans(make_footage([5, 500]), 20_000, seeded())
    assert float((spans.track[spans.first] == 0).double().mean()) == pytest.approx(0.5, abs=0.015)


def test_single_frames_are_drawn_from_all(make_footage: MakeFootage) -> None:
    frames = draw_frames(make_footage([4, 4]), 8000, seeded())
    counts = torch.bincount(frames.track * 4 + frames.frame, minlength=8).double() / 8000
    assert float((counts - 1 / 8).abs().max()) < 0.02
