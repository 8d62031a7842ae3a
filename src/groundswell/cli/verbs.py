"""Every verb, in the order in which ``--help`` lists them: the way of the data."""

# isort: off

from groundswell.cli import demo  # noqa: F401
from groundswell.cli import simulate  # noqa: F401
from groundswell.cli import ingest  # noqa: F401
from groundswell.cli import stats  # noqa: F401
from groundswell.cli import inspect  # noqa: F401
from groundswell.cli import collocate  # noqa: F401
from groundswell.cli import views  # noqa: F401
from groundswell.cli import pretrain  # noqa: F401
from groundswell.cli import ablate  # noqa: F401
from groundswell.cli import embed  # noqa: F401
from groundswell.cli import attend  # noqa: F401
from groundswell.cli import probe  # noqa: F401
from groundswell.cli import predict  # noqa: F401
from groundswell.cli import report  # noqa: F401
from groundswell.cli import search  # noqa: F401
from groundswell.cli import list_  # noqa: F401
