"""``python -m longshore.link DIR``."""

import sys

from longshore.link import main

sys.exit(main())
