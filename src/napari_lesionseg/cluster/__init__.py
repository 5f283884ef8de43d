"""Work on many images at once: chunks of files, in this process or on a dask cluster."""
