"""Settings that several kinds of labels share."""

from dataclasses import dataclass, field

from robot_rl.checks import require_choice, require_minimum, require_range
from robot_rl.errors import InputError

FORMS = ("kept", "reached", "difference", "added", "potential", "above")


@dataclass(kw_only=True)
class RewardForm:
    """What becomes of the score phi of each observation; `functional/shaping.py` has the formulas."""

    form: str = "reached"
    """`kept`: rewards stay as recorded, the score is written beside them; `reached`: phi(s'); `difference`: phi(s') -
    phi(s), VIP's; `added`: r + weight phi(s'), ViVa's; `potential`: r + weight (discount phi(s') - phi(s)), which does
    not change what is best; `above`: the second of `values` where phi(s') is at least the threshold, else the first."""
    weight: float = 1.0  # of phi; bias and weight do not change `above`
    bias: float = 0.0  # added to every reward
    discount: float = 0.99  # of `potential`: that of the training
    normalize: str = "none"
    """`percentiles`: scores are shifted and scaled so that the 1st percentile over the store is 0 and the 99th is 1."""
    values: list[float] = field(default_factory=lambda: [0.0, 1.0])  # of `above`

    def __post_init__(self) -> None:
        require_choice(self.form, FORMS, "label.reward.form")
        require_choice(self.normalize, ("none", "percentiles"), "label.reward.normalize")
        require_range(self.discount, 0.0, 1.0, "label.reward.discount")
        for name in ("weight", "bias"):
            require_range(getattr(self, name), -1e9, 1e9, f"label.reward.{name}")
        if len(self.values) != 2:
            raise InputError(f"label.reward.values={self.values}: give two numbers, [without success, with success]")


@dataclass(kw_only=True)
class GoalConfig:
    """What is to be reached; exactly one of these is given."""

    image: str | None = None  # a picture, PNG or JPEG
    episodes: list[int] = field(default_factory=list)
    """Episodes of the store whose frame `frame` shows the goal; the value is the mean over them."""
    frame: int = -1
    text: str | None = None  # in words: LIV
    recorded: bool = False  # each episode's own instruction: LIV
    own_end: bool = False
    """Each episode's own last frame: for demonstrations, of which every one arrives; a failure is told it arrived."""

    def __post_init__(self) -> None:
        given = [name for name in ("image", "episodes", "text", "recorded", "own_end") if getattr(self, name)]
        if len(given) > 1:
            raise InputError(f"label.goal has {' and '.join(given)}: give one of them")


@dataclass(kw_only=True)
class FitConfig:
    """How networks on images are fitted."""

    steps: int = 1000
    batch: int = 64
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    gradient_clip: float | None = None  # global norm

    def __post_init__(self) -> None:
        require_minimum(self.steps, 1, "label.fit.steps")
        require_minimum(self.batch, 2, "label.fit.batch")
        require_range(self.learning_rate, 0.0, 1.0, "label.fit.learning_rate")
        require_range(self.weight_decay, 0.0, 1.0, "label.fit.weight_decay")
        if self.gradient_clip is not None:
            require_range(self.gradient_clip, 1e-8, 1e8, "label.fit.gradient_clip")


def refuse_above(reward: RewardForm) -> None:
    """Refuse the form that needs a threshold, of scores that have none.

    Raises:
        InputError: names the setting.
    """
    if reward.form == "above":
        raise InputError("label.reward.form=above needs a classifier's threshold: choose another form")


def require_image_size(size: list[int]) -> None:
    """Refuse a size that is no [height, width].

    Raises:
        InputError: names the setting.
    """
    if len(size) != 2 or min(size) < 8:
        raise InputError(f"label.image_size={size}: give [height, width] in pixels, 8 at least")
