"""The only importers of napari and Qt: layers, session, workers, panels, readers and writers."""
