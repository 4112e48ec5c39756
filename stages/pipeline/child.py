"""DVC that ends when who started it ends, however that ends: `python -m stages.pipeline.child repro ...`.

An orphan would go on with its list of stages, and its locks turn away the same command begun again.
"""

import sys

from dvc.cli import main

from stages.pipeline import stage

if __name__ == "__main__":
    stage.die_with_parent()
    sys.exit(main())
