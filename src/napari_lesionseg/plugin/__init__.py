"""The only importers of napari and Qt: layers, session, workers, panels, annotators and writers."""
