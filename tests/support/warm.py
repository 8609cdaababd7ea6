"""Python processes that have imported PyTorch before they begin: one that has forks for each command.

``[*python(), "-m", "seemore_fast.cli", ...]`` does what ``[sys.executable, "-m", "seemore_fast.cli", ...]``
does, without the two seconds of ``import torch``.  Arguments, environment, working folder, standard streams
(closed ones, too), signals and exit status are the command's own.  What happens while Python starts and
modules are imported is not shown: tests of that start ``sys.executable``.

Run as a program, this file is the process that forks (``serve``), or what stands for the command (``ask``).
"""

from __future__ import annotations

import atexit
import contextlib
import io
import marshal
import os
import signal
import socket
import subprocess
import sys
import tempfile

AT_START = ("ATEN", "CUDA", "GOMP", "KMP", "LANG", "LC_", "LD_", "MALLOC", "MKL", "OMP", "PYTHON", "TORCH_")
"""Environment variables that begin so are read before a command begins."""

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

_server: tuple[subprocess.Popen[bytes], tempfile.TemporaryDirectory[str], list[str]] | None = None


def python() -> list[str]:
    """What stands for ``[sys.executable]`` in a command of ``-m MODULE`` or ``-c CODE``.

    The first call starts the process that forks; it ends with this one.  But on Linux, it is
    ``[sys.executable]``.
    """
    global _server
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return [sys.executable]
    if _server is None:
        folder = tempfile.TemporaryDirectory(prefix="seemore-warm-")
        path = os.path.join(folder.name, "socket")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(64)
            number = listener.fileno()
            process = subprocess.Popen(
                [sys.executable, __file__, "serve", str(number)],
                pass_fds=[number],
                env={
                    **os.environ,
                    "OPENBLAS_NUM_THREADS": "1",
                },  # NumPy's, which else has threads from the start
                stdin=subprocess.PIPE,  # closed, by the system at the latest, when this process ends
                stdout=subprocess.DEVNULL,
            )
        atexit.register(process.communicate)  # closes its standard input, and waits for it
        _server = process, folder, [sys.executable, "-I", "-S", __file__, "ask", path]
    return _server[2]


# ---- What stands for the command -------------------------------------------------------------------------


def ask(path: str, arguments: list[str]) -> None:
    """Has the other process run Python with these arguments, and ends as that did."""
    streams = [n for n, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)) if stream is not None]
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    here = os.open(".", os.O_RDONLY)  # whose path may be gone
    server = socket.socket(socket.AF_UNIX)
    server.connect(path)
    request = marshal.dumps((arguments, dict(os.environ), streams, ignored))
    socket.send_fds(server, [len(request).to_bytes(8, "little")], [here, *streams])
    server.sendall(request)
    for number in {0, 1}.intersection(streams):  # whose other ends are to see that the command closes them
        os.close(number)
    for number in FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda caught, _: server.send(bytes([caught])))
    answer = server.recv(4)
    assert answer, "the process that forks has ended"
    code = os.waitstatus_to_exitcode(int.from_bytes(answer, "little"))
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


# ---- The process that forks ------------------------------------------------------------------------------


def receive(client: socket.socket) -> tuple[tuple, list[int]]:
    """A request, and its descriptors: the working folder and the standard streams."""
    length, descriptors, _, _ = socket.recv_fds(client, 8, 4)
    missing, parts = int.from_bytes(length, "little"), []
    while missing and (part := client.recv(missing)):
        parts.append(part)
        missing -= len(part)
    return marshal.loads(b"".join(parts)), descriptors  # EOFError where it breaks off


