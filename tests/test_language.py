"""Instructions as vectors, as observations, and wrong ones; the probability of success from a value."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from robot_rl.errors import InputError
from robot_rl.functional import grounding
from robot_rl.networks.language import HashText, ModelText, TableText, fingerprint, plain
from robot_rl.replay.language import INSTRUCTION, instructed, steps_labelled, with_language, wrong_instructions
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Episode

TEXTS = ["open the drawer", "close the drawer", "lift the can"]


def episode(text: str | None, steps: int = 4, value: float = 0.0) -> Episode:
    return Episode(
        observation={"state": np.full((steps + 1, 2), value, np.float32)},
        action=np.zeros((steps, 1), np.float32),
        reward=np.full(steps, 0.5, np.float32),
        terminated=np.arange(steps) == steps - 1,
        truncated=np.zeros(steps, bool),
        metadata={} if text is None else {"language": text},
    )


# --- encoders


def test_hashed_texts_are_of_length_one_and_near_where_they_share_words() -> None:
    hashed = HashText(size=256)
    vectors = [hashed.encode(text) for text in TEXTS]
    assert all(vector.shape == (256,) and vector.dtype == np.float32 for vector in vectors)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    np.testing.assert_array_equal(hashed.encode("  Open the\nDRAWER. "), vectors[0])
    assert not hashed.encode("?!").any()


def test_a_table_gives_its_vectors_and_names_what_it_lacks(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    archive, tensors = tmp_path / "table.npz", tmp_path / "table.safetensors"
    np.savez(archive, texts=np.array(TEXTS), vectors=vectors)
    save_file(dict(zip(TEXTS, vectors, strict=True)), tensors)
    for path in (archive, tensors):
        table = TableText(path=str(path))
        assert table.size == 5
        np.testing.assert_array_equal(table.encode("Close the drawer."), vectors[1])
        with pytest.raises(InputError, match=r"no vector of 'open the door': did you mean 'open the drawer'"):
            table.encode("open the door")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"texts": np.array(TEXTS)}, "cannot be read"),
        ({"texts": np.array(TEXTS), "vectors": np.zeros((2, 5))}, "texts"),
        ({"texts": np.array(["a", "A "]), "vectors": np.zeros((2, 5))}, "a text twice"),
        ({"texts": np.array(["a", "b"]), "vectors": np.array([[1.0], [np.nan]])}, "NaN"),
        ({"texts": np.array([]), "vectors": np.zeros((0, 5))}, "shapes"),
        ({"texts": np.array([object()]), "vectors": np.zeros((1, 5))}, "cannot be read"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "table.npz", **arrays)
    with pytest.raises(InputError, match=words):
        TableText(path=str(tmp_path / "table.npz"))
    with pytest.raises(InputError, match="cannot be read"):
        TableText(path=str(tmp_path / "nowhere.npz"))


def test_encoders_can_be_told_apart_by_their_fingerprints(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", texts=np.array(TEXTS), vectors=np.eye(3))
    np.savez(tmp_path / "b.npz", texts=np.array(TEXTS), vectors=2 * np.eye(3))
    tables = [TableText(path=str(tmp_path / name)) for name in ("a.npz", "b.npz")]
    found = [fingerprint(each) for each in (HashText(size=64), HashText(size=128), *tables)]
    assert len(set(found)) == 4
    assert fingerprint(HashText(size=64)) == found[0]


def test_a_local_model_is_the_mean_over_tokens_and_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Tokens(dict[str, torch.Tensor]):
        def to(self, device: torch.device) -> "Tokens":
            return self

    class Tokenizer:
        def __call__(self, text: str, **how: Any) -> Tokens:
            ids = torch.tensor([[float(len(word)) for word in text.split()] + [99.0]])
            mask = torch.ones_like(ids)
            mask[0, -1] = 0  # padding
            return Tokens(input_ids=ids, attention_mask=mask)

    class Model(torch.nn.Module):
        config = types.SimpleNamespace(is_encoder_decoder=False)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return types.SimpleNamespace(last_hidden_state=torch.stack([input_ids, -input_ids], dim=2))

    def load(kind: Any) -> Any:
        def from_pretrained(path: str, **how: Any) -> Any:
            asked.append(how)
            if "nowhere" in path:
                raise OSError("no config.json")
            return kind()

        return types.SimpleNamespace(from_pretrained=from_pretrained)

    module = types.ModuleType("transformers")
    vars(module).update(AutoTokenizer=load(Tokenizer), AutoModel=load(Model))
    monkeypatch.setitem(sys.modules, "transformers", module)
    made = ModelText(path="/models/mini")
    assert made.size == 2
    np.testing.assert_allclose(made.encode("lift the can"), [10 / 3, -10 / 3], rtol=1e-6)
    assert asked == [{"local_files_only": True}] * 2
    with pytest.raises(InputError, match="holds no text model"):
        ModelText(path="/nowhere")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"language\.encoder=table"):
        ModelText(path="/models/mini")


def test_texts_that_mean_the_same_have_one_form() -> None:
    assert plain("  Pick\tUP the  caf\u0065\u0301 cup. ") == plain("pick up the caf\u00e9 cup")


# --- observations


def test_an_instruction_is_an_observation_at_each_step() -> None:
    encoder = HashText(size=16)
    spec = Spec(observation={"state": ArraySpec(shape=(2,))}, action=ArraySpec(shape=(1,)))
    wider = with_language(spec, encoder)
    assert wider.observation[INSTRUCTION].shape == (16,)
    assert with_language(wider, encoder) is wider
    with pytest.raises(InputError, match="makes vectors of 32"):
        with_language(wider, HashText(size=32))
    shown = instructed(episode(None), encoder.encode("lift"), "lift")
    np.testing.assert_array_equal(shown.observation[INSTRUCTION], np.tile(encoder.encode("lift"), (5, 1)))
    assert shown.metadata["language"] == "lift"


def test_demonstrations_are_labelled_by_their_last_steps() -> None:
    shown = steps_labelled(episode("lift", 5))
    assert shown.reward.tolist() == [-1, -1, 0, 0, 0]
    assert shown.terminated.tolist() == [False] * 4 + [True]
    # Values by hand: 0 at the last three, whether they stop the bootstrap (V-GPS) or lead to what is worth 0.
    discount, value = 0.98, 0.0
    for reward, ends in reversed(list(zip(shown.reward, shown.terminated, strict=True))):
        value = float(reward) + (0.0 if ends else discount * value)
    assert value == pytest.approx(-1 - discount)
    assert steps_labelled(episode("lift", 2)).reward.tolist() == [0, 0]


@given(st.floats(0.05, 0.6), st.integers(0, 50))
def test_wrong_instructions_are_others_and_make_up_their_share(share: float, seed: int) -> None:
    encoder = HashText(size=16)
    shown = [
        episode(text, steps, number) for number, (text, steps) in enumerate(zip(TEXTS * 4, range(3, 15), strict=True))
    ]
    wrong = wrong_instructions(shown, encoder, share, np.random.default_rng(seed))
    own, more = sum(map(len, shown)), sum(map(len, wrong))
    assert share <= more / (own + more) <= share + 14 / own
    for each in wrong:
        before = shown[int(each.observation["state"][0, 0])]
        assert each.metadata["language"] in TEXTS
        assert each.metadata["language"] != before.metadata["language"]
        np.testing.assert_array_equal(each.observation[INSTRUCTION][0], encoder.encode(each.metadata["language"]))
        assert (each.reward == -1).all()
        assert not each.terminated.any()
        assert each.truncated[-1]
        np.testing.assert_array_equal(each.action, before.action)
    assert json.dumps(wrong[0].metadata)


def test_without_a_second_instruction_none_is_wrong() -> None:
    encoder = HashText(size=16)
    assert wrong_instructions([episode(None)], encoder, 0.0, np.random.default_rng(0)) == []
    with pytest.raises(InputError, match="at least two instructions"):
        wrong_instructions([episode("lift")] * 2, encoder, 0.1, np.random.default_rng(0))
    with pytest.raises(InputError, match="episode 1 has no instruction"):
        wrong_instructions([episode("lift"), episode(None)], encoder, 0.1, np.random.default_rng(0))


# --- grounding


def test_a_value_of_steps_says_how_many_there_are() -> None:
    steps = torch.tensor([0.0, 1.0, 5.0, 40.0], dtype=torch.float64)
    discount = 0.98
    value = -(1 - discount**steps) / (1 - discount)
    torch.testing.assert_close(grounding.steps_to_success(value, discount), steps)
    assert float(grounding.arrival(torch.tensor([0.5]), discount)) == 1.0  # above 0 there is nothing
    assert float(grounding.arrival(torch.tensor([-60.0]), discount)) > 0


def test_calibration_finds_the_curve_that_made_the_successes() -> None:
    generator = torch.Generator().manual_seed(0)
    discount = 0.98
    value = -50 * torch.rand(40_000, generator=generator, dtype=torch.float64)
    x = grounding.log_odds(grounding.arrival(value, discount))
    truth = torch.sigmoid(0.7 * x + 0.4)
    success = torch.rand(len(x), generator=generator, dtype=torch.float64) < truth
    found = grounding.calibrate(value, success, discount)
    assert found.slope == pytest.approx(0.7, abs=0.03)
    assert found.offset == pytest.approx(0.4, abs=0.05)
    said = found.probability(value)
    assert float(grounding.calibration_error(said, success)) < 0.015
    assert float(grounding.calibration_error(grounding.arrival(value, discount), success)) > 0.05
    # The gradient of the likelihood is 0 at the optimum, up to Platt's targets.
    assert float((said - success.double()).mean()) == pytest.approx(0, abs=1e-3)


def test_calibration_survives_classes_that_part_and_critics_that_have_it_backwards() -> None:
    value = torch.tensor([-49.0, -40.0, -5.0, -1.0])
    parted = grounding.calibrate(value, torch.tensor([False, False, True, True]), 0.98)
    said = parted.probability(value)
    assert parted.slope > 0
    assert said.isfinite().all()
    assert (said.diff() > 0).all()
    assert float(said[-1]) < 1
    backwards = grounding.calibrate(value, torch.tensor([True, True, False, False]), 0.98)
    assert backwards.slope == 0
    torch.testing.assert_close(backwards.probability(value), torch.full((4,), 0.5))
    with pytest.raises(ValueError, match="needs both"):
        grounding.calibrate(value, torch.ones(4, dtype=torch.bool), 0.98)


def test_calibration_error_is_the_weighted_gap_of_each_bin() -> None:
    # Bin 0.1: two rows say 0.15, one of them succeeds: gap 0.35. Bin 0.9: two say 0.95, both succeed: gap 0.05.
    said = torch.tensor([0.15, 0.15, 0.95, 0.95])
    success = torch.tensor([True, False, True, True])
    assert float(grounding.calibration_error(said, success)) == pytest.approx(0.5 * 0.35 + 0.5 * 0.05)


def test_a_skill_is_wanted_and_possible() -> None:
    torch.testing.assert_close(
        grounding.grounded(torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.1, 0.8, 0.9])),
        torch.tensor([0.06, 0.24, 0.09]) / 0.39,
    )
