#!/bin/sh
# Regression, R1 to R6, as curl lines. MODELYARD_URL names the server; MODELYARD_API_KEY holds a key where one is needed.
# Models are made anew with each run: another version of the same name.
set -eu
url=${MODELYARD_URL:-http://127.0.0.1:8000}
curl() { command curl -sS --fail-with-body ${MODELYARD_API_KEY:+-H "X-API-Key: $MODELYARD_API_KEY"} "$@"; }
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cd "$work"

echo "R1. A net with named layers fits y = x² + 0.2·U[0, 1): 100 rows, 200 steps of gradient descent."
curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
  "kind": "train",
  "architecture": {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 1]}],
    "root": {
      "type": "Graph",
      "class_name": "Net",
      "layers": [
        {"name": "hidden", "type": "Linear", "in_features": 1, "out_features": 10},
        {"name": "predict", "type": "Linear", "in_features": 10, "out_features": 1}
      ],
      "forward": ["x = relu(hidden(x))", "return predict(x)"]
    }
  },
  "dataset": {
    "type": "polynomial", "coefficients": [0, 0, 1], "low": -1, "high": 1, "rows": 100,
    "noise": {"type": "uniform", "scale": 0.2}, "seed": 1
  },
  "objective": {"type": "mse"},
  "optimizer": {"type": "SGD", "lr": 0.2},
  "budget": {"epochs": 200},
  "seed": 1,
  "output": {"model": "parabola", "alias_on_success": "champion"}
}' > job.json
grep -o '"last":{[^}]*}' job.json
version=$(grep -o '"version":[0-9]*,"alias":"champion"' job.json | grep -o '[0-9][0-9]*')
curl "$url/predict" --json '{"model": "parabola@champion", "inputs": [[0.0], [0.9]]}' > answer.json
grep -o '"outputs":.*\]\]' answer.json

echo "R2. The same net as a Sequential: a version from the first one's weights, under the keys of its own layers."
curl "$url/v1/models/parabola/versions/$version/weights?format=safetensors" -o weights.safetensors
upload=$(curl "$url/v1/uploads" -H 'Content-Type: application/octet-stream' --data-binary @weights.safetensors |
  grep -o 'up_[0-9a-f]*')
curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
  "kind": "import",
  "upload": "'"$upload"'",
  "architecture": {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 1]}],
    "root": {"type": "Sequential", "layers": [
      {"type": "Linear", "in_features": 1, "out_features": 10},
      {"type": "ReLU"},
      {"type": "Linear", "in_features": 10, "out_features": 1}
    ]}
  },
  "rename": [{"from": "hidden", "to": "0"}, {"from": "predict", "to": "2"}],
  "output": {"model": "parabola-sequential"}
}' > job.json
grep -o '"output":{[^}]*"version":[0-9]*' job.json
curl "$url/predict" --json '{"model": "parabola-sequential", "inputs": [[0.0], [0.9]]}' > same.json
test "$(grep -o '"outputs":.*\]\]' same.json)" = "$(grep -o '"outputs":.*\]\]' answer.json)"

echo "R3. A deeper net for y = x³, 2,000 steps, watched as it learns: the stream ends with the job."
job=$(curl "$url/v1/jobs" --json '{
  "kind": "train",
  "architecture": {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 1]}],
    "root": {"type": "Sequential", "layers": [
      {"type": "Linear", "in_features": 1, "out_features": 20}, {"type": "ReLU"},
      {"type": "Linear", "in_features": 20, "out_features": 20}, {"type": "ReLU"},
      {"type": "Linear", "in_features": 20, "out_features": 1}
    ]}
  },
  "dataset": {
    "type": "polynomial", "coefficients": [0, 0, 0, 1], "low": -1, "high": 1, "rows": 100,
    "noise": {"type": "normal", "scale": 0.1}, "seed": 1
  },
  "objective": {"type": "mse"},
  "optimizer": {"type": "SGD", "lr": 0.05},
  "budget": {"steps": 2000},
  "seed": 1,
  "output": {"model": "cube"}
}' | grep -o '"id":"job_[0-9a-f]*"' | cut -d '"' -f 4)
curl -N "$url/v1/jobs/$job/events" -H 'Accept: text/event-stream' > events.txt
grep '^event:' events.txt | sort | uniq -c
curl "$url/v1/jobs/$job/metrics" | grep -o '"total":[0-9]*,"thinned":false'

