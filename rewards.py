r"""The rewards: every verifier a pure function of a response and its question.

    r = 10 * accuracy + clinical + 0.5 * consistency      (Eq 4; the grpo baseline: 10 * accuracy + thinking)

score() gives every objective, total() their weighted sum. Citations, refused options and unsupported findings, which
the paper has a language model count, are counted by rules, so that the same text always gets the same number. The rules
read words, not medicine: they know what the case says, not what a disease does. measures.py counts for the evaluation.

A question is anything with .stem, .options (letter -> text) and .answer. Any string is a valid response: nothing here
raises, and time is linear in the text. A policy under optimisation is an adversary, so the rules lean one way: what
might be earned without being deserved is not given.
"""

import re
import unicodedata
from collections import Counter, namedtuple
from functools import lru_cache
from itertools import accumulate, groupby, takewhile

import numpy as np

WEIGHTS = {"crpo": {"accuracy": 10.0, "clinical": 1.0, "consistency": 0.5},
           "grpo": {"accuracy": 10.0, "thinking": 1.0},
           "grounded": {"accuracy": 6.0, "clinical": 1.0, "consistency": 0.5, "grounding": 4.0, "coverage": 1.0}}

READ = 24_000  # characters that the rules on words read of any text: 4,096 tokens of prose are about 20,000
LONGEST_WORD = 48  # a longer token is noise; `</dx><conclusion>` and the longest drug names are shorter
MOST_CHARACTERS = 4096  # different ones of a text; what sorts after them is noise
LONGEST_PERIOD = 8  # tokens in the period of a back-to-back loop
COPIED_RUN = 8  # consecutive words shared with dx that make a copy rather than a phrase
CITED_PER_SENTENCE = 3  # a sentence that recites the case is no better argument than one that picks three findings
CITED_WHOLE = 3  # so many findings cited, or all if the case has fewer, make a whole grounding


# --- the answer ---------------------------------------------------------------------------------------------------

BOX = re.compile(r"\\boxed\s*(?=\{)")  # the bare word, without braces, is no box
WRAPPER = re.compile(r"\\(?:text|math)(?:bf|it|rm|sf|tt)?\{([^{}]*+(?:\{[^{}]*\})?[^{}]*)\}")
TEX_SPACE = re.compile(r"\\[,;:! ]|~")
PREAMBLE = re.compile(r"^(?:option|answer|letter)\b\s*[:=]?\s*", re.IGNORECASE)
LETTERED = re.compile(r"\(?([A-Za-z])(?=\W|$)[).:\s]*(?:[-–—]\s+)?(.*)", re.DOTALL)


def fold(text):
    """Text for comparison: case and runs of white space do not matter, every other character does."""
    return " ".join(text.casefold().split())


def boxes(text):
    r"""The contents of every \boxed{...}, in order, braces balanced; one that is never closed gives all the rest."""
    for part in BOX.split(text)[1:]:
        depths = accumulate((char == "{") - (char == "}") for char in part)
        end = next((place for place, depth in enumerate(depths) if depth == 0), None)
        yield part if end is None else part[1:end]


def box_letter(content, options):
    """The option letter that the content of a box names, or None.

    A bare letter is always the option's letter, whatever the option texts are. A text after the letter must be that
    option's own: "C: " and the text of B is a hedge. A text alone must be the text of exactly one option.
    """
    written, content = content, TEX_SPACE.sub(" ", WRAPPER.sub(r"\1", WRAPPER.sub(r"\1", content))).strip()
    lettered = LETTERED.fullmatch(PREAMBLE.sub("", content, count=1))
    letter, rest = (lettered[1].upper(), lettered[2]) if lettered else (None, "")
    if letter in options and not rest:
        return letter
    for form in (fold, lambda text: fold(text).rstrip(".")):
        same_text = [x for x, text in options.items() if form(text) in (form(content), form(written))]
        if len(same_text) == 1:
            return same_text[0]
    return letter if letter in options and form(rest) == form(options[letter]) else None


def extract_answer(response, options):
    r"""The letter the response answers with, or None (our reading of the paper). One extractor for every arm.

    The letter in \boxed{} inside a closed <conclusion> (or, for the grpo arm, <answer>) block. Every box there must
    name the same option; one that names none is a disagreement. A box elsewhere may hold what is no option, an
    intermediate result, but name no other option.
    """
    parts = (part.partition(f"</{tag}>") for tag in ("conclusion", "answer")
             for part in response.split(f"<{tag}>")[1:])
    answers = {box for inside, closing, _ in parts if closing for box in boxes(inside)}
    elsewhere = {box_letter(box, options) for box in set(boxes(response)) - answers} - {None}
    named = {box_letter(box, options) for box in answers}
    return named.pop() if len(named) == 1 and elsewhere <= named else None


def accuracy(response, question):
    """1.0 if the response answers with the key, else 0.0 (Eq 4)."""
    return float(extract_answer(response, question.options) == question.answer)


# --- words --------------------------------------------------------------------------------------------------------

MARKUP = re.compile(r"<[^<>]{0,40}>|\\[A-Za-z]+|System [12]:")
TEX = re.compile(r"\\(?:(?:text|math)[a-z]{0,2}\b|mu\s*|[,;:! %])|\^?\\circ|n['’]t\b|[${}~]")
PLAIN = {"\\mu": "µ", "\\circ": "°", "^\\circ": "°", "\\%": "%", "n't": " not", "n’t": " not"}
# a list of what is absent, up to its "or"; what its words would not stand in is no list
LIST = re.compile(r"\b(no(?!,| doubt| question| matter)|without)\b(?:(?!\b(?:no|without|and|but|is|are|was|were|has"
                  r"|have|had|he|she|the|who|with|takes|drinks|smokes|worsens|one|two)\b)[^.;:()\n]){1,120}?\bor\b",
                  re.IGNORECASE)
