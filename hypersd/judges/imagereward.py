"""ImageReward 1.0 (Xu et al. 2023, arXiv 2304.05977): how well people like a picture of its prompt, standardised.

BLIP reads the prompt while it looks at the picture; a head on its first token gives the score. One of Hyper-SD's
two rewards (Eq. 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hypersd import tensors
from hypersd.judges import About, File, Published, pairs
from hypersd.judges.networks import blip, head, pictures, weights

MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the head's output on the authors' pictures
LENGTH = 35  # tokens of a prompt
JUDGES = {
    "imagereward": About(
        trained_on="ImageRewardDB: 137,000 comparisons by experts of pictures of one prompt; from BLIP (ViT-L)",
        licence="Apache-2.0; BSD-3-Clause (BLIP)",
        may_reward=True,
        files=(
            File(
                "THUDM/ImageReward",
                "ImageReward.pt",
                1_786_880_927,
                "d71dc8d4912bc633c06ab8ef1ef6a81e8199d4369f14b47b29baf1d19de561f6",
            ),
            File(
                "google-bert/bert-base-uncased",
                "vocab.txt",
                231_508,
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            ),
        ),
    )
}


class Judge(Published):
    def __init__(self, name: str, vision: Any, text: Any, layers: nn.Sequential, words: Any):
        super().__init__(name, JUDGES[name])
        self.vision, self.text, self.head, self.words = vision, text, layers, words

    def forward(self, images: Float[Tensor, "b 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        pairs(images, prompts)
        pixels = pictures.cropped(images, self.vision.config.image_size)
        tokens = encode(self.words, prompts).to(pixels.device)
        seen = self.vision(pixels).last_hidden_state
        read = self.text(tokens, attention_mask=tokens != 0, encoder_hidden_states=seen).last_hidden_state
        return (self.head(read[:, 0]).squeeze(-1) - MEAN) / STD


def wordpiece(path: Path, remedy: str) -> Any:
    """BERT's uncased tokenizer from its vocab.txt."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    with tensors.readable(path, remedy):
        vocabulary = {word: index for index, word in enumerate(path.read_text().splitlines())}
        if absent := [word for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if word not in vocabulary]:
            raise KeyError(absent[0])
    words = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return words


def encode(words: Any, prompts: Sequence[str]) -> Int[Tensor, "b l"]:
    """[CLS], words, [SEP], then [PAD], which is token 0, to the full length; longer prompts are cut."""
    first, last = words.token_to_id("[CLS]"), words.token_to_id("[SEP]")
    rows = [[first, *encoded.ids[: LENGTH - 2], last] for encoded in words.encode_batch(list(prompts))]
    return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])


def load(name: str = "imagereward", folder: Path | None = None) -> Judge:
    """Raises FileNotFoundError or OSError where a file is missing or damaged."""
    about = JUDGES[name]
    checkpoint, vocabulary = about.find(folder)
    words, remedy = wordpiece(vocabulary, about.files[1].remedy), about.files[0].remedy
    found = weights.read(checkpoint, remedy)
    with tensors.readable(checkpoint, remedy):
        vision = blip.load_vision(part(found, "blip.visual_encoder."))
        text = blip.load_text(part(found, "blip.text_encoder."))
        return Judge(name, vision, text, head.load(part(found, "mlp.")), words)


def part(found: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in found.items() if key.startswith(prefix)}
