"""rewards.py on hostile and odd responses: hand-worked rewards, no exception, linear time, no free reward."""

import json
import random
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest

import clinic
import measures
import rewards
from data import load_questions

Q = SimpleNamespace(
    stem="A 63-year-old man has sharp chest pain, pericardial friction rub, mild acne, and troponin of 90 ng/L. "
    "What is the most likely diagnosis?",
    options={
        "A": "acute pericarditis",
        "B": "aortic dissection",
        "C": "myocardial infarction",
        "D": "pulmonary embolism",
        "E": "infarction",
    },
    answer="A",
)

S1 = "sharp chest pain and pericardial friction rub suggest acute pericarditis."
S2 = (
    "sharp chest pain supports acute pericarditis. troponin of 90 ng/L supports acute pericarditis. "
    "B) aortic dissection is unlikely because tearing back pain is absent. "
    "C) myocardial infarction is unlikely because pericardial friction rub does not fit it."
)
END = r"sharp chest pain and pericardial friction rub point to A) acute pericarditis. \boxed{A}"


def crpo(first=S1, second=S2, end=END):
    return f"<dx> System 1: {first} System 2: {second} </dx><conclusion> {end} </conclusion>"


def grpo(thought=S1, end=r"\boxed{A}"):
    return f"<think> {thought} </think><answer> {end} </answer>"


GOOD = crpo()
BOX = r"\boxed{A}"
INSIDE = "the picture here is best explained by inflammation of the pericardial sac"
CHEST_AND_RUB = "sharp chest pain and pericardial friction rub"


def answered(text):
    return f"<conclusion>{text}</conclusion>"


# ---- The answer --------------------------------------------------------------------------------------------------

ANSWERS = [  # inside the conclusion -> the letter
    (r"\boxed{A}", "A"),
    (r"\boxed{ c }", "C"),
    (r"\boxed {B}", "B"),
    (r"\boxed{\text{C}}", "C"),
    (r"\boxed{\textbf{C}}", "C"),
    (r"\boxed{\mathrm{C}}", "C"),
    (r"\boxed{\text{C}: myocardial infarction}", "C"),
    (r"\boxed{\textbf{\text{D}}}", "D"),
    (r"\boxed{C.}", "C"),
    (r"\boxed{(C)}", "C"),
    (r"\boxed{C)}", "C"),
    (r"\boxed{c:}", "C"),
    (r"\boxed{C: myocardial infarction}", "C"),
    (r"\boxed{C. Myocardial  Infarction}", "C"),
    (r"\boxed{(C) myocardial infarction}", "C"),
    (r"\boxed{aortic dissection}", "B"),
    (r"\boxed{C) \text{Myocardial infarction}}", "C"),
    (r"\boxed{\text{C}) \text{ Myocardial infarction}}", "C"),
    (r"\boxed{\text{C. } \text{Myocardial infarction}}", "C"),
    (r"\boxed{\text{Myocardial\ infarction}}", "C"),
    (r"\boxed{C. Myocardial infarction.}", "C"),
    (r"\boxed{Myocardial infarction.}", "C"),
    (r"\boxed{C - Myocardial infarction}", "C"),
    (r"\boxed{C Myocardial infarction}", "C"),
    (r"\boxed{Option C}", "C"),
    (r"\boxed{letter: C}", "C"),
    (r"\boxed{Answer: C}", "C"),
    (r"\boxed{letter}", None),
    (r"\boxed{option C or E}", None),
    (r"\boxed{C - E}", None),
    (r"\boxed{C) E}", None),
    (r"\boxed{C/E}", None),
    (r"\boxed{C-E}", None),
    (r"\boxed{C. infarction}", None),
    (r"\boxed{C: aortic dissection}", None),
    (r"\boxed{C: infarction}", None),
    (r"\boxed{}", None),
    (r"\boxed{ }", None),
    (r"\boxed{Z}", None),
    (r"\boxed{F}", None),
    (r"\boxed{A or B}", None),
    (r"\boxed{A, B}", None),
    (r"\boxed{AB}", None),
    (r"\boxed{A) B)}", None),
    (r"\boxed{A}\boxed{A}", "A"),
    (r"\boxed{A} or \boxed{a}", "A"),
    (r"\boxed{A} \boxed{B}", None),
    (r"\boxed{A} \boxed{}", None),
    (r"\boxed{A} \boxed{Z}", None),
    (r"\boxed{A} \boxed{B", None),
    (r"\boxed{A", None),
    (r"\boxed{\boxed{A}}", None),
    (r"\boxed{{A}}", None),
    ("\\boxed{\u200bA}", None),
    ("\\boxed{\u0410}", None),
    ("\\boxed{\0A}", None),
    ("\\boxed{\ud800}", None),
    ("\\boxed{\uff21}", None),
    ("\\boxed{ß}", None),
    (r"boxed{A}", None),
    (r"the answer is A", None),
    ("", None),
]


@pytest.mark.parametrize("inside, letter", ANSWERS)
def test_answer(inside, letter):
    assert rewards.extract_answer(answered(inside), Q.options) == letter
    assert rewards.extract_answer(f"<answer>{inside}</answer>", Q.options) == letter
    assert rewards.accuracy(answered(inside), Q) == (letter == "A")


@pytest.mark.parametrize(
    "response, letter",
    [
        (BOX, None),
        (f"{BOX} <conclusion></conclusion>", None),
        (f"<conclusion>{BOX}", None),
        (f"{BOX}</conclusion>", None),
        (f"<dx>{BOX}</dx><conclusion>A</conclusion>", None),
        (f"<CONCLUSION>{BOX}</CONCLUSION>", None),
        (f"<think>{BOX}</think>", None),
        (f"{BOX} then {answered(BOX)}", "A"),
        (rf"\boxed{{acute pericarditis}} then {answered(BOX)}", "A"),
        (rf"\boxed{{B}} then {answered(BOX)}", None),
        (rf"\boxed{{8400 mL}} then {answered(BOX)}", "A"),  # an intermediate result
        (rf"\boxed{{B then {answered(BOX)}", "A"),
        (rf"{answered(BOX)} \boxed{{aortic dissection}}", None),
        (answered(BOX) + answered(BOX), "A"),
        (answered(BOX) + answered(r"\boxed{B}"), None),
        (answered(BOX) + "<answer>\\boxed{B}</answer>", None),
        (answered("x") + answered(BOX), "A"),
        (f"<conclusion><conclusion>{BOX}</conclusion></conclusion>", "A"),
    ],
)
def test_answer_place(response, letter):
    assert rewards.extract_answer(response, Q.options) == letter


@pytest.mark.parametrize(
    "options, box, letter",
    [
        ({"A": "-0.45", "B": "0.45"}, "0.45", "B"),
        ({"A": "-0.45", "B": "0.45"}, "-0.45", "A"),
        ({"A": "-0.45", "B": "0.45"}, "A: 0.45", None),
        ({"A": "-0.45", "B": "0.45"}, "A: -0.45", "A"),
        ({"A": "(+)", "B": "(-)"}, "(-)", "B"),
        ({"A": "(+)", "B": "(-)"}, "A. (-)", None),
        ({"A": "+", "B": "(+)"}, "+", "A"),
        ({"A": "B", "B": "A"}, "A", "A"),
        ({"A": "B", "B": "A"}, "A: B", "A"),
        ({"A": "B", "B": "A"}, "A: A", None),
        ({"A": "bc", "B": "A b"}, "A b", "B"),
        ({"A": "bc", "B": "A b"}, "BC", "A"),
        ({"A": "4.6", "B": "4.6", "C": "5"}, "4.6", None),
        ({"A": "4.6", "B": "4.6", "C": "5"}, "B: 4.6", "B"),
        ({"A": "", "B": "x"}, "", "A"),
        ({"A": "", "B": ""}, "", None),
        ({}, "A", None),
        ({"A": "↑", "B": "↓"}, "↓", "B"),
        ({"A": "GIC.", "B": "GIC"}, "GIC", "B"),
        ({"A": "x{y}", "B": "z"}, "x{y}", "A"),
        ({"A": "\ud800", "B": "\0"}, "\0", "B"),
    ],
)
def test_answer_with_odd_options(options, box, letter):
    assert rewards.extract_answer(answered(rf"\boxed{{{box}}}"), options) == letter


# ---- Form --------------------------------------------------------------------------------------------------------

