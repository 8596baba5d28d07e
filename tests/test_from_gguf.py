"""experiments/from_gguf.py: small GGUF files written by the package gguf, read back by this project."""

import sys

import pytest
import torch

from checkpoint import load_model
from data import Tokenizer
from forked import ROOT

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
sys.path.insert(0, str(ROOT / "experiments"))
import from_gguf  # noqa: E402

WORDS = ["<|im_start|>", "a", "b", "<|im_end|>", "Ġ", "ab", "<tool>", "[PAD7]"]


def written(path, kind, pre):
    """A file of two layers of width 8, two heads over one pair of keys and values; its weights by GGUF's name."""
    torch.manual_seed(0)
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(2), writer.add_context_length(64), writer.add_embedding_length(8)
    writer.add_feed_forward_length(16), writer.add_head_count(2), writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5), writer.add_rope_freq_base(5e5)
    writer.add_tokenizer_model("gpt2"), writer.add_tokenizer_pre(pre), writer.add_token_list(WORDS)
    writer.add_token_types([3, 1, 1, 3, 1, 1, 4, 5]), writer.add_token_merges(["a b"])
    writer.add_eos_token_id(3), writer.add_pad_token_id(0), writer.add_chat_template("no template")
    weights = {"token_embd.weight": torch.randn(8, 8), "output_norm.weight": torch.randn(8)}
    shapes = {"attn_norm": (8,), "ffn_norm": (8,), "attn_q": (8, 8), "attn_k": (4, 8), "attn_v": (4, 8),
              "attn_output": (8, 8), "ffn_gate": (16, 8), "ffn_up": (16, 8), "ffn_down": (8, 16)}
    for i in range(2):
        weights |= {f"blk.{i}.{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
        for name in ("attn_q", "attn_k", "attn_v") if kind == "qwen2" else ():
            weights[f"blk.{i}.{name}.bias"] = torch.randn(shapes[name][0])
    if kind == "qwen2":
        weights["output.weight"] = torch.randn(8, 8)
    for name, weight in weights.items():
        writer.add_tensor(name, weight.numpy())
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
    writer.close()
    return weights


@pytest.mark.parametrize("kind, pre", [("llama", "smollm"), ("qwen2", "qwen2")])
def test_weights_and_tokens(tmp_path, kind, pre):
    weights = written(tmp_path / "x.gguf", kind, pre)
    from_gguf.main(tmp_path / "x.gguf", tmp_path / "out")
    model = load_model(tmp_path / "out")
    loaded = model.state_dict()
    assert (model.config.rms_norm_eps, model.config.rope_theta, model.config.head_dim) == (1e-5, 5e5, 4)
    embeddings = weights["output.weight" if kind == "qwen2" else "token_embd.weight"]
    assert torch.equal(loaded["model.embed_tokens.weight"], embeddings)
    order = [0, 2, 1, 3, 4, 6, 5, 7] if kind == "llama" else list(range(8))  # (0, 1), (2, 3) to (0, 2), (1, 3) a head
    for i in (0, 1):
        ours, theirs = f"model.layers.{i}.", f"blk.{i}."
        assert torch.equal(loaded[ours + "self_attn.q_proj.weight"], weights[theirs + "attn_q.weight"][order])
        assert torch.equal(loaded[ours + "self_attn.k_proj.weight"], weights[theirs + "attn_k.weight"][order[:4]])
        assert torch.equal(loaded[ours + "mlp.down_proj.weight"], weights[theirs + "ffn_down.weight"])
        assert torch.equal(loaded[ours + "self_attn.v_proj.bias"], weights.get(theirs + "attn_v.bias", torch.zeros(4)))
    tokenizer = Tokenizer(tmp_path / "out", 8)
    assert tokenizer.encode("ab a<tool>") == [5, 4, 1, 6]
    assert (tokenizer.start_id, tokenizer.eos_ids, tokenizer.size) == (0, [3], 7)


def test_another_kind_is_refused(tmp_path):
    written(tmp_path / "x.gguf", "llama", "gpt-2")
    with pytest.raises(SystemExit, match="llama with a tokenizer of gpt-2: this knows llama and qwen2"):
        from_gguf.main(tmp_path / "x.gguf", tmp_path / "out")
