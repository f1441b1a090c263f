"""The page on silent mistakes: right and wrong answers, which its checkers must tell apart."""

import math

import torch


def total(blocks):
    return math.prod(1 + total(branch) for branch in blocks)


def halves(x, f, R, apart=torch.abs):
    right = torch.stack([x, f]) * R / (x + f)
    return apart(R / 2 - right).sum() / right.abs().sum()


def depth(blocks):
    return len(blocks) + sum(map(depth, blocks))


RIGHT = {"ex-silent-double": total, "ex-silent-halves": halves}

WRONG = {
    "ex-silent-double": [
        lambda blocks: 2 ** len(blocks),  # whatever the branches hold
        lambda blocks: 2 ** depth(blocks),
        lambda blocks: math.prod(2 * total(branch) for branch in blocks),
        lambda blocks: 1 + len(blocks),
    ],
    "ex-silent-halves": [
        lambda x, f, R: halves(x, f, R, apart=lambda v: v),  # the account, which is in order
        lambda x, f, R: (R / 2 - R * x / (x + f)).abs().sum(),
        lambda x, f, R: (x / (x + f) - 0.5).abs().mean(),
        lambda x, f, R: ((R / 2 - R * x / (x + f)) / (R * x / (x + f))).abs().sum(),
    ],
}
