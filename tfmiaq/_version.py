"""The version of the package, alone, so that reading it loads nothing else."""

__version__ = "0.2.0"
