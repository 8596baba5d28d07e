#!/usr/bin/env bash
# Faults built into small runs of two processes (tests/inject.py), and what their user sees:
#   PYTHON=python experiments/faults.sh > experiments/faults.txt     as root, for the small disk
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=
python=${PYTHON:-python}
work=$(mktemp -d)
trap 'umount "$work/disk" 2> /dev/null; rm -rf "$work"' EXIT
flags="--steps 6 --prompts 4 --group 4 --max-new-tokens 32 --eval-questions 0 --save-every 1"

run() {  # title, fault (or none), torchrun flags, other flags of train_crpo
    echo; echo "## $1"
    local script="tests/inject.py $2"
    [ "$2" = none ] && script=train_crpo.py
    echo "\$ torchrun $3 --nproc_per_node=2 $script $flags $4"
    local start=$SECONDS
    # Without progress bars and torchrun's own traceback
    $python -m torch.distributed.run --standalone --nproc_per_node=2 $3 $script --out "$work/$5" $flags $4 2>&1 |
        tr '\r' '\n' | grep -v -e 'it/s' -e 's/it' -e '^Traceback' -e '^  File' -e '^    ' -e '^$' -e '^[=-]*$' \
                            -e ChildFailedError -e '  time ' -e '  host ' -e error_file -e 'To enable traceback' |
        sed -e "s#$work/##g" -e "s#of binary: .*python#of binary: python#" | cut -c1-400
    echo "(exit status ${PIPESTATUS[0]}, $((SECONDS - start)) s)"
}

$python -c 'import os, platform, torch; print(f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}, gloo")'
run "A NaN in one rollout of rank 1, in step 3" nan:3:1 "" "" nan
echo "samples.jsonl marks:"; grep '"nonfinite": true' "$work/nan/samples.jsonl" | cut -c1-80
run "NaN in every step from the second" nan:2-99:1 "" "--steps 12" nans
run "Infinite gradient of finite losses, in step 3" slope:3:0 "" "" slope
run "Out of GPU memory on rank 1" oom:3:1 "" "" oom
run "Rank 1 is killed" die:3:1 "" "" die
run "The same command again" none "" "" die
run "Rank 1 is killed, torchrun may restart" die:3:1 --max-restarts=3 "" restarts
run "Rank 1 stands still (patience of 20 s in place of 30 minutes)" hang:3:1 "" "" hang
run "Rank 1 has only ties in steps 1 and 2, rank 0 in 3 and 4" ties:1-2:1,ties:3-4:0 "" "--micro-tokens 150" ties
mkdir "$work/disk" && mount -t tmpfs -o size=10m tmpfs "$work/disk" || exit 0
run "A disk of 10 MB: one state of 8 MB has room, neither a second nor the model beside it" none "" "" disk/ckpt
ls "$work/disk/ckpt" "$work/disk/ckpt/state"
mount -o remount,size=64m "$work/disk"
run "The disk is made larger; the same command" none "" "" disk/ckpt
ls "$work/disk/ckpt"
rm -r "$work/disk/ckpt"
mount -o remount,size=20k "$work/disk"
run "A disk of 20 kB: the log has no room" none "" "" disk/ckpt
