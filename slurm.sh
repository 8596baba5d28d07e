#!/usr/bin/env bash
# CRPO on several machines under Slurm:  sbatch slurm.sh --preset paper --model cold/ --data medqa_train.jsonl
#
# --out (ckpt/ unless given) must be on a disk that all machines share. Submit the same line again
# and it goes on where the time limit stopped it; a finished run would be moved aside. Slurm requeues a failed machine.
#SBATCH --job-name=crpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --dependency=singleton
# At a signal the current step is finished and a state saved. torchrun waits for that as long as the variable below says
# (torch 2.13; torch 2.11 kills after 30 seconds whatever it says), so Slurm has to warn earlier than that. --save-every
# covers the rest.
#SBATCH --signal=TERM@960
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=900
# Without this, processes that torchrun restarts may look for the addresses of those before and hang.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 torchrun --nnodes="$SLURM_NNODES" --nproc_per_node="$SLURM_GPUS_ON_NODE" --max-restarts=3 \
    --rdzv_backend=c10d --rdzv_id="$SLURM_JOB_ID" --rdzv_endpoint="$head:$((20000 + SLURM_JOB_ID % 12000))" \
    train_crpo.py --shard-within "$SLURM_GPUS_ON_NODE" "$@"
