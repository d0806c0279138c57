"""The shape of a cross-view segmenter, saved beside its weights as readable JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from transformers import PhiConfig, PreTrainedConfig

from egoexo_xseg.errors import CheckpointError

MAX_SIZE = 1 << 17
"""No width, count or side of a model of this kind comes near; a larger claim is refused before it is allocated."""

MAX_SIDE = 1 << 12
"""The same for the square that images are fitted into."""

MAX_DEPTH = 1 << 9
"""The same for numbers of layers."""

MAX_WINDOW = 1 << 6
"""The same for the side of a window: a table of its places grows with the fourth power."""

MAX_MAP = 1 << 10
"""The same for the side of the finest map."""

MAX_PROPOSALS = 1 << 12


@dataclass(frozen=True)
class SwinShape:
    """The image tower: Swin-B, as Mask2Former trained it at 384 px and PSALM kept it."""

    embed_dim: int = 128  # width of the first stage; each later stage doubles it
    depths: tuple[int, ...] = (2, 2, 18, 2)
    num_heads: tuple[int, ...] = (4, 8, 16, 32)  # 32 channels a head at every stage
    window_size: int = 12  # what the position bias tables were trained for; larger images only get more windows
    patch_size: int = 4  # makes the first map stride 4, on which masks are predicted
    drop_path_rate: float = 0.3  # last block's rate in training, rising linearly from 0 (Mask2Former's)

    def __post_init__(self) -> None:
        if not len(self.depths) == len(self.num_heads) == 4:
            raise CheckpointError("swin needs four stages", where="config.json")
        for size in (self.embed_dim, self.window_size, self.patch_size, *self.num_heads):
            _check_size("a size of swin", size)
        _check_size("swin's window_size", self.window_size, MAX_WINDOW)
        for depth in self.depths:
            _check_size("a depth of swin", depth, MAX_DEPTH)
        if any(width % heads for width, heads in zip(self.widths, self.num_heads, strict=True)):
            raise CheckpointError("swin's heads must divide the width of their stage", where="config.json")
        if not 0 <= self.drop_path_rate < 1:
            raise CheckpointError("swin's drop_path_rate must be within 0 and 1", where="config.json")

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Channels of the four maps, at strides 4, 8, 16 and 32."""
        return tuple(self.embed_dim * 2**stage for stage in range(4))


@dataclass(frozen=True)
class ProjectorShape:
    """From the coarsest image map to language tokens."""

    planes: int = 2048  # inner width of the residual block
    stride: int = 2  # 1024 px become 16 x 16 = 256 tokens

    def __post_init__(self) -> None:
        _check_size("projector's planes", self.planes)
        _check_size("projector's stride", self.stride)


@dataclass(frozen=True)
class DecoderShape:
    """Pixel decoder and mask decoder, in Mask2Former's sizes."""

    hidden_dim: int = 256
    mask_dim: int = 256
    num_heads: int = 8
    num_mask_tokens: int = 100  # proposals per image; must exceed the number of objects in a record to be useful
    num_layers: int = 9  # three rounds over the three memory maps
    feedforward_dim: int = 2048
    pixel_layers: int = 6
    pixel_feedforward_dim: int = 1024  # fixed in the released code, whatever its configuration says

    def __post_init__(self) -> None:
        for entry in fields(self):
            limit = MAX_DEPTH if entry.name in ("num_layers", "pixel_layers") else MAX_SIZE
            _check_size(f"decoder's {entry.name}", getattr(self, entry.name), limit)
        _check_size("decoder's num_mask_tokens", self.num_mask_tokens, MAX_PROPOSALS)
        if self.hidden_dim % self.num_heads or self.hidden_dim % 32:
            raise CheckpointError("decoder's hidden_dim must divide by its heads and by 32", where="config.json")


