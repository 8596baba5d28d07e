"""The evaluation's measures by rule: what a response is counted for, where rewards.py says what it is paid for.

The paper has a language model count them (judge.py does). These are pure functions too, of linear time, and take any
string. Nothing here is paid, so it may lean less to one side than rewards.py: a response is read in the words of its
case (WORDINGS, and what its values are called), a finding may be named in part, and what draws the inference need not
be a set phrase. tests/fixtures has 60 responses counted by hand to compare with.
"""

import re
from collections import Counter
from functools import lru_cache
from itertools import dropwhile, takewhile

import rewards
from rewards import (ATTRIBUTION, COPULA, EMPTY, GENERAL, INFERENCE, MARKUP, PATIENT, READ, REJECT, STOP, UNITS,
                     as_line, box_letter, boxes, case_of, denied_at, extract_answer, is_number, mentions, named_options,
                     readings_of, refusals, root, sentences, tokens_of, word_set)

MANY = 20  # findings that share a word; it names none of more
CUE_LIMIT = 3  # how often one cue phrase counts as a behaviour
BEHAVIOURS = {  # cue phrases, none across a line
    "backtracking": """wait, on second thought, let me reconsider, reconsidering, let me re examine, let me rethink,
        i was wrong, that is not right, that is wrong, going back, let me go back, actually no, scratch that,
        my mistake""",
    "verification": """let me check, let me verify, double check, to verify, to confirm, verifying, checking,
        let me confirm, this is consistent with, sanity check, recheck, re check, does this fit, confirming""",
    "subgoal": """first, second, third, next, finally, step 1, step 2, step 3, step 4, step by step, let me start,
        to begin, we need to""",
    "backward_chaining": """working backward, working backwards, work backward, work backwards,
        starting from the answer, if the answer were, if the diagnosis were, if this were, if it were, we would expect,
        would expect to see""",
}

WORDINGS = [[tuple(tokens_of(phrase)) for phrase in line.split("|")] for line in """\
dyspnea|shortness of breath|short of breath|breathless|breathlessness|difficulty breathing|trouble breathing
fever|febrile|pyrexia
vomiting|emesis|vomit|vomited
itching|pruritus|pruritic|itchy|itch
jaundice|icterus|icteric|scleral icterus|yellowing
edema|oedema
swelling|swollen|puffiness|puffy
diabetes mellitus|diabetes|diabetic
hypertension|high blood pressure|hypertensive
myocardial infarction|heart attack
jugular venous distention|jvd|distended neck veins|elevated jugular venous pressure|raised jugular venous pressure
sleeps on three pillows|sleeps on two pillows|orthopnea
hematemesis|vomiting blood|vomited blood
melena|black stools|tarry stools|black tarry stools|dark stools
hematochezia|bloody stools|rectal bleeding|blood in the stool
hemoptysis|coughing up blood|coughing blood
hematuria|blood in the urine|bloody urine
dysuria|painful urination|pain on urination|burning on urination|burning with urination
polyuria|frequent urination|urinary frequency
polydipsia|increased thirst|excessive thirst
neck stiffness|stiff neck|nuchal rigidity|neck rigidity|meningismus
photophobia|sensitivity to light|light sensitivity
syncope|fainted|fainting|passed out|loss of consciousness|lost consciousness
sweating|diaphoresis|diaphoretic|sweaty|sweats
hair loss|alopecia
fatigue|tired|tiredness|exhaustion
dizziness|dizzy|lightheaded|lightheadedness
palpitations|racing heart|heart racing
confusion|confused|disoriented|altered mental status
lethargic|lethargy|drowsy|drowsiness|somnolent|sleepy
weight loss|lost weight|losing weight
weight gain|gained weight
smoking|smoker|smokes|smoked|smoke|cigarettes|tobacco
joint pain|arthralgia|arthralgias
muscle pain|myalgia|myalgias|muscle aches
nosebleeds|epistaxis
runny nose|rhinorrhea
sore throat|pharyngitis
petechial rash|petechiae|purpuric rash|purpura
crackles|rales|crepitations
wheezing|wheeze|wheezes
abdomen|abdominal|belly
face|facial
erythrocyte sedimentation rate|esr|sedimentation rate
mean corpuscular volume|mcv
red cell distribution width|rdw
total iron binding capacity|tibc
c reactive protein|crp
hemoglobin|hb|hgb
leukocyte count|white blood cell count|white cell count|wbc count|white count|wbc
platelet count|platelets
b type natriuretic peptide|bnp|brain natriuretic peptide
urea nitrogen|blood urea nitrogen|bun
thyroid stimulating hormone|tsh
cerebrospinal fluid|csf|spinal fluid
ecg|ekg|electrocardiogram|electrocardiography
x ray of the chest|chest x ray|cxr|chest radiograph
ct scan|ct|computed tomography
mri|magnetic resonance imaging
ultrasonography|ultrasound|sonography
blood pressure|bp
pulse|heart rate
respirations|respiratory rate|breathing rate
oxygen saturation|spo2|o2 saturation|saturation""".splitlines()]  # of each line all say the same

