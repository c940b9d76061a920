"""The codes of an audio: its own, from a ``.npy`` file, or stand-in ones."""

from __future__ import annotations

import tokenize
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..host.files import check_regular
from .chatml_file import LONGEST_SECONDS, has_codes, is_audio, parts_of

__all__ = ["CODEBOOK_SIZE", "codes_of", "stand_in_notes"]

#: Frames per second of the audio tokenizer.
FRAME_RATE = 25
CODEBOOK_SIZE = 1024
#: What numpy raises on damaged files, depending on the damage.
UNREADABLE = (OSError, ValueError, TypeError, OverflowError, RecursionError, tokenize.TokenError)


def codes_of(audio: Any, where: str, codebooks: int, size: int, base_dir: Path) -> Tensor:
    """(K, L) int64: the codes of an audio, its own or stand-ins."""
    if has_codes(audio.audio_url):
        return _load(base_dir / audio.audio_url, where, codebooks, size)
    frames = max(1, round(FRAME_RATE * (audio.duration or 1.0)))
    generator = torch.Generator().manual_seed(zlib.crc32(audio.audio_url.encode()))
    return torch.randint(size, (codebooks, frames), generator=generator)


def _load(path: Path, where: str, codebooks: int, size: int) -> Tensor:
    advice = f"save the audio's codes with numpy.save as integers of shape ({codebooks}, L)"
    try:
        if path.exists():
            check_regular(path)  # a pipe would never end
        codes = np.lib.format.open_memmap(path, mode="r")  # mapped: the shape is checked before a read
    except FileNotFoundError as error:
        advice = "paths start from the folder of the data file"
        raise UsageError(f"{where}: no such codes file: {path}; {advice}") from error
    except UsageError as error:
        raise UsageError(f"{where}: {error}; {advice}") from error
    except UNREADABLE as error:
        raise UsageError(f"{where}: {path} is no readable .npy array ({error}); {advice}") from error
    if not np.issubdtype(codes.dtype, np.integer):
        raise UsageError(f"{where}: {path} holds {codes.dtype}, not integers; {advice}")
    longest = int(FRAME_RATE * LONGEST_SECONDS)
    if codes.ndim != 2 or codes.shape[0] != codebooks or not 1 <= codes.shape[1] <= longest:
        turned = "; it looks transposed" if codes.ndim == 2 and codes.shape[1] == codebooks else ""
        raise UsageError(f"{where}: {path} has shape {codes.shape}, L from 1 to {longest}{turned}; {advice}")
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= size:
        raise UsageError(
            f"{where}: {path} holds codes from {low} to {high}, outside 0 to {size - 1}; save them without "
            "the stream's bos and eos, which the collator adds"
        )
    return torch.from_numpy(np.array(codes, dtype=np.int64))


def stand_in_notes(records: Sequence[dict[str, Any]]) -> list[str]:
    """A line that names the audios without codes of their own; none if there are no such audios."""
    urls = [
        part["audio_url"]
        for record in records
        for message in record["messages"]
        for part in parts_of(message["content"])
        if is_audio(part) and not has_codes(part["audio_url"])
    ]
    if not urls:
        return []
    shown = ", ".join(url if len(url) <= 40 else f"{url[:37]}..." for url in urls[:3])
    more = f" and {len(urls) - 3} more" if len(urls) > 3 else ""
    what = "audio without codes of its own (.npy) has stand-in ones, on which supervision does not depend"
    return [f"{what}: {shown}{more}"]
