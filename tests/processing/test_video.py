"""Videos from every source to evenly spread frames."""

import logging
import struct
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import video_of_unknown_codec
from PIL import Image, features

from owl2.processing import load_video
from owl2.processing.video_sampling import FrameSampling, sample_indices

SIZE = (32, 16)
CODECS = {"mp4": "mpeg4", "avi": "mpeg4", "webm": "libvpx"}


def grey_frames(count: int) -> list[Image.Image]:
    """Frames whose brightness tells their index: 0, 10, 20, ..."""
    return [Image.new("RGB", SIZE, (10 * index,) * 3) for index in range(count)]


def indices_of(frames: list[Image.Image]) -> list[int]:
    return [round(float(np.asarray(frame).mean()) / 10) for frame in frames]


def write_video(path: Path, count: int, keyframes: int = 12) -> Path:
    """A video of 5 frames a second; its name says the container."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix[1:]], rate=5)
        stream.codec_context.gop_size = keyframes
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for image in grey_frames(count):
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return path


def test_sampled_frames_are_the_centres_of_equal_segments() -> None:
    assert sample_indices(8, 8) == list(range(8))
    assert sample_indices(3, 8) == [0, 1, 2]
    assert sample_indices(16, 4) == [2, 6, 10, 14]
    assert sample_indices(9, 1) == [4]
    for total in range(9, 60):
        assert sample_indices(total, 8) == [int((i + 0.5) * total / 8) for i in range(8)]


@pytest.mark.parametrize("suffix", list(CODECS))
def test_files_give_the_same_frames_whatever_the_container(tmp_path: Path, suffix: str) -> None:
    frames = load_video(write_video(tmp_path / f"video.{suffix}", 20), num_frames=4)
    assert [(frame.mode, frame.size) for frame in frames] == [("RGB", SIZE)] * 4
    assert indices_of(frames) == [2, 7, 12, 17]


def test_short_videos_are_taken_whole(tmp_path: Path) -> None:
    assert indices_of(load_video(str(write_video(tmp_path / "short.mp4", 3)))) == [0, 1, 2]


def test_frames_of_a_gif_are_composed(tmp_path: Path) -> None:
    first = Image.new("RGBA", SIZE, "white")
    second = Image.new("RGBA", SIZE, (0, 0, 0, 0))  # draws one red pixel on the first
    second.putpixel((3, 3), (255, 0, 0, 255))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second], disposal=1, duration=100)
    frames = load_video(tmp_path / "a.gif")
    assert len(frames) == 2
    assert frames[1].getpixel((3, 3)) == (255, 0, 0) and frames[1].getpixel((0, 0)) == (255, 255, 255)


def test_of_a_gif_cut_short_the_rest_is_sampled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, *others = grey_frames(20)
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=100)
    contents = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(contents[: len(contents) // 2])
    found = indices_of(load_video(tmp_path / "a.gif", num_frames=4))
    assert len(found) == 4 and found == sorted(set(found)) and found[-1] < 12


def test_lists_of_frames_keep_their_order_and_are_sampled_only_if_longer() -> None:
    frames = grey_frames(12)
    assert indices_of(load_video(frames[:8])) == list(range(8))
    assert indices_of(load_video(frames, num_frames=3)) == [2, 6, 10]
    assert indices_of(load_video(np.stack([np.asarray(frame) for frame in frames]), num_frames=3)) == [2, 6, 10]


@pytest.mark.parametrize("suffix", list(CODECS))
@pytest.mark.parametrize("keyframes", [1, 4, 12])
def test_a_part_in_seconds_or_frames_has_the_frames_of_that_time(tmp_path: Path, suffix: str, keyframes: int) -> None:
    path = write_video(tmp_path / f"video.{suffix}", 20, keyframes)
    assert indices_of(load_video(path, start=2.0, end=3.0)) == [10, 11, 12, 13, 14]
    assert indices_of(load_video(path, start=7, end=11, unit="frames")) == [7, 8, 9, 10]
    assert indices_of(load_video(path, 2, start=6, end=14, unit="frames")) == [8, 12]
    assert indices_of(load_video(path, start=3.4)) == [17, 18, 19]
    assert indices_of(load_video(path, end=0.4)) == [0, 1]
    assert indices_of(load_video(path, 2, start=10, end=900, unit="frames")) == [12, 17]
    assert indices_of(load_video(path, start=1.0, end=1.01)) == [5]  # shorter than a frame


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_a_part_far_into_a_video_is_not_decoded_from_the_beginning(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / f"video.{suffix}", 20, keyframes=4)
    monkeypatch.setattr("owl2.processing.video._decode", lambda name: pytest.fail("decoded from the beginning"))
    assert indices_of(load_video(path, start=3.0, end=3.4)) == [15, 16]


def test_a_part_of_a_stream_without_times_is_counted_in_frames(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "video.h264"
    with av.open(str(path), "w", format="h264") as container:  # the bare stream, no container around it
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for image in grey_frames(20):
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    assert indices_of(load_video(path, start=7, end=10, unit="frames")) == [7, 8, 9]


def test_a_part_of_a_gif_and_of_a_list_of_frames(tmp_path: Path) -> None:
    first, *others = frames = grey_frames(20)
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=200)
    assert indices_of(load_video(tmp_path / "a.gif", start=2.0, end=3.0)) == [10, 11, 12, 13, 14]
    assert indices_of(load_video(tmp_path / "a.gif", start=7, end=9, unit="frames")) == [7, 8]
    assert indices_of(load_video(frames, start=7, end=9, unit="frames")) == [7, 8]
    with pytest.raises(ValueError, match="give its part in frames"):
        load_video(frames, start=1.0, end=2.0)


def seed_reference(count: int, frames: int) -> list[int]:
    """SEED-Bench's rule, written down again with NumPy's rounding."""
    if frames > count:
        return list(range(count))
    step = (count - 1) / frames
    return [int(step / 2) + int(np.round(step * index)) for index in range(frames)]


def test_frames_of_seed_bench_are_those_of_its_program(tmp_path: Path) -> None:
    for total in range(2, 60):
        for frames in (1, 4, 8):
            seed = {"num_frames": frames, "spacing": "seed"}
            assert FrameSampling(**seed).indices(total, 5.0, "v") == seed_reference(total - 1, frames)
            in_frames = FrameSampling(**seed, start=1, end=total, unit="frames").indices(total, 5.0, "v")
            assert in_frames == [1 + index for index in seed_reference(total - 1, frames)]
            in_seconds = FrameSampling(**seed, start=0.2, end=9.5).indices(total, 5.0, "v")
            end = min(47, total - 1)
            assert in_seconds == [1 + index for index in seed_reference(max(1, end - 1), frames)]
    path = write_video(tmp_path / "video.mp4", 20)
    assert indices_of(load_video(path, spacing="seed")) == [1, 3, 5, 8, 10, 12, 15, 17]
    repeated = load_video(path, start=2, end=10, unit="frames", spacing="seed")
    assert indices_of(repeated) == [2, 3, 4, 5, 6, 6, 7, 8]


def test_one_frame_a_second_is_what_q_align_takes(tmp_path: Path) -> None:
    def taken(total: int, rate: float, most: int = 100) -> list[int]:
        return FrameSampling(most, spacing="one_a_second").indices(total, rate, "v")

    for total, rate in [(300, 29.97), (47, 10.0), (250, 25.0), (61, 23.976)]:
        assert taken(total, rate) == [int(rate * second) for second in range(int(total / rate))]
    assert taken(5, 10.0) == [0]  # shorter than a second
    assert taken(100, 10.0, most=5) == [10, 30, 50, 70, 90]
    first, *others = (Image.new("L", (8, 8), 10 * index) for index in range(20))
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=200)
    assert indices_of(load_video(tmp_path / "a.gif", spacing="one_a_second")) == [0, 5, 10, 15]
    with pytest.raises(ValueError, match="frame rate of v is not known"):
        FrameSampling(8, spacing="one_a_second").indices(9, None, "v")


def test_a_part_that_is_not_there_is_an_error_that_says_why(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 20)
    with pytest.raises(ValueError, match=r"video\.mp4 has 20 frames, but its part from 4.0 seconds on"):
        load_video(path, start=4.0, end=5.0)
    for part in ({"start": 3.0, "end": 3.0}, {"start": -1.0}, {"end": 0}, {"start": float("nan")}):
        with pytest.raises(ValueError, match="0 <= start < end"):
            load_video(path, **part)
    with pytest.raises(ValueError, match="unit='hours'"):
        load_video(path, start=1, unit="hours")


def test_a_part_of_a_damaged_file_is_found_by_decoding_from_the_beginning(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.avi", 20, keyframes=1)
    contents = bytearray(path.read_bytes())
    for position, size in packets_of(path)[11:13]:
        contents[position + 8 : position + 8 + size] = bytes(size)
    path.write_bytes(bytes(contents))
    *before, after = indices_of(load_video(path, start=9, end=12, unit="frames"))
    assert before == [9, 10] and after > 12


def packets_of(path: Path) -> list[tuple[int, int]]:
    """(position, size) of the packets in a file."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("suffix", ["avi", "webm"])
