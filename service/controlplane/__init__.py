"""The control plane: what clients can ask for, apart from predictions."""
