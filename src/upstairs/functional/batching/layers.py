"""Linear, convolution, pooling, embedding, dropout, attention and losses on all tasks at once."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from upstairs.functional.batching.norms import pooled
from upstairs.functional.batching.pointwise import align
from upstairs.functional.batching.tensor import (
    FOLDS,
    BatchedTensor,
    NotBatchable,
    as_channels_last,
    batching_rule,
    fold,
    front,
    wrap,
)


@batching_rule("linear")
def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """Computes x [n, d] of each task by one matrix product; for shared weights all tasks are one batch."""
    if not isinstance(weight, BatchedTensor):
        if isinstance(bias, BatchedTensor):
            return wrap(F.linear(front(x), weight)) + bias
        return wrap(F.linear(front(x), weight, bias))
    w = front(weight).transpose(1, 2)
    raw = front(x) if isinstance(x, BatchedTensor) else x.expand(weight.count, *x.shape)
    flat = raw if raw.ndim == 3 else raw.reshape(raw.shape[0], -1, raw.shape[-1])
    if bias is None:
        out = torch.bmm(flat, w)
    else:
        b = front(bias).unsqueeze(1) if isinstance(bias, BatchedTensor) else bias
        out = torch.baddbmm(b, flat, w)
    return wrap(out if raw.ndim == 3 else out.reshape(*raw.shape[:-1], -1))


def _convolve(function: Any, spatial: int) -> None:
    def apply(
        x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ) -> Any:
        if x.ndim != spatial + 2:
            return NotImplemented
        if not isinstance(weight, BatchedTensor):
            if isinstance(bias, BatchedTensor):
                return NotImplemented
            flat = front(x).flatten(0, 1)
            flat = as_channels_last(flat) if spatial == 2 and len(flat) else flat
            for noted in FOLDS:
                noted.append(function.__name__)
            if x.count == 1:  # both layouts are the same
                out = wrap(function(flat, weight, None, stride, padding, dilation, groups), 1, folded=True)
                out.shift = bias
                return out
            out = function(flat, weight, bias, stride, padding, dilation, groups)
            return wrap(out.unflatten(0, (x.count, -1)))
        count = weight.count
        images = x if isinstance(x, BatchedTensor) else wrap(x.expand(count, *x.shape))
        w = front(weight).flatten(0, 1)
        if spatial == 2:
            w = w.contiguous(memory_format=torch.channels_last)
        out = wrap(function(fold(images), w, None, stride, padding, dilation, count * groups), count, folded=True)
        if bias is not None:
            whole = front(bias) if isinstance(bias, BatchedTensor) else bias.expand(count, *bias.shape)
            out.shift = whole.reshape(-1)
        return out

    batching_rule(function, getattr(torch, function.__name__))(apply)


_convolve(F.conv2d, 2)
_convolve(F.conv1d, 1)


def _pool(function: Any, *names: Any, spatial: int, relu_after: bool) -> None:
    def apply(x: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.pop("return_indices", False) or x.ndim != spatial + 2:
            return NotImplemented
        if x.folded:
            late, x.late_relu = x.late_relu and relu_after, x.late_relu and not relu_after
            out = pooled(x, lambda raw: function(raw, *args, **kwargs)) if relu_after else None
            if out is None:
                out = wrap(function(x.raw, *args, **kwargs), x.count, folded=True)
            x.late_relu = x.late_relu or late
            out.late_relu = late
            return out
        raw = x.raw
        return wrap(function(raw.flatten(0, 1), *args, **kwargs).unflatten(0, (x.count, -1)))

    batching_rule(function, *names)(apply)


# torch's types do not name the functions that its own boolean dispatch calls
_pool(F.max_pool2d, F._max_pool2d, torch.max_pool2d, spatial=2, relu_after=True)  # type: ignore[attr-defined]
_pool(F.max_pool1d, F._max_pool1d, torch.max_pool1d, spatial=1, relu_after=True)  # type: ignore[attr-defined]
_pool(F.avg_pool2d, torch._C._nn.avg_pool2d, spatial=2, relu_after=False)
_pool(F.avg_pool1d, torch.avg_pool1d, spatial=1, relu_after=False)
_pool(F.adaptive_avg_pool2d, torch._C._nn.adaptive_avg_pool2d, spatial=2, relu_after=False)
_pool(F.adaptive_avg_pool1d, torch.adaptive_avg_pool1d, spatial=1, relu_after=False)


@batching_rule(F.embedding, torch.embedding)
def embedding(index: Any, weight: Any, padding_idx: Any = None, max_norm: Any = None, *_: Any, **__: Any) -> Any:
    """Looks up rows of [task, vocabulary, d] in one table, each task at its own offset."""
    if max_norm is not None:
        raise NotBatchable("Embedding(max_norm=...) writes to its own weights")
    raw = front(index) if isinstance(index, BatchedTensor) else index
    if not isinstance(weight, BatchedTensor):
        return wrap(F.embedding(raw, weight, padding_idx))
    table = front(weight)
    count, words = table.shape[:2]
    if not isinstance(index, BatchedTensor):
        raw = raw.expand(count, *raw.shape)
    offset = words * torch.arange(count, device=raw.device).view(-1, *(1,) * (raw.ndim - 1))
    rows = table.flatten(0, 1)[raw + offset]
    if padding_idx is not None:  # torch gives that row no gradient
        blank = (raw == padding_idx % words)[..., None]
        rows = torch.where(blank, rows.detach(), rows)
    return wrap(rows)


@batching_rule(F.embedding_bag)
def embedding_bag(index: Any, weight: Any, *args: Any, per_sample_weights: Any = None, **options: Any) -> Any:
    """Computes the bags of all tasks as one batch, for shared weights."""
    if isinstance(weight, BatchedTensor) or args or not isinstance(index, BatchedTensor):
        return NotImplemented
    own = per_sample_weights if per_sample_weights is None else front(per_sample_weights).flatten(0, 1)
    out = F.embedding_bag(front(index).flatten(0, 1), weight, per_sample_weights=own, **options)
    return wrap(out.unflatten(0, (index.count, -1)))


def _drop(function: Any, *, folds: bool) -> None:
    def apply(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if not training or p == 0:
            return x
        if folds and x.folded:
            return wrap(function(x.raw, p, True), x.count, folded=True)
        raw = front(x)
        return wrap(function(raw.flatten(0, 1), p, True).view(raw.shape) if folds else function(raw, p, True))

    batching_rule(function)(apply)


_drop(F.dropout, folds=False)
_drop(F.dropout1d, folds=True)
_drop(F.dropout2d, folds=True)


@batching_rule(F.scaled_dot_product_attention)
def attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """Computes softmax(q k^T / sqrt(d)) v by its formula: the fused kernels have no second derivative."""
    if enable_gqa:
        raise NotBatchable("scaled_dot_product_attention(enable_gqa=True) has no rule")
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    if is_causal:
        causal = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        attn_mask = causal if attn_mask is None else attn_mask
    return _attend(query, key, value, attn_mask, factor, dropout_p)[0]


def _attend(query: Any, key: Any, value: Any, mask: Any, factor: float, dropout: float) -> tuple[Any, Any]:
    """Returns the attended values and the weights; the mask is added to scores, or True where attention is allowed."""
    scores = query @ key.transpose(-2, -1) * factor
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(mask.logical_not(), float("-inf"))
    elif mask is not None:
        scores = scores + mask
    weights = F.dropout(scores.softmax(-1), dropout, training=dropout > 0)
    return weights @ value, weights


@batching_rule(F.multi_head_attention_forward)
def multi_head_attention(
    query: Any, key: Any, value: Any, embed_dim_to_check: int, num_heads: int, in_proj_weight: Any, in_proj_bias: Any,
    bias_k: Any, bias_v: Any, add_zero_attn: bool, dropout_p: float, out_proj_weight: Any, out_proj_bias: Any,
    training: bool = True, key_padding_mask: Any = None, need_weights: bool = True, attn_mask: Any = None,
    use_separate_proj_weight: bool = False, q_proj_weight: Any = None, k_proj_weight: Any = None,
    v_proj_weight: Any = None, static_k: Any = None, static_v: Any = None, average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:  # fmt: skip
    """Computes attention on [time, n, d] (Vaswani et al. 2017, section 3.2.2) by functions that have rules."""
    if add_zero_attn or query.ndim != 3 or any(t is not None for t in (bias_k, bias_v, static_k, static_v)):
        raise NotBatchable("MultiheadAttention with add_bias_kv, add_zero_attn, static keys or unbatched input")
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    if use_separate_proj_weight or not (query is key and key is value):
        weights = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else in_proj_weight.chunk(3)
        projected = [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]
    else:
        projected = F.linear(query, in_proj_weight, in_proj_bias).chunk(3, -1)
    n, width = query.shape[1:]
    q, k, v = (x.reshape(x.shape[0], n, num_heads, -1).permute(1, 2, 0, 3) for x in projected)
    mask = None
    for part, shape in ((attn_mask, (-1, num_heads)), (key_padding_mask, (n, 1, 1))):
        if part is not None:
            part = part.reshape(*shape, *part.shape[1:]) if part.ndim == 3 or part is key_padding_mask else part
            if part.dtype == torch.bool:  # True where attention is not allowed
                part = torch.zeros(part.shape, dtype=q.dtype, device=q.device).masked_fill(part, float("-inf"))
            mask = part if mask is None else mask + part
    out, seen = _attend(q, k, v, mask, q.shape[-1] ** -0.5, dropout_p if training else 0.0)
    out = F.linear(out.permute(2, 0, 1, 3).reshape(-1, n, width), out_proj_weight, out_proj_bias)
    return out, (seen.mean(1) if average_attn_weights else seen) if need_weights else None


@batching_rule("masked_fill")
def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.where(mask, value, x)
    return torch.where(mask, torch.full((), value, dtype=x.dtype, device=x.device), x)


@batching_rule(F.cross_entropy)
def cross_entropy_rule(
    logits: Any, target: Any, weight: Any = None, size_average: Any = None, ignore_index: int = -100,
    reduce: Any = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> Any:  # fmt: skip
    """Computes the loss of each example of each task, then reduces over the examples of a task."""
    plain = weight is None and size_average is None and reduce is None
    if not (plain and isinstance(logits, BatchedTensor) and logits.ndim == 2):
        return NotImplemented
    raw = front(logits)
    y = front(target) if isinstance(target, BatchedTensor) else target.expand(logits.count, *target.shape)
    if y.ndim == 3 and reduction == "none":  # each y holds class probabilities
        both = raw.flatten(0, 1), y.flatten(0, 1)
        return wrap(F.cross_entropy(*both, reduction="none", label_smoothing=label_smoothing).view(raw.shape[:2]))
    if y.ndim != 2:
        return NotImplemented
    each = F.cross_entropy(
        raw.flatten(0, 1), y.flatten(), ignore_index=ignore_index, reduction="none", label_smoothing=label_smoothing
    ).view(raw.shape[:2])
    if reduction == "none":
        return wrap(each)
    total = each.sum(1)
    return wrap(total if reduction == "sum" else total / (y != ignore_index).sum(1))


@batching_rule(F.mse_loss)
def mse_loss(
    x: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean", weight: Any = None
) -> Any:
    if x.shape != target.shape or not (size_average is reduce is weight is None):
        return NotImplemented
    raws, count, folded = align((x, target))
    if raws[0].shape == raws[1].shape:  # F.mse_loss would check again; torch's types lack the number for "none"
        each = torch._C._nn.mse_loss(*raws, 0)  # type: ignore[arg-type]
    else:
        each = F.mse_loss(*raws, reduction="none")
    if reduction == "none":
        return wrap(each, count, folded=folded)
    flat = (front(wrap(each, count, folded=True)) if folded else each).reshape(count, -1)
    return wrap(flat.sum(1) if reduction == "sum" else flat.mean(1))


@batching_rule(F.one_hot)
def one_hot(y: Any, num_classes: int = -1) -> Any:
    return NotImplemented if num_classes < 0 else wrap(F.one_hot(front(y), num_classes))
