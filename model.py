"""The policy: a decoder-only transformer of the Qwen2 / Qwen2.5 and Qwen3 (dense) families, by hand.

    h = x + Attention(RMSNorm(x))        grouped-query attention, rotary positions
    x = h + SwiGLU(RMSNorm(h))
    logits = RMSNorm(x) W^T              W = the embedding when tie_word_embeddings

Qwen2 has a bias on q, k and v. Qwen3 has none and normalises each head of q and k (RMSNorm over Dh).
Parameter names are Hugging Face's, so a checkpoint loads without a table. Attention itself is torch's
scaled_dot_product_attention. What Hugging Face's classes offer beyond this (sliding windows, scaled rotary
positions, mixture of experts) is refused by name, never approximated.

Legend: B prompts, G rollouts, N = B*G, T tokens, S cache slots, L layers, D model, H heads, Hk key/value heads,
Dh head size, V vocabulary.
"""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.checkpoint import checkpoint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Logits that may exist at once while log-probabilities are computed: 2^26 float32 values are 256 MiB.
LOGITS_AT_ONCE = 2**26
# Of any size in a config: far above every published one, and the bytes of no tensor overflow 64 bits.
LARGEST = 2**28


class ModelError(ValueError):
    """A model directory that cannot be used; the message says what is wrong and where."""


@dataclass
class ModelConfig:
    """The fields of Hugging Face's config.json that shape the computation, under their own names."""

    model_type: str = "qwen2"
    vocab_size: int = 151936
    hidden_size: int = 2048
    intermediate_size: int = 11008
    num_hidden_layers: int = 36
    num_attention_heads: int = 16
    num_key_value_heads: int = 2
    head_dim: int = 128
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    tie_word_embeddings: bool = True
    torch_dtype: str = "bfloat16"


def _preset(model_type, vocab, layers, hidden, mlp, heads, kv_heads, head_dim, tied, dtype="bfloat16", context=32768,
            theta=1e6):
    return ModelConfig(model_type, vocab, hidden, mlp, layers, heads, kv_heads, head_dim, context, 1e-6, theta, tied,
                       dtype)


# Published shapes, for random initialisation; `tiny` is the embedded clinic model (its vocabulary is the tokenizer's).
PRESETS = {
    "tiny": _preset("qwen2", 2048, 3, 128, 352, 4, 2, 32, True, "float32", 1024, 1e4),
    "Qwen2.5-0.5B": _preset("qwen2", 151936, 24, 896, 4864, 14, 2, 64, True),
    "Qwen2.5-1.5B": _preset("qwen2", 151936, 28, 1536, 8960, 12, 2, 128, True),
    "Qwen2.5-3B": _preset("qwen2", 151936, 36, 2048, 11008, 16, 2, 128, True),
    "Qwen2.5-7B": _preset("qwen2", 152064, 28, 3584, 18944, 28, 4, 128, False),
    "Qwen3-0.6B": _preset("qwen3", 151936, 28, 1024, 3072, 16, 8, 128, True, context=40960),
    "Qwen3-1.7B": _preset("qwen3", 151936, 28, 2048, 6144, 16, 8, 128, True, context=40960),
    "Qwen3-4B": _preset("qwen3", 151936, 36, 2560, 9728, 32, 8, 128, True, context=40960),
}


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * y.to(x.dtype)


