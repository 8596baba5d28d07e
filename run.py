"""One run on its processes and on disk: command line, device, process group, sharding, metrics, the run directory.

What a training script needs around its algorithm, and nothing of the algorithm. There is one code path: a plain
`python` start is a process group of one, sharded over one.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from checkpoint import load_model, save_model, write_json
from model import PRESETS, Decoder, init_model

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
KEPT_STATES = 2
# What may change when a run goes on: it decides how the same numbers are computed, not which.
FREE = {"fresh", "save_every", "micro_tokens", "max_rows", "checkpoint_layers"}


def option(default, help, **metadata):
    """A dataclass field that parse_config turns into a flag. metadata: choices."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help, **metadata})
    return field(default=default, metadata={"help": help, **metadata})


def parse_config(config_class, description, presets=None, argv=None):
    """The command line of a dataclass of option() fields -> an instance of it.

    list fields take several values, bool fields also have --no-NAME. With presets, {name: {field: value}}, the values
    of --preset NAME stand where no flag overrides them.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for item in fields(config_class):
        flag = "--" + item.name.replace("_", "-")
        default = item.default_factory() if item.default is MISSING else item.default
        given = {"default": default, "help": item.metadata["help"]}
        if item.type is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **given)
        elif item.type is list:
            parser.add_argument(flag, nargs="+", **given)
        else:
            parser.add_argument(flag, type=item.type, choices=item.metadata.get("choices"), **given)
    if presets:
        chosen = parser.parse_args(argv).preset
        parser.set_defaults(**presets.get(chosen, {}))
    return config_class(**vars(parser.parse_args(argv)))


@dataclass
class Processes:
    """This process among `world`: its rank, device, device mesh, and the dtype it computes in (bf16 on CUDA)."""

    rank: int
    world: int
    device: torch.device
    mesh: DeviceMesh
    dtype: torch.dtype

    @property
    def main(self):
        return self.rank == 0

    def say(self, *words):
        if self.main:
            print(*words, flush=True)

    def sum(self, values):
        """Element-wise sum of a list of numbers over all processes, in float64."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, value):
        """A list of every process's Python object, on every process."""
        values = [None] * self.world
        dist.all_gather_object(values, value)
        return values


def start():
    """Join the process group that torchrun describes, or make one of a single process. -> Processes"""
    cuda = torch.cuda.is_available()
    backend = "nccl" if cuda else "gloo"
    if cuda:
        local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(f"process {local + 1} of this machine has no GPU, it has {gpus}; lower --nproc_per_node")
        torch.cuda.set_device(local)
    if "RANK" in os.environ:
        # Processes sample apart for minutes and then wait for the slowest.
        dist.init_process_group(backend, timeout=timedelta(hours=4))
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    return Processes(dist.get_rank(), dist.get_world_size(), device, mesh, torch.bfloat16 if cuda else torch.float32)


def stop():
    dist.destroy_process_group()


def resolve_model(name, tokenizer_directory="", seed=0):
    """--model: a Hugging Face directory, or the name of a preset for random weights of that shape.

    -> Decoder with float32 weights on the CPU, {file name: bytes} of its tokenizer. A preset takes its tokenizer, and
    "tiny" also its vocabulary, from `tokenizer_directory`.
    """
    if name in PRESETS and not Path(name).is_dir():
        if not tokenizer_directory:
            raise ValueError(f"--model {name} is a preset without a tokenizer; add --tokenizer DIR")
        config = PRESETS[name]
        if name == "tiny":
            vocabulary = json.loads((Path(tokenizer_directory) / "tokenizer.json").read_text(encoding="utf-8"))
            added = [token["id"] for token in vocabulary["added_tokens"]]
            config = replace(config, vocab_size=max([*vocabulary["model"]["vocab"].values(), *added]) + 1)
        return init_model(config, seed), read_tokenizer_files(tokenizer_directory)
    if not Path(name).is_dir():
        raise ValueError(f"--model {name}: no such directory, nor one of the presets {', '.join(PRESETS)}")
    return load_model(name), read_tokenizer_files(tokenizer_directory or name)


def read_tokenizer_files(directory):
    paths = [Path(directory) / name for name in TOKENIZER_FILES]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def shard(model, processes):
    """FSDP2: layers, then the rest, sharded over all processes in place. Compute and gathers in the processes' dtype,
    master weights and gradient reduction in float32."""
    policy = MixedPrecisionPolicy(param_dtype=processes.dtype, reduce_dtype=torch.float32)
    for layer in model.model.layers:
        fully_shard(layer, mesh=processes.mesh, mp_policy=policy)
    fully_shard(model, mesh=processes.mesh, mp_policy=policy)
    register_fsdp_forward_method(model, "token_logprobs")
    return model


def sharded_copy(model, processes):
    """A frozen copy of a sharded model, shard by shard, so that no process ever holds it whole."""
    with torch.device("meta"):
        copy = Decoder(model.config)
    copy = shard(copy, processes).to_empty(device=processes.device).requires_grad_(False)
    with torch.no_grad():
        for source, target in zip(model.parameters(), copy.parameters(), strict=True):
            target.copy_(source)
    return copy


def full_copy(config, processes):
    """An unsharded Decoder in the compute dtype, for sampling; copy_weights fills it."""
    with torch.device("meta"):
        model = Decoder(config)
    return model.to(processes.dtype).to_empty(device=processes.device).eval()


