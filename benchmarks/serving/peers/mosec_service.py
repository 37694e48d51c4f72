"""mosec: JSON by its default codec on one route, the bytes of a float32 array on another; with or without batching.

Address and port come by mosec's own environment variables.
"""

import os
from typing import Any

import nets
import numpy as np
import torch
from mosec import Server, Worker


class Net(Worker):
    """One row a request, as JSON; mosec hands a list of them where it batches."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nets.served()

    def forward(self, data: Any) -> Any:
        """Answer a batch, or one row."""
        batched = self.max_batch_size > 1
        rows = np.array([self.row(each) for each in (data if batched else [data])], dtype=np.float32)
        with torch.inference_mode():
            answers = [{"y": row} for row in self.net(torch.from_numpy(rows)).tolist()]
        return answers if batched else answers[0]

    def row(self, data: Any) -> Any:
        """The numbers of one request."""
        return data["x"]


class BytesNet(Net):
    """The same for requests that are nothing but float32 numbers."""

    def deserialize(self, data: bytes) -> Any:
        """See the numbers where they lie."""
        return np.frombuffer(data, np.float32).reshape(nets.shape())

    def row(self, data: Any) -> Any:
        """They are what `deserialize` made."""
        return data


if __name__ == "__main__":
    batching = {"max_batch_size": 64, "max_wait_time": 1} if "BENCH_BATCHING" in os.environ else {}
    server = Server()
    server.append_worker(Net, route="/inference", **batching)
    server.append_worker(BytesNet, route="/bytes", **batching)
    server.run()