def rotary(positions, head_dim, theta, dtype):
    """Cosines and sines of rotary positions (Su et al. 2021), both halves of a head alike as Hugging Face lays it out.

    positions: [B or 1, T] -> cos, sin: [B or 1, 1, T, Dh] in `dtype`, computed in float32.
    """
    frequency = theta ** -(torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim)
    angle = positions[:, None, :, None].float() * frequency  # [B, 1, T, Dh/2]
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Cache:
    """Keys and values of every layer, [L, N, Hk, S, Dh]. `length` slots of S are written.

    Rows are right-padded: after a prefill of ragged prompts the slots len(prompt).. up to `length` of a row hold pads,
    which the caller's attention mask hides; positions follow the row's own length, not the slot.
    """

    def __init__(self, config, rows, slots, device, dtype):
        shape = (config.num_hidden_layers, rows, config.num_key_value_heads, slots, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0

    def write(self, layer, k, v):
        """Write k, v [N, Hk, T, Dh] behind the `length` slots in use; return all [N, Hk, length + T, Dh] of the layer.

        The caller advances `length` once all layers are written.
        """
        end = self.length + k.shape[2]
        self.keys[layer, :, :, self.length:end] = k
        self.values[layer, :, :, self.length:end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def repeat(self, rows, slots):
        """A cache of `slots` slots that holds the given rows ([n] indices, repeats allowed) of this one."""
        new = object.__new__(Cache)
        new.length = self.length
        for name in ("keys", "values"):
            old = getattr(self, name)
            tensor = old.new_zeros(old.shape[0], len(rows), old.shape[2], slots, old.shape[4])
            tensor[:, :, :, :self.length] = old[:, rows, :, :self.length]
            setattr(new, name, tensor)
        return new

    def keep(self, rows):
        """Retire every row but the given ones ([n] ascending indices), in place: a layer at a time is all it copies."""
        for name in ("keys", "values"):
            tensor = getattr(self, name)
            for layer in tensor:
                layer[:len(rows), :, :self.length] = layer[rows, :, :self.length]
            setattr(self, name, tensor[:, :len(rows)])


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, bias = config.head_dim, config.model_type == "qwen2"
        self.head_dim = width
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * width, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * width, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * width, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * width, config.hidden_size, bias=False)
        if config.model_type == "qwen3":
            self.q_norm = RMSNorm(width, config.rms_norm_eps)
            self.k_norm = RMSNorm(width, config.rms_norm_eps)
        else:
            self.q_norm = self.k_norm = nn.Identity()

    def forward(self, x, cos, sin, cache=None, layer=0, attend=None):
        n, t, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(n, t, -1, self.head_dim)).transpose(1, 2)  # [N, H, T, Dh]
        k = self.k_norm(self.k_proj(x).view(n, t, -1, self.head_dim)).transpose(1, 2)  # [N, Hk, T, Dh]
        v = self.v_proj(x).view(n, t, -1, self.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.write(layer, k, v)
        if attend is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        else:
            # One new token a row: the heads that share a key head stand as its queries, so nothing is repeated.
            q = q.view(n, k.shape[1], -1, self.head_dim)  # [N, Hk, H/Hk, Dh]
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=attend).reshape(n, -1, 1, self.head_dim)
        return self.o_proj(y.transpose(1, 2).reshape(n, t, -1))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x, cos, sin, cache=None, layer=0, attend=None):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache, layer, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Decoder(nn.Module):
    """The language model. `checkpoint_layers` recomputes each layer in the backward pass to save its activations."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.checkpoint_layers = False
        self.model = Backbone(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def _head(self, hidden):
        head = self.model.embed_tokens if self.config.tie_word_embeddings else self.lm_head
        return F.linear(hidden, head.weight)

    def _hidden(self, ids, positions=None, cache=None, attend=None):
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        x = self.model.embed_tokens(ids)  # [N, T, D]
        cos, sin = rotary(positions, self.config.head_dim, self.config.rope_theta, x.dtype)
        for i, layer in enumerate(self.model.layers):
            if self.checkpoint_layers and torch.is_grad_enabled():
                x = checkpoint(layer, x, cos, sin, use_reentrant=False)
            else:
                x = layer(x, cos, sin, cache, i, attend)
        if cache is not None:
            cache.length += ids.shape[1]
        return self.model.norm(x)

    def forward(self, ids, positions=None, cache=None, attend=None, last=None):
        """Logits [N, T, V] of ids [N, T] under causal attention; padding belongs on the right, where nothing sees it.

        cache: keys and values are appended to it. attend: [N, 1, 1, S] booleans, the slots each row may see, for
        decoding one token a row against the cache. last: [N] indices; then only those positions' logits, [N, V].
        """
        hidden = self._hidden(ids, positions, cache, attend)
        if last is not None:
            hidden = hidden[torch.arange(len(last), device=last.device), last]
        return self._head(hidden)

    def token_logprobs(self, ids, targets, temperature=1.0, entropy_grad=False):
        """Log-probability of chosen tokens given the tokens before them, and the entropy they were drawn from.

        ids: [N, T]. targets: [N, T] booleans, never at t = 0. -> logprob, entropy: [targets.sum()] float32, in
        row-major order of `targets`, of softmax(logits / temperature). Chunks of the vocabulary projection are
        recomputed in the backward pass, so that no more than LOGITS_AT_ONCE logits exist at a time. Gradients flow
        through the entropy only with entropy_grad.
        """
        hidden = self._hidden(ids)[:, :-1][targets[:, 1:]]  # [n, D]
        labels = ids[targets]

        def chunk_logprobs(hidden, labels):
            logits = self._head(hidden).float() / temperature  # [c, V]
            lse = logits.logsumexp(-1)
            logprob = logits.gather(-1, labels[:, None]).squeeze(-1) - lse
            with torch.set_grad_enabled(entropy_grad and torch.is_grad_enabled()):
                entropy = lse - ((logits - lse[:, None]).exp() * logits).sum(-1)
            return logprob, entropy

        size = max(1, LOGITS_AT_ONCE // self.config.vocab_size)
        if len(labels) <= size:
            return chunk_logprobs(hidden, labels)
        chunks = [checkpoint(chunk_logprobs, h, l, use_reentrant=False)
                  for h, l in zip(hidden.split(size), labels.split(size))]
        return torch.cat([c[0] for c in chunks]), torch.cat([c[1] for c in chunks])


def pack(prompts, responses, device):
    """Prompts and responses (lists of ids) as one right-padded batch for token_logprobs.

    -> ids [N, T], targets [N, T]: the response tokens, by length and not by value, so the pad id never matters.
    """
    lengths = [(len(p), len(p) + len(r)) for p, r in zip(prompts, responses, strict=True)]
    ids = torch.zeros(len(lengths), max(end for _, end in lengths), dtype=torch.long)
    targets = torch.zeros_like(ids, dtype=torch.bool)
    for i, (start, end) in enumerate(lengths):
        ids[i, :end] = torch.tensor(prompts[i] + responses[i])
        targets[i, start:end] = True
    return ids.to(device), targets.to(device)


def init_model(config, seed=0):
    """A Decoder with random float32 weights: normal(0, 0.02), biases 0, norms 1."""
    model = Decoder(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02, generator=generator)
    return model


def read_json(path):
    """The object in a JSON file; ModelError names the file when it is missing, broken or not an object."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; give a Hugging Face model directory") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return value


