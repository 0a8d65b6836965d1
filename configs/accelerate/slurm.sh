#!/bin/bash
# One run over all nodes of a Slurm job: sbatch --nodes 12 configs/accelerate/slurm.sh --workload llm --scenario offline
# Arguments go to suite.py. Submit from the checkout, on a file system that all nodes share; outputs/ is written there.
#SBATCH --job-name triptych
#SBATCH --ntasks-per-node 1
#SBATCH --gpus-per-node 8
#SBATCH --exclusive
#SBATCH --signal TERM@60

set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
gpus=${SLURM_GPUS_ON_NODE:-8}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}

# One launcher a node; $SLURM_NODEID is expanded there. A launcher that fails ends the others.
srun --kill-on-bad-exit=1 bash -c 'exec .venv/bin/accelerate launch \
  --config_file configs/accelerate/rocm_12x8.yaml --num_machines '"$SLURM_NNODES"' --num_processes '"$((SLURM_NNODES * gpus))"' \
  --machine_rank "$SLURM_NODEID" --main_process_ip '"$head"' --main_process_port '"${MASTER_PORT:-29500}"' suite.py "$@"' suite "$@"
