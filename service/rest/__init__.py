"""The HTTP front: it translates requests to calls of the planes and back. No rule lives here."""
