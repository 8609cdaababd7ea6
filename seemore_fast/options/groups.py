"""What all groups of an option file share: known keys, and values of the right type as they stand."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError


def _integral(value: Any) -> Any:
    """5e3 is how option files write 5000."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _no_path(value: str) -> str:
    """Names become folders and files below ``results``; none may lead elsewhere."""
    if not value.strip(". ") or re.search(r"[/\\\x00-\x1f]", value) or len(value.encode()) > 200:
        raise PydanticCustomError("folder_name", "must do as the name of a folder")
    return value


Integer = Annotated[int, BeforeValidator(_integral)]
Count = Annotated[Integer, Field(ge=1, le=10**12)]
Weight = Annotated[float, Field(ge=0)]
Text = Annotated[str, StringConstraints(min_length=1)]
FolderName = Annotated[str, AfterValidator(_no_path)]


class Group(BaseModel):
    """A mapping of the file: keys are known, values of the right type as they stand."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _know_all_keys(cls, data: Any) -> Any:
        if isinstance(data, dict) and cls.model_config["extra"] == "forbid":
            for key in data:
                if key not in cls.model_fields:
                    raise unknown(key, list(cls.model_fields))
        return data


def unknown(key: Any, known: Sequence[str]) -> PydanticCustomError:
    close = difflib.get_close_matches(str(key), known, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    return PydanticCustomError("unknown_key", "is unknown; {hint}", {"key": key, "hint": hint})
