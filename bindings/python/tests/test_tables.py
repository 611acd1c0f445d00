"""Tables, and the modules of PyTorch's on them."""
import asyncio
import unittest

import numpy

import troupe
from support import WithNode

try:
    import torch
except ImportError:
    torch = None


class Tables(WithNode):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.servers = ["ps-0", "ps-1"]
        for index, name in enumerate(cls.servers):
            troupe.serve_shards(cls.node, name, index, 2)

    def table(self, name, dim=4, **kwargs):
        kwargs.setdefault("optimizer", ("sgd", {"learning_rate": 1.0}))
        table = troupe.Table(self.node, troupe.table_spec(name, dim, **kwargs), self.servers)
        self.addCleanup(table.close)
        return table

    def test_rows_are_pulled_and_pushed(self):
        table = self.table("plain")
        keys = numpy.array([[1, 2], [3, -1]])
        self.assertEqual(table.pull(keys).shape, (2, 2, 4))
        outcome = table.push(keys, numpy.ones((2, 2, 4)))
        self.assertEqual((outcome["applied"], outcome["staleness"]), (True, 0))
        numpy.testing.assert_array_equal(table.pull([1, -1, 7]), [[-1] * 4, [-1] * 4, [0] * 4])
        table.push([5, 5], numpy.ones((2, 4)))
        self.assertEqual(table.peek(5)[0], -2)

    def test_they_are_initialised_and_optimised_as_the_table_says(self):
        table = self.table("uniform", initializer=("uniform", {"low": 1.0, "high": 2.0}), optimizer=("adagrad", {"learning_rate": 0.5}))
        rows = table.pull(range(100))
        self.assertTrue(((rows >= 1) & (rows < 2)).all())
        table.push(range(100), numpy.full((100, 4), 3.0))
        numpy.testing.assert_allclose(table.pull(range(100)), rows - 0.5, rtol=1e-5)
        self.assertEqual(table.spec["optimizer"]["kind"], "adagrad")

    def test_what_goes_wrong(self):
        table = self.table("faulty")
        with self.assertRaisesRegex(ValueError, "gradients are to be"):
            table.push([1], numpy.ones((2, 4)))
        with self.assertRaises(troupe.InvalidArgument):
            table.push([1], numpy.full((1, 4), numpy.nan))
        with self.assertRaisesRegex(ValueError, "no rate"):
            troupe.table_spec("x", 1, optimizer=("sgd", {"rate": 1}))
        with self.assertRaises(TypeError):
            table.pull([1.5])
        with self.assertRaises(troupe.FailedPrecondition):
            troupe.Table(self.node, troupe.table_spec("faulty", 5), self.servers)
        with self.assertRaises(troupe.NotFound):
            troupe.Table(self.node, troupe.table_spec("x", 1), ["nobody"], timeout=0.5)
        table.close()
        with self.assertRaisesRegex(troupe.FailedPrecondition, "closed"):
            table.pull([1])

    def test_ahead_and_awaited(self):
        table = self.table("ahead")
        batches = [numpy.arange(i, i + 3) for i in range(5)]
        for keys, rows in table.prefetch(batches):
            self.assertEqual(rows.shape, (3, 4))
            table.push(keys, numpy.ones((3, 4)))
        self.assertEqual(table.peek(2)[0], -3)

        async def main():
            rows = await table.pull_async([2])
            return rows, await table.push_async([2], rows)

        rows, outcome = asyncio.run(main())
        self.assertEqual((rows[0, 0], outcome["applied"]), (-3, True))

    def test_a_pull_that_nobody_takes(self):
        table = self.table("dropped")
        for _ in range(20):
            table.pull_async(numpy.arange(1000))
        self.assertEqual(table.pull([1]).shape, (1, 4))

    def test_batches_are_handed_out_once(self):
        troupe.hand_out_batches(self.node, "batches", 5, epochs=2)
        self.node.call("batches", "take", "lost worker")
        self.node.call("batches", "lost", "lost worker")
        taken = list(troupe.Batches(self.node, "batches"))
        self.assertEqual(sorted(taken), [(epoch, i) for epoch in range(2) for i in range(5)])

    @unittest.skipIf(torch is None, "no PyTorch")
    def test_embeddings_learn_as_those_of_torch(self):
        from troupe.torch import Embedding, EmbeddingBag

        table = self.table("embedding", initializer=("normal", {"mean": 0.0, "stddev": 1.0}))
        ours = Embedding(table)
        bag = EmbeddingBag(table, mode="sum")
        keys = torch.tensor([[1, 2, 2], [0, 3, 1]])
        theirs = torch.nn.Embedding.from_pretrained(torch.from_numpy(table.pull(range(4))), freeze=False)
        target = torch.randn(2, 3, 4)
        for step in range(3):
            if step == 1:
                ours.prefetch(keys)
            for each in (ours, theirs):
                loss = ((each(keys) - target) ** 2).sum()
                loss.backward()
            ours.wait()
            with torch.no_grad():
                theirs.weight -= theirs.weight.grad
                theirs.weight.grad = None
            torch.testing.assert_close(torch.from_numpy(table.peek(range(4))), theirs.weight.detach())
        ours.eval()
        torch.testing.assert_close(ours(keys), theirs(keys).detach())
        bag(keys).sum().backward()
        bag.wait()
        expected = theirs.weight.detach() - torch.tensor([1.0, 2, 2, 1])[:, None]
        torch.testing.assert_close(torch.from_numpy(table.peek(range(4))), expected)


if __name__ == "__main__":
    unittest.main()
