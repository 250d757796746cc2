#!/usr/bin/env bash
# Starts one node of a run on many; run it on each node with the same HEAD (name of the first one) and NODES.
#   HEAD=node0 NODES=4 bash configs/cluster/torchrun.sh --config configs/mvg_8gpu.yaml
# A node that fails is started again by torchrun, and the run continues from its last checkpoint.
set -euo pipefail
GPUS=${GPUS:-8}
exec torchrun --nnodes="${NODES:?number of nodes}" --nproc-per-node="$GPUS" \
    --rdzv-backend=c10d --rdzv-endpoint="${HEAD:?name of the first node}:29500" --max-restarts=3 \
    -m mvg fit "$@" --trainer.num_nodes "$NODES" --trainer.devices "$GPUS" --resume
