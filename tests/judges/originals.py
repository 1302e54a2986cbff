"""The architectures that published judges were trained in, small and in plain torch, under their own tensor names.

Written from open_clip's `CLIP`, BLIP's `VisionTransformer` and `BertModel`, and the two heads: what `hypersd.judges`
loads must give the scores that these give.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

VISION, TEXT, PROJECTION = 320, 128, 32  # four heads of 80, two of 64
PATCH, PIXELS, CONTEXT = 14, 28, 16


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """open_clip's `ResidualAttentionBlock`."""

    def __init__(self, width, heads, activation):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        parts = [("c_fc", nn.Linear(width, 2 * width)), ("gelu", activation()), ("c_proj", nn.Linear(2 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(parts))

    def forward(self, x, mask=None):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width, heads, activation, layers=2):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, activation) for _ in range(layers))

    def forward(self, x, mask=None):
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.conv1 = nn.Conv2d(3, VISION, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(VISION))
        self.positional_embedding = nn.Parameter(torch.randn((PIXELS // PATCH) ** 2 + 1, VISION))
        self.ln_pre, self.ln_post = nn.LayerNorm(VISION), nn.LayerNorm(VISION)
        self.transformer = Transformer(VISION, VISION // 80, activation)
        self.proj = nn.Parameter(torch.randn(VISION, PROJECTION))

    def forward(self, pixels):
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        x = self.transformer(self.ln_pre(x))
        return self.ln_post(x[:, 0]) @ self.proj


class OpenClip(nn.Module):
    def __init__(self, words, activation=nn.GELU):
        super().__init__()
        self.visual = Visual(activation)
        self.token_embedding = nn.Embedding(words, TEXT)
        self.positional_embedding = nn.Parameter(torch.randn(CONTEXT, TEXT))
        self.transformer = Transformer(TEXT, TEXT // 64, activation)
        self.ln_final = nn.LayerNorm(TEXT)
        self.text_projection = nn.Parameter(torch.randn(TEXT, PROJECTION))
        self.logit_scale = nn.Parameter(torch.tensor(4.5))

    def text(self, tokens):
        mask = torch.full((tokens.shape[1], tokens.shape[1]), float("-inf")).triu(1)
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        x = self.ln_final(self.transformer(x, mask))
        return x[torch.arange(len(x)), tokens.argmax(1)] @ self.text_projection

    def forward(self, pixels, tokens):
        """Cosines."""
        return F.cosine_similarity(self.visual(pixels), self.text(tokens))


class BlipAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.heads = width // 64
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, n, width = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, width))


class BlipBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = BlipAttention(width), nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class BlipVision(nn.Module):
    def __init__(self, width=128, layers=2):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, (PIXELS // PATCH) ** 2 + 1, width) * 0.02)
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, PATCH, PATCH)
        with torch.no_grad():
            self.patch_embed.proj.weight.mul_(0.1)  # small numbers, where a norm's epsilon is seen
        self.blocks = nn.ModuleList(BlipBlock(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels):
        x = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class BertOutput(nn.Module):
    def __init__(self, into, width):
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(into, width), nn.LayerNorm(width, eps=1e-12)

    def forward(self, x, residual):
        return self.LayerNorm(self.dense(x) + residual)


class BertAttention(nn.Module):
    """To itself, or across to the picture."""

    def __init__(self, width, other):
        super().__init__()
        self.heads, self.self = width // 64, nn.Module()
        self.self.query = nn.Linear(width, width)
        self.self.key, self.self.value = nn.Linear(other, width), nn.Linear(other, width)
        self.output = BertOutput(width, width)

    def forward(self, x, other, mask=0.0):
        def split(y):
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = split(self.self.query(x)), split(self.self.key(other)), split(self.self.value(other))
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5 + mask).softmax(-1)
        return self.output((weights @ v).transpose(1, 2).flatten(2), x)


class BertLayer(nn.Module):
    def __init__(self, width, vision):
        super().__init__()
        self.attention, self.crossattention = BertAttention(width, width), BertAttention(width, vision)
        self.intermediate = nn.Module()
        self.intermediate.dense, self.output = nn.Linear(width, 2 * width), BertOutput(2 * width, width)

    def forward(self, x, mask, seen):
        x = self.attention(x, x, mask)
        x = self.crossattention(x, seen)
        return self.output(F.gelu(self.intermediate.dense(x)), x)


class BlipText(nn.Module):
    def __init__(self, words, width=128, vision=128, layers=2):
        super().__init__()
        self.embeddings, self.encoder = nn.Module(), nn.Module()
        self.embeddings.word_embeddings = nn.Embedding(words, width)
        self.embeddings.position_embeddings = nn.Embedding(40, width)
        self.embeddings.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.embeddings.register_buffer("position_ids", torch.arange(40)[None])
        self.encoder.layer = nn.ModuleList(BertLayer(width, vision) for _ in range(layers))

    def forward(self, tokens, mask, seen):
        parts = self.embeddings
        x = parts.LayerNorm(parts.word_embeddings(tokens) + parts.position_embeddings(torch.arange(tokens.shape[1])))
        for layer in self.encoder.layer:
            x = layer(x, (1.0 - mask[:, None, None].float()) * -10000.0, seen)
        return x


class Head(nn.Module):
    """LAION's and ImageReward's, dropouts and all."""

    def __init__(self, width):
        super().__init__()
        linear, drop = nn.Linear, nn.Dropout
        self.layers = nn.Sequential(
            *(linear(width, 1024), drop(0.2), linear(1024, 128), drop(0.2)),
            *(linear(128, 64), drop(0.1), linear(64, 16), linear(16, 1)),
        )

    def forward(self, x):
        return self.layers(x)


class ImageReward(nn.Module):
    def __init__(self, words):
        super().__init__()
        self.blip = nn.Module()
        self.blip.visual_encoder, self.blip.text_encoder = BlipVision(), BlipText(words)
        self.blip.vision_proj, self.blip.text_proj = nn.Linear(128, 8), nn.Linear(128, 8)
        self.mlp = Head(128)

    def forward(self, pixels, tokens, mask):
        read = self.blip.text_encoder(tokens, mask, self.blip.visual_encoder(pixels))
        return (self.mlp(read[:, 0]).squeeze(1) - 0.16717362830052426) / 1.0333394966054072


def seeded(kind, *arguments, **settings):
    """Random, the same each time, in evaluation mode; biases and norms too, or exchanging them would go unnoticed."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        net = kind(*arguments, **settings)
        for parameter in net.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return net.eval().requires_grad_(False)


def pictures(count=2, height=PIXELS, width=PIXELS):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def pixels(images):
    """CLIP's normalisation, of pictures that are of the right size."""
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    return (images - mean[:, None, None]) / std[:, None, None]


def climbs(judge, prompts):
    """Whether the gradient reaches every picture, and a small step along it raises every score."""
    images = pictures(len(prompts), 40, 56).requires_grad_()
    before = judge(images, prompts)
    (slope,) = torch.autograd.grad(before.sum(), images)
    lengths = slope.flatten(1).norm(dim=1)
    step = 1e-2 * slope / lengths[:, None, None, None]
    return bool((lengths > 0).all()) and bool((judge(images + step, prompts) > before).all())
