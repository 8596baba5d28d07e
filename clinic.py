"""The embedded clinic: a synthetic world of thirty conditions in which reasoning can be checked exactly.

A case shows 4-5 of its condition's six typical findings, 1-2 incidental ones and, in a third of the cases, a red
herring: a finding typical of a wrong option. Findings overlap between the conditions of an organ system, and four of
the five options are of one system; the true condition always explains strictly more of the case than any other option.
Laboratory findings carry a value that an answer must copy.

The facts are textbook associations, chosen to be sensible and few. They are for training tiny models, not for patients.

    python clinic.py base 20000 traces.jsonl          a corpus of reasoning traces (CORPORA) for train_sft.py
    python clinic.py questions 500 cases.jsonl --split test
"""

import argparse
import hashlib
import json
import random
import re
from dataclasses import asdict
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from data import PROMPTS, Question, user_text

LETTERS = "ABCDE"

# system: {condition: (treatment, confirmatory test, six typical findings)}. "name|unit" is a laboratory value.
SYSTEMS = {
    "cardiovascular": {
        "acute pericarditis": ("colchicine", "electrocardiography", [
            "sharp chest pain", "pericardial friction rub", "relief on leaning forward", "diffuse ST elevation",
            "low-grade fever", "shortness of breath"]),
        "myocardial infarction": ("percutaneous coronary intervention", "coronary angiography", [
            "crushing chest pain", "left arm pain", "profuse sweating", "shortness of breath", "hypotension",
            "troponin|ng/L"]),
        "aortic dissection": ("intravenous labetalol", "CT angiography of the aorta", [
            "tearing back pain", "unequal arm pulses", "widened mediastinum", "profuse sweating", "syncope",
            "sharp chest pain"]),
        "heart failure": ("intravenous furosemide", "transthoracic echocardiography", [
            "orthopnea", "leg swelling", "raised jugular venous pressure", "third heart sound", "shortness of breath",
            "BNP|pg/mL"]),
        "cardiac tamponade": ("pericardiocentesis", "bedside cardiac ultrasound", [
            "muffled heart sounds", "pulsus paradoxus", "raised jugular venous pressure", "hypotension", "syncope",
            "low QRS voltage"]),
    },
    "respiratory": {
        "lobar pneumonia": ("amoxicillin", "chest radiography", [
            "high fever", "productive cough", "pleuritic pain", "lobar consolidation", "bronchial breath sounds",
            "white cell count|x10^9/L"]),
        "pulmonary embolism": ("therapeutic heparin", "CT pulmonary angiography", [
            "sudden breathlessness", "pleuritic pain", "unilateral calf swelling", "hemoptysis", "tachycardia",
            "D-dimer|ng/mL"]),
        "tension pneumothorax": ("needle decompression", "lung ultrasound", [
            "sudden breathlessness", "unilateral silent chest", "hyperresonant percussion", "tracheal deviation",
            "tachycardia", "pleuritic pain"]),
        "COPD exacerbation": ("noninvasive ventilation", "arterial blood gas analysis", [
            "expiratory wheeze", "productive cough", "barrel chest", "long smoking history", "prolonged expiration",
            "arterial carbon dioxide|mmHg"]),
        "asthma attack": ("nebulized salbutamol", "bronchodilator spirometry", [
            "expiratory wheeze", "nocturnal cough", "chest tightness", "prolonged expiration", "history of eczema",
            "peak flow|L/min"]),
    },
    "gastrointestinal": {
        "acute pancreatitis": ("intravenous fluid resuscitation", "serum lipase assay", [
            "epigastric pain", "pain radiating to the back", "repeated vomiting", "heavy alcohol use",
            "reduced bowel sounds", "lipase|U/L"]),
        "acute cholecystitis": ("laparoscopic cholecystectomy", "right upper quadrant ultrasound", [
            "right upper quadrant pain", "Murphy sign", "pain after fatty meals", "repeated vomiting",
            "shoulder tip pain", "C-reactive protein|mg/L"]),
        "perforated peptic ulcer": ("emergency laparotomy", "upright abdominal radiography", [
            "epigastric pain", "board-like rigidity", "free air under the diaphragm", "regular ibuprofen use",
            "reduced bowel sounds", "shoulder tip pain"]),
        "acute appendicitis": ("laparoscopic appendectomy", "contrast CT of the abdomen", [
            "pain migrating to the right lower quadrant", "McBurney point tenderness", "Rovsing sign",
            "loss of appetite", "repeated vomiting", "C-reactive protein|mg/L"]),
        "small bowel obstruction": ("nasogastric decompression", "small bowel contrast study", [
            "colicky abdominal pain", "abdominal distension", "high-pitched bowel sounds", "previous laparotomy",
            "repeated vomiting", "absolute constipation"]),
    },
    "neurological": {
        "ischemic stroke": ("intravenous alteplase", "diffusion-weighted MRI", [
            "facial weakness", "arm drift", "slurred speech", "gaze deviation", "atrial fibrillation",
            "systolic pressure|mmHg"]),
        "subarachnoid hemorrhage": ("aneurysm coiling", "noncontrast head CT", [
            "thunderclap headache", "neck stiffness", "photophobia", "confusion", "brief loss of consciousness",
            "systolic pressure|mmHg"]),
        "bacterial meningitis": ("intravenous ceftriaxone", "lumbar puncture", [
            "neck stiffness", "photophobia", "confusion", "purpuric rash", "spiking fever",
            "cerebrospinal neutrophils|cells/uL"]),
        "Guillain-Barre syndrome": ("intravenous immunoglobulin", "nerve conduction studies", [
            "ascending weakness", "lost tendon reflexes", "preceding diarrhea", "tingling feet", "facial weakness",
            "cerebrospinal protein|mg/dL"]),
        "myasthenia gravis": ("pyridostigmine", "acetylcholine receptor antibody assay", [
            "drooping eyelids", "double vision", "fatigable weakness", "slurred speech", "difficulty swallowing",
            "thymic enlargement"]),
    },
    "endocrine": {
        "diabetic ketoacidosis": ("insulin infusion", "serum ketone measurement", [
            "polyuria", "fruity breath", "deep rapid breathing", "unintended weight loss", "dry mucous membranes",
            "glucose|mg/dL"]),
        "adrenal insufficiency": ("hydrocortisone", "cosyntropin stimulation test", [
            "skin hyperpigmentation", "salt craving", "postural dizziness", "unintended weight loss",
            "persistent fatigue", "potassium|mmol/L"]),
        "Graves disease": ("methimazole", "thyrotropin receptor antibody assay", [
            "heat intolerance", "fine tremor", "bulging eyes", "diffuse goiter", "unintended weight loss",
            "palpitations"]),
        "hypothyroidism": ("levothyroxine", "free thyroxine measurement", [
            "cold intolerance", "weight gain", "dry coarse skin", "persistent fatigue", "chronic constipation",
            "TSH|mIU/L"]),
        "primary hyperparathyroidism": ("parathyroidectomy", "parathyroid hormone measurement", [
            "kidney stones", "bone pain", "polyuria", "chronic constipation", "low mood", "calcium|mg/dL"]),
    },
    "hematological": {
        "iron deficiency anemia": ("oral ferrous sulfate", "iron studies", [
            "conjunctival pallor", "spoon-shaped nails", "craving for ice", "smooth sore tongue",
            "breathlessness on exertion", "ferritin|ng/mL"]),
        "vitamin B12 deficiency": ("intramuscular cobalamin", "methylmalonic acid measurement", [
            "conjunctival pallor", "loss of vibration sense", "unsteady gait", "strict vegan diet",
            "smooth sore tongue", "mean cell volume|fL"]),
        "infectious mononucleosis": ("supportive care", "heterophile antibody test", [
            "exudative sore throat", "posterior cervical adenopathy", "enlarged spleen", "atypical lymphocytes",
            "persistent fatigue", "periorbital swelling"]),
        "malaria": ("artemether-lumefantrine", "thick blood film", [
            "cyclical fever", "shaking chills", "recent travel to Ghana", "enlarged spleen", "scleral jaundice",
            "platelet count|x10^9/L"]),
        "Hodgkin lymphoma": ("ABVD chemotherapy", "excisional node biopsy", [
            "painless neck mass", "drenching night sweats", "generalized itching", "widened mediastinum",
            "persistent fatigue", "alcohol-induced node pain"]),
    },
}

