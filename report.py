"""A run directory as one HTML page: learning curves, who steers, evaluation tables, and a reader of the rollouts.

    python report.py ckpt/                 writes ckpt/report.html
    python report.py ckpt/ other/ ...      the same, the runs overlaid

Reads run.json, metrics.jsonl, samples.jsonl and eval/*.json, of a run that is still going too: what is missing, half
written or left out is said on the page and on the terminal. The page loads nothing from anywhere. All text of data and
model lies in it as JSON and is shown as text nodes only, so that none of it can become markup or script.
"""

import argparse
import json
import math
import os
import sys
from datetime import datetime
from pathlib import Path

LIMIT = 5_000_000  # bytes of the page
POINTS = 2000  # steps drawn, of all runs together
LONGEST = 10_000  # characters of a response that is shown whole
GROUP = {"step": float, "question": str, "stem": str, "options": dict, "answer": str, "weights": dict}
ROLLOUT = {"rollout": float, "response": str, "parts": dict, "cited": list, "rejected": dict, "unsupported": list}


# --- reading ------------------------------------------------------------------------------------------------------

def number(text):
    """A JSON number, of a fraction six digits, or as a string if it is not finite: JSON has no NaN."""
    value = float(text)
    if not math.isfinite(value):
        return str(value)
    return value if value.is_integer() else float(f"{value:.6g}")


def parse(line, fields):
    """A JSON object in bytes that has the `fields`, {name: type}; None if it is none."""
    try:
        value = json.loads(line.decode("utf-8", errors="replace"), parse_float=number, parse_int=number,
                           parse_constant=str)
    except (ValueError, RecursionError):
        return None
    fits = isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in fields.items())
    return value if fits else None


def read_object(path, notes):
    value = parse(path.read_bytes(), {}) if path.exists() else None
    if value is None:
        notes.append(f"{path.name} is missing or not a JSON object")
    return value or {}


def read_rows(path, fields, notes):
    """The rows of a JSON lines file that parse() can read; the others are counted in `notes`."""
    if not path.exists():
        notes.append(f"no {path.name} yet")
        return []
    rows = [parse(line, fields) for line in path.read_bytes().splitlines()]
    bad = [place for place, row in enumerate(rows, 1) if row is None]
    if bad == [len(rows)]:
        notes.append(f"{path.name}: the last line is half written and left out")
    elif bad:
        notes.append(f"{path.name}: {len(bad)} unreadable lines are left out, the first is line {bad[0]}")
    return [row for row in rows if row is not None]


def columns_of(rows, notes):
    """{name: a value a step} of metrics.jsonl, None where there is none; a value that is no number is noted, but for a
    column without any value, as the KL of a run that has none."""
    names = dict.fromkeys(name for row in rows for name in row)
    for name in names:
        wrong = [row["step"] for row in rows if not isinstance(row.get(name, 0.0), (float, bool))]
        if wrong and any(row.get(name) is not None for row in rows):
            notes.append(f"metrics.jsonl: {name} is no finite number at {len(wrong)} of {len(rows)} steps, "
                         f"first at {wrong[0]:g}")
    return {name: [row.get(name) for row in rows] for name in names}


def groups_of(rows, notes):
    """samples.jsonl as a list of groups in order of steps: one question with its rollouts."""
    groups, long = {}, 0
    for row in sorted(rows, key=lambda row: row["step"]):
        text, over = row["response"], len(row["response"]) - LONGEST
        if over > 0:
            long += 1
            row["response"] = (f"{text[:LONGEST // 2]}\n[... {over:,} characters are not shown ...]\n"
                               f"{text[-LONGEST // 2:]}")
        new = {name: row[name] for name in GROUP} | {"rollouts": []}
        group = groups.setdefault((row["step"], row["question"]), new)
        group["rollouts"].append({name: value for name, value in row.items() if name not in GROUP})
    if long:
        notes.append(f"{long:,} responses are over {LONGEST:,} characters and cut in their middle for display")
    return list(groups.values())


