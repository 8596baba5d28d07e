"""Sampling and training on a GPU, without one: tensors that say they are there and hold their values here.

So a tensor that stayed on the CPU is found by a test and not by the first user with a GPU, and the operations of
decoding are recorded and played again as CUDA graphs are: into the same memory, without a look at a value. What this
cannot tell is whether CUDA's own kernels do what the CPU's do."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import model as model_file
import train_crpo
from model import PRESETS, Cache, init_model
from sampler import Rollout, generate
from test_end_to_end import SMALL, metrics_of, typed

TINY = replace(PRESETS["tiny"], vocab_size=96, hidden_size=32, intermediate_size=48, head_dim=8, num_hidden_layers=1)
CPU = torch.device("cpu")
THERE = torch.device("meta")  # any device but the CPU would do; this one every build of torch knows
INDEXED = ("aten.index.Tensor", "aten.index_put.default", "aten.index_put_.default")  # by indices from the CPU too
MOVES = ("aten._to_copy.default", "aten.copy_.default")
LOOKS = ("_local_scalar_dense", "nonzero", "bincount", "equal", "repeat_interleave", "masked_select", "_unique2")


waits = []  # operations for which a GPU's queue has to be empty


class There(torch.Tensor):
    """A tensor that says it is on a GPU and holds its values on the CPU."""

    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, strides=values.stride(), dtype=values.dtype,
                                                   storage_offset=values.storage_offset(), device=THERE)

    def __init__(self, values):
        self.values = values

    is_cuda = True
    is_cpu = False

    def tolist(self):
        assert Graph.tape is None, "a look at values while a graph is recorded"
        return self.values.tolist()

    def __getitem__(self, index):
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


def in_float32(bias, a, b, alpha):
    return torch.baddbmm(bias, a.float(), b.float(), alpha=alpha)


def compute(function, args, kwargs):
    """function(*args, **kwargs) with the values; ValueError where tensors from here and there meet."""
    if function is not torch.ops.aten.scaled_dot_product_attention.default:  # by parts it would round otherwise
        with Elsewhere():  # in inference mode operations made of others come whole
            parts = function.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
    name, is_view = str(function), function.is_view
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = [x for x in tensors if isinstance(x, There)]
    here = [x for x in tensors if not isinstance(x, There) and x.dim()]
    if name in INDEXED and isinstance(args[0], There):
        here = []
    if there and here and name not in MOVES:
        raise ValueError(f"{name}: tensors here and there")
    crosses = name in MOVES and (kwargs.get("device") == CPU if there else kwargs.get("device") == THERE)
    if there and name.split(".")[1] in LOOKS or crosses and not kwargs.get("non_blocking"):
        waits.append(name)
    if Graph.tape is not None:
        by_mask = name in INDEXED and any(x.dtype in (torch.bool, torch.uint8) for x in tensors[1:])
        if name.split(".")[1] in LOOKS or by_mask or name in MOVES and (here or kwargs.get("device") == CPU):
            raise ValueError(f"{name}: a look at values while a graph is recorded")

    def values(x):
        if isinstance(x, torch.device):
            return CPU
        return x.values if isinstance(x, There) else x

    given, named = tree_map(values, args), tree_map(values, kwargs)
    if name == "aten.baddbmm.dtype":  # the CPU has none
        function, given = in_float32, given[:3]
    result = function(*given, **named)
    if ".empty" in name or ".new_empty" in name:
        result.fill_(torch.nan if result.is_floating_point() else -2 ** 40)
    if Graph.tape is not None:
        Graph.tape.append((function, given, named, result))
        for x in tree_leaves(result):  # recorded is not done: what is written anew holds nothing before it is played
            if isinstance(x, torch.Tensor) and x.is_floating_point() and not is_view and "_." not in name:
                x.fill_(torch.nan)
    device = kwargs.get("device")
    stays = device == THERE if device is not None else isinstance(args[0], There) if name in MOVES else bool(there)
    known = {id(x.values): x for x in there}  # what was changed in place is itself again

    def moved(x):
        if id(x) in known:
            return known[id(x)]
        return There(x) if stays and isinstance(x, torch.Tensor) else x

    return tree_map(moved, result)


class Elsewhere(TorchDispatchMode):
    """Within it, tensors made with device=THERE are There."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


@pytest.fixture(autouse=True)
def torch_tensor_by_way_of_the_cpu(monkeypatch):  # its own way to a device passes the dispatcher by
    make = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *args, device=None, **given: make(*args, **given).to(device or "cpu"))


def on(device, model):
    if device == THERE:
        for module in model.modules():
            for name, p in module._parameters.items():
                module._parameters[name] = p if p is None else torch.nn.Parameter(There(p.detach()))
    return model