FORMS = [  # response, clinical, thinking
    ("the example of the clinic", GOOD, 1.5, 0),
    (
        "white space around and between",
        f"\n {GOOD.replace('</dx><', '</dx> {0} <').replace('{0}', chr(10))} \n",
        1.5,
        0,
    ),
    ("the baseline's", grpo(), 0, 1),
    ("a wrong answer in the right form", crpo(end=END.replace("{A}", "{B}")), 1.5, 0),
    ("no box, but text", crpo(end="sharp chest pain and pericardial friction rub point to it."), 1.5, 0),
    ("no box, and one finding", crpo(end="sharp chest pain decides it."), 1, 0),
    ("no box, but the key's name", crpo(end="sharp chest pain means acute pericarditis."), 1, 0),
    (
        "a sentence of the stem as dx",
        crpo(first=Q.stem.split(". ")[0] + ".", second="Pericarditis fits best.",
             end=f"troponin of 90 ng/L and mild acne point to it. {BOX}"),
        1,
        0,
    ),
    (
        "short phrases of the stem as dx",
        crpo(first="sharp chest pain. pericardial friction rub.", second="Pericarditis fits best.",
             end=f"sharp chest pain and pericardial friction rub point to it. {BOX}"),
        1.5,
        0,
    ),
    (
        "short sentences copied in another order",
        crpo(second="Rubs come from a sac. This sac is sore now. Leaning eases such pain.",
             end=f"Leaning eases such pain. This sac is sore now. Rubs come from a sac. {CHEST_AND_RUB}. {BOX}"),
        1,
        0,
    ),
    (
        "shorter ones, which are no copies",
        crpo(second="That is so. All right. So be it. Yes indeed. It fits well. Rub it out.",
             end=f"It fits well. Yes indeed. Rub it out. All right. So be it. That is so. {CHEST_AND_RUB}. {BOX}"),
        1.5,
        0,
    ),
    (
        "a quotation of the stem, which is no copy",
        crpo(first="sharp chest pain by pericardial friction rub by troponin of 90 ng/L means pericarditis.",
             end=f"sharp chest pain by pericardial friction rub by troponin of 90 ng/L. {BOX}"),
        1.5,
        0,
    ),
    ("a box alone", crpo(end=BOX), 1, 0),
    ("a name and a box", crpo(end=f"acute pericarditis. {BOX}"), 1, 0),
    ("one finding and the name chosen", crpo(end=f"sharp chest pain means A) acute pericarditis. {BOX}"), 1.5, 0),
    ("one finding three times", crpo(end=f"sharp chest pain, sharp chest pain, sharp chest pain. {BOX}"), 1, 0),
    ("every option named", crpo(end=f"Not {', '.join(Q.options.values())}. {BOX}"), 1, 0),
    (
        "findings dx does not discuss",
        crpo(
            second="troponin of 90 ng/L supports acute pericarditis.",
            first="pericarditis fits best.",
            end=f"mild acne and sharp chest pain decide. {BOX}",
        ),
        1,
        0,
    ),
    ("a changed value", crpo(end=f"troponin of 80 ng/L and mild acne point away. {BOX}"), 1, 0),
    ("the exact value", crpo(end=f"troponin of 90 ng/L and sharp chest pain point to it. {BOX}"), 1.5, 0),
    ("a conclusion that copies dx", crpo(end=f"{S1} {S2} {BOX}"), 1, 0),
    ("a conclusion that copies one sentence", crpo(end=f"{S1} {BOX}"), 1, 0),
    ("a copy in upper case", crpo(end=f"{S1.upper()} {BOX}"), 1, 0),
    ("a copy with another order of sentences", crpo(end=f"{'. '.join(reversed(S2.split('. ')))} {BOX}"), 1, 0),
    (
        "a copy of the inside of a sentence",
        crpo(
            second=f"Given all that, {INSIDE} itself.",
            end=f"So {INSIDE}. sharp chest pain and pericardial friction rub. {BOX}",
        ),
        1,
        0,
    ),
    ("an empty System 1", crpo(first=""), 0, 0),
    ("an empty System 2", crpo(second=""), 0, 0),
    ("System 1 of dots", crpo(first="... ... ... !!!"), 0, 0),
    ("System 1 of stop words", crpo(first="it is the of and then it was"), 0, 0),
    ("System 1 of one word repeated", crpo(first="pain pain pain pain pain"), 0, 0),
    ("System 1 of tags", crpo(first="<p> <div> <span> <table>"), 0, 0),
    ("System 1 of commands", crpo(first=r"\text \alpha \beta \pain"), 0, 0),
    ("System 1 of numbers", crpo(first="1 2 3 4 5 6 7 8"), 0, 0),
    ("System 1 of longer numbers", crpo(first="10 20 30 40"), 0, 0),
    ("System 1 of letters", crpo(first="x y z w"), 0, 0),
    ("System 1 invisible", crpo(first="\u200b \u2060 \ufeff \u200b"), 0, 0),
    ("an empty conclusion", crpo(end=""), 0, 0),
    ("a conclusion of one word", crpo(end="pericarditis"), 0, 0),
    ("a conclusion with an empty box", crpo(end=r"\boxed{}"), 0, 0),
    ("a conclusion with a box of no option", crpo(end=r"\boxed{Z}"), 0, 0),
    (
        "headings in the wrong order",
        GOOD.replace("System 1", "X").replace("System 2", "System 1").replace("X", "System 2"),
        0,
        0,
    ),
    ("no System 2", GOOD.replace("System 2:", ""), 0, 0),
    ("System 1 twice", GOOD.replace("System 2:", "System 1: System 2:"), 0, 0),
    ("headings in lower case", GOOD.replace("System", "system"), 0, 0),
    ("headings outside dx", f"<dx> {S1} </dx><conclusion> System 1: {S1} " f"System 2: {S2} {BOX} </conclusion>", 0, 0),
    ("text before", "Sure! " + GOOD, 0, 0),
    ("text after", GOOD + " Done.", 0, 0),
    ("text between", GOOD.replace("</dx>", "</dx> so "), 0, 0),
    ("NUL before", "\0" + GOOD, 0, 0),
    ("a mark before", "\ufeff" + GOOD, 0, 0),
    ("doubled", GOOD + GOOD, 0, 0),
    ("a doubled closing tag", GOOD.replace("</dx>", "</dx></dx>"), 0, 0),
    ("a doubled opening tag", GOOD.replace("<dx>", "<dx><dx>"), 0, 0),
    ("nested dx", GOOD.replace("System 2:", "<dx>x</dx> System 2:"), 0, 0),
    ("conclusion inside dx", f"<dx> System 1: {S1} System 2: {S2} <conclusion> {END} </conclusion></dx>", 0, 0),
    ("conclusion first", f"<conclusion> {END} </conclusion><dx> System 1: {S1} System 2: {S2} </dx>", 0, 0),
    (
        "closing tags swapped",
        GOOD.replace("</dx>", "X").replace("</conclusion>", "</dx>").replace("X", "</conclusion>"),
        0,
        0,
    ),
    ("no opening dx", GOOD.replace("<dx>", ""), 0, 0),
    ("no closing dx", GOOD.replace("</dx>", ""), 0, 0),
    ("no opening conclusion", GOOD.replace("<conclusion>", ""), 0, 0),
    ("cut before its end", GOOD.replace("</conclusion>", ""), 0, 0),
    ("misspelt", GOOD.replace("conclusion", "conclusions"), 0, 0),
    ("upper-case tags", GOOD.replace("dx>", "DX>"), 0, 0),
    ("an upper-case second copy", GOOD.replace("System 2:", "<DX> System 2:"), 0, 0),
    ("a spaced second copy", GOOD.replace("System 2:", "< / dx > System 2:"), 0, 0),
    ("tags with spaces", GOOD.replace("<dx>", "< dx >"), 0, 0),
    ("tag soup", "<dx><conclusion></dx><think></conclusion></think>" * 3, 0, 0),
    ("only tags", "<dx></dx><conclusion></conclusion>", 0, 0),
    ("empty", "", 0, 0),
    ("white space", " \n\t", 0, 0),
    ("both forms", GOOD + grpo(), 0, 0),
    ("empty think", grpo(thought=""), 0, 0),
    ("one word of thought", grpo(thought="pericarditis"), 0, 0),
    ("empty answer", grpo(end=""), 0, 0),
    ("an answer in words", grpo(end="it is acute pericarditis"), 0, 1),
    ("a bare letter", grpo(end="A"), 0, 0),
    ("think twice", grpo() + grpo(), 0, 0),
    ("text after the answer", grpo() + "x", 0, 0),
    ("think in upper case", grpo().replace("think", "THINK"), 0, 0),
    ("answer inside think", f"<think> {S1} <answer> {BOX} </answer></think>", 0, 0),
]


@pytest.mark.parametrize("name, response, clinical, thinking", FORMS, ids=[row[0] for row in FORMS])
def test_form(name, response, clinical, thinking):
    assert (rewards.clinical(response, Q), rewards.thinking(response, Q)) == (clinical, thinking)


# ---- Consistency -------------------------------------------------------------------------------------------------

