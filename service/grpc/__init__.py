"""The Open Inference Protocol over gRPC, where the extra `grpc` is installed; nothing else needs its packages."""