def serve(number: int) -> list[str]:
    """Forks for each request until standard input ends; returns in the children, with their arguments."""
    import gc
    import selectors

    import seemore_fast.cli
    import seemore_fast.upscale.folders  # noqa: F401

    with open("/proc/self/status") as status:
        assert "Threads:\t1\n" in status.read(), "what has threads cannot be forked"
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's, which is for pytest
    listener = socket.socket(fileno=number)
    selector = selectors.DefaultSelector()
    running: dict[int, socket.socket] = {}  # who asked, by the child
    selector.register(0, selectors.EVENT_READ, "end")
    selector.register(listener, selectors.EVENT_READ, "request")
    while True:
        for key, _ in selector.select():
            if key.data == "end":
                for child in running:
                    os.kill(child, signal.SIGKILL)
                os._exit(0)
            elif key.data == "request":
                client, _ = listener.accept()
                try:
                    request, descriptors = receive(client)
                except EOFError:  # killed before it had asked
                    client.close()
                    continue
                child = os.fork()
                if child == 0:
                    for open_one in (listener, client, *running.values()):
                        open_one.close()
                    for other in list(selector.get_map().values()):
                        if isinstance(other.fileobj, int) and other.fileobj:
                            os.close(other.fileobj)
                    selector.close()
                    return become(request, descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)
                running[child] = client
                selector.register(client, selectors.EVENT_READ, child)
                selector.register(os.pidfd_open(child), selectors.EVENT_READ, (child,))
            elif isinstance(key.data, tuple):  # a child has ended
                (child,) = key.data
                selector.unregister(key.fd)
                os.close(key.fd)
                _, status = os.waitpid(child, 0)
                client = running.pop(child)
                if client in selector.get_map():
                    selector.unregister(client)
                    with contextlib.suppress(BrokenPipeError):  # killed as its command ended
                        client.sendall(status.to_bytes(4, "little"))
                client.close()
            elif key.data in running:  # a signal, or who asked was killed
                caught = key.fileobj.recv(1)
                os.kill(key.data, caught[0] if caught else signal.SIGKILL)
                if not caught:
                    selector.unregister(key.fileobj)


def standard_stream(number: int, before: io.TextIOWrapper) -> io.TextIOWrapper:
    """As Python opens it, which of its own accord it does once."""
    buffered = -1 if isinstance(before.buffer, io.BufferedIOBase) else 0
    binary = open(number, "wb" if number else "rb", buffered, closefd=False)  # noqa: SIM115
    getattr(binary, "raw", binary).name = f"<{('stdin', 'stdout', 'stderr')[number]}>"
    return io.TextIOWrapper(
        binary,
        before.encoding,
        before.errors,
        newline="\n",
        line_buffering=number == 2 or (number == 1 and os.isatty(1)),
        write_through=not buffered,
    )


def become(request: tuple, descriptors: list[int]) -> list[str]:
    """Gives the child the surroundings of who asked."""
    arguments, environment, streams, ignored = request
    changed = {
        name
        for name in {*environment, *os.environ}
        if name.startswith(AT_START) and environment.get(name) != os.environ.get(name)
    }
    os.environ.clear()
    os.environ.update(environment)
    os.fchdir(descriptors[0])
    for number in range(3):
        if number in streams:
            os.dup2(descriptors[1 + streams.index(number)], number)
        else:
            os.close(number)
    for descriptor in descriptors:
        os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = standard_stream(number, getattr(sys, name)) if number in streams else None
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    if changed:
        sys.exit(f"tests/support/warm.py: only a fresh process heeds {', '.join(sorted(changed))}")
    return arguments


def run(arguments: list[str]) -> None:
    """As Python does with ``-m MODULE ...`` or ``-c CODE ...``."""
    option, what, *rest = arguments
    if option == "-m":
        import runpy

        sys.argv, sys.path[0] = [what, *rest], ""
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [option, *rest], ""
        main = type(sys)("__main__")
        main.__builtins__ = __builtins__
        sys.modules["__main__"] = main
        exec(compile(what, "<string>", "exec"), main.__dict__)


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        ask(sys.argv[2], sys.argv[3:])
    else:
        run(serve(int(sys.argv[2])))