CONSISTENCY = [  # response, effective tokens / tokens
    (GOOD, 1),
    ("", 0),
    (" \n ", 0),
    ("chest pain", 1),
    ("chest pain 胸痛 боль", 1 / 2),
    ("胸痛 が ある", 0),
    ("pаin", 0),  # Cyrillic а
    ("36.7°C 90 ng/L ≥ 5 µg α ± 2%", 1),
    ("TNF-α β-blocker naïve café", 1),
    ("καλημέρα pain", 1 / 2),
    ("αβγδ pain", 1 / 2),
    ("pain\u200b pain", 1 / 2),
    ("\u200b \u2060 pain chest", 1 / 2),
    ("\ue000 pain", 1 / 2),
    ("\ufffd pain", 1 / 2),
    ("\ud800 pain", 1 / 2),
    ("\0 pain", 1 / 2),
    ("😀 pain", 1 / 2),
    ("... --- *** pain", 1 / 4),
    ("x" * 10_000, 0),
    ("x" * 10_000 + " pain", 1 / 2),
    ("<dx>" * 1000, 0),
    ("<dx> </dx> <conclusion> </conclusion>", 1),
    ("pain " * 10, 2 / 10),
    ("Pain, pain. PAIN pain!", 2 / 4),
    ("chest pain " * 10, 4 / 20),
    ("a b c d e f g h " * 4, 16 / 32),
    ("the rub is here. " * 5, 8 / 20),
    ("the rub is here. so chest pain fits now. " * 4, 18 / 36),
    ("one two three four five six seven eight nine. " * 4, 18 / 36),
    ("1 2 3 4 5 6", 1),
    ("– pain–free —so ‘sharp’ “severe” pain… •pain 5·10 mg† §2 ‡5 £5 or €6", 13 / 14),  # a mark alone is nothing
    ("the rub is here. he walks. the rub is here. so it fits. the rub is here. he sat down.", 16 / 20),
    ("the rub is. he walks. the rub is. so it fits. the rub is. he sat down. the rub is.", 1),  # of three tokens, no loop
    ("x" * 48 + " " + "y" * 49, 1 / 2),
    ("αβ-agonist", 1),
    ("pain✝ pain", 1 / 2),  # its Unicode name begins with LATIN
    ("one two three four five six seven eight " * 3, 16 / 24),
    ("one two three four five six seven eight nine " * 3, 1),  # no sentence, and longer than a loop's period
    ("Z̷̢a̴l̵g̶o̷ pain", 1 / 2),
]


@pytest.mark.parametrize("response, share", CONSISTENCY)
def test_consistency(response, share):
    assert rewards.consistency(response, Q) == pytest.approx(share)


def test_consistency_follows_the_script_of_the_question():
    russian = SimpleNamespace(stem="У пациента острая боль в груди.", options={"A": "перикардит"}, answer="A")
    assert rewards.consistency("острая боль 90 ng/L", russian) == 1
    assert rewards.consistency("naïve café", russian) == 1
    greek = SimpleNamespace(stem="οξύς πόνος", options={"A": "περικαρδίτιδα"}, answer="A")
    assert rewards.consistency("αρρυθμία", greek) == 1
    mixed = SimpleNamespace(stem="chest pain of nine years, боль", options={"A": "acute pericarditis"}, answer="A")
    assert rewards.consistency("pain боль", mixed) == 1 / 2  # 4 of 42 letters are under a tenth
    assert rewards.consistency("острая боль", Q) == 0


# ---- Citations, rejections, unsupported claims -------------------------------------------------------------------

CHEST, RUB, ACNE, TROPONIN = "sharp chest pain", "pericardial friction rub", "mild acne", "troponin of 90 ng/L"

CITED = [
    (GOOD, [CHEST, RUB, TROPONIN]),
    ("", []),
    (Q.stem, []),
    (f"{CHEST}. {RUB}. {TROPONIN}.", []),
    (f"{CHEST} supports acute pericarditis. " * 20, [CHEST]),
    (f"{CHEST}, {CHEST}, {CHEST} support acute pericarditis.", [CHEST]),
    (f"{CHEST}, {RUB}, {ACNE}, and {TROPONIN} support acute pericarditis.", [CHEST, RUB, ACNE]),  # three a sentence
    (f"{CHEST} supports.", []),
    (f"{CHEST} supports {RUB}.", []),
    (f"{CHEST} supports it.", []),
    (f"{CHEST}, though brief, supports acute pericarditis.", [CHEST]),
    ("This supports acute pericarditis.", []),
    ("troponin of 80 ng/L supports acute pericarditis.", []),
    ("elevated troponin supports acute pericarditis.", []),
    ("a troponin of 90 supports acute pericarditis.", [TROPONIN]),
    ("90 supports acute pericarditis.", []),
    ("troponin of 900 ng/L supports acute pericarditis.", []),
    ("troponin of -90 ng/L supports acute pericarditis.", []),
    ("chest pain supports acute pericarditis.", []),
    ("tearing chest pain supports it, acute pericarditis.", []),
    ("The chest pain is sharp, which points to the pericardium.", [CHEST]),
    (f"Given the {RUB}, pericarditis is likely.", [RUB]),
    (f"{CHEST} is absent, so aortic dissection is unlikely.", []),
    (f"No {RUB} supports aortic dissection.", []),
    ("rub sharp pericardial acne chest friction pain mild support acute pericarditis.", [ACNE]),
    (f"{CHEST.upper()} SUPPORTS ACUTE PERICARDITIS", [CHEST]),
    ("sharp chest\u200b pain supports acute pericarditis.", [CHEST]),
    (f"<think> {RUB} argues against aortic dissection </think>", [RUB]),
    (f"Pericarditis is likely because of {RUB} and {CHEST}.", [CHEST, RUB]),
    (f"Pericarditis is supported by {RUB}.", [RUB]),
    (f"{RUB} was heard, suggesting pericarditis.", [RUB]),
    (f"{RUB} would typically suggest pericarditis.", []),
    (f"{RUB} is diagnostic of pericarditis.", []),
    (f"There is a {RUB}, so it is pericarditis.", []),  # counted (MEASURED), not paid: mechanisms stand there too
    (f"It must be pericarditis, because there is a {RUB}.", []),
    (f"{RUB} is concerning for pericarditis and is compatible with it.", [RUB]),
    (r"A troponin of $90 \, \text{ng/L}$ suggests pericarditis.", [TROPONIN]),
    (f"He has {RUB} and {ACNE}. This combination suggests pericarditis.", [RUB, ACNE]),
    (f"He has {RUB}. These are my thoughts.", []),
    (f"He has {RUB}. It suggests pericarditis.", []),
    (f"He has {RUB}. It is so. This suggests pericarditis.", []),  # of the sentence before alone
    (f"{RUB} and {CHEST} which point to pericarditis suggest it.", [CHEST, RUB]),
    (f"He has {RUB}, although {ACNE}. This suggests pericarditis.", [RUB]),
    (f"He has {RUB}, and typically {ACNE}. This suggests pericarditis.", [RUB]),
    (f"{CHEST} is not seen, which argues against pericarditis.", []),
    (f"He does not have {ACNE}, which suggests pericarditis.", []),
    (f"{CHEST} missing pulses suggest pericarditis.", [CHEST]),  # what is missing comes after it
    (f"{RUB} is absent today, which argues against pericarditis.", []),
    (f"Pericarditis is likely given {RUB} absent.", []),
    (f"Given {RUB} absent, pericarditis is unlikely.", []),
    (f"He had {RUB}, which suggests pericarditis.", [RUB]),
    (f"This is not only {RUB}, which suggests pericarditis.", [RUB]),
    (f"{RUB} leads to pericarditis.", []),  # a mechanism
    (f"Given the {RUB} because {ACNE}, pericarditis is likely.", [RUB]),
    (f"Given the {RUB} in a man with {ACNE}, pericarditis is likely.", [RUB]),
    *((f"{RUB} {word} {CHEST} suggests pericarditis.", [CHEST]) for word in (  # another clause begins there
        "because since as given but although while whereas however that which so therefore thus hence unlikely likely "
        ": due").split()),
    (f"A 63-year-old man with {RUB} suggests it.", []),
]


@pytest.mark.parametrize("response, findings", CITED)
def test_citations(response, findings):
    assert sorted(f.removeprefix("and ") for f in rewards.citations(response, Q)) == sorted(findings)


