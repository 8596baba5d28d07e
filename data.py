"""Questions, the published formats they come in, prompts, chat format and tokenizer.

A row is recognised by its fields, whatever the file is called:

    MedQA-US     question, options {A..E}, answer_idx            (4 or 5 options)
    MedMCQA      question, opa..opd, cop                         (cop is 1-based; 0-based only when told)
    MedXpertQA   question, options [{letter, content}] or {A..J}, label or answer_idx
    our own      stem, options {A..}, answer, and for cold starts response and objective

A bad row is an error that names file, line and field. Nothing is repaired, cut or skipped in silence: text stays as
published but for the white space around it, the list of choices that MedXpertQA prints after its question, and
MedMCQA's explanation, which gives the answer away.
"""

import gzip
import json
import os
import reprlib
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import tokenizers

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# The tags and headings stand in rewards.py (extract_answer, MARKUP, clinical, thinking), clinic.py and report.py too.
PROMPTS = {
    "crpo": "You are a careful physician. Answer in this form, and write nothing outside of it: <dx> System 1: your "
            "first impression. System 2: your analysis, step by step, of which findings of this case support which "
            "option and why the other options are rejected. </dx> <conclusion> The decisive findings again, and the "
            "letter of your answer as \\boxed{letter}. </conclusion>",
    "grpo": "You are a careful physician. Think inside <think> </think>, then answer inside <answer> </answer>, and "
            "write nothing outside of them. Give the letter of your answer as \\boxed{letter}.",
}
PROMPTS["grounded"] = PROMPTS["crpo"]


class DataError(ValueError):
    """Data that cannot be used; the message says where, what is wrong and what to do."""


class CountingError(DataError):
    """A key that counts from the other base: every row of the file is then misread, so no row of it may be used."""


@dataclass(frozen=True)
class Question:
    """One multiple-choice question. stem: the case and what is asked, without the options. options: text by letter, in
    order from A. answer: the letter of the key. source: the format it came in, or "clinic"."""

    id: str
    stem: str
    options: dict
    answer: str
    source: str
    meta: dict = field(default_factory=dict)


def _text(row, name, where="field"):
    """The text of a field; white space around it is the only thing ever removed."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where} {name}: expected text, found {reprlib.repr(value) if name in row else 'nothing'}")
    return value.strip()


def _options(row):
    """{letter: text} from {letter: text} or [{letter, content}]; letters run from A without a gap."""
    texts = row.get("options")
    if isinstance(texts, list) and all(isinstance(o, dict) and isinstance(o.get("letter"), str) for o in texts):
        texts = _unique((o["letter"], o.get("content")) for o in texts)
    if not isinstance(texts, dict) or len(texts) < 2:
        raise DataError("field options: expected at least two, as {letter: text} or a list of {letter, content}, found "
                        f"{reprlib.repr(texts)}; choices that stand in the question's text only are not read")
    if sorted(texts) != list(LETTERS[:len(texts)]):
        raise DataError(f"field options: letters {reprlib.repr(sorted(texts))} do not run from A on")
    return {letter: _text(texts, letter, "field options:") for letter in sorted(texts)}


def _key(row, name, options):
    """The letter of the key, given as "C" or ["C"]."""
    value = row.get(name)
    letter = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(letter, str) or letter not in options:
        raise DataError(f"field {name}: {reprlib.repr(value)} names none of the options {', '.join(options)}")
    return letter


def _without_choices(question, options):
    """The question without the list of choices printed at its end, and whether there was one.

    Only the very list is removed, so nothing of a case can be lost with it.
    """
    stem, mark, printed = question.rpartition("Answer Choices:")
    if not mark:
        return question, False
    choices = " ".join(f"({letter}) {text}" for letter, text in options.items())
    if printed.split() != choices.split() or not stem.strip():
        raise DataError("field question: what follows 'Answer Choices:' is not the row's own options; correct it")
    return stem.strip(), True


def _kept(row, *names):
    return {name: row[name] for name in names if row.get(name) is not None}


def _exam(row):
    """MedQA and MedXpertQA: question, options, and the key's letter in answer_idx or else label."""
    options = _options(row)
    key = _key(row, "answer_idx" if "answer_idx" in row else "label", options)
    if "label" in row and _key(row, "label", options) != key:
        raise DataError(f"field label: {reprlib.repr(row['label'])} and answer_idx differ; correct one of the two")
    answer = row.get("answer")
    if answer is not None and (not isinstance(answer, str) or answer.strip() not in (options[key], key)):
        raise DataError(f"field answer: {reprlib.repr(answer)} is not the text of option {key}; correct one of the two")
    stem, printed = _without_choices(_text(row, "question"), options)
    source = "medxpertqa" if printed or "label" in row or len(options) > 5 else "medqa"
    return stem, options, key, source, _kept(row, "meta_info", "medical_task", "body_system", "question_type")