def read_run(path):
    """What the page shows of one run directory. ValueError if there is no such directory or it holds no run."""
    path, notes = Path(path), []
    if not path.is_dir():
        raise ValueError(f"{path}: no such directory; give the run directory that train_crpo.py wrote (its --out)")
    config = read_object(path / "run.json", notes)
    metrics = columns_of(read_rows(path / "metrics.jsonl", {"step": float}, notes), notes)
    groups = groups_of(read_rows(path / "samples.jsonl", GROUP | ROLLOUT, notes), notes)
    held_out = [read_object(path / f"held_out_{when}.json", notes) for when in ("before", "after")
                if (path / f"held_out_{when}.json").exists()]
    evals = {file.stem: read_object(file, notes) for file in sorted(path.glob("eval/*.json"))}
    if not (config or metrics or groups or evals):
        raise ValueError(f"{path}: holds no run; expected run.json, metrics.jsonl, samples.jsonl or eval/*.json in it")
    if not evals:
        notes.append(f"no evaluation yet; python eval.py {path} makes one")
    return {"name": str(path), "config": config, "metrics": metrics, "groups": groups, "evals": evals, "notes": notes,
            "held_out": held_out,
            "refused": sum(value is True for value in metrics.get("refused", [])),
            "finished": any(path.glob("model*.safetensors"))}


# --- the page -----------------------------------------------------------------------------------------------------

def even(items, n):
    """n of the items, evenly spread, the first and the last among them."""
    if n >= len(items):
        return items
    return [items[round(i * (len(items) - 1) / max(n - 1, 1))] for i in range(n)]