TIME = re.compile(r"(?<!\d)\d{1,3}[- ](?:year|month|week|day|hour)s?\b(?:[- ]old\b)?", re.IGNORECASE)  # ages, durations
SENTENCE_END = re.compile(r"[.!?;](?=\s|$)|\n")
# an option's letter as "B)", a number, a word, or one of the marks that the rules look at; not the colon of a value
TOKEN = re.compile(r"(?<!\w)[A-Z]\)|(?:(?<!\w)[-−+])?\d[\d.,/]*|[^\W_]+|[%°℃℉,]|:(?! ?[-−+<>≥≤]?\d)")


def is_number(token):
    return token[0].isdigit() or token[0] in "-−+"


@lru_cache(maxsize=8192)  # texts repeat their words
def normal(token):
    """One token for comparison: lower case, plural s dropped, 98.0 as 98 and 1,200 as 1200; "B)" stays as it is."""
    if token[-1] == ")":
        return token
    if is_number(token):
        number = token.rstrip(".,/").replace(",", "").replace("−", "-").lstrip("+")
        return number.rstrip("0").rstrip(".") if number.count(".") == 1 and "/" not in number else number
    token = token.lower()
    return token[:-1] if len(token) > 3 and token[-1] == "s" and token[-2] not in "sui" else token


ENDING = re.compile(r"(?:ations?|ings?|ness|it(?:y|ie)|[iy]?ed|ical|ic|al|ou|ia|y|ie|e)$")


def root(word):
    """A word without its ending, so that "lethargy" is the case's "lethargic"; short ones stay."""
    cut = ENDING.sub("", word)
    return cut if len(cut) > 3 else word


def tokens_of(text):
    return [normal(token) for token in TOKEN.findall(text)]


def as_line(tokens):
    """Tokens as " token token ", in which a phrase of the same form is found by `in`."""
    return f" {' '.join(tokens)} "


def word_set(text):
    return frozenset(tokens_of(text))


STOP = word_set("""a an the of to in on at by for from as is are was were be been being am it its this that these those
    there here he she him his her hers they their them we our i my you your and or also both than then so too very more
    most all any some each such which who whom whose what when where how why if into onto over under about after before
    per during do does did has have had having can could will shall may might must s t , :""")
PATIENT = word_set("patient he she man woman boy girl child infant")
# words of any case: naming them says nothing about this one
GENERIC = PATIENT | word_set("""male female baby person case finding feature sign symptom presentation history exam
    examination result evidence picture diagnosis answer option choice question condition disease disorder one other
    another following physician doctor hospital emergency department clinic year month week day hour old ago age present
    presented presenting show shown reveal report complain come brought state note found seen given include known likely
    best correct reason clinical overall together combination typical typically classic usually well physical vital
    laboratory study mother father parent wife husband say said tell told noticed past recent recently otherwise
    appear""")
# names of tests, people, times and sides, and turns of speech, which are no finding by themselves
PARTS = word_set("""medical family social surgical sexual studies testing evaluation measurement remainder serum urine
    urinalysis ecg electrocardiogram radiograph medication treatment therapy treated started began managed
    follow admitted office room home arrival visit place today now time morning current first last two three sister
    brother son abdominal pelvic cardiac cardiovascular cardiopulmonary pulmonary respiratory neurologic neurological
    bilateral unilateral left right upper age sex primary care further additionally addition furthermore moreover
    specifically notably since therefore thus currently respectively diagnosed up arrive pediatrician mention explain
    based confirm questioning upon review system image see reference range value concern similar along associated level
    test live feel partner roommate friend""")
# how much and how long: a finding is the same without them
DEGREES = word_set("""mild moderate severe marked slightly progressively gradually worsening increasingly intermittent
    occasional recurrent persistent sudden onset several multiple""")
ATTRIBUTION = word_set("""consistent support suggest indicate favor favour argue confirm fit match imply suggesting
    supporting indicating favoring favouring confirming implying compatible concerning align suggestive indicative""")
POINTS = ATTRIBUTION | {"point", "pointing"}
INFERENCE = POINTS | word_set("""typical pattern factor trigger define lead speak reflect require localize cause
    suspicion associated hallmark so therefore thus hence suggested supported indicated because
    due explain explained explaining arguing against likely unlikely since confirmed characteristic diagnostic exclude
    excluded rule ruled shown""")
ADVERBS = word_set("""strongly highly clearly possibly potentially probably likewise thereby still further particularly
    especially specifically directly immediately all collectively together overall""")
EVIDENCED = word_set("supported suggested indicated favored favoured confirmed")  # "by" what follows
DENIES = word_set("deny denies denied denying denial")
NOT_BEFORE = DENIES | word_set("without negative no lack lacking lacked absence absent neither nor never")
NOT_AFTER = word_set("absent missing lacking negative")
NOT_SEEN = word_set("present seen found noted reported observed abnormal elevated")
DISMISSED = word_set("""unlikely less incorrect wrong ruled excluded eliminated improbable inappropriate contraindicated
    inconsistent""")
REJECT = DISMISSED | word_set("rule not exclude excluding against rejected reject cannot")
REASON = word_set("""because since as due given absent absence lack lacking without would no missing fit explain
    explained match account argue expected""")
LACKING = NOT_BEFORE | NOT_AFTER | word_set("would expected should")
GENERAL = word_set("""would typically usually often commonly classically generally can could may might typical normally
    normal range threshold criterion criteria reference cutoff if expected should""")