REJECTED = [
    (GOOD, "BC"),
    ("", ""),
    ("B) aortic dissection is unlikely.", ""),
    ("B) aortic dissection is unlikely because it does not fit the case.", ""),
    ("B) is unlikely because the typical features are absent. C) is unlikely because the findings are absent.", ""),
    (
        "B) is unlikely because fever is absent. C) is unlikely because fever is absent. "
        "D) is unlikely because fever is absent.",
        "B",
    ),
    ("B) is unlikely because fever is absent. " * 9, "B"),
    ("B, C, D and E are wrong.", ""),
    ("B) is unlikely because sharp chest pain is absent.", ""),
    ("C) is unlikely because tearing back pain does not fit it.", ""),
    ("A) acute pericarditis is unlikely because fever is absent.", ""),
    ("Aortic dissection is unlikely because tearing back pain is absent.", "B"),
    ("Option D is incorrect since there is no leg swelling.", "D"),
    ("Aortic dissection is less likely. There is no tearing back pain.", "B"),
    ("There is no tearing back pain. Aortic dissection is therefore unlikely.", "B"),
    ("Myocardial infarction is unlikely because diaphoresis is absent.", "C"),
    ("Infarction is unlikely because diaphoresis is absent.", "E"),
    ("tearing back pain is absent because of it.", ""),
    (r"B) is unlikely because tearing back pain is absent. <conclusion>\boxed{B}</conclusion>", ""),
    ("B) aortic dissection because tearing back pain.", ""),
    ("(C) is ruled out, as the pericardial friction rub would not be explained.", "C"),
    ("unlikely because absent " * 30, ""),
    ("B) is unlikely. C) is unlikely. D) is unlikely. fever is absent because of it.", "D"),
    ("Embolism would show in a silent leg.", "D"),  # named in short, set apart by what is said of it
    ("Dissection is seen in tall runners, but embolism is seen in idle travellers.", "B"),
    ("Aortic dissection is not needed.", ""),
    ("Aortic dissection is unlikely because it tears the back.", "B"),  # medicine, which coverage() does not pay
    ("Aortic dissection, because it tears the back.", ""),
    ("Aortic aneurysm is seen in tall runners.", ""),  # not on offer
    ("Tall runners suggest dissection, but idle travellers do not.", ""),
    ("Pericarditis is seen in tall runners.", ""),  # the key
    ("A) Acute pericarditis. It is not likely to be mild because there is no fever.", ""),
    ("**B) Aortic dissection:**\n- It's unlikely because there is no back pain.", "B"),  # after its heading
    ("- B) Aortic dissection\n- Unlikely, since there is no back pain.", "B"),
    ("B) Aortic dissection tears. This is unlikely as there isn't any back pain.", "B"),
    ("B) Aortic dissection and C) myocardial infarction. This is unlikely as there is no back pain.", ""),
    ("E) infarction is unlikely because there is no infarction.", ""),
    ("B) dissection fits. This is not wrong because there is no rash.", ""),
    ("B) aortic dissection is the most likely diagnosis\nThe pain is not new since there is no yak", ""),
    ("AMI was unlikely, as there is no sweat.", ""),  # no initials of an option
    ("B) Aortic dissection:\nTearing is less likely because there is no back pain.", "B"),
    ("Dissection is likely. It cannot be dismissed because sharp chest pain is present.", ""),
    ("Dissection is likely. It is hard to exclude because sharp chest pain is present.", ""),
    ("Dissection is likely. It is less likely to be missed because of sharp chest pain.", ""),
    ("B) Dissection. Excluding it would be an error since sharp chest pain is there.", ""),
    ("D) pulmonary embolism\nThe other options are less likely because of sharp chest pain.", ""),
]


def test_scores_are_by_name_and_a_verifier_that_gives_no_number_is_refused(monkeypatch):
    expected = rewards.score(GOOD, Q)
    monkeypatch.setattr(rewards, "VERIFIERS", dict(reversed(rewards.VERIFIERS.items())))
    assert list(rewards.score(GOOD, Q).items()) == list(expected.items())[::-1]
    for value in (float("nan"), None, "1", -0.5, 1.5, np.float32(0.5)):
        def added(response, question):
            return value

        monkeypatch.setattr(rewards, "VERIFIERS", {rewards.accuracy: 1.0, added: 1.0})
        with pytest.raises(ValueError, match=re.escape(f"in VERIFIERS, not {{'added': {value!r}}}")):
            rewards.score(GOOD, Q)


def test_words_and_numbers_are_compared_in_one_form():
    assert rewards.normal("−1,200.0") == "-1200" and rewards.normal("+5") == "5"
    assert rewards.normal("7.40/30") == "7.40/30" and rewards.normal("gas") == "gas"
    assert rewards.root("lethargic") == rewards.root("lethargy")
    assert rewards.root("oral") == "oral" and rewards.root("basal") == "basal"


def test_tex_and_lists_are_read_as_prose():
    assert rewards.sentences(r"the \textbf{lung}s") == [["the", "lung"]]
    assert rewards.sentences(r"\emph{Fever} and \underline{chills}") == [["fever", "and"], ["chill"]]
    assert rewards.sentences(r"It is \boxed{Acute appendicitis}.")[-1] == ["acute", "appendicitis"]
    assert rewards.sentences("No, fever or chills fit.") == [["no", ",", "fever", "or", "chill", "fit"]]


def test_options_are_named_by_their_own_initials():
    texts = {"A": "Wiskott-Aldrich syndrome", "B": "herpes simplex virus", "C": "hepatitis serum virus", "D": "x"}
    q = SimpleNamespace(stem="A boy has eczema.", options=texts, answer="D")
    assert measures.rejections("This was unlikely because there was no zebra. HSV is seen in lions.", q) == {}
    q.options = texts | {"C": "x"}
    assert list(measures.rejections("HSV is seen in lions.", q)) == ["B"]


@pytest.mark.parametrize("response, letters", REJECTED)
def test_rejections(response, letters):
    assert "".join(sorted(measures.rejections(response, Q))) == letters


UNSUPPORTED = [
    (GOOD, 0),
    ("", 0),
    (Q.stem, 0),
    ("hemoptysis supports pulmonary embolism.", 1),
    ("hemoptysis supports pulmonary embolism. " * 9, 1),
    ("hemoptysis and leg swelling support pulmonary embolism.", 2),
    ("hemoptysis is absent.", 0),
    ("No hemoptysis supports acute pericarditis.", 0),
    ("The absence of hemoptysis argues against pulmonary embolism.", 0),
    ("D) is unlikely because hemoptysis is absent.", 0),
    ("Pulmonary embolism typically causes hemoptysis.", 0),
    ("Hemoptysis would suggest pulmonary embolism.", 0),
    ("The patient has a rash.", 1),
    ("The patient has sharp chest pain and a rash.", 1),
    ("He has acute pericarditis.", 0),
    ("Given hemoptysis, pulmonary embolism is likely.", 1),
    ("troponin of 80 ng/L supports acute pericarditis.", 1),
    ("His troponin is 80.", 1),
    ("troponin of 90 ng/L supports acute pericarditis.", 0),
    ("C) is unlikely because hemoptysis does not fit it.", 1),
    ("These findings suggest acute pericarditis.", 0),
    ("The presentation is consistent with it.", 0),
    ("glucose of 400 mg/dL suggests it.", 1),
    ("The normal troponin is below 14 ng/L.", 0),
    ("System 1: System 2: step 3", 0),
    ("acute pericarditis explains it and suggests colchicine.", 0),
    ("The McBurney point tenderness is absent.", 0),
    ("Pericarditis is likely because of hemoptysis and a rash.", 2),
    ("Pericarditis is supported by hemoptysis.", 1),
    ("Hemoptysis is common, which supports it.", 0),  # said to be something, not to be there
    ("Missing pulses support it.", 0),
    ("A rash is present.", 1),
    ("It is a present rash.", 0),
    ("The presence of a rash settles it.", 1),
    ("Measles has a rash.", 0),
    ("He probably has sarcoidosis.", 0),  # a diagnosis
    ("He likely has sarcoidosis.", 0),
    ("A rash present since birth persists.", 0),
    ("F) supports it. x supports it.", 0),
    ("Acneic supports it.", 0),
    ("It was 400 mg/dL.", 1),
    ("His troponin is 63.", 1),  # that is his age
    ("Pericarditis is likely because he has a rash.", 1),
    ("The suggested polysomnography settled it.", 0),
    ("Followed by a rash it ended.", 0),
    ("There were 12 reports of it.", 0),
    ("troponin of 90 mmol supports it.", 0),
    ("A troponin of 95 supports it.", 1),
    ("A creatinine of 95 supports it.", 1),  # the word; a number without unit or the name of a value is none
    ("Sharp pericardial chest friction hemoptysis supports it.", 0),  # one foreign word of five
    ("Sharp pericardial chest hemoptysis tophi supports it.", 1),
    ("Friction rub hemoptysis supports it.", 1),
    ("The patient has a rash, which suggests pericarditis.", 1),
    ("hemoptysis polyuria epistaxis tophi miosis support it.", 2),
    ("Additionally, the presence of significant sharp chest pain suggests it.", 0),  # words that claim nothing
    ("Moreover, a low, severe, acute, positive rash suggests it.", 1),
    ("Pericarditis explains 95% of such pain.", 0),
    ("Acneic skin suggests it.", 1),  # skin; acneic is the case's acne
]


@pytest.mark.parametrize("response, count", UNSUPPORTED)
def test_unsupported(response, count):
    assert len(rewards.unsupported(response, Q)) == count, rewards.unsupported(response, Q)


