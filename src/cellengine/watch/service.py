"""`watch`: what is opened and checked before the first picture, in which order it is closed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cellengine.engine.backends import open_session
from cellengine.engine.batch import Device, read_models
from cellengine.engine.environment import versions
from cellengine.engine.flow import stop_on_signals
from cellengine.engine.journal import JOURNAL, RUN, hold_output
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import check_tile
from cellengine.engine.session import Session
from cellengine.errors import UsageError
from cellengine.spec import ClassOf
from cellengine.watch.database import FILE
from cellengine.watch.journal import Journal
from cellengine.watch.pictures import Folder
from cellengine.watch.server import Server
from cellengine.watch.status import Status
from cellengine.watch.worker import Say, WatchOptions, Worker


def watch_folder(
    folder: Path, model: str, output: Path, options: InferOptions, device: Device, how: WatchOptions, say: Say
) -> dict[str, int]:
    """Label every picture in `folder`, now and as they come, each once; returns how many are waiting, done and failed.

    Goes on where an earlier watcher of the same folder, model and settings stopped. Ends by a signal (Interrupted), or
    with `how.once` when nothing is left to do: then PartialFailure is raised if pictures were set aside. `say` is told
    one line for everything that happens. Memory does not grow with the number of pictures.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder to watch.")
    file, second = read_models(model, how.then)
    if isinstance(file.spec.decoder, ClassOf):
        raise UsageError(f"{file.spec.name} classifies cells and finds none: give it as --then, beside another -m.")
    check_tile(file.spec, options)
    with ExitStack() as held:
        held.enter_context(hold_output(output))
        stop = held.enter_context(stop_on_signals())
        journal = _open_journal(output)
        held.callback(journal.close)
        asked = {"device": device.device, "backend": device.backend, "precision": device.precision}
        journal.check_identity(
            {
                "folder": str(folder.resolve()),
                "model": file.sha256,
                "then": second and second.sha256,
                "settings": options.identity(),
                "device": asked,
            }
        )
        session = _open(held, journal, "session", file.path, asked)
        cells = None if second is None else _open(held, journal, "then", second.path, {**asked, "precision": None})
        journal.keep("versions", versions())
        place = Folder(folder.resolve(), output.resolve())
        classes = (second or file).spec.classes
        status = Status(session.describe(), file.spec.name, place.base.name, classes)
        worker = Worker(place, journal, (session, cells), options, how, status, stop, say)
        if how.address is not None:
            server = Server(how.address, journal, status, output)
            held.enter_context(server)
            say(f"page: {server.url}")
        return worker.run()


def _open(held: ExitStack, journal: Journal, key: str, model: Path, asked: dict[str, Any]) -> Session:
    """A session as the first start chose it: what "auto" meant then it means for all pictures."""
    session: Session = held.enter_context(open_session(model, **(journal.setting(key) or asked)))
    journal.keep(key, {name: getattr(session, name) for name in ("backend", "precision", "device")})
    return session


def _open_journal(output: Path) -> Journal:
    if not (output / FILE).exists() and any((output / name).exists() for name in (JOURNAL, RUN)):
        raise UsageError(f"{output} holds a run of `cellengine infer`: choose another -o.")
    return Journal(output)