TURNS = word_set("because since as given but although though while whereas however")  # where another clause begins
ASIDE = TURNS | GENERAL
BOUNDARY = TURNS - {"though"} | word_set("that which so therefore thus hence unlikely likely : due")
HAS = word_set("has had have present report complain exhibit experience develop")
CLAIM_STOPS = BOUNDARY | ATTRIBUTION | PATIENT
CLAIM_TURNS = BOUNDARY | POINTS | HAS | EVIDENCED | word_set("presence given explain because")  # what claims() looks at
HEDGED = word_set("likely probably suspected suspect diagnosis therefore")
# a false value is charged in spite of these: hedged, it would stand beside true ones for nothing
MODAL = {"can", "could", "may", "might"}
NO_FINDING = STOP | GENERIC | NOT_BEFORE | NOT_AFTER
# words that say nothing of the case
EMPTY = STOP | GENERIC | INFERENCE | REJECT | REASON | LACKING | GENERAL | NOT_SEEN
UNITS = word_set("""% ° ℃ ℉ c f mg g kg mcg µg μg ng pg l dl ml µl mmol meq iu u mm cm mm3 µm µm3 mmhg hg min
    bpm mosm kpa""")
TIMES = word_set("year month week day hour")
# words that make no claim by themselves
FILLER = EMPTY | UNITS | DEGREES | ADVERBS | word_set("""additionally furthermore moreover addition specifically notably
    importantly first second third next finally lastly further constellation triad development location severity low
    high lower higher raised increased decreased reduced acute chronic significant positive presence lab analysis
    summary interpretation impression assessment clue key vignette step rather instead unlike behavior current
    available possible provided detail information context scenario situation above state initial evaluation fact
    aspect element data characteristic concern consideration timeline timing manifestation upon complaint""")
# what data.PROMPTS says belongs in each part: to repeat it fills none
PROMPTED = word_set("""careful physician form write nothing outside first impression analysis step finding case support
    option other rejected decisive again letter answer think inside give""")
JOINTS = frozenset((",", "and", "with", "or", "plus", "both"))
AUXILIARY = STOP | ADVERBS | {"not"}  # between a subject and its verb: "does not fit", "strongly suggests"
COPULA = word_set("is are was were")
ENDS_PHRASE = STOP | NOT_AFTER | NOT_SEEN | {"not"}  # "is absent", "is not abnormal"
CLAIM_ENDS = NOT_BEFORE | NOT_AFTER | COPULA | word_set("not")
# before what is denied, or contrasted with what is there; after it
SETS_APART = CLAIM_ENDS - COPULA | word_set("unlike rather than instead")
TAKES_BACK = NOT_AFTER | DENIES | {"not", "neither", "nor"}


@lru_cache(maxsize=8)  # the verifiers ask for the same ones; nobody changes them
def sentences(text):
    """The sentences of the first READ characters as lists of at most 80 tokens; markup and headings end a sentence."""
    whole = map(tokens_of, SENTENCE_END.split(MARKUP.sub(". ", plain(text[:READ]))))
    return [tokens[i:i + 80] for tokens in whole for i in range(0, len(tokens), 80)]


def plain(text):
    """Text with TeX's marks taken off, n't as not, and the "no" of a list said of each: "no a, no b, or no c"."""
    text = TEX.sub(lambda mark: PLAIN.get(mark[0].strip(), "" if mark[0] == "}" else " "), text)
    return LIST.sub(lambda m: f"{re.sub(r',(?! *or)', f', {m[1]}', m[0])} {m[1]}", text)


def is_real(text):
    """Real text: two different words or more that carry content (are no stop words), not all of them the prompt's."""
    words = {t for t in tokens_of(MARKUP.sub(" ", text[:READ])) if t.isalpha() and len(t) > 1} - STOP
    return len(words) >= 2 and not words <= PROMPTED


# --- the case -----------------------------------------------------------------------------------------------------

CLAUSE = re.compile(r"(,(?!\d)|[;:()\n]|\b(?:and|with|but|who|which|that|because|while|although|however|has|have|had"
                    r"|shows?|showed|reveals?|revealed|demonstrates?|presents?|complains?|reports?|states|includes?"
                    r"|including|due to|is significant for|is notable for)\b)", re.IGNORECASE)
HAS_NOT = re.compile(r"\b(?:(?:has|have|had)(?: not|n['’]t) had|(?:does|do|did)(?: not|n['’]t) have)\b", re.I)
# of the same value, as in "36.7°C (98.0°F)"
SECOND = re.compile(r"(\d[- ]?[^\s\d()]{1,12}) \((?=\d)(?:[^()A-Za-z]|\b[A-Za-z]{1,4}\b){1,40}\)")
ASKS = word_set("""which what how why who following next step diagnosis cause mechanism appropriate except true false
    likely""")


# other values of the same names
UNLIKE = word_set("a1c glycated oximetry transferrin urine cerebrospinal csf fetal pg direct ldl hdl ionized")
# a value's names, a limit and what it is called below, a limit and what it is called above (in adults)
READINGS = [[word_set(name), (float(low), word_set(below)), (float(high), word_set(above))]
            for names, low, below, high, above in (line.split("|") for line in """\
blood pressure|91|hypotension hypotensive|139|hypertension hypertensive
pulse, heart rate|60|bradycardia bradycardic|100|tachycardia tachycardic
respiration, respiratory rate|0||20|tachypnea tachypneic
temperature|38|afebrile|37.9|fever febrile
saturation, spo2|95|hypoxia hypoxic hypoxemia hypoxemic|100|
sodium, na|135|hyponatremia|145|hypernatremia
potassium|3.5|hypokalemia|5|hyperkalemia
calcium|8.5|hypocalcemia|10.5|hypercalcemia
glucose|70|hypoglycemia hypoglycemic|125|hyperglycemia hyperglycemic
hemoglobin|12|anemia anemic|18|polycythemia
leukocyte, white blood cell, wbc|4000|leukopenia|11000|leukocytosis
platelet|150000|thrombocytopenia|450000|thrombocytosis
corpuscular volume|80|microcytosis microcytic|100|macrocytosis macrocytic
albumin|3.5|hypoalbuminemia|6|
bilirubin|0||1.2|hyperbilirubinemia
cholesterol|0||240|hypercholesterolemia""".splitlines()) for name in names.split(", ")]


