"""Questions, the published formats they come in, prompts, chat format and tokenizer.

A row is recognised by its fields, whatever the file is called:

    MedQA-US     question, options {A..E}, answer_idx            (4 or 5 options)
    MedMCQA      question, opa..opd, cop                         (cop is 1-based; 0-based only when told)
    MedXpertQA   question, options [{letter, content}] or {A..J}, label or answer_idx
    our own      stem, options {A..}, answer, and for cold starts response and objective

A bad row is an error that names file, line and field. Nothing is repaired, cut or skipped in silence.
"""

import gzip
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

PROMPTS = {
    "crpo": (
        "You are a careful physician. Answer with <dx> first, then <conclusion>, and write nothing outside of them. "
        "Inside <dx>, write System 1: your first impression, then System 2: your analysis, step by step, of which "
        "findings of this case support which option and why the other options are rejected. Inside <conclusion>, "
        "repeat the decisive findings and give the letter of your answer as \\boxed{letter}."
    ),
    "grpo": (
        "You are a careful physician. Think inside <think> </think>, then answer inside <answer> </answer>, and write "
        "nothing outside of them. Give the letter of your answer as \\boxed{letter}."
    ),
}


class DataError(ValueError):
    """Data that cannot be used; the message says where, what is wrong and what to do."""


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


def _text(row, name):
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"field {name}: expected text, found {json.dumps(value)[:60]}")
    return value.strip()


def _options(row, texts):
    """{letter: text} from {letter: text}; letters run from A without a gap, as everything else relies on."""
    if not isinstance(texts, dict) or len(texts) < 2:
        raise DataError("field options: expected at least two, by letter")
    if list(texts) != list(LETTERS[:len(texts)]):
        raise DataError(f"field options: letters {', '.join(map(str, texts))} do not run from A on")
    return {letter: _text(texts, letter) for letter in texts}


def _key(letter, options, name):
    if not isinstance(letter, str) or letter not in options:
        raise DataError(f"field {name}: {json.dumps(letter)[:60]} names none of the options {', '.join(options)}")
    return letter


def _medqa(row, place):
    options = _options(row, row["options"])
    key = _key(row["answer_idx"], options, "answer_idx")
    if "answer" in row and str(row["answer"]).strip() not in (options[key], key):
        raise DataError(f"field answer: {row['answer']!r} is not the text of option {key}, {options[key]!r}")
    stem, printed = _without_choices(_text(row, "question"), options)
    meta = {k: row[k] for k in ("meta_info", "medical_task", "body_system", "question_type") if row.get(k) is not None}
    source = "medxpertqa" if printed or len(options) > 5 else "medqa"
    return Question(str(row.get("id", row.get("realidx", place))), stem, options, key, source, meta)


def _medxpertqa(row, place):
    texts = row["options"]
    if isinstance(texts, list):
        if not all(isinstance(o, dict) and isinstance(o.get("letter"), str) for o in texts):
            raise DataError("field options: expected a list of {letter, content}")
        if len({o["letter"] for o in texts}) < len(texts):
            raise DataError("field options: a letter stands twice")
        texts = {o["letter"]: o.get("content") for o in texts}
    options = _options(row, texts)
    label = row.get("label", row.get("answer_idx"))
    if isinstance(label, list):
        if len(label) != 1:
            raise DataError(f"field label: expected one letter, found {len(label)}")
        label = label[0]
    key = _key(label, options, "label")
    stem, _ = _without_choices(_text(row, "question"), options)
    meta = {k: row[k] for k in ("medical_task", "body_system", "question_type") if row.get(k) is not None}
    return Question(str(row.get("id", place)), stem, options, key, "medxpertqa", meta)


def _without_choices(question, options):
    """The question without the list of choices printed at its end, and whether there was one."""
    stem, mark, printed = question.rpartition("Answer Choices:")
    if not mark:
        return question, False
    missing = [letter for letter, text in options.items() if text not in printed]
    if missing or not stem.strip():
        raise DataError(f"field question: 'Answer Choices:' is not followed by the options {', '.join(missing)}")
    return stem.strip(), True


def _medmcqa(row, place, zero_based):
    options = {letter: _text(row, f"op{letter.lower()}") for letter in "ABCD"}
    cop = row["cop"]
    if type(cop) is not int or not 0 <= cop - (not zero_based) < 4:
        hint = "; for the 0-based export say --mcqa-zero-based" if cop == 0 else ""
        raise DataError(f"field cop: {json.dumps(cop)[:60]} is not one of {'0..3' if zero_based else '1..4'}{hint}")
    meta = {k: row[k] for k in ("subject_name", "topic_name", "choice_type") if row.get(k) is not None}
    # `exp`, the explanation, gives the answer away and is dropped here.
    return Question(str(row.get("id", place)), _text(row, "question"), options, LETTERS[cop - (not zero_based)],
                    "medmcqa", meta)


def _own(row, place):
    options = _options(row, row.get("options"))
    key = _key(row.get("answer"), options, "answer")
    meta = row.get("meta", {})
    if not isinstance(meta, dict):
        raise DataError("field meta: expected an object")
    return Question(str(row.get("id", place)), _text(row, "stem"), options, key, str(row.get("source", "crpo")), meta)


def parse_row(row, place, mcqa_zero_based=False):
    """A Question from one decoded row; place is the id of a row without one. DataError names the field."""
    if not isinstance(row, dict):
        raise DataError(f"expected an object, found {json.dumps(row)[:60]}")
    if "stem" in row:
        return _own(row, place)
    if "question" in row and "cop" in row:
        return _medmcqa(row, place, mcqa_zero_based)
    if "question" in row and "options" in row:
        if "answer_idx" in row and isinstance(row["options"], dict):
            return _medqa(row, place)
        if "label" in row or "answer_idx" in row:
            return _medxpertqa(row, place)
    raise DataError(f"fields {', '.join(map(str, list(row)[:12]))} are of no known format: MedQA (question, options, "
                    "answer_idx), MedMCQA (question, opa..opd, cop), MedXpertQA (question, options, label) or our own "
                    "(stem, options, answer)")


