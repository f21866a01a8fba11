"""For python -m brainedit.cli, as torchrun starts it."""

from brainedit.cli import main

main()
