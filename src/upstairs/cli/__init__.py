"""The command line. Nothing here imports torch before a command needs it."""

from upstairs.cli.app import main

__all__ = ["main"]
