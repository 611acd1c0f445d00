"""torch_rpc_suite.py [--out FILE] [--only REGEX] [--verbose]: the cases of PyTorch's own RPC tests, with troupe.rpc in the
place of torch.distributed.rpc. The tests come with PyTorch (torch.testing._internal.distributed.rpc), which is to be
installed beside troupe, and of which nothing is kept here.

Four processes run each case, as PyTorch does it; a case that hangs ends them, and four new ones go on. What cannot apply
is left out, by name, with the reason: see LEFT_OUT.
"""
import argparse
import faulthandler
import inspect
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
import traceback

WORLD_SIZE = 4
PATIENCE = 40  # seconds for a case

LEFT_OUT = [
    (r"profil|record_function|rpc_memory", "PyTorch's profiler"),
    (r"sparse", "sparse tensors"),
    (r"script|jit", "TorchScript"),
    (r"backward|autograd", "distributed autograd"),
    (r"_pg\b|_pg_|barrier|pg_init|test_init_rpc_then_pg", "process groups beside RPC"),
    (r"gpu|cuda|device_map|stream", "GPUs"),
    (r"pickler|test_worker_info_pickle|test_rref_py_pickle_not_supported|test_pickle_future", "PyTorch's own pickler"),
    (r"register_rpc_backend|backend_from_options|mismatched_type_for_options|dynamic", "backends and groups of PyTorch's own"),
    (r"debug_info|test_rref_context|rref_leak|ignore_rref", "its debugging interface"),
    (r"test_op_with_invalid_args|rref_type|get_type|disable_gil|expected_src|dist_init_decorator|_all_gather|test_all_gather",
     "private functions"),
]


# The same by what a case or what it is made of calls.
LEFT_OUT_BY_CALL = [
    (r"initialize_pg|init_process_group", "process groups beside RPC"),
    (r"_init_rpc_backend|_get_current_rpc_agent|_rref_context_get|_get_debug_info|_RpcBackendOptions|_invoke_rpc|internal\.serialize", "private functions"),
    (r"_profile\(|profiler", "PyTorch's profiler"),
    (r"dist_autograd", "distributed autograd"),
    (r"_script|torch\.jit", "TorchScript"),
]


def classes():
    from torch.testing._internal.distributed.rpc import rpc_test
    from torch.testing._internal.distributed.rpc.examples import parameter_server_test, reinforcement_learning_rpc_test

    return [rpc_test.RpcTest, rpc_test.TensorPipeAgentRpcTest, parameter_server_test.ParameterServerTest,
            reinforcement_learning_rpc_test.ReinforcementLearningRpcTest]


# ---- In each of the four -------------------------------------------------------------------------------


def put_troupe_in_place():
    """Before the tests are imported."""
    import torch
    import torch.distributed.rpc as theirs

    from troupe import rpc as ours

    def init_rpc(name, backend=None, rank=-1, world_size=None, rpc_backend_options=None):
        ours.init_rpc(name, backend, rank, world_size, rpc_backend_options, pickle=True)

    def debug_info():
        owned = ours.api.current()._owned
        return {"num_owner_rrefs": len(owned), "num_forks": sum(len(each.forks) for each in owned.values()),
                "num_pending_futures": 0, "num_pending_users": 0}

    names = {name: getattr(ours, name) for name in (
        "RRef", "WorkerInfo", "rpc_sync", "rpc_async", "remote", "shutdown", "get_worker_info", "functions", "PyRRef")}
    names.update(init_rpc=init_rpc, _rref_context_get_debug_info=debug_info, _get_debug_info=dict,
                 _is_current_rpc_agent_set=ours._is_current_rpc_agent_set,
                 _set_rpc_timeout=ours.api.set_rpc_timeout, get_rpc_timeout=ours.api.get_rpc_timeout,
                 _wait_all=ours.api._wait_all, _thread_local_var=ours.api._thread_local_var, TensorPipeRpcBackendOptions=ours.RpcBackendOptions)
    for module in (theirs, theirs.api):
        for name, value in names.items():
            setattr(module, name, value)
    sys.modules["torch.distributed.rpc.functions"] = ours.functions
    torch.futures.wait_all, torch.futures.collect_all = ours.wait_all, ours.collect_all
    torch.futures.Future = ours.Future
    return ours


