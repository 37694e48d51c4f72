# %% [markdown]
# # Regression: R1 to R6
#
# One curve through noisy points, from the first tutorial's net to mini-batches. Start a server with `modelyard serve`;
# `MODELYARD_URL` names another one, and `MODELYARD_API_KEY` holds a key where one is needed. Each run makes another
# version of the same models.

# %%
from service.client import Client

client = Client()


def linear(inputs, outputs, **more):
    return {"type": "Linear", "in_features": inputs, "out_features": outputs, **more}


def net(root):
    """A document of one input column."""
    return {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 1]}], "root": root}


def sequential(*layers):
    return net({"type": "Sequential", "layers": list(layers)})


# %% [markdown]
# ## R1. A net with named layers
#
# y = x² + 0.2·U[0, 1) over 100 rows, 200 steps of gradient descent on all of them.

# %%
named = net(
    {
        "type": "Graph",
        "class_name": "Net",
        "layers": [linear(1, 10, name="hidden"), linear(10, 1, name="predict")],
        "forward": ["x = relu(hidden(x))", "return predict(x)"],
    }
)
parabola = {
    "type": "polynomial",
    "coefficients": [0, 0, 1],
    "low": -1,
    "high": 1,
    "rows": 100,
    "noise": {"type": "uniform", "scale": 0.2},
    "seed": 1,
}
training = {
    "kind": "train",
    "architecture": named,
    "dataset": parabola,
    "objective": {"type": "mse"},
    "optimizer": {"type": "SGD", "lr": 0.2},
    "budget": {"epochs": 200},
    "seed": 1,
    "output": {"model": "parabola", "alias_on_success": "champion"},
}
job = client.jobs.wait(client.jobs.submit(training))
answer = client.predict("parabola@champion", [[0.0], [0.9]])
print(f"loss {job.metrics['last']['loss']:.4f}, f(0) and f(0.9):", answer.numpy().ravel())
assert job.metrics["last"]["loss"] < 0.01

# %% [markdown]
# The version says what it is: its keys, and the class that one would write.

# %%
first = client.versions.resolve("parabola@champion")
print(client.versions.python("parabola", first.version))

# %% [markdown]
# ## R2. The same net as a Sequential
#
# A version from the first one's weights, under the keys of its own layers: the same function, to the bit.

# %%
weights = client.versions.weights("parabola", first.version, format="safetensors")
copied = client.jobs.submit(
    {
        "kind": "import",
        "upload": client.uploads.add(weights).id,
        "architecture": sequential(linear(1, 10), {"type": "ReLU"}, linear(10, 1)),
        "rename": [{"from": "hidden", "to": "0"}, {"from": "predict", "to": "2"}],
        "output": {"model": "parabola-sequential"},
    }
)
client.jobs.wait(copied)
assert client.predict("parabola-sequential", [[0.0], [0.9]]).outputs == answer.outputs

# %% [markdown]
# ## R3. Watched as it learns
#
# A deeper net for y = x³, 2,000 steps. The server tells the losses piece by piece, and `watch` goes on after a lost
# connection.

# %%
normal = {"type": "normal", "scale": 0.1}
deep = sequential(linear(1, 20), {"type": "ReLU"}, linear(20, 20), {"type": "ReLU"}, linear(20, 1))
cube = {
    **training,
    "architecture": deep,
    "dataset": {**parabola, "coefficients": [0, 0, 0, 1], "noise": normal},
    "optimizer": {"type": "SGD", "lr": 0.05},
    "budget": {"steps": 2000},
    "output": {"model": "cube"},
}
job = client.jobs.submit(cube)
for event in client.jobs.watch(job):
    if event.type == "progress":
        print(f"{event.data['fraction']:.0%}", end=" ")
[loss] = [series for series in client.jobs.metrics(job).series if series.name == "loss"]
print(f"\n{len(loss.values)} losses, from {loss.values[0]:.3f} to {loss.values[-1]:.3f}")
assert len(loss.values) == 2000

# %% [markdown]
# The same as a figure, which plotly draws: `plotly.graph_objects.Figure(figure.data, figure.layout)`.

# %%
figure = client.jobs.figure(job, "fit")
print(figure.layout["title"]["text"], [trace.get("name") for trace in figure.data])

# %% [markdown]
# ## R4. A Sequential inside a class
#
# Nested names stay as PyTorch has them.

# %%
hidden = {"name": "hidden", "type": "Sequential", "layers": [linear(1, 10), {"type": "ReLU"}, linear(10, 1)]}
nested = net({"type": "Graph", "layers": [hidden], "forward": ["return hidden(x)"]})
adam = {
    **training,
    "architecture": nested,
    "optimizer": {"type": "Adam", "lr": 0.001},
    "budget": {"epochs": 100},
    "output": {"model": "nested"},
}
job = client.jobs.wait(client.jobs.submit(adam))
print(client.versions.read("nested", job.version, "table"))

# %% [markdown]
# ## R5. A long job, and a question outside of its range
#
# 50,000 steps on [-2, 2]. An input beyond that is answered, with a warning.

# %%
noise = {"type": "uniform", "scale": 0.5}
long = {
    **training,
    "architecture": sequential(linear(1, 10), {"type": "Tanh"}, linear(10, 1)),
    "dataset": {**parabola, "coefficients": [-2, 3, 1], "low": -2, "high": 2, "noise": noise},
    "optimizer": {"type": "SGD", "lr": 0.05},
    "budget": {"steps": 50_000},
    "output": {"model": "long"},
}
job = client.jobs.wait(client.jobs.submit(long))
answer = client.predict("long", [[0.0], [2.0], [2.5]])
print(f"loss {job.metrics['last']['loss']:.4f}", answer.outputs)
for warning in answer.warnings:
    print(warning.pointer, warning.code, warning.detail, "expected", warning.expected)
assert [warning.code for warning in answer.warnings] == ["outside-training-range"]

# %% [markdown]
# ## R6. Mini-batches
#
# Batches of 32 from 100 rows: four steps an epoch, or three when the last, smaller one is dropped.

# %%
for drop_last, steps in ((False, 4), (True, 3)):
    batches = {
        **training,
        "batch_size": 32,
        "shuffle": True,
        "drop_last": drop_last,
        "budget": {"epochs": 5},
        "output": {"model": "mini-batches"},
    }
    job = client.jobs.wait(client.jobs.submit(batches))
    print(f"drop_last={drop_last}: {job.progress['step']} steps in 5 epochs")
    assert job.progress["step"] == 5 * steps

# %%
client.close()
