"""Model directories that lie or are damaged: a ModelError that names the file, before anything is allocated."""

import json
import shutil
import struct
from pathlib import Path

import pytest

import checkpoint
from checkpoint import ModelError, load_model

GOLDEN = Path(__file__).parent / "golden"


def header(**change):
    """Changes the entry of model.norm.weight in a safetensors file's header."""
    def changed(raw):
        size = struct.unpack("<Q", raw[:8])[0]
        table = json.loads(raw[8:8 + size])
        table["model.norm.weight"] |= change
        text = json.dumps(table).encode()
        return struct.pack("<Q", len(text)) + text + raw[8 + size:]
    return changed


@pytest.mark.parametrize("damage", [
    lambda raw: b"",
    lambda raw: raw[:50],
    lambda raw: raw[:-100],
    lambda raw: raw + b"x" * 100,
    lambda raw: struct.pack("<Q", 2**60) + raw[8:],
    header(data_offsets=[0, 10**12]),
    header(shape=[10**12]),
    header(shape=[-32]),
    header(dtype="F64"),
    header(dtype="X9"),
], ids=["empty", "cut in the header", "cut in the data", "longer", "header length", "offsets", "shape", "shape below 0",
        "another dtype", "unknown dtype"])
def test_damaged_weights_are_named(damage, tmp_path):
    shutil.copytree(GOLDEN / "qwen2_tied", tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match="model.safetensors: not a readable safetensors file"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("file", ["/dev/zero", "..", "gone.safetensors", "config.json", "a\0b", "", "../m/x", None, 3])
def test_an_index_names_files_of_its_directory_only(file, tmp_path):
    shutil.copytree(GOLDEN / "qwen2_untied", tmp_path / "m")
    index = tmp_path / "m" / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    table["weight_map"]["model.norm.weight"] = file
    index.write_text(json.dumps(table))
    with pytest.raises(ModelError, match="is not a file of this directory|not a readable safetensors file"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("key, value", [
    ("hidden_size", 10**9), ("hidden_size", 2**63), ("vocab_size", 10**12), ("intermediate_size", 10**18),
    ("num_hidden_layers", 10**9), ("num_hidden_layers", 10**7), ("num_attention_heads", 10**7), ("head_dim", 7),
    ("max_position_embeddings", 10**30), ("rms_norm_eps", "1e-6"), ("rms_norm_eps", -1), ("rms_norm_eps", float("nan")),
    ("rope_parameters", "none"), ("rope_parameters", {"rope_theta": "1e6"}), ("rope_parameters", {"rope_theta": 0}),
    ("layer_types", 3), ("tie_word_embeddings", "false"), ("torch_dtype", ["float32"]), ("model_type", ["qwen2"]),
])
def test_absurd_configs_are_refused_before_anything_is_built(key, value, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "Decoder", lambda config: pytest.fail("built"))
    shutil.copytree(GOLDEN / "qwen2_tied", tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    raw = json.loads(path.read_text())
    if key == "torch_dtype":
        raw.pop("dtype", None)
    path.write_text(json.dumps({**raw, key: value}))
    with pytest.raises(ModelError) as error:
        load_model(tmp_path / "m")
    named = "rope_theta" if isinstance(value, dict) else "head_dim" if key == "num_attention_heads" else key
    assert named in str(error.value) and str(tmp_path / "m") in str(error.value)


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"model_type": "\xe9"}', b"\0", b"", b"[]", b"1" * 5000])
def test_a_config_that_is_no_json_object_is_named(raw, tmp_path):
    (tmp_path / "config.json").write_bytes(raw)
    with pytest.raises(ModelError, match="config.json: (not valid JSON|expected a JSON object)"):
        load_model(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ModelError, match="config.json: cannot be read"):
        load_model(tmp_path)
