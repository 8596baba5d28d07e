"""experiments/smollm.py: a GGUF file written by hand, read back."""

import struct
import sys

import pytest

from forked import ROOT

sys.path.insert(0, str(ROOT / "experiments"))
import smollm  # noqa: E402


def text(value):
    return struct.pack(f"<Q{len(value)}s", len(value), value.encode())


def test_fields_and_the_three_kinds_of_weights():
    fields = [text("a") + struct.pack("<II", 4, 7), text("b") + struct.pack("<I", 8) + text("seven"),
              text("c") + struct.pack("<IIQff", 9, 6, 2, 0.5, -1.5)]
    f32 = struct.pack("<4f", 1, 2, 3, 4)
    q4 = struct.pack("<ee16B", 0.5, -2, *(low | (15 - low) << 4 for low in range(16)))  # low halves first, then high
    q8 = struct.pack("<e32b", 0.25, *range(-16, 16))
    tensors = [("x", (2, 2), 0, 0), ("y", (32,), 3, 32), ("z", (32, 1), 8, 64)]
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(fields)) + b"".join(fields)
    for name, shape, kind, offset in tensors:
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    body = b"".join(part.ljust(32, b"\0") for part in (f32, q4, q8))
    gguf = smollm.Reader(head + b"\0" * (-len(head) % 32) + body)
    assert gguf.fields == {"a": 7, "b": "seven", "c": [0.5, -1.5]}
    assert gguf.tensor("x").tolist() == [[1, 2], [3, 4]]
    assert gguf.tensor("y").tolist() == [i / 2 - 2 for i in (*range(16), *range(15, -1, -1))]
    assert gguf.tensor("z").tolist() == [[i / 4 for i in range(-16, 16)]]  # GGUF names the fastest dimension first
    with pytest.raises(ValueError, match="expected GGUF version 3"):
        smollm.Reader(struct.pack("<4sIQQ", b"GGUF", 2, 0, 0))
