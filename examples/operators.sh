#!/bin/sh
# Operators and losses, N1 to N5 and L1, as curl lines: versions made of a document and given weights, without training.
# MODELYARD_URL names the server; MODELYARD_API_KEY holds a key where one is needed.
set -eu
url=${MODELYARD_URL:-http://127.0.0.1:8000}
curl() { command curl -sS --fail-with-body ${MODELYARD_API_KEY:+-H "X-API-Key: $MODELYARD_API_KEY"} "$@"; }
made() { grep -o '"output":{[^}]*"version":[0-9]*'; }
image='[[[1,2,0,3,1],[0,1,2,3,1],[1,2,1,0,0],[5,2,3,1,1],[2,1,0,1,1]]]'

echo "N1. A net without parameters is an expression."
curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
  "kind": "import",
  "architecture": {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B"]}],
    "root": {"type": "Graph", "layers": [], "forward": ["return x + 1"]}
  },
  "output": {"model": "plus-one"}
}' | made
curl "$url/predict" --json '{"model": "plus-one", "inputs": [1.0]}' | grep -o '"outputs":\[2.0\]'

echo "N2. A convolution with a given kernel: stride 1, stride 2, and a border of zeros."
for arguments in '"stride": 1' '"stride": 2' '"padding": 1'; do
  curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
    "kind": "import",
    "architecture": {
      "schema": "arch/1",
      "inputs": [{"name": "image", "shape": ["B", 1, 5, 5]}],
      "root": {"type": "Sequential", "layers": [
        {"type": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 3, "bias": false, '"$arguments"'}
      ]}
    },
    "state_dict": {"0.weight": [[[[1, 2, 1], [0, 1, 0], [2, 1, 0]]]]},
    "output": {"model": "convolution"}
  }' | made
  curl "$url/predict" --json '{"model": "convolution", "inputs": ['"$image"']}' | grep -o '"outputs":.*\]\]\]\]'
done

echo "N3. Max-pooling of whole numbers, which torch itself refuses: with and without the ragged edge."
for ceil_mode in true false; do
  curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
    "kind": "import",
    "architecture": {
      "schema": "arch/1",
      "inputs": [{"name": "image", "shape": ["B", 1, 5, 5]}],
      "root": {"type": "Sequential", "layers": [{"type": "MaxPool2d", "kernel_size": 3, "ceil_mode": '"$ceil_mode"'}]}
    },
    "output": {"model": "pooling"}
  }' | made
  curl "$url/predict" --json '{"model": "pooling", "inputs": ['"$image"']}' | grep -o '"outputs":.*\]\]\]\]'
done

echo "N4. Activations."
for activation in ReLU Sigmoid; do
  curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
    "kind": "import",
    "architecture": {
      "schema": "arch/1",
      "inputs": [{"name": "x", "shape": ["B", 2]}],
      "root": {"type": "Sequential", "layers": [{"type": "'$activation'"}]}
    },
    "output": {"model": "activation"}
  }' | made
  curl "$url/predict" --json '{"model": "activation", "inputs": [[1, -0.5], [-1, 3]]}' | grep -o '"outputs":.*\]\]'
done

echo "N5. A batch of 64 pictures becomes 64 × 6 feature maps of 30 × 30; the weights are drawn from a seed."
curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
  "kind": "import",
  "architecture": {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 3, 32, 32]}],
    "root": {"type": "Sequential", "layers": [
      {"type": "Conv2d", "in_channels": 3, "out_channels": 6, "kernel_size": 3}
    ]}
  },
  "seed": 5,
  "output": {"model": "feature-maps"}
}' | made
numbers=$(seq 196608 | awk '{print ($1 % 256) / 255}' | paste -sd , -)
printf '{"inputs": [{"name": "x", "shape": [64, 3, 32, 32], "datatype": "FP32", "data": [%s]}]}' "$numbers" |
  curl "$url/v2/models/feature-maps/infer" --json @- | grep -o '"shape":\[64,6,30,30\]'

echo "L1. Losses with their reduction: what a version that answers its own input scores."
for columns in 1 3; do
  curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
    "kind": "import",
    "architecture": {
      "schema": "arch/1",
      "inputs": [{"name": "x", "shape": ["B", '$columns']}],
      "root": {"type": "Sequential", "layers": [{"type": "Identity"}]}
    },
    "output": {"model": "identity-'$columns'"}
  }' | made
done
numbers='{"type": "inline", "inputs": [[1], [2], [3]], "targets": [1, 2, 5]}'
for objective in '{"type": "l1"}' '{"type": "l1", "reduction": "sum"}' '{"type": "mse"}'; do
  curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
    "kind": "evaluate", "model": "identity-1", "dataset": '"$numbers"', "objective": '"$objective"'
  }' | grep -o '"last":{"loss":[^,}]*'
done
curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
  "kind": "evaluate",
  "model": "identity-3",
  "dataset": {"type": "inline", "inputs": [[0.1, 0.2, 0.3]], "targets": [1]},
  "objective": {"type": "cross_entropy"}
}' | grep -o '"last":{"loss":1.1019[^,}]*'
