"""Chapter 14: right and wrong answers, which its checkers must tell apart."""

import torch

import klrp


def ranks(s):
    return s.argsort(stable=True).argsort().double()


def agreement(R, m, size=torch.abs):
    pair = torch.stack([ranks(size(R[:m]).mean(0)), ranks(size(R).mean(0))])
    return torch.corrcoef(pair)[0, 1]


def apart(R, f):
    n = round(f * R.shape[1])
    by_sign, by_size = (set(s.argsort()[:n].tolist()) for s in (R.mean(0), R.abs().mean(0)))
    return by_sign - by_size, by_size - by_sign


def balanced(into, bias, out, power=0.5, moves_bias=True):
    c = (out.norm(dim=0) / into.norm(dim=1)) ** power
    return c[:, None] * into, c * bias if moves_bias else bias, out / c


def sent(model, x, y):
    """The mean activation, times the norm of the weights that leave the neuron."""
    return model[:3](x).mean(0) * model[3].weight.norm(dim=0)


def lrp(model, x, y):
    return klrp.explain(model, x, y, start="logit", keep=["1"])["1"].abs().mean(0)


RIGHT = {
    "ex-14-bias": [17, 18],
    "ex-14-fooled": {"activation", "l2"},
    "ex-14-images": agreement,
    "ex-14-signed": apart,
    "ex-14-balance": balanced,
    "ex-14-own": sent,
}

WRONG = {
    "ex-14-bias": [[15, 18], [17, 8], [18, 17], [33, 33], 17],
    "ex-14-fooled": [{"l2"}, {"activation"}, {"l2", "activation", "in × out"}, {"l2", "activation", "OBD"}, "l2"],
    "ex-14-images": [
        lambda R, m: agreement(R, m, size=lambda r: r),  # with the sign
        lambda R, m: torch.corrcoef(torch.stack([R[:m].abs().mean(0), R.abs().mean(0)]))[0, 1],  # of the values
        lambda R, m: agreement(R[:m], m),
    ],
    "ex-14-signed": [
        lambda R, f: apart(R, f)[::-1],
        lambda R, f: apart(R, 1 - f),
        lambda R, f: apart(R.abs(), f),
        lambda R, f: (apart(R, f)[0], set(R.abs().mean(0).argsort()[: round(f * R.shape[1])].tolist())),
    ],
    "ex-14-balance": [
        lambda *w: balanced(*w, power=1),
        lambda *w: balanced(*w, power=-0.5),
        lambda *w: balanced(*w, moves_bias=False),
        lambda into, bias, out: (into / into.norm(dim=1, keepdim=True), bias, out),
    ],
    "ex-14-own": [
        lambda model, x, y: model[1].weight.norm(dim=1),
        lambda model, x, y: model[:3](x).mean(0),
        lambda model, x, y: model[1].weight.norm(dim=1) * model[3].weight.norm(dim=0),  # of a neuron that never fires
        lambda model, x, y: lrp(model, x, y).sum(),
        lambda model, x, y: torch.ones(5),
    ],
}
