"""A character language model: `python examples/charlm.py [TRAIN [DEV [OTHER ...]]]`, the manual's lesson 10.

Trains on the first text, tests on the second after every pass, and on the others at the end. Of one text the last
tenth is the second; without any the text is Shakespeare's plays (knetc.data). Ctrl-C ends the training after the
update in hand; what `--save` has kept goes on to the bit with `--load`.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import INTERRUPTED, count, natural, output, positive, record, run, share, show

import knetc
from knetc.data import shakespeare

NEW = {"nlayer": 1, "hidden": 256, "embedding": 64, "dropout": 0.2, "optimiser": "adam", "batch": 64, "seqlength": 64}
RATES = {"adam": 0.005, "sgd": 1.0}


@dataclass
class Run:
    """A training run: what is saved beside the model.

    `rows`: a row of figures for every pass; `losses`: those of the updates of the pass under way.
    """

    symbols: str
    lr: float
    batch: int
    seqlength: int
    best: float = math.inf
    rows: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def options() -> argparse.ArgumentParser:
    """The command line. The options of a new model have no defaults here: a loaded model has its own."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("texts", nargs="*", type=Path, metavar="TEXT", help="files in UTF-8")
    p.add_argument("--load", type=Path, metavar="FILE", help="go on with a saved model")
    p.add_argument("--save", type=output, metavar="FILE", help="where to save the model after every pass and on Ctrl-C")
    p.add_argument(
        "--best", type=output, metavar="FILE", help="where to save the one with the least loss on the second text"
    )
    p.add_argument(
        "--epochs", type=count, help="passes in all, a loaded model's too (default: 10; with --load no more)"
    )
    p.add_argument("--lr", type=positive, help="learning rate (default: 0.005, 1 for sgd, or a loaded model's)")
    p.add_argument("--decay", type=positive, default=0.5, help="factor on it whenever that loss is not the least")
    p.add_argument("--gclip", type=positive, default=5.0, help="limit on the norm of the gradient")
    p.add_argument("--seed", type=count, default=1, help="of weights, dropout and generated text")
    p.add_argument("--backend", default="auto")
    p.add_argument("--record", type=output, metavar="FILE", help="a .csv file for the curve")
    p.add_argument("--generate", type=count, default=0, metavar="N", help="write N characters at the end")
    p.add_argument("--temperature", type=positive, default=1.0, help="below 1 the likely is likelier")
    p.add_argument("--start", help="what the generated text follows (default: a new line)")
    new = p.add_argument_group("of a new model", argument_default=argparse.SUPPRESS)
    for name, kind, text in (
        ("nlayer", natural, "layers of LSTM"),
        ("hidden", natural, "units of a layer"),
        ("embedding", natural, "rows of the embedding"),
        ("dropout", share, "what is dropped of a layer's output"),
        ("batch", natural, "sequences side by side"),
        ("seqlength", natural, "characters of each between two updates"),
    ):
        new.add_argument(f"--{name}", type=kind, help=f"{text} (default: {NEW[name]})")
    new.add_argument("--optimiser", choices=list(RATES), help=f"(default: {NEW['optimiser']})")
    return p


def main() -> int:
    """Trains or loads a model and writes with it."""
    p = options()
    args = p.parse_args()
    given = {k: v for k, v in vars(args).items() if k in NEW}
    if args.load and given:
        p.error(f"--{next(iter(given))} is an option of a new model, and --load gives one that has its own")
    epochs = args.epochs if args.epochs is not None else 0 if args.load else 10
    texts = read(args.texts) if epochs or args.texts or not args.load else []
    net, state = load(args.load, args.backend) if args.load else create("".join(texts), args, NEW | given)
    if missing := set(args.start or "") - set(state.symbols):
        p.error(f"--start: the model does not know {min(missing)!r}")
    if args.lr is not None:
        state.lr = args.lr
        net.setp(lr=args.lr)
    if texts and not train(net, state, texts[0], texts[1], epochs, args):
        return INTERRUPTED
    for path, text in zip(args.texts[2:], texts[2:], strict=False):
        print(f"{path}: loss {net.test(batches(state, text), knetc.softloss):.4f}")
    start = args.start or ("\n" if "\n" in state.symbols else state.symbols[0])
    for symbol in generate(net, state.symbols, args.generate, args.temperature, args.seed, start):
        print(symbol, end="", flush=True)
    print(end="\n" if args.generate else "")
    return 0


