"""Rollouts: G responses to each of B prompts, drawn with a key/value cache.

The prompts of a batch are prefilled once each; their keys and values are held once for the rows of a group while those
are more than two on average (model.Cache). Every decode step draws one token a row. A row that has drawn an EOS is
retired, and the batch is compacted when enough rows are; on CUDA, where that means to record a graph anew, mostly when
that is due anyway.

Each rollout owns a stream of uniform numbers, one a token, fixed by its seed before anything is drawn; a token is the
inverse of the cumulative distribution at that number. So a rollout depends on its seed and prompt only, not on its
neighbours in the batch nor on how many processes share the work, up to the rounding of matrix kernels that differ by
batch shape (in float32 no token changes but by a chance of about 1e-7; in bfloat16 that is no longer rare).

Legend: B prompts, G rollouts, N rows = rollouts still running, T tokens, P longest prompt, S cache slots, V vocabulary.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from linear import addition, product
from model import Cache, rotary


BLOCK = 64  # tokens that draw() looks at one by one
PREFILL_TOKENS = 8192  # of prompts that pass through the model at once, if a single one is not more


@dataclass
class Rollout:
    """One response. ids end with the EOS if `finished`; otherwise the length limit cut it. logprobs: one a token, of
    the distribution softmax(logits / temperature), before any top-p or top-k cut (for greedy: of softmax(logits))."""

    ids: list
    logprobs: list
    finished: bool


def uniforms(seed, count):
    """`count` float32 numbers in (0, 1), the whole randomness of one rollout: multiples of 2^-24, to which a token's
    probability is thus rounded, and 2^-25 for 0, which would draw a token however improbable. seed: an int, or a tuple
    of ints."""
    return np.random.default_rng(seed).random(count, dtype=np.float32).clip(2**-25)


def truncate(logits, top_k=0, top_p=1.0):
    """logits [N, V] with everything outside the top k tokens, then outside the nucleus, at -inf; not in place.

    top_p (Holtzman et al. 2020): the smallest set of most likely tokens whose probability reaches top_p. 0 and 1.0
    switch the two off. Ties at the k-th logit all stay.
    """
    if top_k:
        kth = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        p = ordered.double().softmax(-1)  # sums of 151,936 float32 values are off by 2e-5
        beyond = p.cumsum(-1) - p >= top_p  # the mass before a token already reaches top_p
        beyond[:, 0] = False
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    return logits


def draw(logits, u, temperature=1.0, top_p=1.0, top_k=0):
    """One token a row. logits: [N, V]; u: [N] uniform in [0, 1). -> ids, logprobs: [N].

    temperature 0 is greedy, whatever u.
    """
    logits = logits.float()
    if temperature == 0:
        token = logits.argmax(-1)
        return token, logits.gather(-1, token[:, None]).squeeze(-1) - logits.logsumexp(-1)
    if temperature != 1:
        logits = logits / temperature
    kept = truncate(logits, top_k, top_p)
    mass = kept.softmax(-1)  # [N, V]
    # The inverse of the cumulative mass in two steps, first to a block of tokens and then within it: a sum in float64
    # over the whole vocabulary is most of a small model's time. A token of no mass adds nothing, so it is never first.
    if mass.shape[-1] % BLOCK:
        mass = F.pad(mass, (0, -mass.shape[-1] % BLOCK))
    blocks = mass.view(len(mass), -1, BLOCK)
    upto = F.pad(blocks.sum(-1).double(), (1, 0)).cumsum(-1)  # [N, 1 + V / BLOCK], from 0 on
    goal = u.double()[:, None] * upto[:, -1:]
    block = (torch.searchsorted(upto, goal, right=True) - 1).clamp(max=upto.shape[-1] - 2)  # [N, 1]
    within = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK)).squeeze(1).double().cumsum(-1)  # [N, BLOCK]
    # Rounding may leave the goal a hair beyond the block's end: its last token with any mass is meant.
    goal = torch.minimum(goal - upto.gather(-1, block), within[:, -1:] * (1 - 1e-12))
    token = (block * BLOCK + torch.searchsorted(within, goal, right=True)).squeeze(-1)
    token = token.clamp(max=logits.shape[-1] - 1)  # of NaN logits the last; its NaN log-probability tells the trainer
    if kept is logits:
        return token, mass.gather(-1, token[:, None]).squeeze(-1).log()
    return token, logits.gather(-1, token[:, None]).squeeze(-1) - logits.logsumexp(-1)


def join(parameters):
    """The parameters' values one below the other; each parameter becomes a view of its part."""
    joined = torch.cat([p.data for p in parameters])
    for parameter, view in zip(parameters, joined.split([len(p) for p in parameters])):
        parameter.data = view
    return joined