# Abnormal values a laboratory finding may take; few, so that each is one token.
LAB_VALUES = {
    "troponin": (90, 120, 180, 240, 310, 420, 560, 780), "BNP": (520, 640, 780, 850, 920, 960),
    "white cell count": (14, 15, 16, 17, 18, 19, 21, 23), "D-dimer": (750, 820, 890, 930, 970, 990),
    "arterial carbon dioxide": (52, 55, 58, 61, 64, 67, 70), "peak flow": (130, 150, 170, 190, 210, 230),
    "lipase": (420, 510, 630, 740, 860, 980), "C-reactive protein": (48, 64, 85, 110, 140, 175),
    "systolic pressure": (176, 182, 188, 194, 204, 212), "cerebrospinal neutrophils": (250, 340, 460, 590, 710, 840),
    "cerebrospinal protein": (95, 115, 135, 165, 185), "glucose": (330, 380, 430, 480, 540),
    "potassium": (6, 7), "TSH": (22, 28, 36, 45, 57, 74), "calcium": (12, 13, 14),
    "ferritin": (3, 4, 5, 7, 8, 9), "mean cell volume": (108, 112, 116, 121, 126),
    "platelet count": (42, 53, 68, 77, 88),
}
INCIDENTAL = ("mild acne", "seasonal allergies", "a healed burn scar", "a healed wrist fracture", "flat feet",
              "occasional hiccups", "mild dandruff", "a tattoo on the forearm", "nearsightedness", "earwax",
              "chapped lips", "a mosquito bite", "tennis elbow", "a family history of gout", "ingrown toenails",
              "sodium|mmol/L", "hemoglobin|g/dL")
