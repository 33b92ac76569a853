"""Files that ride behind a .tflite, as an archive that readers of TensorFlow Lite's metadata open."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

from tfmiaq.loading.limits import MAX_TEXT_BYTES, open_zip

# Of every member: the same model is the same file.
_DATE = (1980, 1, 1, 0, 0, 0)


def read_files(data: bytes) -> dict[str, bytes]:
    """Returns the files behind a .tflite by name; none where no archive follows it.

    Args:
        data: The bytes of a .tflite.

    Raises:
        ValueError: A damaged archive, or one of more than 64 MiB.
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return {}
    name = "The archive behind the .tflite"
    with open_zip(io.BytesIO(data), name, MAX_TEXT_BYTES) as archive:
        try:
            return {member.filename: archive.read(member) for member in archive.infolist()}
        except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError) as error:
            raise ValueError(f"{name} is damaged ({error}).") from error


def append_files(data: bytes, files: Mapping[str, bytes]) -> bytes:
    """Returns a .tflite with files behind it, uncompressed, as Android reads them; without files the same bytes.

    Args:
        data: The bytes of a .tflite that no archive follows.
        files: Contents by name.
    """
    if not files:
        return data
    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), content)
    return stream.getvalue()