class CrossViewConfig(PreTrainedConfig):
    """Everything needed to build the model; the defaults are those of the released ObjectRelator checkpoints."""

    model_type = "xseg"
    sub_configs_defaults = {"language": PhiConfig}  # noqa: RUF012 - read by transformers

    image_size: int = 1024  # side of the square that images are fitted into
    pixel_mean: tuple[float, ...] = (123.675, 116.28, 103.53)  # ImageNet's, on the 0..255 scale
    pixel_std: tuple[float, ...] = (58.395, 57.12, 57.375)
    pad_value: int = 128  # grey, put in before normalisation: close to zero after it
    swin: SwinShape = field(default_factory=SwinShape)
    projector: ProjectorShape = field(default_factory=ProjectorShape)
    decoder: DecoderShape = field(default_factory=DecoderShape)
    region_levels: tuple[int, ...] = ()  # Swin maps (0 the finest) that add to an object's features; released: none
    object_proposals: bool = False  # conditions join the mask tokens as proposals of their own objects; released: no
    fusion: str = "released"  # or "per_object": how captions reach the conditions
    untrained: bool = False  # weights as drawn: the model runs, and finds nothing
    language: PhiConfig | None = None  # Phi-1.5 with [PAD] and [SEG] added to its 50,295 tokens

    def __post_init__(self, **kwargs: Any) -> None:
        if self.language is None:
            self.language = released_phi()
        super().__post_init__(**kwargs)
        _check_size("image_size", self.image_size, MAX_SIDE)
        _check_size("image_size / patch_size", -(-self.image_size // self.swin.patch_size), MAX_MAP)
        if self.image_size <= 8 * self.swin.patch_size:  # or the coarsest map is one place, which has no variance
            raise CheckpointError(f"image_size must be above {8 * self.swin.patch_size}", where="config.json")
        for name in ("pixel_mean", "pixel_std"):
            values = getattr(self, name)
            if len(values) != 3 or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):
                raise CheckpointError(f"{name} must be three numbers", where="config.json")
        if min(self.pixel_std) <= 0:
            raise CheckpointError("pixel_std must be above 0", where="config.json")
        if self.fusion not in ("released", "per_object"):
            raise CheckpointError("fusion must be 'released' or 'per_object'", where="config.json")
        if not isinstance(self.object_proposals, bool):
            raise CheckpointError("object_proposals must be true or false", where="config.json")
        if not all(type(level) is int and 0 <= level < 4 for level in self.region_levels):
            raise CheckpointError("region_levels must be numbers from 0 to 3", where="config.json")
        if not 0 <= self.pad_value <= 255:
            raise CheckpointError("pad_value must be within 0 and 255", where="config.json")
        _check_language(self.language)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the language tokens of one image."""
        side = self.image_size
        for stride in (self.swin.patch_size, 2, 2, 2, self.projector.stride):
            side = -(-side // stride)  # every step pads what does not divide
        return side, side

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read the saved form; transformers calls this for `from_pretrained`."""
        values = _with_tuples(config_dict)
        for name, shape in (("swin", SwinShape), ("projector", ProjectorShape), ("decoder", DecoderShape)):
            if name in values:
                values[name] = _read_shape(shape, name, values[name])
        if isinstance(values.get("language"), Mapping):
            values["language"] = PhiConfig.from_dict(dict(values["language"]))
        values.pop("model_type", None)  # the class knows
        return super().from_dict(values, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The saved form: plain JSON values."""
        values = super().to_dict()
        for name in ("swin", "projector", "decoder"):
            values[name] = asdict(values[name])
        return values

    @classmethod
    def from_released(cls, values: Mapping[str, Any], vocab_size: int) -> CrossViewConfig:
        """Ours for a released `config.json` (model_type llava_phi).

        The image side of that file only names variants, of which one was released; the vocabulary is as long as the
        checkpoint's own table, since the authors resized it more than once.
        """
        for name, known in (("swin_type", "base"), ("mm_projector_type", "swin_conv")):
            if values.get(name, known) != known:
                raise CheckpointError(f"{name} {values[name]!r} is not supported, only {known!r}", where="config.json")
        copied = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
        copied += ("max_position_embeddings", "layer_norm_eps", "partial_rotary_factor", "rope_theta")
        given = {name: values[name] for name in copied if values.get(name) is not None}
        return cls(language=released_phi(vocab_size=vocab_size, **given))

    @classmethod
    def tiny(cls) -> CrossViewConfig:
        """The same model in half a million parameters, for tests: every part, nothing large."""
        language = released_phi(
            vocab_size=259, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
        )
        return cls(
            image_size=128,
            swin=SwinShape(embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), window_size=4),
            projector=ProjectorShape(planes=64),
            decoder=DecoderShape(
                hidden_dim=32,
                mask_dim=32,
                num_heads=4,
                num_mask_tokens=12,
                num_layers=3,
                feedforward_dim=64,
                pixel_layers=2,
                pixel_feedforward_dim=64,
            ),
            language=language,
        )


def released_phi(**changes: Any) -> PhiConfig:
    """Phi-1.5 as released; `changes` name what differs."""
    values: dict[str, Any] = {
        "vocab_size": 50297,
        "partial_rotary_factor": 0.5,  # half of each head's 64 channels turn
        "use_cache": False,  # the prompt is read once; nothing is generated
        # No token is special to the language model itself: padding is masked, and none of its rows is frozen.
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return PhiConfig(**values | changes)


def _check_language(language: PhiConfig) -> None:
    """What transformers finds out at the first answer, or never."""
    counts = ("num_attention_heads", "num_key_value_heads")
    for name in ("vocab_size", "hidden_size", "intermediate_size", *counts):
        _check_size(f"language's {name}", getattr(language, name))
    _check_size("language's num_hidden_layers", language.num_hidden_layers, MAX_DEPTH)
    heads, own = (getattr(language, name) for name in counts)
    if language.hidden_size % heads or heads % own:
        problem = "language's num_attention_heads must divide its hidden_size, and num_key_value_heads those heads"
        raise CheckpointError(problem, where="config.json")
    width = getattr(language, "head_dim", None) or language.hidden_size // heads
    _check_size("language's head_dim", width)
    turned = (language.rope_parameters or {}).get("partial_rotary_factor", 1.0)
    if not isinstance(turned, (int, float)) or not 0 < turned <= 1:
        raise CheckpointError("language's partial_rotary_factor must be above 0 and at most 1", where="config.json")
    if int(width * turned) % 2 or int(width * turned) < 2:
        problem = f"language's partial_rotary_factor must turn an even number of a head's {width} channels"
        raise CheckpointError(problem, where="config.json")


def _read_shape(shape: type, name: str, values: object) -> Any:
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{name} must be a JSON object", where="config.json")
    unknown = sorted(set(values) - {entry.name for entry in fields(shape)})
    if unknown:
        raise CheckpointError(f"{name} has no {unknown[0]!r}", where="config.json")
    return shape(**_with_tuples(values))


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows lists only."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _check_size(name: str, size: object, limit: int = MAX_SIZE) -> None:
    if type(size) is not int or not 1 <= size <= limit:
        raise CheckpointError(f"{name} must be a whole number within 1 and {limit}", where="config.json")