NORMAL_VALUES = {"sodium": (137, 139, 141, 143), "hemoglobin": (14, 15, 16)}
UNITS = {name: unit for name, _, unit in (f.partition("|") for s in SYSTEMS.values() for c in s.values() for f in c[2])
         if unit} | {"sodium": "mmol/L", "hemoglobin": "g/dL"}

CONDITIONS = {name: (system, *facts) for system, rows in SYSTEMS.items() for name, facts in rows.items()}
ASKED = {"diagnosis": "What is the most likely diagnosis?", "treatment": "Which treatment is indicated?",
         "test": "Which test confirms the diagnosis?"}


def option_text(condition, kind):
    """What an option says for a condition: its name, treatment or confirmatory test."""
    return {"diagnosis": condition, "treatment": CONDITIONS[condition][1], "test": CONDITIONS[condition][2]}[kind]


OPTION_OF = {option_text(condition, kind): condition for condition in CONDITIONS for kind in ASKED}


def typical(condition):
    """Names of a condition's six findings, laboratory ones without unit."""
    return [finding.partition("|")[0] for finding in CONDITIONS[condition][3]]


def phrases():
    """The strings that are one token each to the embedded tokenizer, so that copying one is copying a token."""
    values = {str(v) for table in (LAB_VALUES, NORMAL_VALUES) for row in table.values() for v in row}
    spaced = sorted(_NAMES | set(UNITS.values()) | values | set(OPTION_OF))
    tags = ["<dx>", "</dx>", "<conclusion>", "</conclusion>", "<think>", "</think>", "<answer>", "</answer>"]
    fixed = [" System 1:", " System 2:", " \\boxed{", "-year-old", *ASKED.values()]
    return [" " + s for s in spaced] + [f"{letter})" for letter in LETTERS] + tags + fixed


