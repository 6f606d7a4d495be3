"""Of which segments a reader fetches the frames too, and not their heads alone."""

from dataclasses import dataclass

from protos.replay_pb2 import SegmentHeader
from services.replay.read.episodes import Track


@dataclass(frozen=True, kw_only=True)
class FrameDemand:
    """Of one buffer."""

    always: bool
    """The frames are kept: whole segments at once."""
    recompute: bool
    """Readouts are computed from the frames where there are none of `backbone_id`."""
    backbone_id: str = ""
    """Empty: any backbone's readouts will do, if an episode's are all of the same."""

    def of_segment(self, header: SegmentHeader) -> bool:
        """Whether frames are wanted, by what the segment's head says."""
        return self.always or (self.recompute and (not header.embedding_dim or self._strange(header.backbone_id)))

    def of_episode(self, track: Track) -> bool:
        """As `of_segment`; an episode whose segments differ needs the frames of all of them."""
        return self.always or (self.recompute and (track.embedding is None or self._strange(track.backbone_id)))

    def _strange(self, backbone_id: str) -> bool:
        return self.backbone_id not in ("", backbone_id)