def embed(value):
    """JSON that may stand inside a script element: ASCII, without `<`."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def page(runs):
    """The whole page as text. Leaves out steps and groups that would not fit, and says so in each run's notes."""
    points = POINTS // len(runs)
    for run in runs:
        total = len(run["metrics"].get("step", []))
        if total > points:
            run["metrics"] = {name: even(values, points) for name, values in run["metrics"].items()}
            run["notes"].append(f"the curves show {points:,} of {total:,} steps, evenly spread")
    bare = len(TEMPLATE.encode()) + len(embed([{**run, "groups": []} for run in runs]))
    room = (LIMIT - bare) // len(runs) - 1000  # the rest is for the notes
    for run in runs:
        sizes = [len(embed(group)) + 1 for group in run["groups"]]
        n = total = len(sizes)
        while n and sum(even(sizes, n)) > room:
            n = n * 9 // 10
        if n < total:
            run["groups"] = even(run["groups"], n)
            run["notes"].append(f"rollouts of {total - n:,} of {total:,} groups are left out, to keep the page under "
                                f"{LIMIT // 1_000_000} MB; the {n:,} groups shown are evenly spread")
    return TEMPLATE.replace("{{data}}", embed({"made": datetime.now().strftime("%Y-%m-%d %H:%M"), "runs": runs}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directories", nargs="+", help="run directories; report.html goes into the first")
    runs = [read_run(path) for path in parser.parse_args().directories]
    sys.stdout.reconfigure(errors="backslashreplace")  # names may hold what the terminal cannot show
    out = Path(runs[0]["name"]) / "report.html"
    temporary = out.with_suffix(".tmp")
    temporary.write_text(page(runs), encoding="utf-8")  # a reader never sees half a page
    os.replace(temporary, out)
    for run in runs:
        for note in run["notes"]:
            print(f"{run['name']}: {note}")
    print(f"written: {out} ({out.stat().st_size / 1e6:.1f} MB)")


TEMPLATE = r"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>CRPO report</title>
<style>
:root { color-scheme: light dark; --page: #f6f7f8; --panel: #fff; --ink: #1c2127; --muted: #5a6470; --line: #d9dee4;
  --good: #11703c; --bad: #b3261e; --cited: #e3edfb; --warn: #fbeed2;
  --c0: #1f5fb4; --c1: #c2410c; --c2: #0f766e; --c3: #8b2fa3; --c4: #806200; --c5: #b8235a; }
@media (prefers-color-scheme: dark) { :root { --page: #13161a; --panel: #1b1f25; --ink: #e3e7ec; --muted: #9ba5b1;
  --line: #343b44; --good: #6fd49a; --bad: #ff8f85; --cited: #22344f; --warn: #443714;
  --c0: #7fb2ff; --c1: #fb9a5b; --c2: #52cfbd; --c3: #d59bea; --c4: #d9bd55; --c5: #f788ab; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 20px 16px 64px; overflow-wrap: anywhere; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 19px; margin: 40px 0 4px; } h3 { font-size: 15px; margin: 0 0 4px; }
p { margin: 4px 0; } ul { margin: 8px 0 0; } .options { list-style: none; padding: 0; margin-bottom: 8px; }
.muted, small, figcaption { color: var(--muted); } small { display: block; font-size: 12px; font-weight: 400; }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px;
  margin: 12px 0; overflow-x: auto; }
.grid, .read, .tiles { display: grid; gap: 12px; } .grid .panel, .read .panel { margin: 0; }
.grid { grid-template-columns: repeat(auto-fill, minmax(min(100%, 350px), 1fr)); }
.tiles { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.tiles div { border-left: 2px solid var(--line); padding-left: 10px; }
.bar, figcaption { display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: center; } .bar { margin: 12px 0; }
figcaption { font-size: 13px; } figcaption b { color: var(--ink); font-size: 15px; margin-right: auto; }
figcaption:has(svg) b { width: 100%; } .swatch { vertical-align: middle; margin-right: 6px; }
.chart { display: block; width: 100%; } svg text { font: 11px system-ui, sans-serif; fill: var(--muted); }
.axis { stroke: var(--line); } .target { stroke: var(--muted); stroke-dasharray: 1 3; }
table { border-collapse: collapse; }
th, td { padding: 4px 10px; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line);
  white-space: nowrap; font-variant-numeric: tabular-nums; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--panel); }
button, select { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--line);
  border-radius: 6px; padding: 5px 8px; min-height: 36px; max-width: 100%; }
[data-k] { cursor: pointer; } td.on, th.on { background: var(--cited); } .card.on { border-color: var(--c0); }
th.on, .card.on { box-shadow: inset 0 3px var(--c0); }
.right { color: var(--good); font-weight: 600; } .wrong { color: var(--bad); font-weight: 600; }
.cards { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(min(400px, 90%), 1fr); gap: 12px;
  padding: 2px; align-items: start; overflow-x: auto; position: relative; }
.text { white-space: pre-wrap; } summary { cursor: pointer; font-weight: 600; font-size: 14px; margin-top: 8px; }
.evidence { font-size: 14px; border-top: 1px solid var(--line); margin-top: 10px; padding-top: 8px; }
.cited { background: var(--cited); color: inherit; text-underline-offset: 3px; scroll-margin: 120px; }
.cited:target { outline: 2px solid var(--c0); } sup { line-height: 0; font-size: 11px; font-weight: 600; }
.unsupported { background: var(--warn); text-decoration: underline wavy var(--bad); text-underline-offset: 3px; }
.box { border: 1px solid; border-radius: 4px; padding: 0 4px; }
.read { grid-template-columns: minmax(0, 1fr); align-items: start; }
@media (min-width: 900px) { .read { grid-template-columns: 320px minmax(0, 1fr); }
  .case { position: sticky; top: 12px; max-height: calc(100vh - 24px); } }
</style>
<main><noscript>This page draws itself by the script inside it, which is switched off.</noscript></main>
<script type="application/json" id="data">{{data}}</script>
<script>
"use strict";
const { runs, made } = JSON.parse(document.getElementById("data").textContent);
const main = document.querySelector("main");
addEventListener("error", event =>
  main.prepend(html("p", { class: "panel wrong" }, "Error in this page: " + event.message)));

// --- elements and numbers: strings become text nodes, never markup ---

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes))
    typeof value == "function" ? node.addEventListener(name, value) : node.setAttribute(name, value);
  node.append(...children.flat(3));
  return node;
}
const html = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const muted = text => html("p", { class: "muted" }, text);
const small = (...children) => html("small", {}, children);
const section = (id, title, ...children) => main.append(html("section", { id }, html("h2", {}, title), ...children));
const table = (head, rows) => html("div", { class: "panel" }, html("table", {}, html("tr", {}, head), rows));
const row = (title, note, cells, kind = "") => html("tr", { class: kind }, html("th", {}, title, small(note)), cells);

const isNumber = value => typeof value == "number";
const mean = values => values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
const percent = value => isNumber(value) ? Math.round(100 * value) + "%" : "–";
function shown(value) { // three digits, two of a small number, all of an integer
  if (!isNumber(value)) return String(value ?? "–");
  const size = Math.abs(value);
  return Number.isInteger(value) || size >= 100 ? value.toLocaleString("en", { maximumFractionDigits: 0 })
    : value.toPrecision(size < 0.1 ? 2 : 3);
}
const fixed = value => isNumber(value) ? value.toFixed(2) : shown(value);
const signed = value => (value > 0 ? "+" : "") + fixed(value).replace("-", "−");
const interval = pair => Array.isArray(pair) && pair.length == 2 && pair.every(isNumber)
  ? `[${pair[0].toFixed(3)}, ${pair[1].toFixed(3)}]` : "";