class Graph:
    """torch.cuda.CUDAGraph: replay() does the recorded operations again, each result into its old memory."""

    tape, made = None, []  # of the graph that is being recorded; all graphs' numbers of replays

    def __init__(self):
        self.place = len(Graph.made)
        Graph.made.append(0)

    @contextlib.contextmanager
    def record(self, capture_error_mode):
        Graph.tape = self.operations = []
        try:
            yield
        finally:
            Graph.tape = None

    def replay(self):
        Graph.made[self.place] += 1
        for function, given, named, result in self.operations:
            for old, new in zip(tree_leaves(result), tree_leaves(function(*given, **named)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def test_a_tensor_that_stayed_behind_is_found():
    with Elsewhere():
        x = torch.arange(3, device=THERE)
        assert (x + 1).tolist() == [1, 2, 3] and x.is_cuda and x.to(THERE)[torch.tensor([2])].tolist() == [2]
        for job in (lambda: x + torch.ones(3), lambda: x.index_select(0, torch.tensor([0])),
                    lambda: torch.ones(3)[x], lambda: torch.cat((x, torch.ones(3)))):
            with pytest.raises(ValueError, match="here and there"):
                job()


def test_a_look_at_values_while_recording_is_found():
    with Elsewhere():
        x = torch.arange(3, device=THERE)
        for job in (lambda: x.tolist(), lambda: int(x[0]), lambda: x[x > 0], lambda: x.cpu(), lambda: x.nonzero(),
                    lambda: torch.tensor([1], device=THERE), lambda: torch.arange(3).to(THERE)):
            with Graph().record("thread_local"), pytest.raises((ValueError, AssertionError), match="a look at values"):
                job()


@pytest.mark.parametrize("dtype, name", [(torch.float32, "qwen3"), (torch.bfloat16, "qwen2")])
def test_a_step_elsewhere_is_the_step_here(dtype, name, monkeypatch):
    """Sampling with everything that it can do, the reference pass and an update: the same numbers."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Graph.record)
    made_as = Cache.__init__  # here too rows are compacted between windows, as bfloat16 rounds by the shape of a batch
    monkeypatch.setattr(Cache, "__init__", lambda self, *args: made_as(self, *args) or setattr(self, "window", 4))
    Graph.made = []
    prompts, eos = [[1, 2, 3, 4, 5], [7], [6, 8]], set(range(12))
    seeds = [[(i, g) for g in range(6)] for i in range(3)]
    config = train_crpo.Config(micro_tokens=40, checkpoint_layers=True)
    found = []
    for device in (CPU, THERE):
        processes = SimpleNamespace(device=device, world=1, gather=lambda value: [value],
                                    sum=lambda values, device=device: torch.tensor(values).to(device).tolist())
        with Elsewhere():
            shape = replace(TINY, model_type=name)
            actor, policy = on(device, init_model(shape).to(dtype)), on(device, init_model(shape))
            policy.checkpoint_layers, policy.reshard = True, lambda: None  # as FSDP would
            made = [generate(actor, prompts, seeds, 12, eos, **how) for how in
                    ({}, {"temperature": 0}, {"top_p": 0.9, "top_k": 9})]
            few = [[(i, g) for g in range(1 + i % 3)] for i in range(6)]  # prompts for themselves, compacted again
            made.append(generate(actor, prompts * 2, few, 12, eos, max_rows=7))
            batch = [(p, r) for p, group in zip(prompts, made[0]) for r in group]
            reference = train_crpo.reference_logprobs(policy, batch, config, processes)
            advantage = torch.linspace(-1, 1, len(batch)).to(device)
            optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
            row = train_crpo.update(policy, optimizer, batch, advantage, reference, 0.1, config, processes)
        rollouts = [r for groups in made for g in groups for r in g]
        row |= {i: x for i, x in enumerate(x for r in rollouts for x in r.logprobs)}
        found.append(([r.ids for r in rollouts], row,
                      [p.detach().values if device == THERE else p.detach() for p in policy.parameters()]))
    (ids, row, weights), (ids_there, row_there, weights_there) = found
    assert ids == ids_there and max(map(len, ids)) == 12 and len(set(map(len, ids[:18]))) > 2
    assert len(Graph.made) > 12 and max(Graph.made) == 3  # a window of four, the first of it without a graph
    assert row == pytest.approx(row_there, abs=1e-6) and row["grad_norm"] > 0
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(weights, weights_there, strict=True))


def test_no_pass_of_an_update_waits_for_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(model_file, "varlen_attn", lambda q, k, v, *layout, **how: q * k.mean() * v.mean())
    processes = SimpleNamespace(device=THERE, world=1, gather=lambda value: [value],
                                sum=lambda values: torch.tensor(values).to(THERE).tolist())
    batch = [([1, 2, 3, p], Rollout([4, 5, 6], [-4.0] * 3, False)) for p in range(6) for _ in range(2)]
    found = []
    for micro_tokens in (1000, 20):
        config = train_crpo.Config(micro_tokens=micro_tokens)
        with Elsewhere():
            policy = on(THERE, init_model(replace(TINY, tie_word_embeddings=False)).bfloat16())
            policy.reshard = lambda: None
            advantage = torch.linspace(-1, 1, len(batch)).to(THERE)
            optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
            waits.clear()
            reference = train_crpo.reference_logprobs(policy, batch, config, processes)
            assert not waits
            train_crpo.update(policy, optimizer, batch, advantage, reference, 0.1, config, processes)
        found.append((len(train_crpo.micro_batches(batch, micro_tokens)), len(waits)))
    (one, expected), (many, waited) = found
    assert one == 1 and many == 3 and waited == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, which is not here")
@pytest.mark.parametrize("dtype, gap", [("float32", 1e-4), ("bfloat16", 0.02)])
def test_the_first_command_on_a_gpu(dtype, gap, tmp_path):
    typed("train_crpo.py", "--out", tmp_path / "ckpt", *SMALL, "--dtype", dtype)
    rows = metrics_of(tmp_path / "ckpt")
    assert all(r["logprob_gap"] < gap and r["nonfinite"] == 0 and r["grad_norm"] > 0 for r in rows)
    typed("eval.py", tmp_path / "ckpt", "--limit", 40, "--dtype", dtype)
