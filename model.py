"""The policy: a decoder-only transformer of the Qwen2 / Qwen2.5 and Qwen3 (dense) families, by hand.

    h = x + Attention(RMSNorm(x))        grouped-query attention, rotary positions
    x = h + SwiGLU(RMSNorm(h))
    logits = RMSNorm(x) W^T              W = the embedding when tie_word_embeddings

Qwen2 has a bias on q, k and v. Qwen3 has none and normalises each head of q and k (RMSNorm over Dh).
Parameter names are Hugging Face's, so a checkpoint loads without a table. Attention is torch's
scaled_dot_product_attention, but for the tokens that decode against a cache, which is by hand (Cache.decode).
checkpoint.py loads and saves, and refuses what is not computed here (sliding windows, scaled rotary positions, mixture
of experts).

Legend: B prompts, G rollouts, N = B*G, T tokens, S cache slots, L layers, D model, H heads, Hk key/value heads,
Dh head size, V vocabulary.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

# Logits that may exist at once while log-probabilities are computed: 2^26 float32 values are 256 MiB.
LOGITS_AT_ONCE = 2**26


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


# Published shapes, for random initialisation; `tiny` is the embedded clinic model (its vocabulary is the tokenizer's).
# The numbers stand in the order of ModelConfig's fields.
PRESETS = {
    "tiny": ModelConfig("qwen2", 2048, 128, 352, 3, 4, 2, 32, 1024, rope_theta=1e4, torch_dtype="float32"),
    "Qwen2.5-0.5B": ModelConfig("qwen2", 151936, 896, 4864, 24, 14, 2, 64),
    "Qwen2.5-1.5B": ModelConfig("qwen2", 151936, 1536, 8960, 28, 12, 2, 128),
    "Qwen2.5-3B": ModelConfig("qwen2", 151936, 2048, 11008, 36, 16, 2, 128),
    "Qwen2.5-7B": ModelConfig("qwen2", 152064, 3584, 18944, 28, 28, 4, 128, tie_word_embeddings=False),
    "Qwen3-0.6B": ModelConfig("qwen3", 151936, 1024, 3072, 28, 16, 8, 128, 40960),
    "Qwen3-1.7B": ModelConfig("qwen3", 151936, 2048, 6144, 28, 16, 8, 128, 40960),
    "Qwen3-4B": ModelConfig("qwen3", 151936, 2560, 9728, 36, 32, 8, 128, 40960),
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


def causal(q, k, v):
    """Every token sees itself and those before it. q: [N, H, T, Dh]; k, v: [N, Hk, T, Dh] -> [N, H, T, Dh]"""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


def scores(q, k):
    """q [.., n, Dh] @ k [.., Dh, m] in float32 whatever they are in: Qwen2's key biases make scores of hundreds, where
    bfloat16 has steps of 2, and attention by them would be another model's."""
    if q.dtype == torch.float32:
        return q @ k
    if q.is_cuda:  # without a float32 copy of the keys
        return torch.bmm(q.flatten(0, 1), k.flatten(0, 1), out_dtype=torch.float32).unflatten(0, q.shape[:2])
    return q.float() @ k.float()