def _shown(name, value):
    return f"{name} of {value} {UNITS[name]}" if name in UNITS else name


def _case(rng, condition):
    """A case of a condition, or None where chance made it ambiguous: options, {finding: lab value or None}, red
    herring, the findings that decide."""
    system = CONDITIONS[condition][0]
    peers = rng.sample([c for c in SYSTEMS[system] if c != condition], 3)
    stranger = rng.choice([c for c in CONDITIONS if CONDITIONS[c][0] != system])
    options = [condition, *peers, stranger]
    rng.shuffle(options)
    shown = rng.sample(typical(condition), rng.choice((4, 5)))
    herring = None
    if rng.random() < 1 / 3:
        herring = rng.choice([f for f in typical(rng.choice(peers)) if f not in typical(condition)])
    findings = shown + [herring] * (herring is not None)
    rivals = max(sum(f in typical(other) for f in findings) for other in options if other != condition)
    if rivals >= len(shown):
        return None
    incidental = [f.partition("|")[0] for f in rng.sample(INCIDENTAL, rng.choice((1, 2)))]
    order = findings + incidental
    rng.shuffle(order)
    values = {f: rng.choice(LAB_VALUES.get(f) or NORMAL_VALUES[f]) if f in UNITS else None for f in order}
    return options, values, herring, findings


def _split(condition, findings):
    """By a hash of what decides the case, so that no combination of findings is shared between the splits."""
    key = "|".join([condition, *sorted(findings)])
    bucket = hashlib.sha256(key.encode()).digest()[0] % 10
    return "test" if bucket < 2 else "final" if bucket < 4 else "train"


def make_questions(n, seed, split="train"):
    """n Questions of a split: "train", "test", or "final", which no tuning ever sees. Deterministic by seed."""
    rng = random.Random(f"{split}-{seed}")
    questions = []
    while len(questions) < n:
        # A condition is kept until a case of it falls into the split, so that every split has them all equally often.
        condition = rng.choice(list(CONDITIONS))
        case = None
        while case is None or _split(condition, case[3]) != split:
            case = _case(rng, condition)
        options, values, herring, _ = case
        kind = rng.choice(list(ASKED))
        listed = [_shown(f, v) for f, v in values.items()]
        age = rng.randint(18, 85)
        stem = (f"{'An' if age == 18 or age >= 80 else 'A'} {age}-year-old {rng.choice(('man', 'woman'))} has "
                f"{', '.join(listed[:-1])} and {listed[-1]}. {ASKED[kind]}")
        texts = {letter: option_text(c, kind) for letter, c in zip(LETTERS, options)}
        meta = {"system": CONDITIONS[condition][0], "condition": condition, "kind": kind, "findings": values,
                "herring": herring}
        questions.append(Question(f"clinic-{split}-{seed}-{len(questions):06d}", stem, texts,
                                  LETTERS[options.index(condition)], "clinic", meta))
    return questions


# ---- Reasoning traces -------------------------------------------------------------------------------------------

# style: (findings in System 1, in System 2, distractors rejected, findings in the conclusion)
STYLES = {"survey": (1, 1, 4, 1), "full": (2, 3, 3, 2), "partial": (2, 1, 1, 2), "terse": (1, 1, 0, 1),
          "direct": (1, 1, 0, 0)}


