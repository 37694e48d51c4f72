"""Modelyard: a REST service that trains, versions and serves PyTorch models as data."""

__version__ = "0.1.0"
