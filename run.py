"""One run on its processes and on disk: command line, device, process group, sharding, the run directory.

What a training script needs around its algorithm, and nothing of the algorithm. There is one code path: a plain
`python` start is a process group of one, sharded over one.
"""

import argparse
import fcntl
import hashlib
import json
import math
import os
import shutil
import signal
import sys
import traceback
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from checkpoint import load_model, read_json, save_model, write_json
from data import Tokenizer
from model import PRESETS, Decoder, init_model
from stream import digest_of, fingerprint, free_number

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
LOGS = ("metrics.jsonl", "samples.jsonl")
KEPT_STATES = 2
RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")  # above 0 where not the user started this process
# What may change when a run goes on: it decides how the same numbers are computed, not which.
FREE = {"out", "fresh", "save_every", "micro_tokens", "micro_batch", "max_rows", "checkpoint_layers", "shard_within"}
NONFINITE_LIMIT = 5  # steps in a row that had no update but skipped ones, after which a run stops
# How long a process waits for the others before it takes one of them for lost. They sample apart for minutes and wait
# for the slowest; and for rank 0, which reads a state twice to sum it up and to check it.
PATIENCE = timedelta(minutes=30)


def option(default, help, **metadata):
    """A dataclass field that parse_config turns into a flag. metadata: choices, or positional=True: no flag; of a
    number least (0 where nothing is said, None: it may be negative) and most."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help, **metadata})
    return field(default=default, metadata={"help": help, **metadata})


def dtype_option():
    """The field `dtype` of a script's configuration, for start()."""
    return option("", "computed in; none: bfloat16 on a GPU that has it, else float32. Trained weights are float32",
                  choices=["", "bfloat16", "float32"])