def test_of_a_file_cut_short_the_rest_is_sampled(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"video.{suffix}", 20)
    position, _ = packets_of(path)[12]
    path.write_bytes(path.read_bytes()[:position])
    found = indices_of(load_video(path, num_frames=4))
    assert found in ([1, 4, 7, 10], [1, 4, 8, 11], [1, 5, 8, 11])  # of 12 or 13 frames


def test_undecodable_packets_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_video(tmp_path / "video.avi", 20)
    contents = bytearray(path.read_bytes())
    for position, size in packets_of(path)[12:]:
        contents[position + 8 : position + 8 + size] = bytes(size)
    path.write_bytes(bytes(contents))
    with caplog.at_level(logging.WARNING):
        frames = load_video(path, num_frames=4)
    assert indices_of(frames) == [1, 4, 7, 10]
    assert "damaged packets skipped, 12 frames decoded" in caplog.text


# For each display matrix (a, b, c, d): where the top left of a frame is shown, and whether the sides change places.
ORIENTATIONS = {
    "as it is": ((1, 0, 0, 1), (0, 0), False),
    "mirrored": ((-1, 0, 0, 1), (1, 0), False),
    "upside down": ((1, 0, 0, -1), (0, 1), False),
    "turned by 180": ((-1, 0, 0, -1), (1, 1), False),
    "turned by 90": ((0, 1, -1, 0), (1, 0), True),
    "turned by 270": ((0, -1, 1, 0), (0, 1), True),
    "transposed": ((0, 1, 1, 0), (0, 0), True),
    "transposed and turned by 180": ((0, -1, -1, 0), (1, 1), True),
}


