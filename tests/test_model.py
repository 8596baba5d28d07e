import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import linear
import model as model_file
from checkpoint import ModelError, load_config, load_model, save_model
from linear import FEW, Product, addition, product
from model import PRESETS, WHOLE, Cache, ModelConfig, Packed, init_model, rotary, scores
from sampler import Step, generate

GOLDEN = Path(__file__).parent / "golden"
NAMES = ["qwen2_tied", "qwen2_untied", "qwen3"]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TINY = replace(PRESETS["tiny"], vocab_size=96, hidden_size=32, intermediate_size=48, head_dim=8, num_hidden_layers=2)


def test_random_weights_are_spread_and_fixed_by_their_seed():
    model, same, other = (init_model(TINY, seed) for seed in (0, 0, 1))
    for (name, p), q, r in zip(model.named_parameters(), same.parameters(), other.parameters()):
        if p.dim() > 1:
            assert abs(p.std() - 0.02) < 0.002 and abs(p.mean()) < 0.002 and torch.equal(p, q) and not torch.equal(p, r)
        else:
            assert (p == (0 if name.endswith("bias") else 1)).all()


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
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"eos_token_id": [1, 5], "pad_token_id": 0}
    raw, qwen3 = json.loads((tmp_path / "config.json").read_text()), model.config.model_type == "qwen3"
    assert raw["architectures"] == ["Qwen3ForCausalLM" if qwen3 else "Qwen2ForCausalLM"]
    assert raw["eos_token_id"] == [1, 5] and raw["pad_token_id"] == 0
    assert raw.get("attention_bias", True) != qwen3 and raw["hidden_act"] == "silu"
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1  # who reads the one may read the other


def test_a_save_that_breaks_off_leaves_no_mixture(tmp_path, monkeypatch):
    """Shards of the new model beside one of the old would load as neither."""
    old, new = init_model(TINY), init_model(TINY, seed=1)
    save_model(tmp_path / "new" / "one", TINY, dict(old.named_parameters()), [1], 0, shard_bytes=10_000)
    assert json.loads((tmp_path / "new" / "one" / "config.json").read_text())["eos_token_id"] == 1
    replace, done = os.replace, []

    def breaks(*paths):
        if len(done) == 3:
            raise OSError("power is out")
        done.append(replace(*paths))

    monkeypatch.setattr(os, "replace", breaks)
    with pytest.raises(OSError, match="power"):
        save_model(tmp_path / "new" / "one", TINY, dict(new.named_parameters()), [1], 0, shard_bytes=10_000)
    with pytest.raises(ModelError, match="config.json: no such file"):
        load_model(tmp_path / "new" / "one")


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
    ({"layer_types": ["full_attention", "sliding_attention"]}, ["layer_types", "sliding_attention"]),
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


@pytest.mark.parametrize("kind, head", [("qwen2", 12), ("qwen3", 128)])
def test_what_a_config_leaves_out(kind, head, tmp_path):
    raw = {"model_type": kind, "vocab_size": 9, "hidden_size": 48, "intermediate_size": 8, "num_hidden_layers": 2,
           "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert load_config(tmp_path) == ModelConfig(
        **raw, num_key_value_heads=4, head_dim=head, max_position_embeddings=32768, rms_norm_eps=1e-6, rope_theta=1e4,
        tie_word_embeddings=False, torch_dtype="float32")
    (tmp_path / "config.json").write_text(json.dumps(raw | {"torch_dtype": "bfloat16"}))
    assert load_config(tmp_path).torch_dtype == "bfloat16"


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
    index.write_text('{"weight_map": ["model.norm.weight"]}')
    with pytest.raises(ModelError, match="index.json: lacks weight_map"):
        load_model(tmp_path / "m")
    index.unlink()
    with pytest.raises(ModelError, match="holds neither model.safetensors nor model.safetensors.index.json"):
        load_model(tmp_path / "m")


