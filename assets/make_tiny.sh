#!/usr/bin/env bash
# Makes assets/tiny from random weights: pretraining on the clinic's traces, then the base stage, which spoils it into
# what a small instruct model is: often right, careless of form. About 12 minutes on two cores.
# The tokenizer stays: it was made by "python clinic.py tokenizer 6000 assets/tiny --seed 7" from the traces of an earlier
# wording; from today's it would get the same phrases and a few other merges.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python clinic.py pretrain 40500 "$work/pretrain.jsonl"
python train_sft.py --model tiny --tokenizer assets/tiny --data "$work/pretrain.jsonl" --out "$work/pretrained" \
    --lr 3e-3 --batch 8 --warmup 100 --steps 5000 --holdout 0.01 --holdout-every 500
python clinic.py base 1600 "$work/base.jsonl" --seed 1
python train_sft.py --model "$work/pretrained" --data "$work/base.jsonl" --out "$work/tiny" --lr 1e-3 --holdout 0
cp "$work"/tiny/{config.json,generation_config.json,model.safetensors} assets/tiny/