def test_findings_of_a_published_case():
    stem = (
        "A 41-year-old woman complains of fatigue and weakness. She denies blood clots, fever. Her vital signs "
        "include: temperature, 36.7°C (98.0°F); blood pressure, 126/74 mm Hg; leukocytes 8,700/mm3. "
        "She smokes 1 pack of cigarettes per day. Which of the following is the most likely cause?"
    )
    q = SimpleNamespace(stem=stem, options={"A": "anemia", "B": "lymphoma"}, answer="A")
    findings = rewards.findings_of(stem)
    assert [f.text for f in findings if not f.negated] == [
        "of fatigue",
        "weakness",
        "temperature, 36.7°C",
        "blood pressure, 126/74 mm Hg",
        "leukocytes 8,700/mm3",
        "She smokes 1 pack of cigarettes per day",
    ]
    assert len([f for f in findings if f.negated]) == 2
    assert len(rewards.citations("A blood pressure of 126/74 supports anemia. 36.7 °C supports anemia.", q)) == 2
    assert rewards.citations("A blood pressure of 126/75 supports anemia. Blood clots support anemia.", q) == []
    assert len(rewards.citations("No fever argues against lymphoma.", q)) == 1


def test_a_colon_before_a_value_ends_no_claim():
    q = SimpleNamespace(stem="Studies show:\nSerum iron: 40 µg/dL;\nFerritin: 180 µg/L;\nWhat is the cause?",
                        options={"A": "anemia", "B": "lymphoma"}, answer="A")
    assert len(rewards.citations("Serum iron: 40 µg/dL suggests anemia. Ferritin: 180 µg/L supports anemia.", q)) == 2
    assert rewards.unsupported("Serum iron: 50 µg/dL suggests anemia.", q) == ["50"]
    assert rewards.citations("Serum iron: this suggests anemia.", q) == []
    headed = "Analysis: 40 µg/dL of serum iron suggests anemia. Key clue: 180 µg/L of ferritin suggests anemia."
    assert rewards.unsupported(headed, q) == [] and len(rewards.citations(headed, q)) == 2


@pytest.mark.parametrize("response, wrong", [
    ("Fever suggests anemia. A rash supports anemia.", ["fever", "rash"]),
    ("The patient has a rash, which points to anemia.", ["rash"]),
    ("Cough and fever, no doubt, support anemia.", ["fever"]),
    ("No fever argues against lymphoma. The absence of a rash supports anemia. Rash is absent.", []),
    ("Fever would suggest lymphoma. Lymphoma is unlikely because fever is absent. Rash is typical of lymphoma.", []),
    ("A cough supports anemia. Wheezing supports anemia.", []),  # he has wheezed, so the stem says both
    # as a physician writes
    *((text, []) for text in (
        "The absence of trauma, fever, and rash points to anemia.", "Given the lack of cough, fever, and rash, anemia.",
        "He denies trauma, fever, and recent rash, which supports anemia.", "Fever being absent suggests anemia.",
        "Fever and rash are absent, supporting anemia.", "Rather than fever, a cough suggests anemia.",
        "Unlike lymphoma, which presents with fever, this fits anemia.", "Fever has been denied, supporting anemia.",
        "Parents' denial of fever supports anemia.", "Cough, not fever, suggests anemia.",
        "Fever was not seen, which supports anemia.")),
])
def test_what_the_stem_denies_is_made_up(response, wrong):
    q = SimpleNamespace(stem="A boy coughs. His parents deny any history of fever. He has no rash, and no wheezing, "
                        "but had wheezing last year. What is it?", options={"A": "anemia", "B": "lymphoma"}, answer="A")
    assert rewards.unsupported(response, q) == wrong
    assert rewards.grounding(response, q) <= (1 / 6 if wrong else 1)


def test_what_is_lacking_is_each_of_a_list():
    q = SimpleNamespace(stem="A boy coughs. He has no fever. What is it?", options={"A": "anemia"}, answer="A")
    assert rewards.citations("He lacks chills or fever, which supports anemia.", q) == ["no fever"]


def test_a_name_of_a_place_or_a_test_is_no_finding():
    """A policy on real cases was paid for them: "pelvic pain" cited the examination."""
    q = SimpleNamespace(stem="Her past medical history is significant for gout. She has open comedones on the face and "
                        "feet. Pelvic examination shows a polyp. There is bilateral, tender adenopathy. The ECG is "
                        "normal. The skin of the legs is warm and no masses are felt on the right. What is it?",
                        options={"A": "acne", "B": "lymphoma"}, answer="A")
    words = {frozenset(f.words) for f in rewards.findings_of(q.stem)}
    assert {frozenset({"gout"}), frozenset({"open", "comedone", "face"}), frozenset({"polyp"}),
            frozenset({"tender", "adenopathy"}), frozenset({"ecg", "normal"})} <= words
    assert not words & {frozenset({word}) for word in ("medical", "pelvic", "bilateral", "ecg")}
    said = "Pelvic pain suggests acne. Her medical history and bilateral edema suggest acne."
    assert rewards.citations(said, q) == [] and rewards.grounding(said, q) == 0
    assert len(rewards.citations("A polyp suggests acne. Gout and tender adenopathy support acne.", q)) == 3


@pytest.mark.parametrize("stem, denied", [
    ("He has no fever, chills, headache, or myalgia.", "fever chill headache myalgia"),
    ("There is a cough without fever, rash or chills, and wheezing.", "fever rash chill"),
    ("He has an injected eye without discharge, cracked lips, and a rash.", "discharge"),
    ("He denies fever, chills, and night sweats but has a tremor.", "fever chill sweat"),
    ("She has not had diarrhea. She does not have a rash.", "diarrhea rash"),
    ("She hasn't had fever, chills, headache, or myalgia.", "fever chill headache myalgia"),
    ("She denies pain while urinating, fever, or chills.", "pain urinating fever chill"),
    ("The history is negative for fever, diabetes, and night sweats.", "fever diabete sweat"),
    ("There is no murmur, the lungs are clear, and he is pale or tired.", "murmur"),
    ("A rapid antigen test is negative, and an x-ray shows a mass.", "antigen"),
    ("A rib is missing.", "rib"),
])
def test_what_a_stem_denies(stem, denied):
    findings = rewards.findings_of(stem + " What is the diagnosis?")
    words = {word for f in findings if f.negated for word in f.words}
    assert set(denied.split()) <= words and not words & {"cracked", "lung", "mass", "pale", "tremor"}
    present = {word for f in findings if not f.negated for word in f.words}
    assert not present & set("fever chill headache myalgia discharge night diarrhea murmur antigen".split())


@pytest.mark.parametrize("stem, texts", [
    ("He has a rash, which itches, and which lesion fits?", ["a rash", "itches"]),  # the last "which" asks
    ("He has a cough. What lesion fits a rash and what sign?", ["a cough"]),
    ("He has a rash. He asks what lesion it is. He has a cough. Which is it?",
     ["a rash", "He asks what lesion it is", "a cough"]),
    ("She has no surgical history and a surgical history. Which is it?", ["no surgical history"]),
    ("The cough score, 5. Which is it?", ["The cough score"]),
    ("A pulse of 60, 70/min. Which is it?", ["A pulse of 60"]),
    ("He did not. He has a cough. Which is it?", ["a cough"]),
    ("It was of sudden onset. Which is it?", ["It was of sudden onset"]),
    ("He was seen at 5 mg. Which is it?", []),
    ("5 mg. He has a cough of 5. Which is it?", ["a cough of 5"]),
    # what stands in any case is none
    ("A 42-year-old man comes to the physician for a follow-up examination. In addition, he has a cough. He was "
     "diagnosed with asthma. Further evaluation of this patient is most likely to show which of the following?",
     ["a cough", "asthma"]),
    ("He lives with his friend. Her primary care physician mentions a rash. Currently, the rash itches. This patient "
     "is most likely deficient in a vitamin that does which of the following?",
     ["Her primary care physician mentions a rash", "the rash itches"]),
    ("A man with a cough is most likely to have a rash and which?", ["a cough is most likely to", "a rash"]),
])
def test_what_a_stem_holds(stem, texts):
    assert [f.text for f in rewards.findings_of(stem)] == texts


def test_the_words_of_a_finding():
    [onset] = rewards.findings_of("It was of sudden onset. What is it?")
    [sounds] = rewards.findings_of("Bowel sounds are absent. What is it?")
    assert onset.words == {"sudden", "onset"} and sounds.words == {"bowel", "sound"} and sounds.negated
    q = SimpleNamespace(stem="He has chest pain and sharp chest pain. What is it?", options={"A": "gout"}, answer="A")
    assert rewards.citations("Sharp chest pain suggests colitis.", q) == ["sharp chest pain"]  # no word serves two


