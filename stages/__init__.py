"""Partita: a file here is a DVC stage, a folder is library."""

import os

PARENT = os.getppid()
"""Who started this process, noted before anything slow is imported: a stage ends when its dvc does."""
