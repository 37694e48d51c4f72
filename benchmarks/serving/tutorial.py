"""What tutorials write: FastAPI, a pydantic body, `torch.tensor` of a list, one forward pass for each request."""

import torch
from fastapi import FastAPI
from pydantic import BaseModel

torch.set_num_threads(1)
torch.manual_seed(0)
app = FastAPI()
net = torch.nn.Sequential(torch.nn.Linear(1, 10), torch.nn.ReLU(), torch.nn.Linear(10, 1)).eval()


class Body(BaseModel):
    """Rows."""

    model: str
    inputs: list[list[float]]


class Answer(BaseModel):
    """Their answers."""

    outputs: list[list[float]]


@app.post("/predict")
def predict(body: Body) -> Answer:
    """Answer the rows."""
    with torch.no_grad():
        return Answer(outputs=net(torch.tensor(body.inputs)).tolist())
