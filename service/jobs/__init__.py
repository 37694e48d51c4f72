"""Slow work: the queue, the supervisor, the launchers and the worker process."""