def load_rows(path, skip_bad_rows=False, mcqa_zero_based=False):
    """[(Question, row)] of a JSON-lines file, plain or .gz.

    DataError "file:line: field: what is wrong" on the first bad row; with skip_bad_rows the bad rows are listed and
    counted on standard error, and only a file without any good row is an error.
    """
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            lines = file.read().split(b"\n")
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
    good, bad, seen = [], 0, {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(f"not UTF-8 at byte {error.start + 1} of the line; convert the file") from None
            except (ValueError, RecursionError) as error:
                raise DataError(f"not JSON ({error}); the file must hold one JSON object a line") from None
            question = parse_row(row, f"{path.stem}-{number}", mcqa_zero_based)
            if question.id in seen:
                raise DataError(f"field id: {question.id!r} stands in line {seen[question.id]} already")
            seen[question.id] = number
            good.append((question, row))
        except DataError as error:
            message = f"{path}:{number}: {error}"
            if not skip_bad_rows:
                raise DataError(message + " (--skip-bad-rows goes on without such rows)") from None
            bad += 1
            print(f"skipped {message}", file=sys.stderr)
    if bad:
        print(f"{path}: skipped {bad} bad rows, kept {len(good)}", file=sys.stderr)
    if not good:
        raise DataError(f"{path}: holds no usable row")
    return good


def load_questions(path, skip_bad_rows=False, mcqa_zero_based=False):
    """The Questions of a file; see load_rows."""
    return [question for question, _ in load_rows(path, skip_bad_rows, mcqa_zero_based)]


def load_responses(path, skip_bad_rows=False):
    """[(Question, response, objective or None)] of a cold-start file: our own format with `response`."""
    out = []
    for question, row in load_rows(path, skip_bad_rows):
        response, objective = row.get("response"), row.get("objective")
        if not isinstance(response, str) or not response.strip():
            raise DataError(f"{path}: question {question.id}: field response: expected text")
        if objective not in (None, *PROMPTS):
            raise DataError(f"{path}: question {question.id}: field objective: {objective!r} is not {' or '.join(PROMPTS)}")
        out.append((question, response, objective))
    return out


class Tokenizer:
    """tokenizer.json with the ids that generation needs. eos_ids: every id that ends a turn; end_id: <|im_end|>."""

    def __init__(self, directory):
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.exists():
            raise DataError(f"{path}: no such file; the model directory must hold its tokenizer")
        try:
            self.core = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing narrower
            raise DataError(f"{path}: not a tokenizer ({error})") from None
        # A question that contains "<|im_end|>" is plain text, so that a data row cannot forge a turn.
        self.core.encode_special_tokens = True
        self.start_id, self.end_id = (self.core.token_to_id(t) for t in ("<|im_start|>", "<|im_end|>"))
        if self.start_id is None or self.end_id is None:
            raise DataError(f"{path}: lacks <|im_start|> or <|im_end|>, which the chat format needs")
        ids = {}
        for name in ("config.json", "generation_config.json"):  # the latter has the last word
            if (directory / name).exists():
                ids |= {k: v for k, v in json.loads((directory / name).read_text(encoding="utf-8")).items() if v is not None}
        eos = ids.get("eos_token_id", [])
        self.eos_ids = sorted({self.end_id, *(eos if isinstance(eos, list) else [eos])})
        self.pad_id = ids.get("pad_token_id", self.eos_ids[0])
        self.size = max(self.core.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text):
        """Ids of plain text. Lone surrogates, which no tokenizer takes, are encoded as '?'."""
        clean = text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text
        return self.core.encode(clean, add_special_tokens=False).ids

    def decode(self, ids):
        """Text of ids; special tokens show, so that nothing a policy writes is invisible to the verifiers."""
        return self.core.decode(ids, skip_special_tokens=False)


def load_tokenizer(directory):
    return Tokenizer(directory)


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
    return chat_ids(tokenizer, PROMPTS[objective], user_text(question))


def encode_prompts(tokenizer, questions, objective, limit):
    """(questions that fit, their prompt ids, questions of more than `limit` tokens); the latter are reported."""
    kept, prompts, dropped = [], [], []
    for question in questions:
        ids = prompt_ids(tokenizer, question, objective)
        if len(ids) > limit:
            dropped.append(question)
        else:
            kept.append(question)
            prompts.append(ids)
    if dropped:
        print(f"{len(dropped)} of {len(questions)} prompts are longer than {limit} tokens and left out: "
              f"{', '.join(q.id for q in dropped[:5])}{' ...' if len(dropped) > 5 else ''}", file=sys.stderr)
    return kept, prompts, dropped


CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def build_tokenizer(texts, phrases, vocab_size, directory):
    """Train the tiny model's tokenizer on `texts` and write it to `directory`: lossless byte-level BPE.

    Each of `phrases` becomes one token wherever it stands. That is what makes a model of under a million parameters
    able to copy a finding from the case into its reasoning. The two system prompts are one token each as well: a
    constant that a tiny model need not read word by word.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?\d{1,3}|\n+|\s|[^A-Za-z\d\s]"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    # The phrases are tokens already, so the merges are learned from what stands between them.
    between = re.compile("|".join(re.escape(p) for p in sorted(phrases, key=len, reverse=True)))
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    pieces = (piece for text in [*texts, "system\nuser\nassistant\n" * 100] for piece in between.split(text))
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in [*phrases, *PROMPTS.values()]])
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
              "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
