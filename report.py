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
        "advantage", "weights", "parts", "chosen", "cited", "rejected", "unsupported", "nonfinite")  # a row's fields but its scores
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
            notes.append(f"metrics.jsonl: {name} is no finite number at {len(wrong)} of {len(rows)} steps, "
                         f"first at {wrong[0]:g}")
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
            "step": row["step"], "question": question, "stem": str(row.get("stem", "")),
            "answer": str(row.get("answer")),
            "options": {letter: str(text) for letter, text in mapping(row.get("options")).items()},
            "weights": mapping(row.get("weights")), "rollouts": []})
        group["rollouts"].append({
            "rollout": row.get("rollout"), "response": str(row.get("response", "")), "tokens": row.get("tokens"),
            "finished": row.get("finished") is not False, "reward": row.get("reward"),
            "advantage": row.get("advantage"),
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
    return {"path": str(path), "name": path.resolve().name, "config": {k: config[k] for k in SETTINGS if k in config},
            "metrics": metrics, "evals": evals, "steps": steps, "notes": notes,
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
    names = [run["name"] for run in runs]
    for run in runs:
        if names.count(run["name"]) > 1:
            run["name"] = run["path"]
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
    sys.stdout.reconfigure(errors="backslashreplace")  # names may hold what the terminal cannot show
    out = Path(runs[0]["path"]) / "report.html"
    text = page(runs)
    temporary = out.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")  # a reader never sees half a page
    os.replace(temporary, out)
    for run in runs:
        for note in run["notes"]:
            print(f"{run['path']}: {note}")
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
  --accent: #1f5fb4; --good: #11703c; --bad: #b3261e; --cited: #e3edfb; --warn: #fbeed2;
  --c0: #1f5fb4; --c1: #c2410c; --c2: #0f766e; --c3: #8b2fa3; --c4: #806200; --c5: #b8235a; }
@media (prefers-color-scheme: dark) { :root { --page: #13161a; --panel: #1b1f25; --ink: #e3e7ec; --muted: #9ba5b1;
  --line: #343b44; --accent: #7fb2ff; --good: #6fd49a; --bad: #ff8f85; --cited: #22344f; --warn: #443714;
  --c0: #7fb2ff; --c1: #fb9a5b; --c2: #52cfbd; --c3: #d59bea; --c4: #d9bd55; --c5: #f788ab; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 20px 16px 64px; overflow-wrap: anywhere; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 19px; margin: 40px 0 4px; } h3 { font-size: 15px; margin: 0 0 4px; }
p { margin: 4px 0; } small { font-size: 12px; } .muted, figcaption span, small { color: var(--muted); }
figure, .panel { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
figure, .panel { margin: 12px 0; } .scroll { overflow-x: auto; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 350px), 1fr)); gap: 12px; }
.grid > *, .pair > *, .read > *, .card { margin: 0; } .pair, .read { display: grid; gap: 12px; margin: 12px 0; }
.pair, .read { grid-template-columns: minmax(0, 1fr); }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px 14px; }
.tiles div { border-left: 2px solid var(--line); padding-left: 10px; font-size: 13px; }
.tiles b { display: block; font-size: 16px; } .notes { margin: 8px 0 0; padding-left: 20px; font-size: 14px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 8px 0; }
.swatch { vertical-align: middle; margin-right: 6px; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 12px; }
figcaption span { font-size: 13px; font-variant-numeric: tabular-nums; }
figure svg { display: block; width: 100%; height: auto; touch-action: pan-y; }
svg text { font: 11px system-ui, sans-serif; fill: var(--muted); }
.axis { stroke: var(--line); } .cross { stroke: var(--muted); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
td, th { vertical-align: top; } thead th { vertical-align: bottom; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--panel); }
th small, td small, li small { display: block; font-weight: 400; }
.off, .off th { color: var(--muted); font-weight: 400; }
.bar { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin: 12px 0; }
button, select { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--line);
  border-radius: 6px; padding: 5px 8px; min-height: 36px; max-width: 100%; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
kbd { font: 12px ui-monospace, monospace; border: 1px solid var(--line); border-radius: 4px; padding: 1px 5px; }
table [data-k] { cursor: pointer; } td.on, th.on { background: var(--cited); }
th.on { box-shadow: inset 0 3px var(--accent); }
.up, .right { color: var(--good); font-weight: 600; } .down, .wrong { color: var(--bad); font-weight: 600; }
.cards { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(min(400px, 90%), 1fr); gap: 12px;
  padding: 2px; align-items: start; overflow-x: auto; scroll-snap-type: x proximity; position: relative; }
.card { scroll-snap-align: start; min-width: 0; }
.card.on { border-color: var(--accent); box-shadow: inset 0 3px var(--accent); }
.text { white-space: pre-wrap; max-height: 200vh; overflow-y: auto; }
summary { cursor: pointer; font-weight: 600; font-size: 14px; margin-top: 8px; }
ul.options { list-style: none; padding: 0; margin: 10px 0; } .options li { padding: 2px 0; }
.evidence { font-size: 14px; border-top: 1px solid var(--line); margin-top: 10px; padding-top: 8px; }
.cited { background: var(--cited); color: inherit; text-underline-offset: 3px; scroll-margin: 120px; }
.cited:target { outline: 2px solid var(--accent); }
sup { line-height: 0; font-size: 11px; font-weight: 600; padding-left: 1px; }
.unsupported { background: var(--warn); text-decoration: underline wavy var(--bad); text-underline-offset: 3px; }
.rejected { text-decoration: line-through; } .box { border: 1px solid; border-radius: 4px; padding: 0 4px; }
@media (min-width: 900px) { .pair { grid-template-columns: 390px minmax(0, 1fr); }
  .read { grid-template-columns: 320px minmax(0, 1fr); align-items: start; }
  .case { position: sticky; top: 12px; max-height: calc(100vh - 24px); overflow-y: auto; } }
@media (max-width: 600px) { th, td { padding: 4px 7px; } .keys { display: none; } }
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
  node.append(...children.flat(2));
  return node;
}
const html = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const muted = text => html("p", { class: "muted" }, text);
const section = (id, title, ...children) => main.append(html("section", { id }, html("h2", {}, title), ...children));
const table = (head, rows) => html("div", { class: "panel scroll" }, html("table", {},
  html("thead", {}, html("tr", {}, head)), html("tbody", {}, rows)));

const isNumber = value => typeof value == "number";
const mean = values => values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
const percent = value => isNumber(value) ? Math.round(100 * value) + "%" : "–";
function shown(value, digits) {
  if (!isNumber(value)) return value == null ? "–" : String(value);
  if (digits == null && Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size && size < 0.0005) return value.toExponential(1);
  return value.toFixed(digits ?? (size >= 1000 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3));
}
const sign = value => value > 0 ? "+" : value < 0 ? "−" : "";
const signed = value => isNumber(value) ? sign(value) + Math.abs(value).toFixed(2) : shown(value);
const interval = pair => Array.isArray(pair) && pair.length == 2 && pair.every(isNumber)
  ? `[${shown(pair[0], 3)}, ${shown(pair[1], 3)}]` : "";

const column = (run, name) => run.metrics[name] || [];
const numbers = (run, name) => column(run, name).filter(isNumber);
const early = (run, name, share) => numbers(run, name).slice(0, Math.ceil(column(run, name).length * share));
const late = (run, name, share) => numbers(run, name).slice(-Math.ceil(column(run, name).length * share));
const objectives = run => Object.keys(run.metrics).filter(name => name.endsWith("_steers"))
  .map(name => name.slice(0, -"_steers".length));

// --- charts: a line has a colour and a dash pattern, a dot a colour and a shape ---

const colour = i => `var(--c${i % 6})`;
const dash = i => ["none", "7 3", "2 3", "9 3 2 3", "4 4", "12 4"][i % 6];
const line = (x1, y1, x2, y2, more) => svg("line", { x1, y1, x2, y2, ...more });
const label = (x, y, anchor, text, more) => svg("text", { x, y, "text-anchor": anchor, ...more }, String(text));
function dot(i, x, y) {
  const corners = ["", "-4,-4 4,-4 4,4 -4,4", "0,-5 5,4 -5,4", "0,-6 6,0 0,6 -6,0"][i % 4];
  const place = { fill: colour(i), transform: `translate(${x} ${y})` };
  return corners ? svg("polygon", { ...place, points: corners }) : svg("circle", { ...place, r: 4.5 });
}
const swatch = i => svg("svg", { class: "swatch", width: 34, height: 14 },
  line(0, 7, 34, 7, { stroke: colour(i), "stroke-width": 2, "stroke-dasharray": dash(i) }), dot(i, 17, 7));
const legend = () => runs.length < 2 ? [] : html("div", { class: "legend" },
  runs.map((run, i) => html("span", {}, swatch(i), run.name)));

function smooth(values) {
  const reach = Math.floor(values.length / 24);
  const around = i => mean(values.slice(Math.max(0, i - reach), i + reach + 1).filter(isNumber));
  return values.map((value, i) => isNumber(value) ? around(i) : null);
}
function ticks(low, high) {
  const rough = (high - low) / 4 || 1, unit = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map(k => k * unit).find(step => step >= rough);
  const first = Math.ceil(low / size - 1e-6), count = Math.floor(high / size + 1e-6) - first + 1;
  return Array.from({ length: count }, (_, i) => +((first + i) * size).toPrecision(12));
}
// A missing value interrupts the line; h.01 makes a value without neighbours a dot.
const curve = (xs, ys) => xs.map((x, i) => !isNumber(ys[i]) ? "" :
  `${isNumber(ys[i - 1]) ? "L" : "M"}${x.toFixed(1)} ${ys[i].toFixed(1)}${isNumber(ys[i - 1]) ? "" : "h.01"}`).join("");

// lines: [{ name, style, x, y }]. Faint each value, strong the moving mean. A click opens the step in the reader.
function lineChart(title, lines, { target, run } = {}) {
  lines = lines.filter(one => one.y.some(isNumber)).map(one => ({ ...one, mean: smooth(one.y) }));
  if (!lines.length) return [];
  const named = run && lines.length > 1;  // the lines of one run are named at their ends
  const width = 380, left = 46, right = width - (named ? 92 : 12), top = 10, bottom = 168;
  const steps = lines.flatMap(one => one.x), values = lines.flatMap(one => one.y).filter(isNumber).concat(target || []);
  const first = Math.min(...steps), last = Math.max(...steps), least = Math.min(...values), most = Math.max(...values);
  const margin = (most - least || Math.abs(most) || 1) * 0.06;
  const low = least >= 0 && least <= 0.3 * most ? 0 : least - margin, high = most + margin;
  const atX = step => left + (right - left) * (step - first) / (last - first || 1);
  const atY = value => isNumber(value) ? bottom - (bottom - top) * (value - low) / (high - low) : null;
  const cross = line(-9, top, -9, bottom, { class: "cross" }), readout = html("span", {});
  const chart = svg("svg", { viewBox: `0 0 ${width} 190`, role: "img", "aria-label": title },
    ticks(low, high).map(value => [line(left, atY(value), right, atY(value), { class: "axis" }),
      label(left - 6, atY(value) + 4, "end", value)]),
    ticks(first, last).filter(Number.isInteger).map(step => label(atX(step), 184, "middle", step)),
    target ? [line(left, atY(target), right, atY(target), { class: "cross", "stroke-dasharray": "1 3" }),
      label(left + 4, atY(target) - 4, "start", "target " + target)] : [],
    lines.map(one => {
      const x = one.x.map(atX), look = { fill: "none", stroke: colour(one.style), "stroke-linecap": "round" };
      return [svg("path", { ...look, d: curve(x, one.y.map(atY)), opacity: 0.28 }), svg("path", { ...look,
        d: curve(x, one.mean.map(atY)), "stroke-width": 2, "stroke-dasharray": dash(one.style) })];
    }), cross);
  const ends = lines.map(one => ({ ...one, at: atY(one.mean.findLast(isNumber)) })).sort((a, b) => b.at - a.at);
  let below = bottom + 13;
  for (const one of named ? ends : []) {
    below = Math.min(one.at, below - 13);
    chart.append(label(right + 6, below + 4, "start", one.name, { style: `fill: ${colour(one.style)}` }));
  }
  const read = step => {
    const parts = lines.map(one => (lines.length > 1 ? one.name + " " : "")
      + shown(step == null ? one.mean.findLast(isNumber) : one.y[one.x.indexOf(step)]));
    readout.replaceChildren((step == null ? "end: " : `step ${shown(step)}: `) + parts.join(" · "));
  };
  const point = (x, step) => { cross.setAttribute("x1", x); cross.setAttribute("x2", x); read(step); };
  const nearest = event => {
    const box = chart.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * width;
    return steps.reduce((best, step) => Math.abs(atX(step) - x) < Math.abs(atX(best) - x) ? step : best);
  };
  chart.addEventListener("pointermove", event => { const step = nearest(event); point(atX(step), step); });
  chart.addEventListener("pointerleave", () => named ? (point(-9), readout.replaceChildren()) : point(-9));
  chart.addEventListener("click", event => openStep(nearest(event), run));
  if (!named) read();
  return html("figure", {}, html("figcaption", {}, html("b", {}, title), readout), chart);
}

// --- the sections above the reader ---

function headline() {
  main.append(html("h1", {}, "CRPO report"),
    muted(`Written ${made}. An arrow leads from the mean of a run's first tenth of steps to that of its last.`));
  const small = text => html("span", { class: "muted" }, text);
  const tile = (title, value, note = "") => html("div", {}, small(title), html("b", {}, value), small(note));
  runs.forEach((run, i) => {
    const { steps: total, target_kl } = run.config, step = numbers(run, "step").at(-1) || 0;
    const change = name => shown(mean(early(run, name, 0.1))) + " → " + shown(mean(late(run, name, 0.1)));
    const steers = objectives(run).map(name => [mean(late(run, name + "_steers", 0.1)), name])
      .sort((a, b) => b[0] - a[0]).slice(0, 2).map(([share, name]) => `${name} ${percent(share)}`);
    const refused = column(run, "refused").filter(Boolean).length;
    const tiles = !step ? [] : [
      tile("steps", shown(step) + (total ? ` of ${shown(total)}` : ""),
        run.finished ? "finished" : "still going, or stopped"),
      tile("reward", change("reward")), tile("accuracy in training", change("accuracy")),
      tile("KL to the start model", change("kl"), (target_kl ? `target ${target_kl}` : "no target")
        + (refused ? `; steps with rewards refused: ${refused}` : "")),
      tile("tokens a rollout", change("length"), `at the end ${percent(mean(late(run, "cut", 0.1)))} cut`),
      tile("steered at the end by", steers.join(", ") || "–")];
    for (const [set, result] of Object.entries(run.evals)) if (isNumber(result.accuracy))
      tiles.push(tile(`accuracy, ${set}`, shown(result.accuracy, 3), interval(result.accuracy_interval)));
    const settings = Object.entries(run.config).map(([name, value]) =>
      `${name} ${[value].flat().join(" ") || "(default)"}`);
    main.append(html("div", { class: "panel" }, html("h3", {}, swatch(i), run.name),
      html("div", { class: "tiles" }, tiles),
      html("ul", { class: "notes muted" }, run.notes.map(note => html("li", {}, note))),
      html("details", {}, html("summary", {}, "Settings"), muted(settings.join(" · ") || "no run.json"))));
  });
}

function curves() {
  const lines = (run, columns) => columns.map(([name, key], i) => (
    { name, style: i, x: column(run, "step"), y: column(run, key) }));
  const overlaid = (title, name, options) => lineChart(title,
    runs.map((run, i) => ({ ...lines(run, [[run.name, name]])[0], style: i })), options);
  const measured = [...new Set(runs.flatMap(objectives))]
    .filter(name => runs.some(run => numbers(run, name).some(Boolean)));
  const targets = new Set(runs.map(run => run.config.target_kl).filter(isNumber));
  const phases = ["sample", "score", "reference", "update"].map(phase => [phase, "seconds_" + phase]);
  const figures = [overlaid("reward", "reward"), measured.map(name => overlaid(name, name)),
    overlaid("KL to the start model", "kl", { target: targets.size == 1 ? [...targets][0] : 0 }),
    overlaid("entropy", "entropy"), overlaid("tokens a rollout", "length"), overlaid("share of rollouts cut", "cut"),
    overlaid("gradient norm", "grad_norm"), overlaid("seconds a step", "seconds"), runs.map(run =>
      lineChart("seconds by phase" + (runs.length > 1 ? ", " + run.name : ""), lines(run, phases), { run }))].flat(2);
  section("curves", "Learning curves", muted(figures.length ? "Means over all rollouts of a step. Strong: moving mean; "
    + "faint: each step. Click a step to read its rollouts." : "No steps logged yet."), legend(),
    html("div", { class: "grid" }, figures));
}

function steering() {
  const panels = runs.filter(run => objectives(run).length).map(run => {
    const all = objectives(run), weights = run.steps.length ? run.steps.at(-1)[0].weights : {};
    const sum = Object.values(weights).reduce((sum, weight) => sum + weight, 0);
    const active = all.filter(name => numbers(run, name + "_steers").some(Boolean));
    const third = (when, name) => mean(when(run, name, 1 / 3));
    const head = ["objective", "weight", "steers: first third", "last third", "spread", "ties"];
    const row = name => html("tr", { class: active.includes(name) ? "" : "off" }, html("th", {}, name), [
      weights[name] ? `${weights[name]} (${percent(weights[name] / sum)})` : "–",
      percent(third(early, name + "_steers")), percent(third(late, name + "_steers")),
      shown(third(late, name + "_spread")), percent(third(late, name + "_tie"))].map(value => html("td", {}, value)));
    return html("div", { class: "pair" },
      lineChart(runs.length > 1 ? run.name : "share of the variance", active.map(name => (
        { name, style: all.indexOf(name), x: column(run, "step"), y: column(run, name + "_steers") })), { run }),
      table(head.map(title => html("th", {}, title)), all.map(row)));
  });
  section("steers", "Who steers", muted(panels.length ? "Each objective's share of the variance of the advantage: what "
    + "trains the policy in fact, whatever the weights say; below 0 it pulls against the others. Spread: standard "
    + "deviation within a group; ties: groups whose rollouts all score the same (both: last third)."
    : "No steps logged yet."), panels);
}

function whiskers(name, results) {
  const width = 380, left = 12, right = width - 12;
  const high = Math.max(1, ...results.map(one => one.result[name + "_interval"][1]));
  const atX = value => left + (right - left) * value / high, marks = [];
  let y = 0, before;
  for (const { run, set, result } of results) {
    if (set != before) marks.push(label(left, y += 22, "start", set, { style: "font-weight: 600" }));
    const [from, to] = result[name + "_interval"], i = runs.indexOf(run), full = atX(to) > right - 50;
    marks.push(line(atX(from), y += 18, atX(to), y, { stroke: colour(i), "stroke-width": 2 }),
      dot(i, atX(result[name]), y),
      label(full ? atX(from) - 8 : atX(to) + 8, y + 4, full ? "end" : "start", shown(result[name], 3)));
    before = set;
  }
  const axis = ticks(0, high).map(value =>
    [line(atX(value), 4, atX(value), y + 14, { class: "axis" }), label(atX(value), y + 30, "middle", value)]);
  return html("figure", {}, html("figcaption", {}, html("b", {}, name), html("span", {}, "dot and 95% interval")),
    svg("svg", { viewBox: `0 0 ${width} ${y + 34}`, role: "img", "aria-label": name }, axis, marks));
}
function evaluation() {
  const sets = [...new Set(runs.flatMap(run => Object.keys(run.evals)))];
  const results = sets.flatMap(set => runs.filter(run => run.evals[set])
    .map(run => ({ run, set, result: run.evals[set] })));
  const names = [...new Set(results.flatMap(one => Object.keys(one.result)))].filter(name => name != "right");
  const ranged = (name, one) => isNumber(one.result[name]) && interval(one.result[name + "_interval"]);
  const figures = names.filter(name => results.some(one => ranged(name, one))).map(name =>
    whiskers(name, results.filter(one => ranged(name, one))));
  const rows = names.filter(name => !name.endsWith("_interval")).map(name => html("tr", {},
    html("th", {}, name.replaceAll("_", " ")), results.map(({ result }) =>
      html("td", {}, shown(result[name]), html("small", {}, interval(result[name + "_interval"]))))));
  const head = results.map(({ run, set }) => html("th", {}, set, html("small", {}, runs.length > 1 ? run.name : "")));
  section("evaluation", "Evaluation", sets.length ? [legend(), html("div", { class: "grid" }, figures),
    table([html("th", {}, "measure"), ...head], rows)] : muted("No evaluation yet: eval.py writes its tables."));
}

// --- finding a phrase in a text: by words, whatever their case, plural and order, close together in one sentence ---

const SMALL = new Set(("a an the of to in on at by for from with and or is are was were has have had his her their "
  + "this that patient").split(" "));
const INFERS = new RegExp("suggest|support|indicat|point|consistent|because|due|explain|argu|likely|therefore|thus"
  + "|hence|since|favou?r|fit|match|confirm|impl|characteristic|diagnos|exclud|rule", "i");
const REJECTS = new RegExp("unlikely|less|rule|not|exclud|incorrect|wrong|against|inconsistent|reject|eliminat"
  + "|improbable|inappropriate|contraindicat", "i");
function plain(word) {
  if (/^\d/.test(word)) return word.replace(/,/g, "").replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
  word = word.toLowerCase();
  return word.length > 3 ? word.replace(/([^sui])s$/, "$1") : word;
}
function wordsOf(text) {
  let sentence = { start: 0 }, before = 0;
  return Array.from(text.matchAll(/[\p{L}\p{N}]+(?:[.,/]\p{N}+)*/gu), (match, order) => {
    const start = match.index, end = start + match[0].length;
    if (/[.!?;](\s|$)|[\n<>]/.test(text.slice(before, start))) sentence = { start };
    before = sentence.end = end;
    return { word: plain(match[0]), order, start, end, sentence };
  });
}
// The best place of each sentence that holds at least `share` of the phrase's words; if sentences with a word of `cue`
// do, theirs only. -> [{ start, end }]
function locate(text, words, phrase, share, cue) {
  const spoken = wordsOf(phrase).map(token => token.word), telling = spoken.filter(word => !SMALL.has(word));
  const wanted = new Set(telling.length ? telling : spoken), hits = words.filter(token => wanted.has(token.word));
  const best = new Map();
  hits.forEach((first, i) => {
    const seen = new Set();
    for (const hit of hits.slice(i, i + wanted.size + 4)) {
      if (hit.sentence != first.sentence || hit.order - first.order > wanted.size + 4) break;
      seen.add(hit.word);
      const span = { count: seen.size, start: first.start, end: hit.end, sentence: hit.sentence };
      const known = best.get(hit.sentence) || { count: 0 };
      if (span.count > known.count || span.count == known.count && span.end - span.start < known.end - known.start)
        best.set(hit.sentence, span);
    }
  });
  const most = [...best.values()].reduce((count, span) => Math.max(count, span.count), 1);
  const full = [...best.values()].filter(span => span.count == most && most >= share * wanted.size);
  const cued = full.filter(span => cue && cue.test(text.slice(span.sentence.start, span.sentence.end)));
  return cued.length ? cued : full;
}
function addMarks(marks, spans, make) {
  spans.forEach(({ start, end }, i) => {
    const free = !marks.some(mark => start < mark.end && mark.start < end);
    if (free) marks.push({ start, end, make: text => make(text, i) });
  });
}
function marked(text, marks, from, to) {
  const nodes = [];
  for (const mark of marks.filter(mark => mark.start >= from && mark.end <= to).sort((a, b) => a.start - b.start)) {
    nodes.push(text.slice(from, mark.start), mark.make(text.slice(mark.start, mark.end)));
    from = mark.end;
  }
  return [...nodes, text.slice(from, to)];
}

// What the verifiers found in a response, as its row says, looked up in the text. k: its place in the group
function marksOf(rollout, group, k) {
  const text = rollout.response, words = wordsOf(text), marks = [];
  const all = pattern => Array.from(text.matchAll(pattern), match =>
    ({ start: match.index, end: match.index + match[0].length }));
  addMarks(marks, all(/\\boxed\s*\{(?:[^{}]|\{[^{}]*\})*\}/g), inside =>
    html("span", { class: "box " + (isRight(rollout) ? "right" : "wrong") }, inside, " ", verdict(rollout)));
  for (const phrase of rollout.unsupported) addMarks(marks, locate(text, words, phrase, 0.6, INFERS), inside =>
    html("span", { class: "unsupported", title: "not in the case: " + phrase }, inside, html("sup", {}, "?")));
  for (const letter of Object.keys(rollout.rejected)) {
    const lettered = all(/(?<!\w)[A-Z]\)|\b[Oo]ption [A-Z]\b/g).filter(({ start, end }) =>
      text.slice(start, end).replace(/[Oo]ption |\)/, "") == letter);
    const named = [...locate(text, words, group.options[letter] || "", 1, REJECTS), ...lettered];
    addMarks(marks, named, inside => html("span", { title: "rejected: option " + letter },
      html("span", { class: "rejected" }, inside), html("sup", {}, "✗" + letter)));
  }
  rollout.cited.forEach((phrase, n) => addMarks(marks, locate(text, words, phrase, 0.5, INFERS), (inside, i) =>
    html("a", { class: "cited", href: `#case-${n}`, id: i ? "" : `said-${k}-${n}`, title: "cited: " + phrase }, inside,
      html("sup", {}, String(n + 1)))));
  return marks;
}
const isRight = rollout => rollout.scores.accuracy === 1;
const verdict = rollout => isRight(rollout) ? `✓ right ${rollout.chosen ?? ""}`
  : rollout.marked && rollout.chosen == null ? "✗ no answer" : `✗ wrong ${rollout.chosen ?? ""}`;

