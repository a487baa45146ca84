"""LeNet on the digits that ship with the project, trained by several processes, each on its share of every minibatch.

`mpirun -n 4 python examples/distributed.py` (with more processes than processors: `mpirun --oversubscribe`, as root
`--allow-run-as-root`), for which it needs `pip install 'knetc[dist]'`; or `torchrun --nproc-per-node 4
examples/distributed.py`. Any number of processes comes to the same model.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from digits import digits

import knetc


def main() -> None:
    """Trains, and tells how it goes; rank 0 alone is heard and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--backend", default="auto", help="numpy, cpu or auto")
    parser.add_argument("--save", metavar="FILE", help="where the model goes")
    args = parser.parse_args()
    xtrn, ytrn, xtst, ytst = digits()
    trn, tst = knetc.minibatch(xtrn, ytrn, args.batch), knetc.minibatch(xtst, ytst, args.batch)

    net = knetc.compile(Path(__file__).parent / "lenet_dropout.knet", backend=args.backend, seed=1)
    net = knetc.distribute(net)

    net.setp(lr=0.05, momentum=0.9)
    for epoch in range(1, args.epochs + 1):
        start = time.perf_counter()
        losses = net.train(trn, knetc.softloss, progress=False, dropout=True)
        seconds = time.perf_counter() - start
        error = net.test(tst, knetc.zeroone)
        print(f"{net.ranks} processes, epoch {epoch}: loss {losses[-1]:.4f}  wrong {error:.2%}  {seconds:.2f} s")
    if args.save:
        knetc.save(args.save, net)


if __name__ == "__main__":
    main()