const column = (run, name) => run.metrics[name] || [];
const objectives = run => Object.keys(run.metrics).filter(name => name.endsWith("_steers"))
  .map(name => name.slice(0, -"_steers".length));
function tenths(run, name) { // the means of a column's first and last tenth
  const values = column(run, name).filter(isNumber), n = Math.ceil(values.length / 10);
  return [mean(values.slice(0, n)), mean(values.slice(-n))];
}

// --- charts: a line has a colour and a dash pattern, a dot a colour and a shape ---

const colour = i => `var(--c${i % 6})`;
const stroke = i => ({ stroke: colour(i), "stroke-width": 2, fill: "none", // of 36 lines no two are alike
  "stroke-dasharray": ["none", "7 3", "2 3", "9 3 2 3", "4 4", "12 4"][(i + Math.floor(i / 6)) % 6] });
const line = (x1, y1, x2, y2, more) => svg("line", { x1, y1, x2, y2, ...more });
const label = (x, y, anchor, text) => svg("text", { x, y, "text-anchor": anchor }, String(text));
const SHAPES = ["M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", "M-4-4h8v8h-8z", "M0-5l5 9h-10z", "M0-6l6 6l-6 6l-6-6z"];
const dot = (i, x, y) => svg("path", { fill: colour(i), transform: `translate(${x} ${y})`, d: SHAPES[i % 4] });
const swatch = i => svg("svg", { class: "swatch", width: 34, height: 14 }, line(0, 7, 34, 7, stroke(i)), dot(i, 17, 7));

function smooth(values) {
  const reach = Math.floor(values.length / 24);
  const near = i => values.slice(Math.max(0, i - reach), i + reach + 1).filter(isNumber);
  return values.map((value, i) => isNumber(value) ? mean(near(i)) : null);
}
function ticks(low, high) {
  const rough = (high - low) / 4 || 1, unit = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map(k => k * unit).find(step => step >= rough);
  const first = Math.ceil(low / size - 1e-6), count = Math.floor(high / size + 1e-6) - first + 1;
  return Array.from({ length: count }, (_, i) => +((first + i) * size).toPrecision(12));
}
// A missing value interrupts the line; h.01 makes a value without neighbours a dot.
const curve = (xs, ys) => xs.map((x, i) => {
  if (!isNumber(ys[i])) return "";
  const place = `${x.toFixed(1)} ${ys[i].toFixed(1)}`;
  return isNumber(ys[i - 1]) ? "L" + place : `M${place}h.01`;
}).join("");

// lines: [{ name, style, x, y }]. Faint each value, strong the moving mean; above, where the moving mean ends.
function lineChart(title, lines, targets = []) {
  lines = lines.filter(one => one.y.some(isNumber)).map(one => ({ ...one, mean: smooth(one.y) }));
  if (!lines.length) return [];
  const left = 46, right = 368, top = 10, bottom = 168;
  const steps = lines.flatMap(one => one.x), values = lines.flatMap(one => one.y).filter(isNumber).concat(targets);
  const first = Math.min(...steps), last = Math.max(...steps), least = Math.min(...values), most = Math.max(...values);
  const margin = (most - least || Math.abs(most) || 1) * 0.06;
  const low = least >= 0 && least <= 0.3 * most ? 0 : least - margin, high = most + margin;
  const atX = step => left + (right - left) * (step - first) / (last - first || 1);
  const atY = value => isNumber(value) ? bottom - (bottom - top) * (value - low) / (high - low) : null;
  const caption = lines.map(one => html("span", {}, lines.length > 1 ? swatch(one.style) : "end: ",
    `${one.name} ${shown(one.mean.findLast(isNumber))}`));
  return html("figure", { class: "panel" }, html("figcaption", {}, html("b", {}, title), caption),
    svg("svg", { class: "chart", viewBox: "0 0 380 190", role: "img", "aria-label": title },
      ticks(low, high).map(value => [line(left, atY(value), right, atY(value), { class: "axis" }),
        label(left - 6, atY(value) + 4, "end", value)]),
      ticks(first, last).filter(Number.isInteger).map(step => label(atX(step), 184, "middle", step)),
      targets.map(target => [line(left, atY(target), right, atY(target), { class: "target" }),
        label(left + 4, atY(target) - 4, "start", "target " + target)]),
      lines.map(({ style, x, y, mean }) => [
        svg("path", { ...stroke(style), d: curve(x.map(atX), y.map(atY)), opacity: 0.3, "stroke-width": 1,
          "stroke-dasharray": "none" }),
        svg("path", { ...stroke(style), d: curve(x.map(atX), mean.map(atY)) })])));
}
const nameOf = run => runs.length > 1 ? run.name : "";
const lineOf = (run, key, style, name) => ({ name, style, x: column(run, "step"), y: column(run, key) });

