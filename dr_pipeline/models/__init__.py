"""Models, made of cards: teachers, captioners, rewriters and scorers.

What a card's `use` names, a file for each library or kind:

- teachers: `open_clip`, `transformers`, `transformers_backbone`, `timm`, `torchvision`, `onnx`
- captioners: `coca`, `image_to_text`, `endpoint`; rewriters: `language_model`, `endpoint`; scorers: `scorers`

`protocol` says what all of them are, `load` and `precision` make them ready, and `ensemble` asks the teachers together.
"""
