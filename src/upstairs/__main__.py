"""`python -m upstairs`: the command `upstairs`, where it is not on the path."""

from upstairs.cli.app import main

if __name__ == "__main__":
    main()
