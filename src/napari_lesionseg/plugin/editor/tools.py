"""The table of all correction tools: it feeds buttons, keys, `napari.yaml` and the documentation of keys.

A new tool is one entry in `TOOLS`, and the function that it calls. No Qt in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from napari_lesionseg.masks import morphology
from napari_lesionseg.plugin.editor import view_tools
from napari_lesionseg.plugin.napari_layers.layers import show_as
from napari_lesionseg.plugin.settings import read_outline_style, save_outline_style
from napari_lesionseg.types import ByteImage, LabelImage

if TYPE_CHECKING:
    from napari_lesionseg.plugin.editor.editor import MaskEditor
    from napari_lesionseg.plugin.editor.mouse import EditMouse, Mode

Need: TypeAlias = Literal["image", "model", "outline", "prediction", "undo", "redo"]


@dataclass(slots=True)
class ToolContext:
    """What a tool acts on."""

    editor: MaskEditor
    mouse: EditMouse
    class_count: int = 1


@dataclass(frozen=True, slots=True)
class MaskEdit:
    """A tool that turns a mask into another one, class by class.

    The next prediction discards the work of a tool that `reshapes`. `no_effect` is for when nothing changes.
    """

    function: Callable[..., LabelImage]
    no_effect: str
    reshapes: bool = False
    uses_image: bool = False
    at_pointer: bool = False

    def __call__(self, context: ToolContext) -> None:
        """Apply the tool, if it needs a point, at the mouse pointer."""
        editor = context.editor
        point = None
        if self.at_pointer:
            row, col = editor.labels.world_to_data(editor.viewer.cursor.position)[-2:]
            point = float(row), float(col)
        editor.apply(self, point)

    def run(
        self,
        mask: LabelImage,
        active: int,
        image: ByteImage | None = None,
        point: tuple[float, float] | None = None,
    ) -> LabelImage:
        """Return the new mask: of the active class if the mask has it, else of all classes."""
        if self.at_pointer:
            return mask if point is None else self.function(mask, *point)
        present = [int(label) for label in np.flatnonzero(np.bincount(mask.ravel(), minlength=2)[1:]) + 1]
        for label in [active] if active in present else present:
            mask = self.function(image, mask, label) if self.uses_image else self.function(mask, label)
        return mask


@dataclass(frozen=True, slots=True)
class MouseMode:
    """A tool used with the mouse: selected, and deselected when it is chosen again."""

    mode: Mode
    positive: bool = True

    def __call__(self, context: ToolContext) -> None:
        """Select or deselect the tool."""
        selected = self.is_selected(context)
        context.editor.viewer.layers.selection.active = context.editor.labels
        context.mouse.start("off" if selected else self.mode, self.positive)

    def is_selected(self, context: ToolContext) -> bool:
        """Whether the mouse does this."""
        mouse = context.mouse
        return mouse.mode == self.mode and (self.mode != "click" or mouse.positive == self.positive)


@dataclass(frozen=True, slots=True)
class Holding:
    """Collects prompts until it is chosen again; then the network runs once with all of them."""

    def __call__(self, context: ToolContext) -> None:
        """Begin or end collecting."""
        context.editor.requests.hold(not self.is_selected(context))

    def is_selected(self, context: ToolContext) -> bool:
        """Whether prompts are being collected."""
        return context.editor.requests.holding


@dataclass(frozen=True, slots=True)
class BrushSize:
    """Makes the brush larger or smaller by a factor."""

    factor: float

    def __call__(self, context: ToolContext) -> None:
        """Change the size, by a pixel of the screen at least."""
        brush = context.mouse.brush
        step = max(1, round(abs(self.factor - 1) * brush.pixels))
        brush.resize(brush.pixels + (step if self.factor > 1 else -step))


@dataclass(frozen=True, slots=True)
class OutlineLook:
    """Changes how outlines are drawn, and the preferences with it."""

    wider: int = 0
    stronger: float = 0.0

    def __call__(self, context: ToolContext) -> None:
        """Change the style; all open outlines follow."""
        style = read_outline_style()
        width, opacity = style.width + self.wider, style.opacity + self.stronger
        save_outline_style(replace(style, width=width, opacity=opacity))


@dataclass(frozen=True, slots=True)
class LayerMode:
    """One of napari's own drawing tools: selected, and deselected when it is chosen again."""

    mode: str

    def __call__(self, context: ToolContext) -> None:
        """Select or deselect the tool."""
        labels = context.editor.labels
        context.mouse.start("off")
        context.editor.viewer.layers.selection.active = labels
        labels.mode = "pan_zoom" if str(labels.mode) == self.mode else self.mode

    def is_selected(self, context: ToolContext) -> bool:
        """Whether the mouse does this."""
        return context.mouse.mode == "off" and str(context.editor.labels.mode) == self.mode


