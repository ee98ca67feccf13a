"""Pickles written and read without pickle: what LeRobot's own reader and writer make of them, and what is refused."""

import io
import os
import pickle
import sys
import types
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from robot_rl.steering.clients.pickles import HELPERS, Call, Instance, Name, read, tensor, write
from robot_rl.steering.wire import WireError


@dataclass
class TimedObservation:
    """As LeRobot's helpers define it; the real class lives in its own package."""

    timestamp: float
    timestep: int
    observation: dict[str, Any]
    must_go: bool = False


@dataclass
class TimedAction:
    timestamp: float
    timestep: int
    action: torch.Tensor


@dataclass
class RemotePolicyConfig:
    policy_type: str
    pretrained_name_or_path: str
    lerobot_features: dict[str, Any]
    actions_per_chunk: int
    device: str = "cpu"
    rename_map: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The module that pickles of LeRobot name, without LeRobot."""
    module = types.ModuleType(HELPERS)
    for kind in (TimedObservation, TimedAction, RemotePolicyConfig):
        monkeypatch.setattr(kind, "__module__", HELPERS)
        setattr(module, kind.__name__, kind)
    for name in (HELPERS, HELPERS.rpartition(".")[0], "lerobot"):
        monkeypatch.setitem(sys.modules, name, module)
    return module


def unpickle(data: bytes) -> Any:
    """As the server does: what we write, never what was received."""
    return pickle.loads(data)  # noqa: S301


def test_an_observation_has_these_bytes_and_is_what_the_server_wants(helpers: types.ModuleType) -> None:
    fields = {"timestamp": 1.5, "timestep": 3, "observation": {"task": "lift"}, "must_go": True}
    data = write(Instance(Name(HELPERS, "TimedObservation"), fields))
    assert data == (
        b"\x80\x03clerobot.async_inference.helpers\nTimedObservation\n)\x81"
        b"}(X\x09\x00\x00\x00timestampG\x3f\xf8\x00\x00\x00\x00\x00\x00X\x08\x00\x00\x00timestepJ\x03\x00\x00\x00"
        b"X\x0b\x00\x00\x00observation}(X\x04\x00\x00\x00taskX\x04\x00\x00\x00liftuX\x07\x00\x00\x00must_go\x88ub."
    )
    found = unpickle(data)
    assert found == TimedObservation(1.5, 3, {"task": "lift"}, True)


@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.float32, np.float64, np.int64, np.bool_, np.dtype(">f4")]),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    )
)
def test_an_array_is_the_one_that_numpys_own_reader_makes_and_can_be_written_to(array: np.ndarray) -> None:
    found = unpickle(write({"image": array, "more": (None, True, -5, 2.5, b"x", ["text"], {})}))
    assert found["image"].shape == array.shape
    np.testing.assert_array_equal(found["image"], array)
    assert found["image"].dtype == array.dtype.newbyteorder("<")
    assert found["image"].flags.writeable
    assert found["more"] == (None, True, -5, 2.5, b"x", ["text"], {})


@pytest.mark.parametrize("value", [{1, 2}, 2**40, np.array([1j]), np.array(["a"]), object()])
def test_what_has_no_place_is_refused(value: Any) -> None:
    with pytest.raises(WireError, match="has no place"):
        write([value])


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_actions_are_read_as_torch_and_pickle_write_them(
    helpers: types.ModuleType, protocol: int, dtype: torch.dtype
) -> None:
    chunk = torch.arange(12.0, dtype=dtype).reshape(4, 3) / 8
    rows = [TimedAction(timestamp=0.1 * step, timestep=7 + step, action=row) for step, row in enumerate(chunk)]
    found = read(pickle.dumps(rows, protocol=protocol))  # each row is a view of the storage of all
    for step, row in enumerate(found):
        assert row.called == Name(HELPERS, "TimedAction")
        assert row.state["timestep"] == 7 + step
        np.testing.assert_array_equal(tensor(row.state["action"]), chunk[step].numpy())
    np.testing.assert_array_equal(tensor(read(pickle.dumps(chunk.T, protocol))), chunk.T.numpy())


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("/tmp/robot_rl_was_here",)


def test_nothing_is_ever_called() -> None:
    assert not os.path.exists("/tmp/robot_rl_was_here")
    found = read(pickle.dumps([Evil()]))
    assert found == [Call(Name("posix", "mkdir"), ("/tmp/robot_rl_was_here",))]
    with pytest.raises(WireError, match=r"posix\.mkdir is no tensor"):
        tensor(found[0])
    assert not os.path.exists("/tmp/robot_rl_was_here")
    assert "os" not in read(b"\x80\x03cno_such_module\nx\n.").module  # names are not even imported


def storage(data: bytes) -> bytes:
    """A tensor of two numbers whose storage is `data`."""
    call = [*_name("torch.storage", "_load_from_bytes"), b"(", *_bytes(data), b"tR"]
    rest = [b"J\x00\x00\x00\x00", b"(J\x02\x00\x00\x00t", b"(J\x01\x00\x00\x00t", b"\x89", b"}"]
    return b"".join([b"\x80\x03", *_name("torch._utils", "_rebuild_tensor_v2"), b"(", *call, *rest, b"tR."])


def _name(module: str, name: str) -> list[bytes]:
    return [f"c{module}\n{name}\n".encode()]


def _bytes(data: bytes) -> list[bytes]:
    return [b"B", len(data).to_bytes(4, "little"), data]


def legacy() -> bytes:
    file = io.BytesIO()
    torch.save(torch.tensor([0.5, -2.0]).untyped_storage(), file, _use_new_zipfile_serialization=False)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_a_storage_that_lies_is_refused() -> None:
    file = io.BytesIO()
    torch.save(torch.tensor([0.5, -2.0]).storage(), file, _use_new_zipfile_serialization=False)
    good = file.getvalue()
    np.testing.assert_array_equal(tensor(read(storage(good))), [0.5, -2.0])
    for data, words in (
        (good[:-4], "2 numbers in 4 bytes"),
        (good + b"\0" * 4, "2 numbers in 12 bytes"),
        (good.replace(b"FloatStorage", b"LongyStorage"), "float16, float32 or float64"),
        (good.replace(b"\x8a\x0al", b"\x8a\x0am"), "another format"),
        (good.replace(b"endianq\x02\x88", b"endianq\x02\x89"), "byte order"),
        (b"PK\x03\x04", "no pickle"),
        (legacy(), "float16, float32 or float64"),
    ):
        with pytest.raises(WireError, match=words):
            tensor(read(storage(data)))


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((3,), (1,), 0),
        ((2,), (1,), 1),
        ((2,), (2,), 0),
        ((2, 1), (1,), 0),
        ((-1,), (1,), 0),
        ((1000, 1000), (0, 0), 0),
    ],
)
def test_a_tensor_that_reaches_past_its_storage_or_makes_much_of_little_is_refused(
    size: Any, stride: Any, offset: int
) -> None:
    call = read(pickle.dumps(torch.tensor([0.5, -2.0])))
    kept, _, _, _, *rest = call.arguments
    with pytest.raises(WireError, match="a tensor of size"):
        tensor(Call(call.called, (kept, offset, size, stride, *rest)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b".",
        b"\x80\x03",
        b"\x80\x03N",
        b"\x80\x03NN.",
        b"\x80\x03K\x01(e.",
        b"\x80\x03](.",
        b"\x80\x03q\x00.",
        b"\x80\x03h\x07.",
        b"\x80\x03K\x01)R.",
        b"\x80\x03cos\nsystem\nK\x01R.",
        b"\x80\x03K\x01}b.",
        b"\x80\x03}(]K\x01u.",
        b"\x80\x03}(K\x01u.",
        b"\x80\x03t.",
        b"\x80\x03e.",
        b"\x80\x03\x8aZ\x01.",
        b"\x80\x03V\\ud800\n.",
        b"(ios\nsystem\n.",
        b"\x80\x03cos\nsystem\n)\x81\x91.",
        b"\x80\x05\x98.",
        b"garbage",
        b"\x80\x03" + b"N" * 600_000 + b".",
    ],
)
def test_what_is_no_such_pickle_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        read(data)


@given(st.data())
def test_broken_pickles_are_refused_or_read_and_never_anything_else(data: st.DataObject) -> None:
    whole = bytearray(pickle.dumps([{"step": 3, "action": torch.tensor([0.5, -2.0])}, (1.5, None)]))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read(bytes(whole))
        tensor(found[0]["action"])
    except (WireError, TypeError, KeyError, IndexError):  # the last three are this test's own subscripts
        pass


def test_the_reader_knows_every_opcode_that_python_writes_for_such_data() -> None:
    value = [{"a": 1, "b": (2.5, "x" * 300, b"y" * 300, 70_000, -3, 2**70, True, None)}, ("a", [1, 2], {}, (), 300)] * 2
    for protocol in (3, 4, 5):
        assert read(pickle.dumps(value, protocol)) == value
