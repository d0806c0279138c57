"""Train weights/captioner-tiny, a small LLaVA that names the sample world's objects, and score it.

    python weights/train_captioner.py --run RUN      train; the same command goes on after a kill
    python weights/train_captioner.py --run RUN --start FOLDER     train a captioner further
    python weights/train_captioner.py --evaluate     score the shipped weights on takes that training never sees

RUN keeps what was drawn so far (captioner_views.py) and the newest state. Everything follows from seeds, on one thread.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from captioner_views import CELLS, DEVIATION, MEAN, SIDE, Asked, draw_held_out, load_shard, vary
from jaxtyping import Bool, Float, Int64, UInt8
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    LevitConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egoexo_xseg.model.captioner import PROMPT, Captioner
from egoexo_xseg.parallel import keep_freed_memory
from egoexo_xseg.progress import track
from egoexo_xseg.world.draws import world_seed
from egoexo_xseg.world.paint import COLOURS, PATTERNS
from egoexo_xseg.world.things import SHAPES

SHIPPED = Path(__file__).parent / "captioner-tiny"

WIDTH = 192  # of the tower, which makes CELLS x CELLS tokens of an image
SHARDS = 30  # of about 900 close-ups
STEPS, BATCH = 2600, 64
WORDS_FROM = 2100  # until then the tower learns alone, from the attributes
RATE, DECAY, WARM_UP = 1e-3, 0.05, 200
SAVE_EVERY = 250
EVALUATED = 150  # takes of three pictures

CLASSES = (tuple(COLOURS), tuple(PATTERNS.values()), tuple(SHAPES))
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
CHAT = (
    "{% for message in messages %}{{ message['role'].upper() }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


# What it is


def make_processor() -> LlavaProcessor:
    """One token a word, of the question and of the answers; a chat template like LLaVA-1.5's."""
    words = pre_tokenizers.BertPreTokenizer()
    known = f"USER: {PROMPT} ASSISTANT: {answer('white box')} {answer('orange box')} {' '.join(sum(CLASSES, ()))}"
    vocabulary = dict.fromkeys([*SPECIAL, *(word for word, _ in words.pre_tokenize_str(known))])
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = words, decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    named = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=False))
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": SIDE},
            crop_size={"height": SIDE, "width": SIDE},
            image_mean=[MEAN] * 3,
            image_std=[DEVIATION] * 3,
        ),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, extra_special_tokens={"image_token": SPECIAL[4]}, **named
        ),
        patch_size=SIDE // CELLS,
        vision_feature_select_strategy="full",
        chat_template=CHAT,
    )


def make_model(vocabulary: int) -> LlavaForConditionalGeneration:
    """A LeViT under a Llama of two layers: its convolutions and batch norms learn fast from scratch."""
    tower = LevitConfig(
        image_size=SIDE,
        hidden_sizes=(WIDTH, WIDTH),  # before and after the tokens become fewer
        depths=(3,),
        num_attention_heads=(6,),
        key_dim=(16,),
        attention_ratio=(2,),
        mlp_ratio=(2,),
        hidden_size=WIDTH,  # the name under which LLaVA's projector asks for it
    )
    language = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    config = LlavaConfig(
        vision_config=tower,
        text_config=language,
        image_token_id=4,
        image_seq_length=CELLS**2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config)


def answer(caption: str) -> str:
    return f"The object is {'an' if caption[0] in 'aeiou' else 'a'} {caption}."


def attributes(caption: str) -> tuple[int, int, int]:
    """Colour, pattern and shape of a caption, as places in `CLASSES`."""
    colour, *pattern, shape = caption.split()
    words = (colour, pattern[0] if pattern else "plain", shape)
    return tuple(names.index(word) for names, word in zip(CLASSES, words, strict=True))