@torch.no_grad()
def copy_weights(sharded, full):
    """Gather every parameter of a sharded model into the full copy on each process (a collective)."""
    sharded.reshard()  # after a forward without a backward the root's parameters are still whole
    for source, target in zip(sharded.parameters(), full.parameters(), strict=True):
        target.copy_(source.full_tensor())


class RunDirectory:
    """--out: a model directory plus run.json (the config), metrics.jsonl, samples.jsonl and state/ (to go on from).

    Only rank 0 writes, but for the shards of a state. A run that stopped early and has a state is continued by the same
    command (`continued`), refused to another configuration. A finished or --fresh one is moved aside, to NAME.1,
    NAME.2, ..., and says so. A directory that holds something else is refused.
    """

    def __init__(self, path, config, processes, tokenizer_files):
        self.path, self.processes, self.tokenizer_files = Path(path), processes, tokenizer_files
        dist.barrier()  # --model may be this directory: every process has read it before it is moved aside
        problem = self._open(asdict(config)) if processes.main else None
        problem = processes.gather(problem)[0]
        if problem:
            raise ValueError(problem)
        self.continued = processes.gather(processes.main and self._latest())[0]  # a folder of state/, or False

    def _open(self, config):
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            made_by = self.path / "run.json"
            if not made_by.exists():
                return f"--out {self.path}: exists and is not an earlier run; give a new directory"
            finished = any(self.path.glob("model*.safetensors"))
            if finished or config.get("fresh", True) or not self._latest():
                number = 1
                while Path(f"{self.path}.{number}").exists():
                    number += 1
                self.path.rename(f"{self.path}.{number}")
                print(f"the earlier run in {self.path} is now {self.path}.{number}", flush=True)
            else:
                old = json.loads(made_by.read_text(encoding="utf-8"))
                differ = [f"{k}: {old.get(k)} there, {config.get(k)} here" for k in sorted({*old, *config} - FREE)
                          if old.get(k) != config.get(k)]
                if differ:
                    return (f"--out {self.path}: holds an unfinished run of another configuration ({'; '.join(differ)}); "
                            "give its flags to go on, --fresh to move it aside, or another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "run.json", config)

    def _latest(self):
        """The newest whole state of this directory, or False; a damaged one is named and passed over."""
        for folder in sorted(self.path.glob("state/step-*[0-9]"), reverse=True):
            if _is_whole(folder):
                return str(folder)
            print(f"{folder} is damaged; going back to the state before it", flush=True)
        return False

    def save_state(self, model, optimizer, step, values):
        """Save what continuing after `step` needs; a collective. values: JSON. The two newest states stay."""
        folder = self.path / "state" / f"step-{step:08d}"
        temporary = folder.with_suffix(".tmp")
        if self.processes.main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        dist.barrier()
        model_state, optimizer_state = get_state_dict(model, optimizer)
        dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=temporary)
        if self.processes.main:
            write_json(temporary / "values.json", {"step": step, **values})
            write_json(temporary / "sums.json", {f.name: _checksum(f) for f in sorted(temporary.iterdir())})
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
            for old in sorted(self.path.glob("state/step-*[0-9]"))[:-KEPT_STATES]:
                shutil.rmtree(old)
        dist.barrier()

    def load_state(self, model, optimizer):
        """Restore a continued run's model and optimizer, and cut its logs back to that step. -> the saved values"""
        folder = Path(self.continued)
        model_state, optimizer_state = get_state_dict(model, optimizer)
        state = {"model": model_state, "optimizer": optimizer_state}
        dcp.load(state, checkpoint_id=folder)
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        values = json.loads((folder / "values.json").read_text(encoding="utf-8"))
        for log in self.path.glob("*.jsonl") if self.processes.main else ():
            lines = [line for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
            kept = [line for line in lines if json.loads(line)["step"] <= values["step"]]
            log.with_suffix(".tmp").write_text("".join(kept), encoding="utf-8")
            os.replace(log.with_suffix(".tmp"), log)
        self.processes.say(f"continuing {self.path} after step {values['step']}")
        return values

    def append(self, name, rows):
        """Add rows to NAME.jsonl."""
        if self.processes.main:
            with open(self.path / f"{name}.jsonl", "a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def save(self, model, tokenizer):
        """Write the (sharded) model as a Hugging Face directory; a collective."""
        weights = {}
        model.reshard()
        for name, parameter in model.named_parameters():
            full = parameter.full_tensor()
            if self.processes.main:
                weights[name] = full.detach().cpu()
        if self.processes.main:
            for name, content in self.tokenizer_files.items():
                (self.path / name).write_bytes(content)
            save_model(self.path, model.config, weights, tokenizer.eos_ids, tokenizer.pad_id)
            shutil.rmtree(self.path / "state", ignore_errors=True)  # the run is finished
        dist.barrier()


def _checksum(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(folder):
    """Whether every file of a saved state is there and unchanged since it was written."""
    try:
        sums = json.loads((folder / "sums.json").read_text(encoding="utf-8"))
        return all(_checksum(folder / name) == value for name, value in sums.items())
    except (OSError, ValueError):
        return False


def catch_signals():
    """From now on SIGTERM and SIGINT only set what the returned function tells: whether one has come."""
    caught = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: caught.append(number))
    return lambda: bool(caught)


def fail(error):
    """End with one line on what is wrong instead of a traceback."""
    sys.exit(f"error: {error}")