// --- the sections above the reader ---

function headline() {
  main.append(html("h1", {}, "CRPO report"),
    muted(`Written ${made}. An arrow leads from the mean of a run's first tenth of steps to that of its last.`));
  const tile = (title, value, note = "") => html("div", {}, small(title), html("b", {}, value), small(note));
  runs.forEach((run, i) => {
    const { steps: total, target_kl: target } = run.config, refused = run.refused;
    const change = name => tenths(run, name).map(shown).join(" → "), end = name => tenths(run, name)[1];
    const steers = objectives(run).sort((a, b) => end(b + "_steers") - end(a + "_steers")).slice(0, 2);
    const tiles = !run.metrics.step ? [] : [
      tile("steps", shown(run.metrics.step.at(-1)) + (total ? ` of ${shown(total)}` : ""),
        run.finished ? "finished" : "still going, or stopped"),
      tile("reward", change("reward")), tile("accuracy in training", change("accuracy")),
      tile("held-out accuracy", run.held_out.map(result => shown(result.accuracy)).join(" → ") || "–",
        ["", "before", "before and after"][run.held_out.length]),
      tile("KL to the start model", change("kl"), (target ? `target ${target}` : "no target")
        + (refused ? `; steps with rewards refused: ${refused}` : "")),
      tile("tokens a rollout", change("length"), `at the end ${percent(end("cut"))} cut`),
      tile("steered at the end by", steers.map(name => `${name} ${percent(end(name + "_steers"))}`).join(", "))];
    const evaluated = Object.entries(run.evals).filter(([, result]) => interval(result.accuracy_interval));
    main.append(html("div", { class: "panel" }, html("h3", {}, swatch(i), run.name),
      html("div", { class: "tiles" }, tiles, evaluated.map(([set, result]) =>
        tile(`accuracy, ${set}`, shown(result.accuracy), interval(result.accuracy_interval)))),
      html("ul", { class: "muted" }, run.notes.map(note => html("li", {}, note)))));
  });
}

function curves() {
  const measured = [...new Set(runs.flatMap(objectives))]
    .filter(name => runs.some(run => column(run, name).some(Boolean)));
  const targets = new Set(runs.map(run => run.config.target_kl).filter(target => target > 0));
  const overlaid = (name, title = name, targets = []) =>
    lineChart(title, runs.map((run, i) => lineOf(run, name, i, nameOf(run))), targets);
  section("curves", "Learning curves", muted("Means over all rollouts of a step. Strong: moving mean, with its last "
    + "value above; faint: each step."), html("div", { class: "grid" }, overlaid("reward"),
    measured.map(name => overlaid(name)), overlaid("kl", "KL to the start model", [...targets]),
    overlaid("entropy"), overlaid("length", "tokens a rollout"), overlaid("cut", "share of rollouts cut"),
    lineChart("loss of a cold start",
      runs.flatMap((run, i) => run.metrics.reward ? [] : lineOf(run, "loss", i, nameOf(run)))),
    overlaid("grad_norm", "gradient norm"), overlaid("seconds", "seconds a step"),
    runs.map(run => lineChart("seconds by phase" + (nameOf(run) && ", " + nameOf(run)),
      ["sample", "score", "reference", "update"].map((phase, i) => lineOf(run, "seconds_" + phase, i, phase))))));
}

function steering() {
  const figures = runs.map(run => {
    const weights = run.groups.length ? run.groups.at(-1).weights : {};
    const lines = objectives(run).map((name, i) =>
      lineOf(run, name + "_steers", i, weights[name] ? `${weights[name]} × ${name}` : name));
    return lineChart(nameOf(run) || "share of the variance", lines.filter(one => one.y.some(Boolean)));
  });
  section("steers", "Who steers", muted("Each objective's share of the variance of the advantage: what trains the "
    + "policy, whatever the weights (the factors below) say; below 0: against the others."),
    html("div", { class: "grid" }, figures));
}

