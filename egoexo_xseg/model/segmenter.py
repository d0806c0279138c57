"""The whole model: encode both views, let the language model read the prompt, decode masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from transformers import PhiModel, PreTrainedModel
from transformers.activations import NewGELUActivation

from egoexo_xseg.model.conditions import FUSIONS, pool_regions
from egoexo_xseg.model.configuration import CrossViewConfig
from egoexo_xseg.model.inputs import Batch
from egoexo_xseg.model.mask_decoder import Canvas, Level, MaskDecoder
from egoexo_xseg.model.pixel_decoder import PixelDecoder
from egoexo_xseg.model.precision import LayerNorm, Linear, full
from egoexo_xseg.model.projector import Projector
from egoexo_xseg.model.prompts import Layout, Prompt, lay_out
from egoexo_xseg.model.swin import Swin


@dataclass(frozen=True)
class Encoding:
    """What is known of images alone: maps at strides 4 to 32, and language tokens (T of them, row by row)."""

    features: tuple[Float[Tensor, "I _ _ _"], ...]
    tokens: Float[Tensor, "I T D"]


@dataclass(frozen=True)
class Reading:
    """What the language model made of a batch: one embedding per mask token, per object, and per caption text.

    R is 1 where the fusion takes the record's whole text, and K where it takes each object's own; `captioned` tells
    which objects have one.
    """

    masks: Float[Tensor, "B N C"]
    objects: Float[Tensor, "B K C"]
    captions: Float[Tensor, "B R C"]
    captioned: Bool[Tensor, "B K"]


@dataclass(frozen=True)
class Output:
    """Proposals and how well each answers each object; `levels` holds every decoder level, the final one last.

    Rows of `condition_logits` beyond a record's own objects are padding, `present` tells. `objects` are the
    conditions before fusion, which the cross-view alignment loss compares.
    """

    mask_logits: Float[Tensor, "B N h w"]
    condition_logits: Float[Tensor, "B K N"]
    present: Bool[Tensor, "B K"]
    objects: Float[Tensor, "B K C"]
    levels: list[Level]


@lru_cache(maxsize=8)
def channels(values: tuple[float, ...], device: torch.device) -> Float[Tensor, "3 1 1"]:
    """A number for each colour; made once, on the device."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


