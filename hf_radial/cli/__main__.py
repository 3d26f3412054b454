"""`python -m hf_radial.cli`, the same as `hf-radial`."""

import sys

from hf_radial.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
