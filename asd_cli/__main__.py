"""``python -m asd_cli`` is ``asd``."""

from asd_cli.cli import main

if __name__ == "__main__":
    main(prog_name="asd")