function whisker(style, value, pair) {
  if (!interval(pair)) return shown(value);
  const atX = share => 6 + 112 * share, [from, to] = pair.map(atX);
  return [svg("svg", { width: 124, height: 14 }, line(atX(0), 7, atX(1), 7, { class: "axis" }),
    [0, 0.5, 1].map(share => line(atX(share), 2, atX(share), 12, { class: "axis" })),
    line(from, 7, to, 7, { ...stroke(style), "stroke-dasharray": "none" }), dot(style, atX(value), 7)),
    small(`${value.toFixed(3)} ${interval(pair)}`)];
}
function evaluation() {
  const results = runs.flatMap((run, i) => Object.entries(run.evals).map(([set, result]) => ({ run, i, set, result })))
    .sort((a, b) => a.set.localeCompare(b.set));
  const all = [...new Set(results.flatMap(one => Object.keys(one.result)))];
  const isObject = name => results.some(({ result }) => result[name]?.constructor == Object);
  const names = all.filter(name => name != "right" && !name.endsWith("_interval") && !isObject(name));
  const isShare = name => all.includes(name + "_interval"), shares = names.filter(isShare);
  const cells = (items, make, tag = "td") => items.map(item => html(tag, {}, make(item)));
  section("evaluation", "Evaluation", !results.length ? muted("No evaluation yet: eval.py writes its tables.") : [
    table([html("th", {}), cells(shares, name => [name, small("0 to 1, 95% interval")], "th")],
      results.map(({ run, i, set, result }) => row(set, nameOf(run), cells(shares, name =>
        whisker(i, result[name], result[name + "_interval"]))))),
    table([html("th", {}, "measure"), cells(results, ({ run, set }) => [set, small(nameOf(run))], "th")],
      names.filter(name => !isShare(name)).map(name => row(name.replaceAll("_", " "), "",
        cells(results, ({ result }) => shown(result[name])))))]);
}

// --- finding a phrase in a text: its words, whatever their case, plural and order, close together in one sentence ---

const SMALL = /^(a|an|the|of|to|in|on|at|by|for|from|with|and|or|is|was|has|have|his|her|patient)$/;
const REJECTS = new RegExp("unlikely|less|rule|not|exclud|incorrect|wrong|against|inconsistent|reject|eliminat"
  + "|improbable|inappropriate|contraindicat");
function wordsOf(text) {
  let sentence = 0, end = 0;
  return Array.from(text.matchAll(/[\p{L}\p{N}]+(?:[.,/]\p{N}+)*/gu), (match, order) => {
    const start = match.index, word = match[0].toLowerCase();
    if (/[.!?;](\s|$)|[\n<>]/.test(text.slice(end, start))) sentence++;
    end = start + match[0].length;
    return { word: word.length > 3 ? word.replace(/([^sui])s$/, "$1") : word, order, start, end, sentence };
  });
}
// The places, one a sentence, that hold most of the phrase's words, at least `share` of them -> [{ start, end }]
function locate(words, phrase, share) {
  const wanted = new Set(wordsOf(phrase).map(token => token.word).filter(word => !SMALL.test(word)));
  const best = new Map();
  let place = { order: -9 }, most = Math.max(1, share * wanted.size);
  for (const token of words.filter(token => wanted.has(token.word))) {
    const more = token.sentence == place.sentence && token.order - place.order < 5 && !place.seen.includes(token.word);
    place = { ...token, start: more ? place.start : token.start, seen: [...(more ? place.seen : []), token.word] };
    if (place.seen.length > (best.get(token.sentence)?.seen.length || 0)) best.set(token.sentence, place);
    most = Math.max(most, place.seen.length);
  }
  return [...best.values()].filter(place => place.seen.length >= most);
}
function marked(text, marks, from, to) {
  const nodes = [];
  for (const { start, end, make } of marks.toSorted((a, b) => a.start - b.start)) {
    if (start < from || end > to) continue;
    nodes.push(text.slice(from, start), make(text.slice(start, end)));
    from = end;
  }
  return [...nodes, text.slice(from, to)];
}
const mark = (places, make) =>
  places.map(({ start, end }, i) => ({ start, end, make: inside => make(inside, i) }));
const sup = text => html("sup", {}, String(text));

