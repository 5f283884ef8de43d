from .config import FineTuneConfig as FineTuneConfig
from .config import PostprocessConfig as PostprocessConfig
from .config import TrainConfig as TrainConfig
from .errors import LesionSegError as LesionSegError
from .evaluation.evaluate import evaluate as evaluate
from .finetuning.session import fine_tune as fine_tune
from .inference.landmarks import LandmarkModel as LandmarkModel
from .inference.landmarks import find_landmarks as find_landmarks
from .inference.landmarks import load_landmark_model as load_landmark_model
from .inference.predictor import Model as Model
from .inference.predictor import load_model as load_model
from .inference.predictor import segment as segment
from .types import Box as Box
from .types import Click as Click
from .types import Landmarks as Landmarks
from .types import Scribble as Scribble

__version__: str
