"""Which Longshore this is. Not asked of the package's metadata: that takes 25 ms, and they are of every start.

pyproject.toml says it too; a test compares them.
"""

VERSION = "0.1.0"
