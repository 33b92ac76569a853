"""`python -m tfmiaq`, the command line where its script is not on the PATH."""

from tfmiaq.cli.parsing import main

main()
