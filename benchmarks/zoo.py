"""Which published networks are explained, and at what cost: `python benchmarks/zoo.py --networks "vit*"`.

For each classifier of torchvision (with ``--timm``: for one network of each family in timm), with random weights: its
steps, the time of one explanation in each semiring as a multiple of gradient × input, in seconds of the processor, which
other work on the machine changes little, and the largest error of the
reals' account in double precision, relative to what its step received. A network that is refused has its reason in the
last column. Networks that take no pictures of ``--size`` get their own.

The networks run in a process beside this one, which is begun anew when one takes longer than ``--limit`` seconds or
more memory than there is. With ``--save`` each row is written as soon as it is known, and ``--resume`` goes on behind
those that are. The book's page is made of two records, by scripts/zoo_page.py:

    python benchmarks/zoo.py --save book/assets/zoo.json
    python benchmarks/zoo.py --timm --save book/assets/zoo.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from multiprocessing.connection import Connection
from pathlib import Path

import measure
import torch
import torchvision
from torch import nn
from tqdm import tqdm

import klrp
from klrp.tables import Table

SEMIRINGS = ("real", "boolean", "counting", "viterbi")
STARTING = 60  # seconds more for the first network of a process, which imports and compiles
# A small network of each module of timm.models that has classifiers of pictures, and more of those with many kinds.
TIMM = """
    bat_resnext26ts beit_base_patch16_224 botnet26t_256 caformer_s18 cait_xxs24_224 coat_lite_tiny
    coatnet_pico_rw_224 convit_tiny convmixer_768_32 convnext_atto convnextv2_atto cpubone_nano crossvit_tiny_240
    csatv2 cspnext_tiny cspresnet50 davit_tiny deepseek_vit_412m deit_tiny_patch16_224 densenet121 dla46_c dpn48b
    eca_nfnet_l0 eca_resnext26ts ecaresnet26t edgenext_xx_small efficientformer_l1 efficientformerv2_s0
    efficientnet_b0 efficientnet_cc_b0_4e efficientvim_m1 efficientvit_b0 efficientvit_m0 ese_vovnet19b_slim
    eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 fbnetv3_b focalnet_tiny_srf gcresnext26ts gcvit_xxtiny
    gemma4_vit_167m ghostnet_050 ghostnetv3_050 gmixer_12_224 gmlp_ti16_224 halonet26t hardcorenas_a hgnetv2_b0
    hiera_tiny_224 hieradet_small hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v3
    inception_v4 lambda_resnet26t lcnetv2_small legacy_seresnet18 legacy_xception levit_128s lowformer_b0
    mambaout_femto maxvit_pico_rw_256 mixer_s32_224 mixnet_s mobilenetv3_small_050 mobilenetv4_conv_small_035
    mobilenetv4_hybrid_medium_075 mobilenetv5_300m mobileone_s0 mobilevit_xxs mobilevitv2_050 mvitv2_tiny
    naflexvit_base_patch16_gap nasnetalarge nest_tiny nextvit_small nf_regnet_b0 pit_ti_224 pnasnet5large
    poolformer_s12 pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnety_002 regnetz_b16 repghostnet_050 repvgg_a0 repvit_m0_9
    res2net50_48w_2s resmlp_12_224 resnest14d resnet10t resnetv2_18 rexnet_100 samvit_base_patch16_224 selecsls42
    sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224 swinv2_cr_tiny_224
    swinv2_tiny_window8_256 tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m twins_pcpvt_small twins_svt_small vgg11
    visformer_tiny vit_relpos_small_patch16_224 vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vitamin_small_224
    volo_d1_224 xception41 xcit_nano_12_p16_224
