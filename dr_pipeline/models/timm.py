"""Any image model of timm as a teacher: its pooled features, or the probabilities of its classes."""

from typing import TYPE_CHECKING

from dr_pipeline.models.image_module import ClassifierModule, ImageModule, image_module_cost

if TYPE_CHECKING:
    import torch

    from dr_pipeline.networks.cost import Cost


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
        from dr_pipeline.networks.timm_models import timm_without_weights

        module, image = timm_without_weights(model, weights, num_classes, image_size)
        module.reset_classifier(0, pooling)
        return image_module_cost(model, module, module, image.image_size)

    def __init__(
        self,
        device: "torch.device",
        model: str,
        weights: str,
        num_classes: int | None = None,
        image_size: int | None = None,
        pooling: str | None = None,
    ):
        from dr_pipeline.networks.timm_models import load_timm

        module, image = load_timm(model, weights, num_classes, image_size)
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
        from dr_pipeline.networks.timm_models import timm_without_weights

        module, image = timm_without_weights(model, weights, num_classes, image_size)
        return image_module_cost(model, module, module, image.image_size)

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
        from dr_pipeline.networks.timm_models import load_timm

        module, image = load_timm(model, weights, num_classes, image_size)
        if not module.num_classes:
            raise ModelError(f"model {model} has no classes: set options.num_classes to those of its weights")
        super().__init__(module, image, device, model, temperature)
