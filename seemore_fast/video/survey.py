"""The pass over all packets before the work: what is cut off, interlaced, joined or lost is known early."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av

from seemore_fast.errors import VideoError
from seemore_fast.video.carry import Trials
from seemore_fast.video.source import Joints, Looks, Note, Source, Window, open_input

_TS_DISCONT = 0x200  # AVFMT_TS_DISCONT: a container whose times may leap

# Times that fall by less are a recorder's slip, which `timed_packets` levels.
_FALL = Fraction(1, 10)
_LEAP = 10  # seconds; where containers may leap, a longer gap in the picture stream is none
_NEAR = 1000  # packets, by which streams may be apart in the file
_LOOK = Fraction(1, 2)  # seconds between key frames that are decoded


@dataclass
class Survey:
    """What the pass found: how many packets hold pictures, where times jump, which streams are copied."""

    frames: int
    joints: Joints
    copied: dict[int, bool]  # as `Trials.outcome` says
    window: Window


@dataclass
class _Run:
    """Packets of one stream whose times rise; ``stretch`` counts the falls of the pictures' before it."""

    first: int
    start: Fraction
    end: Fraction
    stretch: int
    confirmed: bool


@dataclass
class _Rises:
    """Finds where times fall back in all streams, and makes offsets of it.

    The picture stream says what a joint is.  Packets of the streams around it are mixed in the file, so each
    stream changes over where its own times fall; a fall that the picture stream does not share is a slip.
    """

    picture: int
    dense: frozenset[int]  # pictures and sound; others may pause for long
    leaps: bool
    runs: dict[int, list[_Run]] = field(default_factory=dict)
    latest: Fraction | None = None

    def see(self, number: int, stream: int, time: Fraction, duration: Fraction) -> None:
        runs = self.runs.setdefault(stream, [])
        current = self.stretch()
        if not runs:
            runs.append(_Run(number, time, time + duration, current, True))
        else:
            run, last = runs[-1], self._last[stream]
            falls = time < last - _FALL
            if stream == self.picture:
                leaps = self.leaps and self.latest is not None and time > self.latest + _LEAP
                if falls or leaps:
                    runs.append(_Run(number, time, time + duration, current + 1, True))
                    self._confirm(number, current + 1)
                    self.latest = None
            elif run.stretch < current and (falls or time > last + 1):
                runs.append(_Run(number, time, time + duration, current, True))
            elif falls and stream in self.dense:
                runs.append(_Run(number, time, time + duration, run.stretch, False))
            run = runs[-1]
            run.start, run.end = min(run.start, time), max(run.end, time + duration)
        self._last[stream] = time
        self.latest = time if self.latest is None else max(self.latest, time)

    _last: dict[int, Fraction] = field(default_factory=dict)

    def stretch(self) -> int:
        """How many times the pictures' times have jumped so far."""
        runs = self.runs.get(self.picture)
        return runs[-1].stretch if runs else 0

    def _confirm(self, number: int, stretch: int) -> None:
        for runs in self.runs.values():
            if not runs[-1].confirmed and number - runs[-1].first < _NEAR:
                runs[-1].stretch, runs[-1].confirmed = stretch, True

    def joints(self) -> Joints:
        count = self.stretch() + 1
        offsets = [Fraction(0)]
        for stretch in range(1, count):
            before = self._extent(stretch - 1)[1] + offsets[-1]
            offsets.append(before - self._extent(stretch)[0])
        changes = {
            stream: tuple((run.first, offsets[run.stretch]) for run in runs if run.stretch)
            for stream, runs in self.runs.items()
        }
        return Joints(count - 1, {stream: found for stream, found in changes.items() if found})

    def _extent(self, stretch: int) -> tuple[Fraction, Fraction]:
        runs = [r for s in self.dense for r in self.runs.get(s, ()) if r.stretch == stretch]
        return min(run.start for run in runs), max(run.end for run in runs)


