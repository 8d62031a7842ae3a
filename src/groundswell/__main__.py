"""``python -m groundswell``."""

from groundswell.cli.app import main

if __name__ == "__main__":
    main()
