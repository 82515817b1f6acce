"""Any image model of timm as a teacher: its pooled features, or the probabilities of its classes."""

from typing import TYPE_CHECKING, Any

from dr_pipeline.models.image_module import ClassifierModule, ImageModule

if TYPE_CHECKING:
    import torch

    from dr_pipeline.networks.cost import Cost
    from dr_pipeline.networks.images import ImageSpec


class TimmTeacher(ImageModule):
    """A teacher's card: `use: dr_pipeline.models.timm:TimmTeacher`; options as for `TimmClassifier`.

    An embedding is what the model gives to its classifier. `pooling` is timm's `global_pool`, such as `token` or `avg`;
    default the model's own.
    """

    @staticmethod
    def cost(
        model: str,
        weights: str,
        num_classes: int | None = None,
        image_size: int | None = None,
        pooling: str | None = None,
    ) -> "Cost | None":
        """The cost of the model. Raises ModelError where timm has no such model or weights."""
        from dr_pipeline.models.image_module import image_module_cost

        module, image = _build_without_weights(model, weights, num_classes, image_size)
        module.reset_classifier(0, pooling)
        return image_module_cost(model, module, image.image_size)

    def __init__(
        self,
        device: "torch.device",
        model: str,
        weights: str,
        num_classes: int | None = None,
        image_size: int | None = None,
        pooling: str | None = None,
    ):
        module, image = _load(model, weights, num_classes, image_size)
        module.reset_classifier(0, pooling)
        super().__init__(module, image, device, model)


class TimmClassifier(ClassifierModule):
    """A teacher's card: `use: dr_pipeline.models.timm:TimmClassifier`.

    `model`: a name of timm. `weights`: `pretrained`, which the name's tag tells of several, or as `find_weights`.
    `num_classes`: those that the weights were trained for; default timm's record. `image_size`: default timm's record.
    `temperature` divides the logits.
    """

    @staticmethod
    def cost(
        model: str,
        weights: str,
        num_classes: int | None = None,
        image_size: int | None = None,
        temperature: float = 1.0,
    ) -> "Cost | None":
        """The cost of the model. Raises ModelError where timm has no such model or weights."""
        from dr_pipeline.models.image_module import image_module_cost

        module, image = _build_without_weights(model, weights, num_classes, image_size)
        return image_module_cost(model, module, image.image_size)

    def __init__(
        self,
        device: "torch.device",
        model: str,
        weights: str,
        num_classes: int | None = None,
        image_size: int | None = None,
        temperature: float = 1.0,
    ):
        from dr_pipeline.errors import ModelError

        module, image = _load(model, weights, num_classes, image_size)
        if not module.num_classes:
            raise ModelError(f"model {model} has no classes: set options.num_classes to those of its weights")
        super().__init__(module, image, device, model, temperature)


def _load(model: str, weights: str, num_classes: int | None, image_size: int | None) -> "tuple[Any, ImageSpec]":
    """The module with its weights, and the images that it takes. Raises ModelError."""
    from dr_pipeline.networks.architecture import same_random_numbers
    from dr_pipeline.networks.weights import find_weights, read_weights

    _check_name(model)
    checkpoint = find_weights(model, weights)
    record = {"source": "", "custom_load": False}
    if checkpoint is not None:
        record["state_dict"] = read_weights(checkpoint)
    with same_random_numbers(model):
        return _build(model, record, num_classes, image_size)


def _build_without_weights(
    model: str, weights: str, num_classes: int | None, image_size: int | None
) -> "tuple[Any, ImageSpec]":
    """The module on the meta device, and the images that it takes. Raises ModelError."""
    import torch

    from dr_pipeline.networks.weights import check_weights

    _check_name(model)
    check_weights(model, weights)
    with torch.device("meta"):
        return _build(model, {}, num_classes, image_size)


def _check_name(model: str) -> None:
    """Raise ModelError where timm has no such model."""
    import timm

    from dr_pipeline.errors import ModelError, nearest

    if not timm.is_model(model):
        known = nearest(model, timm.list_models()) or "; timm.list_models() lists what there is"
        raise ModelError(f"model {model}: timm has no such model{known}")


def _build(
    model: str, record: dict[str, Any], num_classes: int | None, image_size: int | None
) -> "tuple[Any, ImageSpec]":
    """The module, and the images that it takes. `record` changes timm's of its weights: a `state_dict` there is loaded.

    Raises ModelError.
    """
    import timm

    from dr_pipeline.errors import ModelError
    from dr_pipeline.networks.files import first_line
    from dr_pipeline.networks.images import ImageSpec

    if num_classes is not None:
        record = {**record, "num_classes": num_classes}
    try:
        module: Any = timm.create_model(model, pretrained="state_dict" in record, pretrained_cfg_overlay=record)
        if image_size is not None and hasattr(module, "set_input_size"):
            module.set_input_size((image_size, image_size))
    except Exception as error:
        raise ModelError(f"model {model}: timm cannot build it, or load its weights: {first_line(error)}") from error
    module.pretrained_cfg.pop("state_dict", None)
    known = timm.data.resolve_model_data_config(module)
    _, height, width = known["input_size"]
    if image_size is None and height != width:
        raise ModelError(f"model {model} takes images of {height}×{width}; only square views are made")
    return module, ImageSpec(image_size or height, tuple(known["mean"]), tuple(known["std"]))
