"""How far probabilities are from transformers', and loss and gradients from TRL's: two implementations by others.

    pip install transformers==5.24 trl==1.16
    python experiments/agree.py > experiments/agree.txt

Random small Qwen2 and Qwen3 models, groups of four responses to three prompts. All three compute in float64 here, so
that what differs is the algorithm and not the rounding; where code rounds to float32 on its way, it is told not to.
TRL's own compute_loss (loss_type bnpo: a mean over the tokens of the batch; without its bias correction of the KL, see
kl_penalty) stands against the gradients that train_crpo.update hands to the optimizer.
"""

import contextlib
import copy
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
import transformers
import trl
from datasets import Dataset
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3
from trl.kernels import chunked_logprob

sys.path.insert(0, str(Path(__file__).parent.parent))
import run  # noqa: E402
import train_crpo  # noqa: E402
from checkpoint import load_model  # noqa: E402
from model import Packed  # noqa: E402
from sampler import Rollout  # noqa: E402

G, PROMPTS, CLIP = 4, 3, 0.2
SHAPES = {"Qwen2": dict(vocab_size=211, hidden_size=48, intermediate_size=101, num_hidden_layers=3,
                        num_attention_heads=6, num_key_value_heads=2),
          "Qwen3": dict(vocab_size=211, hidden_size=40, intermediate_size=101, num_hidden_layers=2,
                        num_attention_heads=4, num_key_value_heads=1, head_dim=16)}
# temperature, beta, entropy bonus, tied embeddings, how far the policy has moved since it sampled
SETTINGS = [(1.0, 0.04, 0.0, True, 0.0), (0.7, 0.001, 0.0, False, 0.0), (1.3, 0.5, 0.3, True, 0.12),
            (1.0, 0.04, -0.05, False, 0.12), (0.7, 0.1, 0.0, True, 0.12)]
MICRO = (100_000, 60, 1)  # tokens of a micro-batch


def norm64(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def rotary64(self, x, position_ids):
    size = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads
    theta = self.config.rope_parameters["rope_theta"]
    angle = position_ids[..., None].double() * theta ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.cat((angle, angle), -1)
    return angle.cos(), angle.sin()


@contextlib.contextmanager
def in_float64():
    """Every float32 on the way, ours and theirs, is float64 instead."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.Tensor, "float", torch.Tensor.double))
        for module, name in ((modeling_qwen2, "Qwen2"), (modeling_qwen3, "Qwen3")):
            stack.enter_context(mock.patch.object(getattr(module, f"{name}RMSNorm"), "forward", norm64))
            stack.enter_context(mock.patch.object(getattr(module, f"{name}RotaryEmbedding"), "forward", rotary64))
        names = SimpleNamespace(**{name: getattr(torch, name) for name in dir(torch)})
        names.float32 = torch.float64
        stack.enter_context(mock.patch.object(chunked_logprob, "torch", names))
        stack.enter_context(mock.patch.object(
            run, "MixedPrecisionPolicy", lambda **_: MixedPrecisionPolicy(torch.float64, torch.float64)))
        torch.set_default_dtype(torch.float64)
        stack.callback(torch.set_default_dtype, torch.float32)
        yield


def build(name, seed, tied):
    """A random model of transformers', biases and norms random too."""
    torch.manual_seed(seed)
    settings = SHAPES[name] | dict(tie_word_embeddings=tied, initializer_range=0.2, max_position_embeddings=512,
                                   eos_token_id=1, bos_token_id=None, pad_token_id=None,
                                   rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    config = getattr(transformers, f"{name}Config")(**settings)
    return moved(getattr(transformers, f"{name}ForCausalLM")(config).double().eval(), 0.2, seed)


def moved(model, size, seed):
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * (p.std().nan_to_num() + 0.1 * (p.dim() == 1)) * torch.randn(p.shape, generator=generator))
    return model


def rows_of(model, batch, temperature):
    """Log-probabilities and entropies of each response by transformers, row by row, [m] each."""
    logprobs, entropies = [], []
    for prompt, response in batch:
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1:-1] / temperature
        every = logits.log_softmax(-1)
        logprobs.append(every.gather(-1, torch.tensor(response)[:, None])[:, 0])
        entropies.append(-(every.exp() * every).sum(-1))
    return torch.cat(logprobs), torch.cat(entropies)


def padded(rows, left=False):
    """([N, T], mask [N, T]) of rows of different lengths."""
    rows = [torch.as_tensor(row) for row in rows]
    turn = (lambda x: x.flip(-1)) if left else (lambda x: x)
    pad = torch.nn.utils.rnn.pad_sequence
    return (turn(pad([turn(row) for row in rows], True)),
            turn(pad([torch.ones(len(row), dtype=torch.long) for row in rows], True)))