def survey_packets(
    source: Source,
    suffix: str,
    ignore_errors: bool,
    note: Note,
    part: tuple[Fraction | None, Fraction | None] = (None, None),
) -> Survey:
    """Reads every packet once, without decoding more than a few key frames.

    ``part`` is the wanted one, in seconds from the first picture.

    Streams other than the pictures are tried in a container after ``suffix``.  Raises VideoError where
    the file cannot be read to its end or ends too soon (``ignore_errors``: ``note`` is told), and where key
    frames show what `Looks` refuses.
    """
    with open_input(source.path) as container:
        picture = container.streams[source.stream]
        frames, end = 0, Fraction(0)
        first: Fraction | None = None  # picture

        def broken(where: str) -> None:
            what = f"{source.path}: {where}, after {frames} frames"
            if not ignore_errors:
                raise VideoError(f"{what}; with --ignore-errors the rest is upscaled")
            note(what)

        rises = _Rises(
            source.stream,
            frozenset(s.index for s in container.streams if s.type in ("video", "audio")),
            bool(container.format.flags & _TS_DISCONT),
        )
        trials = Trials(container, source, suffix)
        looks = Looks(source, note)
        due: Fraction | None = None  # when to look next
        before: Fraction | None = None
        split = 2 if source.deinterlace == "field" else 1
        step = split / source.rate
        for number, packet in enumerate(_packets(container, broken)):
            if packet.size == 0:
                continue
            time = None if packet.dts is None else packet.dts * packet.time_base
            if time is not None:
                length = (packet.duration or 0) * packet.time_base
                if packet.stream_index == source.stream:
                    length = length or step
                rises.see(number, packet.stream_index, time, length)
            if packet.pts is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            if packet.stream_index == source.stream:
                frames += 1
                if packet.pts is not None and rises.stretch() == 0:
                    shown = packet.pts * packet.time_base
                    first = shown if first is None else min(first, shown)
                if time is None or (before is not None and time < before):
                    due = None
                if packet.is_keyframe and (due is None or time is None or time >= due):
                    due = None if time is None else time + _LOOK
                    _look(picture, packet, looks)
                before = time
            trials.take(packet)
        _look(picture, None, looks)
        joints = rises.joints()
        if not joints.count:
            _check_end(source, container, picture, frames, end, broken)
        if joints.count:
            note(
                f"times jump {joints.count} time{'s'[: joints.count > 1]}, as in files joined by cat: "
                "what follows a jump is moved to the end of what comes before, with all streams"
            )
        begin, stop = (None if t is None else t + (first or 0) for t in part)
        # About as many frames as will come.
        whole = frames / Fraction(source.rate) * split
        span = (whole if part[1] is None else min(whole, part[1])) - (part[0] or 0)
        count = frames * split if part == (None, None) else max(0, round(span * source.rate))
        return Survey(count, joints, trials.outcome(note), Window(begin, stop))


def _packets(container: Any, broken: Callable[[str], None]) -> Iterator[Any]:
    try:
        yield from container.demux()
    except (av.FFmpegError, OSError) as error:
        broken(f"the file cannot be read on ({error.strerror})")


def _look(stream: Any, packet: Any, looks: Looks) -> None:
    try:
        frames = stream.decode(packet)
    except (EOFError, av.FFmpegError):
        return  # damage is told where it stands among the frames
    for frame in frames:
        frame.time_base = stream.time_base
        if not frame.is_corrupt:
            looks.check(frame)


def _check_end(
    source: Source, container: Any, picture: Any, frames: int, end: Fraction, broken: Callable[[str], None]
) -> None:
    """A file that was cut short may read without any error: compare with what its header promised."""
    # The header counts all frames of a file that was trimmed by an edit list; its index, those that are left.
    promised_frames = min(picture.frames, len(picture.index_entries))
    if frames < promised_frames:
        broken(f"the file ends too soon: {frames} of {promised_frames} frames are there")
    elif container.duration is not None:
        promised, slack = Fraction(container.duration, av.time_base), Fraction(1)
        if container.format.name.startswith(("mov", "mpeg")):
            promised += Fraction(container.start_time or 0, av.time_base)
        elif container.format.name.startswith("matroska"):
            slack = min(slack, max(3 / source.rate, promised / 20))  # it says when the last packet ends
        if end < promised - slack:
            broken(f"the file ends too soon: {float(end):.1f} of {float(promised):.1f} seconds are there")
