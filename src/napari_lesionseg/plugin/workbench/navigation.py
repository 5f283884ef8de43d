"""The way through a study's images: how they are sorted, what comes next, what was seen before."""

from __future__ import annotations

from collections.abc import Callable, Collection

from napari_lesionseg.study.queue import Order, arrange, next_image
from napari_lesionseg.study.state import ImageState, Status
from napari_lesionseg.study.study import Study


class Navigation:
    """The queue of a study, and the annotator's way through it.

    Parameters
    ----------
    study : Study
        The study.
    signed : callable
        Gives the images whose verdict is on its way to the disk.
    """

    def __init__(self, study: Study, signed: Callable[[], frozenset[str]]) -> None:
        self._study, self._with_verdict = study, signed
        self._visited: list[str] = []
        self.order, self.search = Order.NAME, ""
        self.statuses: frozenset[Status] | None = None

    @property
    def queue(self) -> list[ImageState]:
        """The images as they are filtered and sorted."""
        images = self._study.state.images.values()
        return arrange(images, self.order, search=self.search, statuses=self.statuses)

    @property
    def has_begun(self) -> bool:
        """Whether an image was left already."""
        return bool(self._visited)

    def sort(self, order: Order, search: str, statuses: Collection[Status] | None) -> None:
        """Choose which images the queue shows, and in which order."""
        self.order, self.search = order, search
        self.statuses = None if statuses is None else frozenset(statuses)

    def next_of(self, image_id: str | None, skip: Collection[str] = ()) -> str | None:
        """Name the next image without a verdict, from one on; None when there is none."""
        away = self._with_verdict() | set(skip)
        waiting = [state for state in self.queue if state.image_id == image_id or state.image_id not in away]
        state = next_image(waiting, image_id)
        return None if state is None else state.image_id

    def ahead_of(self, image_id: str, count: int) -> list[str]:
        """Name the images that will probably be wanted after one."""
        ahead: list[str] = []
        current: str | None = image_id
        while len(ahead) < count:
            current = self.next_of(current, skip=(image_id, *ahead))
            if current is None:
                break
            ahead.append(current)
        return ahead

    def note_left(self, image_id: str) -> None:
        """Note that an image was on the screen, to come back to it."""
        self._visited.append(image_id)

    def before(self, image_id: str | None) -> str | None:
        """Name the image that was on the screen before this one; None when there was none."""
        return next((left for left in reversed(self._visited) if left != image_id), None)

    def go_back_from(self, image_id: str | None) -> None:
        """Forget the last step of the way, since the annotator goes it back."""
        left = [place for place, name in enumerate(self._visited) if name != image_id]
        del self._visited[left[-1] if left else 0 :]