// A response cut at its tags: [{ title, from, to }], and what is amiss with the form
const PARTS = { "<dx>": "Before System 1", "System 1:": "System 1 (intuitive)", "System 2:": "System 2 (analytical)",
  "</dx>": "", "<conclusion>": "Conclusion", "</conclusion>": "",
  "<think>": "Thinking", "</think>": "", "<answer>": "Answer", "</answer>": "" };
const TAG = /<\/?(?:dx|conclusion|think|answer)>|System [12]:/g;
function partsOf(text) {
  const parts = [], amiss = [], tags = Object.keys(PARTS);
  let from = 0, title = "";
  for (const match of [...text.matchAll(TAG), { index: text.length, 0: "" }]) {
    const inside = text.slice(from, match.index), start = from + inside.length - inside.trimStart().length;
    if (inside.trim()) parts.push({ title: title || "Outside the tags", from: start, to: match.index });
    title = PARTS[match[0]];
    from = match.index + match[0].length;
  }
  for (const tag of text.includes("<think>") ? tags.slice(6) : tags.slice(0, 6)) {
    const count = text.split(tag).length - 1;
    if (count != 1) amiss.push(tag + (count ? ` ${count} times` : " is missing"));
  }
  return [parts, parts.some(part => part.title == "Outside the tags") ? [...amiss, "text outside the tags"] : amiss];
}