def back_to_prediction(context: ToolContext) -> None:
    """Draw the model's own prediction, without clicks and manual edits."""
    context.editor.reset(context.editor.snapshot.initial_prediction)


def place_box(context: ToolContext) -> None:
    """Place a box by keyboard, or put it away."""
    keys = context.mouse.box_keys
    if keys.box is None:
        context.mouse.start("off")
        keys.start()
        context.editor.noted.emit("Arrow keys move the box, with Alt they resize it; Enter outlines.")
    else:
        keys.stop()


def clear(context: ToolContext) -> None:
    """Remove the whole mask."""
    from napari_lesionseg.inference.prediction import Prediction  # loads PyTorch, which takes seconds

    height, width = context.editor.snapshot.mask.shape
    context.editor.reset(Prediction.empty((height, width)))


def remove_last_click(context: ToolContext) -> None:
    """Remove the last click."""
    context.editor.remove_last_stroke()


def next_class(context: ToolContext) -> None:
    """Paint the next class."""
    if context.class_count == 1:
        context.editor.noted.emit("There is only one class.")
        return
    active = context.editor.document.active_class
    context.editor.labels.selected_label = active % context.class_count + 1


def undo(context: ToolContext) -> None:
    """Undo the last step."""
    context.editor.undo()


def redo(context: ToolContext) -> None:
    """Redo the last step."""
    context.editor.redo()


def hide(context: ToolContext) -> Iterator[None]:
    """Hide the mask while a key is held."""
    labels, opacity = context.editor.labels, context.editor.labels.opacity
    labels.opacity = 0  # a layer made invisible could not be drawn into afterwards
    yield
    labels.opacity = opacity


def show_filled(context: ToolContext) -> Iterator[None]:
    """Fill the mask while a key is held."""
    labels = context.editor.labels
    contour, opacity = labels.contour, labels.opacity
    show_as(labels, filled=True)
    yield
    labels.contour, labels.opacity = contour, opacity


def move_image(context: ToolContext) -> Iterator[None]:
    """Move the image with the mouse while a key is held."""
    mouse, labels = context.mouse, context.editor.labels
    mode = str(labels.mode)
    mouse.panning = True
    labels.mode = "pan_zoom"
    yield
    mouse.panning = False
    labels.mode = mode


@dataclass(frozen=True, slots=True)
class Tool:
    """One correction tool."""

    id: str  # names the button, the key in the preferences and the row in the documentation
    function: Callable[[ToolContext], Any]  # a generator function continues when its key is released
    button: str  # the button's text; empty: no button
    key: str
    tooltip: str
    needs: Need = "image"
    row: int = 0  # of the panel; within a row, buttons follow the order of `TOOLS`
    mouse_mode: MouseMode | None = None  # what the button does, if its key acts at the pointer

    @property
    def title(self) -> str:
        """The id as words."""
        return self.id.replace("_", " ").capitalize()

    @property
    def on_button(self) -> Callable[[ToolContext], Any]:
        """What the button does."""
        return self.mouse_mode or self.function


SELECTABLE = (MouseMode, LayerMode, Holding)
"""Tools that stay selected until they are chosen again."""

REMOVE_PART = MaskEdit(
    morphology.remove_part, "There is no part here. Point at one, and try again.", at_pointer=True
)

