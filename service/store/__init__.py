"""Bytes and rows: the database, versions, datasets and uploads. Knows no tensors."""
