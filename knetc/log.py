"""What knetc tells those who ask: the logger `knetc`, and the command's `-v`.

`logging` is not imported for it: where nobody has imported it, nobody listens, and the command starts at once.
"""

from __future__ import annotations

import sys


def info(text: str) -> None:
    """A line of the logger `knetc`, of level INFO."""
    logging = sys.modules.get("logging")
    if logging is not None:
        logging.getLogger("knetc").info(text)


def show() -> None:
    """Writes those lines to standard error from now on."""
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("knetc: %(message)s"))
    logger = logging.getLogger("knetc")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
