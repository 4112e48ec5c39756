"""DVC that ends when who started it ends, however that ends: `python -m stages.pipeline.child repro ...`.

An orphan would go on with its list of stages, and its locks turn away the same command begun again.
"""

import sys

from stages.pipeline import stage


def main() -> int:
    """What `dvc` does with the same words; its exit code."""
    stage.die_with_parent()
    from dvc.cli import main as dvc  # its import takes a second, in which the parent may end

    return dvc()


if __name__ == "__main__":
    sys.exit(main())