def readings_of(finding):
    """The words that say what a finding's value is: "hypotension" of a blood pressure of 82/48."""
    fitting = [entry for entry in READINGS if entry[0] <= finding.words]
    first = next(filter(is_number, tokens_of(finding.text)), "").partition("/")[0]
    if len(fitting) != 1 or not UNLIKE.isdisjoint(finding.words) or not re.fullmatch(r"\d+(\.\d+)?", first):
        return frozenset()
    [(name, (low, below), (high, above))], value = fitting, float(first)
    if "temperature" in name and value > 45:
        value = (value - 32) / 1.8
    if low > 1000 > value:  # a count in thousands
        value *= 1000
    return below if value < low else above if value > high else frozenset()


# A content phrase of the stem: its text, content words and exact values, and whether the stem denies it.
Finding = namedtuple("Finding", "text words numbers negated")


def findings_of(stem):
    """The content phrases of a stem, in order: its clauses, without ages, durations and the question it ends with.

    A value keeps the name it belongs to ("blood pressure, 126/74 mm Hg" is one finding), and a second rendering of it,
    as in "36.7°C (98.0°F)", is none of its own. A stem that is only a question gives its clauses all the same.
    """
    found, before_question = [], None
    stem = TIME.sub(" ", SECOND.sub(r"\1", plain(HAS_NOT.sub("has no", stem[:READ]))))
    lines = [line for line in SENTENCE_END.split(stem) if line.strip()]
    for place, line in enumerate(lines):
        denied, (first, *rest) = False, CLAUSE.split(line)
        for joint, clause in [("", first), *zip(rest[::2], rest[1::2])]:
            tokens = tokens_of(clause)
            # "who" and an earlier "which" open a clause on the patient, a last "which" the question
            asks = not ASKS.isdisjoint(tokens) or joint.lower() == "which" and clause is rest[-1]
            if before_question is None and place == len(lines) - 1 and asks:
                before_question = list(found)
            denies = not DENIES.isdisjoint(tokens) or "negative for " in clause  # a, b, and c
            denied = denies or denied and joint.lower() not in ("but", "however", "although", "which", "because")
            negated = denied or not (NOT_BEFORE | NOT_AFTER).isdisjoint(tokens)
            numbers = frozenset(t for t in tokens if is_number(t))
            words = [t for t in tokens if t not in NO_FINDING and not is_number(t)]
            if words == ["not"]:
                continue
            if not numbers and not negated and PARTS.issuperset(words):
                continue
            if not set(words) - UNITS:
                if not numbers or not found or found[-1].numbers or not words and "/" not in "".join(numbers):
                    continue
                name = found.pop()
                clause, words = f"{name.text}, {clause.strip()}", [*sorted(name.words), *words]
            kept = [w for w in words if w not in DEGREES] or words
            found.append(Finding(" ".join(clause.split()), frozenset(kept[:10]), numbers, negated))
    distinct = {(f.words, f.numbers): f for f in reversed(before_question or found)}
    return list(distinct.values())[::-1]


class Case:
    """What the verifiers know of a question, from its stem and its options as (letter, text) pairs."""

    def __init__(self, stem, options):
        self.findings = findings_of(stem)
        self.index, self.values = {}, {}  # word -> the findings (by place) that hold it, and their values
        for place, finding in enumerate(self.findings):
            for word in finding.words | finding.numbers:
                self.index.setdefault(word, []).append(place)
            for word in finding.words - UNITS:
                self.values.setdefault(word, set()).update(finding.numbers)
        self.present = frozenset().union(*(f.words for f in self.findings if not f.negated))
        self.line = as_line(tokens_of(plain(stem[:READ])))
        self.options = {letter: as_line(tokens_of(plain(text[:READ]))) for letter, text in options}
        # (what names an option in such a line, its letter)
        self.names = [(name, letter) for letter, text in self.options.items()
                      for name in (f" {letter}) ", f" option {letter.lower()} ", text) if len(name) > 3]
        self.words = frozenset(self.line.split())
        self.option_words = frozenset(word for text in self.options.values() for word in text.split())
        self.known = self.words.union(self.option_words, *map(readings_of, self.findings))
        self.roots = set(map(root, self.known))
        letters = Counter(script(c) for c in stem[:READ] + "".join(text[:READ] for _, text in options) if c.isalpha())
        self.scripts = {name for name, n in letters.items() if 10 * n >= letters.total()} | {"LATIN"}


read_case = lru_cache(maxsize=1024)(Case)  # the responses of a group share it


def case_of(question):
    return read_case(question.stem, tuple(question.options.items()))


def denied_at(sentence, first, last):
    """Whether sentence[first:last + 1] is said to be absent: "no fever", "lacks fever", "fever is absent/not seen"."""
    before = [*takewhile(lambda token: token == "or" or token not in JOINTS, sentence[max(0, first - 3):first][::-1])]
    if not NOT_BEFORE.isdisjoint(before) or "not" in before and not {"have", "had"}.isdisjoint(before):
        return True
    copula = not COPULA.isdisjoint(sentence[last + 1:last + 2])
    after = sentence[last + 1 + copula:last + 3 + copula]
    if "not" in after[:1]:
        return not NOT_SEEN.isdisjoint(after[1:])
    return not NOT_AFTER.isdisjoint(after[:1]) and (copula or not after[1:] or after[1] in JOINTS)