def make_case(cls, name, rank, file):
    from troupe import rpc as ours
    from torch.testing._internal.common_utils import TestCase

    known = getattr(sys.modules["__main__"], f"Case{cls.__name__}", None)
    if known:
        case = known("runTest")
        case.rank, case.file_name = rank, file
        return getattr(case, name)

    class Case(TestCase, cls):
        rpc_backend = ours.BackendType.TENSORPIPE
        world_size = cls.world_size

        @property
        def rpc_backend_options(self):
            return ours.RpcBackendOptions(init_method=self.init_method, num_worker_threads=8)

        def get_shutdown_error_regex(self):
            return ".*"

        def get_timeout_error_regex(self):
            return ".*"

        def runTest(self):
            pass

    # To be found by its name, where a method of it is called from another process.
    Case.__module__, Case.__qualname__ = "__main__", f"Case{cls.__name__}"
    setattr(sys.modules["__main__"], Case.__qualname__, Case)
    case = Case("runTest")
    case.rank, case.file_name = rank, file
    return getattr(case, name)


def worker(rank, pipe):
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    ours = put_troupe_in_place()
    import torch

    torch.set_num_threads(1)
    by_name = {cls.__name__: cls for cls in classes()}
    for cls in by_name.values():
        make_case(cls, "runTest", rank, "")
    pipe.send("ready")
    while True:
        cls, name, file = pipe.recv()
        faulthandler.dump_traceback_later(PATIENCE - 5)  # where it hangs
        try:
            make_case(by_name[cls], name, rank, file)()
            outcome = "passed", ""
        except BaseException as error:
            skipped = type(error).__name__ == "SkipTest"
            outcome = ("left out" if skipped else "failed"), str(error) if skipped else traceback.format_exc()
        if ours._is_current_rpc_agent_set():
            try:
                ours.shutdown(graceful=False)
            except Exception:
                pass
        faulthandler.cancel_dump_traceback_later()
        pipe.send(outcome)


# ---- The runner ----------------------------------------------------------------------------------------


class Four:
    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for rank in range(WORLD_SIZE):
            ours, theirs = context.Pipe()
            process = context.Process(target=worker, args=(rank, theirs), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)
        for each in self.pipes:
            if not each.poll(120) or each.recv() != "ready":
                raise SystemExit("the processes do not begin")

    def run(self, cls, name):
        """(outcome, text); None: a process hangs or has died."""
        with tempfile.TemporaryDirectory() as folder:
            for each in self.pipes:
                each.send((cls, name, os.path.join(folder, "address")))
            deadline = time.monotonic() + PATIENCE
            outcomes = []
            for rank, each in enumerate(self.pipes):
                try:
                    if not each.poll(max(deadline - time.monotonic(), 0)):
                        return None, f"rank {rank} hangs" + "".join(f"\n{text}" for _, text in outcomes if text)
                    outcomes.append(each.recv())
                except EOFError:
                    return None, f"rank {rank} has died"
        for wanted in ("failed", "left out"):
            for rank, (outcome, text) in enumerate(outcomes):
                if outcome == wanted:
                    return outcome, f"rank {rank}: {text}"
        return "passed", ""

    def end(self):
        for each in self.processes:
            each.kill()
            each.join()


def reason_to_leave_out(cls, name):
    for pattern, reason in LEFT_OUT:
        if re.search(pattern, name):
            return reason
    source = inspect.getsource(inspect.unwrap(getattr(cls, name)))
    for helper in re.findall(r"self\.(_\w+)\(", source):
        if callable(getattr(cls, helper, None)):
            source += inspect.getsource(getattr(cls, helper))
    for pattern, reason in LEFT_OUT_BY_CALL:
        if re.search(pattern, source):
            return reason
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--only", default="")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    put_troupe_in_place()
    four = Four()
    results = {}
    for cls in classes():
        for name in sorted(dir(cls)):
            if not name.startswith("test_") or not re.search(arguments.only, name):
                continue
            title = f"{cls.__name__}.{name}"
            reason = reason_to_leave_out(cls, name)
            if reason:
                results[title] = ("left out", reason)
                continue
            begun = time.monotonic()
            outcome, text = four.run(cls.__name__, name)
            if outcome is None:
                outcome = "failed"
                four.end()
                four = Four()
            results[title] = (outcome, text)
            print(f"{outcome:8} {title} ({time.monotonic() - begun:.1f} s)", flush=True)
            if arguments.verbose and outcome == "failed":
                print(text, flush=True)
    four.end()
    count = {each: sum(outcome == each for outcome, _ in results.values()) for each in ("passed", "failed", "left out")}
    applying = count["passed"] + count["failed"]
    import torch

    print(f"PyTorch {torch.__version__}: {count['passed']} of {applying} cases pass "
          f"({100 * count['passed'] / max(applying, 1):.0f} %); {count['left out']} do not apply")
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