""".split()


def names(pattern: str, timm: bool) -> list[str]:
    """The networks that the pattern selects; of timm those of the list above, or else any."""
    if not timm:
        return [n for n in torchvision.models.list_models(module=torchvision.models) if fnmatch(n, pattern)]
    from timm import list_models

    known = set(list_models())
    return [n for n in TIMM if n in known and fnmatch(n, pattern)] or [n for n in sorted(known) if fnmatch(n, pattern)]


def network(name: str, timm: bool, size: int) -> tuple[nn.Module, tuple[int, ...]]:
    """It, with random weights, and sizes of pictures to try.

    No layer begins with zeros: there is nothing to explain behind one.
    """
    torch.manual_seed(0)
    if timm:
        from timm import create_model

        model = create_model(name, pretrained=False)
        sizes = (size, 112, 224, model.default_cfg["input_size"][-1])  # 112 has patches of 14
    else:
        extra = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
        sizes = (size, 224)
        if name.startswith("vit"):
            patch = int(name.rsplit("_", 1)[1])
            sizes = (-(-size // patch) * patch,)
            extra["image_size"] = sizes[0]
        model = torchvision.models.get_model(name, weights=None, **extra)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1 and not p.any():
                p.normal_(0, p[0].numel() ** -0.5)
    return model.eval().requires_grad_(False), sizes


@torch.no_grad()
def pictures(model: nn.Module, batch: int, sizes: Sequence[int]) -> torch.Tensor:
    """Random ones, of the first size at which the network runs."""
    for size in sizes:
        x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
        try:
            model(x)
        except (RuntimeError, AssertionError, ValueError, IndexError):
            if size == sizes[-1]:
                raise
        else:
            break
    return x


def row(name: str, chosen: argparse.Namespace) -> dict:
    """What is found out about a network, up to where it is refused."""
    model, sizes = network(name, chosen.timm, chosen.size)
    module = type(model).__module__.rsplit(".", 1)[1]
    found = {"network": name, "module": module, "parameters": sum(p.numel() for p in model.parameters())}
    try:
        x = pictures(model, chosen.batch, sizes)
        found["size"] = x.shape[-1]
        found["steps"] = len(klrp.explain(model, x)) - 2  # without output and input
        runs = {"gradient": measure.gradient(model, x)}
        for semiring in chosen.semirings:
            runs[semiring] = lambda semiring=semiring: klrp.explain(model, x, semiring=semiring, keep="input")
        if found["parameters"] < chosen.warm:
            measure.rounds(runs, 1)
        times = measure.rounds(runs, chosen.rounds, clock=time.process_time)
        found["gradient"] = min(times["gradient"])
        found |= {semiring: measure.ratio(times[semiring], times["gradient"]) for semiring in chosen.semirings}
        if found["parameters"] < chosen.account:
            _, found["error"] = klrp.explain(model.double(), x.double()).conservation().worst()
    except klrp.KlrpError as refusal:
        found["refused"] = str(refusal)
    except (MemoryError, RuntimeError) as error:
        found["refused"] = f"it fails here: {error}".splitlines()[0]
    return found


def work(names: Connection, chosen: argparse.Namespace) -> None:
    """What the process beside this one does: a row for each name that it is sent."""
    torch.set_num_threads(chosen.threads)
    while name := names.recv():
        names.send(row(name, chosen))


def rows(chosen: argparse.Namespace, known: Sequence[dict] = ()) -> Iterator[dict]:
    """The rows of all networks, from ``known`` where they are there."""
    context, done, worker = multiprocessing.get_context("spawn"), {r["network"]: r for r in known}, None
    for name in tqdm(names(chosen.networks, chosen.timm), unit="network", disable=None):
        if name in done:
            yield done[name]
            continue
        patience = chosen.limit + STARTING * (worker is None)
        if worker is None:
            here, there = context.Pipe()
            worker = context.Process(target=work, args=(there, chosen), daemon=True)
            worker.start()
            there.close()  # so that the end of the process is the end of what can be read
        here.send(name)
        reason = f"took longer than {chosen.limit:g} s"
        try:
            if here.poll(patience):
                yield here.recv()
                continue
        except EOFError:
            reason = "its process came to an end; perhaps memory did"
        worker.kill()
        worker = None
        yield {"network": name, "refused": reason}
    if worker is not None:
        here.send(None)
        worker.join()


def stored(chosen: argparse.Namespace, command: str) -> list[dict]:
    """The rows that an earlier run of the command has left, but for those that were cut short."""
    path = Path(chosen.save or "")
    records = json.loads(path.read_text("utf-8")) if chosen.resume and path.is_file() else []
    return [row for record in records if record["command"] == command for row in record["rows"] if "module" in row]


def main(given: Sequence[str]) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="*", metavar="GLOB", help="only those whose names are like this")
    parser.add_argument("--timm", action="store_true", help="the networks of timm in place of torchvision's")
    parser.add_argument("--semirings", nargs="*", default=SEMIRINGS, metavar="NAME")
    parser.add_argument("--size", type=int, default=96, help="height and width of the pictures")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=120, help="seconds for a network")
    # An account costs three explanations in double precision; large networks find compiled what small ones have compiled.
    parser.add_argument("--account", type=float, default=5e7, help="parameters below which the reals' account is made")
    parser.add_argument("--warm", type=float, default=2e7, help="parameters below which a network runs once before")
    parser.add_argument("--resume", action="store_true", help="keep the rows that --save has from an earlier run")
    measure.with_threads(parser)
    parser.set_defaults(threads=1)
    chosen = parser.parse_args(given)
    words = [w for w in given if w != "--resume"]
    found = []
    record = measure.report(__file__, words, argparse.Namespace(**{**vars(chosen), "save": None}), found)
    for line in rows(chosen, stored(chosen, record["command"])):
        found.append(line)
        record = measure.report(__file__, words, chosen, found)
    columns = ("network", "size", "steps", "gradient", *chosen.semirings, "error", "refused")
    print(measure.heading(record))
    print(Table(columns, tuple(tuple(line.get(c, "") for c in columns) for line in found)))
    return record


if __name__ == "__main__":
    main(sys.argv[1:])
