"""The two METEOR variants quoted in papers on driving language, with their tokenisers.

They are different metrics under one name and not comparable:

| name here | quoted by | tokens | matching stages | corpus value |
|---|---|---|---|---|
| METEOR-nltk | HERMES (ICCV 2025) | Punkt sentences, Treebank words, lower case | exact, stem, synonym | mean |
| METEOR-nltk-no-synonyms | none: fallback without WordNet | the same | exact, stem | mean |
| METEOR-1.5 | COCO captioning | PTB, lower case, no punctuation | exact, stem, synonym, paraphrase | summed counts |

METEOR-nltk: Lavie and Agarwal, WMT 2007, as in nltk (alpha 0.9, beta 3, gamma 0.5): its synonym stage gets the stems
left over by the stem stage, so only words equal to their stem have synonyms ("car" and "auto", not "automobile").
METEOR-1.5: Denkowski and Lavie, WMT 2014.

Nothing is downloaded. The Java programs are part of pycocoevalcap and need a Java runtime. WordNet is searched for in
the folder WNSEARCHDIR, in `wordnet` of the XDG data folders (`sudo apt install wordnet-base` puts WordNet 3.0 there)
and in nltk's own data. nltk's trained Punkt model is not used, so the full stop of an abbreviation inside a text
("approx. two") becomes a separate token.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

INSTALL = "not installed: pip install --no-deps -r requirements/eval.txt"


class Unavailable(RuntimeError):
    """A metric cannot be computed on this machine; the text says why."""


def optional(module: str) -> Any:
    """Imports a module of requirements/eval.txt. Raises Unavailable where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise Unavailable(f"{module.split('.')[0]} is {INSTALL}") from error


def one_line(text: str) -> str:
    """Removes line breaks and lone surrogates from a text, because both Java programs read UTF-8 line by line."""
    return " ".join(text.splitlines()).encode("utf-8", "replace").decode("utf-8")


def nltk_tokens(text: str) -> list[str]:
    """Splits like nltk's word_tokenize, with an untrained Punkt sentence splitter. Raises Unavailable without nltk."""
    words = optional("nltk.tokenize").NLTKWordTokenizer()
    sentences = optional("nltk.tokenize.punkt").PunktSentenceTokenizer().tokenize(text)
    return [word for sentence in sentences for word in words.tokenize(sentence)]


@lru_cache(maxsize=1)
def wordnet() -> Any:
    """Returns nltk's reader for the WordNet found, or None if not found. Raises Unavailable without nltk."""
    own = optional("nltk.corpus").wordnet
    base: Any = optional("nltk.corpus.reader.wordnet").WordNetCorpusReader

    class Reader(base):
        """Skips what METEOR does not need: lexicographer file names, which Debian omits, and the map to other
        languages, which needs a second WordNet."""

        def open(self, file: str) -> Any:
            if file == "lexnames":
                return io.StringIO("".join(f"{i:02d} file{i} 0\n" for i in range(45)))
            return super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            return None

    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    for folder in [os.environ.get("WNSEARCHDIR", ""), *(f"{share}/wordnet" for share in shared.split(":"))]:
        if folder and Path(folder, "data.noun").is_file():
            optional("nltk.data").path.append(folder)  # nltk opens only files below its registered folders
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about missing other languages
                return Reader(folder, None)
    try:
        own.ensure_loaded()
    except LookupError:
        return None
    return own


def meteor_nltk(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]], synonyms: bool = True
) -> np.ndarray:
    """Computes METEOR-nltk of each tokenised answer, the best over its references: [n] in 0..1.

    synonyms=False skips the WordNet stage. Raises Unavailable without nltk, and with synonyms=True without WordNet.
    """
    reader = wordnet() if synonyms else SimpleNamespace(synsets=lambda word: [])
    if reader is None:
        raise Unavailable("WordNet was not found: sudo apt install wordnet-base, or set WNSEARCHDIR to its folder")
    meteor_score = optional("nltk.translate.meteor_score").meteor_score
    pairs = zip(references, hypotheses, strict=True)
    return np.array([meteor_score(refs, hypothesis, wordnet=reader) for refs, hypothesis in pairs], np.float64)


def _java() -> str:
    java = shutil.which("java")
    if java is None:
        raise Unavailable("no Java runtime on the PATH: sudo apt install default-jre-headless")
    return java


def ptb_tokens(texts: Sequence[str]) -> list[str]:
    """Tokenises texts with the Stanford PTB tokeniser 3.4.1: lower case, no punctuation tokens, joined by spaces.

    Same as pycocoevalcap, without its temporary file inside the package. The tokeniser reads all texts as one document:
    whether a full stop after an apparent abbreviation ("15 m.") stays depends on the first word of the next text, so
    pass all references in one call and all answers in another. Raises Unavailable without Java.
    """
    java = _java()
    recipe = optional("pycocoevalcap.tokenizer.ptbtokenizer")
    jar = files("pycocoevalcap") / "tokenizer" / recipe.STANFORD_CORENLP_3_4_1_JAR
    program = "edu.stanford.nlp.process.PTBTokenizer"
    done = subprocess.run(
        [java, "-cp", str(jar), program, "-preserveLines", "-lowerCase", "-encoding", "utf-8"],
        input="\n".join(map(one_line, texts)).encode("utf-8"),
        capture_output=True,
        check=False,
    )
    lines = done.stdout.decode("utf-8", "replace").removesuffix("\n").split("\n")
    # It omits trailing lines without a token.
    lines += [""] * sum(not any(map(str.isalnum, text)) for text in texts[len(lines) :])
    if done.returncode or len(lines) != len(texts):
        last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["nothing on stderr"])[-1]
        raise Unavailable(f"the PTB tokeniser returned {len(lines)} lines for {len(texts)} texts: {last}")
    return [" ".join(word for word in line.split() if word not in recipe.PUNCTUATIONS) for line in lines]


def meteor_java(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, np.ndarray]:
    """Computes METEOR 1.5 of PTB-tokenised texts: (corpus value, values [n] per answer), in 0..1.

    Loads its paraphrase table first: about ten seconds and up to 2 GB. Raises Unavailable without Java.
    """
    _java()
    meteor = optional("pycocoevalcap.meteor.meteor").Meteor

    def clean(text: str) -> str:
        return one_line(text).replace("|||", "")  # its field separator

    try:
        total, each = meteor().compute_score(
            {i: [clean(text) for text in refs] for i, refs in enumerate(references)},
            {i: [clean(text)] for i, text in enumerate(hypotheses)},
        )
    except (OSError, ValueError) as error:
        raise Unavailable(f"METEOR 1.5 stopped in the middle: {error}") from error
    return float(total), np.array(each, np.float64)
