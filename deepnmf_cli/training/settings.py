"""How a network is trained, as settings of a recipe."""

from dataclasses import dataclass

from deepnmf_cli.training import multiplicative
from deepnmf_cli.training.dev import SCORES

OPTIMIZERS = ("adam", "adam-log", "adam-softplus", "muon", *multiplicative.RULES)
"""Names of `training.optimizer`."""


@dataclass(frozen=True)
class TrainingSettings:
    """How long, how fast and with what the weights are trained."""

    seed: int = 1
    steps: int = 3000
    batch: int = 16
    """Mixtures per step."""
    distinct_batches: int = 0
    """After this many batches the same mixtures come again; 0 makes new ones at every step."""
    frame_stride: int = 1
    """Only every n-th frame of a mixture is learned from; for networks of context frames, whose neighbours share most
    of their context."""
    greedy: bool = False
    """Layers are trained one after the other from the readout on: in the first of C equal parts of the run the readout,
    in the second also the layer below it, and so on. For deep NMF."""
    optimizer: str = "adam"
    """"adam"; "adam-log" and "adam-softplus" set network.parameterisation too; "muon" for matrices, with Adam for the
    other weights; or one of multiplicative.RULES."""
    momentum: float = 0.9
    """Of the multiplicative optimisers: share of what earlier batches said that is kept, in [0, 1)."""
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    schedule: str = "cosine"
    """Learning rate after the warm-up: "cosine" (to one hundredth at the last step) or "constant"."""
    clip_norm: float = 5.0
    """Gradients are scaled down to this norm."""
    average: float = 0.999
    """Decay of the running mean of the weights, which is what is scored and kept; 0 keeps the weights themselves."""
    score_every: int = 250
    """Steps between dev scores and resume points."""
    score: str = "si-sdr"
    """What the dev score is: "si-sdr", or "si-sdr+pesq", SI-SDR in dB plus 10 times PESQ."""
    patience: int = 0
    """Stop after this many dev scores without a new best; 0 never stops early."""
    mixed_precision: bool = True
    """bfloat16 matrix products on CUDA; CPU training is always float32."""
    machine_code: bool = True
    """Compile the network's layers for training on a CPU, where it has some and there is a compiler; capture a step as a
    CUDA graph for training on a GPU, where the network allows it."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.score_every < 1 or self.seed < 0:
            raise ValueError("steps, batch and score_every must be at least 1, seed not negative")
        if self.frame_stride < 1 or self.distinct_batches < 0:
            raise ValueError("frame_stride must be at least 1, distinct_batches not negative")
        if self.schedule not in ("cosine", "constant"):
            raise ValueError(f"schedule {self.schedule!r} is neither cosine nor constant")
        if not (self.learning_rate >= 0 and self.clip_norm > 0 and 0 <= self.average < 1):
            raise ValueError("learning_rate must not be negative, clip_norm positive, average in [0, 1)")
        if self.score not in SCORES:
            raise ValueError(f"score {self.score!r} is none of {', '.join(SCORES)}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer {self.optimizer!r} is none of {', '.join(OPTIMIZERS)}")
        if not 0 <= self.momentum < 1:
            raise ValueError("momentum must lie in [0, 1)")