class CrossViewModel(PreTrainedModel):
    """Finds, in a target view, the objects that masks (and captions) point out in a query view."""

    config_class = CrossViewConfig
    base_model_prefix = "segmenter"
    main_input_name = "batch"
    _no_split_modules = ["PhiDecoderLayer"]  # noqa: RUF012 - read by transformers
    _supports_sdpa = True

    def __init__(self, config: CrossViewConfig) -> None:
        super().__init__(config)
        swin, decoder, width = config.swin, config.decoder, config.language.hidden_size
        self.swin = Swin(
            embed_dim=swin.embed_dim,
            depths=swin.depths,
            num_heads=swin.num_heads,
            window_size=swin.window_size,
            patch_size=swin.patch_size,
            drop_path_rate=swin.drop_path_rate,
        )
        self.projector = Projector(
            in_channels=swin.widths[-1],
            planes=config.projector.planes,
            out_channels=width,
            stride=config.projector.stride,
        )
        self.language = use_our_layers(PhiModel(config.language))
        self.mask_tokens = nn.Parameter(torch.zeros(decoder.num_mask_tokens, width))
        self.mask_head = Linear(width, decoder.hidden_dim)
        self.object_head = Linear(width, decoder.hidden_dim)
        self.caption_head = Linear(width, decoder.hidden_dim)
        self.region_heads = nn.ModuleList(Linear(swin.widths[level], width) for level in config.region_levels)
        self.fusion = FUSIONS[config.fusion](decoder.hidden_dim)
        self.pixel_decoder = PixelDecoder(
            in_channels=swin.widths,
            hidden_dim=decoder.hidden_dim,
            mask_dim=decoder.mask_dim,
            num_heads=decoder.num_heads,
            num_layers=decoder.pixel_layers,
            feedforward_dim=decoder.pixel_feedforward_dim,
        )
        self.mask_decoder = MaskDecoder(
            hidden_dim=decoder.hidden_dim,
            mask_dim=decoder.mask_dim,
            num_heads=decoder.num_heads,
            num_layers=decoder.num_layers,
            feedforward_dim=decoder.feedforward_dim,
            num_queries=decoder.num_mask_tokens,
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Every part draws its own weights when it is made; only the mask tokens would all stay alike."""
        if module is self:
            nn.init.normal_(self.mask_tokens, std=0.02)

    def renew(self, part: str) -> None:
        """Draw the weights of "fusion" or "region_heads" anew; fresh heads add nothing until they have learnt."""
        if part == "fusion":
            fresh = type(self.fusion)(self.config.decoder.hidden_dim)
            self.fusion.load_state_dict(fresh.state_dict())
        for head in self.region_heads if part == "region_heads" else ():
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, batch: Batch) -> Output:
        """Answer a batch; each of its distinct images passes the image tower once."""
        return self.answer(batch, self.encode(batch.images))

    def encode(self, images: UInt8[Tensor, "I 3 S S"]) -> Encoding:
        """Look at images; a caller that meets an image again may keep its encoding."""
        features = self.see(images)
        return Encoding(features, self.projector(features[-1]))

    def see(self, images: UInt8[Tensor, "I 3 S S"]) -> tuple[Float[Tensor, "I _ _ _"], ...]:
        """The image tower's maps."""
        mean, std = (channels(tuple(v), images.device) for v in (self.config.pixel_mean, self.config.pixel_std))
        pixels = (images - mean) / std
        # Laid out like the released code's maps: convolutions round differently on channels-last ones.
        return tuple(level.contiguous() for level in self.swin(pixels))

    def answer(self, batch: Batch, encoding: Encoding) -> Output:
        """Answer a batch whose `images` were encoded already."""
        regions = self.pool(encoding, batch.query, batch.query_masks)
        reading = self.read(batch.prompts, encoding.tokens[list(batch.target)], regions)
        return self.decode(batch, encoding, reading)

    def pool(self, encoding: Encoding, images: Sequence[int], masks: Bool[Tensor, "B K S S"]) -> Float[Tensor, "B K D"]:
        """What is seen under each mask: the language tokens' mean, and that of finer maps where the model has any."""
        masks = masks.float()  # once for all maps
        regions = pool_regions(encoding.tokens[list(images)], masks, self.config.grid)
        for level, head in zip(self.config.region_levels, self.region_heads, strict=True):
            features = encoding.features[level][list(images)]  # (B, C, h, w)
            grid = (features.shape[-2], features.shape[-1])
            regions = regions + head(pool_regions(features.flatten(2).transpose(1, 2), masks, grid))
        return regions

    def read(
        self, prompts: Sequence[Prompt], image_tokens: Float[Tensor, "B T D"], regions: Float[Tensor, "B K D"]
    ) -> Reading:
        """Read the prompts, with the target image and the pooled objects in their places."""
        layout = lay_out(prompts, image_tokens.shape[1], len(self.mask_tokens)).to(image_tokens.device)
        return self.interpret(self.listen(self.embed(layout, image_tokens, regions), layout), layout)

    def interpret(self, hidden: Float[Tensor, "B L D"], layout: Layout) -> Reading:
        """Pick out of the language model's hidden states what the layout tells to be there."""
        rows = torch.arange(len(hidden), device=hidden.device)[:, None]
        spans = layout.own_captions if self.config.fusion == "per_object" else layout.captions[:, None]  # (B, R, L)
        return Reading(
            masks=self.mask_head(hidden[rows, layout.masks]),
            objects=self.object_head(hidden[rows, layout.objects]),
            captions=self.caption_head(spans.to(hidden.dtype) @ hidden),
            captioned=layout.own_captions.any(-1),
        )

    def embed(
        self, layout: Layout, image_tokens: Float[Tensor, "B T D"], regions: Float[Tensor, "B K D"]
    ) -> Float[Tensor, "B L D"]:
        """The language model's input: one gather from the table that `Layout` describes."""
        words = full(self.language.embed_tokens(layout.words))  # (B, W, D)
        masks = full(self.mask_tokens).expand(len(words), -1, -1)  # (B, N, D)
        table = torch.cat([words, full(image_tokens), full(regions), masks, torch.zeros_like(words[:, :1])], 1)
        return table.gather(1, layout.rows[..., None].expand(-1, -1, table.shape[-1]))  # (B, L, D)

    def listen(self, embeddings: Float[Tensor, "B L D"], layout: Layout) -> Float[Tensor, "B L D"]:
        """The language model's last hidden states, after its final norm; those of padding mean nothing."""
        positions = torch.arange(embeddings.shape[1], device=embeddings.device)[None]
        read = self.language(
            inputs_embeds=embeddings, attention_mask=layout.attended, position_ids=positions, use_cache=False
        )
        return read.last_hidden_state

    def decode(self, batch: Batch, encoding: Encoding, reading: Reading) -> Output:
        """Propose masks in the target images, and tell for each how well it answers each object."""
        return self.propose(batch, self.unroll(batch, encoding), reading)

    def unroll(self, batch: Batch, encoding: Encoding) -> Canvas:
        """Pass the target images through the pixel decoder, each once however many records ask for it."""
        targets, own = batch.distinct_targets()
        mask_features, memory = self.pixel_decoder(tuple(level[targets] for level in encoding.features))
        return Canvas(mask_features, memory, tuple(own.tolist()))

    def propose(self, batch: Batch, canvas: Canvas, reading: Reading) -> Output:
        """The rest of `decode`; a caller that asks the same images again may keep their canvas."""
        present, given = self.prepare(batch, reading)
        levels = self.mask_decoder(canvas, *given)
        mask_logits, condition_logits = levels[-1]
        return Output(mask_logits, condition_logits, present, reading.objects, levels)

    def prepare(
        self, batch: Batch, reading: Reading
    ) -> tuple[Bool[Tensor, "B K"], tuple[Float[Tensor, "B N C"], Float[Tensor, "B K C"], Bool[Tensor, "B N"] | None]]:
        """Which objects are no padding, and what the mask decoder is given: proposals, conditions, real proposals."""
        counts = torch.tensor(batch.num_objects)[:, None]
        present = (torch.arange(reading.objects.shape[1]) < counts).to(reading.objects.device)  # (B, K)
        conditions = self.fusion(reading.objects, reading.captions, present, reading.captioned)
        proposals, real = reading.masks, None
        if self.config.object_proposals:
            proposals = torch.cat([proposals, conditions], 1)  # (B, N + K, C)
            real = torch.cat([torch.ones_like(reading.masks[..., 0], dtype=torch.bool), present], 1)  # (B, N + K)
        return present, (proposals, conditions, real)


OURS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: Linear, nn.LayerNorm: LayerNorm}
"""Layers in place of those that transformers takes."""


def use_our_layers(language: PhiModel) -> PhiModel:
    """Have it computed by our layers: half precision multiplies, and no more; "gelu_new" is one pass and not eight."""
    for module in language.modules():
        module.__class__ = OURS.get(type(module), type(module))
    for layer in language.layers:
        if isinstance(layer.mlp.activation_fn, NewGELUActivation):
            layer.mlp.fc1.activation, layer.mlp.activation_fn = "gelu_tanh", nn.Identity()
    # Queries and keys are turned in the type in which they meet, not in that of the stream that they come from.
    language.rotary_emb.register_forward_pre_hook(lambda _, given: (given[0].to(language.dtype), *given[1:]))
    return language
