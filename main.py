"""`python main.py <action> -c config.json`: hands over to the command line of the library."""

import sys

from guided_diffusion.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
