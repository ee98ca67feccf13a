"""Settings of the commands that work on data: dataclasses that `robot_rl.config` registers with Hydra."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from robot_rl.checks import require_choice, require_minimum, require_range, require_success_reward
from robot_rl.errors import InputError

TIERS = ("auto", "raw", "jpeg", "video")


@dataclass(kw_only=True)
class LanguageConfig:
    """How a run reads the instructions of its data sets: as one more observation, `instruction`."""

    encoder: str = "none"  # none | hash: words and letters, hashed | table: vectors made before | model: transformers
    size: int = 512  # of hashed vectors
    path: str | None = None  # table: .npz or .safetensors; model: a folder. Nothing is downloaded
    wrong: float = 0.0
    """Share of transitions shown under another episode's instruction, as failures (V-GPS: 0 with Cal-QL, 0.1 with IQL);
    with replay.monte_carlo_tail=constant their returns are those of never arriving."""
    labels: str = "recorded"  # rewards: recorded | demonstrations, -1 a step and 0 at the last ones, as V-GPS has them
    last_steps: int = 3  # of a demonstration, that count as success

    def __post_init__(self) -> None:
        require_choice(self.encoder, ("none", "hash", "table", "model"), "language.encoder")
        require_choice(self.labels, ("recorded", "demonstrations"), "language.labels")
        require_range(self.size, 8, 65536, "language.size")
        require_range(self.wrong, 0, 0.9, "language.wrong")
        require_minimum(self.last_steps, 1, "language.last_steps")
        if self.encoder == "none" and (self.wrong > 0 or self.labels != "recorded"):
            raise InputError("language.wrong and language.labels are for runs that read instructions: set the encoder")


@dataclass(kw_only=True)
class SuccessRule:
    """Labels a step as successful where a number of the next observation lies in [minimum, maximum]."""

    observation: str = MISSING  # key of the observation; empty is no rule
    index: int = 0  # channel
    minimum: float | None = None
    maximum: float | None = None


@dataclass(kw_only=True)
class RewardRule:
    """Rewards in place of the recorded ones."""

    last_steps: int | None = None
    """Every episode is a demonstration that succeeds in its last so many steps: they get the second number of
    `values`, the others the first, and success is set likewise."""
    observation: str | None = None
    """Key of an observation whose channel `index`, after the step, is the reward; summed where `stride` joins steps."""
    index: int = 0
    values: list[float] = field(default_factory=lambda: [0.0, 1.0])

    def __post_init__(self) -> None:
        require_success_reward(self.values, "reward.values")
        if self.last_steps is not None:
            require_minimum(self.last_steps, 1, "reward.last_steps")
        if self.last_steps is not None and self.observation is not None:
            raise InputError("reward.last_steps and reward.observation exclude one another: set one of them")


@dataclass(kw_only=True)
class CorruptionConfig:
    """A share of the transitions of a data set, made worse as it is read. The store is not changed."""

    element: str = "none"
    """What is changed: `observation`, `action`, `reward`, `dynamics` (the observation behind a step), or `none`."""
    mode: str = "random"
    """`random`: noise of up to `scale` deviations of a channel, rewards within 30 times `scale`; `adversarial`: the
    change of that size that the critics of `attacker` like least, rewards times minus `scale`."""
    rate: float = 0.3  # of the transitions
    scale: float = 1.0  # in deviations of each channel over the data set
    seed: int = 0  # which transitions, and their noise
    attacker: str = ""  # folder of a run with algorithm=edac, sac_n or rorl, whose critics choose adversarial changes
    attack_steps: int = 100

    def __post_init__(self) -> None:
        elements = ("none", "observation", "action", "reward", "dynamics")
        require_choice(self.element, elements, "dataset corruption.element")
        require_choice(self.mode, ("random", "adversarial"), "dataset corruption.mode")
        require_range(self.rate, 0, 1, "dataset corruption.rate")
        require_range(self.scale, 0, 1e6, "dataset corruption.scale")
        require_range(self.attack_steps, 0, 100_000, "dataset corruption.attack_steps")


@dataclass(kw_only=True)
class ImageConfig:
    """How images are stored."""

    size: list[int] | None = None  # [height, width]; None keeps that of the recording
    fit: str = "stretch"  # stretch | pad (black borders) | crop (the middle): where the proportions differ
    tier: str = "auto"
    """`raw`: memory-mapped, the fastest to train from; `jpeg`: about five times smaller; `video`: the recording's own
    video files, copied; `auto`: raw up to 128 x 128 pixels, jpeg above."""
    quality: int = 95  # of JPEG, 1 to 100; images that are JPEG already are stored as they are

    def __post_init__(self) -> None:
        require_choice(self.fit, ("stretch", "pad", "crop"), "image.fit")
        require_choice(self.tier, TIERS, "image.tier")
        require_range(self.quality, 1, 100, "image.quality")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise InputError(f"image.size={self.size}: give [height, width] in pixels")
        if self.size is not None and self.tier == "video":
            raise InputError("image.tier=video keeps the recorded videos, so image.size cannot be set")


@dataclass(kw_only=True)
class BagConfig:
    """ROS bags: topics, each with times of its own, become steps."""

    action: str | None = None  # topic of the command, or TOPIC:FIELD; None: see `action_from`
    observations: list[str] = field(default_factory=list)  # topics, or TOPIC:FIELD; none given takes all that can be
    clock: str = "auto"
    """`header`: the stamp of the sensor; `receive`: when the recorder got it; `auto`: header where every message of
    the topic has one that is set."""
    maximum_gap_s: float | None = None
    """Silence of a topic that ends an episode: what lies in it is dropped. None: five control periods, at least 0.5
    s."""
    segment: str = "auto"
    """What an episode is: `bag` (the whole bag), `marker` (between messages of the topic `marker`), `idle` (a pause of
    the command), `auto` (marker where one is named, else the bag)."""
    marker: str | None = None
    """Topic of Bool, String or Empty messages: a true one, one with text, or any, starts an episode; a false or empty
    one ends it."""
    idle_s: float = 2.0  # a pause of the command of so many seconds ends an episode, for segment=idle
    success: str | None = None
    """Topic of Bool messages that say how an episode ended: one that is true, after the episode begins and before the
    next does, makes its last step a success; without any message it stays unknown."""
    language: str | None = None  # topic of String messages: the last text before an episode ends is its instruction
    definitions: list[str] = field(default_factory=list)  # .msg files of message types the bag does not carry

    def __post_init__(self) -> None:
        require_choice(self.clock, ("auto", "header", "receive"), "bag.clock")
        require_choice(self.segment, ("auto", "bag", "marker", "idle"), "bag.segment")
        if self.segment == "marker" and self.marker is None:
            raise InputError("bag.segment=marker needs the topic: set bag.marker")


@dataclass(kw_only=True)
class TableConfig:
    """CSV logs, and tables of actions beside a video: which columns mean what."""

    observation: dict[str, list[str]] = field(default_factory=dict)
    """Columns of each observation; `state: [J*]` takes all columns that match. None given takes all columns of
    numbers that nothing else takes, as `state`."""
    action: list[str] = field(default_factory=list)  # columns, with `*` as above
    reward: str | None = None
    success: str | None = None
    time: str | None = None  # column of the time
    time_unit_s: float = 1.0  # seconds in a unit of that column, where it is a number
    time_format: str | None = None  # as of Python's strptime, where it is a text; None: ISO 8601
    first_frame_s: float | None = None
    """When the first frame of the video beside the table was taken, in seconds on the clock of the table; None: at 0,
    or with the first row where the times count from 1970."""
    episode: str | None = None  # column whose change starts an episode
    delimiter: str | None = None  # None finds it
    decimal: str | None = None  # `.` or `,`; None finds it
    missing: str = "error"  # error | hold (repeat the last number of the column) | split (an episode ends there)
    maximum_gap_s: float | None = None  # silence that ends an episode

    def __post_init__(self) -> None:
        require_choice(self.missing, ("error", "hold", "split"), "table.missing")


@dataclass(kw_only=True)
class IngestConfig:
    """`robot-rl ingest SOURCE STORE`: a recording, in any format that has a reader, becomes a zarr store."""

    source: str = MISSING
    store: str = MISSING
    format: str | None = None  # None finds the reader by content
    overwrite: bool = False  # replace a store that is already there
    append: bool = False  # add to a store that is already there; what it has of this source already is left out
    on_error: str = "drop"  # an episode that cannot be used: drop (it, and say so) | stop
    workers: int | None = None  # processes; None: one for each core where the source is large, else none
    engine: str = "local"  # local | ray (a Ray cluster: the one in RAY_ADDRESS, else one on this machine)
    maximum_episodes: int | None = None
    split: str | None = None  # only the episodes of this split of the source, such as train
    keys: list[str] = field(default_factory=list)  # observations to keep, `*` matches; none given keeps all
    exclude: list[str] = field(default_factory=list)  # observations to leave out
    minimum_steps: int = 1  # shorter episodes are left out
    keep: str = "all"  # all | successful
    language: str | None = None  # instruction of every episode, in place of the recorded one
    stride: int = 1
    """Keep every so many-th observation, so the control period grows: rewards are summed, an action is the first of
    its steps, or their sum where actions are differences (`action_semantics` ends in `delta`; grippers are not
    summed)."""
    action_from: str | None = None
    """Key of an observation: the action of a step is its next value, for recordings without actions. Its bounds are
    `action_low` and `action_high`, else the range of the data."""
    action_mode: str = "absolute"  # absolute | delta (the next value minus this one)
    success: SuccessRule | None = None  # labels success where the source does not record it
    reward: RewardRule = field(default_factory=RewardRule)
    action_low: list[float] | None = None  # lower bounds where the source declares none, one or A numbers; None: -1
    action_high: list[float] | None = None  # upper bounds likewise; None: 1
    control_period_s: float | None = None  # where the source declares none; bags, videos and logs are resampled to it
    done_semantics: str = "auto"
    """Sources with a single `done`: `auto` takes it as termination where the step succeeded and as a time limit
    elsewhere; `terminated` and `truncated` take it as that."""
    resimulate: bool = True  # rebuild observations from recorded simulator states where the source has only states
    image: ImageConfig = field(default_factory=ImageConfig)
    bag: BagConfig = field(default_factory=BagConfig)
    table: TableConfig = field(default_factory=TableConfig)
    side_file: str | None = None  # beside a video: a table or .npz with a row per frame, or with times

    def __post_init__(self) -> None:
        require_choice(self.done_semantics, ("auto", "terminated", "truncated"), "done_semantics")
        require_choice(self.on_error, ("drop", "stop"), "on_error")
        require_choice(self.engine, ("local", "ray"), "engine")
        require_choice(self.keep, ("all", "successful"), "keep")
        require_choice(self.action_mode, ("absolute", "delta"), "action_mode")
        require_minimum(self.minimum_steps, 1, "minimum_steps")
        require_minimum(self.stride, 1, "stride")
        if self.workers is not None:
            require_minimum(self.workers, 0, "workers")
        if self.append and self.overwrite:
            raise InputError("append=true and overwrite=true exclude one another: set one of them")


@dataclass(kw_only=True)
class InspectConfig:
    """`robot-rl inspect STORE`: what a store holds, printed and plotted."""

    store: str = MISSING
    plots: str | None = None  # folder of the pictures; None is `<store>_inspect` beside the store; `none` draws none
    report: str | None = None  # `html` writes `report.html`, one page with everything, into that folder
    check: bool = False  # only the findings; exit status 1 where one is an error or a warning (same as --check)
    fix: bool = False  # repair what can be repaired in place, say what was done (same as --fix)

    def __post_init__(self) -> None:
        if self.report is not None:
            require_choice(self.report, ("html",), "report")


@dataclass(kw_only=True)
class ViewConfig:
    """`robot-rl view STORE`: episodes in the rerun viewer, or in a file for it."""

    store: str = MISSING
    episodes: list[int] = field(default_factory=lambda: [0])
    output: str | None = None  # an .rrd file to write; None opens the viewer
    maximum_side: int = 480  # pixels: larger images are shown smaller

    def __post_init__(self) -> None:
        require_minimum(self.maximum_side, 16, "maximum_side")


@dataclass(kw_only=True)
class AdviseConfig:
    """`robot-rl advise STORE`: which recipe fits the data, and why."""

    store: str = MISSING
    environment_return: list[float] | None = None
    """[return of a random policy, return of an expert], where known: the quality of the data is measured against
    them."""
    discount: float = 0.99  # of the discounted returns that are told
    output: str | None = None  # a JSON file of the numbers, choices and commands

    def __post_init__(self) -> None:
        require_range(self.discount, 0.0, 1.0, "discount")
        if self.environment_return is not None and (
            len(self.environment_return) != 2 or not self.environment_return[0] < self.environment_return[1]
        ):
            raise InputError(
                f"environment_return={self.environment_return}: give two numbers, the lower of a random policy first, "
                "then the higher of an expert"
            )


@dataclass(kw_only=True)
class EditConfig:
    """`robot-rl edit OPERATION STORE`: change a store, whole or not at all."""

    operation: str = MISSING  # merge | split | filter | relabel | delete
    store: str = MISSING
    output: str | None = None  # the new store (for split: a folder of stores); None replaces the store itself
    overwrite: bool = False  # replace an output that is already there
    others: list[str] = field(default_factory=list)  # merge: the stores to add behind
    shares: dict[str, float] = field(default_factory=dict)  # split; none given: {train: 0.9, validation: 0.1}
    seed: int = 0  # split: which episode goes where
    by: str = "random"  # split: random | recorded (the split that the source declared) | order
    episodes: list[int] = field(default_factory=list)  # delete: these; filter: only these
    keep: str = "all"  # filter: all | successful
    minimum_steps: int = 1  # filter
    maximum_steps: int | None = None  # filter
    minimum_return: float | None = None  # filter
    task: str | None = None  # filter: only episodes whose language contains this text
    keys: list[str] = field(default_factory=list)  # filter: observations to keep, `*` matches
    exclude: list[str] = field(default_factory=list)  # filter: observations to leave out
    language: str | None = None  # relabel
    success: SuccessRule | None = None  # relabel
    reward: RewardRule = field(default_factory=RewardRule)  # relabel

    def __post_init__(self) -> None:
        require_choice(self.operation, ("merge", "split", "filter", "relabel", "delete"), "operation")
        require_choice(self.by, ("random", "recorded", "order"), "by")
        require_choice(self.keep, ("all", "successful"), "keep")


@dataclass(kw_only=True)
class ExportConfig:
    """`robot-rl export SOURCE TARGET`: a store in another format, or a policy as a file of its own."""

    source: str = MISSING  # a store; for onnx a run's folder or one of its checkpoints
    target: str = MISSING
    format: str | None = None
    """robomimic | lerobot | onnx; None: robomimic for a name ending in .hdf5, onnx for .onnx, else lerobot."""
    overwrite: bool = False
    fps: float | None = None  # lerobot: where the store declares no control period
    task: str | None = None  # lerobot: for episodes without language
    video_codec: str = "libsvtav1"
    """lerobot: libsvtav1 | h264 | none (images in the tables, without loss: PNG, or the JPEG that they are). Videos
    that were recorded as videos are copied."""
    crf: int = 30  # lerobot: quality of the video, lower is better
    compare_on: list[str] | None = None
    """onnx: stores with observations on which the file is compared with the policy, besides random ones; None: those
    that the run was trained on, as far as they are there."""
    tolerance: float = 1e-4  # onnx: largest difference from the policy, as a share of half the range of the actions
    outliers: int = 0  # onnx: so many of the compared observations may differ by more

    def __post_init__(self) -> None:
        require_choice(self.video_codec, ("libsvtav1", "h264", "none"), "video_codec")
        require_range(self.crf, 0, 63, "crf")
        require_range(self.tolerance, 0, 1, "tolerance")
        require_range(self.outliers, 0, 1_000_000, "outliers")
        if self.format is not None:
            require_choice(self.format, ("robomimic", "lerobot", "onnx"), "format")
