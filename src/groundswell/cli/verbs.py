"""Every verb, in the order in which ``--help`` lists them: the way of the data."""

# isort: off
