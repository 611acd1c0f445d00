"""Modules of PyTorch's whose parameters lie in troupe's tables."""
import collections

import torch
from torch import nn
from torch.nn import functional

__all__ = ["Embedding", "EmbeddingBag"]


class _Pulled(torch.autograd.Function):
    """Rows, whose gradients are pushed. `anchor` makes autograd ask for them."""

    @staticmethod
    def forward(ctx, anchor, rows, module, keys, versions):
        ctx.pushed = module, keys, versions
        return rows

    @staticmethod
    def backward(ctx, gradients):
        module, keys, versions = ctx.pushed
        module._push(keys, gradients, versions)
        return None, None, None, None, None


class _Rows(nn.Module):
    """What both modules share: rows of a table, pulled for a batch and pushed with its backward pass."""

    def __init__(self, table, *, ahead=8):
        super().__init__()
        self.table = table
        self.embedding_dim = table.dim
        self._anchor = torch.zeros(1, requires_grad=True)  # no parameter: no optimizer is to see it
        self._prefetched = collections.OrderedDict()
        self._pushes = collections.deque()
        self._ahead = ahead

    def prefetch(self, keys):
        """Begins to pull the rows of a later batch, of which forward() is given this very tensor."""
        unique, inverse = torch.unique(keys.detach().cpu(), return_inverse=True)
        self._prefetched[id(keys)] = (keys, unique, inverse, self.table.pull_async(unique.numpy()))
        while len(self._prefetched) > self._ahead:
            self._prefetched.popitem(last=False)

    def wait(self):
        """Until all gradients have been applied; raises what went wrong with one."""
        while self._pushes:
            self._pushes.popleft().result()

    def _pull(self, keys):
        """The rows of the distinct keys, and which of them each key is."""
        known = self._prefetched.pop(id(keys), None)
        if known is not None and known[0] is keys:
            _, unique, inverse, call = known
        else:
            unique, inverse = torch.unique(keys.detach().cpu(), return_inverse=True)
            if not (self.training and torch.is_grad_enabled()):
                return torch.from_numpy(self.table.peek(unique.numpy())), inverse
            call = self.table.pull_async(unique.numpy())
        rows = torch.from_numpy(call.result())
        if torch.is_grad_enabled():
            rows = _Pulled.apply(self._anchor, rows, self, unique.numpy(), call.versions)
        return rows, inverse

    def _push(self, keys, gradients, versions):
        while len(self._pushes) >= self._ahead:
            self._pushes.popleft().result()
        self._pushes.append(self.table.push_async(keys, gradients.detach().cpu().numpy(), versions=versions))

    def extra_repr(self):
        return f"{self.table.spec['name']!r}, {self.embedding_dim}"


class Embedding(_Rows):
    """As torch.nn.Embedding, with rows in a table: forward() pulls them, the backward pass pushes their gradients, and
    the table's optimizer makes the step where the rows are. Keys are any integers.

        words = troupe.torch.Embedding(troupe.Table(node, troupe.table_spec("words", 64, optimizer="adagrad"), servers))
        loss(model(words(keys))).backward()

    In eval(), or without gradients, rows are read as they are and none is made. ahead: how many pushes may be under way,
    and how many prefetched batches are kept.
    """

    def forward(self, keys):
        rows, inverse = self._pull(keys)
        return functional.embedding(inverse, rows)


class EmbeddingBag(_Rows):
    """As torch.nn.EmbeddingBag: the sum, mean or largest of each bag's rows. Bags are rows of a matrix of keys, or
    begin at `offsets` of a vector."""

    def __init__(self, table, *, mode="mean", ahead=8):
        super().__init__(table, ahead=ahead)
        self.mode = mode

    def forward(self, keys, offsets=None, per_sample_weights=None):
        rows, inverse = self._pull(keys)
        return functional.embedding_bag(inverse, rows, offsets, mode=self.mode, per_sample_weights=per_sample_weights)
