"""The program of a closed process that reads strangers' datasets and archives: it shuts itself in, reads, and answers.

Started by `reading.py` as `python -I reading_child.py <folder of our packages> <process that waits>`. It imports what
is slow, waits for one request on standard input, closes all but the folders that the request names, and only then
opens the file; one answer goes to standard output. Both are msgpack. Knows no jobs, no torch and no network.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import Any

_LOWEST_PRIORITY = 19


def main() -> None:
    """Wait, close, answer and end."""
    packages, parent = Path(sys.argv[1]), int(sys.argv[2])
    sys.path.insert(0, str(packages))
    from workers.closing import end_with

    end_with(parent)
    answer_to = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is not the answer
    warm = threading.Thread(target=_import, daemon=True)
    warm.start()
    asked = sys.stdin.buffer.read()
    if not asked:
        os._exit(0)
    if warm.native_id is not None:
        with contextlib.suppress(OSError):  # only root may raise it again, or it has ended
            os.setpriority(os.PRIO_PROCESS, warm.native_id, 0)
    warm.join()
    answer = _answered(asked, packages, parent)
    while answer:
        answer = answer[os.write(answer_to, answer) :]
    os._exit(0)  # no destructor of a library runs over what a file may have done


def _import() -> None:
    """What reading needs, at the lowest priority: a thread's is its own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
    import encodings.cp1252
    import encodings.gb18030  # noqa: F401

    import pyarrow.csv
    import pyarrow.parquet  # noqa: F401
    from PIL import Image

    import workers.data.load
    import workers.recipes.encoder_files  # noqa: F401

    Image.init()


def _answered(asked: bytes, packages: Path, parent: int) -> bytes:
    import msgspec

    from workers.reading_words import Answer, Request

    request = msgspec.msgpack.decode(asked, type=Request)
    try:
        _close(request, packages, parent)
    except (OSError, ValueError) as error:
        return msgspec.msgpack.encode(Answer(trouble="open", message=str(error)))
    try:
        answer = _read(request)
    except MemoryError:
        answer = Answer(trouble="memory")
    except OSError as error:
        answer = Answer(trouble="disk", number=error.errno or 0)
    except Exception as error:  # noqa: BLE001 - whatever a library raises over a stranger's bytes is about them
        answer = Answer(trouble="unforeseen", message=_place_of(error))
    return msgspec.msgpack.encode(answer)


def _close(request: Any, packages: Path, parent: int) -> None:
    """Nothing of the file has been looked at when everything is shut."""
    import resource
    import sysconfig
    import tempfile

    from workers.closing import shut_files, shut_out

    os.chdir(request.folder)
    tempfile.tempdir = request.folder
    shut_out(
        parent,
        {
            resource.RLIMIT_DATA: request.memory_bytes,
            resource.RLIMIT_CPU: request.cpu_s,
            resource.RLIMIT_FSIZE: request.disk_bytes,
            resource.RLIMIT_NOFILE: 256,
        },
    )
    code = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    ours = [packages / name for name in ("coatcheck", "workers")]
    given = [Path(path) for path in (request.path, request.test_path, request.archive) if path]
    zones = [Path("/usr/share/zoneinfo"), Path("/proc/meminfo"), Path("/proc/self"), Path("/dev/null")]
    shut_files(read=[*code, *ours, *given, *zones], keep=[Path(request.folder)])


def _read(request: Any) -> Any:
    from coatcheck.errors import InvalidInput
    from workers.reading_words import Answer

    folder = Path(request.folder)
    answer = Answer()
    try:
        if request.path:
            _read_dataset(request, folder, answer)
        if request.archive:
            from workers.recipes.encoder_files import unpack_encoder, unpack_ready

            unpack = unpack_ready if request.whole_archive else unpack_encoder
            unpack(Path(request.archive), folder / request.unpacked)
    except InvalidInput as error:
        answer.refused, answer.code, answer.message, answer.field = True, error.code, str(error), error.field
        if answer.dataset is not None:  # its archive is at fault
            answer.report = answer.dataset.report
    return answer


def _read_dataset(request: Any, folder: Path, answer: Any) -> None:
    """Raises InvalidInput, with the report of a dry run in the answer."""
    from coatcheck.catalog.options import TrainingInput
    from coatcheck.catalog.parse import parse_training_input
    from coatcheck.errors import InvalidInput
    from workers.data.handover import hand_over
    from workers.data.load import Counted, load, refused_report

    options = parse_training_input(request.recipe, request.input)
    assert isinstance(options, TrainingInput)
    test_path = Path(request.test_path) if request.test_path else None
    path, counted = Path(request.path), Counted()
    try:
        dataset = load(
            path,
            options,
            folder=folder,
            recipe=request.recipe,
            test_path=test_path,
            counted=counted if request.report else None,
        )
    except InvalidInput as error:
        if request.report:
            answer.report = refused_report(path, options, request.recipe, error, counted)
        raise
    answer.dataset = hand_over(dataset, folder)


def _place_of(error: BaseException) -> str:
    """Type of an error and the line of ours that met it; never its text, which may hold what is in the file."""
    place, trace = "", error.__traceback__
    while trace is not None:
        name = Path(trace.tb_frame.f_code.co_filename).name
        if "workers" in trace.tb_frame.f_code.co_filename:
            place = f" at {name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return type(error).__name__ + place


if __name__ == "__main__":
    main()
