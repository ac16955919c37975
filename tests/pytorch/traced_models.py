"""Plain PyTorch modules with their losses, for `costsim trace`."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        later = ~torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        p = scores.masked_fill(later, -math.inf).softmax(-1)
        return self.out((p @ v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width, heads, inner):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        x = x + self.attention(self.ln_1(x))
        return x + self.fc2(F.gelu(self.fc1(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """GPT-2 as people write it: the head is the embedding."""

    def __init__(self, vocab=50, positions=16, width=16, heads=2, inner=64, layers=2, recompute=False):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(positions, width)
        self.layers = nn.ModuleList(Layer(width, heads, inner) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        self.head.weight = self.tokens.weight
        self.recompute = recompute

    def forward(self, ids, labels):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.recompute else layer(x)
        return F.cross_entropy(self.head(self.ln_f(x)).flatten(0, -2), labels.flatten())


def ids(batch=3, tokens=5, vocab=50):
    return tuple(torch.arange(batch * tokens).reshape(batch, tokens) * k % vocab for k in (7, 11))


def gpt():
    return GPT(), ids()


def gpt2():
    return GPT(50257, 1024, 768, 12, 3072, 12), ids(2, 1024)


def checkpointed():
    return GPT(recompute=True), ids()


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        y = self.fc(x)
        return y.sum() if y.sum() > 0 else y.mean()


def branch():
    return Branch(), (torch.ones(2, 4),)


class Spectrum(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(4, 4)

    def forward(self, x):
        return torch.fft.fft(self.mix(x)).abs().sum()


def spectrum():
    return Spectrum(), (torch.ones(2, 4),)


def no_loss():
    return nn.Linear(4, 4), (torch.ones(2, 4),)


class Parts(nn.Module):
    """A tensor that is put together in its memory, and one of which a part is overwritten."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 5), nn.Linear(4, 3), nn.Linear(8, 6)

    def forward(self, x):
        y = x.new_empty(x.shape[0], 8)
        y[:, 5:].copy_(self.second(x))
        y[:, :5] = self.first(x)
        z = self.third(y).sigmoid().clone()
        z[:, 2:5] = self.second(x)
        return (z * z).mean()


def parts():
    return Parts(), (torch.zeros(7, 4),)


class Stale(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        y = x.clone()
        part = y[:, :2]
        y[:, 1:3] = x[:, :2]
        return part.sum() + self.fc(x).sum()


def stale():
    return Stale(), (torch.ones(2, 4),)


class Stem(nn.Module):
    """Convolutions whose patches overlap: of images, and of the sums of their columns."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=1)
        self.second = nn.Conv2d(4, 5, 3, stride=2)
        self.third = nn.Conv1d(5, 6, 3, padding=2, dilation=2, bias=False)

    def forward(self, images):
        x = F.gelu(self.second(F.gelu(self.first(images))))
        return self.third(x.sum(2)).square().mean()


def stem():
    return Stem(), (torch.zeros(2, 3, 12, 10),)


class Apart(nn.Module):
    """Convolutions of groups of channels: patches that overlap, then some of their own, then of one row."""

    def __init__(self):
        super().__init__()
        self.channels = nn.Conv2d(4, 8, 3, padding=1, groups=4)
        self.groups = nn.Conv2d(8, 6, 2, stride=2, groups=2, bias=False)
        self.row = nn.Conv2d(6, 6, (1, 3), padding=(0, 1), groups=6)

    def forward(self, images):
        return self.row(F.gelu(self.groups(F.gelu(self.channels(images))))).square().mean()


def apart():
    return Apart(), (torch.zeros(2, 4, 8, 6),)


class Steps(nn.Module):
    """Convolutions of one place that leave out others, as of a ResNet, and one of one patch that is padded."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.short = nn.Conv2d(3, 4, 1, stride=2, bias=False)
        self.next = nn.Conv2d(4, 6, 1, stride=2)
        self.last = nn.Conv2d(6, 2, (3, 2), padding=(1, 0), stride=3)

    def forward(self, images):
        x = F.gelu(self.wide(images) + self.short(images))
        return self.last(F.gelu(self.next(x))).square().mean()


def steps():
    return Steps(), (torch.zeros(2, 3, 7, 8),)


class Upwards(nn.Module):
    """Transposed convolutions: patches that overlap, that are cut off and that do not overlap; whole and in groups."""

    def __init__(self):
        super().__init__()
        self.first = nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1)
        self.second = nn.ConvTranspose2d(4, 6, (2, 3), stride=(2, 3), bias=False)
        self.third = nn.ConvTranspose1d(6, 4, 3, groups=2, dilation=2)

    def forward(self, images):
        x = F.gelu(self.second(F.gelu(self.first(images))))
        return self.third(x.sum(2)).square().mean()


def upwards():
    return Upwards(), (torch.zeros(2, 3, 4, 5),)