def test_older_configs_with_a_top_level_rope_theta(tmp_path):
    raw = json.loads((GOLDEN / "qwen2_untied" / "config.json").read_text())
    theta = raw.pop("rope_parameters")["rope_theta"]
    (tmp_path / "config.json").write_text(json.dumps({**raw, "rope_theta": theta}))
    assert load_config(tmp_path) == load_config(GOLDEN / "qwen2_untied")
    assert load_config(tmp_path).rope_theta == 1e6


def test_scores_in_half_precision_on_cuda_give_the_bias_its_full_shape(monkeypatch):
    """torch's baddbmm with out_dtype, which only CUDA has, refuses one that it would have to broadcast."""
    class OnCuda(torch.Tensor):
        is_cuda = True

    def strict(bias, q, k, alpha, out_dtype):
        assert bias.shape == (*q.shape[:2], k.shape[2]) and bias.dtype == out_dtype == torch.float32
        return bias + alpha * (q.float() @ k.float())

    q, k = (torch.randn(4, *shape).bfloat16() for shape in ((3, 8), (8, 5)))
    bias = torch.randn(4, 1, 5)
    expected = scores(q, k, bias, 0.5)
    monkeypatch.setattr(torch, "baddbmm", strict)
    assert torch.allclose(scores(q.as_subclass(OnCuda), k, bias, 0.5), expected, atol=1e-5)


def test_rotary_positions_keep_their_digits_in_bfloat16():
    """Which holds no odd number above 256."""
    positions = torch.arange(1000)[None]
    for half, full in zip(rotary(positions, 8, 1e4, torch.bfloat16), rotary(positions, 8, 1e4, torch.float32)):
        assert torch.equal(half, full.bfloat16())


