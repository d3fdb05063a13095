"""Registration with the Auto classes of transformers, by which `from_pretrained` finds the model.

transformers has no entry points for plugins: a package must be imported and register its classes. Importing them
takes seconds, so `import owl2` alone only arranges for it to happen, in this order:

1. `register_when_needed` puts a finder in front of `sys.meta_path`, or acts at once for what is imported already.
2. When the module of `AutoConfig` has been imported, it gets a stand-in for each of our configurations, which is
   replaced by the real one as soon as somebody makes a configuration with it. No Auto class can choose a model before.
   (The module of `AutoModel` would be too early: other modules of transformers import it halfway through their own.)
3. When `owl2.modeling` has been imported, by a stand-in or by a user, configurations and models are registered.
4. When the modules of `AutoProcessor` and `AutoImageProcessor` have been imported, the processors are.

The finder finds nothing itself and changes no module; it leaves `sys.meta_path` when all four have happened.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from threading import Lock
from types import ModuleType
from typing import Any

_AUTO = "transformers.models.auto"


def register_when_needed() -> None:
    """Makes the Auto classes know the model as soon as they are imported; where torch is missing, nothing happens."""
    if find_spec("torch") is None:  # owl2.evaluation.metrics works without it
        return
    finder = _AfterImport(
        {
            f"{_AUTO}.configuration_auto": _register_stand_ins,
            f"{_AUTO}.modeling_auto": _register_name,
            "owl2.modeling": _register_models,
            f"{_AUTO}.processing_auto": _register_processor,
            f"{_AUTO}.image_processing_auto": _register_image_processor,
        }
    )
    sys.meta_path.insert(0, finder)
    finder.catch_up()


class _StandIn:
    """Stands in `AutoConfig` for a configuration whose class is not imported yet; importing it replaces this."""

    model_type: str

    @classmethod
    def _real(cls) -> Any:
        return getattr(import_module("owl2.modeling"), cls.__name__)

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real()(*args, **kwargs)

    @classmethod
    def from_dict(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real().from_dict(*args, **kwargs)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real().from_pretrained(*args, **kwargs)


class Owl2Config(_StandIn):
    model_type = "mplug_owl2"


class Owl2VisionConfig(_StandIn):
    model_type = "mplug_owl2_vision"


class Owl2AbstractorConfig(_StandIn):
    model_type = "mplug_owl2_abstractor"


class Owl2TextConfig(_StandIn):
    model_type = "mplug_owl2_text"


_STAND_INS = (Owl2Config, Owl2VisionConfig, Owl2AbstractorConfig, Owl2TextConfig)


def _register_stand_ins() -> None:
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for stand_in in _STAND_INS:
        if stand_in.model_type not in CONFIG_MAPPING:
            AutoConfig.register(stand_in.model_type, stand_in)


def _register_name() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    # `transformers serve` looks the class up by name here.
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[Owl2Config.model_type] = "Owl2ForConditionalGeneration"


def _register_models() -> None:
    from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM

    from owl2 import modeling

    for stand_in in _STAND_INS:
        AutoConfig.register(stand_in.model_type, getattr(modeling, stand_in.__name__), exist_ok=True)
    AutoModel.register(modeling.Owl2Config, modeling.Owl2Model, exist_ok=True)
    AutoModel.register(modeling.Owl2TextConfig, modeling.Owl2LanguageDecoder, exist_ok=True)
    AutoModel.register(modeling.Owl2VisionConfig, modeling.Owl2VisionEncoder, exist_ok=True)
    AutoModelForImageTextToText.register(modeling.Owl2Config, modeling.Owl2ForConditionalGeneration, exist_ok=True)
    AutoModelForMultimodalLM.register(modeling.Owl2Config, modeling.Owl2ForConditionalGeneration, exist_ok=True)


def _register_processor() -> None:
    from transformers import AutoProcessor

    from owl2.modeling import Owl2Config
    from owl2.processing import Owl2Processor

    AutoProcessor.register(Owl2Config, Owl2Processor, exist_ok=True)


def _register_image_processor() -> None:
    from transformers import AutoImageProcessor

    from owl2.modeling import Owl2Config
    from owl2.processing import Owl2ImageProcessor

    try:
        AutoImageProcessor.register(Owl2Config, image_processor_classes={"pil": Owl2ImageProcessor}, exist_ok=True)
    except ImportError:  # transformers 5.17 has none without torchvision; Owl2Processor does not need it
        pass


class _AfterImport(MetaPathFinder):
    """Calls a function after a module has been imported, each once.

    Args:
        actions: The function of each module.
    """

    def __init__(self, actions: dict[str, Callable[[], None]]) -> None:
        self._actions = actions
        self._lock = Lock()

    def catch_up(self) -> None:
        """Calls the functions of the modules that are imported already."""
        for name in [name for name in self._actions if name in sys.modules]:
            import_module(name)  # waits for a thread that is importing it
            self._act(name)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module that we wait for, as the other finders give it, with a loader that then acts."""
        if fullname not in self._actions:
            return None
        for finder in list(sys.meta_path):
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _ActingLoader(spec.loader, lambda: self._act(fullname))
                return spec
        return None

    def _act(self, name: str) -> None:
        with self._lock:
            action = self._actions.pop(name, None)
            if not self._actions and self in sys.meta_path:
                sys.meta_path.remove(self)
        if action is not None:
            action()


class _ActingLoader(Loader):
    """Loads a module with its own loader, and then acts."""

    def __init__(self, loader: Any, act: Callable[[], None]) -> None:
        self._loader = loader
        self._act = act

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._act()
