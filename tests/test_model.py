import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import model as model_file
from model import PRESETS, Cache, ModelError, init_model, load_config, load_model, pack, save_model
from sampler import generate

GOLDEN = Path(__file__).parent / "golden"
NAMES = ["qwen2_tied", "qwen2_untied", "qwen3"]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TINY = replace(PRESETS["tiny"], vocab_size=96, hidden_size=32, intermediate_size=48, head_dim=8, num_hidden_layers=2)


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_hugging_face(name):
    expected = load_file(GOLDEN / name / "expected.safetensors")
    model = load_model(GOLDEN / name).to(DEVICE)
    with torch.no_grad():
        logits = model(expected["ids"].to(DEVICE)).cpu()
    assert (logits - expected["logits"]).abs().max() < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_greedy_continuation_equals_hugging_face(name):
    greedy = load_file(GOLDEN / name / "expected.safetensors")["greedy"][0].tolist()
    model = load_model(GOLDEN / name).to(DEVICE)
    [[rollout]] = generate(model, [greedy[:8]], [[0]], 50, {95 + 1}, temperature=0)
    assert rollout.ids == greedy[8:]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shard_bytes", [2**30, 20_000])
def test_a_save_loads_back_bit_equal(name, shard_bytes, tmp_path):
    model = load_model(GOLDEN / name)
    save_model(tmp_path, model.config, dict(model.named_parameters()), [1, 5], 0, shard_bytes)
    again = load_model(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_bytes == 20_000)
    assert again.config == model.config
    for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters()):
        assert torch.equal(a, b), name
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [1, 5]


def test_a_smaller_save_leaves_no_stale_shards(tmp_path):
    model = init_model(TINY)
    save_model(tmp_path, TINY, dict(model.named_parameters()), [1], 0, shard_bytes=10_000)
    save_model(tmp_path, TINY, dict(model.named_parameters()), [1], 0)
    assert [p.name for p in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    load_model(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_checkpoints_load_as_float32(dtype, tmp_path):
    shutil.copytree(GOLDEN / "qwen3", tmp_path / "m")
    weights = {k: v.to(dtype) for k, v in load_file(tmp_path / "m" / "model.safetensors").items()}
    save_file(weights, tmp_path / "m" / "model.safetensors")
    for name, parameter in load_model(tmp_path / "m").named_parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, weights[name].float())


def edit_weights(directory, change):
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors")


@pytest.mark.parametrize("change, words", [
    (lambda w: w.pop("model.norm.weight"), ["missing", "model.norm.weight"]),
    (lambda w: w.update({"model.layers.7.mlp.up_proj.weight": torch.zeros(1)}), ["surplus", "layers.7"]),
    (lambda w: w.update({"model.norm.weight": torch.zeros(5)}), ["misshapen", "model.norm.weight", "[5]", "[32]"]),
    (lambda w: w.update({"lm_head.weight": torch.zeros(96, 32)}), ["lm_head.weight", "tie_word_embeddings"]),
    (lambda w: w.update({"model.norm.weight": torch.zeros(32, dtype=torch.int64)}), ["model.norm.weight", "int64"]),
])
def test_wrong_tensors_are_named(change, words, tmp_path):
    shutil.copytree(GOLDEN / "qwen2_tied", tmp_path / "m")
    edit_weights(tmp_path / "m", change)
    with pytest.raises(ModelError) as error:
        load_model(tmp_path / "m")
    for word in [*words, str(tmp_path / "m")]:
        assert word in str(error.value)


def test_a_tied_checkpoint_may_repeat_its_embedding(tmp_path):
    shutil.copytree(GOLDEN / "qwen2_tied", tmp_path / "m")
    edit_weights(tmp_path / "m", lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    load_model(tmp_path / "m")


@pytest.mark.parametrize("change, words", [
    ({"model_type": "llama"}, ["model_type", "llama"]),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, ["rope_parameters", "yarn"]),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, ["rope_scaling", "linear"]),
    ({"use_sliding_window": True}, ["use_sliding_window"]),
    ({"hidden_act": "gelu"}, ["hidden_act", "gelu"]),
    ({"attention_bias": True}, ["attention_bias"]),
    ({"num_hidden_layers": -1}, ["num_hidden_layers", "-1"]),
    ({"hidden_size": "32"}, ["hidden_size"]),
    ({"vocab_size": None}, ["vocab_size"]),
    ({"num_key_value_heads": 3}, ["num_key_value_heads"]),
    ({"dtype": "int8"}, ["dtype", "int8"]),
])
def test_unsupported_configs_are_refused_by_name(change, words, tmp_path):
    raw = json.loads((GOLDEN / "qwen3" / "config.json").read_text())
    if "rope_scaling" in change:
        raw.pop("rope_parameters")
    (tmp_path / "config.json").write_text(json.dumps({**raw, **change}))
    with pytest.raises(ModelError) as error:
        load_config(tmp_path)
    for word in [*words, "config.json"]:
        assert word in str(error.value)