def test_a_long_finding_is_mentioned_by_three_quarters_of_its_words():
    q = SimpleNamespace(stem="He has dull burning left lower quadrant abdominal pain and a cold wet sour cough. What now?",
                        options={"A": "colitis", "B": "gout"}, answer="A")
    for said, count in (("dull burning left lower quadrant pain", 1), ("dull burning lower quadrant pain", 0),
                        ("cold wet sour cough", 1), ("cold wet cough", 0)):
        assert len(rewards.citations(f"A {said} suggests colitis.", q)) == count


@pytest.mark.parametrize("value, word", [
    ("sodium of 134.9", "hyponatremia"), ("sodium of 135", ""),
    ("sodium of 145", ""), ("sodium of 145.1", "hypernatremia"),
    ("platelets of 149,000", "thrombocytopenia"), ("platelets of 149", "thrombocytopenia"), ("platelets of 200", ""),
    ("platelets of 150,000", ""), ("temperature of 38", "fever"), ("temperature of 37.9", "afebrile"),
    ("temperature of 100.5", "fever"), ("temperature of 99", "afebrile"), ("ionized calcium of 5", "")])
def test_readings_of_a_value(value, word):
    [finding] = rewards.findings_of(f"He has a {value}. What is it?")
    assert word in rewards.readings_of(finding) if word else not rewards.readings_of(finding)


def test_a_value_as_the_stem_has_it_is_not_made_up():
    """Read by its name alone "20th" would be the height's. With other words beside it a value of the case is wrong."""
    stem = ("He is at the 95th percentile for height, 20th percentile for weight, and has had a rash for 6 days. His "
            "pulse is 64/min, respirations are 18/min. What is it?")
    q = SimpleNamespace(stem=stem, options={"A": "trisomy", "B": "fragile X"}, answer="B")
    assert rewards.unsupported(stem, q) == []
    assert rewards.unsupported("A rash of 6 days and a pulse of 64/min suggest it.", q) == []
    assert rewards.unsupported("His height of 20, a pulse of 18/min, 99/min.", q) == ["20", "18", "99"]
    assert rewards.unsupported("The pulse, 18/min, suggests it.", q) == ["18"]


def test_no_published_stem_makes_up_anything(shared):
    for name in ("medqa_us_dev_400", "medmcqa_dev_300", "medxpertqa_text_150"):
        for question in load_questions(shared / "data" / f"{name}.jsonl"):
            assert rewards.unsupported(question.stem, question) == [], question.id


@pytest.mark.parametrize("response, cited, wrong", [
    ("A cough strongly suggests anemia.", 1, []),
    ("Jaundice strongly suggests anemia. A rash is clearly consistent with it.", 0, ["jaundice", "rash"]),
    ("Given the current clinical context, anemia. This behavior further supports it.", 0, []),
    ("Given the current jaundice, anemia. Bizarre behavior supports it.", 0, ["jaundice", "bizarre"]),
    ("A cough is highly suggestive of anemia.", 1, []),
    ("Jaundice is indicative of anemia.", 0, ["jaundice"]),
    ("A cough suggests anemia. Jaundice is clearly absent. This argues against lymphoma.", 1, []),
    ("Abnormal body temperature supports anemia.", 0, ["body temperature"]),
])
def test_turns_of_phrase_of_a_real_model(response, cited, wrong):
    q = SimpleNamespace(stem="A boy has a cough and pale skin. What is it?", options={"A": "anemia", "B": "lymphoma"},
                        answer="A")
    assert (len(rewards.citations(response, q)), rewards.unsupported(response, q)) == (cited, wrong)


@pytest.mark.parametrize("begins, count", [("A careful examination shows", 0), ("Vital are", 0), ("Worth noting:", 1)])
def test_what_an_examination_shows_is_retold(begins, count):
    q = SimpleNamespace(stem="A boy has a cough. What is it?", options={"A": "gout", "B": "lymphoma"}, answer="A")
    assert len(measures.citations(f"{begins} a cough and wheezing.", q)) == count
    assert len(measures.citations(f"{begins} a cough and wheezing, so gout is likely.", q)) == 1


@pytest.mark.parametrize("end, letter", [
    ("The answer is A.", "A"), ("the correct answer is **choice A: gout**", "A"),
    ("The most likely cause is:\n\nA) gout", "A"), ("\\boxed{B} or rather \\boxed{A}", "A"),
    ("answer is B. No, the answer is (A).", "A"), ("the answer is A.\n\\boxed{B}", "B"),
    ("The answer is Alopecia.", None), ("The answer is F.", None), ("", None),
    ("<conclusion> \\boxed{A} </conclusion> The answer is B.", "A"),
])
def test_the_choice_of_a_response_out_of_form(end, letter):
    """It is never rejected, as far as the measures go."""
    q = SimpleNamespace(stem="A boy has a cough. What is it?", answer="C",
                        options={"A": "gout", "B": "lymphoma", "C": "mumps"})
    assert measures.choice(end, q.options) == letter
    said = "Gout is for old men. Lymphoma is for adults with lumps. "
    assert set(measures.rejections(said + end, q)) == {"A", "B"} - {letter}


def test_a_second_rendering_and_readings_of_a_value():
    stem = ("She has fatigue, a 7-kg (15-lb) weight loss, and a 4-cm mass (3 cm last year). Her temperature is 38.4°C "
            "(101.1°F), pulse is 64/min, and blood pressure is 82/48 mm Hg. Which of the following is it?")
    q = SimpleNamespace(stem=stem, options={"A": "anemia", "B": "lymphoma"}, answer="A")
    assert [f.text for f in rewards.findings_of(stem)] == [
        "fatigue", "a 7-kg weight loss", "a 4-cm mass", "3 cm last year", "Her temperature is 38.4°C",
        "pulse is 64/min", "blood pressure is 82/48 mm Hg"]
    assert rewards.unsupported("Fever, a febrile hypotensive sign and hypotension suggest it. 15 lb suggest it.",
                               q) == []
    assert rewards.unsupported("Tachycardia suggests it. Bradycardia suggests it.", q) == ["tachycardia", "bradycardia"]
    for value in ("temperature is 97.8°F (36.6°C)", "hemoglobin A1c is 8%", "urine sodium is 44 mEq/L",
                  "leukocyte count is 8,000/mm^3", "pulse oximetry shows 30 L/min", "pulse is x/min"):
        [finding] = rewards.findings_of(f"The {value}.")[:1]
        assert not rewards.readings_of(finding) - {"afebrile"}, value
    for value, word in (("temperature is 101.4°F", "fever"), ("platelets are 90,000/mm3", "thrombocytopenia"),
                        ("white blood cell count is 16 x 10^9/L", "leukocytosis"), ("Na+: 126 mEq/L", "hyponatremia")):
        assert word in rewards.readings_of(rewards.findings_of(f"The {value}.")[0]), value
    assert [f.text for f in rewards.findings_of("She has 2 sisters (1 with lupus, 1 with anemia) and a cold.")] == [
        "2 sisters", "lupus", "anemia", "a cold"]
    assert rewards.citations("Hypotension suggests lymphoma.", q) == []  # true, and not paid: it quotes nothing
    assert measures.citations("Hypotension suggests lymphoma.", q) == ["blood pressure is 82/48 mm Hg"]
    assert measures.citations("Tachycardia suggests lymphoma.", q) == []


MEASURED = [  # counted, where rewards.citations() is paid for set phrases
    (f"There is a {RUB}, so it is pericarditis.", [RUB]),
    (f"It must be pericarditis, because there is a {RUB}.", [RUB]),
    ("The friction rub makes pericarditis likely.", [RUB]),
    ("The rub makes pericarditis likely.", [RUB]),  # no other finding has the word
    ("No rub, so it is unlikely.", []),
    ("Chest pain. Pericarditis.", [CHEST]),
    ("High troponin: pericarditis.", [TROPONIN]),
    ("A troponin of 80 is high.", []),
    ("Troponin should be measured.", []),
    ("At his age pericarditis is likely.", ["63-year-old"]),
    ("At 63 years old pericarditis is likely.", ["63-year-old"]),
    ("At 63 pericarditis is likely.", []),
    ("The age fits pericarditis.", ["63-year-old"]),
    ("The patient has chest pain and acne.", []),  # retold
    ("The patient has chest pain and acne. This suggests pericarditis.", [CHEST, ACNE]),
    ("rub " * 500, []),
    (Q.stem, []),
    (f"{CHEST}. {RUB}.", []),
    (f"{CHEST}. {RUB}. Pericarditis.", [RUB]),
    (rf"{CHEST}. \boxed{{B}}", []),  # a letter says nothing more
]


@pytest.mark.parametrize("response, findings", MEASURED)
def test_measured_citations(response, findings):
    assert [f.removeprefix("and ") for f in measures.citations(response, Q)] == findings


def test_what_the_case_denies_may_be_named_in_any_way():
    q = SimpleNamespace(stem="There is a rash and no wheezing. What is it?", options={"A": "asthma"}, answer="A")
    for said, count in (("Clear lungs, not wheezing, point away from asthma.", 1), ("No rash, so it is asthma.", 0)):
        assert len(measures.citations(said, q)) == count