def load_config(directory):
    """ModelConfig from directory/config.json. ModelError for anything this decoder does not compute."""
    path = Path(directory) / "config.json"
    raw = read_json(path)

    def refuse(key, why):
        raise ModelError(f"{path}: {key} = {raw.get(key)!r} {why}")

    if raw.get("model_type") not in ("qwen2", "qwen3"):
        refuse("model_type", "is not supported; model.py computes qwen2 (also Qwen2.5) and dense qwen3")
    if raw.get("hidden_act", "silu") != "silu":
        refuse("hidden_act", "is not supported; only silu")
    if raw.get("use_sliding_window"):
        refuse("use_sliding_window", "is not supported; every layer attends to the whole context")
    for key, kind in (("layer_types", list), ("rope_scaling", dict), ("rope_parameters", dict)):
        if raw.get(key) and not isinstance(raw[key], kind):
            refuse(key, f"must be a JSON {'array' if kind is list else 'object'}")
    if "sliding_attention" in (raw.get("layer_types") or []):
        refuse("layer_types", "holds sliding_attention, which is not supported")
    if raw.get("attention_bias", raw["model_type"] == "qwen2") != (raw["model_type"] == "qwen2"):
        refuse("attention_bias", f"does not go with {raw['model_type']}")
    # transformers 5 writes rope_parameters where older releases write rope_theta and rope_scaling.
    rope = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        name = "rope_parameters" if raw.get("rope_parameters") else "rope_scaling"
        refuse(name, "is not supported; only unscaled rotary positions")
    values = {f.name: raw[f.name] for f in fields(ModelConfig) if raw.get(f.name) is not None}
    shape = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
    missing = shape - set(values)
    if missing:
        raise ModelError(f"{path}: lacks {', '.join(sorted(missing))}")
    for field in fields(ModelConfig):
        value = values.get(field.name, field.default)
        if field.type is int and (type(value) is not int or not 1 <= value <= LARGEST):
            refuse(field.name, f"must be a positive integer up to {LARGEST}")
        if field.type is bool and type(value) is not bool:
            refuse(field.name, "must be true or false")
    values.setdefault("num_key_value_heads", values["num_attention_heads"])
    head = 128 if raw["model_type"] == "qwen3" else values["hidden_size"] // values["num_attention_heads"]
    values.setdefault("head_dim", head)
    values.setdefault("tie_word_embeddings", False)
    values["rope_theta"] = rope.get("rope_theta", raw.get("rope_theta", 1e4))
    values["torch_dtype"] = raw.get("dtype") or raw.get("torch_dtype") or "float32"
    for key in ("rms_norm_eps", "rope_theta"):
        value = values.get(key, ModelConfig.rms_norm_eps)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise ModelError(f"{path}: {key} = {value!r} must be a positive number")
    if values["head_dim"] % 2 or not values["head_dim"]:
        raise ModelError(f"{path}: head_dim = {values['head_dim']} must be even and positive, for rotary positions")
    if values["torch_dtype"] not in list(DTYPES):
        refuse("dtype" if raw.get("dtype") else "torch_dtype", f"is not one of {', '.join(DTYPES)}")
    if values["num_attention_heads"] % values["num_key_value_heads"]:
        refuse("num_key_value_heads", f"does not divide num_attention_heads = {values['num_attention_heads']}")
    return ModelConfig(**values)


