from __future__ import annotations

import numpy as np
from tests.plugin.editor.fakes import PLAIN, RecordedEditor, base_mask


def test_the_threshold_is_moved_without_the_network(predicted: RecordedEditor) -> None:
    asked = len(predicted.requests.model.inputs)
    for threshold in (0.45, 0.42, 0.38):
        predicted.set_config(PLAIN.model_copy(update={"threshold": threshold}))
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask(0.38))
    assert len(predicted.requests.model.inputs) == asked
    assert predicted.kinds == ["threshold"] * 3
    predicted.undo()
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())
    assert predicted.requests.config == PLAIN
