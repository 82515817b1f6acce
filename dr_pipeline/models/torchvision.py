"""Any classifier of torchvision as a teacher of its classes' probabilities."""

from typing import TYPE_CHECKING, Any

from dr_pipeline.models.image_module import ClassifierModule

if TYPE_CHECKING:
    import torch

    from dr_pipeline.networks.cost import Cost
    from dr_pipeline.networks.images import ImageSpec


class TorchvisionClassifier(ClassifierModule):
    """A teacher's card: `use: dr_pipeline.models.torchvision:TorchvisionClassifier`.

    `model`: a name of torchvision. `weights`: one of torchvision's tags for it, such as IMAGENET1K_V2, or as
    `find_weights`. `num_classes`: those that the weights were trained for. `image_size`: default that of the weights.
    `temperature` divides the logits.
    """

    @staticmethod
    def cost(
        model: str, weights: str, num_classes: int = 1000, image_size: int | None = None, temperature: float = 1.0
    ) -> "Cost | None":
        """The cost of the model; None where it cannot be counted: RegNets are not built without values.

        Raises ModelError where torchvision has no such model or weights.
        """
        import torch

        from dr_pipeline.networks.counting import cost_or_none, count_images
        from dr_pipeline.networks.weights import check_weights

        image = _images(model, weights, image_size)
        check_weights(model, weights)

        def count() -> "Cost":
            with torch.device("meta"):
                module = _build(model, num_classes)
            return count_images(module, module, image.image_size)

        return cost_or_none(model, count)

    def __init__(
        self,
        device: "torch.device",
        model: str,
        weights: str,
        num_classes: int = 1000,
        image_size: int | None = None,
        temperature: float = 1.0,
    ):
        from dr_pipeline.networks.architecture import same_random_numbers
        from dr_pipeline.networks.network import fill
        from dr_pipeline.networks.weights import find_weights

        image = _images(model, weights, image_size)
        checkpoint = find_weights(model, weights)
        with same_random_numbers(model):
            module = _build(model, num_classes)
        if checkpoint is not None:
            fill(module, model, checkpoint)
        super().__init__(module, image, device, model, temperature)


def _images(model: str, weights: str, image_size: int | None) -> "ImageSpec":
    """The images that a model takes, with its default weights where these are none of torchvision's tags.

    Raises ModelError where torchvision has no such model.
    """
    from torchvision import models

    from dr_pipeline.errors import ModelError, nearest
    from dr_pipeline.networks.images import ImageSpec

    known = models.list_models(module=models)
    if model not in known:
        raise ModelError(f"model {model}: torchvision has no such classifier{nearest(model, known)}")
    entries: Any = models.get_model_weights(model)
    preset = entries.__members__.get(weights, entries.DEFAULT).transforms()
    return ImageSpec(image_size or preset.crop_size[0], tuple(preset.mean), tuple(preset.std))


def _build(model: str, num_classes: int) -> "torch.nn.Module":
    from torchvision import models

    # What torchvision sets when it loads its weights of these two itself.
    options = {"transform_input": True, "init_weights": False} if model in ("inception_v3", "googlenet") else {}
    return models.get_model(model, weights=None, num_classes=num_classes, **options)