@lru_cache(maxsize=512)  # the verifiers ask for the same ones; nobody changes them
def mentions(sentence, case):
    """The findings that a sentence, a tuple, mentions: {place in case.findings: (positions in the sentence, denied)}.

    A mention repeats every number, and all words of a short phrase, three quarters of a longer one, or one beside a
    value, close together, with room for one content word between. Longer findings come first and no word serves two, so
    overlapping phrases count once.
    """
    order, places = [*accumulate(word not in STOP for word in sentence)], {}  # among content words; finding -> where
    for position, word in enumerate(sentence):
        for finding in case.index.get(word, ()):
            places.setdefault(finding, []).append(position)
    found, used = {}, set()
    for finding in sorted(places, key=lambda f: (-len(case.findings[f].words), f)):
        _, wanted, numbers, _ = case.findings[finding]
        n, size = len(wanted), len(wanted) + len(numbers) + 1
        needed = min(n, 1) if numbers else n if n <= 4 else -(-3 * n // 4)
        free, windows = [p for p in places[finding] if p not in used], []
        for start, first in enumerate(free):
            # word -> where it first stands
            window = {sentence[p]: p for p in reversed(free[start:start + size]) if order[p] < order[first] + size}
            if numbers <= window.keys() and len(wanted & window.keys()) >= needed:
                windows.append(sorted(window.values()))
        if windows:  # the fullest, then the closest: "shoulder tip pain" must not take the pain of "epigastric pain"
            positions = min(windows, key=lambda w: (-len(w), w[-1] - w[0]))
            used.update(positions)
            found[finding] = (positions, denied_at(sentence, positions[0], positions[-1]))
    return found


# --- form: clinical reasoning, thinking -----------------------------------------------------------------------------

def framed(response, first, second):
    """The insides of a response that is <first>..</first><second>..</second> and no more; of any other "" and "".

    Each of the four tags stands exactly once, counted without regard to case and white space, so that a misspelt
    second copy counts too; nothing but white space lies around and between.
    """
    squeezed = "".join(response.lower().split())
    tags = (f"<{first}>", f"</{first}>", f"<{second}>", f"</{second}>")
    once = all(squeezed.count(tag) == 1 for tag in tags)  # so the match is linear in the text
    found = once and re.fullmatch(r"\s*{}(.*){}\s*{}(.*){}\s*".format(*tags), response, re.DOTALL)
    return found.groups() if found else ("", "")


def has_content(text, options):
    """Real text, or at least a box that names an option."""
    return is_real(text) or any(box_letter(content, options) for content in set(boxes(text)))


def is_copy(conclusion, dx, case):
    """Whether more than half of a conclusion's words are copied from dx (both as lists of sentences).

    Copied is a word in a whole sentence (four words or more) of dx, or in a run of COPIED_RUN words that dx holds too
    (of a shorter conclusion, the whole) and that is more than a quotation of the stem.
    """
    theirs, quoted = {tuple(sentence) for sentence in dx}, case.words | STOP
    stream, words = [t for sentence in dx for t in sentence], [t for sentence in conclusion for t in sentence]
    run = min(COPIED_RUN, len(words))
    runs = {tuple(stream[i:i + run]) for i in range(len(stream) - run + 1)}
    ends = accumulate(map(len, conclusion))  # in words
    copied = [range(end - len(s), end) for end, s in zip(ends, conclusion) if len(s) >= 4 and tuple(s) in theirs]
    copied += [range(i, i + run) for i in range(len(words) - run + 1)
               if tuple(words[i:i + run]) in runs and not quoted.issuperset(words[i:i + run])]
    return 2 * len(set().union(*copied)) > len(words)


def phrases_of(said, case, chosen):
    """The question's phrases that sentences repeat: places of findings, and "answer" if they name the chosen option."""
    found = {f for sentence in said for f in mentions(tuple(sentence), case)}
    line, name = as_line(t for sentence in said for t in sentence), case.options.get(chosen, "")
    return found | {"answer"} if name.strip() and name in line else found


def cross_references(response, question, dx, conclusion):
    """Whether the conclusion repeats two distinct phrases of the question that dx discusses, and is no copy of dx.

    Phrases are case findings, with their exact values, and the name of the chosen option; the other options' names do
    not count, so that listing them earns nothing. A sentence of the stem, word for word, discusses nothing.
    """
    case, chosen = case_of(question), extract_answer(response, question.options)
    dx, conclusion = sentences(dx), sentences(conclusion)
    said = [s for s in dx if len(s) < COPIED_RUN or as_line(s) not in case.line]
    repeated = phrases_of(conclusion, case, chosen) & phrases_of(said, case, chosen)
    return len(repeated) >= 2 and not is_copy(conclusion, dx, case)


def clinical(response, question):
    """Clinical reasoning, r_CR of Eq 4: 0, 1 for the form, 1.5 if the conclusion cross-references dx as well.

    Form (our reading of the paper): <dx>System 1: ... System 2: ...</dx><conclusion>...</conclusion>, nothing outside.
    """
    dx, conclusion = framed(response, "dx", "conclusion")
    _, *parts = re.split("(System [12]:)", dx)  # the headings once each, in order, each before real text
    systems = parts[::2] == ["System 1:", "System 2:"] and all(map(is_real, parts[1::2]))
    if not (systems and has_content(conclusion, question.options)):
        return 0.0
    return 1.5 if cross_references(response, question, dx, conclusion) else 1.0


def thinking(response, question):
    """The baseline's format reward: 1.0 for <think>...</think><answer>...</answer>, both with content, else 0.0."""
    thought, answer = framed(response, "think", "answer")
    return float(is_real(thought) and has_content(answer, question.options))


# --- consistency --------------------------------------------------------------------------------------------------

GREEK = "αβγδεζηθκλμπρστφχψωΓΔΘΛΣΦΨΩ"
SYMBOLS = "%+=<>&°ºµ℃℉≥≤±×÷→←↑↓≈≠−²³½¼¾™®‰√∞" + GREEK
MARKS = "–—‘’“”…•·†‡§£€"
SIGNIFICANT = re.compile(rf"[^\W_]|[{SYMBOLS}]")


@lru_cache(maxsize=8192)
def script(char):
    """The script of a letter or of a mark on it, as the first word of its Unicode name; "" for a nameless character."""
    return unicodedata.name(char, "").partition(" ")[0]


def is_visible(char, scripts):
    """Whether a character may stand in an effective token: printable ASCII, a symbol, a letter or mark of the scripts.

    Other scripts, invisible, private and control characters, replacement characters and lone surrogates may not.
    """
    if char.isascii():
        return char.isprintable()
    return char in SYMBOLS or char in MARKS or script(char) in scripts and unicodedata.category(char)[0] in "LM"


def is_effective(token, visible, scripts):
    """Whether one token is in the question's script, a number, a unit or a medical symbol (our reading of the paper).

    One character that is not `visible` spoils its token; so does a length over LONGEST_WORD. Punctuation alone is
    nothing. Two Greek letters may stand in a word: "TNF-α".
    """
    return (len(token) <= LONGEST_WORD and visible.issuperset(token) and SIGNIFICANT.search(token) is not None
            and (token.isascii() or "GREEK" in scripts or sum(c in GREEK for c in token) <= 2))


def loops(tokens):
    """Which tokens are part of a repeated loop (array of bool), without regard to case and end marks.

    Marked is, from its third copy, a run of up to LONGEST_PERIOD tokens back to back, and a sentence of four tokens or
    more wherever it stands.
    """
    number, marked = {}, np.zeros(len(tokens), dtype=bool)
    ids = np.array([number.setdefault(t.lower().strip(".,;:!?"), len(number)) for t in tokens], dtype=np.int64)
    for period in range(1, LONGEST_PERIOD + 1):
        same = (ids[period:] == ids[:-period]).tobytes()  # same[i]: token i + period equals token i
        for run in re.finditer(b"\x01{%d,}" % (period + 1), same):
            marked[run.start() + 2 * period:run.end() + period] = True
    seen, ends = Counter(), [place for place, token in enumerate(tokens, 1) if token[-1] in ".!?;"]
    for start, end in zip([0, *ends], [*ends, len(tokens)]):
        if end - start >= 4:
            sentence = ids[start:end].tobytes()
            seen[sentence] += 1
            marked[start:end] |= seen[sentence] > 2
    return marked


def consistency(response, question):
    """Effective tokens / all white-space separated tokens, in [0, 1]; 0 for an empty response (Eq 4).

    Effective: is_effective() and not part of a loop. The scripts are those of at least a tenth of the question's
    letters, and Latin.
    """
    tokens, scripts = response.split(), case_of(question).scripts
    visible = {c for c in sorted(set(response))[:MOST_CHARACTERS] if is_visible(c, scripts)}
    effective = {t: is_effective(t, visible, scripts) for t in set(tokens)}
    counted = np.fromiter(map(effective.get, tokens), bool, len(tokens)) & ~loops(tokens)
    return np.count_nonzero(counted) / max(len(tokens), 1)


# --- what is cited, refused and made up ---------------------------------------------------------------------------

def citations(response, question, said=None):
    """CECD: the findings of the stem, values included, that the response ties to an inference, in order of citation.

    Such a sentence holds a word of inference, the finding with its polarity (a finding said to be absent is not cited,
    one that the stem denies is cited only by denying it) where grounding() looks for false ones too, and something
    inferred: a word that is no cue and not the case's; or the next sentence says so of it ("this combination ...").
    Each finding counts once, and CITED_PER_SENTENCE in a sentence. said: sentences(response), if they are at hand.
    """
    case, cited = case_of(question), {}
    not_inferred = FILLER | JOINTS | (case.words - case.option_words)
    for sentence, inferring, stretches in tied(said or sentences(response)):
        if not_inferred.issuperset(inferring):
            continue
        claimed = {p for stretch in stretches for p in range(len(sentence))[stretch]}
        right = sorted((places, f) for f, (places, denied) in mentions(tuple(sentence), case).items()
                       if denied == case.findings[f].negated and claimed.issuperset(places))
        cited.update((case.findings[f].text, None) for _, f in right[:CITED_PER_SENTENCE])
    return list(cited)


def named_options(sentence, case):
    """The options that a sentence names, by text or as "B)" or "option B", in order. Of two that begin at one place the
    longer text comes first, so that "myocardial infarction" is not "infarction"."""
    line = as_line(sentence)
    named = sorted((line.index(name), -len(name), letter) for name, letter in case.names if name in line)
    return list(dict.fromkeys(letter for _, _, letter in named))


def rejection_reason(sentence, letter, case):
    """What a valid reason against an option rests on, findings of the case or else the words for what lacks; or none.

    A reason needs a word of reason and either a finding of the case or one that is lacking; a finding of the case that
    is called absent, or the reverse, makes it invalid. Words true of any case ("does not fit the picture") are none.
    """
    if REASON.isdisjoint(sentence):
        return frozenset()
    once = line = as_line(sentence)
    for name in (name for name, of in case.names if of == letter):
        once, line = once.replace(name, " ", 1), line.replace(name, " ")
    words = line.split()
    found = mentions(tuple(once.split()), case)  # "heart" is unlikely as the heart sounds are normal
    if any(denied != case.findings[f].negated for f, (_, denied) in found.items()):
        return frozenset()
    lacking = not LACKING.isdisjoint(words) or any(f" not {word} " in line for word in NOT_SEEN)
    return frozenset(case.findings[f].text for f in found) or frozenset(words if lacking else ()) - EMPTY


def dismisses(sentence):
    """Whether a sentence begins by calling something unlikely or wrong: "Unlikely, since", "This is less likely as"."""
    verb = next((place for place, token in enumerate(sentence[:5]) if token in ("is", "was", "s")), -1)
    said = sentence[:3] if sentence[0] in DISMISSED else sentence[verb + 1:verb + 4]
    return not DISMISSED.isdisjoint(said[:1]) and "to" not in said and "other" not in sentence


def refusals(response, question, options_in=named_options):
    """{letter: what the reason rests on} of every option that the response rejects with a valid reason.

    A sentence rejects the option it names first, if it holds a word of rejection; one that dismisses() what stands
    before it, by "this" or "it" or under a heading, the one option named there. The reason stands in it or else in the
    next or previous sentence, if that names no option and infers nothing else. Each reason must rest on what no earlier
    one did. The key and the response's own choice are rejected only where no other option is named. options_in: what
    finds the options that a sentence names.
    """
    case, rejected, said = case_of(question), {}, sentences(response)
    own = {question.answer, extract_answer(response, question.options)}
    for place in (p for p, sentence in enumerate(said) if not REJECT.isdisjoint(sentence)):
        named, before = options_in(said[place], case), said[max(0, place - 1)]
        if not named and dismisses(said[place]) and len(of := options_in(before, case)) == 1:
            heading = set(before) <= STOP | {"option", f"{of[0]})", *case.options[of[0]].split()}
            named = of if heading or said[place][0] in ("this", "it") else []
        letter, *others = named or [None]
        if letter is None or letter in rejected or others and letter in own:
            continue
        reason = rejection_reason(said[place], letter, case)
        # The next one first: a reason mostly follows what it rejects, and the previous one may be another option's.
        for near in said[place + 1:place + 2] + said[max(0, place - 1):place]:
            infers = not ATTRIBUTION.isdisjoint(near) and "not" not in near
            if not reason and not infers and not options_in(near, case):
                reason = rejection_reason(near, letter, case)
        if reason.difference(*rejected.values()):
            rejected[letter] = reason
    return rejected


def wrong_values(sentence, case):
    """Values that the stem does not have: a number with a unit (but "90% of cases"), or after the name of a value; but
    none that stands in the stem with the same two words before it and one after, or as the same stretch of time."""
    for place in (p for p, token in enumerate(sentence) if is_number(token)):
        values = set().union(*(case.values.get(word, ()) for word in sentence[max(0, place - 3):place]))
        after = sentence[place + 1:place + 2]
        if (values or not (UNITS - {"%"}).isdisjoint(after)) and sentence[place] not in (values or case.known):
            retold = sentence[place if not TIMES.isdisjoint(after) else max(0, place - 2):place + 2]
            if as_line(retold) not in case.line:
                yield sentence[place]


def claims(sentence):
    """The stretches of a sentence, as slices, that attribute something to the patient: what stands before a word of
    attribution ("X supports", "X, which points to") or "is present", and after "the patient has", "presence of",
    "given", "explains", "because of", "supported by"; none if it speaks in general."""
    start, reason = 0, 0
    turns = [p for p, token in enumerate(sentence) if token in CLAIM_TURNS]
    for place in turns if GENERAL.isdisjoint(sentence) else ():
        token, after = sentence[place], sentence[place + 1:place + 2]
        if token in BOUNDARY and not (token in ("which", "that") and not POINTS.isdisjoint(after)):
            start = place + 1
            reason = start if token in ("because", "since", "as") else reason
        elif (token in ATTRIBUTION or token in POINTS and after == ["to"]
              or token == "present" and not COPULA.isdisjoint(sentence[max(0, place - 1):place])):
            end = next((i for i in range(place, start, -1) if sentence[i - 1] not in AUXILIARY), start)
            yield slice(start, end)
            start = place + 1
        has = token == "presence" or token in HAS and not PATIENT.isdisjoint(sentence[max(0, place - 2):place])
        evidenced = after == ["by"] and token in EVIDENCED or after == ["of"] and token == "because"
        if token in ("given", "explain") or evidenced or has and HEDGED.isdisjoint(sentence[reason:place]):
            stops = (i for i in range(place + 1, len(sentence)) if sentence[i] in CLAIM_STOPS)
            yield slice(place + 1, next(stops, None))


def tied(said):
    """(sentence, the one that infers from it, its stretches, as slices): the same one and its claims(); or the next, if
    that begins with "this" or "these", and the sentence up to where it turns or speaks in general."""
    for sentence, after in zip(said, [*said[1:], []]):
        if not INFERENCE.isdisjoint(sentence):
            yield sentence, sentence, list(claims(sentence))
        elif after and after[0] in ("this", "these") and not INFERENCE.isdisjoint(after):
            yield sentence, after, [slice(next((p for p, token in enumerate(sentence) if token in ASIDE), None))]


def foreign(sentence, stretches, case):
    """The phrases in stretches of a sentence that the case does not have: (the foreign words by fours, the phrase,
    whether it is said to be absent, as denied_at() reads findings of the case)."""
    for stretch in stretches:
        for joint, group in groupby(range(len(sentence))[stretch], lambda place: sentence[place] in JOINTS):
            places = [] if joint else list(group)
            words = [p for p in places if not (sentence[p] in FILLER or is_number(sentence[p])
                                               or sentence[p][-1] == ")" or len(sentence[p]) == 1)]
            missing = [p for p in words if root(sentence[p]) not in case.roots]
            if missing and (len(words) <= 3 or 5 * len(missing) >= 2 * len(words)):
                fours = [" ".join(sentence[p] for p in missing[i:i + 4]) for i in range(0, len(missing), 4)]
                last = max(p for p in places if sentence[p] not in ENDS_PHRASE)
                yield fours, [sentence[p] for p in places], denied_at(sentence, missing[0], last)


def contradicted(sentence, case):
    """What a sentence attributes to the patient although the stem denies it, and has it nowhere else. A word of denial
    or contrast before it excuses, as does one that takes it back: "the absence of trauma, fever, and rash points to".
    """
    claimed = {p for stretch in claims(sentence) for p in range(len(sentence))[stretch]}
    for f, (places, _) in mentions(tuple(sentence), case).items() if claimed else ():
        finding, end = case.findings[f], places[-1] + 1
        if (finding.negated and not finding.numbers and finding.words.isdisjoint(case.present)
                and claimed.issuperset(places) and SETS_APART.isdisjoint(sentence[:end])
                and TAKES_BACK.isdisjoint(sentence[end:])):
            yield " ".join(sentence[p] for p in places)


def unsupported(response, question, said=None):
    """Hallucination: values and findings that the response attributes to the patient and the stem has not, or denies.

    A phrase counts if it is the subject of an inference or what the patient is said to have, and a word of it stands
    neither in stem nor options (of a phrase over three words, two fifths of them); four such words count once more, so
    that no list goes as one claim. What is said to be absent or typical in general is no attribution.
    """
    case, wrong = case_of(question), {}
    for sentence in said or sentences(response):
        values = wrong_values(sentence, case) if GENERAL.isdisjoint(sentence) else ()
        for words, phrase, _ in foreign(sentence, claims(sentence), case):
            if CLAIM_ENDS.isdisjoint(phrase):
                wrong.update(dict.fromkeys(words))
                values = [v for v in values if v not in phrase]
        wrong.update(dict.fromkeys([*values, *contradicted(sentence, case)]))
    return list(wrong)


def grounding(response, question):
    """Cited findings that the case has / all cited, times the share cited of CITED_WHOLE; in [0, 1].

    Wherever citations() pays for a true finding a false one is charged, unsupported() or not: else it would pay to name
    every finding one knows.

    How a policy games it: one safe citation would be whole (hence CITED_WHOLE); repeats and lists (each finding counts
    once, CITED_PER_SENTENCE a sentence); findings named without inference (citations() ignores them).
    """
    case, said = case_of(question), sentences(response)
    right, wrong = len(citations(response, question, said)), set(unsupported(response, question, said))
    for sentence, _, stretches in tied(said):
        values = wrong_values(sentence, case) if (GENERAL - MODAL).isdisjoint(sentence) else ()
        for words, phrase, denied in foreign(sentence, stretches, case):
            wrong.update(() if denied else words)
            values = [v for v in values if v not in phrase]
        wrong.update(values)
    whole = min(CITED_WHOLE, len(case.findings))
    return right / max(right + len(wrong), 1) * min(1.0, right / max(whole, 1))


def coverage(response, question):
    """Wrong options rejected with a valid reason, less the key or own answer so rejected / all wrong ones, in [0, 1].

    How a policy games it: one stock reason for all (a reason must be new), one true of any case (it needs a finding of
    the case, or one named as lacking), an absence that is not so (no reason), rejecting every option (the key costs,
    and none left is nothing).
    Not guarded: that the lacking finding would be expected of the option, or that one of the case does not fit it, is
    medicine, which the rules cannot know; so count by clinic.audit as well.
    """
    refused, kept = refusals(response, question), {question.answer, extract_answer(response, question.options)}
    net = len(refused) - 2 * len(kept & refused.keys())
    return (len(refused) < len(question.options)) * max(0, net) / max(len(question.options) - 1, 1)


def evidence(response, question):
    """What the rules read in a response, for who looks at its scores: {"chosen": the letter it answers with or None,
    "cited": citations(), "rejected": {letter: the words of its reason} of refusals(), "unsupported": unsupported()}."""
    return {"chosen": extract_answer(response, question.options), "cited": citations(response, question),
            "rejected": {letter: sorted(reason) for letter, reason in refusals(response, question).items()},
            "unsupported": unsupported(response, question)}


# --- together -----------------------------------------------------------------------------------------------------

# verifier: the most it gives; the least is 0
VERIFIERS = {accuracy: 1.0, clinical: 1.5, consistency: 1.0, thinking: 1.0, grounding: 1.0, coverage: 1.0}
OBJECTIVES = {verifier.__name__: most for verifier, most in VERIFIERS.items()}


def score(response, question):
    """Every objective of one response, by the name of its verifier, in the order of OBJECTIVES."""
    scores = {verifier.__name__: verifier(response, question) for verifier in VERIFIERS}
    wrong = {name: value for (name, value), most in zip(scores.items(), VERIFIERS.values())
             if not (isinstance(value, (int, float)) and 0 <= value <= most)}
    if wrong:
        raise ValueError(f"verifiers must give plain numbers from 0 to their most in VERIFIERS, not {wrong}")
    return scores


def weights_of(objective, changes=()):
    """{objective: weight}: WEIGHTS[objective], the NAME=VALUEs of --weights in their place. ValueError for others."""
    if objective not in WEIGHTS:
        raise ValueError(f"rewards.WEIGHTS has no objective {objective}")
    weights = dict(WEIGHTS[objective])
    for change in changes:
        name, _, value = change.partition("=")
        if name not in OBJECTIVES or not re.fullmatch(r"\d*\.?\d+(e[-+]?\d{1,2})?|\d+\.", value):
            raise ValueError(f"--weights {change}: write NAME=VALUE with one of {', '.join(OBJECTIVES)} and a number "
                             "that is not negative")
        weights[name] = float(value)
    if not any(weights.values()):
        raise ValueError("--weights: at least one must be above 0")
    return weights


def total(scores, weights):
    """The reward: the weighted sum of the objectives that `weights` names (Eq 4 with WEIGHTS["crpo"])."""
    return float(sum(weight * scores[name] for name, weight in weights.items()))
