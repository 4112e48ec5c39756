"""The download stage on FOLDER/songs in a small process: its workers are charged with the memory they were forked from.

How much it took, and the largest of them, goes to FOLDER/memory.json.
"""

import resource
import sys
from pathlib import Path

from stages import download
from stages.pipeline import artifacts, workers


def main(folder: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    workers.num_cores = lambda: 2  # a pool that can be ended before it is measured
    config = download.Config("folder", {"path": str(folder / "songs")})
    download.run(config, folder / "raw", folder / "work")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    from joblib.externals.loky import get_reusable_executor  # as late as the stage loads it

    get_reusable_executor().shutdown(wait=True)
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    artifacts.write_json(folder / "memory.json", {"grown": 1024 * grown, "workers": 1024 * largest})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
