from .config import FineTuneConfig as FineTuneConfig
from .config import PostprocessConfig as PostprocessConfig
from .config import TrainConfig as TrainConfig
from .engine.evaluation import evaluate as evaluate
from .engine.finetuning import fine_tune as fine_tune
from .engine.inference import Model as Model
from .engine.inference import load_model as load_model
from .engine.inference import segment as segment
from .errors import LesionSegError as LesionSegError
from .types import Box as Box
from .types import Click as Click

__version__: str
