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
CUTS = (math.inf, 16_000, 4_000, 1_000)  # characters shown of a text: the first at which ENOUGH steps fit
ENOUGH = 24  # steps of a run with rollouts to read
TEXT = ("step", "question", "stem", "options", "answer", "rollout", "response", "finished", "tokens", "reward",
        "advantage", "weights", "parts", "chosen", "cited", "rejected", "unsupported")  # a row's fields but its scores
SETTINGS = ("objective", "model", "data", "advantage", "steps", "prompts", "group", "minibatches", "lr", "clip", "beta",
            "target_kl", "temperature", "max_new_tokens", "seed")  # of run.json, as the page shows them


# --- reading ------------------------------------------------------------------------------------------------------

def number(text):
    """A JSON number with six digits, or as a string if it is not finite: JSON has no NaN."""
    value = float(text)
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)


def parse(text):
    return json.loads(text, parse_float=number, parse_int=number, parse_constant=str)


def read_rows(path, notes):
    """The rows of a JSON lines file that have a step; the others are counted in `notes`."""
    if not path.exists():
        notes.append(f"no {path.name} yet")
        return []
    rows, bad = [], []
    lines = path.read_bytes().split(b"\n")
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse(line.decode("utf-8", errors="replace"))
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), float):
            rows.append(row)
        elif place == len(lines):
            notes.append(f"{path.name}: the last line is half written and left out")
        else:
            bad.append(place)
    if bad:
        notes.append(f"{path.name}: {len(bad)} unreadable lines are left out, the first is line {bad[0]}")
    return rows


def read_object(path, notes):
    """A JSON object; {} if it is missing or unreadable, which `notes` says."""
    try:
        value = parse(path.read_bytes().decode("utf-8", errors="replace"))
    except FileNotFoundError:
        notes.append(f"no {path.name}")
        return {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        notes.append(f"{path.name} is not a JSON object and is left out")
        return {}
    return value


def columns_of(rows, notes):
    """{name: a value a step} of metrics.jsonl, None where there is none; a value that is no number is noted."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    for name, values in columns.items():
        wrong = [row["step"] for row, value in zip(rows, values) if not isinstance(value, (float, bool, type(None)))]
        if wrong:
            notes.append(f"metrics.jsonl: {name} is not a finite number at {len(wrong)} steps, first at {wrong[0]:g}")
        columns[name] = [value if isinstance(value, (float, bool)) else None for value in values]
    return columns


def strings(value):
    return [str(item) for item in value] if isinstance(value, list) else []


def mapping(value):
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}


def steps_of(rows):
    """samples.jsonl as a list of steps, each a list of groups: one question with its rollouts."""
    steps = {}
    for row in rows:
        question = str(row.get("question"))
        group = steps.setdefault(row["step"], {}).setdefault(question, {
            "step": row["step"], "question": question, "stem": str(row.get("stem", "")), "answer": str(row.get("answer")),
            "options": {letter: str(text) for letter, text in mapping(row.get("options")).items()},
            "weights": mapping(row.get("weights")), "rollouts": []})
        group["rollouts"].append({
            "rollout": row.get("rollout"), "response": str(row.get("response", "")), "tokens": row.get("tokens"),
            "finished": row.get("finished") is not False, "reward": row.get("reward"), "advantage": row.get("advantage"),
            "scores": {name: value for name, value in row.items() if name not in TEXT},
            "parts": mapping(row.get("parts")), "marked": "cited" in row, "chosen": row.get("chosen"),
            "cited": strings(row.get("cited")), "unsupported": strings(row.get("unsupported")),
            "rejected": {letter: strings(reason) for letter, reason in mapping(row.get("rejected")).items()}})
    return [list(steps[step].values()) for step in sorted(steps)]


def read_run(path):
    """What the page shows of one run directory. ValueError if there is no such directory or it holds no run."""
    path, notes = Path(path), []
    if not path.is_dir():
        raise ValueError(f"{path}: no such directory; give the run directory that train_crpo.py wrote (its --out)")
    config = read_object(path / "run.json", notes)
    metrics = columns_of(read_rows(path / "metrics.jsonl", notes), notes)
    steps = steps_of(read_rows(path / "samples.jsonl", notes))
    evals = {file.stem: read_object(file, notes) for file in sorted(path.glob("eval/*.json"))}
    if not (config or metrics or steps or evals):
        raise ValueError(f"{path}: holds no run; expected run.json, metrics.jsonl, samples.jsonl or eval/*.json in it")
    if not evals:
        notes.append(f"no evaluation yet; python eval.py {path} makes one")
    if steps and not any(rollout["marked"] for step in steps for group in step for rollout in group["rollouts"]):
        notes.append("samples.jsonl has no evidence in its rows, so findings are not marked in the texts")
    return {"name": str(path), "config": {k: config[k] for k in SETTINGS if k in config}, "metrics": metrics,
            "finished": any(path.glob("model*.safetensors")), "evals": evals, "steps": steps, "notes": notes}


# --- the page -----------------------------------------------------------------------------------------------------

def even(items, n):
    """n of the items, evenly spread, the first and the last among them."""
    if n >= len(items):
        return items
    return [items[round(i * (len(items) - 1) / max(n - 1, 1))] for i in range(n)]


def embed(value):
    """JSON that may stand inside a script element: ASCII, without `<`."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def cut(value, limit, count):
    """A value with every string over `limit` characters cut in its middle; count[0] is how many were."""
    if isinstance(value, dict):
        return {key: cut(item, limit, count) for key, item in value.items()}
    if isinstance(value, list):
        return [cut(item, limit, count) for item in value]
    if not isinstance(value, str) or len(value) <= limit:
        return value
    count[0] += 1
    head, tail = 2 * limit // 3, limit // 3
    return f"{value[:head]}\n[... {len(value) - head - tail:,} characters are not shown ...]\n{value[-tail:]}"


def fit(run, room):
    """Keep as many evenly spread steps of run["steps"] as fit into `room` bytes; texts are cut before steps go."""
    everything = run["steps"]
    for limit in CUTS:
        count = [0]
        steps = everything if limit == math.inf else cut(everything, limit, count)
        sizes, n = [len(embed(step)) + 1 for step in steps], len(steps)
        while n and sum(even(sizes, n)) > room:
            n = n * 9 // 10
        if n >= min(ENOUGH, len(steps)):
            break
    run["steps"] = even(steps, n)
    if count[0]:
        run["notes"].append(f"{count[0]:,} texts are over {limit:,} characters and cut in their middle for display")
    if n < len(steps):
        run["notes"].append(f"rollouts of {len(steps) - n:,} of {len(steps):,} steps are left out, to keep the page "
                            f"under {LIMIT // 1_000_000} MB; the {n:,} steps shown are evenly spread")


def page(runs):
    """The whole page as text. Cuts what would not fit, and says so in each run's notes."""
    for run in runs:
        total = len(run["metrics"].get("step", []))
        points = POINTS // len(runs)
        if total > points:
            run["metrics"] = {name: even(values, points) for name, values in run["metrics"].items()}
            run["notes"].append(f"the curves show {points:,} of {total:,} steps, evenly spread")
    bare = len(TEMPLATE.encode()) + len(embed([{**run, "steps": []} for run in runs])) + 1000 * len(runs)
    for run in runs:
        fit(run, (LIMIT - bare) // len(runs))
    made = datetime.now().strftime("%Y-%m-%d %H:%M")
    text = TEMPLATE.replace("{{data}}", embed({"made": made, "runs": runs}))
    if len(text.encode()) > LIMIT:
        raise ValueError(f"the page would have {len(text.encode()):,} bytes without any rollouts; give fewer runs")
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directories", nargs="+", help="run directories; report.html goes into the first")
    runs = [read_run(path) for path in parser.parse_args().directories]
    out = Path(runs[0]["name"]) / "report.html"
    text = page(runs)
    temporary = out.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")  # a reader never sees half a page
    os.replace(temporary, out)
    for run in runs:
        for note in run["notes"]:
            print(f"{run['name']}: {note}")
    print(f"written: {out} ({out.stat().st_size / 1e6:.1f} MB)")


TEMPLATE = r"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>CRPO report</title>
<style>
:root { color-scheme: light dark; --page: #f6f7f8; --panel: #fff; --ink: #1c2127; --muted: #5a6470; --line: #d9dee4;
  --accent: #1f5fb4; --good: #11703c; --bad: #b3261e; --cited: #e3edfb; --warn: #fbeed2;
  --c0: #1f5fb4; --c1: #c2410c; --c2: #0f766e; --c3: #8b2fa3; --c4: #806200; --c5: #b8235a; }
@media (prefers-color-scheme: dark) { :root { --page: #13161a; --panel: #1b1f25; --ink: #e3e7ec; --muted: #9ba5b1;
  --line: #343b44; --accent: #7fb2ff; --good: #6fd49a; --bad: #ff8f85; --cited: #22344f; --warn: #443714;
  --c0: #7fb2ff; --c1: #fb9a5b; --c2: #52cfbd; --c3: #d59bea; --c4: #d9bd55; --c5: #f788ab; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 20px 16px 64px; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 19px; margin: 40px 0 4px; } h3 { font-size: 15px; margin: 16px 0 4px; }
p { margin: 4px 0; } .muted, figcaption span, small { color: var(--muted); } small { font-size: 12px; }
.panel, figure { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; margin: 12px 0; }
.panel h3 { margin-top: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px 20px; }
.tiles div { border-left: 2px solid var(--line); padding-left: 10px; } .tiles b { display: block; font-size: 17px; font-weight: 600; }
.tiles .muted { font-size: 13px; }
ul.notes { margin: 8px 0 0; padding-left: 20px; color: var(--muted); font-size: 14px; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 8px 0; } .legend svg { vertical-align: middle; margin-right: 6px; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 350px), 1fr)); gap: 12px; } .grid figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; touch-action: pan-y; } figcaption { display: flex; flex-wrap: wrap;
  justify-content: space-between; gap: 0 12px; } figcaption span { font-size: 13px; font-variant-numeric: tabular-nums; }
svg text { font: 11px system-ui, sans-serif; fill: var(--muted); } svg .axis { stroke: var(--line); } svg .cross { stroke: var(--muted); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } th, td { padding: 4px 10px; text-align: right;
  border-bottom: 1px solid var(--line); white-space: nowrap; vertical-align: top; } th { font-weight: 600; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--panel); } td small, th small { display: block; font-weight: 400; }
