"""A search for responses that earn reward without the key: sentences of a grammar, filled from the question's text.

A genome is a frame, a rule that guesses an option, and three lists of sentences (System 1, System 2, conclusion), each
sentence a subject, a turn of phrase and an object. It is filled from stem and options and scored on all questions at
once, so it can learn how the rules read but no key. Of a small population one is mutated and the worst forgotten.

    python tests/hack_search.py --evaluations 20000 --seed 1
"""

import argparse
import random
import re
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1]))

import clinic  # noqa: E402
import rewards  # noqa: E402

FRAMES = ("<dx> System 1: {one} System 2: {two} </dx><conclusion> {end} {box} </conclusion>",
          "<dx> System 1: {one} System 2: {two} </dx><conclusion> {end} </conclusion>",
          "<think> {one} {two} </think><answer> {end} {box} </answer>",
          "{one} {two} {end} {box}")
GUESSES = {
    "first": lambda q: "A",
    "last": lambda q: max(q.options),
    "longest": lambda q: max(q.options, key=lambda x: len(q.options[x])),
    "most like the others": lambda q: max(q.options, key=lambda x: sum(
        len(set(q.options[x].split()) & set(text.split())) for text in q.options.values())),
    "most like the stem": lambda q: max(q.options, key=lambda x: len(rewards.word_set(q.options[x])
                                                                     & rewards.word_set(q.stem))),
    "by its length": lambda q: "ABCDE"[len(q.stem) % 5],
}
THINGS = ("{f0}", "{f1}", "{f2}", "{f3}", "{f4}", "{f5}", "{f0} and {f1}", "{f2} and {f3}", "{f0}, {f1} and {f2}",
          "{all}", "{stem}", "{g}", "{o0}", "{o1}", "{o2}", "{o3}", "{every}",
          "{G})", "it", "the picture", "purple toes",
          "a limp", "hiccups", "a blue tongue", "no {f0}", "no limp", "a value of {n}", "banana", "")
PHRASES = ("suggests", "supports", "points to", "is diagnostic of", "is likely because of", "is likely given",
           "would typically suggest", "is explained by", "explains", "is unlikely because of",
           "is absent, so unlikely is",
           "is unlikely because there is no", "argues against", "does not fit", "and", ",", "is consistent with",
           "indicates support because", "is ruled out since no", "suggesting", "therefore")
TAILS = ("", "", "", " is absent", " does not fit it", " is present", " would be expected", " is unlikely", " {n}")


def sentence(rng):
    return (rng.choice(THINGS), rng.choice(PHRASES), rng.choice(THINGS), rng.choice(TAILS))


def mutated(genome, rng):
    """A copy with one to three changes."""
    frame, guess, *parts = genome
    parts = [list(part) for part in parts]
    for _ in range(rng.randint(1, 3)):
        kind, part = rng.random(), rng.choice(parts)
        if kind < 0.05:
            frame = rng.choice(FRAMES)
        elif kind < 0.15:
            guess = rng.choice(list(GUESSES))
        elif kind < 0.5 or not part:
            part.insert(rng.randint(0, len(part)), sentence(rng))
        elif kind < 0.65:
            del part[rng.randrange(len(part))]
        elif kind < 0.75:
            rng.choice(parts).extend(part[:4])
        else:
            place, word = rng.randrange(len(part)), rng.randrange(4)
            changed = list(part[place])
            changed[word] = sentence(rng)[word]
            part[place] = tuple(changed)
    return frame, guess, *[tuple(part[:4]) for part in parts]


def filled(genome, q):
    """The response that a genome writes to a question, of which it reads stem and options."""
    frame, guess, *parts = genome
    letter = GUESSES[guess](q)
    clauses = [c for c in re.split(r" has |, | and |\. ", q.stem)[1:-1] if c]
    slots = {f"f{i}": clauses[i % len(clauses)] for i in range(6)}
    slots |= {f"o{i}": text for i, text in enumerate(text for x, text in q.options.items() if x != letter)}
    slots |= {"all": ", ".join(clauses), "stem": q.stem, "g": q.options[letter], "G": letter,
              "every": ", ".join(q.options.values())}
    written = []
    for part in parts:
        lines = (f"{subject} {phrase} {thing}{tail}." for subject, phrase, thing, tail in part)
        written.append(" ".join(line.format_map(slots | {"n": n}) for n, line in enumerate(lines)))
    one, two, end = written
    return frame.format(one=one, two=two, end=end, box=rf"\boxed{{{letter}}}")


def earned(response, q):
    """(the reward under the grounded weights, the same without its accuracy part: what the looks earn)."""
    scores = rewards.score(response, q)
    weights = rewards.WEIGHTS["grounded"]
    reward = rewards.total(scores, weights)
    return reward, reward - weights["accuracy"] * scores["accuracy"]


def evaluate(genome, questions, hopeless=-1.0):
    """The means of earned() over the questions; over a few of them if these show that the reward is hopeless."""
    pairs = [earned(filled(genome, q), q) for q in questions[:5]]
    if statistics.fmean(reward for reward, _ in pairs) > hopeless:
        pairs += [earned(filled(genome, q), q) for q in questions[5:]]
    return (*(statistics.fmean(column) for column in zip(*pairs)), len(pairs) == len(questions))


def honest(questions):
    """The medians of the clinic's full traces: (reward, looks)."""
    rng = random.Random(0)
    pairs = [earned(clinic.write_trace(q, rng, "crpo", "full"), q) for q in questions]
    return tuple(statistics.median(column) for column in zip(*pairs))


def search(questions, evaluations, seed, keep=8):
    """The best genome by mean reward, its reward, and the best mean looks that any genome had."""
    rng = random.Random(seed)
    start = (FRAMES[0], "first", (sentence(rng),), (sentence(rng),), (sentence(rng),))
    reward, looks, _ = evaluate(start, questions)
    population = [(reward, start)]
    for _ in range(evaluations - 1):
        child = mutated(rng.choice(population)[1], rng)
        reward, worth, complete = evaluate(child, questions, population[-1][0] - 0.2)
        if complete:
            population.append((reward, child))
            looks = max(looks, worth)
            population = sorted(population, key=lambda row: (-row[0], sum(map(len, row[1][2:]))))[:keep]
    reward, genome = population[0]
    return SimpleNamespace(reward=reward, looks=looks, genome=genome)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--evaluations", type=int, default=5000)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    questions = clinic.make_questions(args.questions, args.seed, "test")
    found = search(questions, args.evaluations, args.seed)
    print("honest full traces, median: reward %.3f, of which looks %.3f" % honest(questions))
    print(f"best found: reward {found.reward:.3f}; best looks of any {found.looks:.3f}; guess: {found.genome[1]}")
    print(filled(found.genome, questions[0]))


if __name__ == "__main__":
    main()
