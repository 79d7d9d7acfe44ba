"""`python -m rlsys` is the program `rlsys`."""

from rlsys.cli import main

main()