.bar { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin: 12px 0; }
button, select { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--line); border-radius: 6px;
  padding: 5px 10px; min-height: 36px; max-width: 100%; } button { cursor: pointer; } :focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
kbd { font: 12px ui-monospace, monospace; border: 1px solid var(--line); border-radius: 4px; padding: 1px 5px; }
.matrix td, .matrix thead th:not(:first-child) { cursor: pointer; } .matrix .on { background: var(--cited); }
.matrix thead .on { box-shadow: inset 0 3px var(--accent); } .off, .off th { color: var(--muted); font-weight: 400; }
.up, .right { color: var(--good); font-weight: 600; } .down, .wrong { color: var(--bad); font-weight: 600; }
.read { display: grid; grid-template-columns: minmax(0, 1fr); gap: 12px; } .read > * { margin: 0; }
.cards { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(min(400px, 88%), 1fr); gap: 12px; overflow-x: auto;
  scroll-snap-type: x proximity; position: relative; padding: 1px; }
.card { margin: 0; scroll-snap-align: start; min-width: 0; } .card.on { border-color: var(--accent); box-shadow: inset 0 3px var(--accent); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; } summary { cursor: pointer; font-weight: 600; font-size: 14px; margin-top: 8px; }
.options { list-style: none; padding: 0; margin: 10px 0 0; } .options li { padding: 2px 0; } .evidence { font-size: 14px; border-top: 1px solid var(--line);
  margin-top: 10px; padding-top: 8px; overflow-wrap: anywhere; }
