"""Processes for tests, and one cluster for all tests of a class."""
import contextlib
import os
import pathlib
import subprocess
import sys
import unittest

import troupe

HERE = pathlib.Path(__file__).parent
PATIENCE = 60  # seconds, of machines that have much else to do


def start(*arguments, **kwargs):
    """Another interpreter with a program of this folder."""
    return subprocess.Popen([sys.executable, str(HERE / arguments[0]), *arguments[1:]], **kwargs)


def run_code(code, **kwargs):
    """A program given as text, in an interpreter of its own."""
    return subprocess.run([sys.executable, "-c", code], cwd=HERE, text=True, capture_output=True, timeout=PATIENCE, **kwargs)


@contextlib.contextmanager
def peer(node, name="peer"):
    """A process with the actors of peer.py, which joins the node's cluster."""
    process = start("peer.py", node.address, name)
    try:
        node.wait_for_actor(f"{name}.echo", PATIENCE)
        yield process
    finally:
        process.kill()
        process.wait()


class WithNode(unittest.TestCase):
    """Each class of tests has a node of its own."""

    @classmethod
    def setUpClass(cls):
        cls.node = troupe.Node(f"test-{os.getpid()}", default_timeout=PATIENCE)

    @classmethod
    def tearDownClass(cls):
        cls.node.close()