class Cache:
    """Keys and values of B prompts and of the N responses to them, which decode in step, one token a row.

    A prompt's stand once for its whole group: prompt keys and values are [L, B, Hk, P, Dh], right-padded with
    `lengths` [B] in use, those of the responses [L, N, Hk, S, Dh] with `length` of S slots written.
    Use: prefill, fork, then decode and keep.
    """

    def __init__(self, config, lengths, longest, device, dtype):
        self.config, self.lengths, self.length = config, lengths, 0
        self.prompt = self._empty(len(lengths), longest, device, dtype)

    def _empty(self, rows, slots, device, dtype):
        shape = (self.config.num_hidden_layers, rows, self.config.num_key_value_heads, slots, self.config.head_dim)
        return [torch.zeros(shape, device=device, dtype=dtype) for _ in range(2)]

    def prefill(self, layer, q, k, v):
        """Attention of the prompts; their keys and values [B, Hk, P, Dh] are stored."""
        self.prompt[0][layer], self.prompt[1][layer] = k, v
        return causal(q, k, v)

    def fork(self, owner, slots):
        """Make room for `slots` tokens of each response. owner: [N] ascending, whose prompt it answers."""
        self.response = self._empty(len(owner), slots, owner.device, self.prompt[0].dtype)
        for kept in (self.prompt, self.response):  # keys lie [.., Dh, slots] from here on, as the products read them
            kept[0] = kept[0].transpose(-1, -2).contiguous()
        self._group(owner)

    def _group(self, owner):
        count = torch.bincount(owner, minlength=len(self.lengths))
        alive = count > 0
        if not alive.all():
            self.prompt, self.lengths = [x[:, alive] for x in self.prompt], self.lengths[alive]
            owner, count = (alive.cumsum(0) - 1)[owner], count[alive]
        self.owner, self.group = owner, int(count.max())
        first = count.cumsum(0) - count
        place = owner * self.group + torch.arange(len(owner), device=owner.device) - first[owner]
        self.place = None if len(owner) == len(count) * self.group else place  # None: every place is taken
        slot = torch.arange(self.prompt[1].shape[3], device=owner.device)
        hidden = torch.where(slot < self.lengths[:, None], 0.0, -torch.inf)  # [B, P]
        self.hidden = hidden[:, None, None]  # [B, 1, 1, P], float32 as the scores are

    def keep(self, rows):
        """Retire every response but the given ones ([n] ascending indices); a layer at a time is all it copies."""
        for i, tensor in enumerate(self.response):
            for layer in tensor:
                used = layer[..., :self.length] if i == 0 else layer[:, :, :self.length]
                used[:len(rows)] = used[rows]
            self.response[i] = tensor[:, :len(rows)]
        self._group(self.owner[rows])

    def decode(self, layer, q, k, v):
        """Attention of one new token a response, which is stored. q: [N, H, 1, Dh]; k, v: [N, Hk, 1, Dh].

        By hand and in two parts under one softmax: all rows of a group (and all heads that share a key head) ask the
        prompt's keys in one product, so that those are read once a group; then each row asks its own. The caller
        advances `length` once all layers are written.
        """
        (n, heads, _, d), kv_heads = q.shape, k.shape[1]
        b, g, r, end = len(self.lengths), self.group, heads // kv_heads, self.length + 1
        keys, values = (x[layer] for x in self.response)
        keys[..., end - 1], values[:, :, end - 1] = k.squeeze(2), v.squeeze(2)
        q = q.reshape(n, kv_heads, r, d)

        def by_prompt(x):  # [N, Hk, r, z] -> [B, Hk, g r, z]; places of retired rows stay 0
            if self.place is not None:
                x = x.new_zeros(b * g, *x.shape[1:]).index_copy_(0, self.place, x)
            return x.view(b, g, kv_heads, r, -1).transpose(1, 2).reshape(b, kv_heads, g * r, -1)

        def by_row(x):  # and back
            rows = x.view(b, kv_heads, g, r, -1).transpose(1, 2).reshape(b * g, kv_heads, r, -1)
            return rows if self.place is None else rows[self.place]

        to_prompt = by_row(scores(by_prompt(q), self.prompt[0][layer]) + self.hidden)
        weight = (torch.cat((to_prompt, scores(q, keys[..., :end])), -1) * d ** -0.5).softmax(-1).to(q.dtype)
        to_prompt, to_own = weight.split((to_prompt.shape[-1], end), -1)
        y = by_row(by_prompt(to_prompt) @ self.prompt[1][layer]) + to_own @ values[:, :, :end]
        return y.reshape(n, heads, 1, d)


