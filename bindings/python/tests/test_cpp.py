"""Actors in C++ and in Python call each other, with the types of both compared."""
import dataclasses
import os
import subprocess
import typing
import unittest

import numpy

import troupe
from support import PATIENCE, WithNode


@dataclasses.dataclass
class Point:
    x: float
    y: float
    name: typing.Optional[str] = None


@troupe.actor
class Calculator:
    """What the actor in C++ has."""

    def sum(self, values: typing.List[float]) -> float: ...
    def scale(self, vector: typing.Annotated[numpy.ndarray, troupe.TensorOf("float32", 1)], by: float) -> numpy.ndarray: ...
    def describe(self, counts: typing.Dict[str, int]) -> str: ...
    def moved(self, point: Point, by: float) -> Point: ...
    def both(self, flag: bool, text: str, data: bytes) -> typing.Tuple[bool, str, bytes]: ...
    def small(self, value: troupe.uint8) -> troupe.uint8: ...
    def fail(self) -> None: ...
    def ask(self, actor: str) -> float: ...
    def error_of(self, actor: str) -> str: ...


@troupe.actor
class Ours:
    def double(self, value: int) -> int:
        return 2 * value

    def moved(self, point: Point, by: float) -> Point:
        return dataclasses.replace(point, x=point.x + by)

    def halve(self, array: numpy.ndarray) -> numpy.ndarray:
        return array / 2

    def fail(self) -> None:
        raise ZeroDivisionError("by zero")


@unittest.skipUnless(os.environ.get("TROUPE_CPP_PEER"), "no program in C++ is there")
class Cpp(WithNode):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.process = subprocess.Popen([os.environ["TROUPE_CPP_PEER"], cls.node.address])
        cls.node.spawn("ours", Ours())
        cls.node.wait_for_actor("calculator", PATIENCE)
        cls.theirs = cls.node.actor("calculator", Calculator)

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.process.kill()
        cls.process.wait()

    def test_python_calls_cpp(self):
        self.assertEqual(self.theirs.sum([1.5, 2.5]), 4)
        self.assertEqual(self.theirs.sum([]), 0)
        numpy.testing.assert_array_equal(self.theirs.scale(numpy.ones(3, "f4"), 2), [2, 2, 2])
        self.assertEqual(self.theirs.describe({"b": 2, "a": -1}), "a=-1;b=2;")
        self.assertEqual(self.theirs.moved(Point(1, 2), 0.5), Point(1.5, 2, None))
        self.assertEqual(self.theirs.both(True, "a", b"\1"), (False, "a!", b"\1"))
        self.assertEqual(self.theirs.small(255), 255)
        with self.assertRaisesRegex(troupe.Internal, "past the end") as caught:
            self.theirs.fail()
        self.assertEqual(caught.exception.exception, "std::out_of_range")

    def test_without_types(self):
        self.assertEqual(self.node.call("calculator", "sum", [1.0, 2.0]), 3)
        self.assertEqual(self.node.call("calculator", "moved", (1.0, 2.0, None), 1.0), [2.0, 2.0, None])
        self.assertEqual(self.node.call("calculator", "describe", {"a": 1}), "a=1;")
        with self.assertRaisesRegex(troupe.InvalidArgument, "argument 1 is to be uint8"):
            self.node.call("calculator", "small", 256)

    def test_cpp_calls_python(self):
        self.assertEqual(self.theirs.ask("ours"), 42 + 1.5 + 2)
        self.assertRegex(self.theirs.error_of("ours"), "ZeroDivisionError: .*by zero")


if __name__ == "__main__":
    unittest.main()
