"""The functions of the Python interface: the methods of `Model`, called with the model first.

`knetc/__init__.py` hands them out when they are first asked for.
"""

from __future__ import annotations

from knetc.runtime.model import Model

back = Model.back
backseq = Model.backseq
clean = Model.clean
forw = Model.forw
forwseq = Model.forwseq
get = Model.get
gnorm = Model.gnorm
grad = Model.grad
gradcheck = Model.gradcheck
params = Model.params
report = Model.report
reset = Model.reset
sback = Model.sback
set = Model.set
setp = Model.setp
setseed = Model.setseed
sforw = Model.sforw
state = Model.state
summary = Model.summary
test = Model.test
train = Model.train
update = Model.update
wnorm = Model.wnorm
