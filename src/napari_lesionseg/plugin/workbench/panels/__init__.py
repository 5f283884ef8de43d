"""The workbench's panels, one a module."""
