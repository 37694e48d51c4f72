"""What tutorials write: FastAPI, a pydantic body, `torch.tensor` of a list, one forward pass for each request."""

import nets
import torch
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
net = nets.served()


class Body(BaseModel):
    """Rows."""

    inputs: list[list[float]] | list[list[list[list[float]]]]


class Answer(BaseModel):
    """Their answers."""

    outputs: list[list[float]]


@app.post("/predict")
def predict(body: Body) -> Answer:
    """Answer the rows."""
    with torch.no_grad():
        return Answer(outputs=net(torch.tensor(body.inputs)).tolist())
