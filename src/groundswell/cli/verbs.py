"""Every verb, in the order in which ``--help`` lists them: the way of the data."""

# isort: off

from groundswell.cli import stats  # noqa: F401
from groundswell.cli import embed  # noqa: F401
from groundswell.cli import search  # noqa: F401