echo "R4. A Sequential inside a class keeps its nested names: hidden.0.weight, hidden.2.weight."
curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
  "kind": "train",
  "architecture": {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 1]}],
    "root": {
      "type": "Graph",
      "layers": [{"name": "hidden", "type": "Sequential", "layers": [
        {"type": "Linear", "in_features": 1, "out_features": 10}, {"type": "ReLU"},
        {"type": "Linear", "in_features": 10, "out_features": 1}
      ]}],
      "forward": ["return hidden(x)"]
    }
  },
  "dataset": {
    "type": "polynomial", "coefficients": [0, 0, 1], "low": -1, "high": 1, "rows": 100,
    "noise": {"type": "uniform", "scale": 0.2}, "seed": 1
  },
  "objective": {"type": "mse"},
  "optimizer": {"type": "Adam", "lr": 0.001},
  "budget": {"epochs": 100},
  "seed": 1,
  "output": {"model": "nested"}
}' | grep -o '"output":{[^}]*"version":[0-9]*'
curl "$url/v1/models/nested/versions/1/weights?format=safetensors" -o weights.safetensors
grep -ao 'hidden\.[02]\.[a-z]*' weights.safetensors

echo "R5. 50,000 steps on [-2, 2], then a question outside of it: the answer carries a warning."
job=$(curl "$url/v1/jobs" --json '{
  "kind": "train",
  "architecture": {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 1]}],
    "root": {"type": "Sequential", "layers": [
      {"type": "Linear", "in_features": 1, "out_features": 10}, {"type": "Tanh"},
      {"type": "Linear", "in_features": 10, "out_features": 1}
    ]}
  },
  "dataset": {
    "type": "polynomial", "coefficients": [-2, 3, 1], "low": -2, "high": 2, "rows": 100,
    "noise": {"type": "uniform", "scale": 0.5}, "seed": 1
  },
  "objective": {"type": "mse"},
  "optimizer": {"type": "SGD", "lr": 0.05},
  "budget": {"steps": 50000},
  "seed": 1,
  "output": {"model": "long"}
}' | grep -o '"id":"job_[0-9a-f]*"' | cut -d '"' -f 4)
curl -N "$url/v1/jobs/$job/events" -H 'Accept: text/event-stream' | grep -c '^event: progress'
curl "$url/v1/jobs/$job" | grep -o '"last":{[^}]*}'
curl "$url/predict" --json '{"model": "long", "inputs": [[0.0], [2.0], [2.5]]}' | grep '"outside-training-range"'

echo "R6. Mini-batches of 32 from 100 rows: four steps an epoch, or three when the last one is dropped."
for drop_last in false true; do
  curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
    "kind": "train",
    "architecture": {"catalogue": "mlp", "params": {"in_features": 1, "hidden": [10], "num_classes": 1}},
    "dataset": {
      "type": "polynomial", "coefficients": [0, 0, 1], "low": -1, "high": 1, "rows": 100,
      "noise": {"type": "uniform", "scale": 0.2}, "seed": 1
    },
    "objective": {"type": "mse"},
    "optimizer": {"type": "SGD", "lr": 0.2},
    "batch_size": 32,
    "shuffle": true,
    "drop_last": '"$drop_last"',
    "budget": {"epochs": 5},
    "seed": 1,
    "output": {"model": "mini-batches"}
  }' | grep -o '"progress":{"epoch":5,"step":[0-9]*'
done
