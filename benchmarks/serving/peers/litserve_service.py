"""LitServe, as its documentation shows: a LitAPI with or without batching, one worker, one API server."""

import os

import litserve
import nets
import torch


class Net(litserve.LitAPI):
    """One row a request."""

    def setup(self, device: str) -> None:
        """Load the net in the worker."""
        self.net = nets.served()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe would have types validated
        """The row; LitServe stacks those of a batch."""
        return torch.tensor(request["x"])

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """A batch where there is batching, else one row."""
        with torch.inference_mode():
            return self.net(x) if self.max_batch_size > 1 else self.net(x[None])[0]

    def encode_response(self, output):  # type: ignore[no-untyped-def]  # as above
        """One row of the answer."""
        return {"y": output.tolist()}


if __name__ == "__main__":
    batching = {"max_batch_size": 64, "batch_timeout": 0.001} if "BENCH_BATCHING" in os.environ else {}
    server = litserve.LitServer(Net(**batching), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
