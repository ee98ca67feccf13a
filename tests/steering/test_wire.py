"""The bytes of openpi's messages, and what is refused."""

from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from robot_rl.steering import wire
from robot_rl.steering.wire import WireError, pack, unpack

# Written by hand from the MessagePack specification: fixmap of 1, fixstr "state", fixmap of 4; bin 8 keys; true; bin 8
# of 8 bytes; fixstr; fixarray of 1 number.
GOLDEN = (
    b"\x81\xa5state"
    b"\x84\xc4\x0b__ndarray__\xc3"
    b"\xc4\x04data\xc4\x08\x00\x00\x80\x3f\x00\x00\x00\x40"
    b"\xc4\x05dtype\xa3<f4"
    b"\xc4\x05shape\x91\x02"
)
# The same with a numpy scalar: int64 5.
GOLDEN_SCALAR = b"\x81\xa1n\x83\xc4\x0d__npgeneric__\xc3\xc4\x04data\x05\xc4\x05dtype\xa3<i8"


def test_an_array_has_the_bytes_that_openpi_sends() -> None:
    assert pack({"state": np.array([1.0, 2.0], np.float32)}) == GOLDEN
    assert pack({"n": np.int64(5)}) == GOLDEN_SCALAR


def test_the_bytes_that_openpi_sends_are_read() -> None:
    found = unpack(GOLDEN)["state"]
    assert found.dtype == np.float32
    assert found.tolist() == [1.0, 2.0]
    found[0] = 3.0  # a copy, not a view of the message
    number = unpack(GOLDEN_SCALAR)["n"]
    assert (type(number), number) == (np.int64, 5)


@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.float32, np.float64, np.int64, np.bool_, np.dtype(">f4")]),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    )
)
def test_arrays_come_back_as_they_were(array: np.ndarray) -> None:
    found = unpack(pack({"x": array, "text": "put the cup down", "nested": {"list": [1, None, 2.5]}}))
    assert found["x"].dtype == array.dtype
    np.testing.assert_array_equal(found["x"], array)
    assert found["nested"] == {"list": [1, None, 2.5]}


def test_a_transposed_array_is_sent_in_order() -> None:
    array = np.arange(6).reshape(2, 3).T
    np.testing.assert_array_equal(unpack(pack({"x": array}))["x"], array)


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.array([1j]), np.zeros(1, "V4"), {1, 2}, 2**70, np.array(["a"], "U")[:0]]
)
def test_what_has_no_place_in_a_message_is_refused(value: Any) -> None:
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        assert unpack(pack({"x": value}))["x"].shape == (0,)
        return
    with pytest.raises(WireError, match="cannot be sent"):
        pack({"x": value})


def array(**changes: Any) -> bytes:
    whole = {wire.ARRAY: True, wire.DATA: b"\0" * 8, wire.DTYPE: "<f4", wire.SHAPE: [2]}
    whole |= {key.encode(): value for key, value in changes.items()}
    packed: bytes = msgpack.packb({"x": {key: value for key, value in whole.items() if value is not None}})
    return packed


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no msgpack message"),
        (GOLDEN[:-3], "no msgpack message"),
        (GOLDEN + b"\0", "no msgpack message"),
        (b"\xc1", "no msgpack message"),
        (b"\x81\xa1\xff\x01", "no msgpack message"),
        (b"\x91" * 2000 + b"\x90", "no msgpack message"),
        (b"\x93\x01\x02\x03", "a message is a map"),
        (array(dtype="|O"), "are not taken"),
        (array(dtype="<c8"), "are not taken"),
        (array(dtype="<f4,<f4"), "are not taken"),
        (array(dtype="<f3"), "no array type"),
        (array(dtype=None), "are not taken"),
        (array(shape=[3]), "does not have 8 bytes"),
        (array(shape=[-1]), "is no shape"),
        (array(shape=[True, 2]), "is no shape"),
        (array(shape=[2**62, 2**62, 4]), "does not have 8 bytes"),
        (array(shape=[1] * 40 + [2]), "is no shape"),
        (array(shape=None), "is no shape"),
        (array(data="text"), "does not have str bytes"),
        (msgpack.packb({"x": {wire.SCALAR: True, wire.DATA: "a", wire.DTYPE: "<f4"}}), "is no <f4"),
        (msgpack.packb({"x": {wire.SCALAR: True, wire.DATA: [1], wire.DTYPE: "<f4"}}), "list is no scalar"),
        (msgpack.packb({"x": [{}] * 30_000}), "more than 20000"),
    ],
)
def test_damage_is_refused_in_words(data: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        unpack(data)


@given(st.binary(max_size=200), st.integers(0, len(GOLDEN)))
def test_garbage_is_never_more_than_a_refusal(garbage: bytes, place: int) -> None:
    for data in (garbage, GOLDEN[:place] + garbage, GOLDEN[:place] + garbage + GOLDEN[place + len(garbage) :]):
        try:
            unpack(data)
        except WireError:
            continue
