"""Runs pieces of code as if they were a user's file `train.py`, and catches what they raise."""

import linecache

PREAMBLE = (
    "import numpy as np\n\nimport twofold as tw\nimport twofold.nn.functional as F\nfrom twofold import nn\n\n"
)
FILE = "train.py"


def message_of(code):
    """The message of the error that `code` raises, as Python prints it below a traceback."""
    source = PREAMBLE + code + "\n"
    linecache.cache[FILE] = (len(source), None, source.splitlines(keepends=True), FILE)
    try:
        exec(compile(source, FILE, "exec"), {"__name__": "__main__"})
    except Exception as error:
        return "\n".join(line.rstrip() for line in f"{type(error).__name__}: {error}".splitlines())
    finally:
        del linecache.cache[FILE]
    raise AssertionError(f"no error from\n{code}")
