"""``python -m lkca``."""

from lkca.cli import main

if __name__ == "__main__":
    main()