a.cited { background: var(--cited); color: inherit; text-decoration: underline; text-underline-offset: 3px; border-radius: 2px; scroll-margin: 120px; }
a.cited:target { outline: 2px solid var(--accent); } sup { line-height: 0; font-size: 11px; font-weight: 600; padding-left: 1px; }
.unsupported { background: var(--warn); text-decoration: underline wavy var(--bad); text-underline-offset: 3px; }
.rejected { text-decoration: line-through; text-decoration-color: var(--muted); } .box { border: 1px solid currentColor; border-radius: 4px; padding: 0 4px; }
@media (min-width: 900px) { .read { grid-template-columns: 330px minmax(0, 1fr); align-items: start; }
  .read > .case { position: sticky; top: 12px; max-height: calc(100vh - 24px); overflow-y: auto; } }
@media (max-width: 600px) { th, td { padding: 4px 7px; } .keys { display: none; } }
</style>
<main></main>
<noscript>This page draws itself with the script inside it, which is switched off.</noscript>
<script type="application/json" id="data">{{data}}</script>
<script>
"use strict";
const { runs, made } = JSON.parse(document.getElementById("data").textContent);
const main = document.querySelector("main");
addEventListener("error", event => main.prepend(element("p", { class: "panel wrong" }, "This page has an error: " + event.message)));