// --- the reader ---

const rewards = step => step.flatMap(group => group.rollouts.map(rollout => rollout.reward)).filter(isNumber);
const misled = step => step.flatMap(group => group.rollouts).filter(rollout => rollout.scores.accuracy === 0)
  .reduce((most, rollout) => Math.max(most, isNumber(rollout.advantage) ? rollout.advantage : -9), -9);
const ORDERS = [["in order of steps", step => step[0].step], ["lowest mean reward first", step => mean(rewards(step))],
  ["wrong answers pushed up most first", step => -misled(step)]];
const at = { run: 0, order: 0, step: 0, question: 0, rollout: 0 }, folded = new Set(), reader = html("div", {});

function current() {
  const steps = runs[at.run].steps.toSorted((a, b) => ORDERS[at.order][1](a) - ORDERS[at.order][1](b));
  const step = steps[at.step] || [], group = step[at.question], rollouts = group ? group.rollouts : [];
  return { steps, step, group, rollouts: rollouts.toSorted((a, b) => b.reward - a.reward || a.rollout - b.rollout) };
}
function openStep(step, run = runs[at.run].steps.length ? runs[at.run] : runs.find(run => run.steps.length)) {
  if (!run || !run.steps.length) return;
  const far = run.steps.map(groups => Math.abs(groups[0].step - step));
  show({ run: runs.indexOf(run), order: 0, step: far.indexOf(Math.min(...far)) });
  reader.parentNode.scrollIntoView();
}
function move(by) {
  const { steps, step } = current(), next = steps[at.step + by];
  if (step[at.question + by]) show({ question: at.question + by });
  else if (next) show({ step: at.step + by, question: by < 0 ? next.length - 1 : 0 });
}
function show(change = {}) {
  Object.assign(at, "question" in change ? {} : { question: 0 }, { rollout: 0 }, change);
  const { steps, step, group, rollouts } = current(), run = runs[at.run];
  const choose = (name, items) => html("select", { "aria-label": name, change: event => show({
    ...(name == "run" || name == "order" ? { step: 0 } : {}), [name]: event.target.selectedIndex }) },
    items.map((item, i) => html("option", i == at[name] ? { selected: "" } : {}, item)));
  const whose = runs.length > 1 ? choose("run", runs.map(run => run.name)) : [];
  if (!group) return reader.replaceChildren(whose, muted("No rollouts of this run to read yet."));
  const key = name => html("kbd", {}, name);
  const bar = html("div", { class: "bar" }, whose, choose("order", ORDERS.map(([title]) => title)),
    html("button", { click: () => move(-1), "aria-label": "previous question" }, "◀"),
    choose("step", steps.map(step => `step ${shown(step[0].step)}: reward ${shown(mean(rewards(step)), 2)}`)),
    choose("question", step.map(group => group.question)),
    html("button", { click: () => move(1), "aria-label": "next question" }, "▶"),
    html("span", { class: "muted keys" }, key("←"), " ", key("→"), " rollout ", key("↑"), " ", key("↓"), " question"));
  const focused = reader.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
  const refused = column(run, "refused")[column(run, "step").indexOf(group.step)];
  reader.replaceChildren(bar, refused ? html("p", { class: "wrong" }, "The KL was too far over its target: the rewards "
    + "of this step were refused, every advantage is 0.") : "", matrix(group, rollouts), html("div", { class: "read" },
    html("div", { class: "panel case" }), html("div", { class: "cards", tabindex: 0, "aria-label": "rollouts" },
      rollouts.map((rollout, k) => card(rollout, group, k)))));
  select(at.rollout, "instant");
  for (const control of focused ? reader.querySelectorAll("[aria-label]") : [])
    if (control.getAttribute("aria-label") == focused) control.focus({ preventScroll: true });
}
function select(k, behavior = "smooth") {
  const { group, rollouts } = current(), cards = reader.querySelector(".cards");
  if (!rollouts[k]) return;
  at.rollout = k;
  for (const cell of reader.querySelectorAll("[data-k]")) cell.classList.toggle("on", cell.dataset.k == k);
  reader.querySelector(".case").replaceChildren(...caseOf(group, rollouts, k));
  cards.scrollTo({ left: cards.children[k].offsetLeft, behavior });
}

