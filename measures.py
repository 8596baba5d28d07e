"""The evaluation's measures by rule: what a response is counted for, where rewards.py says what it is paid for.

The paper has a language model count them (judge.py does). These are pure functions too, of linear time, and take any
string. Citations and unsupported findings are those that grounding is paid by. rejections() is not paid, so it leans
less to one side: a medical reason, which rules on words cannot check, counts here and earns nothing there.
"""

import re

from rewards import (APART, ATTRIBUTION, EMPTY, MARKUP, READ, as_line, case_of, citations, extract_answer,
                     named_options, refusals, sentences, unsupported)

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


def behaviours(response):
    """The four cognitive behaviours, by cue phrase, each phrase counted up to CUE_LIMIT times. -> {name: count}"""
    line = as_line(token.lower() for token in re.findall(r"[^\W_]+", MARKUP.sub(" ", response[:READ])))
    return {name: sum(min(line.count(f" {cue} "), CUE_LIMIT) for cue in re.split(r",\s+", cues))
            for name, cues in BEHAVIOURS.items()}


def rejections(response, question):
    """DRC: refusals() of the wrong options, also named in short, and those that a sentence which names them first sets
    apart, by a word of rejection, contrast or what is usual ("Albuterol is for bronchospasm") and two words that no
    earlier reason had; neither the key nor the response's own choice can be rejected. Whether what sets an option apart
    is true is medicine, which the rules do not know: coverage(), which pays, counts refusals() alone."""
    case, kept = case_of(question), (question.answer, extract_answer(response, question.options))
    rejected = {x: reason for x, reason in refusals(response, question, short=True).items() if x not in kept}
    told = set().union(*rejected.values())
    for sentence in sentences(response):
        letter = next(iter(named_options(sentence, case, short=True)), None)
        apart = not APART.isdisjoint(sentence) and ATTRIBUTION.union(("because", "since")).isdisjoint(sentence)
        if apart and letter not in (None, *kept, *rejected):
            said = frozenset(sentence) - EMPTY - set(case.options[letter].split())
            if len(said - told) > 1:
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