class Packed:
    """Prompts and responses as one row of tokens without padding: each different prompt once, then the responses.

    prompts, responses: N lists of token ids each, none empty. A response's last token is predicted, never fed.
    ids, positions: [1, n]; source, labels: [m] the places whose hidden states predict the response tokens, and those
    tokens, response by response in the order given; lengths: of the responses.
    """

    def __init__(self, prompts, responses, device):
        index = {}
        owner = [index.setdefault(tuple(p), len(index)) for p in prompts]
        fed = [r[:-1] for r in responses]
        self.lengths = [len(r) for r in responses]
        pieces = [*index, *fed]
        sizes = torch.tensor([len(x) for x in pieces])
        starts = sizes.cumsum(0) - sizes
        n = len(index)

        def tensor(values):
            return torch.tensor(values, device=device)

        self.ids = tensor([[t for piece in pieces for t in piece]])
        self.positions = tensor([[i for piece in index for i in range(len(piece))]
                                 + [len(p) + i for p, f in zip(prompts, fed) for i in range(len(f))]])
        last = (starts[:n] + sizes[:n] - 1).tolist()
        self.source = tensor([i for o, start, f in zip(owner, starts[n:].tolist(), fed)
                              for i in (last[o], *range(start, start + len(f)))])
        self.labels = tensor([t for r in responses for t in r])
        self.owner = tensor(owner)
        self.prompt, self.prompt_places = self._padded(starts[:n], sizes[:n], device)
        self.response, self.response_places = self._padded(starts[n:], sizes[n:], device)
        slot = torch.arange(self.prompt.shape[1], device=device)
        seen = (slot < sizes[:n].to(device)[:, None])[self.owner]  # [N, P]
        t = self.response.shape[1]
        own = torch.ones(t, t, dtype=torch.bool, device=device).tril()
        self.mask = torch.cat((seen[:, None].expand(-1, t, -1), own.expand(len(owner), -1, -1)), -1)[:, None]

    @staticmethod
    def _padded(starts, sizes, device):
        """Where the tokens of pieces stand in the row [count, longest] (padding: place 0), and where the real ones of
        these are, flat."""
        slot = torch.arange(int(sizes.max()))
        real = slot < sizes[:, None]
        places = torch.where(real, starts[:, None] + slot, 0)
        return places.to(device), real.flatten().nonzero().squeeze(-1).to(device)

    def attend(self, layer, q, k, v):
        """Attention of the whole row: prompts causally, responses to their prompt and themselves. q: [1, H, n, Dh]"""
        heads, kv_heads = q.shape[1], k.shape[1]
        q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))  # [n, heads, Dh]

        def gather(x, places):
            return x.index_select(0, places.flatten()).view(*places.shape, *x.shape[1:]).transpose(1, 2)

        def scatter(y, places):
            return y.transpose(1, 2).flatten(0, 1).index_select(0, places)

        prompt_k, prompt_v = gather(k, self.prompt), gather(v, self.prompt)  # [B, Hk, P, Dh]
        out = [scatter(causal(gather(q, self.prompt), prompt_k, prompt_v), self.prompt_places)]
        if self.response.shape[1]:
            k, v = (torch.cat((shared.index_select(0, self.owner), gather(own, self.response)), 2)
                    for shared, own in ((prompt_k, k), (prompt_v, v)))
            q = gather(q, self.response)
            # The heads that share a key head stand as its queries, so that no key is repeated.
            asked = q.reshape(len(q), kv_heads, -1, q.shape[-1])
            y = F.scaled_dot_product_attention(asked, k, v, attn_mask=self.mask.repeat(1, 1, heads // kv_heads, 1))
            out.append(scatter(y.view(q.shape), self.response_places))
        return torch.cat(out).transpose(0, 1)[None]


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, qwen2 = config.head_dim, config.model_type == "qwen2"
        self.head_dim = width
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * width, bias=qwen2)
        self.k_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * width, bias=qwen2)
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * width, bias=qwen2)
        self.o_proj = nn.Linear(config.num_attention_heads * width, config.hidden_size, bias=False)
        self.q_norm = nn.Identity() if qwen2 else RMSNorm(width, config.rms_norm_eps)
        self.k_norm = nn.Identity() if qwen2 else RMSNorm(width, config.rms_norm_eps)

    def forward(self, x, cos, sin, attend):
        n, t, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(n, t, -1, self.head_dim)).transpose(1, 2)  # [N, H, T, Dh]
        k = self.k_norm(self.k_proj(x).view(n, t, -1, self.head_dim)).transpose(1, 2)  # [N, Hk, T, Dh]
        v = self.v_proj(x).view(n, t, -1, self.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        return self.o_proj(attend(q, k, v).transpose(1, 2).reshape(n, t, -1))


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

    def forward(self, x, cos, sin, attend):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attend)
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

    def _hidden(self, ids, positions=None, attend=None):
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        x = self.model.embed_tokens(ids)  # [N, T, D]
        cos, sin = rotary(positions, self.config.head_dim, self.config.rope_theta, x.dtype)
        for i, layer in enumerate(self.model.layers):
            attention = partial(attend, i) if attend else causal
            # where gradients are off, checkpoint only calls the layer
            forward = partial(checkpoint, layer, use_reentrant=False) if self.checkpoint_layers else layer
            x = forward(x, cos, sin, attention)
        return self.model.norm(x)

    def forward(self, ids, positions=None, attend=None, last=None):
        """Logits [N, T, V] of ids [N, T]. Positions count from 0 in each row unless given ([N, T]).

        attend: (layer, q, k, v) -> attention of a layer, in place of causal; padding then belongs on the right, where
        nothing sees it. last: [N] indices; then only those places' logits, [N, V].
        """
        hidden = self._hidden(ids, positions, attend)
        if last is not None:
            hidden = hidden[torch.arange(len(last), device=last.device), last]
        return self._head(hidden)

    def token_logprobs(self, packed, temperature=1.0, entropy=True, entropy_grad=False):
        """Log-probability of each response token given the tokens before it, and the entropy it was drawn from.

        packed: Packed, m response tokens. -> logprob, entropy: [m] float32, of softmax(logits / temperature). Chunks of
        the vocabulary projection are recomputed in the backward pass, so that no more than LOGITS_AT_ONCE logits exist
        at a time. Without `entropy` that is None; gradients flow through it only with entropy_grad.
        """
        hidden = self._hidden(packed.ids, packed.positions, packed.attend)[0].index_select(0, packed.source)  # [m, D]

        def chunk_logprobs(hidden, labels):
            logits = self._head(hidden).float()  # [c, V]
            logprobs = (logits / temperature if temperature != 1 else logits).log_softmax(-1)
            mean = None
            if entropy:
                with torch.set_grad_enabled(entropy_grad and torch.is_grad_enabled()):
                    mean = -(logprobs.exp() * logprobs).sum(-1)
            return -F.nll_loss(logprobs, labels, reduction="none"), mean

        size = max(1, LOGITS_AT_ONCE // self.config.vocab_size)
        if len(packed.labels) <= size:
            return chunk_logprobs(hidden, packed.labels)
        chunks = [checkpoint(chunk_logprobs, h, l, use_reentrant=False)
                  for h, l in zip(hidden.split(size), packed.labels.split(size))]
        return torch.cat([c[0] for c in chunks]), torch.cat([c[1] for c in chunks]) if entropy else None


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