def _weight_files(directory):
    """{tensor name: file} of a single-file or sharded checkpoint."""
    directory = Path(directory)
    index = directory / "model.safetensors.index.json"
    if index.exists():
        table = read_json(index).get("weight_map")
        if not isinstance(table, dict):
            raise ModelError(f"{index}: lacks weight_map")
        for name, file in table.items():
            if not isinstance(file, str) or Path(file).name != file:
                raise ModelError(f"{index}: {name} names {file!r}, which is not a file of this directory")
        return {name: directory / file for name, file in table.items()}
    single = directory / "model.safetensors"
    if not single.exists():
        raise ModelError(f"{directory}: holds neither model.safetensors nor model.safetensors.index.json")
    with _open(single) as file:
        return dict.fromkeys(file.keys(), single)


def _open(path):
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable safetensors file ({error})") from None


def _some(names):
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def load_model(directory):
    """The Decoder of a Hugging Face directory, weights as float32 on the CPU.

    ModelError names every missing, surplus or misshapen tensor. A surplus lm_head.weight of a tied model is accepted
    when it equals the embedding.
    """
    config = load_config(directory)
    files = _weight_files(directory)
    if config.num_hidden_layers > len(files):
        raise ModelError(f"{directory}: num_hidden_layers = {config.num_hidden_layers} in config.json, but the weights "
                         f"are only {len(files)} tensors")
    with torch.device("meta"):
        model = Decoder(config)
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    found = {}
    for path in sorted(set(files.values())):
        with _open(path) as file:
            there = set(file.keys())
            for name in sorted(n for n, p in files.items() if p == path):
                if name not in there:
                    raise ModelError(f"{path}: lacks the tensor {name} that the index promises")
                found[name] = file.get_tensor(name)
    if config.tie_word_embeddings and "lm_head.weight" in found:
        head, embedding = found.pop("lm_head.weight"), found.get("model.embed_tokens.weight")
        if embedding is not None and not torch.equal(head, embedding):
            raise ModelError(f"{directory}: tie_word_embeddings is true, yet lm_head.weight is not the embedding")
    missing, surplus = set(expected) - set(found), set(found) - set(expected)
    if missing:
        raise ModelError(f"{directory}: missing tensors: {_some(missing)}")
    if surplus:
        raise ModelError(f"{directory}: surplus tensors that a {config.model_type} of this config lacks: "
                         f"{_some(surplus)}")
    wrong = [f"{n} is {list(found[n].shape)}, not {list(s)}" for n, s in expected.items() if tuple(found[n].shape) != s]
    if wrong:
        raise ModelError(f"{directory}: misshapen tensors: {_some(wrong)}")
    odd = [f"{n} is {t.dtype}" for n, t in found.items() if t.dtype not in DTYPES.values()]
    if odd:
        raise ModelError(f"{directory}: only float32, bfloat16 and float16 weights are read: {_some(odd)}")
    model.load_state_dict({name: tensor.float() for name, tensor in found.items()}, assign=True)
    return model


def save_model(directory, config, weights, eos_ids, pad_id, shard_bytes=5 * 2**30):
    """Write config.json, generation_config.json and safetensors (sharded with an index above shard_bytes).

    weights: {name: tensor}, stored as config.torch_dtype. The result loads here and in transformers unchanged.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    eos = eos_ids[0] if len(eos_ids) == 1 else list(eos_ids)
    architecture = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[config.model_type]
    raw = {"architectures": [architecture], **asdict(config), "hidden_act": "silu"}
    raw |= {"eos_token_id": eos, "pad_token_id": pad_id}
    if config.model_type == "qwen3":
        raw["attention_bias"] = False
    shards, size = [{}], 0
    for name, tensor in weights.items():
        tensor = tensor.detach().to("cpu", DTYPES[config.torch_dtype]).contiguous()
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards):
        save_file(shard, directory / (name + ".tmp"), metadata={"format": "pt"})
        os.replace(directory / (name + ".tmp"), directory / name)
    index = directory / "model.safetensors.index.json"
    if len(shards) > 1:
        table = {tensor: name for name, shard in zip(names, shards) for tensor in shard}
        total = sum(t.nbytes for shard in shards for t in shard.values())
        write_json(index, {"metadata": {"total_size": total}, "weight_map": table})
    for stale in set(directory.glob("model*.safetensors")) - {directory / n for n in names}:
        stale.unlink()
    if len(shards) == 1:
        index.unlink(missing_ok=True)
    write_json(directory / "config.json", raw)
    write_json(directory / "generation_config.json", {"eos_token_id": eos, "pad_token_id": pad_id})


def write_json(path, value):
    """Write a JSON file by way of a temporary one, so that no reader ever sees half of it."""
    temporary = f"{path}.tmp"
    Path(temporary).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
