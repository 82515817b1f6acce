"""How fast a chat model of transformers captions: its prompt seen once for all captions, against its own `generate`.

    python benchmarks/chat_speed.py [--quick]

A LLaVA of 12 M parameters with random weights, made here: 196 tokens of an image of 224 pixels, 11 of the prompt, and 5
captions of each of 8 images by top-p, 24 words each, none of which ends before. The baselines: the library's `generate`
with `num_return_sequences=5` on the same batch, which repeats prompt and image for each caption and then sees them; and
`generate` image by image and caption by caption, as a plain script has it. All begin with pixels and end with texts.
One thread, CPU time; median of 5 rounds in which both take their turn. The quick form has a batch of 2 images.
"""

import argparse
from tempfile import TemporaryDirectory

import torch
from measure import cpu_seconds, figure, paired
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from dr_pipeline.config.cards import Sampling
from dr_pipeline.models.image_to_text import ChatCaptioner
from dr_pipeline.views.seeding import Stream

NUM_CAPTIONS, NUM_WORDS = 5, 24
SPECIAL = ["<pad>", "<s>", "</s>", "<image>"]
VOCABULARY = 8000
PROMPT = " ".join(f"word{number}" for number in range(10))
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}word9 {% endfor %}"
)


def save_llava(folder: str) -> None:
    """A small LLaVA and its processor, which speak in words that mean nothing."""
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=688, num_hidden_layers=6, num_attention_heads=4,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4, patch_size=16
    )
    LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=3)
    ).save_pretrained(folder)
    names = SPECIAL + [f"word{number}" for number in range(VOCABULARY - len(SPECIAL))]
    words = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    LlavaProcessor(
        CLIPImageProcessor(), tokenizer, patch_size=16, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip


def by_the_library(captioner: ChatCaptioner, images_BCHW: torch.Tensor, num_captions: int) -> list[str]:
    """So many captions of each image by `generate` on the whole batch."""
    processor, model = captioner._processor, captioner._model
    inputs = processor(
        text=[captioner._conversation(PROMPT)] * len(images_BCHW), images=captioner._pixels(images_BCHW),
        return_tensors="pt",
    )  # fmt: skip
    ids_NT = model.generate(
        **inputs, do_sample=True, top_p=0.9, top_k=0, num_return_sequences=num_captions, max_new_tokens=NUM_WORDS,
        min_new_tokens=NUM_WORDS,
    )  # fmt: skip
    return processor.batch_decode(ids_NT[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast a chat model captions.")
    parser.add_argument("--quick", action="store_true", help="a batch of 2 images")
    batch_size = 2 if parser.parse_args().quick else 8
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder, torch.inference_mode():
        with torch.inference_mode(False):
            save_llava(folder)
        captioner = ChatCaptioner(torch.device("cpu"), folder, prompt=PROMPT)
        images_BCHW = torch.rand(batch_size, 3, 224, 224)
        streams = [[Stream(0, "caption", image, caption) for caption in range(NUM_CAPTIONS)] for image in images_BCHW]
        sampling = Sampling(top_p=0.9, min_tokens=NUM_WORDS + 1, max_tokens=NUM_WORDS + 1)
        captions = batch_size * NUM_CAPTIONS

        def at_once() -> None:
            by_the_library(captioner, images_BCHW, NUM_CAPTIONS)

        def one_by_one() -> None:
            for image in range(batch_size):
                for _ in range(NUM_CAPTIONS):
                    by_the_library(captioner, images_BCHW[image : image + 1], 1)

        for name, theirs in (("generate of the batch", at_once), ("generate caption by caption", one_by_one)):
            value, baseline, ratio = paired(
                lambda: captions / cpu_seconds(lambda: captioner.caption(images_BCHW, streams, sampling)),
                lambda theirs=theirs: captions / cpu_seconds(theirs),
                rounds=5,
            )
            figure(f"captions a CPU second by a chat model, batch {batch_size}, ÷ {name}", value, baseline, ratio)


if __name__ == "__main__":
    main()
