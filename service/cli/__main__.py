"""`python -m service.cli` is the command."""

from service.cli import main

main()
