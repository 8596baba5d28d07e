"""Rows made in batches by one process or many, written as they are finished, and continued after an interruption.

A batch is `size` neighbouring rows whatever the number of processes and wherever an earlier start ended, so a result
whose rounding depends on its batch is the same to the bit as an undisturbed one. Every row is marked with its settings,
and an open file follows its renaming, so evaluations that share a folder at the same time never mix their rows; one
whose file was moved aside ends with an error where it would replace the other's (require_own).
"""

import hashlib
import json
import os
from itertools import count
from pathlib import Path

from tqdm import tqdm


def streamed(ids, size, make, processes, path=None, settings=None, renew=None):
    """One row {"question": id, ...} for each of `ids`: make(range of indices) -> their rows, `size` at a time, the
    batches dealt to the processes in turn. -> [row], on every process

    With a path (NAME.jsonl) rank 0 appends each batch to it as JSON lines, marked with a digest of `settings`. A file
    of the same settings is continued: its rows are not made again, only passed through renew(index, row), which derives
    anew what is derived. A file of other settings is moved aside, which is said; an evaluation that still writes it
    goes on doing so there. ValueError for a damaged file.
    """
    mark, rows, file = {"settings": digest_of(settings)}, [], None
    if path:
        rows = processes.on_main(_kept, path, mark, ids, size, renew)
    mine = bool(rows)
    batches = [range(i, min(i + size, len(ids))) for i in range(len(rows), len(ids), size)]
    bar = tqdm(total=len(ids), initial=len(rows), desc=path and path.stem, dynamic_ncols=True,
               disable=None if path and processes.main else True)  # None: shown on a terminal only
    for turn in range(0, len(batches), processes.world):
        own = batches[turn + processes.rank:turn + processes.rank + 1]
        made = processes.gather([{**row, **mark} for batch in own for row in make(batch)])
        made = [row for part in made for row in part]
        if path and processes.main:
            file = file or _appended(path, mine)
            _write(file, made)
            file.flush()
        rows += made
        bar.update(len(made))
    bar.close()
    if file:
        file.close()
    return rows


def table_of(path):
    """The file of settings and results beside NAME.jsonl or NAME.responses.jsonl: NAME.json."""
    return path.with_name(path.name.removesuffix(".jsonl").removesuffix(".responses") + ".json")


def fingerprint(directory):
    """A digest of a model directory's configuration and weights."""
    directory, digest = Path(directory), hashlib.sha256()
    for path in [directory / "config.json", *sorted(directory.glob("*.safetensors"))]:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def digest_of(value):
    """A digest of plain data (lists, dicts, texts, numbers)."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def require_own(path, mark):
    """ValueError if the file's rows are not of the settings with this digest: another evaluation took its place."""
    with open(path, "rb") as file:
        found = json.loads(file.readline()).get("settings")
    if found != mark:
        raise ValueError(f"{path}: another evaluation has moved this one's rows aside while it ran, so its results are "
                         "not written; when the other has ended, give the same command again")


def free_number(*paths):
    """The first number for which no PATH.number exists."""
    return next(number for number in count(1) if not any(Path(f"{path}.{number}").exists() for path in paths))


def rewrite(path, rows):
    """Replace a JSON-lines file at once, so that no reader ever sees half of it."""
    temporary = path.with_name(path.name + ".tmp")
    with _open(temporary, "w") as file:
        _write(file, rows)
    os.replace(temporary, path)


def _open(path, mode):
    # a lone surrogate, which only JSON can hold, becomes JSON's own escape of it
    return open(path, mode, encoding="utf-8", errors="backslashreplace")


def _write(file, rows):
    file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _appended(path, mine):
    """The file to append to: this evaluation's own, or a new one."""
    while not mine:
        try:
            return _open(path, "x")
        except FileExistsError:  # another evaluation's, or what a kill left of a first line
            _move_aside(table_of(path), path)
    return _open(path, "a")


def _kept(path, mark, ids, size, renew):
    """The rows of an earlier start to continue from; a file of other settings is moved aside."""
    if not path.exists():
        return []
    *lines, half = path.read_bytes().split(b"\n")
    try:
        rows = [json.loads(line) for line in lines]
        marks = [row.get("settings") for row in rows]
        same = len(rows) <= len(ids) and all(row["question"] == i for i, row in zip(ids, rows))
    except (ValueError, AttributeError, LookupError):
        marks, same = [mark["settings"]], False
    if set(marks[:1]) - {mark["settings"]}:
        _move_aside(table_of(path), path)
        return []
    if not same or set(marks) - {mark["settings"]}:
        raise ValueError(f"{path}: damaged, its lines are not these questions in order; remove it to start anew")
    if half:
        print(f"{path}: the last line is half written and dropped", flush=True)
    if len(rows) < len(ids):
        rows = rows[:len(rows) // size * size]
    rows = [{**renew(i, row), **mark} for i, row in enumerate(rows)]
    if rows:
        rewrite(path, rows)
    else:
        path.unlink()
    print(f"{path}: " + (f"continued after {len(rows)} of {len(ids)} questions" if len(rows) < len(ids) else
                         f"holds all {len(ids)} questions already; none is asked again"), flush=True)
    return rows


def _move_aside(*paths):
    """Rename every file that exists to NAME.1, or the first number that is free for all of them, and say so."""
    number = free_number(*paths)
    for path in paths:
        try:
            path.rename(f"{path}.{number}")
        except FileNotFoundError:  # never there, or moved by another evaluation this very moment
            continue
        print(f"{path} is of other settings; it is now {path.name}.{number}", flush=True)