class Step:
    """One token more of every response: the logits of the Decoder's forward over prompt and response, from a Cache.

    A small batch spends its time between operations, so q, k and v are one product, gate and up another, and residuals
    are added by the products. The model's weights become views of the joined ones, so nothing is held twice (but see
    linear.product).
    """

    def __init__(self, model, positions):
        """positions: how many there may be."""
        self.model, self.config = model, model.config
        weight = model.model.embed_tokens.weight
        cos, sin = rotary(torch.arange(positions, device=weight.device)[None], self.config.head_dim,
                          self.config.rope_theta, weight.dtype)
        self.cos, self.sin = cos[0, 0, :, None], sin[0, 0, :, None]  # [S, 1, Dh]
        self.sin[..., :self.config.head_dim // 2] *= -1  # rotate()'s sign, once
        self.layers = []  # looked up once: a module's attribute costs as much as a small operation
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            qkv = attention.q_proj, attention.k_proj, attention.v_proj
            bias = None if qkv[0].bias is None else join([p.bias for p in qkv])
            gate_up = join([mlp.gate_proj.weight, mlp.up_proj.weight])
            self.layers.append((layer.input_layernorm, product(join([p.weight for p in qkv]), bias), attention.q_norm,
                                attention.k_norm, addition(attention.o_proj.weight), layer.post_attention_layernorm,
                                product(gate_up), addition(mlp.down_proj.weight)))
        self.norm, self.head = model.model.norm, product(model.head)

    def __call__(self, token, positions, cache):
        """Logits [N, V] after token [N] at positions [N]; the cache is written and advanced.

        On CUDA the some thousand operations of a token are recorded once and then launched as one, a CUDA graph, for as
        long as the cache's tensors stay: that is until it is compacted, or its window grows. The first token goes
        without, as the libraries prepare themselves at a first call. What is returned is overwritten by the next call.
        """
        fresh = cache.open()
        if fresh or not token.is_cuda:
            self.graph = self.logits = None
            return self.run(token, positions, cache)
        if self.graph is None:
            self.graph, self.token, self.positions = torch.cuda.CUDAGraph(), token.clone(), positions.clone()
            # thread_local: NCCL's watchdog may ask the device meanwhile
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.logits = self.run(self.token, self.positions, cache)
        self.token.copy_(token)
        self.positions.copy_(positions)
        self.graph.replay()
        return self.logits

    def run(self, token, positions, cache):
        heads, kv_heads, n = self.config.num_attention_heads, self.config.num_key_value_heads, len(token)
        x = self.model.model.embed_tokens(token)
        cos, sin = self.cos[positions], self.sin[positions]
        for i, (norm, qkv, q_norm, k_norm, add_out, mlp_norm, gate_up, add_down) in enumerate(self.layers):
            y = qkv(norm(x)).view(n, heads + 2 * kv_heads, -1)
            qk = rotated = y[:, :heads + kv_heads]
            if self.config.model_type == "qwen3":
                qk = torch.cat((q_norm(qk[:, :heads]), k_norm(qk[:, heads:])), 1)
            torch.addcmul(qk * cos, qk.roll(self.config.head_dim // 2, -1), sin, out=rotated)
            add_out(x, cache.decode(i, y))
            gate, up = gate_up(mlp_norm(x)).chunk(2, -1)
            add_down(x, F.silu(gate).mul_(up))
        return self.head(self.norm(x))


@torch.no_grad()  # no inference_mode yet: Step binds the weights anew, and they may be trained on
def generate(model, prompts, seeds, max_new_tokens, eos_ids, temperature=1.0, top_p=1.0, top_k=0, max_rows=0):
    """Groups of rollouts. -> for each prompt a list of Rollout, one for each of its seeds.

    prompts: B lists of token ids, none empty. seeds: B lists of G seeds (ints or tuples of ints). temperature 0 is
    greedy. max_rows: at most so many rollouts in flight, but at least one group; 0 is all at once.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("an empty prompt has nothing to continue")
    if not prompts:
        return []
    step = Step(model, max(map(len, prompts)) + max_new_tokens)
    batch = max(1, max_rows // max(map(len, seeds))) if max_rows else len(prompts)
    out = []
    for i in range(0, len(prompts), batch):
        out += _generate(step, prompts[i:i + batch], seeds[i:i + batch], max_new_tokens, eos_ids, temperature, top_p,
                         top_k)
    return out


@torch.inference_mode()
def _generate(step, prompts, seeds, max_new_tokens, eos_ids, temperature, top_p, top_k):
    model, device = step.model, step.model.head.device
    step.graph = step.logits = None  # of the batch before: free their memory
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    block = 8 if lengths.is_cuda else 1  # CUDA's products read 8 at once
    longest = -(-max(map(len, prompts)) // block) * block
    cache, logits, size = Cache(lengths, longest), [], max(1, PREFILL_TOKENS // longest)
    order = lengths.argsort(stable=True)  # those of like lengths pass together, for less padding
    for part in order.split(size):
        ids = pad_sequence([torch.tensor(prompts[i]) for i in part.tolist()], batch_first=True)
        ids = F.pad(ids, (0, -ids.shape[1] % block)).to(device)
        logits.append(model(ids, attend=partial(cache.prefill, part), last=lengths[part] - 1))

    owner = torch.tensor([i for i, s in enumerate(seeds) for _ in s], device=device)  # [N] whose prompt
    logits = torch.cat(logits)[order.argsort()[owner]]  # [N, V]
    lengths = lengths[owner]
    cache.fork(owner, max_new_tokens)
    noise = np.stack([uniforms(seed, max_new_tokens) for group in seeds for seed in group], 1)
    noise = torch.from_numpy(noise).to(device)  # [max_new_tokens, N]

    rollouts = [[Rollout([], [], False) for _ in group] for group in seeds]
    rows = [rollout for group in rollouts for rollout in group]  # of the batch
    for t in range(max_new_tokens):
        token, logprob = draw(logits, noise[t], temperature, top_p, top_k)
        for rollout, drawn, value in zip(rows, token.tolist(), logprob.tolist()):
            if not rollout.finished:  # one that has ended is drawn on until the batch is compacted
                rollout.ids.append(drawn)
                rollout.logprobs.append(value)
                rollout.finished = drawn in eos_ids
        running = [i for i, rollout in enumerate(rows) if not rollout.finished]
        if not running or t + 1 == max_new_tokens:
            break
        # Compacting copies the cache, so it waits for a tenth of the rows; where a graph would be lost, for half.
        if len(running) <= (0.5 if cache.inside() else 0.9) * len(rows):
            rows = [rows[i] for i in running]
            keep = torch.tensor(running, device=device)
            token, lengths, noise = token[keep], lengths[keep], noise[:, keep]
            cache.keep(keep)
        logits = step(token, lengths + t, cache)
    return rollouts
