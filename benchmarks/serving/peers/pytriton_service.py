"""Triton by PyTriton, with its dynamic batcher: Triton takes and batches requests, a Python function answers them."""

import os

import nets
import numpy as np
import torch
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

net = nets.served()


@batch
def answer(x: np.ndarray) -> dict[str, np.ndarray]:
    """Answer a batch."""
    with torch.inference_mode():
        return {"y": net(torch.from_numpy(x)).numpy()}


if __name__ == "__main__":
    port = int(os.environ["BENCH_PORT"])
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=port,
        allow_grpc=False,
        allow_metrics=False,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="net",
            infer_func=answer,
            inputs=[Tensor(name="x", dtype=np.float32, shape=nets.shape())],
            outputs=[Tensor(name="y", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()