class Learner(nn.Module):
    """The captioner with a head on its tower that finds the object and guesses its attributes; only training knows it.

    The head asks every token: from answers alone, finding what is tinted takes the tower long.
    """

    def __init__(self) -> None:
        super().__init__()
        self.processor = make_processor()
        tokenizer = self.processor.tokenizer
        self.llava = make_model(len(tokenizer))
        self.llava.model.vision_tower.to(memory_format=torch.channels_last)
        self.llava.model.language_model.set_attn_implementation("eager")  # fused attention takes twice as long
        self.head = nn.Linear(WIDTH, 1 + sum(map(len, CLASSES)))
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]
        text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        question = tokenizer(text)["input_ids"]
        place = question.index(tokenizer.convert_tokens_to_ids("<image>"))
        self.before, self.after = torch.tensor(question[:place]), torch.tensor(question[place + 1 :])

    def begin_from(self, folder: Path) -> None:
        """Take a captioner's weights, except for what belongs to the size of its pictures."""
        known, own = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32), self.llava.state_dict()
        fitting = {name: value for name, value in known.state_dict().items() if value.shape == own[name].shape}
        self.llava.load_state_dict(fitting, strict=False)

    def forward(
        self, images: UInt8[Tensor, "B S S 3"], cells: UInt8[Tensor, "B C C"], captions: Sequence[str], words: bool
    ) -> Float[Tensor, ""]:
        """The head's loss and, with `words`, the answers' cross-entropy."""
        pixels = (images.permute(0, 3, 1, 2) / 255 - MEAN) / DEVIATION
        seen = self.llava.model.vision_tower(pixels).last_hidden_state  # (B, C*C, WIDTH)
        truths = torch.tensor([attributes(caption) for caption in captions])
        loss = self._place_loss(self.head(seen), cells.flatten(1) / 255, truths)
        return loss + self._word_loss(seen, captions) if words else loss

    def _place_loss(
        self, guesses: Float[Tensor, "B N G"], filled: Float[Tensor, "B N"], truths: Int64[Tensor, "B 3"]
    ) -> Float[Tensor, ""]:
        """Whether the object fills a place, and what it is where it does."""
        found, *kinds = guesses.float().split([1, *map(len, CLASSES)], dim=2)
        loss = F.binary_cross_entropy_with_logits(found[..., 0], filled)
        share = filled / filled.sum(1, keepdim=True).clamp(min=1e-3)
        for kind, truth in zip(kinds, truths.unbind(1), strict=True):
            wrong = F.cross_entropy(kind.transpose(1, 2), truth[:, None].expand(-1, kind.shape[1]), reduction="none")
            loss = loss + (share * wrong).sum(1).mean()
        return loss

    def _word_loss(self, seen: Float[Tensor, "B N C"], captions: Sequence[str]) -> Float[Tensor, ""]:
        tokenizer, llava = self.processor.tokenizer, self.llava
        answers = [answer(caption) + tokenizer.eos_token for caption in captions]
        ids = tokenizer(answers, padding=True, padding_side="right", return_tensors="pt")["input_ids"]  # (B, A)
        embed = llava.get_input_embeddings()
        before, after = (embed(part).expand(len(ids), -1, -1) for part in (self.before, self.after))
        parts = (before, llava.model.multi_modal_projector(seen), after, embed(ids))
        hidden = llava.model.language_model(inputs_embeds=torch.cat(parts, dim=1), use_cache=False).last_hidden_state
        logits = llava.lm_head(hidden[:, -ids.shape[1] - 1 : -1]).float()  # each place foretells the next
        return F.cross_entropy(logits.transpose(1, 2), ids, ignore_index=tokenizer.pad_token_id)


# How it learns