def parse_config(config_class, description, presets=None, argv=None):
    """The command line of a dataclass of option() fields -> an instance of it.

    list fields take several values, bool fields also have --no-NAME. With presets, {name: {field: value}}, the values
    of --preset NAME stand where no flag overrides them. ValueError for a number that its option() does not allow.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for item in fields(config_class):
        flag = "--" + item.name.replace("_", "-")
        default = item.default_factory() if item.default is MISSING else item.default
        given = {"default": default, "help": item.metadata["help"]}
        if item.metadata.get("positional"):
            parser.add_argument(item.name, nargs="?", **given)
        elif item.type is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **given)
        elif item.type is list:
            parser.add_argument(flag, nargs="+", action="extend", **given)
        else:
            parser.add_argument(flag, type=item.type, choices=item.metadata.get("choices"), **given)
    if presets:
        given = sys.argv[1:] if argv is None else argv
        asked = [word for word in given if word not in ("-h", "--help")]  # so that help shows the preset's values
        parser.set_defaults(**presets.get(parser.parse_args(asked).preset, {}))
    config = config_class(**vars(parser.parse_args(argv)))
    for item in (item for item in fields(config) if item.type in (int, float)):
        value, flag = getattr(config, item.name), "--" + item.name.replace("_", "-")
        least, most = item.metadata.get("least", 0), item.metadata.get("most")
        if not math.isfinite(value) or least is not None and value < least or most is not None and value > most:
            raise ValueError(f"{flag} {value}: must be {'a number' if least is None else f'at least {least}'}"
                             f"{'' if most is None else f' and at most {most}'}")
    return config


@dataclass
class Processes:
    """This process among `world`: its rank, device, device mesh, and the dtype it computes in."""

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

    def on_main(self, act, *args):
        """act(*args) on rank 0 alone; what it returns, or the error it met with files, reaches every process."""
        result = None
        if self.main:
            try:
                result = act(*args)
            except (OSError, ValueError) as error:
                result = error
        result = self.gather(result)[0]
        if isinstance(result, Exception):
            raise result
        return result


def start(shard_within=0, dtype=""):
    """Join the process group that torchrun describes, or make one of a single process. -> Processes

    dtype: name of what is computed in; none: bfloat16 on a GPU that has it (Ampere and later), else float32.

    shard_within: neighbouring processes that share one copy of the weights, 0 is all. If fewer than all, the mesh has
    two dimensions, copies and shards of a copy, and only gradients pass between the copies.
    """
    cuda = torch.cuda.is_available()
    backend = "nccl" if cuda else "gloo"
    if cuda:
        local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(f"process {local + 1} of this machine has no GPU, it has {gpus}; lower --nproc_per_node")
        torch.cuda.set_device(local)
    if "RANK" in os.environ:
        try:
            store, rank, world = next(dist.rendezvous("env://", timeout=PATIENCE))
        except ValueError as error:  # RANK stands alone
            raise ValueError(f"{error}; start several processes by torchrun") from None
        if os.environ.get("GROUP_WORLD_SIZE") == "1":
            # torchrun keeps its store through --max-restarts, with the addresses of the processes before in it.
            # (On several machines each torchrun counts for itself; TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 helps there.)
            store = dist.PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    world = dist.get_world_size()
    shards = shard_within or world
    if shards < 1 or world % shards:
        raise ValueError(f"--shard-within {shard_within} does not divide the {world} processes")
    shape, names = ((world // shards, shards), ("copies", "shards")) if shards < world else ((world,), ("shards",))
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
    half = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = getattr(torch, dtype or ("bfloat16" if half else "float32"))
    return Processes(dist.get_rank(), world, device, mesh, dtype)


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
            config = replace(config, vocab_size=Tokenizer(tokenizer_directory, math.inf).size)
        return init_model(config, seed), read_tokenizer_files(tokenizer_directory)
    if not Path(name).is_dir():
        raise ValueError(f"{name}: no such directory, nor one of the presets {', '.join(PRESETS)}")
    if (Path(name) / "run.json").exists() and not (Path(name) / "config.json").exists():
        ended = any(Path(name).glob("state/step-*")) and "--steps 1 added ends one of train_crpo.py at its last state"
        raise ValueError(f"{name}: an unfinished run, its model is not written yet; the same command goes on with it"
                         f"{'; ' + ended if ended else ''}")
    return load_model(name), read_tokenizer_files(tokenizer_directory or name)


def read_tokenizer_files(directory):
    paths = [Path(directory) / name for name in TOKENIZER_FILES]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def shard(model, processes):
    """FSDP2: layers, then the rest, sharded in place over the processes' mesh (one of two dimensions: sharded over the
    last, copied over the first). Compute and gathers in the processes' dtype, master weights and gradient reduction in
    float32."""
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
    copy_shards(model, copy)
    return copy


@torch.no_grad()
def copy_shards(model, copy):
    """Make the weights of a sharded copy those of the model; every process copies its own shards."""
    model.reshard()
    copy.reshard()
    for source, target in zip(model.parameters(), copy.parameters(), strict=True):
        target.copy_(source)


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


def step_if_finite(model, optimizer, loss, grad_clip):
    """Clip the gradients, take the optimizer's step unless the loss or their norm is NaN or infinite, clear them.

    loss: the mean over all processes. -> the norm before clipping, a number; and whether the step was taken. A
    collective, and no process decides alone: loss and norm are the same on all.
    """
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    finite = math.isfinite(loss) and math.isfinite(norm)
    if finite:
        optimizer.step()
    optimizer.zero_grad()
    return norm, finite


class RunDirectory:
    """--out: a model directory plus run.json (the config), metrics.jsonl, samples.jsonl and state/ (to go on from).

    Only rank 0 writes, but for the shards of a state. A run that has a state is not finished: the same command
    continues it (`continued`), another configuration is refused. One without, or with --fresh, is moved aside, to
    NAME.1, NAME.2, ..., and says so. Refused too: a directory of something else, or where another run is at work.

    A state is all that the rest of a run depends on: weights, optimizer, step, and a script's own values (schedule,
    beta). Only the data and the start model, which is the reference, are not in it: run.json holds digests of them, and
    where they have changed the run does not go on. No random state is in it, for there is none: data order and rollouts
    are drawn from generators made anew from (seed, step or epoch, prompt, rollout); neither dropout nor AdamW draws.
    """

    def __init__(self, path, config, processes, tokenizer_files, data, free=(), rewards=None):
        """data: what is trained on, a list of plain values; free: names of fields that may change when the run goes on,
        besides FREE; rewards: {objective: weight}."""
        self.free = FREE.union(free)
        self.path, self.processes, self.tokenizer_files = Path(path), processes, tokenizer_files
        self.save_every, self.nonfinite, self.lock = config.save_every, 0, None
        self.continued = processes.on_main(self._open, asdict(config), data, rewards)  # a folder of state/, or False

    def _open(self, config, data, rewards):
        weights = fingerprint(config["model"]) if Path(config["model"]).is_dir() else ""
        latest, began_with = False, {"weights": weights, "data": digest_of([*map(digest_of, data)]), "rewards": rewards}
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            if not any(self.path.glob("run.json*")):  # also of a run killed while it wrote this one first file
                raise ValueError(f"--out {self.path}: exists and is not an earlier run; give a new directory")
            read = [config["model"], config["tokenizer"], *config["data"], *config.get("eval_data", [])]
            inside = [name for name in read if name and Path(name).resolve().is_relative_to(self.path.resolve())]
            if inside:
                raise ValueError(f"{inside[0]} lies in --out {self.path}, which is moved aside at the start: the run "
                                 "could not go on after a stop; give another --out")
            self._lock()
            restarted = any(os.environ.get(name, "0") != "0" for name in RESTARTS)
            latest = (restarted or not config["fresh"]) and self._latest()
            if restarted and not latest and (self.path / "config.json").exists():
                raise ValueError(f"--out {self.path}: the run there is finished; a restart does not begin it anew")
            if not latest:
                earlier = self.path.rename(f"{self.path}.{free_number(self.path)}")
                print(f"the earlier run in {self.path} is now {earlier}", flush=True)
            else:
                old = read_json(self.path / "run.json")
                changed = [k for k, v in old.pop("began_with", {}).items() if v != began_with[k]]
                differ = [f"{k}: {old.get(k)} there, {config.get(k)} here" for k in sorted({*old, *config} - self.free)
                          if old.get(k) != config.get(k)]
                if differ:
                    raise ValueError(
                        f"--out {self.path}: holds an unfinished run of another configuration ({'; '.join(differ)}); "
                        "give its flags to go on, --fresh to move it aside, or another --out")
                if changed:
                    raise ValueError(f"--out {self.path}: holds an unfinished run that began with other {changed[0]} "
                                     "under the same name; put those back to go on, or give --fresh or another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "run.json", {**config, "began_with": began_with})
        self._lock()
        return latest

    def _lock(self):
        """Hold run.json while this process lives, so that no second run, nor a first one that lost its launcher but
        not its life, writes here too."""
        if (self.path / "run.json").exists():
            self.lock = open(self.path / "run.json", "r+")
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"--out {self.path}: another run is at work there; end it, or give another "
                                 "--out") from None
            except OSError:
                print(f"warning: {self.path} cannot be locked; see that no second run writes there", flush=True)

    def _latest(self):
        """The newest whole state of this directory, or False; a damaged one is named and passed over."""
        for folder in sorted(self.path.glob("state/step-*[0-9]"), reverse=True):
            if _is_whole(folder):
                return str(folder)
            print(f"{folder} is damaged; going back to the state before it", flush=True)
        return False

    def keep_state(self, model, optimizer, schedule, step, steps, values, stopping, best=None):
        """After a step: save a state where one is due, and end the run where a signal has come to any process (exit
        status 1). A collective. values: JSON, what load_state returns; best: a second model to keep."""
        stopping = self.processes.sum([stopping])[0] > 0
        if stopping or self.save_every and step % self.save_every == 0 and step < steps:
            saved = self.save_state(model, optimizer, step, {**values, "schedule": schedule.state_dict()}, best)
        if stopping:
            where = "there" if saved else "the last state, if there is one"
            self.processes.say(f"\nstopped after step {step}, on a signal; the same command goes on from {where}")
            stop()
            sys.exit(1)

    def save_state(self, model, optimizer, step, values, best=None):
        """Save what continuing after `step` needs; a collective. -> whether that worked; if not, earlier states stay.

        Written under a temporary name, verified, renamed; the two newest stay.
        """
        folder = self.path / "state" / f"step-{step:08d}"
        temporary = folder.with_suffix(".tmp")
        self.processes.on_main(shutil.rmtree, temporary, True)
        try:
            dcp.save(_state(model, optimizer, best), checkpoint_id=temporary)
            self.processes.on_main(self._seal, temporary, folder, {"step": step, **values})
        except (OSError, CheckpointException) as error:
            self.processes.on_main(shutil.rmtree, temporary, True)
            free = shutil.disk_usage(self.path).free / 2**30
            self.processes.say(f"\nwarning: no state saved after step {step}: {_reason(error)}; {free:.3g} GiB are "
                               "free there; the run goes on, earlier states are as they were")
            return False
        return True

    def _seal(self, temporary, folder, values):
        for info in dcp.FileSystemReader(temporary).read_metadata().storage_data.values():
            shard = temporary / info.relative_path
            if not shard.exists() or shard.stat().st_size < info.offset + info.length:
                raise OSError(f"{shard} is not here or too short; all machines must share the disk of --out")
        write_json(temporary / "values.json", values)
        write_json(temporary / "sums.json", {f.name: _checksum(f) for f in sorted(temporary.iterdir())})
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        for old in sorted(f for f in folder.parent.glob("step-*[0-9]") if f <= folder)[:-KEPT_STATES]:
            shutil.rmtree(old, ignore_errors=True)

    def load_state(self, model, optimizer, schedule, best=None):
        """Restore a continued run's models, optimizer and schedule, and cut its logs back. -> the saved values"""
        folder = Path(self.continued)
        state = _state(model, optimizer, best)
        try:
            dcp.load(state, checkpoint_id=folder)
        except CheckpointException as error:
            raise ValueError(f"{folder} cannot be loaded: {_reason(error)}") from None
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        if best:
            best.load_state_dict(state["best"])
        values = json.loads((folder / "values.json").read_text(encoding="utf-8"))
        schedule.load_state_dict(values["schedule"])
        self.processes.on_main(self._cut_logs, values["step"])
        self.processes.say(f"continuing {self.path} after step {values['step']}")
        return values

    def _cut_logs(self, step):
        for log in (self.path / name for name in LOGS if (self.path / name).exists()):
            lines = log.read_bytes().split(b"\n")[:-1]  # a last line without its end is half written
            try:
                kept = [line + b"\n" for line in lines if json.loads(line)["step"] <= step]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{log}: a line is damaged ({error!r}); mend or remove it to go on") from None
            log.with_suffix(".tmp").write_bytes(b"".join(kept))
            os.replace(log.with_suffix(".tmp"), log)

    def log(self, row, samples=()):
        """Add a step's row to metrics.jsonl and each process's samples to samples.jsonl; a collective.

        NaN and infinity become null. row["nonfinite"]: updates that were skipped for one; "loss" is then of the others.
        ValueError after NONFINITE_LIMIT steps in a row without another; OSError if a log cannot be written.
        """
        row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        samples = [sample for part in self.processes.gather(samples) for sample in part]
        if samples:
            self.processes.on_main(self._append, "samples", samples)
        self.processes.on_main(self._append, "metrics", [row])
        if row["nonfinite"]:
            self.processes.say(f"\nwarning: step {row['step']}: a loss or gradient is NaN or infinite; "
                               f"{row['nonfinite']} update(s) skipped")
        self.nonfinite = self.nonfinite + 1 if row["nonfinite"] and row["loss"] is None else 0
        if self.nonfinite == NONFINITE_LIMIT:
            raise ValueError(
                f"every loss or gradient of the last {NONFINITE_LIMIT} steps was NaN or infinite; no such update was "
                f"taken, so the states in {self.path}/state are sound; see what samples.jsonl marks as nonfinite, then "
                "start with a lower --lr or other data")

    def _append(self, name, rows):
        path = self.path / f"{name}.jsonl"
        try:
            with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                file.flush()
                os.fsync(file.fileno())  # no state outlives its log
        except OSError as error:
            raise OSError(f"{path} cannot be written: {error}; mend that, and the same command goes on from the last "
                          "state") from None

    def save(self, model, tokenizer):
        """Write the (sharded) model as a Hugging Face directory; the run is then finished. A collective."""
        weights = {}
        model.reshard()
        for name, parameter in model.named_parameters():
            full = parameter.full_tensor()
            if self.processes.main:
                weights[name] = full.detach().cpu()
        self.processes.on_main(self._finish, model.config, weights, tokenizer)

    def _finish(self, config, weights, tokenizer):
        try:
            for name, content in self.tokenizer_files.items():
                (self.path / name).write_bytes(content)
            save_model(self.path, config, weights, tokenizer.eos_ids, tokenizer.pad_id)
        except (OSError, SafetensorError) as error:
            for half in self.path.glob("*.tmp"):
                half.unlink()
            raise OSError(f"the model cannot be written to {self.path}: {error}; mend that, and the same command goes "
                          "on from the last state") from None
        if (self.path / "state").exists():
            os.sync()  # the model is on the disk before the state goes, and the state goes at once
            (self.path / "state").rename(self.path / "state.old")
            shutil.rmtree(self.path / "state.old", ignore_errors=True)