def trl_gradients(model, batch, advantage, old, ref, temperature, beta, entropy, directory):
    """(loss, {name: gradient}, share of clipped tokens) by TRL."""
    model.save_pretrained(directory)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(Path(train_crpo.ASSET) / "tokenizer.json"), eos_token="<|im_end|>",
        pad_token="<|endoftext|>")
    settings = trl.GRPOConfig(
        output_dir=directory, per_device_train_batch_size=len(batch), num_generations=G, max_completion_length=64,
        beta=beta, epsilon=CLIP, temperature=temperature, loss_type="bnpo", importance_sampling_level="token",
        entropy_coef=entropy, use_bias_correction_kl=False, max_steps=1, gradient_checkpointing=False, bf16=False,
        report_to=[], use_cpu=True, save_strategy="no", logging_strategy="no", disable_tqdm=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64)  # knows its place
    trainer = trl.GRPOTrainer(model=model, args=settings, processing_class=tokenizer,
                              train_dataset=Dataset.from_list([{"prompt": "a"}] * PROMPTS),
                              reward_funcs=lambda completions, **_: [0.0] * len(completions))
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.double().train()
    prompts, prompt_mask = padded([prompt for prompt, _ in batch], left=True)
    responses, mask = padded([response for _, response in batch])
    loss = trainer.compute_loss(trainer.model, dict(
        prompt_ids=prompts, prompt_mask=prompt_mask, completion_ids=responses, completion_mask=mask,
        advantages=advantage, old_per_token_logps=padded(old)[0], ref_per_token_logps=padded(ref)[0],
        num_items_in_batch=mask.sum()))
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    return loss.item(), gradients, trainer._metrics["train"]["clip_ratio/region_mean"][0]


def our_gradients(model, batch, advantage, old, ref, temperature, beta, entropy, micro, processes):
    """(loss, {name: gradient}, share of clipped tokens) by train_crpo.update."""
    caught = {}

    def step(policy, *_):
        caught.update({name: p.grad.full_tensor().clone() for name, p in policy.named_parameters()})
        return 0.0, True

    policy = run.shard(copy.deepcopy(model), processes)
    config = train_crpo.Config(clip=CLIP, temperature=temperature, micro_tokens=micro, entropy_bonus=entropy)
    rollouts = [(prompt, Rollout(response, x.tolist(), True)) for (prompt, response), x in zip(batch, old)]
    with mock.patch.object(run, "step_if_finite", step):
        result = train_crpo.update(policy, None, rollouts, advantage, ref, beta, config, processes)
    return result["loss"], caught, result["clipped"]


def apart(found, truth):
    """The largest difference of any parameter's gradient, of that gradient's largest entry."""
    return max(float((found[name] - g).abs().max() / g.abs().max()) for name, g in truth.items())


def main():
    processes = run.start(dtype="float32")
    worst, shares = {"log-probability": 0.0, "entropy": 0.0, "loss": 0.0, "gradient": 0.0, "clipped share": 0.0}, []

    def note(**differences):
        worst.update({name: max(worst[name], value) for name, value in differences.items()})

    for seed, (name, settings) in enumerate((name, settings) for name in SHAPES for settings in SETTINGS):
        temperature, beta, entropy, tied, far = settings
        with tempfile.TemporaryDirectory() as directory, in_float64():
            theirs = build(name, seed, tied).to(torch.float32)
            theirs.save_pretrained(directory)
            ours, theirs = load_model(directory).double(), theirs.double()
            generator = torch.Generator().manual_seed(seed)

            def draw(most):
                size = int(torch.randint(1, most, (), generator=generator))
                return torch.randint(0, 211, (size,), generator=generator).tolist()

            asked = [draw(30) for _ in range(PROMPTS)]
            batch = [(asked[n // G], draw(45)) for n in range(PROMPTS * G)]
            sizes = [len(response) for _, response in batch]
            advantage = torch.randn(len(batch), generator=generator)
            with torch.no_grad():
                logprob, spread = rows_of(theirs, batch, temperature)
                old = rows_of(moved(theirs, far, seed), batch, temperature)[0].split(sizes)
                ref = rows_of(moved(theirs, 0.2, seed + 100), batch, temperature)[0].split(sizes)
                packed = Packed(*map(list, zip(*batch)), "cpu")
                mine = ours.token_logprobs(packed, temperature)
            note(**{"log-probability": float((mine[0] - logprob).abs().max())},
                 entropy=float((mine[1] - spread).abs().max()))
            given = advantage, old, ref, temperature, beta, entropy
            loss, gradients, clipped = trl_gradients(theirs, batch, *given, directory)
            shares.append(clipped)
            for micro in MICRO:
                my_loss, my_gradients, my_clipped = our_gradients(ours, batch, *given, micro, processes)
                note(loss=abs(my_loss / loss - 1), gradient=apart(my_gradients, gradients),
                     **{"clipped share": abs(my_clipped - clipped)})
    run.stop()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, TRL {trl.__version__}, float64, "
          f"{len(SHAPES) * len(SETTINGS)} models and settings, {len(MICRO)} sizes of micro-batches each; up to "
          f"{max(shares):.0%} of the tokens clipped\n")
    for what, text in (("log-probability", "of a response token, transformers row by row"),
                       ("entropy", "of its distribution"), ("loss", "TRL's compute_loss, relative"),
                       ("gradient", "of any parameter, TRL's, relative to its largest entry"),
                       ("clipped share", "of the tokens, TRL's")):
        print(f"{what:16} {worst[what]:8.1e}  {text}")


if __name__ == "__main__":
    main()