RANGE = word_set("low high elevated raised reduced decreased increased normal large small abnormal")
APART = REJECT | GENERAL | word_set("reserved belong seldom rarely worse uncommon seen treat instead for but while")
BARE = EMPTY | APART | word_set("""no needed need indicated appropriate recommended useful helpful best wrong
    choice here now relevant used treatment therapy drug test""")  # of a bare rejection
TESTS = word_set("""ecg electrocardiogram x ray chest radiograph ultrasonography ultrasound urinalysis ct mri scan
    analysis examination biopsy laboratory study serum smear echocardiography colonoscopy endoscopy urine cerebrospinal
    fluid brain head abdomen abdominal pelvic renal neck blood test""")
PREPOSITIONS = word_set("of on in at with for to when during over from by after around between above below without")
# before or after a word that then means another thing
OTHERWISE = word_set("""portal pulmonary intracranial ocular gestational yellow hay scarlet rheumatic transferrin
    insipidus coat""")
VAGUE = word_set("loss level history count pain test sign episode change problem type disease side day use")
RETELLS = PATIENT | word_set("examination exam history imaging laboratory vital")  # near a sentence's beginning
AGE = re.compile(r"\b(\d{1,3})[- ](?:year|month|week|day)s?[- ]old\b", re.IGNORECASE)
ANSWER = re.compile(r"\b(?:answer is|is:)\W{0,8}(?:(?:[Oo]ption|[Cc]hoice) )?\(?([A-Z])(?=[).:*]|$)", re.MULTILINE)


def behaviours(response):
    """The four cognitive behaviours, by cue phrase, each phrase counted up to CUE_LIMIT times. -> {name: count}"""
    line = as_line(token.lower() for token in re.findall(r"[^\W_]+", MARKUP.sub(" ", response[:READ])))
    return {name: sum(min(line.count(f" {cue} "), CUE_LIMIT) for cue in re.split(r",\s+", cues))
            for name, cues in BEHAVIOURS.items()}


def head_of(finding):
    """The word that names a finding by itself, or None: "rash" of "a polymorphous rash on the trunk", "calf" of "The
    calf is swollen"."""
    ends = PREPOSITIONS | COPULA
    tokens = [t for t in tokens_of(finding.text) if t in finding.words - UNITS or t in ends]
    words = [*takewhile(lambda t: t not in ends, dropwhile(PREPOSITIONS.__contains__, tokens))]
    return words[-1] if words and words[-1] not in VAGUE else None


