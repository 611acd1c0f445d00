"""Calls between processes and threads, waited for and not."""
import asyncio
import math
import os
import sys
import threading
import time
import unittest

import numpy

import troupe
from support import PATIENCE, WithNode, peer


@troupe.actor
class Local:
    def __init__(self):
        self.count = 0

    def add(self, value: int) -> int:
        self.count += value
        return self.count

    def double(self, value: int) -> int:
        return 2 * value


class Texts:
    def __init__(self, node):
        self.node = node

    def text(self):
        return "text"

    def meet(self):
        self.node.barrier("in a handler", [self.node.name], 10)
        return "met"

    def end(self, way):
        getattr(self.node, way)()

    @troupe.method(runs="beside")
    def raises_odd_text(self):
        raise ValueError("\udcff")

    def stops(self):
        next(iter(()))


class Calls(WithNode):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.local = cls.node.spawn("local", Local())
        cls.context = peer(cls.node)
        cls.context.__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.context.__exit__(None, None, None)
        super().tearDownClass()

    def test_calls_there_and_back(self):
        self.assertEqual(self.node.call("peer.echo", "bytes", b"x" * 100000), b"x" * 100000)
        self.assertEqual(self.node.call("peer.echo", "ask", "local", "double", 21), 42)
        array = numpy.arange(1e6)
        numpy.testing.assert_array_equal(self.node.call("peer.echo", "array", array), array)

    def test_errors_are_classes_with_codes(self):
        with self.assertRaises(troupe.NotFound) as caught:
            self.node.call("nobody", "f")
        self.assertEqual(caught.exception.code, troupe.Code.NOT_FOUND)
        with self.assertRaises(troupe.Unimplemented):
            self.node.call("peer.echo", "nothing")
        with self.assertRaises(KeyError) as caught:
            self.node.call("peer.echo", "fail", "key")
        error = caught.exception
        self.assertIsInstance(error, troupe.Internal)
        self.assertEqual((error.exception, error.node), ("KeyError", "peer"))
        self.assertIn("raise KeyError(text)", error.cause)

    def test_deadlines(self):
        begun = time.monotonic()
        with self.assertRaises(TimeoutError):
            self.node.call("peer.echo", "sleep", 0.5, timeout=0.05)
        self.assertLess(time.monotonic() - begun, 30)
        self.assertEqual(self.node.call("peer.echo", "sleep", 0.01, timeout=math.inf), 0.01)
        with self.assertRaises(troupe.DeadlineExceeded):
            self.node.call("peer.echo", "sleep", 0.01, timeout=0)

    def test_futures(self):
        calls = [self.node.call_async("local", "double", i) for i in range(100)]
        self.assertEqual([call.result() for call in calls], [2 * i for i in range(100)])
        call = self.node.call_async("peer.echo", "sleep", 1.0)
        with self.assertRaises(TimeoutError):
            call.result(0.01)
        call.cancel()
        with self.assertRaises(troupe.Cancelled):
            call.result()
        self.assertTrue(call.done())
        with self.assertRaises(troupe.FailedPrecondition):
            call.result()

    def test_the_gil_is_free_in_waits(self):
        turns = 0
        call = self.node.call_async("peer.echo", "sleep", 0.2)
        waiting = threading.Thread(target=call.result)
        waiting.start()
        while waiting.is_alive():
            turns += 1
            time.sleep(0)
        self.assertGreater(turns, 100)

    def test_many_threads_call_and_are_called(self):
        """The GIL and the loop's turn, wanted by everybody at once: nobody waits for ever."""
        failures = []

        def work(number):
            try:
                for i in range(100):
                    if self.node.call("local", "double", i) != 2 * i:
                        failures.append("a wrong answer")
                    if i % 10 == number % 10:
                        self.node.call("peer.echo", "ask", "local", "double", i)
                    sum(range(1000))
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(PATIENCE)
        self.assertEqual([], failures)
        self.assertFalse(any(each.is_alive() for each in threads))

    def test_without_helping_the_nodes_own_thread_runs_handlers(self):
        """A lock that a caller holds while it calls: a handler that wants it, too, must not run on its thread."""
        lock = threading.Lock()

        class Locking:
            def wait(self, seconds: float) -> str:
                return threading.current_thread().name

        with troupe.Node("unhelpful", help=False) as node:
            node.spawn("a", Locking())
            with lock:
                self.assertNotEqual(node.call("a", "wait", 0.0), threading.current_thread().name)

    def test_repeats_run_once(self):
        before = self.local.count
        self.node.call("local", "add", 1, attempts=5)
        self.assertEqual(self.local.count, before + 1)

    def test_an_answer_of_another_type_is_told_to_who_awaits_it(self):
        async def main():
            with self.assertRaisesRegex(troupe.InvalidArgument, "string"):
                await asyncio.wait_for(asyncio.ensure_future(
                    self.node.call_async("texts", "text", returns=int)), PATIENCE)

        self.node.spawn("texts", Texts(self.node))
        asyncio.run(main())

    def test_handlers_wait_for_the_cluster_but_do_not_end_their_node(self):
        self.node.spawn("waiting", Texts(self.node))
        self.assertEqual(self.node.call("waiting", "meet"), "met")
        for way in ("close", "leave", "run"):
            with self.assertRaisesRegex(troupe.FailedPrecondition, "handler"):
                self.node.call("waiting", "end", way)

    def test_exceptions_of_any_text_and_kind(self):
        self.node.spawn("raising", Texts(self.node))
        with self.assertRaisesRegex(ValueError, "udcff"):
            self.node.call("raising", "raises_odd_text")
        with self.assertRaises(troupe.Internal) as caught:
            self.node.call("raising", "stops")
        self.assertNotIsInstance(caught.exception, StopIteration)

    def test_coroutine_methods(self):
        self.assertEqual(self.node.call("peer.echo", "later", 1), 2)

    def test_asyncio(self):
        async def main():
            one = await self.node.call_async("local", "double", 4)
            many = await asyncio.gather(*(self.node.call_async("peer.echo", "later", i) for i in range(50)))
            with self.assertRaises(troupe.NotFound):
                await self.node.call_async("nobody", "f")
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.ensure_future(self.node.call_async("peer.echo", "sleep", 1.0)), 0.05)
            return one, many

        self.assertEqual(asyncio.run(main()), (8, [i + 1 for i in range(50)]))
        self.assertEqual(asyncio.run(main())[0], 8)  # in another event loop, too

    def test_asyncio_nodes(self):
        async def main():
            thread = threading.current_thread()

            class Here:
                async def name(self) -> str:
                    await asyncio.sleep(0)
                    return threading.current_thread().name

            async with await troupe.aio.start("aio", registry=self.node.address) as node:
                await node.spawn("here", Here())
                self.assertEqual(await node.call("here", "name"), thread.name)
                self.assertEqual(await node.actor("here", Here).name(), thread.name)
                await node.wait_for_actor("local", PATIENCE)
                self.assertEqual(await node.call("local", "double", 3), 6)

        asyncio.run(main())

    def test_a_peer_that_dies(self):
        with peer(self.node, "mortal"):
            with self.assertRaises(troupe.Unavailable):
                self.node.call("mortal.echo", "die")
        with self.assertRaises((troupe.Unavailable, troupe.NotFound)):
            self.node.call("mortal.echo", "pid")

    def test_functions_as_an_actor(self):
        functions = troupe.Functions(math_pow)
        self.node.spawn("functions", functions)
        self.assertEqual(self.node.call("functions", "math_pow", 2.0, 10.0), 1024)

    @unittest.skipUnless(sys.platform == "linux", "looks into /proc")
    def test_nothing_is_left_of_calls(self):
        def threads_and_descriptors():
            return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

        with troupe.Node("before"):
            pass
        before = threads_and_descriptors()
        for i in range(3):
            with troupe.Node(f"again-{i}") as node:
                node.spawn("local", Local())
                node.call("local", "add", 1)
        deadline = time.monotonic() + 20
        while threads_and_descriptors() != before and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertEqual(threads_and_descriptors(), before)


def math_pow(base: float, exponent: float) -> float:
    return base**exponent


if __name__ == "__main__":
    unittest.main()
