"""Rows made in batches by one process or many, written as they are finished, and continued after an interruption.

A batch is `size` neighbouring rows whatever the number of processes and wherever an earlier start ended, so a result
whose rounding depends on its batch is the same to the bit as an undisturbed one.
"""

import hashlib
import json
import os
from pathlib import Path

from tqdm import tqdm

from checkpoint import write_json


def streamed(ids, size, make, processes, path=None, settings=None, renew=None):
    """One row {"question": id, ...} for each of `ids`: make(range of indices) -> their rows, `size` at a time, the
    batches dealt to the processes in turn. -> [row], on every process

    With a path (NAME.jsonl) rank 0 appends each batch to it as JSON lines; `settings` lie in table_of(path). A file of
    the same settings is continued: its rows are not made again, only passed through renew(index, row), which derives
    anew what is derived. A file of other settings is moved aside, which is said. ValueError for a damaged file.
    """
    rows = []
    if path:
        rows = processes.gather(_open(path, settings, ids, size, renew) if processes.main else None)[0]
    batches = [range(i, min(i + size, len(ids))) for i in range(len(rows), len(ids), size)]
    bar = tqdm(total=len(ids), initial=len(rows), desc=path and path.stem, dynamic_ncols=True,
               disable=None if path and processes.main else True)  # None: shown on a terminal only
    for turn in range(0, len(batches), processes.world):
        mine = batches[turn + processes.rank:turn + processes.rank + 1]
        made = [row for part in processes.gather([row for batch in mine for row in make(batch)]) for row in part]
        if path and processes.main:
            _write(path, "a", made)
        rows += made
        bar.update(len(made))
    bar.close()
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


def rewrite(path, rows):
    """Replace a JSON-lines file at once, so that no reader ever sees half of it."""
    temporary = path.with_name(path.name + ".tmp")
    _write(temporary, "w", rows)
    os.replace(temporary, path)


def _write(path, mode, rows):
    # a lone surrogate, which only JSON can hold, becomes JSON's own escape of it
    with open(path, mode, encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _open(path, settings, ids, size, renew):
    """The rows to continue from; none after the file was started anew."""
    table = table_of(path)
    old = json.loads(table.read_text(encoding="utf-8")) if table.exists() else {}
    if not path.exists() or any(name not in old or old[name] != value for name, value in settings.items()):
        _move_aside(table, path)
        write_json(table, settings)  # before the first row, so that rows never lie beside another's settings
        path.touch()
        return []
    *lines, half = path.read_bytes().split(b"\n")
    if half:
        print(f"{path}: the last line is half written and dropped", flush=True)
    try:
        rows = [json.loads(line) for line in lines]
    except ValueError:
        rows = [None]
    if len(rows) > len(ids) or any(not isinstance(r, dict) or r.get("question") != i for i, r in zip(ids, rows)):
        raise ValueError(f"{path}: damaged, its lines are not these questions in order; remove it to start anew")
    if len(rows) < len(ids):
        rows = rows[:len(rows) // size * size]
    rows = [renew(i, row) for i, row in enumerate(rows)]
    rewrite(path, rows)
    print(f"{path}: " + (f"continued after {len(rows)} of {len(ids)} questions" if len(rows) < len(ids) else
                         f"holds all {len(ids)} questions already; none is asked again"), flush=True)
    return rows


def _move_aside(*paths):
    """Rename every file that exists to NAME.1, or the first number that is free for all of them, and say so."""
    number, there = 1, [path for path in paths if path.exists()]
    while any(Path(f"{path}.{number}").exists() for path in paths):
        number += 1
    for path in there:
        path.rename(f"{path}.{number}")
    if there:
        print(f"{there[-1]} is of other settings; it is now {there[-1].name}.{number}", flush=True)