// Elements, numbers. Strings become text nodes, never markup.
function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes))
    typeof value == "function" ? node.addEventListener(name, value) : node.setAttribute(name, value);
  node.append(...children.flat());
  return node;
}
const element = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
const drawing = (tag, attributes, ...children) => build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const isNumber = value => typeof value == "number";
const mean = values => values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
const percent = value => isNumber(value) ? Math.round(100 * value) + " %" : "–";
function shown(value, digits = 3) {
  if (!isNumber(value)) return value == null ? "–" : String(value);
  if (Number.isInteger(value) || Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return value && Math.abs(value) < 0.0005 ? value.toExponential(1) : value.toFixed(digits);
}
const signed = (value, digits = 2) => isNumber(value) ? (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(digits) : shown(value);
const section = (id, title, ...children) => main.append(element("section", { id }, element("h2", {}, title), ...children));
const numbers = (run, name) => (run.metrics[name] || []).filter(isNumber);
const objectives = run => Object.keys(run.metrics).filter(name => name.endsWith("_steers")).map(name => name.slice(0, -7));
const weightsOf = run => run.steps.length ? run.steps.at(-1)[0].weights : {};
const names = new Map(runs.map(run => [run, runs.filter(other => other.name.split("/").filter(Boolean).at(-1)
  == run.name.split("/").filter(Boolean).at(-1)).length > 1 ? run.name : run.name.split("/").filter(Boolean).at(-1) || run.name]));

// Charts: a line has a colour and a dash pattern, an evaluation dot a colour and a shape.
const colour = i => `var(--c${i % 6})`;
const dash = i => ["none", "7 3", "2 3", "9 3 2 3", "4 4", "12 4"][i % 6];
function smooth(values) {
  const reach = Math.floor(values.length / 24);
  return values.map((value, i) => isNumber(value) ? mean(values.slice(Math.max(0, i - reach), i + reach + 1).filter(isNumber)) : null);
}
function ticks(low, high) {
  const rough = (high - low) / 4 || 1, unit = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map(k => k * unit).find(step => step >= rough);
  const count = Math.floor(high / size + 1e-6) - Math.ceil(low / size - 1e-6);
  return Array.from({ length: count + 1 }, (_, i) => +((Math.ceil(low / size - 1e-6) + i) * size).toPrecision(12));
}
function path(x, y) {
  let pen = "M";
  return x.map((at, i) => { if (!isNumber(y[i])) { pen = "M"; return ""; } const part = pen + at.toFixed(1) + " " + y[i].toFixed(1); pen = "L"; return part; }).join("");
}

// lines: [{ name, style, x, y }], the raw values faint, their moving mean strong; a click opens the step in the reader
function lineChart(title, lines, { target, labelled, run } = {}) {
  const width = 380, height = 190, left = 46, right = labelled ? 96 : 12, top = 10, bottom = 22;
  lines = lines.filter(line => line.y.some(isNumber)).map(line => ({ ...line, mean: smooth(line.y) }));
  if (!lines.length) return [];
  const steps = lines.flatMap(line => line.x), values = lines.flatMap(line => line.y).filter(isNumber).concat(target ? [target] : []);
  let low = Math.min(...values), high = Math.max(...values);
  const margin = (high - low || Math.abs(high) || 1) * 0.06, first = Math.min(...steps), last = Math.max(...steps);
  low = low >= 0 && low < 0.3 * high ? 0 : low - margin;
  high += margin;
  const atX = step => left + (width - left - right) * (step - first) / (last - first || 1);
  const atY = value => isNumber(value) ? height - bottom - (height - top - bottom) * (value - low) / (high - low) : null;
  const chart = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  for (const value of ticks(low, high)) chart.append(
    drawing("line", { class: "axis", x1: left, x2: width - right, y1: atY(value), y2: atY(value) }),
    drawing("text", { x: left - 6, y: atY(value) + 4, "text-anchor": "end" }, String(value)));
  for (const step of ticks(first, last)) if (Number.isInteger(step))
    chart.append(drawing("text", { x: atX(step), y: height - 6, "text-anchor": "middle" }, String(step)));
  if (target) chart.append(
    drawing("line", { class: "cross", "stroke-dasharray": "1 3", x1: left, x2: width - right, y1: atY(target), y2: atY(target) }),
    drawing("text", { x: left + 4, y: atY(target) - 4 }, "target " + target));
  for (const line of lines) {
    const x = line.x.map(atX), stroke = { fill: "none", stroke: colour(line.style) };
    chart.append(drawing("path", { ...stroke, d: path(x, line.y.map(atY)), opacity: 0.28 }),
      drawing("path", { ...stroke, d: path(x, line.mean.map(atY)), "stroke-width": 2, "stroke-dasharray": dash(line.style) }));
    if (line.x.length == 1) chart.append(drawing("circle", { cx: x[0], cy: atY(line.y[0]), r: 3, fill: colour(line.style) }));
  }
  if (labelled) {
    let above = -Infinity;
    const ends = lines.map(line => ({ line, y: atY(line.mean.findLast(isNumber)) })).sort((a, b) => a.y - b.y);
    const room = Math.min(13, (height - top) / ends.length), shift = Math.max(0, ends.length * room - (height - bottom - ends[0].y));
    for (const { line, y } of ends) {
      above = Math.max(y - shift, above + room);
      chart.append(drawing("text", { x: width - right + 6, y: above + 4, style: `fill: ${colour(line.style)}` }, line.name));
    }
  }
  const readout = element("span", {}), cross = drawing("line", { class: "cross", y1: top, y2: height - bottom, x1: -9, x2: -9 });
  chart.append(cross);
  const read = step => readout.replaceChildren((step == null ? "end: " : `step ${shown(step)}: `) + lines.map(line => {
    const value = step == null ? line.mean.findLast(isNumber) : line.y[line.x.indexOf(step)];
    return (lines.length > 1 ? line.name + " " : "") + shown(value);
  }).join(" · "));
  const nearest = event => {
    const place = chart.getBoundingClientRect(), x = (event.clientX - place.left) / place.width * width;
    return steps.reduce((best, step) => Math.abs(atX(step) - x) < Math.abs(atX(best) - x) ? step : best);
  };
  chart.addEventListener("pointermove", event => {
    const step = nearest(event);
    cross.setAttribute("x1", atX(step));
    cross.setAttribute("x2", atX(step));
    read(step);
  });
  chart.addEventListener("pointerleave", () => { cross.setAttribute("x1", -9); cross.setAttribute("x2", -9); read(null); });
  chart.addEventListener("click", event => openStep(nearest(event), run));
  if (!labelled) read(null);
  return element("figure", {}, element("figcaption", {}, element("b", {}, title), readout), chart);
}
const overlaid = (title, name, options) => lineChart(title, runs.map((run, i) => (
  { name: names.get(run), style: i, x: run.metrics.step || [], y: run.metrics[name] || [] })), options);
const swatch = i => drawing("svg", { width: 34, height: 14, viewBox: "0 0 34 14" },
  drawing("line", { x1: 0, x2: 34, y1: 7, y2: 7, stroke: colour(i), "stroke-width": 2, "stroke-dasharray": dash(i) }), shape(i, 17, 7));
function shape(i, x, y) {
  const r = 4.5, corners = [null, [[-r, -r], [r, -r], [r, r], [-r, r]], [[0, -r - 1], [r + 1, r], [-r - 1, r]],
    [[0, -r - 2], [r + 2, 0], [0, r + 2], [-r - 2, 0]]][i % 4];
  return corners ? drawing("polygon", { fill: colour(i), points: corners.map(([dx, dy]) => `${x + dx},${y + dy}`).join(" ") })
    : drawing("circle", { cx: x, cy: y, r, fill: colour(i) });
}

function headline() {
  main.append(element("h1", {}, "CRPO report"), element("p", { class: "muted" }, `Written ${made}. Arrows compare the first and the last tenth of a run's steps.`));
  runs.forEach((run, i) => {
    const step = numbers(run, "step").at(-1) || 0, total = run.config.steps || 0;
    const change = name => {
      const values = numbers(run, name), part = Math.max(1, Math.round(values.length / 10));
      return values.length ? `${shown(mean(values.slice(0, part)))} → ${shown(mean(values.slice(-part)))}` : "–";
    };
    const tile = (label, value, note = "") => element("div", {}, element("span", { class: "muted" }, label), element("b", {}, value), element("span", { class: "muted" }, note));
    const steering = objectives(run).map(name => [name, mean(numbers(run, name + "_steers").slice(-Math.ceil(step / 10)))])
      .sort((a, b) => b[1] - a[1]).slice(0, 2);
    const refused = (run.metrics.refused || []).filter(Boolean).length;
    const tiles = step ? [tile("steps", total ? `${shown(step)} of ${shown(total)}` : shown(step), run.finished ? "finished" : "not finished: still going, or stopped"),
      tile("reward", change("reward")), ...("accuracy" in run.metrics ? [tile("accuracy of rollouts", change("accuracy"))] : []),
      tile("KL to the start", change("kl"), (run.config.target_kl ? `target ${run.config.target_kl}` : "no target") + (refused ? `; rewards refused at ${refused} steps` : "")),
      tile("tokens a rollout", change("length"), percent(numbers(run, "cut").at(-1)) + " cut at the last step"),
      ...(steering.length ? [tile("steered at the end by", steering.map(([name, share]) => `${name} ${percent(share)}`).join(", "))] : [])] : [];
    for (const [set, table] of Object.entries(run.evals)) if (isNumber(table.accuracy))
      tiles.push(tile(`accuracy on ${set}`, shown(table.accuracy), interval(table.accuracy_interval)));
    main.append(element("div", { class: "panel" }, element("h3", {}, swatch(i), " ", names.get(run)), element("div", { class: "tiles" }, tiles),
      run.notes.length ? element("ul", { class: "notes" }, run.notes.map(note => element("li", {}, note))) : [],
      element("details", {}, element("summary", {}, "Settings"), element("p", { class: "text muted" },
        Object.entries(run.config).map(([name, value]) => `${name} ${Array.isArray(value) ? value.join(" ") || "the embedded clinic" : shown(value, 4)}`).join(" · ") || "run.json is missing"))));
  });
}

function curves() {
  const measured = [...new Set(runs.flatMap(objectives))].filter(name => runs.some(run => numbers(run, name).some(Boolean)));
  const targets = [...new Set(runs.map(run => run.config.target_kl))];
  const phases = ["sample", "score", "reference", "update"];
  const figures = [overlaid("reward", "reward"), measured.map(name => overlaid(name, name)),
    overlaid("KL to the start model", "kl", { target: targets.length == 1 ? targets[0] : 0 }), overlaid("entropy", "entropy"),
    overlaid("tokens a rollout", "length"), overlaid("share of rollouts cut", "cut"), overlaid("gradient norm", "grad_norm"), overlaid("seconds a step", "seconds"),
    runs.map(run => lineChart("seconds by phase" + (runs.length > 1 ? `: ${names.get(run)}` : ""), phases.map((phase, i) => (
      { name: phase, style: i, x: run.metrics.step || [], y: run.metrics["seconds_" + phase] || [] })), { labelled: true, run }))].flat(2);
  section("curves", "Learning curves", element("p", { class: "muted" }, figures.length
    ? "Means over all rollouts of a step; strong: moving mean, faint: each step. Click a step to read its rollouts." : "No steps logged yet."),
    runs.length > 1 ? element("div", { class: "legend" }, runs.map((run, i) => element("span", {}, swatch(i), names.get(run)))) : [],
    element("div", { class: "grid" }, figures));
}

function steering() {
  const panels = runs.filter(run => objectives(run).length).map(run => {
    const all = objectives(run), active = all.filter(name => numbers(run, name + "_steers").some(Boolean)), weights = weightsOf(run);
    const third = values => Math.max(1, Math.round(values.length / 3));
    const part = (name, from) => { const values = numbers(run, name), n = third(values); return mean(from ? values.slice(-n) : values.slice(0, n)); };
    const sum = mean(Object.values(weights)) * Object.keys(weights).length;
    const rows = all.map((name, i) => element("tr", { class: active.includes(name) ? "" : "off" }, element("th", {}, name),
      [isNumber(weights[name]) ? `${shown(weights[name], 1)} (${percent(weights[name] / sum)})` : "–", percent(part(name + "_steers", 0)), percent(part(name + "_steers", 1)),
        shown(part(name + "_spread", 1)), percent(part(name + "_tie", 1))].map(value => element("td", {}, value))));
    return [element("div", { class: "grid" },
      lineChart(runs.length > 1 ? names.get(run) : "share of the advantage's variance", active.map(name => (
        { name, style: all.indexOf(name), x: run.metrics.step, y: run.metrics[name + "_steers"] })), { labelled: true, run }),
      element("div", { class: "panel scroll", style: "margin: 0" }, element("table", {}, element("thead", {}, element("tr", {}, element("th", {}, "objective"),
        ["weight", "steers, first third", "last third", "spread", "ties"].map(title => element("th", {}, title)))), element("tbody", {}, rows)),
        element("p", {}, element("small", {}, "spread: standard deviation within a group; ties: groups in which all rollouts score the same (both: last third)"))))];
  });
  section("steers", "Who steers", element("p", { class: "muted" }, panels.length
    ? "Each objective's share of the variance of the advantage: what the policy is in fact trained on, whatever the weights say. Below 0: it pulls against the others."
    : "No steps logged yet."), panels.flat());
}

const interval = pair => Array.isArray(pair) && pair.every(isNumber) ? `[${pair.map(end => end.toFixed(3)).join(", ")}]` : "";
function evaluation() {
  const sets = [...new Set(runs.flatMap(run => Object.keys(run.evals)))], setting = ["objective", "temperature", "votes", "top_p", "top_k", "max_new_tokens", "seed"];
  const ranged = [...new Set(runs.flatMap(run => Object.values(run.evals)).flatMap(table => Object.keys(table).filter(name => interval(table[name + "_interval"]))))];
  const whiskers = name => {
    const found = sets.map(set => [set, runs.map((run, i) => [i, run.evals[set]]).filter(([, table]) => table && isNumber(table[name]) && interval(table[name + "_interval"]))]).filter(([, tables]) => tables.length);
    const width = 380, left = 12, height = 26 + found.reduce((sum, [, tables]) => sum + 26 + 18 * tables.length, 0);
    const high = Math.max(1, ...found.flatMap(([, tables]) => tables.map(([, table]) => table[name + "_interval"][1])));
    const atX = value => left + (width - 2 * left) * value / high, chart = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name });
    for (const value of ticks(0, high)) chart.append(drawing("line", { class: "axis", x1: atX(value), x2: atX(value), y1: 4, y2: height - 20 }),
      drawing("text", { x: atX(value), y: height - 6, "text-anchor": "middle" }, String(value)));
    let y = 0;
    for (const [set, tables] of found) {
      chart.append(drawing("text", { x: left, y: y += 18, style: "font-weight: 600" }, set));
      for (const [i, table] of tables) {
        const [from, to] = table[name + "_interval"], beside = atX(to) > width - 60;
        chart.append(drawing("line", { x1: atX(from), x2: atX(to), y1: y += 18, y2: y, stroke: colour(i), "stroke-width": 2 }), shape(i, atX(table[name]), y),
          drawing("text", { x: beside ? atX(from) - 6 : atX(to) + 6, y: y + 4, "text-anchor": beside ? "end" : "start" }, shown(table[name])));
      }
      y += 8;
    }
    return element("figure", {}, element("figcaption", {}, element("b", {}, name), element("span", {}, "dot: estimate, whisker: 95% interval")), chart);
  };
  const tables = sets.map(set => {
    const here = runs.filter(run => run.evals[set]), first = here.map(run => run.evals[set]);
    const measures = [...new Set(first.flatMap(table => Object.keys(table)))].filter(name => !setting.includes(name) && name != "right" && first.some(table => isNumber(table[name])));
    return element("div", { class: "panel scroll", style: "margin: 0" }, element("table", {}, element("thead", {}, element("tr", {}, element("th", {}, set), here.map(run => element("th", {}, names.get(run))))),
      element("tbody", {}, measures.map(name => element("tr", {}, element("th", {}, name.replaceAll("_", " ")), first.map(table =>
        element("td", {}, shown(table[name]), element("small", {}, interval(table[name + "_interval"])))))),
      setting.map(name => element("tr", { class: "off" }, element("th", {}, name.replaceAll("_", " ")), first.map(table => element("td", {}, shown(table[name]))))))));
  });
  section("evaluation", "Evaluation", sets.length ? [] : element("p", { class: "muted" }, "No evaluation yet. python eval.py with the run directory writes its tables."),
    sets.length && runs.length > 1 ? element("div", { class: "legend" }, runs.map((run, i) => element("span", {}, swatch(i), names.get(run)))) : [],
    element("div", { class: "grid" }, ranged.map(whiskers)), sets.length ? element("h3", {}, "Every measure") : [], element("div", { class: "grid" }, tables));
}

