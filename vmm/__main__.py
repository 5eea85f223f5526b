"""``python -m vmm``: the command line."""

import sys

from vmm.cli import main

sys.exit(main())
