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

import inspect
import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from linear import Linear, linear

# cuDNN's attention, which torch prefers on an H100 and later, gives NaN gradients with a mask at some lengths
# (pytorch#196678) and builds a plan for every new shape, which is nearly every micro-batch.
torch.backends.cuda.enable_cudnn_sdp(False)

# torch 2.11's varlen_attn takes grouped heads without being told
GROUPED = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}

# Logits that may exist at once while log-probabilities are computed: 2^26 float32 values are 256 MiB.
LOGITS_AT_ONCE = 2**26
TOKENS_AT_ONCE = 256  # where all may exist, they are still made by so many tokens: those stay in a CPU's cache
WINDOW = 128  # on CUDA decoding looks at a multiple of so many slots, or all, as its operations are recorded by shape
WHOLE = 128  # a training pass takes a multiple of so many tokens, as products are compiled by shape (linear.py)


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


class RMSNorm(nn.RMSNorm):
    def forward(self, x):
        # computed in float32, and the weight after rounding to x's dtype, as Hugging Face does
        return self.weight * F.rms_norm(x, self.normalized_shape, eps=self.eps)


def rotary(positions, head_dim, theta, dtype):
    """Cosines and sines of rotary positions (Su et al. 2021), both halves of a head alike as Hugging Face lays it out.

    positions: [1, T] -> cos, sin: [1, 1, T, Dh] in `dtype`, computed in float32.
    """
    frequency = theta ** -(torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim)
    angle = positions[:, None, :, None].float() * frequency  # [1, 1, T, Dh/2]
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def causal(q, k, v):
    """Every token sees itself and those before it. q: [N, H, T, Dh]; k, v: [N, Hk, T, Dh] -> [N, H, T, Dh]"""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


def scores(q, k, bias, scale):
    """bias + scale * q [b, n, Dh] @ k [b, Dh, m], in float32 whatever they are in: Qwen2's key biases make scores of
    hundreds, where bfloat16 has steps of 2, and attention by them would be another model's."""
    if q.is_cuda and q.dtype != torch.float32:  # without a float32 copy of the keys; this form does not broadcast
        bias = bias.expand(len(q), q.shape[1], k.shape[2])
        return torch.baddbmm(bias, q, k, alpha=scale, out_dtype=torch.float32)
    return torch.baddbmm(bias, q.float(), k.float(), alpha=scale)


