"""`python -m terrazzo`."""

from terrazzo.cli import main

main()