def _medmcqa(row, zero_based):
    options = {letter: _text(row, f"op{letter.lower()}") for letter in "ABCD"}
    cop, first = row["cop"], 0 if zero_based else 1
    if type(cop) is int and cop == (4 if zero_based else 0):
        raise CountingError(f"field cop: {cop}, so this file counts its options from {1 - first}; mcqa_zero_based "
                            "(--mcqa-zero-based) is for the 0-based export, and only for it")
    if type(cop) is not int or not first <= cop < first + 4:
        raise DataError(f"field cop: expected {first} to {first + 3}, found {reprlib.repr(cop)}")
    # `exp`, the explanation, gives the answer away and is dropped here.
    meta = _kept(row, "subject_name", "topic_name", "choice_type")
    return _text(row, "question"), options, LETTERS[cop - first], "medmcqa", meta


def _own(row):
    options = _options(row)
    meta = row.get("meta", {})
    if not isinstance(meta, dict):
        raise DataError(f"field meta: expected an object, found {reprlib.repr(meta)}")
    source = _text(row, "source") if "source" in row else "crpo"
    return _text(row, "stem"), options, _key(row, "answer", options), source, meta


def parse_row(row, line, mcqa_zero_based=False):
    """A Question from one decoded row; a row without an id is named after its source and line. DataError names the
    field."""
    if "stem" in row:
        content = _own(row)
    elif "question" in row and "cop" in row:
        content = _medmcqa(row, mcqa_zero_based)
    elif "question" in row and ("answer_idx" in row or "label" in row):
        content = _exam(row)
    else:
        raise DataError(f"fields {reprlib.repr(list(row))} are of no known format: MedQA (question, options, "
                        "answer_idx), MedMCQA (question, opa..opd, cop), MedXpertQA (question, options, label) or our "
                        "own (stem, options, answer)")
    stem, options, answer, source, meta = content
    name = next((row[k] for k in ("id", "realidx") if row.get(k) is not None), f"{source}-{line}")
    if type(name) not in (str, int) or name == "":
        raise DataError(f"field id: expected text or a number, found {reprlib.repr(name)}")
    return Question(str(name), stem, options, answer, source, meta)


def _response(row):
    """(response, objective) of a cold-start row."""
    objective = row.get("objective")
    if objective is not None and objective not in list(PROMPTS):
        raise DataError(f"field objective: {reprlib.repr(objective)} is not {' or '.join(PROMPTS)}")
    return _text(row, "response"), objective


def _unique(pairs):
    """The dict of such pairs; JSON itself would silently keep the last of two."""
    found = {}
    for name, value in pairs:
        if name in found:
            raise DataError(f"{reprlib.repr(name)} stands twice in one object or list; remove one")
        found[name] = value
    return found


def _decode(raw):
    """The JSON object in bytes."""
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        why = error if isinstance(error, DataError) else f"not JSON in UTF-8 ({error}); expected one object"
        raise DataError(why) from None
    if not isinstance(value, dict):
        raise DataError(f"expected a JSON object, found {reprlib.repr(value)}")
    return value


def _note(text):
    """A line on standard error, of one process where several read the same."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)


def _load(path, skip_bad_rows, mcqa_zero_based, responses):
    """[(Question, response, objective)] of a JSON-lines file, plain or .gz; the latter two None without `responses`.

    One id is one question. It may stand several times with different responses, never twice with the same.
    """
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            lines = file.read().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    good, bad, first = {}, 0, {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = _decode(line)
            question = parse_row(row, number, mcqa_zero_based)
            key = (question.id, *(_response(row) if responses else (None, None)))
            asked = (question.stem, question.options, question.answer)
            earlier, same = first.setdefault(question.id, (number, asked))
            if asked != same or key in good:
                raise DataError(f"field id: {question.id[:60]!r} stands in line {earlier} already; rename one")
            good[key] = (question, *key[1:])
        except CountingError as error:
            raise CountingError(f"{path}:{number}: {error}") from None
        except DataError as error:
            if not skip_bad_rows:
                raise DataError(f"{path}:{number}: {error} (--skip-bad-rows goes on without such rows)") from None
            bad += 1
            _note(f"skipped {path}:{number}: {error}")
    if bad:
        _note(f"{path}: skipped {bad} bad rows, kept {len(good)}")
    if not good:
        raise DataError(f"{path}: holds no usable row")
    return list(good.values())


def load_questions(path, skip_bad_rows=False, mcqa_zero_based=False):
    """[Question] of a JSON-lines file, plain or .gz, in file order.

    DataError "file:line: field: what is wrong" on the first bad row. With skip_bad_rows bad rows are listed and counted
    on standard error instead, and only a file without any good row is an error, or one whose cop counts from another
    base than mcqa_zero_based says.
    """
    return [question for question, _, _ in _load(path, skip_bad_rows, mcqa_zero_based, responses=False)]


def load_responses(path, skip_bad_rows=False, mcqa_zero_based=False):
    """[(Question, response, objective or None)] of a cold-start file, whose rows hold a `response`."""
    return _load(path, skip_bad_rows, mcqa_zero_based, responses=True)


def _token_ids(path, size):
    """{"eos_token_id": [ids], "pad_token_id": [id]} as far as a model's configuration file names them."""
    found = {}
    try:
        raw = _decode(path.read_bytes()) if path.exists() else {}
        for name, value in _kept(raw, "eos_token_id", "pad_token_id").items():
            found[name] = value if isinstance(value, list) else [value]
            if not found[name] or not all(type(i) is int and 0 <= i < size for i in found[name]):
                raise DataError(f"{name}: {reprlib.repr(value)} is no id of a tokenizer of {size} tokens")
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return found


