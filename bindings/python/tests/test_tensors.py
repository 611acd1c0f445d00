"""Arrays pass without copies, and live as long as who has them."""
import gc
import typing
import unittest
import weakref

import numpy

import troupe
from support import WithNode, peer

try:
    import torch
except ImportError:
    torch = None


@troupe.actor
class Keeper:
    def same(self, array: numpy.ndarray) -> numpy.ndarray:
        return array

    def keep(self, array: numpy.ndarray):
        self.kept = array

    def raw(self, tensor: troupe.Tensor) -> troupe.Tensor:
        return tensor

    def vector(self, array: typing.Annotated[numpy.ndarray, troupe.TensorOf("float32", 1)]) -> float:
        return float(array.sum())


class Arrays(WithNode):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.keeper = Keeper()
        cls.node.spawn("keeper", cls.keeper)
        cls.actor = cls.node.actor("keeper", Keeper)

    def test_every_dtype_and_shape(self):
        for dtype in "bhilBHILefd?":
            for shape in ((), (0,), (5,), (2, 3), (2, 0, 3), (1,) * 8):
                array = numpy.ones(shape, dtype)
                back = self.actor.same(array)
                self.assertEqual((back.dtype, back.shape), (array.dtype, array.shape))
                numpy.testing.assert_array_equal(back, array)

    def test_strides(self):
        base = numpy.arange(24).reshape(4, 6)
        records = numpy.zeros(3, [("a", "i1"), ("b", "<i4")])
        records["b"] = [1, 2, 3]
        for array in (base.T, base[::2], base[:, ::3], base[::-1], base[:, ::-2], records["b"],
                      numpy.broadcast_to(numpy.float32(2), (3, 2))):
            numpy.testing.assert_array_equal(self.actor.same(array), array)

    def test_what_cannot_be_sent(self):
        for wrong in (numpy.ones(2, ">f4"), numpy.ones(2, complex), numpy.array(["a"]), numpy.ones((1,) * 9)):
            with self.assertRaises((TypeError, ValueError)):
                self.actor.same(wrong)
        with self.assertRaises(TypeError):
            self.actor.same("text")
        with self.assertRaisesRegex(TypeError, "tensor<float32, 1>"):
            self.actor.vector(numpy.ones(3))
        self.assertEqual(self.actor.vector(numpy.ones(3, "f4")), 3)

    def test_on_one_node_the_memory_is_the_callers(self):
        array = numpy.zeros(1000)
        self.actor.keep(array)
        array[5] = 7
        self.assertEqual(self.keeper.kept[5], 7)
        self.assertTrue(numpy.shares_memory(self.keeper.kept, array))

    def test_what_can_only_be_read_is_not_written_by_others(self):
        text = bytes(100)
        self.node.call("keeper", "keep", memoryview(text))
        self.keeper.kept[:] = 1
        self.assertEqual(text, bytes(100))

    def test_memory_goes_when_the_last_view_does(self):
        array = numpy.ones(1000)
        gone = weakref.ref(array)
        view = self.actor.same(array)[10:20]
        del array
        self.assertIsNotNone(gone())
        self.assertEqual(view.sum(), 10)
        del view
        self.actor.keep(numpy.ones(1))
        gc.collect()
        self.node.call("keeper", "raw", numpy.ones(1))
        self.assertIsNone(gone())

    def test_views_outlive_their_node(self):
        with troupe.Node("short-lived") as node:
            with peer(node):
                small = node.call("peer.echo", "array", numpy.arange(10.0))
                large = node.call("peer.echo", "array", numpy.arange(1e6))
                mapped = node.call("peer.echo", "array", node.shared_tensor([1 << 16]))
        gc.collect()
        self.assertEqual(small.sum(), 45)
        self.assertEqual(large[-1], 999999)
        self.assertEqual(len(mapped), 1 << 16)
        large[0] = 5

    def test_shared_memory_is_mapped_and_cannot_be_written(self):
        with troupe.Node("lender") as node, peer(node):
            tensor = node.shared_tensor([1 << 18])
            numpy.asarray(tensor)[:] = 0.5
            self.assertEqual(node.call("peer.echo", "total", tensor), 1 << 17)

    def test_tensors_themselves(self):
        tensor = self.actor.raw(numpy.arange(6, dtype="f4").reshape(2, 3))
        self.assertIsInstance(tensor, troupe.Tensor)
        self.assertEqual((tensor.shape, tensor.dtype, tensor.nbytes), ((2, 3), "float32", 24))
        numpy.testing.assert_array_equal(numpy.from_dlpack(tensor), [[0, 1, 2], [3, 4, 5]])
        copy = tensor.clone()
        self.assertFalse(numpy.shares_memory(numpy.asarray(copy), numpy.asarray(tensor)))

    @unittest.skipIf(torch is None, "no PyTorch")
    def test_torch(self):
        @troupe.actor
        class Torch:
            def double(self, tensor: torch.Tensor) -> torch.Tensor:
                assert isinstance(tensor, torch.Tensor)
                return tensor * 2

            def same(self, tensor: torch.Tensor) -> torch.Tensor:
                return tensor

        self.node.spawn("torch", Torch())
        actor = self.node.actor("torch", Torch)
        tensor = torch.arange(6.0).reshape(2, 3)
        self.assertTrue(torch.equal(actor.double(tensor), tensor * 2))
        self.assertEqual(actor.same(tensor).data_ptr(), tensor.data_ptr())
        half = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
        self.assertEqual(actor.double(half).dtype, torch.bfloat16)


if __name__ == "__main__":
    unittest.main()
