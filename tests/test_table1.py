"""experiments/table1.py: its statistics by hand, its table and figure on made-up results."""

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import rewards
import train_crpo
from run import parse_config

path = Path(__file__).parents[1] / "experiments" / "table1.py"
spec = importlib.util.spec_from_file_location("table1", path)
table1 = importlib.util.module_from_spec(spec)
spec.loader.exec_module(table1)


def results(**accuracy):
    """Two seeds an arm: every measure 1 and 2, but for the accuracy."""
    keys = [key for key, _, _ in table1.MEASURES.values()]
    return {arm: [{**dict.fromkeys(keys, 1.0 + seed), "accuracy": value} for seed, value in enumerate(values)]
            for arm, values in accuracy.items()}


def test_interval_by_hand():
    """1, 2, 3: standard deviation 1, t of two degrees of freedom 4.303, so 4.303 / sqrt(3)."""
    assert table1.interval([1, 2, 3]) == pytest.approx((2, 2.4843), abs=1e-4)
    assert table1.interval([5, 5, 5, 5]) == (5, 0)


def test_the_table_pairs_seeds_and_calls_what_is_sure():
    made = results(GRPO=(0.5, 0.9), CRPO=(0.6, 1.0))
    text = table1.markdown(made, 2)
    assert "| GRPO | 0.700 ± 2.541 | 1.50 ± 6.35 |" in text
    [line] = [line for line in text.splitlines() if line.startswith("| CRPO - GRPO")]
    assert "+0.100 ± 0.000 better" in line  # both seeds gain 0.1, however far apart they are
    assert line.count("better") + line.count("worse") == 1 and "+0.00 ± 0.00 |" in line


def test_ablations_are_paired_with_ours():
    text = table1.markdown(results(**{"Ours": (0.9, 0.8), "without floor": (0.7, 0.6), "other": (1.0, 0.6)}), 2)
    [_, floor, other] = [line for line in text.splitlines() if line.startswith(("| Ours - ", "| paired"))]
    assert floor.startswith("| Ours - without floor | +0.200 ± 0.000 better |") and "Ours - other | +0.050 ± 1.906 |" in other


def test_the_figure_is_well_formed():
    root = ET.fromstring(table1.svg(results(**{"A & <b>": (0.5, 0.6), "c": (0.5, 0.5)})))
    assert len(root.findall("{*}circle")) == 2 * 5
    assert "nan" not in table1.svg({"one seed, one arm": results(a=(0.5,))["a"]})


def test_reproduction_counts_means_within_the_recorded_interval():
    recorded = results(GRPO=(0.5, 0.6))
    assert table1.reproduced(recorded, recorded).startswith("8 of 8")
    assert table1.reproduced(results(GRPO=(2.0, 2.1)), recorded).startswith("7 of 8")


@pytest.mark.parametrize("name", table1.SETS)
def test_every_arm_is_a_command_line_of_train_crpo(name):
    for start, prompt, flags in table1.SETS[name].values():
        if flags is not None:
            config = parse_config(train_crpo.Config, "", train_crpo.PRESETS, flags.split())
            assert rewards.weights_of(config.objective, config.weights) and (config.objective == "grpo") == (prompt == "grpo")
            assert 60 <= config.prompts * config.group <= 65