def test_broken_directories_are_named(tmp_path):
    with pytest.raises(ModelError, match="config.json"):
        load_model(tmp_path)
    shutil.copytree(GOLDEN / "qwen2_untied", tmp_path / "m")
    index = tmp_path / "m" / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    (tmp_path / "m" / "model-00002-of-00004.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not safetensors")
    with pytest.raises(ModelError, match="model-00002-of-00004"):
        load_model(tmp_path / "m")
    table["weight_map"]["model.norm.weight"] = "../../elsewhere.safetensors"
    index.write_text(json.dumps(table))
    with pytest.raises(ModelError, match="elsewhere"):
        load_model(tmp_path / "m")


def test_older_configs_with_a_top_level_rope_theta(tmp_path):
    raw = json.loads((GOLDEN / "qwen2_untied" / "config.json").read_text())
    theta = raw.pop("rope_parameters")["rope_theta"]
    (tmp_path / "config.json").write_text(json.dumps({**raw, "rope_theta": theta}))
    assert load_config(tmp_path) == load_config(GOLDEN / "qwen2_untied")
    assert load_config(tmp_path).rope_theta == 1e6


@pytest.mark.parametrize("name", NAMES)
def test_cached_decoding_equals_the_full_forward_for_ragged_prompts(name):
    model = load_model(GOLDEN / name).to(DEVICE)
    ids = load_file(GOLDEN / name / "expected.safetensors")["ids"].to(DEVICE)
    prompt = torch.tensor([3, 9, 6], device=DEVICE)  # lengths of three prompts in one batch
    with torch.no_grad():
        full = model(ids)
        cache = Cache(model.config, 3, 24, DEVICE, torch.float32)
        first = model(ids[:, :9], cache=cache, last=prompt - 1)
        attend = torch.arange(24, device=DEVICE)[None] < prompt[:, None]
        assert torch.allclose(first, full[torch.arange(3), prompt - 1], atol=1e-5)
        for t in range(10):
            attend[:, 9 + t] = True
            token = ids[torch.arange(3), prompt + t]
            logits = model(token[:, None], positions=(prompt + t)[:, None], cache=cache,
                           attend=attend[:, None, None, :10 + t])[:, 0]
            assert torch.allclose(logits, full[torch.arange(3), prompt + t], atol=1e-5)


def test_token_logprobs_by_hand():
    """A model whose logits are known: zero weights but a head bias by embedding, so p is the same at every place."""
    model = init_model(replace(TINY, vocab_size=4)).to(DEVICE)
    ids, targets = pack([[0, 1], [2]], [[3], [1, 0]], DEVICE)
    assert targets.tolist() == [[False, False, True], [False, True, True]]
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    logprob, entropy = model.token_logprobs(ids, targets)
    assert torch.allclose(logprob.cpu(), torch.full((3,), -1.3862944))  # log(1/4)
    assert torch.allclose(entropy.cpu(), torch.full((3,), 1.3862944))  # log 4


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_chunked_logprobs_equal_the_whole_and_so_do_gradients(temperature, monkeypatch):
    model = init_model(TINY).to(DEVICE)
    torch.manual_seed(0)
    rows = [torch.randint(0, 96, (n,)).tolist() for n in (12, 5, 9)]
    ids, targets = pack([r[:3] for r in rows], [r[3:] for r in rows], DEVICE)

    def result():
        model.zero_grad()
        logprob, entropy = model.token_logprobs(ids, targets, temperature, entropy_grad=True)
        (logprob.sum() + entropy.sum()).backward()
        return logprob.detach(), entropy.detach(), [p.grad.clone() for p in model.parameters()]

    whole = result()
    distribution = (model(ids).float() / temperature).log_softmax(-1)
    picked = distribution[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)[targets[:, 1:]]
    assert torch.allclose(whole[0], picked, atol=1e-5)
    monkeypatch.setattr(model_file, "LOGITS_AT_ONCE", 4 * 96)
    model.checkpoint_layers = True
    chunked = result()
    assert torch.allclose(whole[0], chunked[0], atol=1e-6) and torch.allclose(whole[1], chunked[1], atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole[2], chunked[2]))


def test_padding_and_neighbours_change_nothing():
    model = init_model(TINY).to(DEVICE)
    alone = model.token_logprobs(*pack([[5, 6]], [[7, 0, 0]], DEVICE))[0]
    beside = model.token_logprobs(*pack([[5, 6], list(range(20))], [[7, 0, 0], [3] * 9], DEVICE))[0][:3]
    assert torch.allclose(alone, beside, atol=1e-6)


def test_presets_have_the_published_sizes():
    billions = {"Qwen2.5-0.5B": 0.494, "Qwen2.5-1.5B": 1.544, "Qwen2.5-3B": 3.086, "Qwen2.5-7B": 7.616,
                "Qwen3-0.6B": 0.596, "Qwen3-1.7B": 1.721, "Qwen3-4B": 4.022}
    for name, size in billions.items():
        with torch.device("meta"):
            model = model_file.Decoder(PRESETS[name])
        assert round(sum(p.numel() for p in model.parameters()) / 1e9, 3) == size, name
