# %% [markdown]
# # Classification: C1, N6 and T1
#
# Two clouds of points, the tutorials' net for CIFAR-10, and how a training looks in TensorBoard. Start a server with
# `modelyard serve`; `MODELYARD_URL` names another one, and `MODELYARD_API_KEY` holds a key where one is needed.

# %%
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from service.client import Client

client = Client()

# %% [markdown]
# ## C1. Two clouds
#
# A fifth of the rows is held out; the score of those, and of fresh rows, is what counts.

# %%
clouds = {"type": "gaussian_clouds", "centers": [[2, 2], [-2, -2]], "std": 1.0, "rows_per_class": 100, "seed": 1}
net = {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 2]}],
    "root": {
        "type": "Sequential",
        "layers": [
            {"type": "Linear", "in_features": 2, "out_features": 10},
            {"type": "ReLU"},
            {"type": "Linear", "in_features": 10, "out_features": 2},
        ],
    },
}
job = client.jobs.submit(
    {
        "kind": "train",
        "architecture": net,
        "dataset": clouds,
        "split": {"type": "stratified", "validation": 0.2, "seed": 1},
        "objective": {"type": "cross_entropy"},
        "optimizer": {"type": "SGD", "lr": 0.02},
        "budget": {"epochs": 100},
        "seed": 1,
        "output": {"model": "two-clouds"},
    }
)
job = client.jobs.wait(job)
fresh = client.jobs.submit(
    {
        "kind": "evaluate",
        "model": "two-clouds",
        "dataset": {**clouds, "seed": 2},
        "objective": {"type": "cross_entropy"},
    }
)
fresh = client.jobs.wait(fresh)
print("accuracy on held-out rows", job.metrics["last"]["val_accuracy"])
print("accuracy on fresh rows   ", fresh.metrics["last"]["accuracy"])
assert job.metrics["last"]["val_accuracy"] >= 0.98
assert fresh.metrics["last"]["accuracy"] >= 0.98

# %% [markdown]
# An answer has the class and the probability of each.

# %%
answer = client.predict("two-clouds", np.array([[2.0, 2.0], [-2.0, -2.0], [0.1, 0.0]]))
for line in answer.lines():
    print(line)
assert answer.labels[:2] == ["0", "1"]

# %% [markdown]
# The decision plot is Plotly JSON: `plotly.graph_objects.Figure(figure.data, figure.layout)`.

# %%
figure = client.jobs.figure(job, "decision")
print(figure.layout["title"]["text"], [trace["type"] for trace in figure.data])

# %% [markdown]
# ## N6. The net for CIFAR-10
#
# Its shapes and parameters come from arithmetic, before anything is computed.


# %%
def conv(inputs, outputs):
    return {"type": "Conv2d", "in_channels": inputs, "out_channels": outputs, "kernel_size": 5, "padding": 2}


pool = {"type": "MaxPool2d", "kernel_size": 2}
cifar = {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 3, 32, 32]}],
    "root": {
        "type": "Sequential",
        "layers": [
            conv(3, 32),
            pool,
            conv(32, 32),
            pool,
            conv(32, 64),
            pool,
            {"type": "Flatten"},
            {"type": "Linear", "in_features": 1024, "out_features": 64},
            {"type": "Linear", "in_features": 64, "out_features": 10},
        ],
    },
}
verdict = client.architectures.validate(cifar)
for layer in verdict.summary.layers:
    print(f"{layer.path:10} {layer.type:10} {layer.output_shape} {layer.parameters}")
print(verdict.summary.parameters, "parameters")
assert verdict.summary.parameters == 145_578

# %% [markdown]
# Trained for one epoch on generated pictures. CIFAR-10 itself is an upload of its binary version, with the source
# `{"type": "cifar10", "upload": "up_…"}`.

# %%
job = client.jobs.submit(
    {
        "kind": "train",
        "architecture": cifar,
        "dataset": {"type": "striped_images", "classes": 10, "rows_per_class": 20, "seed": 1},
        "objective": {"type": "cross_entropy"},
        "optimizer": {"type": "SGD", "lr": 0.01},
        "batch_size": 64,
        "budget": {"epochs": 1},
        "seed": 1,
        "output": {"model": "ten-classes"},
    }
)
job = client.jobs.wait(job)

# %% [markdown]
# The shape check with ones, as bytes and not as digits: equal rows get equal answers.

# %%
ones = np.ones((64, 3, 32, 32), dtype=np.float32)
outputs = client.v2.infer("ten-classes", {"x": ones})["output"]
print(outputs.shape)
assert outputs.shape == (64, 10)
assert (outputs == outputs[0]).all()

# %% [markdown]
# ## T1. TensorBoard
#
# `modelyard tensorboard` opens it with the newest jobs: curves, images, feature maps, graph. With `--once` it writes
# the event files and ends; for that the extra `tensorboard` is needed.

# %%
with tempfile.TemporaryDirectory() as folder:
    runs = Path(folder) / "runs"
    command = [sys.executable, "-m", "service.cli", "tensorboard", job.id, "--logdir", str(runs), "--once"]
    subprocess.run([*command, "--url", client.url], check=True)
    for file in runs.rglob("events.*"):
        print(file.relative_to(folder), file.stat().st_size, "bytes")
    assert any(runs.rglob("events.*"))

# %%
client.close()
