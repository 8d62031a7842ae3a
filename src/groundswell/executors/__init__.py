"""One list of tasks, worked through in this process, by local processes, by a Dask cluster or by a Slurm array."""
