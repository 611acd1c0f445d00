"""torch.distributed.rpc's interface."""
import gc
import os
import pathlib
import tempfile
import time
import unittest

import numpy

import rpc_functions as there
import troupe
from support import PATIENCE, run_code, start
from troupe import rpc


def begin(world_size, **kwargs):
    """This process as worker 0; the others are begun, too."""
    folder = tempfile.TemporaryDirectory()
    file = pathlib.Path(folder.name) / "address"
    options = rpc.RpcBackendOptions(num_worker_threads=8, rpc_timeout=PATIENCE, init_method=f"file://{file}")
    others = []

    import threading

    def start_others():
        while not file.exists():
            time.sleep(0.01)
        for rank in range(1, world_size):
            others.append(start("rpc_functions.py", file.read_text().strip(), str(rank), str(world_size)))

    starting = threading.Thread(target=start_others)
    starting.start()
    rpc.init_rpc("worker0", rank=0, world_size=world_size, rpc_backend_options=options, **kwargs)
    starting.join()
    folder.cleanup()
    return others


class Rpc(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.others = begin(3)

    @classmethod
    def tearDownClass(cls):
        rpc.shutdown()
        for each in cls.others:
            if each.wait(PATIENCE) != 0:
                raise AssertionError("a worker has failed")

    def test_functions_by_reference(self):
        self.assertEqual(rpc.rpc_sync("worker1", there.add, args=(1, 2)), 3)
        self.assertEqual(rpc.rpc_sync(2, there.add, kwargs={"a": 1, "b": 4}), 5)
        self.assertEqual(rpc.rpc_sync("worker1", max, args=(1, 2)), 2)
        self.assertEqual(rpc.rpc_sync("worker1", str.upper, args=("a",)), "A")
        self.assertEqual(rpc.rpc_sync("worker1", there.Counter.name), "Counter")
        self.assertEqual(rpc.rpc_sync("worker1", there.Counter.pid), rpc.rpc_sync("worker1", there.pid))
        self.assertEqual(rpc.rpc_sync("worker0", there.pid), os.getpid())
        array = rpc.rpc_sync("worker1", numpy.add, args=(numpy.ones(3), 2)) if hasattr(numpy.add, "__module__") else None
        if array is not None:
            self.assertEqual(array.tolist(), [3, 3, 3])

    def test_what_has_no_name_is_refused(self):
        with self.assertRaisesRegex(TypeError, "by reference"):
            rpc.rpc_sync("worker1", lambda: 1)
        with self.assertRaises(troupe.Error):
            rpc.rpc_sync("nobody", there.pid)

    def test_values(self):
        pair = there.Pair([1, (2, {"a": {3}})], there.Pair(None, 1 + 2j))
        self.assertEqual(rpc.rpc_sync("worker1", there.same, args=(pair,)), pair)
        self.assertIs(rpc.rpc_sync("worker1", there.same, args=(there.add,)), there.add)
        self.assertIs(rpc.rpc_sync("worker1", there.same, args=(there.Counter,)), there.Counter)

        with self.assertRaisesRegex(TypeError, "pickle"):
            rpc.rpc_sync("worker1", there.same, args=(there.Counter(),))

    def test_errors_are_of_their_types(self):
        with self.assertRaises(KeyError):
            rpc.rpc_sync("worker1", there.fail, args=("key",))
        with self.assertRaises(ValueError):
            rpc.remote("worker1", there.Counter).rpc_sync().fail()
        with self.assertRaises(KeyError):
            rpc.remote("worker1", there.fail, args=("key",)).to_here()
        with self.assertRaises(RuntimeError):
            rpc.rpc_sync("worker1", there.sleep, args=(0.5,), timeout=0.05)

    def test_futures(self):
        futures = [rpc.rpc_async("worker1", there.add, args=(i,)) for i in range(20)]
        self.assertEqual(rpc.wait_all(futures), list(range(1, 21)))
        after = rpc.rpc_async("worker1", there.add, args=(1,)).then(lambda done: done.wait() * 10)
        self.assertEqual(after.wait(), 20)
        failed = rpc.rpc_async("worker1", there.fail, args=("key",)).then(lambda done: done.wait())
        with self.assertRaises(KeyError):
            failed.wait()
        both = rpc.collect_all([rpc.rpc_async("worker1", there.add, args=(i,)) for i in range(3)]).wait()
        self.assertEqual([each.value() for each in both], [1, 2, 3])
        slow = rpc.rpc_async("worker1", there.sleep, args=(0.05,))
        self.assertEqual([slow.wait(), slow.wait(), slow.done()], [0.05, 0.05, True])

    def test_calls_back(self):
        self.assertEqual(rpc.rpc_sync("worker1", there.call_back, args=("worker0", 5)), 6)
        self.assertEqual(rpc.rpc_sync("worker1", there.call_back, args=("worker2", 5)), 6)

    def test_answers_that_come_later(self):
        self.assertEqual(rpc.rpc_sync("worker1", there.add_later, args=("worker2", 1, 2)), 103)
        self.assertEqual(rpc.rpc_async("worker1", there.add_later, args=("worker0", 1, 2)).wait(), 103)
        self.assertEqual(rpc.remote("worker1", there.add_later, args=("worker0", 1, 2)).to_here(), 103)

    def test_references(self):
        rref = rpc.remote("worker1", there.Counter, args=(5,))
        self.assertFalse(rref.is_owner())
        self.assertEqual(rref.owner(), rpc.get_worker_info("worker1"))
        self.assertEqual(rref.rpc_sync().add(), 6)
        self.assertEqual(rref.rpc_async().add(2).wait(), 8)
        self.assertEqual(rref.remote().add(2).to_here(), 10)
        self.assertEqual(rref.rpc_sync().later(5), 15)
        self.assertEqual(rref.remote().later(5).to_here(), 15)
        self.assertEqual(rpc.rpc_sync("worker1", there.Counter.name), "Counter")
        for proxy in (rref.rpc_sync(), rref.remote()):
            with self.assertRaisesRegex(AttributeError, "no attribute 'nothing'"):
                proxy.nothing()
        self.assertTrue(rref.confirmed_by_owner())
        with self.assertRaisesRegex(RuntimeError, "can't call localValue"):
            rref.local_value()
        # A third worker is given it, and the owner itself.
        self.assertEqual(rpc.rpc_sync("worker2", there.count_at, args=(rref, 10)), 20)
        self.assertEqual(rpc.rpc_sync("worker1", there.count_at, args=(rref, 1)), 21)

    def test_references_to_what_is_here(self):
        rref = rpc.RRef(there.Counter(1))
        self.assertTrue(rref.is_owner())
        self.assertEqual(rpc.rpc_sync("worker1", there.count_at, args=(rref, 4)), 5)
        self.assertEqual(rref.local_value().count, 5)
        self.assertEqual(rpc.remote("worker0", there.Counter, args=(3,)).local_value().count, 3)

    def test_references_are_counted(self):
        rref = rpc.rpc_sync("worker1", there.make_counter, args=(7,))
        gc.collect()
        self.assertEqual(rref.rpc_sync().add(1), 8)
        self.assertGreaterEqual(rpc.rpc_sync("worker1", there.owned_here), 1)
        for _ in range(20):
            rpc.rpc_sync("worker2", there.count_at, args=(rref, 1))
        del rref
        gc.collect()
        deadline = time.monotonic() + PATIENCE
        while rpc.rpc_sync("worker1", there.owned_here) > 0 and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.02)
        self.assertEqual(rpc.rpc_sync("worker1", there.owned_here), 0)

    def test_references_may_end_anywhere(self):
        """The collector of garbage runs where a lock is held."""
        from troupe.rpc import rref as module

        class Owned(module.Owned):
            def __init__(self):
                gc.collect()
                super().__init__()

        plain, module.Owned = module.Owned, Owned
        try:
            for _ in range(5):
                circle = [rpc.RRef(there.Counter(1))]
                circle.append(circle)
                del circle
                self.assertEqual(rpc.RRef(there.Counter(2)).rpc_sync().add(1), 3)
        finally:
            module.Owned = plain

    def test_workers_are_known(self):
        self.assertEqual(rpc.get_worker_info(), rpc.WorkerInfo("worker0", 0))
        self.assertEqual(rpc.get_worker_info("worker2").id, 2)
        with self.assertRaises(RuntimeError):
            rpc.init_rpc("again", rank=0, world_size=1)