TOOLS = (
    Tool(
        "positive_click",
        MouseMode("click", positive=True),
        "+ click",
        "C",
        "Click or scribble on what belongs to the lesion; the right button does the opposite",
        "model",
    ),
    Tool(
        "negative_click",
        MouseMode("click", positive=False),
        "\N{MINUS SIGN} click",
        "N",
        "Click or scribble on what does not belong to the lesion",
        "model",
    ),
    Tool(
        "box",
        MouseMode("box"),
        "Box",
        "R",
        "Draw a box around the lesion to outline it again; with Shift, to add a lesion",
        "model",
    ),
    Tool(
        "lasso",
        MouseMode("lasso"),
        "Lasso",
        "L",
        "Draw around the lesion, roughly, to outline it again; with Shift, to add a lesion",
        "model",
    ),
    Tool(
        "place_box",
        place_box,
        "",
        "Shift+R",
        "Place a box with the arrow keys, resize it with Alt and an arrow key; Enter outlines the lesion, "
        "Esc cancels",
        "model",
    ),
    Tool("remove_last_click", remove_last_click, "", "Backspace", "Remove the last click or scribble"),
    Tool(
        "hold",
        Holding(),
        "Hold",
        "I",
        "Collect clicks, scribbles and a box or lasso, then outline once with all of them",
        "model",
    ),
    Tool("brush", LayerMode("paint"), "Brush", "P", "Paint lesion", row=1),
    Tool("eraser", LayerMode("erase"), "Eraser", "E", "Erase lesion", row=1),
    Tool("fill", LayerMode("fill"), "Fill", "F", "Fill a connected area", row=1),
    Tool(
        "polygon",
        LayerMode("polygon"),
        "Polygon",
        "G",
        "Draw around an area, corner by corner; double-click to finish",
        row=1,
    ),
    Tool(
        "smooth",
        MaskEdit(morphology.smooth, "The outline is smooth already.", reshapes=True),
        "Smooth",
        "S",
        "Smooth the outline",
        "outline",
        2,
    ),
    Tool(
        "snap",
        MaskEdit(
            morphology.snap, "The outline is on the nearest edge already.", reshapes=True, uses_image=True
        ),
        "Snap",
        "T",
        "Move the outline to nearby edges of the image",
        "outline",
        2,
    ),
    Tool(
        "fill_holes",
        MaskEdit(morphology.fill_holes, "The outline has no holes."),
        "Fill holes",
        "O",
        "Fill the holes in the outline",
        "outline",
        2,
    ),
    Tool(
        "largest_part",
        MaskEdit(morphology.largest_part, "The outline has only one part."),
        "Largest",  # the whole title has no room where the letters are large
        "J",
        "Keep only the largest part",
        "outline",
        2,
    ),
    Tool(
        "split",
        MaskEdit(morphology.split, "The outline is narrow nowhere. Draw a line with the eraser."),
        "Split",
        "K",
        "Separate two lesions at the narrowest point",
        "outline",
        3,
    ),
    Tool(
        "merge",
        MaskEdit(morphology.merge, "The outline has only one part."),
        "Merge",
        "U",
        "Join the largest part and the one nearest to it",
        "outline",
        3,
    ),
    Tool(
        "remove_part",
        REMOVE_PART,
        "Remove part",
        "D",
        "Remove a part: click it, or point at it and press the key",
        "outline",
        3,
        MouseMode("remove"),
    ),
    Tool("clear", clear, "Clear", "0", "Remove the whole outline", "outline", 3),
    Tool(
        "back_to_prediction",
        back_to_prediction,
        "Back to prediction",
        "Y",
        "Discard all corrections and return to the model's own outline",
        "prediction",
        4,
    ),
    Tool("undo", undo, "Undo", "Ctrl+Z", "Undo the last step", "undo", 4),
    Tool("redo", redo, "Redo", "Ctrl+Shift+Z", "Redo the step that was undone last", "redo", 4),
    Tool("bigger_brush", BrushSize(1.25), "", "]", "Enlarge the brush"),
    Tool("smaller_brush", BrushSize(0.8), "", "[", "Make the brush smaller"),
    Tool("wider_outline", OutlineLook(wider=1), "", "Shift+Up", "Draw the outline one pixel wider"),
    Tool("narrower_outline", OutlineLook(wider=-1), "", "Shift+Down", "Draw the outline one pixel narrower"),
    Tool("stronger_outline", OutlineLook(stronger=0.1), "", "Shift+Right", "Make the outline more visible"),
    Tool("fainter_outline", OutlineLook(stronger=-0.1), "", "Shift+Left", "Make the outline less visible"),
    Tool("next_class", next_class, "", ".", "Paint the next class"),
    Tool("hide", hide, "", "H", "Hide the outline while the key is held"),
    Tool("show_filled", show_filled, "", "A", "Fill the outline while the key is held"),
    Tool("move_image", move_image, "", "Space", "Move the image with the mouse while the key is held"),
    Tool(
        "show_original",
        view_tools.show_original,
        "",
        "B",
        "Show the model's own outline, before your corrections, while the key is held",
        "prediction",
    ),
    Tool("fit", view_tools.fit, "", "Home", "Show the whole image"),
    Tool("zoom_to_lesion", view_tools.zoom_to_lesion, "", "End", "Zoom to the lesion", "outline"),
)