class Reading:
    """What the measures know of a case beyond rewards.Case: other words for its own, and names of its findings and,
    in short, of its options."""

    def __init__(self, case):
        own = {}
        for group in WORDINGS:
            said = next((phrase for phrase in group if as_line(phrase) in case.line), None)
            own.update((phrase, said) for phrase in group if said and as_line(phrase) not in case.line)
        for finding in case.findings:
            readings, words = readings_of(finding), tuple(tokens_of(finding.text)[:12])
            own.update(((word,), words) for word in readings - case.words)
            own.update(((no, "fever"), words) for no in ("no", "without") if "afebrile" in readings)
        self.wordings = {}  # first word -> [(a wording, the case's own)], the longest first; options keep their names
        for phrase in sorted(own, key=lambda phrase: (-len(phrase), phrase)):
            if not any(as_line(phrase) in text for text in case.options.values()):
                self.wordings.setdefault(phrase[0], []).append((phrase, own[phrase]))
        self.roots = {root(word): word for word in sorted(case.words - STOP)}
        heads = [head_of(finding) for finding in case.findings]
        self.heads = [head if len(case.index.get(head, ())) == 1 else None for head in heads]
        # a test without a result stands for the finding that follows it
        self.same = [place + (finding.words <= TESTS and not finding.numbers and place + 1 < len(heads))
                     for place, finding in enumerate(case.findings)]
        # of one option alone: a word, or initials as HSV -> its letter
        words = [(word, letter) for letter, text in case.options.items() for word in set(text.split())]
        initials = ["".join(word[0] for word in text.split()) for text in case.options.values()]
        initials = [(x[:n], letter) for x, letter in zip(initials, case.options) for n in range(3, len(x) + 1)]
        self.short_names = {}
        for names in (words, initials):
            used = Counter(name for name, _ in names)
            self.short_names.update((name, letter) for name, letter in names
                                    if used[name] == 1 and len(name) > 2 and name not in EMPTY)


read_further = lru_cache(maxsize=1024)(Reading)


def in_its_words(sentence, case):
    """A sentence with the case's own words for others that say the same: its blood pressure for "hypotension"."""
    reading, said, place = read_further(case), [], 0
    while place < len(sentence):
        word = sentence[place]
        for phrase, words in reading.wordings.get(word, ()):
            end = place + len(phrase)
            if (tuple(sentence[place:end]) == phrase
                    and OTHERWISE.isdisjoint(sentence[max(0, place - 1):place] + sentence[end:end + 1])):
                break
        else:
            known = word in case.words or word in case.option_words
            phrase, words = (word,), (word if known else reading.roots.get(root(word), word),)
        said += words
        place += len(phrase)
    return said


def named(sentence, case):
    """The findings (places in case.findings) that a sentence names, none of the case's that it denies.

    Half of a finding's words name it, or its head if no other finding has that word. A value takes one of its words
    beside its numbers, or half of them beside a word such as "high" and no number. Words of the options alone name
    none. A finding that the case denies may be named in any way: "normal", "clear" and "not enlarged" are as good as
    "no".
    """
    places, found = {}, []
    for position, word in enumerate(sentence):
        for finding in case.index.get(word, ())[:MANY]:
            places.setdefault(finding, []).append(position)
    for finding, at in places.items():
        _, words, numbers, negated = case.findings[finding]
        core, seen = words - UNITS or words, {sentence[p] for p in at}
        enough = 2 * len(core & seen) >= len(core) or read_further(case).heads[finding] in seen
        if numbers and numbers <= seen:
            enough = not core.isdisjoint(seen)
        elif numbers:
            enough &= not (RANGE.isdisjoint(sentence[max(0, at[0] - 3):at[-1] + 4])
                           or any(map(is_number, sentence[at[0]:at[-1] + 4])))
        if enough and not seen <= case.option_words and (negated or not denied_at(sentence, at[0], at[-1])):
            found.append(finding)
    return found