class Alone(unittest.TestCase):
    def test_modules_that_others_may_not_name(self):
        begin(1, modules=["rpc_functions"])
        try:
            self.assertEqual(rpc.rpc_sync("worker0", there.add, args=(1, 2)), 3)
            with self.assertRaises(troupe.PermissionDenied):
                rpc.rpc_sync("worker0", os.getcwd)
            from troupe.rpc import references

            for sideways in ("rpc_functions:os.getcwd", "rpc_functions:__spec__.loader.get_data", "rpc_functions:os"):
                with self.assertRaises(troupe.PermissionDenied):
                    references.resolve(sideways)
            rref = rpc.remote("worker0", there.Counter, args=(1,))
            self.assertEqual(rref.rpc_sync().add(1), 2)
        finally:
            rpc.shutdown()
        with self.assertRaisesRegex(troupe.FailedPrecondition, "init_rpc"):
            rpc.rpc_sync("worker0", there.pid)

    def test_a_program_that_does_not_shut_down_ends(self):
        done = run_code(
            "from troupe import rpc\n"
            "rpc.init_rpc('a', rank=0, world_size=1, rpc_backend_options=rpc.RpcBackendOptions(init_method='tcp://127.0.0.1:0'))\n"
            "rref = rpc.remote('a', dict)\n"
            "f = rpc.rpc_async('a', max, args=(1, 2)).then(lambda done: done.wait())\n"
            "print(rref.to_here(), f.wait())\n"
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "{} 2\n", ""))


if __name__ == "__main__":
    unittest.main()