// Finding a phrase in a text: by words, whatever their case, plural and order, close together within one sentence.
const SMALL = new Set("a an the of to in on at by for from with and or is are was were has have had his her their this that patient".split(" "));
const INFERS = /suggest|support|indicat|point|consistent|because|due|explain|argu|likely|therefore|thus|hence|since|favou?r|fit|match|confirm|impl|characteristic|diagnos|exclud|rule/i;
const REJECTS = /unlikely|less|rule|not|exclud|incorrect|wrong|against|inconsistent|reject|cannot|eliminat|improbable|inappropriate|contraindicat/i;
function plain(word) {
  if (/^\d/.test(word)) return word.replace(/,/g, "").replace(/\.(\d*?)0+$/, ".$1").replace(/\.$/, "");
  word = word.toLowerCase();
  return word.length > 3 ? word.replace(/([^sui])s$/, "$1") : word;
}
function wordsOf(text) {
  let sentence = 0, before = 0;
  return Array.from(text.matchAll(/[\p{L}\p{N}]+(?:[.,/]\p{N}+)*/gu), match => {
    if (/[.!?;](\s|$)|[\n<>]/.test(text.slice(before, match.index))) sentence++;
    before = match.index + match[0].length;
    return { word: plain(match[0]), start: match.index, end: before, sentence };
  });
}
// -> [start, end] of the best places: in sentences with a word of `cue` if there are any; `share` of the words at least
function locate(text, words, phrase, share, cue) {
  const spoken = wordsOf(phrase).map(token => token.word), wanted = new Set(spoken.filter(word => !SMALL.has(word)));
  if (!wanted.size) spoken.forEach(word => wanted.add(word));
  const best = new Map(), hits = words.map((token, order) => ({ ...token, order })).filter(token => wanted.has(token.word));
  hits.forEach((first, i) => {
    const seen = new Set();
    for (let j = i; j < hits.length && hits[j].sentence == first.sentence && hits[j].order - first.order <= wanted.size + 4; j++) {
      seen.add(hits[j].word);
      const known = best.get(first.sentence), size = hits[j].end - first.start;
      if (!known || seen.size > known.count || seen.size == known.count && size < known.end - known.start)
        best.set(first.sentence, { count: seen.size, start: first.start, end: hits[j].end });
    }
  });
  const found = [...best.values()].filter(span => span.count >= Math.max(1, share * wanted.size));
  const most = Math.max(...found.map(span => span.count));
  const full = found.filter(span => span.count == most);
  const cued = full.filter(span => cue && cue.test(text.slice(Math.max(0, span.start - 120), span.end + 120).split(/[.!?;]\s|\n/).find(part => part.includes(text.slice(span.start, span.end))) || ""));
  return (cued.length ? cued : full).map(span => [span.start, span.end]);
}
// Marks of a response: what the verifiers found (the run's samples.jsonl says it), looked up in the text.
function marksOf(rollout, group, k) {
  const text = rollout.response, words = wordsOf(text), marks = [];
  const add = (spans, make) => spans.forEach(([start, end], i) => {
    if (end > start && !marks.some(mark => start < mark.end && mark.start < end)) marks.push({ start, end, make: inside => make(inside, i) });
  });
  const chosen = rollout.chosen, state = verdict(rollout);
  add(Array.from(text.matchAll(/\\boxed\s*\{(?:[^{}]|\{[^{}]*\})*\}/g), match => [match.index, match.index + match[0].length]),
    inside => element("span", { class: "box " + (rollout.scores.accuracy === 1 ? "right" : "wrong") }, inside, " " + state));
  for (const phrase of rollout.unsupported) add(locate(text, words, phrase, 0.6, INFERS), inside => element("span", { class: "unsupported", title: "not in the case: " + phrase }, inside, element("sup", {}, "?")));
  for (const letter of Object.keys(rollout.rejected)) {
    const named = Array.from(text.matchAll(/\b(?:option )?([A-Z])\)|\boption ([A-Z])\b/gi), match => (match[1] || match[2]).toUpperCase() == letter ? [match.index, match.index + match[0].length] : [0, 0]);
    add([...locate(text, words, group.options[letter] || letter, 1, REJECTS), ...named], inside => element("span", { title: "rejected: option " + letter }, element("span", { class: "rejected" }, inside), element("sup", {}, "✗" + letter)));
  }
  rollout.cited.forEach((phrase, n) => add(locate(text, words, phrase, 0.5, INFERS),
    (inside, i) => element("a", { class: "cited", href: "#case-" + (n + 1), id: i ? "" : `said-${k}-${n + 1}`, title: "cited: " + phrase }, inside, element("sup", {}, String(n + 1)))));
  return marks.sort((a, b) => a.start - b.start);
}
function marked(text, marks, from = 0, to = text.length) {
  const nodes = [];
  for (const mark of marks.filter(mark => mark.start >= from && mark.end <= to)) {
    nodes.push(text.slice(from, mark.start), mark.make(text.slice(mark.start, mark.end)));
    from = mark.end;
  }
  return [...nodes, text.slice(from, to)];
}
function verdict(rollout) {
  const letter = isNumber(rollout.chosen) || rollout.chosen == null ? "" : " " + rollout.chosen;
  return rollout.scores.accuracy === 1 ? "✓ right" + letter : letter ? "✗ wrong" + letter : "✗ no readable answer";
}
// The response cut at its tags: [{ title, from, to }], and what of the form is amiss
function partsOf(text) {
  const tags = /<think>|<answer>/.test(text) && !/<dx>/.test(text) ? ["<think>", "</think>", "<answer>", "</answer>"]
    : ["<dx>", "System 1:", "System 2:", "</dx>", "<conclusion>", "</conclusion>"];
  const titles = { "<dx>": "dx, before System 1", "<conclusion>": "Conclusion", "<think>": "Thinking", "<answer>": "Answer", "System 1:": "System 1 (intuitive)", "System 2:": "System 2 (analytical)" };
  const parts = [], amiss = [];
  let from = 0, title = "Outside the tags";
  const close = to => { if (text.slice(from, to).trim()) parts.push({ title, from, to }); };
  for (const match of text.matchAll(/<\/?(?:dx|conclusion|think|answer)>|System [12]:/g)) {
    close(match.index);
    title = titles[match[0]] || "Outside the tags";
    from = match.index + match[0].length;
  }
  close(text.length);
  for (const tag of tags) {
    const count = text.split(tag).length - 1;
    if (count != 1) amiss.push(count ? `${tag} ${count} times` : `${tag} is missing`);
  }
  if (parts.some(part => part.title == "Outside the tags")) amiss.push("text outside the tags");
  return [parts, amiss];
}