def citations(response, question):
    """CECD: the findings of the case that a response brings up, in order: named() in a sentence that says more than the
    case does, or is followed by one that does, and is not its mere retelling ("The patient has ...", "Examination shows
    ...", without a word of inference in it and no "this" after it); and the age where it is named as one."""
    case, cited, age = case_of(question), {}, AGE.search(question.stem)
    said = [in_its_words(sentence, case) for sentence in sentences(response)]
    retold = EMPTY | (case.words - case.option_words)
    more = [any(word.isalpha() and len(word) > 1 and word not in retold for word in sentence) for sentence in said]
    for place, sentence in enumerate(said):
        after = (place + 1) % len(said)  # the last looks at the first, so that saying all twice counts no more
        refers = not {"this", "these"}.isdisjoint(said[after][:3])
        if (more[place] or more[after]) and (refers or not INFERENCE.isdisjoint(sentence)
                                             or RETELLS.isdisjoint(sentence[:4])):
            places = {read_further(case).same[finding] for finding in named(sentence, case)}
            cited.update((case.findings[finding].text, None) for finding in sorted(places))
            if age and not {"age", "old"}.isdisjoint(sentence):
                cited[age[0]] = None
    return list(cited)


def unsupported(response, question):
    """Hallucination: what rewards.unsupported() finds once the response is in the case's own words."""
    case = case_of(question)
    return rewards.unsupported(response, question, [in_its_words(s, case) for s in sentences(response)])


def options_in(sentence, case):
    """The options that a sentence names; where none is named in full, one by a word of it alone or its initials, beside
    which no word stands that is not its own: "serum lipase" names no "serum ketone"."""
    full = named_options(sentence, case)
    for place, word in enumerate(() if full else sentence):
        letter = read_further(case).short_names.get(word)
        beside = set(sentence[max(0, place - 1):place] + sentence[place + 1:place + 2])
        if letter and not beside - EMPTY - APART - set(case.options[letter].split()):
            return [letter]
    return full


def misreads(sentence, question):
    """Whether a sentence makes up a finding, denies one of the case's, or has one that the case denies."""
    case = case_of(question)
    return bool(rewards.unsupported("", question, [sentence])) or any(
        denied != case.findings[f].negated for f, (_, denied) in mentions(tuple(sentence), case).items())


def choice(response, options):
    """The letter that a response answers with: extract_answer(), or of one out of form what its last box names, or else
    what stands after its last "answer is"."""
    found = filter(None, (box_letter(content, options) for content in dict.fromkeys([*boxes(response)][::-1])))
    written = [letter for letter in ANSWER.findall(response) if letter in options]
    return extract_answer(response, options) or next(found, None) or (written or [None])[-1]


def rejections(response, question):
    """DRC: refusals() of the wrong options, also named in short, and those that a sentence sets apart which begins with
    them or holds a word of rejection, contrast or what is usual ("Albuterol is for bronchospasm"), by a word that no
    earlier reason had. A sentence that infers counts if it holds a word of rejection and misreads() nothing. Neither
    the key nor the response's own choice can be rejected. Whether what sets an option apart is true is medicine, which
    the rules do not know: coverage(), which pays, counts refusals() alone."""
    case, kept = case_of(question), (question.answer, choice(response, question.options))
    rejected = {x: reason for x, reason in refusals(response, question, options_in).items() if x not in kept}
    told = set().union(*rejected.values())
    for sentence in sentences(response):
        letter = next(iter(options_in(sentence, case)), None)
        if letter in (None, *kept, *rejected):
            continue
        infers = not ATTRIBUTION.union(("because", "since")).isdisjoint(sentence)
        if infers and (REJECT.isdisjoint(sentence) or misreads(sentence, question)):
            continue
        name = {f"{letter})", *case.options[letter].split()}
        said = frozenset(token for token in sentence if token[-1] != ")") - BARE - case.option_words - told
        if said and not ((APART | {"no"}).isdisjoint(sentence) and name.isdisjoint(sentence[:4])):
            rejected[letter] = said
            told |= said
    return rejected


def measures(response, question):
    """The evaluation's counts; citations: all attributed citations, right (cecd) and wrong (hallucination).

    faithfulness: the distinct correct claims about the case that rules can check, findings tied to an inference and
    wrong options rejected for a reason: cecd + drc, so no evidence beside these two.
    """
    cecd, wrong = len(citations(response, question)), len(unsupported(response, question))
    drc = len(rejections(response, question))
    return {**behaviours(response), "faithfulness": cecd + drc, "cecd": cecd, "drc": drc, "hallucination": wrong,
            "citations": cecd + wrong}
