"""The dashboard at /ui/: hand-written ES modules that speak to the same API as every other client."""
