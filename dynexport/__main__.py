"""``python -m dynexport``."""

from dynexport.cli import main

main()
