"""Language metrics of answers against references: BLEU-1..4, ROUGE-L, CIDEr and METEOR.

Two recipes, named in every result because their numbers are not comparable:

- `hermes` (HERMES, ICCV 2025, and by all appearance OmniDrive, CVPR 2025): raw strings split on spaces, neither
  lower-cased nor stripped of punctuation ("car." is not "car"); METEOR is nltk's (METEOR-nltk).
- `ptb` (COCO captioning): every text through the PTB tokeniser first (lower case, punctuation dropped); METEOR is the
  Java program 1.5 (METEOR-1.5).

BLEU, ROUGE-L and CIDEr are pycocoevalcap's: BLEU (Papineni et al., ACL 2002) from counts summed over the corpus with
the closest reference length; ROUGE-L (Lin, ACL 2004) with beta 1.2; CIDEr (Vedantam et al., CVPR 2015) over 1..4-grams
in the library's scale 0..10 (HERMES quotes it unscaled, OmniDrive times 100).

CIDEr weights words by their rarity among the references of the evaluated set: the same answers score differently in
another subset, and a set of one document always scores 0. Compare CIDEr only on the same documents.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...core.errors import InvalidInput
from .meteor import Unavailable, meteor_java, meteor_nltk, nltk_tokens, optional, ptb_tokens

TOKENISATIONS = ("hermes", "ptb")
BLEU = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
CIDER_NOTE = "CIDEr depends on the evaluated set: comparable only with results on the same {n} documents"


@dataclass(frozen=True)
class Document:
    """One answer and its references; hypothesis is None if the model gave no answer (scored as empty)."""

    id: str
    hypothesis: str | None
    references: tuple[str, ...]
    scene: str = ""


@dataclass(frozen=True)
class Score:
    """value: of the whole set; per_document: [n]; interval: 95 %, over scenes, of the mean over documents.

    The interval is None with fewer than two scenes, and for BLEU and METEOR-1.5, whose value is not a mean. CIDEr's
    interval uses the document frequencies of the whole set.
    """

    value: float
    per_document: np.ndarray
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class LanguageResult:
    """Scores by metric name; absent: metric name to reason; ids: the order of per_document."""

    tokenisation: str
    ids: tuple[str, ...]
    missing: int
    empty: int
    scores: dict[str, Score]
    absent: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        return len(self.ids)


def evaluate(documents: Sequence[Document], tokenisation: str = "hermes") -> LanguageResult:
    """Computes all metrics of a recipe; those that cannot run (no Java, WordNet or package) are listed in `absent`.

    An empty or missing answer counts as a document and scores 0. Deterministic; downloads nothing.

    Raises InvalidInput("tokenisation") for an unknown name, InvalidInput("documents") for an empty set,
    a repeated id, and a document with no reference or an empty one.
    """
    if tokenisation not in TOKENISATIONS:
        raise InvalidInput("tokenisation", f"want one of {TOKENISATIONS}, got {tokenisation!r}")
    if not documents:
        raise InvalidInput("documents", "is empty")
    ids = tuple(d.id for d in documents)
    if len(set(ids)) != len(ids):
        raise InvalidInput("documents", f"the id {max(ids, key=ids.count)!r} comes twice")
    for document in documents:
        if not document.references or not all(text.strip() for text in document.references):
            raise InvalidInput("documents", f"{document.id!r} has no reference or an empty one")

    scores, absent = _scores(
        [(d.hypothesis or "") if (d.hypothesis or "").strip() else "" for d in documents],
        [list(d.references) for d in documents],
        tokenisation,
    )
    scenes = [d.scene for d in documents]
    for name in ("ROUGE-L", "CIDEr", "METEOR-nltk", "METEOR-nltk-no-synonyms"):
        if name in scores:
            value, each = scores[name].value, scores[name].per_document
            scores[name] = Score(value, each, scene_interval(each, scenes))
    return LanguageResult(
        tokenisation,
        ids,
        missing=sum(d.hypothesis is None for d in documents),
        empty=sum(d.hypothesis is not None and not d.hypothesis.strip() for d in documents),
        scores=scores,
        absent=absent,
        notes=(CIDER_NOTE.format(n=len(ids)),),
    )


def scene_interval(
    values: np.ndarray, scenes: Sequence[str], draws: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """Returns the 95 % bootstrap interval of the mean of values [n], resampling whole scenes because documents of one
    scene are not independent. None with fewer than two scenes."""
    names, place = np.unique(np.asarray(scenes), return_inverse=True)
    if len(names) < 2:
        return None
    sums, counts = np.bincount(place, values), np.bincount(place)
    drawn = np.random.default_rng(seed).integers(len(names), size=(draws, len(names)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), (2.5, 97.5))
    return float(low), float(high)


def _scores(
    hypotheses: list[str], references: list[list[str]], tokenisation: str
) -> tuple[dict[str, Score], dict[str, str]]:
    """Returns scores without intervals, and the reasons for absent ones."""
    names = (*BLEU, "ROUGE-L", "CIDEr")
    meteor = "METEOR-nltk" if tokenisation == "hermes" else "METEOR-1.5"
    scores: dict[str, Score] = {}
    absent: dict[str, str] = {}
    if tokenisation == "ptb":
        try:
            words = iter(ptb_tokens([text for refs in references for text in refs]))
            hypotheses = ptb_tokens(hypotheses)
        except Unavailable as error:
            return {}, dict.fromkeys((*names, meteor), str(error))
        references = [[next(words) for _ in refs] for refs in references]
    try:
        scores |= caption_scores(hypotheses, references)
    except Unavailable as error:
        absent |= dict.fromkeys(names, str(error))
    try:
        if tokenisation == "ptb":
            scores[meteor] = Score(*meteor_java(hypotheses, references))
        else:
            tokens = [nltk_tokens(text) for text in hypotheses], [[nltk_tokens(t) for t in r] for r in references]
            try:
                each = meteor_nltk(*tokens)
            except Unavailable as error:
                absent[meteor] = str(error)
                meteor += "-no-synonyms"
                each = meteor_nltk(*tokens, synonyms=False)
            scores[meteor] = Score(float(each.mean()), each)
    except Unavailable as error:
        absent[meteor] = str(error)
    return scores, absent


def caption_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Score]:
    """Computes BLEU-1..4, ROUGE-L and CIDEr of space-separated texts. Raises Unavailable without pycocoevalcap."""
    bleu, rouge, cider = (optional(f"pycocoevalcap.{name}.{name}") for name in ("bleu", "rouge", "cider"))
    truth = {i: list(refs) for i, refs in enumerate(references)}
    said = {i: [text] for i, text in enumerate(hypotheses)}
    with contextlib.redirect_stdout(io.StringIO()):
        results = dict(zip(BLEU, zip(*bleu.Bleu(4).compute_score(truth, said, verbose=0), strict=True), strict=True))
        results["ROUGE-L"] = rouge.Rouge().compute_score(truth, said)
        results["CIDEr"] = cider.Cider().compute_score(truth, said)
    return {name: Score(float(value), np.asarray(each, np.float64)) for name, (value, each) in results.items()}
