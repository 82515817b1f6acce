"""Beam search, also in groups, by the logits of any model.

Shapes: B images, N captions of each, K beams in groups of L, T words, V tokens in the vocabulary.
"""

import torch

from dr_pipeline.models.choose import Rule, TokensSeen, with_one_end, without_early_end, without_repetition


class Beams:
    """The K hypotheses of each of B images, as they grow by a token at a time.

    A hypothesis's score is the mean log-probability of its words and, once it is chosen, its end token. At each step
    the finished hypotheses compete with the continuations of the others for the places.

    Hypotheses of one beam differ in little. Groups, which share the places among them, search one after the other at
    each step, and a word costs a group `diversity_penalty` for each time that groups before it have just chosen it:
    diverse beam search with the Hamming diversity (Vijayakumar et al. 2016, https://arxiv.org/abs/1610.02424,
    algorithm 1). The end token costs nothing, so that groups differ in words and not in length.
    """

    def __init__(self, num_images: int, num_captions: int, max_words: int, rule: Rule, device: torch.device):
        """There are at least as many beams as captions, in groups of one size."""
        num_groups = rule.sampling.num_beam_groups
        self._group_size = max(rule.sampling.num_beams // num_groups, -(-num_captions // num_groups))
        self.num_beams = num_groups * self._group_size
        self._num_captions, self._rule = num_captions, rule
        self._seen = TokensSeen(device)
        shape = num_images, self.num_beams
        self._words_BKT = torch.full((*shape, max_words), rule.end_token, device=device)
        self._lengths_BK = torch.zeros(shape, dtype=torch.int64, device=device)
        self._scores_BK = torch.full(shape, -torch.inf, device=device)
        self._scores_BK[:, :: self._group_size] = 0.0  # a group's beams are the same at first: only one may branch
        self.tokens_BK = torch.zeros(shape, dtype=torch.int64, device=device)
        """The last token of each hypothesis."""
        self.parents_BK = torch.zeros(shape, dtype=torch.int64, device=device)
        """The place, before the last step, of the hypothesis that each continues."""
        self._finished_BK = torch.zeros(shape, dtype=torch.bool, device=device)
        self.are_finite = torch.ones((), dtype=torch.bool, device=device)
        """Whether all logits were."""

    def extend(self, logits_BKV: torch.Tensor) -> bool:
        """Take the next token of each hypothesis by its logits → whether the search has ended."""
        self._seen.advance()
        self._lengths_BK = self._lengths_BK + ~self._finished_BK
        log_probs_BKV = self._log_probs(logits_BKV)
        costs_BV = torch.zeros_like(log_probs_BKV[:, 0])
        chosen = []
        for first in range(0, self.num_beams, self._group_size):
            scores_BL, parents_BL, tokens_BL = self._choose(first, log_probs_BKV, costs_BV)
            chosen.append((scores_BL, parents_BL, tokens_BL))
            penalties_BL = torch.full_like(scores_BL, self._rule.sampling.diversity_penalty)
            costs_BV.scatter_add_(1, tokens_BL, penalties_BL)
            costs_BV[:, self._rule.end_token] = 0.0
        self._scores_BK, self.parents_BK, self.tokens_BK = (torch.cat(one, 1) for one in zip(*chosen, strict=True))
        # The chosen tokens go behind their parents' words.
        self._lengths_BK = self._lengths_BK.gather(1, self.parents_BK)
        self._words_BKT = self._words_BKT.gather(1, self.parents_BK[..., None].expand_as(self._words_BKT))
        self._words_BKT[..., self._seen.on_host - 1] = self.tokens_BK
        self._finished_BK = self.tokens_BK == self._rule.end_token
        return self._seen.on_host == self._words_BKT.shape[2] or bool(self._finished_BK.all())

    def best(self) -> torch.Tensor:
        """The captions' words [B, N, T]: the best of each group, the second best of each, and so on."""
        words_BGLT = self._words_BKT.unflatten(1, (-1, self._group_size))
        return words_BGLT.transpose(1, 2).flatten(1, 2)[:, : self._num_captions]

    def _log_probs(self, logits_BKV: torch.Tensor) -> torch.Tensor:
        """Those of each hypothesis's next token; a finished hypothesis has the end token for certain."""
        self.are_finite &= logits_BKV.isfinite().all()
        rows_RV = without_repetition(
            logits_BKV.flatten(0, 1).float(), self._words_BKT.flatten(0, 1), self._seen.on_host - 1, self._rule
        )
        logits_BKV = without_early_end(rows_RV.view_as(logits_BKV), self._seen, self._rule)
        log_probs_BKV = (logits_BKV / self._rule.sampling.temperature).log_softmax(-1)
        log_probs_BKV[self._finished_BK] = -torch.inf
        log_probs_BKV[..., self._rule.end_token].masked_fill_(self._finished_BK, 0.0)
        return log_probs_BKV

    def _choose(
        self, first: int, log_probs_BKV: torch.Tensor, costs_BV: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores, parents and tokens of the group whose first place it is, each [B, L], best first."""
        group = slice(first, first + self._group_size)
        totals_BLV = self._scores_BK[:, group, None] + log_probs_BKV[:, group] - costs_BV[:, None]
        means_BLV = totals_BLV / self._lengths_BK[:, group, None]
        best_BL = means_BLV.flatten(1).topk(self._group_size).indices
        vocabulary = costs_BV.shape[1]
        tokens_BL = with_one_end(best_BL % vocabulary, self._rule)
        return totals_BLV.flatten(1).gather(1, best_BL), first + best_BL // vocabulary, tokens_BL