@pytest.mark.parametrize("name", NAMES)
def test_cached_decoding_equals_the_full_forward(name):
    """Ragged prompts, groups of 4, 1 and 4 responses, some retired on the way, a whole group among them; the last four
    rows and two rows have their prompts for themselves."""
    model = load_model(GOLDEN / name).to(DEVICE)
    ids = load_file(GOLDEN / name / "expected.safetensors")["ids"].to(DEVICE)  # three rows
    prompt = torch.tensor([3, 9, 6], device=DEVICE)  # how much of them is prompt
    owner = torch.tensor([0, 0, 0, 0, 1, 2, 2, 2, 2], device=DEVICE)
    rows = torch.arange(9, device=DEVICE)
    kept = {2: [0, 1, 2, 4, 5, 6, 8], 5: [0, 2, 4, 6], 7: [1, 3]}  # of those before
    continued = torch.randint(0, 96, (9, 10), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    with torch.no_grad():
        cache = Cache(prompt, 9)
        whole = model(ids)
        for part in (torch.tensor([2, 0], device=DEVICE), torch.tensor([1], device=DEVICE)):
            last = prompt[part] - 1
            first = model(ids[part, :last.max() + 1], attend=partial(cache.prefill, part), last=last)
            assert torch.allclose(first, whole[part, last], atol=1e-5)
        cache.fork(owner, 10)
        step = Step(model, 20)
        for t in range(10):
            if t in kept:
                keep = torch.tensor(kept[t], device=DEVICE)
                rows = rows[keep]
                cache.keep(keep)
            assert bool(cache.prompt) == (len(rows) > 4)
            position = prompt[owner[rows]] + t
            logits = step(continued[rows, t], position, cache)
            for row, logit in zip(rows.tolist(), logits):
                whole = torch.cat((ids[owner[row], :prompt[owner[row]]], continued[row, :t + 1]))
                assert torch.allclose(logit, model(whole[None])[0, -1], atol=1e-5), (t, row)


def test_attention_may_come_in_another_layout(monkeypatch):
    """As CUDA's memory-efficient kernel gives it, heads beside each other in memory."""
    model = init_model(TINY)
    packed = Packed([[5, 6], [1]], [[7, 0, 0], [3] * 9], "cpu")
    expected = model.token_logprobs(packed)[0]
    attention = model_file.F.scaled_dot_product_attention
    monkeypatch.setattr(model_file.F, "scaled_dot_product_attention", lambda *args, **kwargs: attention(
        *args, **kwargs).transpose(1, 2).contiguous().transpose(1, 2))
    assert torch.equal(model.token_logprobs(packed)[0], expected)


def slow_varlen(q, k, v, q_begins, k_begins, longest_q, longest_k, window_size, **grouped):
    """torch's varlen_attn, sequence by sequence. q: [tokens, H, Dh]"""
    out = []
    for i in range(len(q_begins) - 1):
        rows, keys = slice(q_begins[i], q_begins[i + 1]), slice(k_begins[i], k_begins[i + 1])
        a, b, c = (x.transpose(0, 1) for x in (q[rows], k[keys], v[keys]))
        b, c = (x.repeat_interleave(len(a) // len(x), 0) for x in (b, c))
        later = torch.ones(a.shape[1], b.shape[1]).triu(1 + b.shape[1] - a.shape[1]).bool()
        weight = (a @ b.mT * a.shape[-1] ** -0.5).masked_fill(later, -torch.inf).softmax(-1)
        out.append((weight @ c).transpose(0, 1))
    assert q_begins.dtype == k_begins.dtype == torch.int32 and window_size == (-1, 0)
    assert longest_q == q_begins.diff().max() and longest_k == k_begins.diff().max()
    return torch.cat(out)


def test_flash_attention_is_asked_as_torch_wants_it():
    """On tensors without values, as it is for a GPU only."""
    packed = Packed([[1, 2], [3]], [[4, 5, 6], [7]], "cpu")
    q, k, v = (torch.empty(1, heads, WHOLE, 16, dtype=torch.bfloat16, device="meta", requires_grad=True)
               for heads in (6, 2, 2))
    y = model_file._flash(q, k, v, *packed._row(q))
    y.backward(y)
    assert y.shape == q.shape == q.grad.shape and v.grad.shape == v.shape


def test_a_layout_is_made_once(monkeypatch):
    made, padded = [], Packed._padded
    monkeypatch.setattr(Packed, "_padded", lambda self, *args: made.append(1) or padded(self, *args))
    init_model(replace(TINY, num_hidden_layers=3)).token_logprobs(Packed([[5, 6]], [[7, 0, 0]], "cpu"))
    assert len(made) == 1


def test_swiglu_has_the_gradients_of_its_formula():
    given, upstream = torch.randn(2, 7, 24), torch.randn(7, 24)
    found = []
    for swiglu in (model_file.SwiGLU.apply, lambda gate, up: F.silu(gate) * up):
        gate, up = (x.clone().requires_grad_() for x in given)
        y = swiglu(gate, up)
        y.backward(upstream)
        found.append((y, gate.grad, up.grad))
    assert all(map(torch.equal, *found))


def test_flash_attention_of_the_row_is_the_masked_one(monkeypatch):
    """On a GPU by torch's own in bfloat16, here by a slow one in its place."""
    dtype, tolerance = (torch.bfloat16, 0.02) if DEVICE.type == "cuda" else (torch.float32, 1e-5)
    if DEVICE.type == "cpu":
        monkeypatch.setattr(model_file, "varlen_attn", slow_varlen)
    packed = Packed([[1, 2], [3, 4, 5], [1, 2], [1, 2]], [[7, 8, 9], [7, 8, 9, 10, 11], [7], [7, 8]], DEVICE)
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(1, heads, WHOLE, 16, generator=generator).to(DEVICE, dtype) for heads in (6, 2, 2)]
    upstream = torch.randn(1, 6, WHOLE, 16, generator=generator).to(DEVICE, dtype)
    upstream[:, :, 12:] = 0  # of padding
    found = []
    for attention, layout in ((model_file._flash, packed._row(given[0])),
                              (model_file._masked, packed._padded(*given[:2]))):
        leaves = [x.clone().requires_grad_() for x in given]
        y = attention(*leaves, *layout)
        y.backward(upstream)
        found.append([y[:, :, :12], *(x.grad for x in leaves)])
    for a, b in zip(*found):
        assert (a - b).float().norm() <= tolerance * b.float().norm() and b.any()
    assert not packed._padded(*given[:2])[-1].any(1).all()


def slow_logprobs(model, prompts, responses, temperature):
    """token_logprobs by the plain way: each row by itself, the whole of it."""
    picked, entropy = [], []
    for prompt, response in zip(prompts, responses):
        ids = torch.tensor([prompt + response], device=DEVICE)
        p = (model(ids)[0, len(prompt) - 1:-1].float() / temperature).log_softmax(-1)
        picked.append(p.gather(-1, ids[0, len(prompt):, None]).squeeze(-1))
        entropy.append(-(p.exp() * p).sum(-1))
    return torch.cat(picked), torch.cat(entropy)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_small_groups_have_their_prompts_for_themselves(groups, monkeypatch):
    shared, decode = set(), Cache.decode
    monkeypatch.setattr(Cache, "decode", lambda self, layer, qkv: shared.add(bool(self.prompt)) or decode(
        self, layer, qkv))
    model = init_model(TINY).to(DEVICE)
    prompts = [[1, 2, 3, 4], [5], [6, 7]]
    alone = [[generate(model, [p], [[(i, g)]], 6, {99})[0][0] for g in range(groups)] for i, p in enumerate(prompts)]
    shared.clear()
    together = generate(model, prompts, [[(i, g) for g in range(groups)] for i in range(3)], 6, {99})
    assert shared == {groups > 2}
    assert [[r.ids for r in group] for group in together] == [[r.ids for r in group] for group in alone]


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512")
                    or not torch.backends.mkldnn.is_available(), reason="a processor or a torch without oneDNN")
@pytest.mark.parametrize("rows, inner, outer, bias",
                         [((130,), 24, 8, True), ((2, 65), 8, 24, False), ((1,), 8, 8, True)])
def test_the_product_is_torchs(rows, inner, outer, bias, monkeypatch):
    monkeypatch.setattr(linear, "ONEDNN", True)
    given = [torch.randn(*rows, inner), torch.randn(outer, inner), torch.randn(outer) if bias else None]
    grad = torch.randn(outer, *rows).movedim(0, -1)
    found = []
    for function in (Product.apply, F.linear):
        leaves = [None if x is None else x.clone().requires_grad_() for x in given]
        y = function(*leaves)
        y.backward(grad)
        found.append([y, *(x.grad for x in leaves if x is not None)])
    for ours, torchs in zip(*found):
        assert ours.dtype == torch.float32 and torch.allclose(ours, torchs, atol=2e-5)
    x, weight, bias = given
    for count in (1, FEW - 1, FEW, 3 * FEW):
        x = torch.randn(count, inner)
        assert torch.allclose(product(weight, bias)(x), F.linear(x, weight, bias), atol=2e-5)


@pytest.mark.skipif(not linear.X86, reason="needs oneDNN on an x86 CPU")
def test_products_by_a_large_weight_are_packed(monkeypatch):
    monkeypatch.setattr(linear, "LARGE", 40 * 24)
    asked, onednn = [], linear.onednn
    monkeypatch.setattr(linear, "onednn", lambda *args: asked.append(len(args[0])) or onednn(*args))
    weight, bias = torch.randn(24, 40), torch.randn(24)
    for count in (1, FEW, 3 * FEW):
        x, y = torch.randn(count, 40), torch.randn(count, 24)
        expected = y + F.linear(x, weight)
        assert torch.allclose(product(weight, bias)(x), F.linear(x, weight, bias), atol=2e-5)
        assert addition(weight)(y, x) is y and torch.allclose(y, expected, atol=2e-5)
    assert asked == [1, 1, FEW, FEW, 3 * FEW, 3 * FEW]
    small, in_bfloat16 = weight[:-1], weight.bfloat16()
    assert torch.equal(addition(small)(y[:, :-1].clone(), x), y[:, :-1].clone().addmm_(x, small.t()))
    assert torch.equal(product(in_bfloat16)(x.bfloat16()), F.linear(x.bfloat16(), in_bfloat16))
    assert len(asked) == 6


def test_token_logprobs_by_hand():
    """Zero weights: p is the same at every place."""
    model = init_model(replace(TINY, vocab_size=4)).to(DEVICE)
    packed = Packed([[0, 1], [2]], [[3], [1, 0]], DEVICE)
    assert packed.ids[0, :4].tolist() == [0, 1, 2, 1] and packed.positions[0, :4].tolist() == [0, 1, 0, 1]
    assert packed.labels[:3].tolist() == [3, 1, 0] and packed.source[:3].tolist() == [1, 2, 3]
    for padded, real in ((packed.ids[0], 4), (packed.positions[0], 4), (packed.labels, 3), (packed.source, 3)):
        assert len(padded) == WHOLE and not padded[real:].any()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    logprob, entropy = model.token_logprobs(packed)
    assert torch.allclose(logprob.cpu(), torch.full((3,), -1.3862944))  # log(1/4)
    assert torch.allclose(entropy.cpu(), torch.full((3,), 1.3862944))  # log 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature, of_entropy", [(0.6, True), (1.0, True), (1.0, False)])
def test_packed_logprobs_equal_the_slow_ones_and_so_do_gradients(name, temperature, of_entropy, monkeypatch):
    """Groups share their prompt, and stand in any order; responses of one token, of equal and of other lengths."""
    model = load_model(GOLDEN / name).to(DEVICE)
    generator = torch.Generator().manual_seed(0)
    prompts, responses = ([torch.randint(0, 96, (n,), generator=generator).tolist() for n in sizes]
                          for sizes in ((7, 1, 12), (9, 1, 4, 4, 2, 11, 1)))
    prompts = [prompts[i] for i in (0, 1, 0, 2, 1, 0, 2)]

    each = torch.randn(2, sum(map(len, responses)), generator=generator).to(DEVICE)

    def result(logprobs):
        model.zero_grad()
        logprob, entropy = logprobs()
        ((each[0] * logprob).sum() + (of_entropy and (each[1] * entropy).sum())).backward()
        return logprob.detach(), entropy.detach(), [p.grad.clone() for p in model.parameters()]

    def packed():
        return model.token_logprobs(Packed(prompts, responses, DEVICE), temperature, entropy_grad=of_entropy)

    slow, fasts = result(lambda: slow_logprobs(model, prompts, responses, temperature)), [result(packed)]
    monkeypatch.setattr(model_file, "TOKENS_AT_ONCE", 5)
    fasts.append(result(packed))
    monkeypatch.setattr(model_file, "LOGITS_AT_ONCE", 4 * 96)
    model.checkpoint_layers = True
    for fast in (*fasts, result(packed)):
        assert torch.allclose(slow[0], fast[0], atol=1e-5) and torch.allclose(slow[1], fast[1], atol=1e-5)
        for (parameter, _), a, b in zip(model.named_parameters(), slow[2], fast[2]):
            assert torch.allclose(a, b, atol=1e-5 * max(1, a.abs().max())), parameter


def test_probabilities_that_a_backward_pass_has_used_up_are_not_used_again():
    model = init_model(TINY).to(DEVICE)
    loss = model.token_logprobs(Packed([[5, 6]], [[7, 0, 0]], DEVICE))[0].sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_padding_and_neighbours_change_nothing():
    model = init_model(TINY).to(DEVICE)
    alone = model.token_logprobs(Packed([[5, 6]], [[7, 0, 0]], DEVICE))[0]
    beside = model.token_logprobs(Packed([[5, 6], list(range(20))], [[7, 0, 0], [3] * 9], DEVICE))[0][:3]
    assert torch.allclose(alone, beside, atol=1e-6)


def test_presets_have_the_published_sizes():
    billions = {"Qwen2.5-0.5B": 0.494, "Qwen2.5-1.5B": 1.544, "Qwen2.5-3B": 3.086, "Qwen2.5-7B": 7.616,
                "Qwen3-0.6B": 0.596, "Qwen3-1.7B": 1.721, "Qwen3-4B": 4.022}
    for name, size in billions.items():
        with torch.device("meta"):
            model = model_file.Decoder(PRESETS[name])
        assert round(sum(p.numel() for p in model.parameters()) / 1e9, 3) == size, name