def train(run: Path, start: Path | None) -> None:
    run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(world_seed("captioner", "weights") % 2**63)
    learner = Learner().train()
    if start:
        learner.begin_from(start)
    optimizer = torch.optim.AdamW(list(groups(learner)), betas=(0.9, 0.98))
    done, seconds = resume(run, learner, optimizer)
    pool, losses = [], []
    for step in track(range(done, STEPS), "Training", total=STEPS - done):
        began = time.process_time()
        # New scenes come in evenly until the words begin, so that drawing and learning start together.
        while len(pool) < min(SHARDS, 8 + step * SHARDS // WORDS_FROM):
            pool.append(load_shard(run, len(pool)))
        for group in optimizer.param_groups:
            group["lr"] = rate(step, group["first"])
        rng = np.random.default_rng(world_seed("captioner", "batch", step))
        chosen = [pool[shard] for shard in rng.integers(len(pool), size=BATCH)]
        items = [shard[int(rng.integers(len(shard)))] for shard in chosen]
        varied = zip(*(vary(item, rng) for item in items), strict=True)
        images, cells = (torch.from_numpy(np.stack(part)) for part in varied)
        loss = learner(images, cells, [item.caption for item in items], step >= WORDS_FROM)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        seconds += time.process_time() - began
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == STEPS:
            save(run, learner, optimizer, step + 1, seconds)
            loss, minutes = np.mean(losses[-SAVE_EVERY:]), seconds / 60
            print(f"step {step + 1}: loss {loss:.3f}, {minutes:.1f} core-minutes", flush=True)


def groups(learner: Learner) -> Iterator[dict[str, object]]:
    """The parameters by the step at which they begin to learn, matrices apart: only those decay."""
    for first in (0, WORDS_FROM):
        for matrices in (True, False):
            chosen = [
                parameter
                for name, parameter in learner.named_parameters()
                if (first == 0) == name.startswith(("llava.model.vision_tower", "head."))
                and (parameter.ndim > 1) is matrices
            ]
            yield {"params": chosen, "first": first, "weight_decay": DECAY if matrices else 0.0}


def rate(step: int, first: int) -> float:
    """Up from `first` on, then down along a cosine to 2% of the peak at the end of the training."""
    fall = 0.02 + 0.98 * (1 + np.cos(np.pi * (step - first) / (STEPS - first))) / 2
    return RATE * min(1.0, max(0, step - first + 1) / WARM_UP) * float(fall)


def resume(run: Path, learner: Learner, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Steps done and processor seconds used by earlier calls."""
    if not (run / "state.pt").exists():
        return 0, 0.0
    state = torch.load(run / "state.pt", weights_only=True)
    learner.load_state_dict(state["learner"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]


def save(run: Path, learner: Learner, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    """The state under a temporary name, and the captioner as a folder that anybody's transformers load."""
    state = {"learner": learner.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
    torch.save(state, run / "state.partial")
    os.replace(run / "state.partial", run / "state.pt")
    folder = run / "captioner-tiny"
    learner.processor.save_pretrained(folder)
    model = make_model(len(learner.processor.tokenizer))
    model.load_state_dict(learner.llava.state_dict())
    model.half().save_pretrained(folder)


# How well it names


def evaluate(folder: Path) -> None:
    """Print how many answers name an object right, by its size, with 95% intervals over takes.

    `all right` is the sample world's own caption, word for word; `true` may also name the other colour of a pattern
    that gives each half of the surface, as nobody could tell which of them comes first.
    """
    captioner = Captioner.load(folder, device="cpu", dtype=torch.float32)
    asked = list(track(draw_held_out(range(EVALUATED)), "Drawing"))
    right = []
    for start in track(range(0, len(asked), BATCH), "Asking", total=-(-len(asked) // BATCH)):
        part = asked[start : start + BATCH]
        for item, said in zip(part, captioner.describe([item.shown for item in part]), strict=True):
            right.append(compare(said, item))
    table = np.array(right)  # (objects, 5)
    takes, shares = np.array([item.take for item in asked]), np.array([item.share for item in asked])
    for name, low, high in (("over 1%", 0.01, 1), ("0.2% to 1%", 0.002, 0.01), ("under 0.2%", 0, 0.002)):
        chosen = (shares > low) & (shares <= high)
        print(f"objects {name} of the image ({np.count_nonzero(chosen)}):")
        for column, what in enumerate(("colour", "pattern", "shape", "all right", "true")):
            value, bounds = interval(table[chosen, column], takes[chosen])
            print(f"  {what:9} {value:.1%} [{bounds[0]:.1%}, {bounds[1]:.1%}]")


def compare(said: str, item: Asked) -> tuple[bool, bool, bool, bool, bool]:
    """Whether an answer has an object's colour, pattern and shape, all of them in the right words, and is true."""
    named = said.removesuffix(".").partition(" is ")[2].partition(" ")[2]
    try:
        same = [mine == true for mine, true in zip(attributes(named), attributes(item.caption), strict=True)]
    except ValueError:
        return (False,) * 5
    either = same[0] or named.split()[0] in item.halves
    return (*same, said == answer(item.caption), either and same[1] and same[2])


def interval(
    right: Bool[np.ndarray, " N"], takes: Int64[np.ndarray, " N"], tries: int = 2000
) -> tuple[float, Float[np.ndarray, "2"]]:
    """The share of right answers, and its 95% interval by drawing takes with replacement."""
    kinds = np.unique(takes)
    counts = np.array([[np.count_nonzero(right[takes == take]), np.count_nonzero(takes == take)] for take in kinds])
    drawn = counts[np.random.default_rng(0).integers(len(kinds), size=(tries, len(kinds)))].sum(1)
    return float(right.mean()), np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", type=Path, help="train in this folder; the captioner becomes RUN/captioner-tiny")
    what.add_argument(
        "--evaluate", type=Path, nargs="?", const=SHIPPED, help="score a captioner (default: the shipped one)"
    )
    parser.add_argument("--start", type=Path, help="with --run: the captioner to begin from (default: random weights)")
    options = parser.parse_args()
    if options.run:
        train(options.run, options.start)
    else:
        evaluate(options.evaluate)


if __name__ == "__main__":
    main()
