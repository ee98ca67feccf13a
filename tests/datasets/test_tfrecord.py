"""TFRecord framing and the wire format of tf.train.Example, against the protobuf library."""

import contextlib
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.datasets.ingest.tfrecord import (
    decode_varints,
    is_tfrecord,
    masked_crc32c,
    parse_example,
    peek,
    record_index,
    records,
)
from robot_rl.errors import InputError

FEATURES = {
    "image": [b"\xff\xd8\xff one", b"", b"\x00\x00"],
    "action": np.array([0.5, -1.25, np.float32(0.1)], np.float32),
    "step": np.array([0, 1, 127, 128, 300, 2**62, -1, -(2**63)], np.int64),
}


def example_class() -> Any:
    """`tf.train.Example`, declared here as its .proto declares it."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tf", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=field.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("BytesList", "FloatList", "Int64List"), start=1):
        parts = {"number": number, "type": field.TYPE_MESSAGE, "label": field.LABEL_OPTIONAL, "oneof_index": 0}
        feature.field.add(name=name.lower(), type_name=f".tf.{name}", **parts)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    parts = {"type": field.TYPE_MESSAGE, "label": field.LABEL_OPTIONAL}
    entry.field.add(name="value", number=2, type_name=".tf.Feature", **parts)
    parts = {"type": field.TYPE_MESSAGE, "label": field.LABEL_REPEATED}
    features.field.add(name="feature", number=1, type_name=".tf.Features.FeatureEntry", **parts)
    example = file.message_type.add(name="Example")
    parts = {"type": field.TYPE_MESSAGE, "label": field.LABEL_OPTIONAL}
    example.field.add(name="features", number=1, type_name=".tf.Features", **parts)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tf.Example"))


EXAMPLE = example_class()


def serialised(features: dict[str, Any]) -> bytes:
    message = EXAMPLE()
    for name, value in features.items():
        feature = message.features.feature[name]
        if isinstance(value, list):
            feature.byteslist.value.extend(value)
        elif value.dtype.kind == "f":
            feature.floatlist.value.extend(value.tolist())
        else:
            feature.int64list.value.extend(value.tolist())
    return bytes(message.SerializeToString())


def checksum(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + checksum(length) + data + checksum(data)


def write(path: Path, *contents: bytes) -> Path:
    path.write_bytes(b"".join(framed(data) for data in contents))
    return path


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return isinstance(found, list) and found == wanted
    return bool(np.array_equal(found, wanted)) and found.dtype == wanted.dtype


def test_the_checksum_is_that_of_the_format() -> None:
    # An empty record is 0000000000000000 29039807 d8ea82a2 in hexadecimal digits.
    assert masked_crc32c(bytes(8)) == 0x07980329
    assert masked_crc32c(b"") == 0xA282EAD8


def test_features_are_what_protobuf_wrote() -> None:
    example = parse_example(serialised(FEATURES), "here")
    assert set(example) == set(FEATURES)
    for name, wanted in FEATURES.items():
        assert same(example[name], wanted), name


@given(
    st.dictionaries(
        st.text(max_size=200),
        st.one_of(
            st.lists(st.binary(max_size=300), min_size=1, max_size=4),
            st.lists(st.floats(width=32, allow_nan=False), min_size=1).map(lambda x: np.array(x, np.float32)),
            st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1).map(lambda x: np.array(x, np.int64)),
        ),
        max_size=5,
    )
)
def test_any_example_of_protobuf_is_read(features: dict[str, Any]) -> None:
    example = parse_example(serialised(features), "here")
    assert set(example) == set(features)
    assert all(same(example[name], value) for name, value in features.items())


def test_numbers_that_are_not_packed_are_read() -> None:
    floats = b"".join(b"\x0d" + struct.pack("<f", value) for value in (1.5, -2.0))
    numbers = b"\x08\x05\x08\xac\x02"  # 5, 300

    def entry(name: bytes, kind: int, content: bytes) -> bytes:
        feature = bytes([kind << 3 | 2, len(content)]) + content
        body = b"\x0a" + bytes([len(name)]) + name + b"\x12" + bytes([len(feature)]) + feature
        return b"\x0a" + bytes([len(body)]) + body

    content = entry(b"f", 2, floats) + entry(b"n", 3, numbers) + entry(b"none", 2, b"")
    example = parse_example(b"\x0a" + bytes([len(content)]) + content, "here")
    assert same(example["f"], np.array([1.5, -2.0], np.float32))
    assert same(example["n"], np.array([5, 300]))
    assert len(example["none"]) == 0


def test_varints_that_are_cut_or_too_long_are_refused() -> None:
    assert decode_varints(b"").tolist() == []
    assert decode_varints(b"\x01\x80\x01").tolist() == [1, 128]
    with pytest.raises(ValueError, match="cut off"):
        decode_varints(b"\x01\x80")
    with pytest.raises(ValueError, match="11 bytes"):
        decode_varints(b"\xff" * 10 + b"\x01")


def test_records_are_found_and_read_in_any_order(tmp_path: Path) -> None:
    contents = [b"first", b"", serialised(FEATURES)]
    path = write(tmp_path / "a.tfrecord", *contents)
    index = record_index(path)
    assert len(index) == 3
    assert index.damage is None
    assert is_tfrecord(path)
    assert [index.read(number) for number in (2, 0, 1)] == [contents[2], contents[0], contents[1]]
    assert list(records(path)) == contents


def test_a_flipped_bit_costs_one_record_and_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", b"first", b"second", b"third")
    data = bytearray(path.read_bytes())
    data[16 + 5 + 12 + 2] ^= 4  # in "second"
    path.write_bytes(data)
    index = record_index(path)
    assert index.read(0) == b"first"
    assert index.read(2) == b"third"
    with pytest.raises(InputError, match=r"a\.tfrecord: record 1 is damaged: its checksum"):
        index.read(1)
    with pytest.raises(InputError, match="record 1"):
        list(records(path))


@pytest.mark.parametrize("cut", [1, 4, 10, 20])
def test_a_file_cut_short_keeps_its_whole_records(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "a.tfrecord", b"first", b"second")
    path.write_bytes(path.read_bytes()[:-cut])
    index = record_index(path)
    assert len(index) == 1
    assert index.damage is not None
    assert "record 1 at byte 21 is truncated" in index.damage
    assert index.read(0) == b"first"


def test_a_length_that_lies_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    length = struct.pack("<Q", 2**62)
    path.write_bytes(framed(b"first") + length + checksum(length) + b"x")  # its checksum is right
    index = record_index(path)
    assert len(index) == 1
    assert index.damage is not None
    assert "truncated" in index.damage
    path.write_bytes(framed(b"first") + length + bytes(20))
    damage = record_index(path).damage
    assert damage is not None
    assert "header of record 1" in damage


def test_any_damage_of_an_example_is_an_input_error() -> None:
    data = serialised(FEATURES)
    generator = np.random.default_rng(0)
    for _ in range(2000):
        broken = bytearray(data[: generator.integers(1, len(data) + 1)])
        for place in generator.integers(0, len(broken), generator.integers(0, 4)):
            broken[place] = generator.integers(0, 256)
        with contextlib.suppress(InputError):
            example = parse_example(bytes(broken), "here")
            assert all(len(example[name]) <= len(data) for name in example)


def test_looking_into_records_leaves_the_damaged_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", serialised(FEATURES), b"\xff\xff", serialised({"b": [b"x"]}))
    names = [None if example is None else sorted(example) for example in peek(record_index(path))]
    assert names == [sorted(FEATURES), None, ["b"]]


def test_other_files_are_no_tfrecords(tmp_path: Path) -> None:
    path = tmp_path / "text.tfrecord"
    path.write_text("this is no such file")
    assert not is_tfrecord(path)
    assert not is_tfrecord(tmp_path)
    path.write_bytes(b"")
    assert not is_tfrecord(path)