@pytest.mark.parametrize("name", list(ORIENTATIONS))
def test_videos_are_shown_as_their_display_matrix_says(tmp_path: Path, name: str) -> None:
    av = pytest.importorskip("av")
    (a, b, c, d), corner, sideways = ORIENTATIONS[name]
    path, pixels = tmp_path / "v.mp4", np.zeros((*SIZE[::-1], 3), np.uint8)
    pixels[: SIZE[1] // 2, : SIZE[0] // 2] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    octets = bytearray(path.read_bytes())
    start = octets.find(b"tkhd") + 44  # of the matrix, in fixed-point numbers (ISO/IEC 14496-12, section 8.3.2)
    octets[start : start + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(octets)
    (frame,) = load_video(path)
    assert frame.size == (SIZE[::-1] if sideways else SIZE)
    shown = np.asarray(frame.convert("L")).astype(int)
    quarters = {
        (x, y): shown[y * shown.shape[0] // 2 :, x * shown.shape[1] // 2 :][
            : shown.shape[0] // 2, : shown.shape[1] // 2
        ]
        for x in (0, 1)
        for y in (0, 1)
    }
    assert max(quarters, key=lambda quarter: quarters[quarter].mean()) == corner


def test_a_part_of_a_video_of_variable_rate_is_found_by_the_times_of_its_frames(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    milliseconds = [*range(0, 160, 10), 1160, 2160, 3160, 4160]  # 16 frames in a sixth of a second, then one a second
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=100)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for time, image in zip(milliseconds, grey_frames(20), strict=True):
            frame = av.VideoFrame.from_image(image)
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    load = partial(load_video, tmp_path / "v.mp4", 20)
    assert indices_of(load(start=1, end=3)) == [15, 16, 17]
    assert indices_of(load(start=0.05, end=0.1)) == [5, 6, 7, 8, 9]
    assert indices_of(load(start=4)) == [18, 19]
    assert indices_of(load(spacing="one_a_second")) == [0, 15, 16, 17]
    assert indices_of(load(start=3, end=5, unit="frames")) == [3, 4]


def test_a_part_of_a_gif_whose_frames_last_differently_is_found_by_time(tmp_path: Path) -> None:
    frames = grey_frames(5)
    durations = [100, 100, 2000, 100, 100]
    frames[0].save(tmp_path / "v.gif", save_all=True, append_images=frames[1:], duration=durations)
    assert indices_of(load_video(tmp_path / "v.gif", start=0.5, end=2)) == [2]
    assert indices_of(load_video(tmp_path / "v.gif", start=2.2)) == [3, 4]


@pytest.mark.parametrize("suffix", ["avif", "webp", "png", "gif", "tif"])
def test_all_frames_of_animated_pictures_are_taken(tmp_path: Path, suffix: str) -> None:
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("Pillow was built without AVIF")
    frames = [image.resize((48, 48)) for image in grey_frames(6)]
    settings = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"v.{suffix}", save_all=True, append_images=frames[1:], **settings)
    assert indices_of(load_video(tmp_path / f"v.{suffix}")) == [0, 1, 2, 3, 4, 5]


def test_what_is_no_video_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_bytes(b"this is no video at all" * 10)
    (tmp_path / "cut.gif").write_bytes(b"GIF89a")
    for source, reason in [
        (tmp_path / "empty.mp4", r"empty\.mp4 is empty"),
        (
            tmp_path / "text.mp4",
            r"text\.mp4 is not a video that can be read: Invalid data found when processing input$",
        ),
        (tmp_path / "cut.gif", r"cut\.gif"),
        (tmp_path / "none.mp4", r"none\.mp4' does not exist"),
        ("https://example.com/cat.mp4", "web address"),
        ([], "no frames"),
        (np.zeros((3, 4, 3), dtype=np.uint8), r"\[3, 4, 3\]"),
        (7, "int"),
    ]:
        with pytest.raises(ValueError, match=reason):
            load_video(source)
    with pytest.raises(ValueError, match="num_frames=0"):
        load_video(grey_frames(2), num_frames=0)


def test_a_video_of_an_unknown_codec_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = video_of_unknown_codec(tmp_path / "v.avi")  # PyAV up to 18.0 ends the process in decoding it
    with pytest.raises(ValueError, match=r"v\.avi has a video of an unknown codec in it"):
        load_video(path)


def test_missing_pyav_names_the_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "video.mp4").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"owl2\[video\]"):
        load_video(tmp_path / "video.mp4")
