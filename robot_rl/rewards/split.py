"""Episodes are parted before frames are: frames of one episode are too much alike to judge one another."""

from collections.abc import Mapping, Sequence

import numpy as np

from robot_rl.errors import InputError


def split_episodes(
    digests: Sequence[str],
    successful: Sequence[bool],
    shares: Mapping[str, float],
    generator: np.random.Generator,
    called: str = "episodes with a success",
) -> dict[str, list[int]]:
    """Episodes of each part, in order; successes and failures are dealt apart, so that each part has its share of both.

    Args:
        digests: of the episodes; copies of one another come into the same part.
        successful: whether an episode succeeds.
        shares: of each part; they are scaled to sum to 1.
        generator: of the order in which they are dealt.
        called: what `successful` ones are, for messages.

    Raises:
        InputError: fewer successful episodes than parts.
    """
    groups: dict[str, list[int]] = {}
    for index, digest in enumerate(digests):
        groups.setdefault(digest, []).append(index)
    parts: dict[str, list[int]] = {name: [] for name in shares}
    for wanted in (True, False):
        members = [group for group in groups.values() if any(successful[index] for index in group) is wanted]
        if wanted and len(members) < len(shares):
            raise InputError(
                f"there are {len(members)} different {called}, and the parts {', '.join(shares)} need one each: record "
                "more"
            )
        counts = _counts(len(members), list(shares.values()))
        order = generator.permutation(len(members)).tolist()
        for name, end, count in zip(shares, np.cumsum(counts).tolist(), counts, strict=True):
            for number in order[end - count : end]:
                parts[name] += members[number]
    return {name: sorted(members) for name, members in parts.items()}


def _counts(total: int, shares: Sequence[float]) -> list[int]:
    """Sizes near the shares, none of them 0 where there are enough."""
    share = np.asarray(shares, np.float64) / sum(shares)
    counts = np.diff(np.round(np.concatenate([[0.0], np.cumsum(share)]) * total).astype(int))
    while total >= len(counts) and counts.min() == 0:
        counts[counts.argmax()] -= 1
        counts[counts.argmin()] += 1
    return [int(count) for count in counts]
