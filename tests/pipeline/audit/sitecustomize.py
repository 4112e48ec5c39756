"""Loaded by every Python process of the walk (PYTHONPATH): what a stage opened and which of our modules it loaded."""

import atexit
import os
import sys
from pathlib import Path

if os.environ.get("DVC_STAGE") and os.environ.get("AUDIT_FOLDER"):
    root = os.getcwd()
    opened = set()

    def listen(event, arguments):
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if path.startswith(root + os.sep):
                opened.add(os.path.relpath(path, root))

    def tell():
        modules = sorted(
            os.path.relpath(module.__file__, root)
            for name, module in list(sys.modules.items())
            if name.split(".")[0] == "stages" and getattr(module, "__file__", None)
        )
        lines = [f"open {path}" for path in sorted(opened)] + [f"load {path}" for path in modules]
        file = Path(os.environ["AUDIT_FOLDER"], f"{os.environ['DVC_STAGE']}.{os.getpid()}")
        file.write_text("\n".join(lines))

    sys.addaudithook(listen)
    atexit.register(tell)