class Cache:
    """Keys and values of B prompts and of the N responses to them, which decode in step, one token a row.

    A prompt's stand once for its whole group: `prompt`, of each layer keys and values [2, Hk, B, P, Dh], right-padded
    with `lengths` [B] in use; `response`, [2, Hk, N, S, Dh] with `length` of S slots written. Heads come first, so that
    the same queries are a batch of rows and a batch of groups without a copy. Where no more than two rows a prompt are
    left on average, sharing no longer pays: each row gets its prompt's before its own in `response`, and `prompt` is
    empty. decode() writes to `slot` and looks at the first `end` slots, which grow by `window`. `hidden` hides padding,
    `ahead` the slots not written, and the padding that came before them.
    Use: prefill, fork; then for every token open and decode in each layer; between tokens keep, where rows retire.
    """

    def __init__(self, lengths, longest):
        """longest: P."""
        self.lengths, self.longest, self.length, self.end, self.prompt = lengths, longest, 0, 0, []
        self.slot = lengths.new_zeros(1)
        self.window = WINDOW if lengths.is_cuda else 1

    def prefill(self, rows, layer, q, k, v):
        """Attention within some prompts, rows [b] of the B, whose keys and values [b, Hk, p, Dh] are stored; p <= P."""
        if layer == len(self.prompt):
            self.prompt.append(k.new_zeros(2, k.shape[1], len(self.lengths), self.longest, k.shape[3]))
        for room, new in zip(self.prompt[layer], (k, v)):
            room[:, rows, :k.shape[2]] = new.transpose(0, 1)
        return causal(q, k, v)

    def fork(self, owner, slots):
        """Make room for `slots` tokens of each response. owner: [N] ascending, whose prompt it answers."""
        slots += -slots % self.window
        self.response = [self._slots(x, len(owner), slots) for x in self.prompt]
        self.ahead = self.lengths.new_full((1, 1, slots), -torch.inf, dtype=torch.float32)
        self._group(owner)

    def _slots(self, like, rows, slots):
        """Room for keys and values. What is looked at before it is written must be finite."""
        room = like.new_empty(*like.shape[:2], rows, slots, like.shape[-1])
        if self.window > 1:
            room[..., self.length:, :] = 0
        return room

    def _group(self, owner):
        """Drop prompts without a response. The rest are shared by place in a group, or copied to their few rows."""
        count = torch.bincount(owner, minlength=len(self.lengths))
        alive = count > 0
        if not alive.all():
            for layer, x in enumerate(self.prompt):
                self.prompt[layer] = x[:, :, alive]
            self.lengths, count, owner = self.lengths[alive], count[alive], (alive.cumsum(0) - 1)[owner]
        _, kv_heads, _, longest, _ = self.prompt[0].shape
        slot = torch.arange(longest, device=owner.device)
        hidden = torch.where(slot < self.lengths[:, None], 0.0, -torch.inf)  # [B, P], float32 as the scores are
        if len(owner) <= 2 * len(count):
            own = self.ahead[0].expand(len(owner), -1)
            self.ahead = torch.cat((hidden[owner], own), 1)[:, None].repeat(kv_heads, 1, 1)  # [Hk N, 1, P + S]
            for layer, x in enumerate(self.response):
                joined = self._slots(x, len(owner), self.ahead.shape[2])
                joined[..., :longest, :] = self.prompt.pop(0).index_select(2, owner)
                joined[..., longest:longest + self.length, :] = x[..., :self.length, :]
                self.response[layer] = joined
            self.length += longest
        else:
            self.owner, self.group = owner, int(count.max())
            first = count.cumsum(0) - count
            place = owner * self.group + torch.arange(len(owner), device=owner.device) - first[owner]
            self.place = None if len(owner) == len(count) * self.group else place  # None: every place is taken
            self.row = place.new_zeros(len(count) * self.group)  # in each place; row 0 where none is
            self.row[place] = torch.arange(len(owner), device=owner.device)
            self.hidden = hidden[:, None].repeat(kv_heads, 1, 1)  # [Hk B, 1, P]

    def keep(self, rows):
        """Retire every response but the given ones ([n] ascending indices)."""
        for layer, x in enumerate(self.response):  # so that no more than one layer stands twice
            self.response[layer] = self._slots(x, len(rows), x.shape[3])
            torch.index_select(x[..., :self.length, :], 2, rows, out=self.response[layer][..., :self.length, :])
        if self.prompt:
            self._group(self.owner[rows])
        else:
            self.ahead = self.ahead.unflatten(0, x.shape[1:3])[:, rows].flatten(0, 1)
        self.end = 0

    def inside(self):
        """Whether open() would find the same tensors as before: on CUDA the same rows then go on by the same graph."""
        return self.length < self.end

    def open(self):
        """Begin the next slot of every response. -> whether decode() will meet other tensors than before."""
        self.ahead[..., self.length] = 0
        self.slot.fill_(self.length)
        self.length += 1
        before = self.end
        self.end = min(-(-self.length // self.window) * self.window, self.response[0].shape[3])
        return self.end != before

    def decode(self, layer, qkv):
        """Attention of one new token a response, whose key and value are stored. qkv: [N, H + 2 Hk, Dh] -> [N, H Dh]

        By hand, and where prompts are shared in two parts under one softmax: all rows of a group (and all heads that
        share a key head) ask the prompt's keys in one product, so that those are read once a group; then each row asks
        its own.
        """
        _, kv_heads, n, _, d = self.response[layer].shape
        heads, ahead = qkv.shape[1] - 2 * kv_heads, self.ahead[..., :self.end]
        r, scale = heads // kv_heads, d ** -0.5
        qkv = qkv.transpose(0, 1)
        self.response[layer].index_copy_(3, self.slot, qkv[heads:].view(2, kv_heads, n, 1, d))
        keys, values = self.response[layer][..., :self.end, :].flatten(1, 2)  # [Hk N, end, Dh]
        q = qkv[:heads].view(kv_heads, r, n, d).transpose(1, 2).reshape(kv_heads * n, r, d)

        def by_group(x):  # [Hk N, r, z] -> [Hk B, g r, z]; in the places of retired rows stands anything
            if self.place is not None:
                x = x.view(kv_heads, n, r, -1).index_select(1, self.row)
            return x.reshape(len(prompt_keys), self.group * r, -1)

        def by_row(x):  # and back
            if self.place is not None:
                x = x.view(kv_heads, -1, r, x.shape[-1]).index_select(1, self.place)
            return x.reshape(len(keys), r, -1)

        if self.prompt:
            prompt_keys, prompt_values = self.prompt[layer].flatten(1, 2)  # [Hk B, P, Dh]
            longest = prompt_keys.shape[1]
            to_prompt = by_row(scores(by_group(q), prompt_keys.transpose(1, 2), self.hidden, scale))
            to_own = scores(q, keys.transpose(1, 2), ahead, scale)
            weight = torch.cat((to_prompt, to_own), -1).softmax(-1).to(q.dtype)
            y = by_row(by_group(weight[..., :longest]) @ prompt_values).baddbmm_(weight[..., longest:], values)
        else:
            y = scores(q, keys.transpose(1, 2), ahead, scale).softmax(-1).to(q.dtype) @ values
        return y.view(kv_heads, n, r, d).transpose(0, 1).reshape(n, heads * d)


class Rearranged(torch.autograd.Function):
    """x[places]; `back` says where in it each row of x stands. The gradient is rearranged too, where indexing would add
    it up row by row. Rows that stand in several places or in none are padding: what comes of them is dropped, so that
    their gradient is zero and may be left out."""

    @staticmethod
    def forward(ctx, x, places, back):
        ctx.save_for_backward(back)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx, grad):
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


def sent(x, device):
    """A CPU tensor on its way to the device: nothing waits until a GPU has done what it was asked before."""
    return (x.pin_memory() if torch.device(device).type == "cuda" else x).to(device, non_blocking=True)


class Packed:
    """Prompts and responses as one row of tokens: each different prompt once, then the responses, none padded.

    prompts, responses: N lists of token ids each, none empty. A response's last token is predicted, never fed.
    ids, positions: [1, n]; source, labels: [m] the places whose hidden states predict the response tokens, and those
    tokens, response by response in the order given; count: m. At the end of all four stand one to WHOLE zeros more, and
    what comes of them is dropped.
    """

    def __init__(self, prompts, responses, device):
        index = {}
        self.owner = [index.setdefault(tuple(p), len(index)) for p in prompts]
        pieces = [*index, *(r[:-1] for r in responses)]
        ids = torch.tensor([t for piece in pieces for t in piece])
        labels = torch.tensor([t for r in responses for t in r])
        parts = torch.arange(len(ids)).split([len(piece) for piece in pieces])  # where each piece stands
        self.shared, self.own = parts[:len(index)], parts[len(index):]
        first = [0] * len(index) + [len(self.shared[i]) for i in self.owner]  # the position of a piece's first token
        positions = torch.cat([torch.arange(a, a + len(part)) for a, part in zip(first, parts)])
        source = torch.cat([x for i, part in zip(self.owner, self.own) for x in (self.shared[i][-1:], part)])
        ids, positions, self.source, self.labels = (sent(F.pad(x, (0, WHOLE - len(x) % WHOLE)), device)
                                                    for x in (ids, positions, source, labels))
        self.ids, self.positions, self.count = ids[None], positions[None], len(labels)
        self.layout = None  # of attention, the same for all layers

    def attend(self, layer, q, k, v):
        """Attention of the whole row: prompts causally, responses to their prompt and themselves. q: [1, H, n, Dh]"""
        if not self.layout:
            flash = q.is_cuda and q.dtype == torch.bfloat16 and torch.cuda.get_device_capability(q.device) >= (8, 0)
            self.layout = (_flash, *self._row(q)) if flash else (_masked, *self._padded(q, k))
        attention, *layout = self.layout
        return attention(q, k, v, *layout)

    def _row(self, q):
        """For flash attention: where the keys of each piece stand (a response's are its prompt's and its own), where
        each piece's queries and keys begin, and the longest of both. Padding is a piece by itself."""
        spare = torch.arange(sum(map(len, self.shared + self.own)), self.ids.shape[1])
        keys = [*self.shared, *(torch.cat((self.shared[i], part)) for i, part in zip(self.owner, self.own)), spare]
        lengths = [torch.tensor([len(x) for x in pieces]) for pieces in ((*self.shared, *self.own, spare), keys)]
        places = [torch.cat(keys), *(F.pad(x.cumsum(0), (1, 0)).int() for x in lengths)]
        return *(sent(x, q.device) for x in places), *(int(x.max()) for x in lengths)

    def _padded(self, q, k):
        """For attention by a mask: all prompts [B, P] and all responses [N, T], padded with the row's last place, and
        that place; where each place of the row stands there; and what is added to the scores."""
        device, spare = q.device, self.ids.shape[1] - 1
        places = [pad_sequence(x, batch_first=True, padding_value=spare) for x in (self.shared, self.own)]
        shapes = [x.shape for x in places]
        seen = (places[0] < spare)[self.owner].to(device)  # [N, P]
        places = torch.cat([*(x.flatten() for x in places), torch.tensor([spare])])
        back = torch.full((spare + 1,), len(places) - 1)
        real = (places < spare).nonzero().squeeze(-1)
        back[places[real]] = real
        n, t = shapes[1]
        past = torch.ones(t, t, dtype=torch.bool, device=device).tril()
        mask = torch.cat((seen[:, None].expand(-1, t, -1), past.expand(n, -1, -1)), -1)[:, None, None]
        # torch wants rows a multiple of 8 elements apart on CUDA, and would copy the bias in each layer
        keys, repeats = mask.shape[-1], q.shape[1] // k.shape[1]
        bias = q.new_zeros(n, 1, repeats, t, keys + -keys % 8)[..., :keys].masked_fill_(~mask, -torch.inf)
        return shapes, places.to(device), back.to(device), torch.tensor(self.owner, device=device), bias.flatten(2, 3)


def _flash(q, k, v, places, *bounds):
    q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
    k, v = k.index_select(0, places), v.index_select(0, places)
    y = varlen_attn(q, k, v, *bounds, window_size=(-1, 0), **GROUPED)  # causal, the last query at the last key
    return y.transpose(0, 1)[None]


def _masked(q, k, v, shapes, places, back, owner, bias):
    def apart(x):
        x = Rearranged.apply(x[0].transpose(0, 1), places, back)  # [places, heads, Dh]
        *parts, _ = x.split([*map(math.prod, shapes), 1])
        return [part.unflatten(0, shape).transpose(1, 2) for part, shape in zip(parts, shapes)]

    (prompt_q, q), (prompt_k, k), (prompt_v, v) = map(apart, (q, k, v))
    out = [causal(prompt_q, prompt_k, prompt_v)]
    if q.shape[2]:
        k, v = (torch.cat((shared.index_select(0, owner), own), 2)
                for shared, own in ((prompt_k, k), (prompt_v, v)))
        # The heads that share a key head stand as its queries, so that no key is repeated.
        asked = q.reshape(len(q), k.shape[1], -1, q.shape[-1])
        out.append(F.scaled_dot_product_attention(asked, k, v, attn_mask=bias).reshape(q.shape))
    out = [x.transpose(1, 2).flatten(0, 1) for x in out]
    out.append(out[0].new_zeros(1, *out[0].shape[1:]))
    return Rearranged.apply(torch.cat(out), back, places).transpose(0, 1)[None]


class TokenLogprobs(torch.autograd.Function):
    """log p of the labels [c] and the entropy H of p = softmax(logits [c, V]), both [c]. It overwrites its logits.

        d log p_i / d logits_j = [j = label_i] - p_j        d H_i / d logits_j = -p_j (log p_j + H_i)

    By hand because passes over [c, V] are much of a small model's update, and autograd makes three times as many, each
    in fresh memory.
    """

    @staticmethod
    def forward(ctx, logits, labels, entropy_grad):
        logprobs = logits.log_softmax(-1)
        p = torch.exp(logprobs, out=logits)
        entropy = -(p * logprobs).sum(-1)
        ctx.save_for_backward(p, labels, *((logprobs, entropy) if entropy_grad else ()))
        if not entropy_grad:
            ctx.mark_non_differentiable(entropy)
        return logprobs[torch.arange(len(labels), device=labels.device), labels], entropy

    @staticmethod
    def backward(ctx, of_logprob, of_entropy):
        p, labels, *kept = ctx.saved_tensors
        of_logprob, of_entropy = of_logprob[:, None], of_entropy[:, None]
        down = of_logprob
        if kept:
            logprobs, entropy = kept
            down = torch.addcmul(of_logprob + of_entropy * entropy[:, None], of_entropy, logprobs)
        return p.mul_(-down).scatter_add_(-1, labels[:, None], of_logprob), None, None  # p is not needed again


class SwiGLU(torch.autograd.Function):
    """silu(gate) * up, which keeps those two alone for its gradient; SiLU would be a sixth of what a layer keeps."""

    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad):
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, qwen2 = config.head_dim, config.model_type == "qwen2"
        self.head_dim = width
        self.q_proj = Linear(config.hidden_size, config.num_attention_heads * width, bias=qwen2)
        self.k_proj = Linear(config.hidden_size, config.num_key_value_heads * width, bias=qwen2)
        self.v_proj = Linear(config.hidden_size, config.num_key_value_heads * width, bias=qwen2)
        self.o_proj = Linear(config.num_attention_heads * width, config.hidden_size, bias=False)
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
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(SwiGLU.apply(self.gate_proj(x), self.up_proj(x)))


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
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def head(self):
        return (self.model.embed_tokens if self.config.tie_word_embeddings else self.lm_head).weight

    def _hidden(self, ids, positions, attend):
        x = self.model.embed_tokens(ids)  # [N, T, D]
        cos, sin = rotary(positions, self.config.head_dim, self.config.rope_theta, x.dtype)
        for i, layer in enumerate(self.model.layers):
            attention = partial(attend, i) if attend else causal
            # where gradients are off, checkpoint only calls the layer
            forward = partial(checkpoint, layer, use_reentrant=False) if self.checkpoint_layers else layer
            x = forward(x, cos, sin, attention)
        return self.model.norm(x)

    def forward(self, ids, attend=None, last=None):
        """Logits [N, T, V] of ids [N, T].

        attend: (layer, q, k, v) -> attention of a layer, in place of causal; padding then belongs on the right, where
        nothing sees it. last: [N] indices; then only those places' logits, [N, V].
        """
        hidden = self._hidden(ids, torch.arange(ids.shape[1], device=ids.device)[None], attend)
        if last is not None:
            hidden = hidden[torch.arange(len(last), device=last.device), last]
        return linear(hidden, self.head)

    def token_logprobs(self, packed, temperature=1.0, entropy=True, entropy_grad=False):
        """Log-probability of each response token given the tokens before it, and the entropy it was drawn from.

        packed: Packed, m response tokens. -> logprob, entropy: [m] float32, of softmax(logits / temperature). Without
        `entropy` that is None; gradients flow through it only with entropy_grad. Where more than LOGITS_AT_ONCE logits
        would exist, chunks of the vocabulary projection are recomputed in the backward pass.
        """
        # [m and padding, D]
        hidden = self._hidden(packed.ids, packed.positions, packed.attend)[0].index_select(0, packed.source)

        def chunk_logprobs(hidden, labels):
            logits = linear(hidden, self.head).float()  # [c, V]
            if temperature != 1:
                logits = logits / temperature
            if entropy:
                return TokenLogprobs.apply(logits, labels, entropy_grad)
            return -F.cross_entropy(logits, labels, reduction="none"), None

        size = max(1, LOGITS_AT_ONCE // self.config.vocab_size)
        if len(hidden) > size:
            chunk_logprobs = partial(checkpoint, chunk_logprobs, use_reentrant=False)
        else:
            size = TOKENS_AT_ONCE
        chunks = [chunk_logprobs(h, l) for h, l in zip(hidden.split(size), packed.labels.split(size))]
        # cloned, as FSDP's hooks may be lost on a view
        return tuple(torch.cat(x)[:packed.count].clone() if x[0] is not None else None for x in zip(*chunks))


def init_model(config, seed=0, device="cpu"):
    """A Decoder with random float32 weights: normal(0, 0.02), biases 0, norms 1. Each device has its own numbers."""
    with torch.device("meta"):  # so that torch's own initialisation, as long again, is left out
        model = Decoder(config)
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02, generator=generator)
        else:
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
    return model
