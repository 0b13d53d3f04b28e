"""From global sample numbers to windows of questions and of replayed text, in the same resumable order as pretraining."""

from __future__ import annotations

from collections.abc import Sequence

from megabiomed.config import DataConfig
from megabiomed.config.finetune import FinetuneConfig
from megabiomed.data.loader import HeldOutLoader, Source, WindowLoader, check_stores
from megabiomed.data.parts import Papers
from megabiomed.data.store import TokenStore
from megabiomed.data.windows import windows_of
from megabiomed.ground.errors import DataError
from megabiomed.samples.parts import Records
from megabiomed.samples.questions.store import QuestionStore
from megabiomed.samples.windows import AnswerWindows

# Part of the data's identity: raise it with the order, so that a resume notices.
ORDER_VERSION = 1


class FinetuneLoader(WindowLoader):
    """Endless batches that mix stores of questions and token stores.

    Attributes:
        questions: stores of questions; sources 0.. of the order.
        stores: token stores of `replay`; the sources after them.
        texts: the windows of each of these.
    """

    def __init__(
        self, questions: Sequence[QuestionStore], finetune: FinetuneConfig, data: DataConfig, seed: int,
        dp_rank: int = 0, dp_size: int = 1,
    ) -> None:  # fmt: skip
        self.questions = list(questions)
        self.stores = [TokenStore.open(source.path) for source in finetune.replay]
        asking = [_windows(store, data.seq_length, seed) for store in questions]
        texts = self.texts = [windows_of(store, data.seq_length, data.packing) for store in self.stores]
        check_stores(self.stores, [len(each) for each in texts], data.seq_length)
        asked = [source.repeat * len(windows) for source, windows in zip(finetune.train, asking)]
        self._epoch = sum(asked)
        self.question_share = 1 - finetune.replay_share
        windows = [*asking, *texts]
        prints = [*(store.fingerprint for store in questions), *(store.fingerprint for store in self.stores)]
        weights = [*asked, *_replay_weights(finetune, self._epoch)]
        sources = [Source(mark, len(each), weight) for mark, each, weight in zip(prints, windows, weights)]
        super().__init__(windows, sources, data, seed, {"finetune_version": ORDER_VERSION}, dp_rank, dp_size)
        replayed = [Papers(store, each) for store, each in zip(self.stores, texts)]
        self.documents = [*(Records(each) for each in asking), *replayed]

    @property
    def samples_per_epoch(self) -> int:
        """Samples in which every question is seen `repeat` times."""
        return max(1, round(self._epoch / self.question_share))


class QuestionValidation(HeldOutLoader):
    """The first windows of held-out questions."""

    def __init__(
        self, store: QuestionStore, data: DataConfig, samples: int, seed: int, dp_rank: int = 0, dp_size: int = 1
    ) -> None:
        super().__init__(_windows(store, data.seq_length, seed), data, samples, dp_rank, dp_size)


def _replay_weights(finetune: FinetuneConfig, asked: float) -> list[float]:
    """Weights of the texts that give them `replay_share` of the samples beside `asked` windows of questions."""
    share, weights = finetune.replay_share, [source.weight for source in finetune.replay]
    # Solves text / (text + asked) = share for the sum of the texts' weights.
    factor = share / (1 - share) * asked / sum(weights) if weights else 0.0
    return [weight * factor for weight in weights]


def _windows(store: QuestionStore, seq_length: int, seed: int) -> AnswerWindows:
    """The windows of a store; a question that does not fit was built for longer ones.

    Raises:
        DataError: the store was built for longer windows.
    """
    windows = AnswerWindows(store, seq_length, seed)
    if windows.too_long:
        raise DataError(
            f"{store.path} was built for longer windows",
            got=f"{windows.too_long} of {len(store)} questions longer than data.seq_length = {seq_length}",
            expected=f"data.seq_length of at least {store.manifest['settings']['window']}",
            do=f"set it, or build the store again with --window {seq_length}",
        )
    return windows