// What the verifiers found in a response, as its row says, looked up in the text. k: its place in the group
function marksOf(rollout, group, k) {
  const text = rollout.response, words = wordsOf(text);
  const all = pattern => Array.from(text.matchAll(pattern), match =>
    ({ start: match.index, end: match.index + match[0].length, letter: match[1] }));
  const isRefused = place => words.some(token => token.sentence == place.sentence && REJECTS.test(token.word));
  const refusals = letter => [...locate(words, group.options[letter] || "", 1).filter(isRefused),
    ...all(/\b[Oo]ption ([A-Z])\b/g).filter(place => place.letter == letter)];
  return [mark(all(/\\boxed\s*\{(?:[^{}]|\{[^{}]*\})*\}/g), inside => verdict(rollout, "box", inside + " ")),
    rollout.unsupported.map(phrase => mark(locate(words, phrase, 0.6), inside =>
      html("span", { class: "unsupported", title: "not in the case: " + phrase }, inside, sup("?")))),
    Object.keys(rollout.rejected).map(letter => mark(refusals(letter), inside =>
      html("span", { title: "rejected: option " + letter }, html("s", {}, inside), sup("✗" + letter)))),
    rollout.cited.map((phrase, n) => mark(locate(words, phrase, 0.5), (inside, i) => html("a", { class: "cited",
      href: `#case-${n}`, id: i ? "" : `said-${k}-${n}`, title: "cited: " + phrase }, inside, sup(n + 1))))].flat(2);
}
function verdict({ accuracy, chosen }, kind = "", inside = "") {
  const right = accuracy === 1, said = right ? "✓ right " : chosen == null ? "✗ no answer" : "✗ wrong ";
  return html("span", { class: `${kind} ${right ? "right" : "wrong"}` }, inside + said + (chosen ?? ""));
}

// A response cut at its tags -> [{ title, from, to }]
const PARTS = { "<dx>": "Before System 1", "System 1:": "System 1 (intuitive)", "System 2:": "System 2 (analytical)",
  "<conclusion>": "Conclusion", "<think>": "Thinking", "<answer>": "Answer" };
const TAG = /((?:<\/?(?:dx|conclusion|think|answer)>|System [12]:)\s*)/;
function partsOf(text) {
  const parts = [];
  let from = 0, title;
  for (const piece of text.split(TAG)) {
    if (TAG.test(piece)) title = PARTS[piece.trim()];
    else if (piece.trim()) parts.push({ title: title || "Outside the tags", from, to: from + piece.length });
    from += piece.length;
  }
  return parts;
}

// --- the reader ---

const at = { run: 0, group: 0, rollout: 0 }, reader = html("div", {});
const current = () => runs[at.run].groups[at.group];
for (const run of runs) for (const { rollouts } of run.groups)
  rollouts.sort((a, b) => b.reward - a.reward || a.rollout - b.rollout);

function show(change = {}) {
  Object.assign(at, "run" in change ? { group: 0 } : {}, { rollout: 0 }, change);
  const run = runs[at.run], group = current(), focused = document.activeElement.getAttribute("aria-label");
  const choose = (name, items) => html("select", { "aria-label": name,
    change: event => show({ [name]: event.target.selectedIndex }) },
    items.map((item, i) => html("option", i == at[name] ? { selected: "" } : {}, item)));
  const bar = html("div", { class: "bar" }, runs.length > 1 ? choose("run", runs.map(run => run.name)) : [],
    html("button", { click: () => move(-1), "aria-label": "previous question" }, "◀"),
    choose("group", run.groups.map(({ step, question }) => `step ${step}: ${question}`)),
    html("button", { click: () => move(1), "aria-label": "next question" }, "▶"));
  reader.replaceChildren(bar, ...(!group ? [muted("No rollouts to read yet.")] : [
    matrix(group), html("div", { class: "read" }, html("div", { class: "panel case" }),
      html("div", { class: "cards", tabindex: 0, "aria-label": "rollouts" },
        group.rollouts.map((rollout, k) => card(rollout, group, k))))]));
  select(0, "instant");
  if (focused) reader.querySelector(`[aria-label="${focused}"]`)?.focus({ preventScroll: true });
}
const move = by => runs[at.run].groups[at.group + by] && show({ group: at.group + by });
function select(k, behavior = "smooth") {
  const group = current(), cards = reader.querySelector(".cards");
  if (!group || !group.rollouts[k]) return;
  at.rollout = k;
  for (const cell of reader.querySelectorAll("[data-k]")) cell.classList.toggle("on", cell.dataset.k == k);
  reader.querySelector(".case").replaceChildren(...caseOf(group, k));
  cards.scrollTo({ left: cards.children[k].offsetLeft, behavior });
}