// The reader
const FIRST = { run: 0, step: 0, question: 0, rollout: 0, order: "by step" }, at = { ...FIRST }, folded = new Set();
const reader = element("div", {});
const orders = {
  "by step": step => step[0].step,
  "lowest reward first": step => mean(step.flatMap(group => group.rollouts.map(rollout => rollout.reward)).filter(isNumber)) ?? Infinity,
  "wrong answers pushed up first": step => -Math.max(...step.flatMap(group => group.rollouts.filter(rollout => rollout.scores.accuracy === 0 && isNumber(rollout.advantage)).map(rollout => rollout.advantage))),
  "most unsupported findings first": step => -Math.max(...step.flatMap(group => group.rollouts.map(rollout => rollout.unsupported.length))),
};
const ordered = () => at.order == "by step" ? runs[at.run].steps : runs[at.run].steps.toSorted((a, b) => orders[at.order](a) - orders[at.order](b));
function openStep(step, run = runs[at.run].steps.length ? runs[at.run] : runs.find(run => run.steps.length)) {
  if (!run || !run.steps.length) return;
  Object.assign(at, { run: runs.indexOf(run), order: "by step", question: 0, rollout: 0,
    step: run.steps.reduce((best, group, i) => Math.abs(group[0].step - step) < Math.abs(run.steps[best][0].step - step) ? i : best, 0) });
  show();
  document.getElementById("reader").scrollIntoView();
}
function move(by) {
  const steps = ordered();
  if (steps[at.step][at.question + by]) at.question += by;
  else if (steps[at.step + by]) { at.step += by; at.question = by < 0 ? steps[at.step].length - 1 : 0; }
  else return;
  at.rollout = 0;
  show();
}
function choice(label, items, selected, change) {
  return element("select", { "aria-label": label, change: event => { change(event.target.selectedIndex); show(); } },
    items.map((item, i) => element("option", i == selected ? { selected: "" } : {}, item)));
}
function current() {
  const steps = ordered(), step = steps[at.step] || [], group = step[at.question];
  const rollouts = group ? group.rollouts.toSorted((a, b) => b.reward - a.reward || a.rollout - b.rollout) : [];
  return { steps, step, group, rollouts };
}
function show() {
  const { steps, step, group, rollouts } = current(), run = runs[at.run];
  const focused = reader.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
  const whose = runs.length > 1 ? choice("run", [...names.values()], at.run, i => Object.assign(at, FIRST, { run: i })) : [];
  if (!group) {
    reader.replaceChildren(element("div", { class: "bar" }, whose), element("p", { class: "muted" }, "No rollouts of this run to read yet."));
    return;
  }
  const titles = Object.keys(orders), rewards = step => step.flatMap(group => group.rollouts.map(rollout => rollout.reward)).filter(isNumber);
  const bar = element("div", { class: "bar" }, whose,
    choice("order of the steps", titles, titles.indexOf(at.order), i => Object.assign(at, FIRST, { run: at.run, order: titles[i] })),
    element("button", { click: () => move(-1), "aria-label": "previous question" }, "◀"),
    choice("step", steps.map(step => `step ${shown(step[0].step)}: mean reward ${shown(mean(rewards(step)), 2)}`), at.step,
      i => Object.assign(at, { step: i, question: 0, rollout: 0 })),
    choice("question", step.map(group => group.question), at.question, i => Object.assign(at, { question: i, rollout: 0 })),
    element("button", { click: () => move(1), "aria-label": "next question" }, "▶"),
    element("span", { class: "muted keys" }, "keys: ", element("kbd", {}, "←"), " ", element("kbd", {}, "→"), " rollout, ",
      element("kbd", {}, "↑"), " ", element("kbd", {}, "↓"), " question"));
  const refused = run.metrics.refused && run.metrics.refused[run.metrics.step.indexOf(group.step)];
  const cards = element("div", { class: "cards", tabindex: 0, "aria-label": "rollouts" }, rollouts.map((rollout, k) => cardOf(rollout, group, k)));
  reader.replaceChildren(bar, refused ? element("p", { class: "wrong" }, "The KL was too far over its target: this step's rewards were refused, every advantage is 0.") : [],
    matrixOf(group, rollouts), element("div", { class: "read" }, element("div", { class: "panel case" }), cards));
  select(at.rollout, "instant");
  const again = [...reader.querySelectorAll("[aria-label]")].find(control => control.getAttribute("aria-label") == focused);
  if (again) again.focus({ preventScroll: true });
}
function select(k, behavior = "smooth") {
  const { group, rollouts } = current(), cards = reader.querySelector(".cards");
  if (!rollouts[k]) return;
  at.rollout = k;
  for (const cell of reader.querySelectorAll("[data-k]")) cell.classList.toggle("on", cell.dataset.k == k);
  reader.querySelector(".case").replaceChildren(...caseOf(group, rollouts, k));
  cards.scrollTo({ left: cards.children[k].offsetLeft, behavior });
}
function matrixOf(group, rollouts) {
  const scored = Object.keys(rollouts[0].scores), tied = name => rollouts.every(rollout => !rollout.parts[name]);
  const row = (title, note, cell, kind = "") => element("tr", { class: kind }, element("th", {}, title, element("small", {}, note)),
    rollouts.map((rollout, k) => element("td", { "data-k": k, click: () => select(k) }, cell(rollout))));
  const arrow = value => !value ? "" : value > 0 ? "up" : "down";
  const against = rollout => rollout.advantage > 0 && rollout.scores.accuracy === 0 ? "wrong, yet pushed up"
    : rollout.advantage < 0 && rollout.scores.accuracy === 1 ? "right, yet pushed down" : "";
  return element("div", { class: "panel scroll" }, element("table", { class: "matrix" },
    element("thead", {}, element("tr", {}, element("th", {}, "by reward"), rollouts.map((rollout, k) => element("th", { "data-k": k, click: () => select(k) }, "rollout " + shown(rollout.rollout))))),
    element("tbody", {}, row("answer", "", rollout => element("span", { class: rollout.scores.accuracy === 1 ? "right" : "wrong" }, verdict(rollout))),
      row("reward", "sum of weight × score", rollout => element("b", {}, shown(rollout.reward, 2))),
      row("advantage", "sum of the parts below", rollout => [element("span", { class: arrow(rollout.advantage) }, { up: "▲ ", down: "▼ " }[arrow(rollout.advantage)] || "", signed(rollout.advantage)),
        element("small", {}, against(rollout))]),
      scored.map(name => row(name, group.weights[name] ? `weight ${shown(group.weights[name], 1)}` + (tied(name) ? ", a tie here" : "") : "not rewarded", rollout => [shown(rollout.scores[name], 2),
        element("small", {}, group.weights[name] && rollout.parts[name] ? signed(rollout.parts[name]) : "")], group.weights[name] ? "" : "off")),
      row("tokens", "", rollout => [shown(rollout.tokens), element("small", {}, rollout.finished ? "" : "cut")]),
      row("findings", "cited / unsupported", rollout => rollout.marked ? `${rollout.cited.length} / ${rollout.unsupported.length}` : "–"),
      row("rejected", "with a valid reason", rollout => Object.keys(rollout.rejected).join(" ") || "–"))));
}
function caseOf(group, rollouts, k) {
  const rollout = rollouts[k], marks = [], words = wordsOf(group.stem);
  rollout.cited.forEach((phrase, n) => {
    for (const [start, end] of locate(group.stem, words, phrase, 0.6).slice(0, 1)) if (!marks.some(mark => start < mark.end && mark.start < end))
      marks.push({ start, end, make: inside => element("a", { class: "cited", id: "case-" + (n + 1), href: `#said-${k}-${n + 1}` }, inside, element("sup", {}, String(n + 1))) });
  });
  return [element("h3", {}, "The case"), element("p", { class: "text" }, marked(group.stem, marks.sort((a, b) => a.start - b.start))),
    element("ul", { class: "options" }, Object.entries(group.options).map(([letter, text]) => {
      const votes = rollouts.filter(rollout => rollout.chosen === letter).length, notes = [];
      if (votes) notes.push(`answer of ${votes} of ${rollouts.length}`);
      if (letter in rollout.rejected) notes.push("✗ rejected" + (letter == group.answer ? ", though it is the key" : letter == rollout.chosen ? ", though it is the answer" : ""));
      return element("li", { class: letter == group.answer ? "right" : "" }, `${letter}) ${text}`, letter == group.answer ? " ✓ key" : "", element("small", {}, notes.length ? "  " + notes.join("; ") : ""));
    })),
    element("p", {}, element("small", {}, `Marks are those of rollout ${shown(rollout.rollout)}: underlined with a number, a cited finding (follow it to its place in the text); wavy with ?, `
      + "not in the case; struck with ✗, a rejected option. Places are looked up by words and may be off; the lists under each text are the verifiers' own."))];
}
function cardOf(rollout, group, k) {
  const text = rollout.response, marks = marksOf(rollout, group, k), [parts, amiss] = partsOf(text);
  const list = (title, items) => items.length ? element("p", {}, element("b", {}, `${title}: `), items.join("; ")) : [];
  return element("article", { class: "panel card", "data-k": k, click: () => k != at.rollout && select(k) },
    element("h3", {}, `rollout ${shown(rollout.rollout)} · reward ${shown(rollout.reward, 2)} · advantage ${signed(rollout.advantage)}`),
    element("p", {}, element("span", { class: rollout.scores.accuracy === 1 ? "right" : "wrong" }, verdict(rollout)), rollout.finished ? "" : ` · cut at ${shown(rollout.tokens)} tokens`),
    amiss.length ? element("p", { class: "muted" }, "form: " + amiss.join("; ")) : [],
    parts.length ? parts.map(({ title, from, to }) => element("details", { ...(folded.has(title) ? {} : { open: "" }), toggle: event => fold(title, event.target.open) },
      element("summary", {}, title), element("div", { class: "text" }, marked(text, marks, from, to)))) : element("p", { class: "muted" }, "The response is empty."),
    rollout.marked ? element("div", { class: "evidence" }, list("Cited", rollout.cited.map((phrase, n) => `${n + 1} ${phrase}`)),
      list("Not in the case", rollout.unsupported), list("Rejected", Object.entries(rollout.rejected).map(([letter, reason]) => `${letter} for ${reason.join(", ")}`)),
      rollout.cited.length + rollout.unsupported.length + Object.keys(rollout.rejected).length ? [] : element("p", { class: "muted" }, "No finding cited, no option rejected.")) : []);
}
function fold(title, open) {
  if (open == !folded.has(title)) return;
  folded[open ? "delete" : "add"](title);
  for (const part of reader.querySelectorAll("details")) if (part.firstChild.textContent == title) part.open = open;
}
addEventListener("keydown", event => {
  const place = reader.getBoundingClientRect(), cards = reader.querySelector(".cards");
  if (event.target.matches("select") || event.ctrlKey || event.altKey || event.metaKey || !cards || place.top > innerHeight || place.bottom < 0) return;
  const along = { ArrowLeft: -1, ArrowRight: 1 }[event.key], across = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (along) {
    select(at.rollout + along);
    cards.focus({ preventScroll: true });
  } else if (across && reader.contains(document.activeElement)) move(across);
  else return;
  event.preventDefault();
});

headline();
curves();
steering();
evaluation();
section("reader", "Rollouts", element("p", { class: "muted" }, "Every number of a group, and what the rules read in each text. Under a score: its part in the advantage."), reader);
show();
</script>
</html>
"""


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
