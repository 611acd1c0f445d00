"""What travels, and as what."""
import dataclasses
import enum
import sys
import typing
import unittest

import numpy

import troupe
from support import WithNode


class Color(enum.IntEnum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Point:
    x: float
    y: float
    name: typing.Optional[str] = None


class Plain:
    def __eq__(self, other):
        return type(other) is Plain


@troupe.actor
class Typed:
    def all(self, a: bool, b: int, c: float, d: str, e: bytes) -> typing.Tuple[bool, int, float, str, bytes]:
        return a, b, c, d, e

    def small(self, value: troupe.int8) -> troupe.int8:
        return value

    def large(self, value: troupe.uint64) -> troupe.uint64:
        return value

    def numbers(self, values: typing.List[troupe.int32]) -> typing.List[float]:
        return [value / 2 for value in values]

    def texts(self, values: typing.List[str]) -> typing.Dict[str, int]:
        return {value: len(value) for value in values}

    def moved(self, point: Point, by: float) -> Point:
        return dataclasses.replace(point, x=point.x + by)

    def other(self, color: Color) -> Color:
        return Color.BLUE if color is Color.RED else Color.RED

    def maybe(self, value: typing.Optional[int]) -> typing.Optional[int]:
        return None if value is None else value + 1

    def wrong_result(self) -> int:
        return "text"

    def nothing(self) -> None:
        pass

    def anything(self, value: object) -> object:
        return value

    def natural(self, value):
        return value


class Values(WithNode):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.node.spawn("typed", Typed())
        cls.typed = cls.node.actor("typed", Typed)

    def test_typed_values_come_as_they_were(self):
        self.assertEqual(self.typed.all(True, -5, 2.5, "grün", b"\0\xff"), (True, -5, 2.5, "grün", b"\0\xff"))
        self.assertEqual(self.typed.numbers([1, 2, -3]), [0.5, 1.0, -1.5])
        self.assertEqual(self.typed.numbers([]), [])
        self.assertEqual(self.typed.texts(["a", "", "ccc"]), {"a": 1, "": 0, "ccc": 3})
        self.assertEqual(self.typed.moved(Point(1, 2, "p"), 3), Point(4, 2, "p"))
        self.assertEqual(self.typed.other(Color.RED), Color.BLUE)
        self.assertEqual([self.typed.maybe(None), self.typed.maybe(3)], [None, 4])
        self.assertIsNone(self.typed.nothing())
        self.assertEqual(self.typed.large(2**64 - 1), 2**64 - 1)
        self.assertEqual(self.typed.small(numpy.int64(-128)), -128)

    def test_a_value_that_does_not_fit_is_refused_where_it_is_sent(self):
        for wrong in (128, -129, "1", 1.5, None, 2**70):
            with self.assertRaises((TypeError, OverflowError), msg=repr(wrong)):
                self.typed.small(wrong)
        with self.assertRaises(TypeError):
            self.typed.all(1, 2, 3, 4, 5)
        with self.assertRaisesRegex(TypeError, "was given 1 arguments"):
            self.typed.maybe(1) if self.typed.all(True) else None

    def test_a_value_that_does_not_fit_is_refused_where_it_comes(self):
        for wrong in (128, "1"):
            with self.assertRaisesRegex(troupe.InvalidArgument, "argument 1"):
                self.node.call("typed", "small", wrong)
        with self.assertRaisesRegex(troupe.InvalidArgument, "takes 1 arguments, not 2"):
            self.node.call("typed", "small", 1, 2)
        with self.assertRaisesRegex(troupe.Internal, "the result"):
            self.typed.wrong_result()

    def test_callers_of_other_types_are_told_both(self):
        @troupe.actor
        class Other:
            def small(self, value: str) -> str:
                return value

        with self.assertRaisesRegex(troupe.InvalidArgument, r"small\(int8\) -> int8, namely as \(string\) -> string"):
            self.node.actor("typed", Other).small("a")
        with self.assertRaisesRegex(AttributeError, "has no method 'big'; it has small"):
            self.node.actor("typed", Other).big("a")

    def test_what_is_annotated_with_object_comes_back_as_it_was(self):
        values = [
            None, True, 0, -1, 2**63 - 1, -(2**63), 2**63, 2**200, -(2**90), 0.1, "text", "\ud800", b"bytes", [], (),
            {}, set(), [1, 2, 3, 4, 5], [1.0] * 9, [1, 2.0, "a"], (1, (2, [3])), {"a": {1: [None]}, (1, 2): b""},
            {1, 2}, frozenset("ab"), [True] * 5, [2**70] * 5,
        ]
        for value in values:
            if value == "\ud800":
                continue  # no text in UTF-8: see below
            back = self.typed.anything(value)
            self.assertEqual(back, value)
            self.assertIs(type(back), type(value))
        array = numpy.arange(6, dtype=numpy.int16).reshape(2, 3)
        back = self.typed.anything({"array": array, "number": numpy.float32(1.5)})
        numpy.testing.assert_array_equal(back["array"], array)
        self.assertEqual(back["number"], numpy.float32(1.5))

    def test_what_has_no_annotation_travels_as_cpp_would_have_it(self):
        for value in (None, True, 3, 2.5, "a", b"b", [1, 2], [1.5], ["a", 1], 2**63):
            self.assertEqual(self.typed.natural(value), value)
        self.assertEqual(self.typed.natural((1, "a")), [1, "a"])
        self.assertEqual(self.typed.natural({"a": 1}), [["a", 1]])
        self.assertEqual(self.typed.natural(numpy.float32(0.5)), 0.5)

    def test_what_cannot_be_sent_is_said(self):
        with self.assertRaises(UnicodeEncodeError):
            self.typed.anything("\ud800")
        with self.assertRaisesRegex(TypeError, "pickle could"):
            self.typed.anything(Plain())
        with self.assertRaisesRegex(TypeError, "Plain cannot be sent"):
            self.typed.natural(Plain())
        endless = []
        endless.append(endless)
        with self.assertRaises(RecursionError):
            self.typed.anything(endless)
        with self.assertRaises(RecursionError):
            self.typed.natural(endless)

    def test_pickle_only_when_it_is_allowed(self):
        troupe.allow_pickle(True)
        try:
            self.assertEqual(self.typed.anything([Plain()]), [Plain()])
            call = self.node.call_async("typed", "anything", 1)
            self.assertEqual(call.result(), 1)
        finally:
            troupe.allow_pickle(False)

    def test_objects_are_given_back(self):
        class Marked(bytes):
            pass

        marked = Marked(b"x" * 1000)
        before = sys.getrefcount(marked)
        for _ in range(50):
            self.typed.anything([marked, {"a": marked}])
        self.assertEqual(sys.getrefcount(marked), before)

    def test_types_that_do_not_travel_are_refused_when_the_class_is_made(self):
        with self.assertRaisesRegex(TypeError, "unions"):

            @troupe.actor
            class Wrong:
                def f(self, value: typing.Union[int, str]):
                    pass

        with self.assertRaisesRegex(TypeError, "by their place"):

            @troupe.actor
            class Keywords:
                def f(self, *, value: int):
                    pass


if __name__ == "__main__":
    unittest.main()
