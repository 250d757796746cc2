"""Runs the command line: `python -m mvg`."""

from mvg.cli import main

main()
