"""`python -m novacron_cache`: the command line of the interpreter at hand, where the script is not on `PATH`."""

from .cli import main

if __name__ == "__main__":
    main()