def read(paths: list[Path]) -> list[str]:
    """The texts to train on, to test on, and others."""
    texts = [] if paths else [shakespeare()]
    for path in paths:
        try:
            if not (text := path.read_text(encoding="utf-8")):
                raise knetc.KnetError(f"{path} is empty")
            texts.append(text)
        except UnicodeDecodeError as error:
            raise knetc.KnetError(f"{path} is not in UTF-8: {error}") from None
    cut = len(texts[0]) * 9 // 10
    return texts if len(texts) > 1 else [texts[0][:cut], texts[0][cut:]]


def create(text: str, args: argparse.Namespace, new: dict[str, Any]) -> tuple[knetc.Model, Run]:
    """A new model for the characters of a text."""
    symbols = "".join(sorted(set(text)))
    sizes = {name: new[name] for name in ("nlayer", "embedding", "hidden")} | {"pdrop": new["dropout"]}
    file = Path(__file__).parent / "charlm.knet"
    net = knetc.compile(file, "charlm", backend=args.backend, seed=args.seed, nchar=len(symbols), **sizes)
    rate = RATES[new["optimiser"]]
    net.setp(lr=rate, adam=new["optimiser"] == "adam")
    return net, Run(symbols, rate, new["batch"], new["seqlength"])


def load(path: Path, backend: str) -> tuple[knetc.Model, Run]:
    """What `save` has written."""
    saved = knetc.load(path, backend=backend)
    try:
        return saved.pop("model"), Run(**saved)
    except (KeyError, TypeError):
        raise knetc.KnetError(f"{path} was not saved by charlm.py") from None


def save(path: Path | None, net: knetc.Model, state: Run) -> None:
    """Writes the model and its run to a file, if there is to be one."""
    if path:
        knetc.save(path, model=net.clean(), **asdict(state))


def batches(state: Run, text: str) -> Any:
    """The time steps of a text."""
    return knetc.seqbatch(text, {symbol: row for row, symbol in enumerate(state.symbols)}, state.batch)


def train(net: knetc.Model, state: Run, text: str, dev: str, epochs: int, args: argparse.Namespace) -> bool:
    """Trains until so many passes are done; False where Ctrl-C has stopped it."""
    trn, tst = batches(state, text), batches(state, dev)
    updates = math.ceil((len(trn) - 1) / state.seqlength)
    with knetc.stoppable() as stopped:
        while len(state.rows) < epochs:
            done, start = len(state.losses), time.perf_counter()
            state.losses += net.train(
                trn[done * state.seqlength :],
                knetc.softloss,
                gclip=args.gclip,
                seqlength=state.seqlength,
                progress=sys.stderr.isatty(),
                keepstate=done > 0,
                dropout=True,
            )
            if len(state.losses) < updates:
                break
            finish(net, state, net.test(tst, knetc.softloss), time.perf_counter() - start, args)
            save(args.save, net, state)
        if not stopped.is_set():
            return True
        save(args.save, net, state)
        print(f"stopped in pass {len(state.rows) + 1}, after {len(state.losses)} updates of it;", end=" ")
        print(f"saved in {args.save}" if args.save else "not saved, for want of --save", flush=True)
    return False


def finish(net: knetc.Model, state: Run, loss: float, seconds: float, args: argparse.Namespace) -> None:
    """Ends a pass with a loss on the second text: records it, keeps the best model, lowers the learning rate."""
    row = {"epoch": len(state.rows) + 1, "rate": state.lr, "train_loss": float(np.mean(state.losses))}
    row |= {"dev_loss": loss, "dev_bits": loss / math.log(2), "seconds": seconds}
    show(row)
    state.rows.append(row)
    state.losses = []
    if args.record:
        record(args.record, state.rows)
    if loss < state.best:
        state.best = loss
        save(args.best, net, state)
    else:
        state.lr *= args.decay
        net.setp(lr=state.lr)


def generate(net: knetc.Model, symbols: str, length: int, temperature: float, seed: int, start: str) -> Iterator[str]:
    """So many characters, each drawn from what the model expects after those before it."""
    rng = np.random.default_rng(seed)
    net.reset()
    expected = [net.forw(knetc.onehot([symbols.index(symbol)], len(symbols))) for symbol in start][-1]
    for _ in range(length):
        weights = np.log(np.maximum(expected[:, 0].astype(np.float64), 1e-300)) / temperature
        weights = np.exp(weights - weights.max())
        row = rng.choice(len(symbols), p=weights / weights.sum())
        yield symbols[row]
        expected = net.forw(knetc.onehot([row], len(symbols)))


if __name__ == "__main__":
    run(main)
