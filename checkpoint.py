"""Model directories as Hugging Face writes them: config.json, generation_config.json and safetensors, in and out.

What model.py does not compute exactly is refused by name, never approximated; so is a file that lies about itself.
Nothing here unpickles.
"""

import json
import os
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from model import Decoder, ModelConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Of any size in a config: far above every published one, and the bytes of no tensor overflow 64 bits.
LARGEST = 2**28
INDEX = "model.safetensors.index.json"


class ModelError(ValueError):
    """A model directory that cannot be used; the message says what is wrong and where."""


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
    index = directory / INDEX
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
    # one after the other, so that nothing else stands twice
    model.load_state_dict({name: found.pop(name).float() for name in expected}, assign=True)
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
    texts = {"generation_config.json": {"eos_token_id": eos, "pad_token_id": pad_id}, "config.json": raw}
    if len(shards) > 1:
        table = {tensor: name for name, shard in zip(names, shards) for tensor in shard}
        total = sum(t.nbytes for shard in shards for t in shard.values())
        texts = {INDEX: {"metadata": {"total_size": total}, "weight_map": table}, **texts}
    for name, shard in zip(names, shards):
        save_file(shard, directory / f"{name}.tmp", metadata={"format": "pt"})
    for name, value in texts.items():
        (directory / f"{name}.tmp").write_text(_json(value), encoding="utf-8")
    # All is written, what follows only renames: config.json goes first and comes last, and without it nothing loads.
    (directory / "config.json").unlink(missing_ok=True)
    for stale in {*directory.glob("model*.safetensors"), directory / INDEX} - {directory / n for n in (*names, *texts)}:
        stale.unlink(missing_ok=True)
    for name in names:  # safetensors makes files that none but their owner can read
        os.chmod(directory / f"{name}.tmp", (directory / "config.json.tmp").stat().st_mode)
    for name in (*names, *texts):
        os.replace(directory / f"{name}.tmp", directory / name)


def _json(value):
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_json(path, value):
    """Write a JSON file by way of a temporary one, so that no reader ever sees half of it."""
    temporary = f"{path}.tmp"
    Path(temporary).write_text(_json(value), encoding="utf-8")
    os.replace(temporary, path)