def write_trace(question, rng, objective="crpo", style="full", wrong=False, false_finding=False, malformed=False):
    """A response to a clinic question in the form of `objective`, of one of STYLES.

    wrong: it reasons to a wrong option. false_finding: one of its findings is not in the case. malformed: one fault of
    form, such as a missing or doubled tag.
    """
    first, second, rejected, repeated = STYLES[style]
    values = question.meta["findings"]
    letter = question.answer
    if wrong:
        letter = rng.choice([x for x in question.options if x != letter])
    condition = OPTION_OF[question.options[letter]]
    fits = [f for f in values if f in typical(condition)]
    rest = [f for f in values if f not in fits]
    # A wrong conclusion rests on whatever the case has, a right one only on what fits it. Findings and options keep
    # the case's order: cited at random, a typical finding is a good guess without a look at the case.
    cited = [_shown(f, values[f]) for f in (fits + rest if wrong else fits)[:first + second]]
    if false_finding:
        cited[rng.randrange(len(cited))] = _invented(condition, values, rng)
    impression, analysis = cited[:first], cited[first:]
    one = [f"{' and '.join(impression)} {'suggest' if len(impression) > 1 else 'suggests'} {condition}."]
    two = [f"{finding} supports {condition}." for finding in analysis]
    others = [x for x in question.options if x not in (letter, question.answer)]
    for other in sorted(rng.sample(others, min(rejected, len(others)))):
        two.append(f"{question.options[other]} is unlikely because {_reason(question, other, rng)}.")
    named = question.options[letter]
    end = f"{named}."
    if repeated:
        meant = named if question.meta["kind"] == "diagnosis" else f"{condition}, so {named}"
        end = f"{' and '.join(cited[:repeated])} {'point' if repeated > 1 else 'points'} to {meant}."
    # The box holds the option's text, which the extractor takes as its letter: which letter stands beside a text
    # is a thing that a model of this size had not learned after four million tokens.
    box = f"\\boxed{{ {named}}}"
    end = f"{end} {box}"
    if objective == "grpo":
        text = f"<think> {' '.join(one + two)} </think><answer> {end} </answer>"
        if style == "direct":
            text = f"<think> {one[0]} </think><answer> {end} </answer>"
        opening, closing = "<think>", "</think>"
    else:
        text = f"<dx> System 1: {' '.join(one)} System 2: {' '.join(two)} </dx><conclusion> {end} </conclusion>"
        opening, closing = "<dx>", "</dx>"
    if malformed:
        faults = [text.replace(opening + " ", ""), text.replace(closing, ""), text.replace(closing, closing * 2),
                  text + " " + one[0], text.replace(" " + box, "") + " " + box, text.replace(" System 2:", "")]
        text = rng.choice([fault for fault in faults if fault != text])
    return text


def _invented(condition, values, rng):
    """A finding of the condition that the case lacks, or a laboratory value that is not the case's."""
    absent = [f for f in typical(condition) if f not in values]
    labs = [f for f in typical(condition) if f in UNITS]
    name = rng.choice(absent + labs)
    choices = [v for v in LAB_VALUES.get(name, ()) if v != values.get(name)]
    return _shown(name, rng.choice(choices) if choices else None)


def _reason(question, letter, rng):
    """Why an option is unlikely: a finding typical of it is absent, or one of the case's is not typical of it."""
    values, own = question.meta["findings"], typical(OPTION_OF[question.options[letter]])
    absent = [f for f in own if f not in values]
    foreign = [f for f in typical(question.meta["condition"]) if f in values and f not in own]
    if absent and (rng.random() < 0.6 or not foreign):
        name = absent[0]
        return f"{name} is {'not abnormal' if name in UNITS else 'absent'}"
    name = foreign[0]
    return f"{_shown(name, values[name])} does not fit it"


# Shares of a corpus: styles, objectives, and of the traces' faults.
CORPORA = {
    # Short answers are as frequent as long ones, so that a model learns to be right without writing much.
    "pretrain": dict(styles=("survey", "full", "partial", "terse", "direct"), weights=(2, 3, 2, 3, 3),
                     objectives=("crpo", "grpo")),
    "base": dict(styles=("full", "partial", "terse", "direct"), weights=(1, 2, 4, 3), objectives=("crpo", "grpo"),
                 wrong=0.35, malformed=0.25, false_finding=0.15),
    "cold": dict(styles=("full", "partial", "terse"), weights=(4, 4, 2), objectives=("crpo", "grpo"), wrong=0.15,
                 false_finding=0.15),
}