@pytest.mark.parametrize("stem, response, words", [
    ("He has shortness of breath and stiff neck.", "Dyspnea, nuchal rigidity", "shortness of breath , stiff neck"),
    ("A salty taste.", "salt", "salty"),
    ("Temperature is 39.0 °C.", "febrile", "temperature is 39 ° c"),
    ("Temperature is 37.0 °C.", "no fever", "temperature is 37 ° c"),
    ("Temperature is 37.0 °C.", "fever", "fever"),
    ("Blood pressure is 120/80 mm Hg.", "hypotension", "hypotension"),
    ("He has emesis.", "anemia and vomiting", "anemia and emesis"),
    ("He has a stiff neck.", "meningismus or B) nuchal rigidity", "meningismus or B) stiff neck"),
    ("He is anemic.", "anemia", "anemia"),  # an option's name
    ("Blood pressure is 160/100 mm Hg.", "hypertension or portal hypertension",
     "blood pressure is 160/100 mm hg or portal hypertension"),
])
def test_a_response_is_read_in_the_words_of_its_case(stem, response, words):
    q = SimpleNamespace(stem=stem, options={"A": "anemia", "B": "meningismus"}, answer="A")
    [sentence] = rewards.sentences(response)
    assert " ".join(measures.in_its_words(sentence, rewards.case_of(q))) == words


@pytest.mark.parametrize("response, findings", [
    ("The calf settles it.", ["The left calf is swollen"]), ("It is swollen.", []),
    ("Abdominal ultrasound settles it.", []), ("The distension settles it.", ["abdominal distension"]),
    ("Abdominal distension settles it.", ["abdominal distension"]),
])
def test_a_subject_names_a_finding_and_the_words_of_options_do_not(response, findings):
    q = SimpleNamespace(stem="The left calf is swollen. He has abdominal distension. Which is it?",
                        options={"A": "abdominal ultrasound"}, answer="A")
    assert measures.citations(response, q) == findings


def test_a_test_stands_for_its_result_and_alone_for_itself():
    q = SimpleNamespace(stem="An x-ray shows a fat pad and a CT scan. What is it?", options={"A": "gout"}, answer="A")
    assert measures.citations("The x-ray and the CT scan settle it.", q) == ["a fat pad", "a CT scan"]


def test_behaviours_count_each_cue_a_few_times():
    text = (
        "Wait, let me check this. First, we need to list the findings. "
        "If this were dissection, we would expect tearing pain."
    )
    assert measures.behaviours(text) == {"backtracking": 1, "verification": 1, "subgoal": 2, "backward_chaining": 2}
    assert measures.behaviours("wait " * 1000)["backtracking"] == 3
    assert sum(measures.behaviours("waiting firstly nextdoor").values()) == 0


# ---- All of them -------------------------------------------------------------------------------------------------


def test_score_and_total():
    scores = rewards.score(GOOD, Q)
    # three of the stem's four findings cited, none invented; two of the four wrong options rejected
    assert scores.items() >= {"accuracy": 1.0, "clinical": 1.5, "consistency": 1.0, "thinking": 0.0, "grounding": 1.0,
                              "coverage": 0.5}.items()
    assert tuple(scores) == tuple(rewards.OBJECTIVES)
    assert rewards.total(scores, rewards.WEIGHTS["crpo"]) == 12.0
    assert rewards.total(rewards.score(grpo(), Q), rewards.WEIGHTS["grpo"]) == 11.0
    assert rewards.total(scores, rewards.WEIGHTS["grounded"]) == 6 + 1.5 + 0.5 + 4 + 0.5
    assert rewards.OBJECTIVES == {"accuracy": 1, "clinical": 1.5, "consistency": 1, "thinking": 1, "grounding": 1,
                                  "coverage": 1}
    counts = measures.measures(GOOD + " hemoptysis supports it.", Q)
    assert (counts["cecd"], counts["drc"], counts["hallucination"], counts["citations"]) == (3, 2, 1, 4)
    assert counts["faithfulness"] == 5


@pytest.mark.parametrize("response, share", [
    ("", 0),
    ("sharp chest pain suggests acute pericarditis.", 1 / 3),  # one safe citation is a third, not the whole
    ("sharp chest pain suggests acute pericarditis. " * 9, 1 / 3),  # repeats count once
    ("sharp chest pain. pericardial friction rub. mild acne. troponin of 90 ng/L.", 0),  # a list infers nothing
    (S1, 2 / 3),
    (S1 + " " + S2, 3 / 3),
    (S1 + " hemoptysis supports acute pericarditis.", 2 / 3 * 2 / 3),  # two right of three cited
    (S1 + " " + S2 + " hemoptysis and purple toes support acute pericarditis.", 3 / 5),
    ("troponin of 95 ng/L supports acute pericarditis.", 0),
    (S1 + " It is likely, because it inflames the outer layer of the heart, so nerves fire.", 2 / 3),  # no finding
    (S1 + " He has a rash. This suggests lupus.", 2 / 3 * 2 / 3),
    *((S1 + f" A troponin of 500 ng/L {word} support it.", 2 / 3 * 2 / 3) for word in ("can", "could", "may", "might")),
    (S1 + " A troponin of 500 ng/L would typically support it.", 2 / 3),  # what is said in general is not charged
    *((S1 + f" Hemoptysis {absent}, which supports acute pericarditis.", 2 / 3) for absent in (
        "is absent", "was not seen", "is not abnormal")),
    # what is denied in a clause before, or of another finding, is not what is claimed
    (S1 + " There is no doubt that hemoptysis supports acute pericarditis.", 2 / 3 * 2 / 3),
    (S1 + " Pericarditis is never unlikely given hemoptysis.", 2 / 3 * 2 / 3),
    (S1 + " No acne of the hemoptysis supports acute pericarditis.", 2 / 3 * 2 / 3),
    (S1 + " There was hemoptysis. This suggests lupus.", 2 / 3 * 2 / 3),
    (S1 + " Hemoptysis is common, which supports it.", 2 / 3 * 2 / 3),
    (S1 + " Glucose of 400 mg/dL suggests it.", 2 / 3 * 2 / 3),  # one false finding, its value with it
    (S1 + " " + S2 + " mild acne supports acute pericarditis.", 1),  # four are no more than three
    (S1 + " No doubt, hemoptysis, tophi, or purple toes support acute pericarditis.", 2 / 5 * 2 / 3),
])
def test_grounding(response, share):
    assert rewards.grounding(response, Q) == pytest.approx(share)


def test_a_case_of_fewer_findings_is_whole_by_them():
    q = SimpleNamespace(stem="A man has sharp chest pain and mild acne. What is it?", options=Q.options, answer="A")
    assert rewards.grounding("sharp chest pain and mild acne suggest acute pericarditis.", q) == 1


@pytest.mark.parametrize("response, share", [
    ("", 0),
    (S2, 2 / 4),
    ("B), C), D) and E) are unlikely because they do not fit the picture.", 0),
    ("".join(f"{x}) is unlikely because hemoptysis is absent. " for x in "BCDE"), 1 / 4),  # one stock reason
    ("".join(f"{x}) is unlikely because sharp chest pain is absent. " for x in "BCDE"), 0),  # it is not absent
    ("B) aortic dissection is less likely with sharp chest pain.", 0),  # no word of reason
    ("B) is unlikely because it would usually be expected.", 0),  # true of any case
    ("B) is unlikely because tearing back pain is missing.", 1 / 4),
    ("B) is unlikely because tearing back pain was not seen.", 1 / 4),
    ("D) pulmonary embolism\nUnlikely are the other options, because of sharp chest pain.", 0),
    *((f"B) is unlikely because it would {general}.", 0) for general in (
        "be elevated", "never be", "not account", "be wrong", "be a finding", "often be")),
    *((f"B) is unlikely because {tear}.", 1 / 4) for tear in ("it would tear", "it should tear", "a tear is expected")),
    ("B) aortic dissection is unlikely. Since mild acne does not fit it.", 1 / 4),  # a reason in the next sentence
    ("Since mild acne does not fit it. B) aortic dissection is unlikely.", 1 / 4),
    ("B) aortic dissection is unlikely. Since sharp chest pain suggests pericarditis.", 0),  # it infers something else
    ("B) aortic dissection is unlikely. It is so. Since mild acne does not fit it.", 0),  # two sentences away
    ("B) aortic dissection tears arteries. Unlikely, since there is no back pain.", 0),  # what is? no heading
    ("B) aortic dissection tears arteries. It is unlikely, since there is no back pain.", 1 / 4),
    ("B) is unlikely because fever is absent. B) is unlikely because rash is absent. C) is unlikely because fever is "
     "absent.", 1 / 4),  # an option's first reason is its reason
    ("A) is unlikely because hemoptysis is absent.", 0),  # the key
    (r"It is unlikely because hemoptysis is absent. <conclusion>\boxed{A}</conclusion>", 0),  # no option at all
    (S2 + " A) is unlikely because hemoptysis is absent.", 1 / 4),
    (S2 + " A) is unlikely, D) too, because hemoptysis is absent.", 2 / 4),  # of two options named, no charge
    (S2 + r" D) is unlikely because hemoptysis is absent. <conclusion>\boxed{D}</conclusion>", 1 / 4),
    ("".join(f"{x}) {t}\nUnlikely, since there is no {y}\n" for (x, t), y in zip(
        Q.options.items(), ("zebra", "yak", "gnu", "emu", "eland"))) + r"<conclusion>\boxed{B}</conclusion>", 0),
    ("B) is unlikely because mild acne does not fit it. C) is unlikely because mild acne really does not fit.", 1 / 4),
    ("".join(f"{x}) is wrong since no {y} is seen. " for x, y in zip("ABCDE", ("flu", "tophi", "gas", "pus", "rash"))),
     0),  # none is left
    (S2 + " Acute pericarditis. This makes the other options less likely, because they do not explain mild acne.",
     2 / 4),
    (S2 + "\nA) acute pericarditis\nmild acne and it argue against the others because of mild acne.", 2 / 4),
    (S2 + " It is acute pericarditis. It cannot be excluded because of mild acne.", 2 / 4),
    (S2 + " D) pulmonary embolism is unlikely because hemoptysis is absent. E) infarction is unlikely because left arm "
     "pain is absent.", 4 / 4),
])
def test_coverage(response, share):
    assert rewards.coverage(response, Q) == pytest.approx(share)


