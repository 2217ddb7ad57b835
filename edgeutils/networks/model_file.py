"""What makes a file a `.tflite` model, before anything in it is trusted."""

from pathlib import Path
from typing import BinaryIO

from edgeutils import EdgeError

#: Bytes 4 to 7 of every `.tflite`.
IDENTIFIER = b"TFL3"


def model_path(model: str | Path) -> Path:
    """Return the path of a file; EdgeError if there is none."""
    path = Path(model)
    if not path.is_file():
        raise EdgeError(f"{path} does not exist or is no file; give the path of a .tflite model")
    return path


def check_identifier(file: BinaryIO, name: str) -> None:
    """Read the first eight bytes of an open file; EdgeError if they are not a model's."""
    if (found := file.read(8)[4:]) != IDENTIFIER:
        raise EdgeError(
            f"{name} is no .tflite model: bytes 4 to 7 should be {IDENTIFIER!r}, "
            f"but are {found!r}; convert the model to LiteRT first"
        )
