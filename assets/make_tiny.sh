#!/usr/bin/env bash
# Makes assets/tiny from nothing: tokenizer, pretraining on the clinic's traces, then the base stage, which spoils it
# into what a small instruct model is: often right, careless of form. About 5 minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python clinic.py pretrain 24000 "$work/pretrain.jsonl"
python clinic.py tokenizer 6000 "$work/tokenizer" --seed 7
python train_sft.py --model tiny --tokenizer "$work/tokenizer" --data "$work/pretrain.jsonl" --out "$work/pretrained" \
    --lr 3e-3 --batch 8 --warmup 100 --steps 1800 --holdout 0.01 --holdout-every 200
python clinic.py base 1600 "$work/base.jsonl" --seed 1
python train_sft.py --model "$work/pretrained" --data "$work/base.jsonl" --out "$work/tiny" --lr 1e-3 --holdout 0
mkdir -p assets/tiny
cp "$work"/tiny/{config.json,generation_config.json,model.safetensors,tokenizer.json,tokenizer_config.json} assets/tiny/