class Tokenizer:
    """tokenizer.json of a Hugging Face model directory, for a model of `vocab_size` embeddings, with the ids that
    generation needs. eos_ids: every id that ends a turn; start_id, end_id: <|im_start|>, <|im_end|>; size: largest id
    + 1."""

    def __init__(self, directory, vocab_size):
        path = Path(directory) / "tokenizer.json"
        try:
            self.core = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing narrower
            raise DataError(f"{path}: no tokenizer, which a model directory must hold ({error})") from None
        # A question that contains "<|im_end|>" is plain text, so that a data row cannot forge a turn.
        self.core.encode_special_tokens = True
        # A tokenizer.json holds how its last user cut and padded, which is no part of the model.
        self.core.no_truncation()
        self.core.no_padding()
        self.start_id, self.end_id = (self.core.token_to_id(t) for t in ("<|im_start|>", "<|im_end|>"))
        if not {self.start_id, self.end_id}.isdisjoint([None, *self.encode("<|im_start|><|im_end|>")]):
            raise DataError(f"{path}: lacks <|im_start|> or <|im_end|>, which the chat format needs, or they are not "
                            "marked special, so that data can forge a turn")
        self.size = max(self.core.get_vocab(with_added_tokens=True).values()) + 1
        ids = {**_token_ids(path.with_name("config.json"), self.size),
               **_token_ids(path.with_name("generation_config.json"), self.size)}  # the latter has the last word
        self.eos_ids = sorted({self.end_id, *ids.get("eos_token_id", [])})
        self.pad_id = ids.get("pad_token_id", self.eos_ids)[0]
        if self.size > vocab_size:
            raise DataError(f"{directory}: the tokenizer has {self.size} tokens, the model only {vocab_size}")

    def encode(self, text):
        """Ids of plain text. Lone surrogates, which no tokenizer takes, are encoded as '?'."""
        return self.core.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids

    def decode(self, ids):
        """Text of ids. Nothing a policy writes is invisible to the verifiers: special tokens show, and ids that a
        model's padded vocabulary has beyond the tokenizer's follow as U+FFFD."""
        known = [i for i in ids if i < self.size]
        return self.core.decode(known, skip_special_tokens=False) + "\ufffd" * (len(ids) - len(known))


def user_text(question):
    """The user's turn: the stem, a blank line, then "A) text" a line."""
    return question.stem + "\n\n" + "\n".join(f"{letter}) {text}" for letter, text in question.options.items())


def chat_ids(tokenizer, system, user):
    """ChatML of system + user + generation prompt, as Qwen's own template renders and tokenises it."""
    ids = []
    for role, content in (("system", system), ("user", user)):
        ids += [tokenizer.start_id, *tokenizer.encode(f"{role}\n{content}"), tokenizer.end_id, *tokenizer.encode("\n")]
    return [*ids, tokenizer.start_id, *tokenizer.encode("assistant\n")]


def prompt_ids(tokenizer, question, objective):
    """Ids of the prompt that asks `question` in the format of `objective`."""
    return chat_ids(tokenizer, PROMPTS[objective], user_text(question))


def encode_prompts(tokenizer, questions, objective, limit):
    """Prompt ids of each question, None where they are more than `limit` tokens; these are counted and reported."""
    prompts = [prompt_ids(tokenizer, question, objective) for question in questions]
    dropped = [question.id for question, ids in zip(questions, prompts) if len(ids) > limit]
    if dropped:
        _note(f"{len(dropped)} of {len(questions)} prompts are longer than {limit} tokens and left out: "
              f"{', '.join(dropped[:5])}{' ...' if len(dropped) > 5 else ''}")
    return [ids if len(ids) <= limit else None for ids in prompts]