// Every number of a group: a column a rollout, under each score its part in the advantage
function matrix(group, rollouts) {
  const cells = (tag, make) => rollouts.map((rollout, k) =>
    html(tag, { "data-k": k, click: () => select(k) }, make(rollout)));
  const row = (title, note, make, kind = "") => html("tr", { class: kind },
    html("th", {}, title, html("small", {}, note)), cells("td", make));
  const under = (value, note) => [value, html("small", {}, note)];
  const advantage = rollout => {
    const a = rollout.advantage, kind = a > 0 ? "up" : a < 0 ? "down" : "";
    const against = kind == (isRight(rollout) ? "down" : "up");
    return under(html("span", { class: kind }, { up: "▲ ", down: "▼ " }[kind] || "", signed(a)),
      against && "accuracy" in rollout.scores ? (kind == "up" ? "though wrong" : "though right") : "");
  };
  const scores = Object.keys(rollouts[0].scores).map(name => {
    const weight = group.weights[name], tie = rollouts.every(rollout => rollout.parts[name] === 0);
    const score = rollout => under(shown(rollout.scores[name], 2), weight && !tie ? signed(rollout.parts[name]) : "");
    const none = Object.keys(group.weights).length ? "not rewarded" : "";
    return row(name, weight ? `weight ${weight}${tie ? ", a tie" : ""}` : none, score, none && !weight ? "off" : "");
  });
  return table([html("th", {}, "by reward"), cells("th", rollout => "rollout " + shown(rollout.rollout))], [
    row("answer", "", rollout => html("span", { class: isRight(rollout) ? "right" : "wrong" }, verdict(rollout))),
    row("reward", "sum of weight × score", rollout => html("b", {}, shown(rollout.reward, 2))),
    row("advantage", "sum of the parts below", advantage), scores,
    row("tokens", "", rollout => under(shown(rollout.tokens), rollout.finished ? "" : "cut")),
    row("findings", "cited / not in the case", rollout =>
      rollout.marked ? `${rollout.cited.length} / ${rollout.unsupported.length}` : "–"),
    row("rejected", "with a valid reason", rollout => Object.keys(rollout.rejected).join(" ") || "–")]);
}
function caseOf(group, rollouts, k) {
  const rollout = rollouts[k], marks = [], words = wordsOf(group.stem);
  rollout.cited.forEach((phrase, n) => addMarks(marks, locate(group.stem, words, phrase, 0.6).slice(0, 1), inside =>
    html("a", { class: "cited", id: `case-${n}`, href: `#said-${k}-${n}` }, inside, html("sup", {}, String(n + 1)))));
  const options = Object.entries(group.options).map(([letter, text]) => {
    const votes = rollouts.filter(rollout => rollout.chosen === letter).length, key = letter == group.answer;
    const though = key ? ", though it is the key" : letter == rollout.chosen ? ", though it is the answer" : "";
    const notes = [votes ? `answer of ${votes} of ${rollouts.length}` : "",
      letter in rollout.rejected ? "✗ rejected" + though : ""];
    return html("li", { class: key ? "right" : "" }, `${letter}) ${text}${key ? " ✓ key" : ""}`,
      html("small", {}, notes.filter(Boolean).join("; ")));
  });
  return [html("h3", {}, `The case, as rollout ${shown(rollout.rollout)} reads it`),
    html("p", { class: "text" }, marked(group.stem, marks, 0, group.stem.length)),
    html("ul", { class: "options" }, options),
    html("small", {}, "Underlined with a number: a cited finding, linked to its place in the text. Wavy with ?: not in "
      + "the case. Struck with ✗: a rejected option. Places are found by words, so they may be off; the lists under a "
      + "text are the verifiers' own.")];
}
function card(rollout, group, k) {
  const text = rollout.response, marks = marksOf(rollout, group, k), [parts, amiss] = partsOf(text);
  const list = (title, items) => items.length ? html("p", {}, html("b", {}, title + ": "), items.join("; ")) : [];
  const rejected = Object.entries(rollout.rejected).map(([letter, reason]) => `${letter} for ${reason.join(", ")}`);
  const lists = [list("Cited", rollout.cited.map((phrase, n) => `${n + 1} ${phrase}`)),
    list("Not in the case", rollout.unsupported), list("Rejected", rejected)].flat();
  const none = rollout.marked ? "No finding cited, none made up, no option rejected." : "No evidence recorded.";
  return html("article", { class: "panel card", "data-k": k, click: () => k == at.rollout || select(k) },
    html("h3", {}, ["rollout " + shown(rollout.rollout), "reward " + shown(rollout.reward, 2),
      "advantage " + signed(rollout.advantage)].join(" · ")),
    html("p", {}, html("span", { class: isRight(rollout) ? "right" : "wrong" }, verdict(rollout)),
      rollout.finished ? "" : ` · cut at ${shown(rollout.tokens)} tokens`),
    amiss.length ? muted("Form: " + amiss.join("; ")) : [], parts.length ? [] : muted("The response is empty."),
    parts.map(({ title, from, to }) => html("details", { "data-title": title,
      ...(folded.has(title) ? {} : { open: "" }), toggle: event => fold(title, event.target.open) },
      html("summary", {}, title), html("div", { class: "text" }, marked(text, marks, from, to)))),
    html("div", { class: "evidence" }, lists.length ? lists : muted(none)));
}
function fold(title, open) { // in every card at once
  if (open != folded.has(title)) return;
  open ? folded.delete(title) : folded.add(title);
  for (const part of reader.querySelectorAll("details")) if (part.dataset.title == title) part.open = open;
}
addEventListener("keydown", event => {
  const box = reader.getBoundingClientRect(), cards = reader.querySelector(".cards");
  const inside = reader.contains(document.activeElement);
  const along = { ArrowLeft: -1, ArrowRight: 1 }[event.key], across = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!cards || event.target.matches("select") || event.ctrlKey || event.altKey || event.metaKey) return;
  if (along && box.top < innerHeight && box.bottom > 0) {
    select(at.rollout + along);
    cards.focus({ preventScroll: true });
  } else if (across && inside) move(across); // elsewhere up and down scroll the page
  else return;
  event.preventDefault();
});

headline();
curves();
steering();
evaluation();
section("reader", "Rollouts", muted("Every number of a group and what the rules read in each text. The small number "
  + "under a score is its part in the advantage."), reader);
show();
</script>
</html>
"""


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