def _state(model, optimizer, best):
    fresh = not optimizer.state
    model_state, optimizer_state = get_state_dict(model, optimizer)
    for moments in optimizer.state.values() if fresh else ():  # torch has made them by a step of no gradient
        moments["step"].zero_()
    state = {"model": model_state, "optimizer": optimizer_state}
    return state | {"best": get_model_state_dict(best)} if best else state


def _reason(error):
    """An error in one line; DCP's hold a traceback of every process."""
    if isinstance(error, CheckpointException):
        error = "; ".join(f"process {rank}: {e}" for rank, (e, _) in sorted(error.failures.items()))
    return " ".join(str(error).split())


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


def fail(error, memory=""):
    """End with one line on what is wrong, and what to do, instead of a traceback; a RuntimeError that is neither out of
    memory nor the loss of another process is raised again, as is a ValueError that no line `raise` of this
    project made: a bug, in a verifier say. memory: the flags that lower its use."""
    rank, text = os.environ.get("RANK", "0"), " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError):
        sys.exit(f"\nerror: process {rank}: {text}\nwhat lowers it: {memory}")
    if isinstance(error, RuntimeError):
        if not (isinstance(error, dist.DistError) or "gloo" in text):
            raise error
        sys.exit(f"\nerror: process {rank}: another process of this run is gone or stands still; torchrun's summary "
                 f"names it, and the same command goes on from the last state ({text[:150]})")
    last = traceback.extract_tb(error.__traceback__)[-1]
    meant = Path(last.filename).parent == Path(__file__).parent and (last.line or "").startswith("raise")
    if isinstance(error, ValueError) and not meant:
        raise error
    sys.exit(f"error: {error}")


def script(main, config_class, doc, memory, presets=None):
    """Run a script's main on its command line; doc: the script's, whose first line describes it; memory: of fail()."""
    try:
        main(parse_config(config_class, doc.split("\n")[0], presets))
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None: the caller has closed it
            stream.flush()
    except (ValueError, OSError, RuntimeError) as error:
        fail(error, memory)
    except KeyboardInterrupt:
        sys.exit("\nstopped")
    # Past the interpreter's own end, in which a finished run of two processes was twice seen to abort ("terminate
    # called without an active exception"): probably a thread of gloo that lets go of a tensor and finds no interpreter.
    os._exit(0)