def make_corpus(n, seed, name):
    """n (question, response, objective) of CORPORA[name], on training questions."""
    recipe = CORPORA[name]
    rng = random.Random(f"{name}-{seed}")
    for question in make_questions(n, f"{name}-{seed}", "train"):
        objective = rng.choice(recipe["objectives"])
        style = rng.choices(recipe["styles"], recipe["weights"])[0]
        faults = {k: rng.random() < recipe.get(k, 0) for k in ("wrong", "false_finding", "malformed")}
        yield question, write_trace(question, rng, objective, style, **faults), objective


def write_corpus(path, n, seed, name):
    """make_corpus as JSON lines for train_sft.py."""
    rows = ({**asdict(question), "response": response, "objective": objective}
            for question, response, objective in make_corpus(n, seed, name))
    _write(path, rows)


def _write(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# ---- The exact audit --------------------------------------------------------------------------------------------

def _any_of(names):
    """A pattern for any of the names as whole words, the longest first."""
    return "(?<![A-Za-z])(" + "|".join(map(re.escape, sorted(names, key=len, reverse=True))) + ")(?![A-Za-z])"


_INCIDENTAL = {f.partition("|")[0] for f in INCIDENTAL}
_NAMES = {f for c in CONDITIONS for f in typical(c)} | _INCIDENTAL
_UNIT = "|".join(map(re.escape, sorted(set(UNITS.values()), key=len, reverse=True)))
_OPTION = re.compile(_any_of(OPTION_OF))
# Option names come first, so that "lipase" in "serum lipase assay" is no finding.
_FINDING = re.compile(rf"(?P<option>{_any_of(OPTION_OF)})|"
                      r"(?P<no>\b(?:[Nn]o|[Ww]ithout|[Ll]acks|(?:[Aa]bsence|[Ll]ack) of) )?"
                      rf"(?P<name>{_any_of(_NAMES)})"
                      rf"(?: of (?P<value>\d{{1,6}}(?:\.\d{{1,6}})?)(?: (?P<unit>{_UNIT})(?![A-Za-z]))?)?"
                      r"(?P<gone> (?:is|are) (?:absent|missing|not present|not abnormal))?")
_LETTER = re.compile(r"(?<![A-Za-z])([A-E])\)")
_SENTENCE = re.compile(r"\.(?:\s|$)|\n|<[^<>]{0,20}>|System [12]:")
_INFERS = re.compile(r"\b(?:suggest|support|point|indicat|consistent|because|favor|unlikely|argues|likely)")
_REJECTS = re.compile(r"\b(?:unlikely|ruled out|rejected|excluded|does not fit|argues against)")


def _claims(sentence):
    """What a sentence says of findings: ({(name, lab value or None, unit or None)} present, {name} absent).

    Absence reaches over a list: "X and Y are absent", "no X or Y".
    """
    found = [m for m in _FINDING.finditer(sentence) if m["name"]]
    gone = [bool(m["no"] or m["gone"]) for m in found]
    listed = [sentence[a.end():b.start()] in (" and ", " or ", ", ", ", and ", ", or ")
              for a, b in zip(found, found[1:])]
    for i in range(1, len(found)):
        gone[i] |= listed[i - 1] and gone[i - 1] and not found[i - 1]["gone"]
    for i in reversed(range(len(listed))):
        gone[i] |= listed[i] and gone[i + 1] and " are " in (found[i + 1]["gone"] or " are ") and not found[i + 1]["no"]
    present = {(m["name"], m["value"] and float(m["value"]), m["unit"]) for m, no in zip(found, gone) if not no}
    return present, {m["name"] for m, no in zip(found, gone) if no}


def _holds(claim, values):
    name, value, unit = claim
    return name in values and values[name] == value and unit in (None, UNITS.get(name))


def audit(response, question):
    """What a response to a clinic question claims, checked against the world. -> counts:

    citations        distinct findings of the case (laboratory ones with their value) that a sentence ties to a
                     condition or option by a word of inference
    rejections       distinct wrong options rejected for a valid reason: a finding typical of the option that is absent
                     from the case, or one of the case that is not typical of the option. Incidental findings are
                     typical of nothing, so they are no reason: else "earwax does not fit it" would reject any option.
    false_findings   distinct findings or values that a sentence of inference claims and the case does not have
    """
    values = question.meta["findings"]
    citations, rejections, false_findings = set(), set(), set()
    for sentence in _SENTENCE.split(response):
        # Names may hold a word of inference ("supportive care", "McBurney point tenderness"), which infers nothing.
        words = _FINDING.sub(lambda m: " _ " + (m["gone"] or ""), sentence)
        if not _INFERS.search(words):
            continue
        named = [question.options.get(letter) for letter in _LETTER.findall(sentence)]
        named += _OPTION.findall(sentence)
        conditions = {OPTION_OF[name] for name in named if name in OPTION_OF}
        present, absent = _claims(sentence)
        true = {claim for claim in present if _holds(claim, values)}
        # A laboratory finding named without its value is neither: it claims only that the case has it.
        bare = {claim for claim in present if claim[0] in values and claim[1] is None}
        if conditions:
            citations |= {name for name, _, _ in true}
            false_findings |= present - true - bare
        if _REJECTS.search(words):
            for letter, text in question.options.items():
                condition = OPTION_OF[text]
                if letter == question.answer or conditions != {condition}:
                    continue
                lacking = any(name in typical(condition) and name not in values for name in absent)
                foreign = any(name not in typical(condition) and name not in _INCIDENTAL for name, _, _ in true)
                if lacking or foreign:
                    rejections.add(letter)
    return {"citations": len(citations), "rejections": len(rejections), "false_findings": len(false_findings)}


# ---- The embedded model's tokenizer ------------------------------------------------------------------------------

CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def build_tokenizer(texts, phrases, vocab_size, directory):
    """Train the tiny model's tokenizer on `texts` and write it to `directory`: lossless byte-level BPE of at most
    vocab_size tokens, and the phrases and system prompts besides.

    Each of `phrases` becomes one token wherever it stands. That is what makes a model of under a million parameters
    able to copy a finding from the case into its reasoning. The two system prompts are one token each as well: a
    constant that a tiny model need not read word by word.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?\d{1,3}|\n+|\s|[^A-Za-z\d\s]"), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    # The phrases are tokens already, so the merges are learned from what stands between them.
    between = re.compile("|".join(re.escape(p) for p in sorted(phrases, key=len, reverse=True)) or "(?!)")
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    pieces = (piece for text in [*texts, "system\nuser\nassistant\n" * 100] for piece in between.split(text))
    tokenizer.train_from_iterator(pieces, trainer)
    whole = dict.fromkeys([*phrases, *PROMPTS.values()])
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in whole])
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
              "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["questions", "tokenizer", *CORPORA],
                        help="plain questions, the embedded model's tokenizer, or a corpus of traces")
    parser.add_argument("n", type=int, help="questions; for the tokenizer, those it is trained on")
    parser.add_argument("out", help="JSON-lines file; for the tokenizer, a directory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=["train", "test", "final"], default="test", help="of plain questions")
    args = parser.parse_args()
    if args.what == "questions":
        _write(args.out, map(asdict, make_questions(args.n, args.seed, args.split)))
    elif args.what == "tokenizer":
        traces = make_corpus(args.n, args.seed, "pretrain")
        build_tokenizer((f"{user_text(q)} {response}" for q, response, _ in traces), phrases(), 700, args.out)
    else:
        write_corpus(args.out, args.n, args.seed, args.what)


if __name__ == "__main__":
    main()
