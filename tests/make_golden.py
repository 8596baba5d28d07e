"""Makes tests/golden/: tiny random models saved by transformers, with its logits and greedy continuations.

Needs transformers (5.23.0 made the committed files): `python tests/make_golden.py`. It also checks, where transformers
is at hand, that a directory saved by checkpoint.py loads there with equal logits.
"""

import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))
from checkpoint import load_model, save_model  # noqa: E402

GOLDEN = Path(__file__).parent / "golden"
SHAPE = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.2, eos_token_id=1, pad_token_id=0,
             bos_token_id=None)
MODELS = {
    "qwen2_tied": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, tie_word_embeddings=True, rms_norm_eps=1e-6)),
    "qwen2_untied": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, tie_word_embeddings=False,
                                                   rope_parameters={"rope_type": "default", "rope_theta": 1e6})),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=True)),
}


def main():
    for name, (model_class, config) in MODELS.items():
        torch.manual_seed(0)
        model = model_class(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():  # norms and biases must matter too
                parameter.add_(0.1 * torch.randn_like(parameter))
        directory = GOLDEN / name
        model.save_pretrained(directory, max_shard_size="30KB" if name == "qwen2_untied" else "5GB")
        ids = torch.randint(0, config.vocab_size, (3, 24))
        with torch.no_grad():
            logits = model(ids).logits
            greedy = ids[:1, :8]
            for _ in range(50):
                greedy = torch.cat((greedy, model(greedy).logits[:, -1:].argmax(-1)), dim=1)
        save_file({"ids": ids, "logits": logits, "greedy": greedy}, directory / "expected.safetensors")

        ours = load_model(directory)
        with torch.no_grad():
            print(name, "max abs difference of logits:", float((ours(ids) - logits).abs().max()))
        with tempfile.TemporaryDirectory() as saved:
            save_model(saved, ours.config, dict(ours.named_parameters()), [1], 0, shard_bytes=40_000)
            theirs, report = AutoModelForCausalLM.from_pretrained(saved, dtype="float32", output_loading_info=True)
            assert not any(report.values()), report
            with torch.no_grad():
                print(name, "saved by checkpoint.py, loaded there, differs by:", float((theirs(ids).logits - logits).abs().max()))


if __name__ == "__main__":
    main()
