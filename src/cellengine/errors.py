"""What can go wrong, as a tree. Each class carries the exit code that the command line ends with.

    CellengineError
    ├── UsageError        2    the command or an option is wrong, or a path does not exist
    ├── InputError        3    an image, label, table or configuration file cannot be used
    ├── ModelError        4    a model, checkpoint or its spec cannot be used
    ├── ResourceError     5    memory or disk are not enough
    │   ├── DiskFull      5    the disk or the quota is full
    │   └── DeviceError   5    a device, backend, precision or optional package is not available
    ├── PartialFailure    6    some files of a batch failed; the others are done
    ├── LockedError      75    another run holds the output
    └── Interrupted     130    SIGINT (130) or SIGTERM (143); the same command resumes

A message is one line: what was found, what was expected, what to do.
"""

from __future__ import annotations

from typing import ClassVar


class CellengineError(Exception):
    """Base of every error that a user can do something about."""

    exit_code: ClassVar[int] = 1


class UsageError(CellengineError):
    """The command line or an argument is wrong."""

    exit_code = 2


class InputError(CellengineError):
    """An image, label, table or configuration file cannot be used."""

    exit_code = 3


class ModelError(CellengineError):
    """A model, a checkpoint or its spec cannot be used."""

    exit_code = 4


class ResourceError(CellengineError):
    """Memory or disk are not enough for what was asked."""

    exit_code = 5


class DiskFull(ResourceError):
    """The disk or the quota is full; the same call succeeds once there is room."""


class DeviceError(ResourceError):
    """A device, backend, precision or optional package is not available."""


class PartialFailure(CellengineError):
    """Some files of a batch failed; the others are done."""

    exit_code = 6


class LockedError(CellengineError):
    """Another run holds the output."""

    exit_code = 75


class Interrupted(CellengineError):
    """The run was stopped by a signal (`signal_number`) and can be resumed by the same command."""

    exit_code = 130

    def __init__(self, message: str, signal_number: int = 2) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def missing_package(package: str, needed_for: str, install: str) -> DeviceError:
    """The error for an optional package that is not installed; `install` is the pip command that mends it."""
    return DeviceError(f"{needed_for} needs the package {package}, which is not installed: run `{install}`.")
