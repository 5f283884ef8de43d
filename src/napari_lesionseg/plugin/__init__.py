"""The only importers of napari and Qt: layers, session, workers, panels, annotators and writers."""

# Before Qt: PySide6 looks at each module while it is imported, and where there are no sources, as in the
# installed program, pydantic then imports itself in a circle.
import napari_lesionseg.config  # noqa: F401
