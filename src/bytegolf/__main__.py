"""`python -m bytegolf`, and `torchrun -m bytegolf`."""

import sys

from bytegolf.cli import main

sys.exit(main())
