"""The command line: what the functions of the same names do, for files."""

from tfmiaq.cli.inputs import function_of, policy_of
from tfmiaq.cli.parsing import main, parser

__all__ = ["function_of", "main", "parser", "policy_of"]