// Every number of a group: a column a rollout, under each score its part in the advantage
function matrix({ rollouts, weights }) {
  const cells = (make, tag = "td") => rollouts.map((rollout, k) =>
    html(tag, { "data-k": k, click: () => select(k) }, make(rollout)));
  const way = value => value > 0 ? "right" : value < 0 ? "wrong" : "";
  const scores = Object.keys(rollouts[0].parts).map(name => row(name, `weight ${weights[name] || 0}`,
    cells(one => [fixed(one[name]), small(signed(one.parts[name]))]), weights[name] ? "" : "muted"));
  return table([html("th", {}, "by reward"), cells(rollout => "rollout " + rollout.rollout, "th")], [
    row("answer", "", cells(rollout => verdict(rollout))),
    row("reward", "sum of weight × score", cells(rollout => html("b", {}, fixed(rollout.reward)))),
    row("advantage", "sum of the parts below", cells(({ advantage }) =>
      html("span", { class: way(advantage) }, signed(advantage)))), scores,
    row("tokens", "", cells(rollout => [shown(rollout.tokens), small(rollout.finished ? "" : "cut")]))]);
}
function caseOf({ stem, options, answer, rollouts }, k) {
  const rollout = rollouts[k], words = wordsOf(stem);
  const marks = rollout.cited.flatMap((phrase, n) => mark(locate(words, phrase, 0.6).slice(0, 1), inside =>
    html("a", { class: "cited", id: `case-${n}`, href: `#said-${k}-${n}` }, inside, sup(n + 1))));
  const listed = Object.entries(options).map(([letter, text]) => {
    const notes = (letter == answer ? " ✓ key" : "") + (letter in rollout.rejected ? " ✗\u00a0rejected" : "");
    return html("li", { class: letter == answer ? "right" : "" }, `${letter}) ${text}${notes}`);
  });
  return [html("h3", {}, `The case, as rollout ${rollout.rollout} reads it`),
    html("p", { class: "text" }, marked(stem, marks, 0, stem.length)), html("ul", { class: "options" }, listed),
    small("Numbered: a cited finding, linked to its place in the text. Wavy, ?: not in the case. Struck, ✗: a rejected "
      + "option. Places are found by words and may be off; the lists under a text are the verifiers' own.")];
}
function card(rollout, group, k) {
  const text = rollout.response, marks = marksOf(rollout, group, k);
  const list = (title, items) => html("p", {}, html("b", {}, title + ": "), items.join("; ") || "none");
  return html("article", { class: "panel card", "data-k": k, click: () => k == at.rollout || select(k) },
    html("h3", {}, `rollout ${rollout.rollout} · reward ${fixed(rollout.reward)} · advantage `,
      signed(rollout.advantage)),
    html("p", {}, verdict(rollout), rollout.finished ? "" : ` · cut at ${shown(rollout.tokens)} tokens`,
      rollout.nonfinite ? " · its update was not finite and skipped" : ""),
    text ? [] : muted("The response is empty."),
    partsOf(text).map(({ title, from, to }) => html("details", { open: "" }, html("summary", {}, title),
      html("div", { class: "text" }, marked(text, marks, from, to)))),
    html("div", { class: "evidence" }, list("Cited", rollout.cited.map((phrase, n) => `${n + 1} ${phrase}`)),
      list("Not in the case", rollout.unsupported),
      list("Rejected", Object.entries(rollout.rejected).map(([letter, words]) => `${letter} for ${words}`))));
}
addEventListener("keydown", event => {
  const box = reader.getBoundingClientRect(), cards = reader.querySelector(".cards");
  const along = { ArrowLeft: -1, ArrowRight: 1 }[event.key], across = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!cards || event.target.matches("select") || event.ctrlKey || event.altKey || event.metaKey) return;
  if (along && box.top < innerHeight && box.bottom > 0) {
    select(at.rollout + along);
    cards.focus({ preventScroll: true });
  } else if (across && reader.contains(document.activeElement)) move(across); // elsewhere they scroll the page
  else return;
  event.preventDefault();
});

headline();
curves();
steering();
evaluation();
section("reader", "Rollouts", muted("Every number of a group and what the rules read in each text. Small, under a "
  + "score: its part in the advantage. Keys: ← → another rollout, ↑ ↓ another question."), reader);
show();
</script>
</html>
"""


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