VERIFIERS = {
    "extract": lambda text, q: rewards.extract_answer(text, q.options),
    "clinical": rewards.clinical,
    "thinking": rewards.thinking,
    "consistency": rewards.consistency,
    "citations": rewards.citations,
    "measured citations": measures.citations,
    "measured unsupported": measures.unsupported,
    "rejections": measures.rejections,
    "unsupported": rewards.unsupported,
    "behaviours": lambda text, q: measures.behaviours(text),
}
UNITS = [
    "<dx>",
    "<dx> ",
    "a ",
    ". ",
    "\n",
    " ",
    "<",
    "\\",
    "\0",
    "\ud800",
    "\u200b",
    "no ",
    "90 ",
    "1,",
    "A) ",
    "pain ",
    "given ",
    "胸",
    "sharp chest pain supports ",
    "B) not as x. ",
    "pericardial friction rub suggests acute pericarditis. ",
    "\\boxed{",
    "\\boxed{A}",
    "\\boxed{{",
    "<conclusion>\\boxed{A}",
    "System 1:",
    "troponin of 80 ng/L supports it. ",
    "the patient has x, ",
    "wait ",
]


def filled(unit, size):
    return (unit * (size // len(unit.encode(errors="surrogatepass")) + 1))[:size]


def hostile(size):
    """Bare repetitions, and the same inside the right form."""
    for unit in UNITS:
        yield unit, filled(unit, size)
        yield "form " + unit, crpo(second=S2 + filled(unit, size // 2), end=filled(unit, size // 2) + END)
    yield "box", crpo(end=r"\boxed{\text{" + filled("a", size) + "{a}{a}}}")
    yield "words", " ".join(f"w{i}" for i in range(size // 7))
    yield "characters", " ".join(chr(i) * 2 for i in range(0x100, 0x100 + size // 8) if not 0xD800 <= i < 0xE000)


def seconds(verifier, text, tries):
    best = 1e9
    for _ in range(tries):
        start = time.process_time()
        verifier(text, Q)
        best = min(best, time.process_time() - start)
    return best


def test_time_is_linear():
    """Eight times the text, eight times the time; 24 times is the limit, in the best of three looks: the machine may be
    busy. How long each takes is for tests/fuzz.py to measure."""
    for (name, small), (_, large) in zip(hostile(25_000), hostile(200_000)):
        for verifier_name, verifier in VERIFIERS.items():
            ratios = (seconds(verifier, large, n) / max(seconds(verifier, small, n), 1e-3) for n in (1, 3, 9))
            assert any(ratio < 24 for ratio in ratios), (verifier_name, name)


def test_a_megabyte_of_dx():
    text = "<dx>" * 262_144
    ours = ("accuracy", "clinical", "consistency", "thinking", "grounding", "coverage")
    assert rewards.score(text, Q).items() >= dict.fromkeys(ours, 0.0).items()
    assert not any(measures.measures(text, Q).values())


def odd_texts(rng, n):
    pieces = UNITS + [
        S1,
        S2,
        END,
        GOOD,
        BOX,
        "<dx>",
        "</dx>",
        "<conclusion>",
        "</conclusion>",
        "<answer>",
        "</answer>",
        " System 1:",
        " System 2:",
        "{",
        "}",
        "-0.45",
        "°",
        "≥ 5",
        "not ",
        "because ",
        "support",
        "(B)",
        "option B ",
        "the patient has",
        "\u2028",
        "\x85",
        "İ",
        "ﬁ",
        "𝐀",
        "\U0010ffff",
        "1,200.0",
        "−5",
        "+",
        "90/",
        "B)",
    ]
    for _ in range(n):
        yield "".join(rng.choices(pieces, k=rng.randint(0, 14)))


def test_no_string_raises_and_every_reward_is_in_range():
    rng = random.Random(0)
    odd_questions = [Q] + [
        SimpleNamespace(stem=stem, options=options, answer="A")
        for stem, options in [
            ("", {"A": "", "B": ""}),
            ("\0\ud800?", {"A": "\ud800", "B": "\0"}),
            ("Which?", {}),
            (GOOD, {"A": GOOD, "B": S1}),
            ("90 mg, (5) 1/2", {"A": "90"}),
        ]
    ]
    for text in odd_texts(rng, 400):
        for q in odd_questions:
            scores = rewards.score(text, q)
            assert scores["accuracy"] in (0, 1) and scores["clinical"] in (0, 1, 1.5) and scores["thinking"] in (0, 1)
            assert 0 <= scores["consistency"] <= 1 and (
                scores["accuracy"] == 0 or scores["clinical"] == 0 or BOX in text or q is not Q
            )
            counts = measures.measures(text, q)
            assert min(counts.values()) >= 0 and counts["drc"] <= max(len(q.options) - 1, 0)
            assert not set(measures.rejections(text, q)) & {q.answer, rewards.extract_answer(text, q.options)}


def test_repeating_a_response_earns_no_measure_twice():
    for text in odd_texts(random.Random(1), 200):
        once, twice = measures.measures(text + "\n", Q), measures.measures((text + "\n") * 2, Q)
        assert (once["cecd"], once["hallucination"]) == (twice["cecd"], twice["hallucination"]), text


def test_the_scores_do_not_depend_on_what_was_scored_before():
    texts = list(odd_texts(random.Random(2), 50))
    first = [measures.measures(t, Q) for t in texts]
    rewards.read_case.cache_clear()
    assert [measures.measures(t, Q) for t in reversed(texts)] == first[::-1]


# ---- Agreement with the clinic's exact audit ----------------------------------------------------------------------


def ranks(values):
    order = sorted(values)
    first, last = {}, {}
    for place, value in enumerate(order):
        first.setdefault(value, place)
        last[value] = place
    return [(first[v] + last[v]) / 2 for v in values]


def spearman(xs, ys):
    a, b = ranks(xs), ranks(ys)
    mean = (len(xs) - 1) / 2
    top = sum((x - mean) * (y - mean) for x, y in zip(a, b))
    return top / (sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b)) ** 0.5


def test_agreement_with_the_clinics_audit():
    rng, rows = random.Random(5), []
    for q in clinic.make_questions(500, 5, "test"):
        text = clinic.write_trace(
            q,
            rng,
            rng.choice(("crpo", "grpo")),
            rng.choice(list(clinic.STYLES)),
            wrong=rng.random() < 0.25,
            false_finding=rng.random() < 0.35,
            malformed=rng.random() < 0.2,
        )
        rows.append((clinic.audit(text, q), measures.measures(text, q)))
    for exact, measured in (("citations", "cecd"), ("rejections", "drc"), ("false_findings", "hallucination")):
        agreement = spearman([a[exact] for a, _ in rows], [m[measured] for _, m in rows])
        assert agreement >= 0.9, (measured, agreement)


def test_every_faultless_trace_of_the_clinic_has_its_form():
    rng = random.Random(6)
    for q in clinic.make_questions(100, 6, "test"):
        for style in clinic.STYLES:
            response = clinic.write_trace(q, rng, "crpo", style)
            assert (
                rewards.accuracy(response, q) == 1
                and rewards.clinical(response, q) >= 1
                and rewards.consistency(response, q) == 1
            )
            assert rewards.clinical(response, q) == 1.5 or style not in ("full", "partial"), response
            assert rewards.thinking(clinic.write_trace(q, rng, "grpo", style), q) == 1
