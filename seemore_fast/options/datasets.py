"""``datasets`` of an option file: pictures to train on, to validate and to test with."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from seemore_fast.options.groups import Count, FolderName, Group, Integer, Text, Weight, unknown


class IOBackend(Group):
    """How a dataset is stored."""

    type: Literal["disk", "lmdb"]


class _PictureSet(Group):
    """What the sets under ``datasets`` have in common."""

    __test__ = False  # pytest would take the class for a test

    task: str | None = None
    name: FolderName
    filename_tmpl: Text = "{}"
    meta_info_file: Text | None = None
    io_backend: IOBackend = IOBackend(type="disk")


class TestSet(_PictureSet):
    """``datasets: val*``, ``test*``: paired folders; HR is cropped to the size of LR times the scale.

    A ``SingleImageDataset`` has no HR pictures: its pictures are enlarged, not measured.
    """

    type: Literal["PairedImageDataset", "SingleImageDataset"]
    dataroot_gt: Text | None = None
    dataroot_lq: Text

    @model_validator(mode="after")
    def _hr_where_there_is_some(self) -> TestSet:
        if self.type == "PairedImageDataset" and self.dataroot_gt is None:
            raise PydanticCustomError("missing", "is missing", {"key": "dataroot_gt"})
        if self.type == "SingleImageDataset" and self.dataroot_gt is not None:
            raise PydanticCustomError("single", "is not for a SingleImageDataset", {"key": "dataroot_gt"})
        return self


Share = Annotated[float, Field(ge=0, le=1)]


def _rising(value: list[float]) -> list[float]:
    if value[0] > value[1]:
        raise PydanticCustomError("range", "must be [least, most]")
    return value


Range = Annotated[list[Weight], Field(min_length=2, max_length=2), AfterValidator(_rising)]


class Degradations(Group):
    """``datasets: train: degradations``: of LR patches, each with its probability, in this order.

    ``blur_sigma`` is in LR pixels, ``noise_range`` in levels of 255, ``jpeg_range`` in libjpeg's quality.
    """

    blur_prob: Share = 0.0
    blur_sigma: Range = Field(default=[0.2, 1.5])
    noise_prob: Share = 0.0
    noise_range: Range = Field(default=[1.0, 10.0])
    jpeg_prob: Share = 0.0
    jpeg_range: Range = Field(default=[40.0, 95.0])

    @model_validator(mode="after")
    def _qualities(self) -> Degradations:
        if not 1 <= self.jpeg_range[0] <= self.jpeg_range[1] <= 100:
            raise PydanticCustomError("jpeg", "must lie in 1 to 100", {"key": "jpeg_range"})
        return self


class TrainSet(_PictureSet):
    """``datasets: train``: ``gt_size`` is the HR patch side; batch size and workers count per process.

    Without ``dataroot_lq`` LR pictures are made of the HR ones.  ``cache_dir`` takes the decoded pictures.
    Both may be lists of folders, of which ``folder_weights`` says how often each comes up; ``accum_iter``
    batches make up one step.
    """

    type: Literal["PairedImageDataset"]
    dataroot_gt: Text | Annotated[list[Text], Field(min_length=1)]
    dataroot_lq: Text | Annotated[list[Text], Field(min_length=1)] | None = None
    folder_weights: list[Annotated[Integer, Field(ge=1, le=1000)]] | None = None
    cache_dir: Text = "datasets/cache"
    gt_size: Count
    use_hflip: bool = False
    use_rot: bool = False
    use_shuffle: bool = True
    num_worker_per_gpu: Annotated[Integer, Field(ge=0, le=1024)] = 0
    batch_size_per_gpu: Count
    accum_iter: Annotated[Integer, Field(ge=1, le=1024)] = 1
    dataset_enlarge_ratio: Count = 1
    prefetch_mode: Literal["cuda", "cpu"] | None = None
    pin_memory: bool = True
    degradations: Degradations | None = None

    @model_validator(mode="after")
    def _folders_fit(self) -> TrainSet:
        many = len(_listed(self.dataroot_gt))
        if self.dataroot_lq is not None and len(_listed(self.dataroot_lq)) != many:
            raise PydanticCustomError(
                "folders", "must be as many as dataroot_gt ({many})", {"key": "dataroot_lq", "many": many}
            )
        if self.folder_weights is not None and len(self.folder_weights) != many:
            raise PydanticCustomError(
                "weights", "must be as many as dataroot_gt ({many})", {"key": "folder_weights", "many": many}
            )
        if many > 1 and self.meta_info_file is not None:
            raise PydanticCustomError("meta", "is for one folder only", {"key": "meta_info_file"})
        return self

    @property
    def folders(self) -> list[tuple[str, str | None, int]]:
        """Folders of HR and LR pictures, and their weights."""
        large = _listed(self.dataroot_gt)
        small: list[str | None] = (
            [None] * len(large) if self.dataroot_lq is None else [*_listed(self.dataroot_lq)]
        )
        return list(zip(large, small, self.folder_weights or [1] * len(large), strict=True))


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


class Datasets(Group):
    """``train`` and any number of ``val``, ``val_1``, ``test_1`` and so on, in the file's order."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, TestSet] = Field(init=False)

    train: TrainSet | None = None

    @model_validator(mode="before")
    @classmethod
    def _know_all_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key != "train" and not re.fullmatch(r"(val|test)(_\w+)?", str(key)):
                raise unknown(key, ["train", "val", "val_1", "test", "test_1"])
        return data

    @property
    def tests(self) -> list[TestSet]:
        """All sets but ``train``."""
        return list(self.__pydantic_extra__.values())
