"""The brush behind :mod:`napari_lesionseg.data.synthetic`: textures, skin, lesions and people."""
