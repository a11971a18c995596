"""``python -m runhold`` is the ``runhold`` command."""

from runhold.cli import main

if __name__ == "__main__":
    main()
