"""Nodes begin and end, whatever the interpreter does meanwhile."""
import gc
import os
import signal
import subprocess
import sys
import time
import unittest

import troupe
from support import HERE, PATIENCE, WithNode, peer, run_code


class Nodes(WithNode):
    def test_names_are_taken_once(self):
        with self.assertRaises(troupe.AlreadyExists):
            troupe.Node(self.node.name, registry=self.node.address)
        self.node.spawn("once", object())
        with self.assertRaises(troupe.AlreadyExists):
            self.node.spawn("once", object())
        self.node.kill("once")
        with self.assertRaises(troupe.NotFound):
            self.node.kill("once")

    def test_a_closed_node_says_so(self):
        node = troupe.Node("closed")
        node.close()
        node.close()
        self.assertTrue(node.closed)
        for use in (lambda: node.call("a", "b"), lambda: node.spawn("a", object()), node.members, node.run):
            with self.assertRaisesRegex(troupe.FailedPrecondition, "'closed' is closed"):
                use()

    def test_a_node_may_be_dropped_without_an_end(self):
        node = troupe.Node("dropped")
        address = node.address
        node.spawn("holds", type("Holds", (), {"node": node})())  # a circle through C++, too
        del node
        gc.collect()
        self.assertTrue(address)

    def test_closing_ends_waits_of_other_threads(self):
        import threading

        node = troupe.Node("closing", registry=self.node.address)
        outcome = []

        def wait():
            try:
                node.call("test.sleep", "sleep", 30.0, timeout=30)
            except troupe.Error as error:
                outcome.append(error)

        @troupe.actor
        class Sleep:
            @troupe.method(runs="beside")
            def sleep(self, seconds: float):
                deadline = time.monotonic() + seconds
                while not outcome and time.monotonic() < deadline:
                    time.sleep(0.01)

        self.node.spawn("test.sleep", Sleep())
        node.wait_for_actor("test.sleep", PATIENCE)
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.1)
        node.close()
        waiting.join(PATIENCE)
        self.assertIsInstance(outcome[0], troupe.Error)

    def test_members_actors_and_barriers(self):
        with peer(self.node, "member") as process:
            self.assertEqual(self.node.call("member.echo", "pid"), process.pid)
            self.assertIn("member", [each["name"] for each in self.node.members()])
            self.assertEqual(self.node.actors()["member.echo"], "member")
            self.assertEqual(len(self.node.wait_for_role("worker", 2, 1)), 2)
            with self.assertRaises(troupe.DeadlineExceeded):
                self.node.wait_for_role("worker", 9, 0.05)
            with self.assertRaises(TimeoutError):
                self.node.wait_for_actor("nobody", 0.05)
            self.node.barrier("alone", [self.node.name], 5)
            with self.assertRaisesRegex(troupe.DeadlineExceeded, "member"):
                self.node.barrier("both", [self.node.name, "member"], 0.1)

    def test_a_program_may_end_with_a_node_alive(self):
        done = run_code(
            "import troupe\n"
            "class A:\n"
            "    def f(self): return 1\n"
            "node = troupe.Node('alive')\n"
            "node.spawn('a', A())\n"
            "print(node.call('a', 'f'))\n"
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "1\n", ""))

    def test_a_program_may_end_with_calls_under_way(self):
        done = run_code(
            "import troupe, threading, time\n"
            "class A:\n"
            "    @troupe.method(runs='beside')\n"
            "    def f(self): time.sleep(0.3)\n"
            "node = troupe.Node('alive')\n"
            "node.spawn('a', A())\n"
            "calls = [node.call_async('a', 'f') for _ in range(8)]\n"
            "threading.Thread(target=lambda: node.call('a', 'f'), daemon=True).start()\n"
            "time.sleep(0.05)\n"
        )
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_child_of_fork_is_refused_and_may_end(self):
        done = run_code(
            "import os, troupe, warnings\n"
            "warnings.simplefilter('ignore')  # of fork() where there are threads\n"
            "class A:\n"
            "    def f(self): return 1\n"
            "node = troupe.Node('parent')\n"
            "node.spawn('a', A())\n"
            "call = node.call_async('a', 'f')\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    for use in (lambda: node.call('a', 'f'), node.run, lambda: node.call_async('a', 'f').result()):\n"
            "        try: use()\n"
            "        except troupe.FailedPrecondition as error: assert 'fork' in str(error), error\n"
            "        else: print('not refused')\n"
            "    with troupe.Node('child') as own:\n"
            "        own.spawn('a', A())\n"
            "        print('child', own.call('a', 'f'), flush=True)\n"
            "else:\n"
            "    print('ended', os.waitpid(child, 0)[1], node.call('a', 'f'), call.result())\n"
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "child 1\nended 0 1 1\n", ""))


class Interrupts(unittest.TestCase):
    """Ctrl-C ends each wait, and nothing else does."""

    PROLOGUE = (
        "import asyncio, signal, sys, time, troupe\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may ignore it\n"
        "class A:\n"
        "    @troupe.method(runs='beside')\n"
        "    def sleep(self): time.sleep(3)\n"
        "    def spin(self):\n"
        "        print('ready', flush=True)\n"
        "        end = time.monotonic() + 30\n"
        "        while time.monotonic() < end: pass\n"
        "node = troupe.Node('interrupted', pool_threads=2)\n"
        "node.spawn('a', A())\n"
        "async def wait(): await node.call_async('a', 'sleep')\n"
        "def say(): print('ready', flush=True)\n"
        "try:\n"
    )
    EPILOGUE = (
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
        "class B:\n"
        "    def f(self): return 5\n"
        "node.spawn('b', B())\n"
        "print(node.call('b', 'f'))\n"
    )

    def interrupted(self, line):
        code = self.PROLOGUE + f"    {line}\n" + self.EPILOGUE
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, cwd=HERE)
        try:
            self.assertEqual(process.stdout.readline(), "ready\n")
            time.sleep(0.1)
            begun = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        self.assertEqual((process.returncode, out, err), (0, "interrupted\n5\n", ""))
        return time.monotonic() - begun

    def test_in_a_call(self):
        self.interrupted("say(); node.call('a', 'sleep')")

    def test_in_a_future(self):
        self.interrupted("call = node.call_async('a', 'sleep'); say(); call.result()")

    def test_in_run(self):
        self.interrupted("say(); node.run()")

    def test_in_waits_of_the_cluster(self):
        self.interrupted("say(); node.wait_for_actor('nobody', 30)")
        self.interrupted("say(); node.barrier('b', ['interrupted', 'nobody'], 30)")

    def test_in_asyncio(self):
        self.interrupted("say(); asyncio.run(wait())")

    def test_in_a_handler_that_the_main_thread_runs(self):
        self.interrupted("node.call('a', 'spin')")


if __name__ == "__main__":
    unittest.main()
